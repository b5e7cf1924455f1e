"""Gathering the replies to one command: who has to answer, who did, and when there is nothing left to wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stem.clock import Clock
from stem.contracts import Broker, Issued, Seen
from stem.control.answer import Silent
from stem.control.diagnose import diagnose
from stem.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.messages.command import QUESTIONS, STAGES, Command, Reply

_RANK: Final[Mapping[str, int]] = {stage: rank for rank, stage in enumerate(STAGES)}
APPLIED: Final = _RANK["applied"]
EFFECT: Final = _RANK["effect"]
LOOK_AGAIN_S: Final = 0.5
"""How often presence is read while an answer is out: a worker that dies or says goodbye ends the wait for it."""
AGAIN_S: Final = 0.1
"""Between two tries when the connection to the broker is lost."""
LAST_LOOK_S: Final = 1.0
"""For a look after the deadline: at presence, and at how tasks ended; and for the broker to say that nothing came."""


@dataclass(slots=True, kw_only=True)
class Party:
    """One worker that a command concerns.

    Attributes:
        expected: it was alive when the command was issued, so its answer is waited for.
        rank: of the furthest stage it reached, -1 before its first answer.
        refusal: its first answer that says no.
        gone: it said goodbye (`stopped`) or stopped beating (`lost`) while it was waited for.
    """

    seen: Seen
    expected: bool
    rank: int = -1
    replies: dict[str, Reply] = field(default_factory=dict)
    refusal: Reply | None = None
    rtt_ms: float = 0.0
    gone: str = ""

    @property
    def id(self) -> str:
        return self.seen.heartbeat.id

    @property
    def name(self) -> str:
        return self.seen.heartbeat.name

    @property
    def answered(self) -> bool:
        return bool(self.replies)

    @property
    def mute(self) -> bool:
        """It never answered, or was lost on the way, and did not say goodbye."""
        return self.gone == "lost" or (not self.replies and self.gone != "stopped")

    @property
    def stage(self) -> str:
        return STAGES[self.rank] if self.rank >= 0 else ""

    def over(self, want: int) -> bool:
        """Say whether there is nothing more to hear from it."""
        return self.rank >= want or self.refusal is not None or bool(self.gone)

    def take(self, reply: Reply, rtt_ms: float) -> None:
        """Note one reply; a second one of the same stage is a duplicate and changes nothing."""
        if reply.stage in self.replies:
            return
        if not self.replies:
            self.rtt_ms = rtt_ms
        self.replies[reply.stage] = reply
        if reply.ok:
            self.rank = max(self.rank, _RANK[reply.stage])
        elif self.refusal is None:
            self.refusal = reply


def parties(live: Sequence[Seen], missing: Sequence[Seen]) -> list[Party]:
    """Return the workers a command concerns: live ones are expected to answer, lost ones only listed."""
    return [Party(seen=seen, expected=True) for seen in live] + [Party(seen=seen, expected=False) for seen in missing]


class Request:
    """One command that was issued, and the answers to it.

    Attributes:
        parties: the workers it concerns; filled in by `collect`.
        want: rank of the stage asked for.
    """

    def __init__(
        self, broker: Broker, clock: Clock, command: Command, issued: Issued, *, started: float, want: int = APPLIED
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._started = started
        self.command = command
        self.issued = issued
        self.want = want
        self.parties: Sequence[Party] = ()

    @property
    def elapsed_ms(self) -> float:
        return round((self._clock.monotonic() - self._started) * 1000, 2)

    def complete(self, enough: Callable[[Party], bool]) -> bool:
        """Say whether no answer of an expected worker is out any more. Asked after each read: it stops at the first."""
        return all(not party.expected or party.over(self.want) or enough(party) for party in self.parties)

    async def collect(
        self,
        concerned: Sequence[Party],
        *,
        limit_s: float,
        accept: Callable[[Reply], bool] = lambda reply: True,
        enough: Callable[[Party], bool] = lambda party: False,
    ) -> None:
        """Read replies until every expected worker has reached the stage asked for, or `limit_s` after the issue.

        Replies that are late, repeated, to another command, or from somebody who was not asked are dropped.

        Args:
            accept: says whether a reply is one to this very request (a ping compares its nonce).
            enough: says that a worker which has not reached the stage will not, and need not.

        Raises:
            BrokerError: the broker was away at the deadline: who is silent then, nobody can say. Of a change, which is
                stored then, it is an `UnknownOutcomeError`.
        """
        self.parties = concerned
        with self.stored():
            await self._hear(limit_s, accept, enough)

    @contextlib.contextmanager
    def stored(self) -> Iterator[None]:
        """Say of an error in what comes after the issue that the change is stored: the plain one would deny it."""
        try:
            yield
        except (BrokerUnreachableError, BrokerRefusedError, UnknownOutcomeError) as error:
            if self.command.type in QUESTIONS:
                raise
            raise UnknownOutcomeError(
                f"{self.command.type} is stored (epoch {self.issued.epoch}), but its answers could not be read: {error}"
            ) from error

    async def _hear(self, limit_s: float, accept: Callable[[Reply], bool], enough: Callable[[Party], bool]) -> None:
        by_id = {party.id: party for party in self.parties}
        deadline = self._started + limit_s
        looked = self._clock.monotonic()
        trouble: BrokerError | None = None
        while not self.complete(enough):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                if trouble is not None:
                    raise trouble
                return
            try:
                async with asyncio.timeout(left + LAST_LOOK_S):
                    replies = await self._broker.control.replies(self.command.id, timeout_s=min(left, LOOK_AGAIN_S))
                    self._take(replies, by_id, accept)
                    if self._clock.monotonic() - looked >= LOOK_AGAIN_S and not self.complete(enough):
                        await self._look(by_id)
                        looked = self._clock.monotonic()
                trouble = None
            except TimeoutError:
                trouble = UnknownOutcomeError(f"the broker at {self._broker.url} gave no answers of workers in time")
            except (BrokerUnreachableError, UnknownOutcomeError) as error:
                # What came meanwhile is still there for the next look.
                trouble = error
                await asyncio.sleep(min(left, AGAIN_S))

    def _take(self, replies: Sequence[Reply], by_id: Mapping[str, Party], accept: Callable[[Reply], bool]) -> None:
        for reply in replies:
            party = by_id.get(reply.worker)
            if party is None or reply.command_id != self.command.id or reply.stage not in _RANK:
                continue
            if accept(reply):
                party.take(reply, self.elapsed_ms)

    async def silent(self) -> list[Silent]:
        """Name the workers that did not answer, or that were lost while they acted, by their newest heartbeat."""
        mute = {party.id: party for party in self.parties if self._mute(party)}
        if any(party.expected and not party.gone for party in mute.values()):
            # The evidence at hand must do where the broker does not answer now.
            with contextlib.suppress(BrokerUnreachableError, UnknownOutcomeError, TimeoutError), self.stored():
                async with asyncio.timeout(LAST_LOOK_S):
                    await self._look(mute)
        return [
            Silent(
                id=party.id,
                name=party.name,
                diagnosis=diagnose(party.seen, answered=False, issued_at_ms=self.issued.now_ms),
                last_heartbeat_ms=party.seen.at_ms,
                age_ms=party.seen.age_ms,
                waited_for=party.expected,
            )
            for party in mute.values()
            if self._mute(party)
        ]

    def _mute(self, party: Party) -> bool:
        # A goodbye is as good as done for a command, but no answer to a question.
        return party.mute or (self.command.type in QUESTIONS and not party.replies)

    def stage_of(self, concerned: Sequence[Party]) -> str:
        """Return the stage that all of these have reached; what nobody has to confirm holds as it is stored."""
        ranks = [party.rank for party in concerned if party.expected and not party.refusal]
        return STAGES[max(0, min(ranks, default=self.want))]

    async def _look(self, by_id: Mapping[str, Party]) -> None:
        for seen in await self._broker.presence.workers():
            party = by_id.get(seen.heartbeat.id)
            if party is None:
                continue
            party.seen = seen
            if seen.stopped:
                # Its goodbye answers every command there is: it takes nothing, runs nothing, and is gone.
                party.gone, party.rank = "stopped", EFFECT
            elif seen.lost and party.expected:
                party.gone = "lost"
