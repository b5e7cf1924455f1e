"""The questions an operator may ask of workers: who is there, what do they run, how are they. They change nothing.

Whoever shall only look gets an `Asker`; the `Controller` is one that can also command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from stem.authority import ControlKeys
from stem.clock import Clock, SystemClock
from stem.contracts import Broker, Change, Issued
from stem.control import outcome, target
from stem.control.answer import Answers, PingResult
from stem.control.collect import AGAIN_S, APPLIED, EFFECT, Request, parties
from stem.errors import BrokerRefusedError, BrokerUnreachableError, InvalidInputError, UnknownOutcomeError
from stem.messages.command import Command, Reply, checked_reason
from stem.messages.envelope import new_task_id

T = TypeVar("T")
INSPECT: Final = ("active", "reserved", "revoked", "registered", "queues", "children", "config", "stack")


class Asker:
    """Asks workers, and reports who answered.

    Every method returns as soon as the last worker that must answer has, and at the latest after `timeout_s`; where the
    broker itself says nothing, a second later. Workers that are silent are named in the result, never an exception.
    Belongs to the event loop of its broker.

    Args:
        actor: who is asking; kept with what a command stores.
        timeout_s: how long answers are waited for.
        keys: to sign commands with; workers that have such keys obey no others. They refuse what the role of the key
            does not cover: those refusals are in the result.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        actor: str = "",
        timeout_s: float = 5.0,
        clock: Clock | None = None,
        keys: ControlKeys | None = None,
    ) -> None:
        self._broker = broker
        self._actor = actor
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._keys = keys

    # ------------------------------------------------------------------------------------------------------- questions

    async def ping(self, targets: Sequence[str] = ()) -> PingResult:
        """Ask who is there; targets are worker ids, names or globs, none means all.

        Raises:
            InvalidNameError: a target that cannot be a worker.
        """
        nonce = new_task_id()
        request, unmatched = await self._ask(
            "ping", targets, {"nonce": nonce}, lambda reply: not reply.ok or reply.data.get("nonce") == nonce
        )
        silent = await request.silent()
        replied = [party for party in request.parties if party.answered]
        return PingResult(
            expected=sum(party.expected for party in request.parties),
            replied=len(replied),
            silent=silent,
            elapsed_ms=request.elapsed_ms,
            workers=[outcome.pong(party) for party in replied],
            unmatched=unmatched,
            warnings=[f"{p.name} answered {outcome.complaint(p.refusal)}" for p in replied if p.refusal is not None],
        )

    async def inspect(self, what: str = "active", targets: Sequence[str] = ()) -> Answers:
        """Ask workers for one of `INSPECT`.

        Raises:
            InvalidInputError: there is no such thing to inspect, or a target cannot be a worker.
        """
        if what not in INSPECT:
            raise InvalidInputError(f"{ascii(what)[:80]} cannot be inspected: use one of {', '.join(INSPECT)}")
        return await outcome.answers(*await self._ask("inspect", targets, {"what": what}))

    async def stats(self, targets: Sequence[str] = ()) -> Answers:
        """Ask workers for their counters."""
        return await outcome.answers(*await self._ask("stats", targets, {}))

    async def look(self, look: Callable[[], Awaitable[T]], *, started: float | None = None) -> T:
        """Look at something before a command is sent, at most for `timeout_s` and again while there is no answer.

        Args:
            started: when that time began, by this one's clock; now unless given.

        Raises:
            BrokerUnreachableError: no answer came in time. A look itself leaves open then whether something was done.
        """
        until = (self._clock.monotonic() if started is None else started) + self._timeout_s
        while True:
            cause: Exception
            try:
                async with asyncio.timeout(max(AGAIN_S, until - self._clock.monotonic())):
                    return await look()
            except (TimeoutError, UnknownOutcomeError) as error:
                cause = error
            if self._clock.monotonic() >= until - AGAIN_S:
                raise BrokerUnreachableError(
                    f"the broker at {self._broker.url} did not answer in time: nothing was sent, so nothing was "
                    "changed. Try again in a moment"
                ) from cause
            await asyncio.sleep(AGAIN_S)

    # --------------------------------------------------------------------------------------------------------- private

    def _command(
        self, kind: str, targets: Sequence[str], args: dict[str, Any], reason: str = "", wait_s: float | None = None
    ) -> Command:
        return Command(
            id=new_task_id(),
            type=kind,
            targets=tuple(targets),
            args=args,
            timeout_ms=round(1000 * max(self._timeout_s, wait_s or 0.0)),
            actor=self._actor[:200],
            reason=checked_reason(reason)[:500],
        )

    async def _issue(
        self,
        command: Command,
        change: Change | None = None,
        wait_s: float | None = None,
        *,
        started: float | None = None,
    ) -> Request:
        """Sign and store a command; `started` where something was looked at before, which counts against the time."""
        if started is None:
            started = self._clock.monotonic()
        if self._keys is not None:
            now_ms = await self.look(self._broker_ms, started=started)
            command = self._keys.sign(command, namespace=self._broker.namespace, now_ms=now_ms)
        issued = await self._store(command, change, until=started + self._timeout_s)
        want = APPLIED if wait_s is None else EFFECT
        return Request(self._broker, self._clock, command, issued, started=started, want=want)

    async def _broker_ms(self) -> int:
        """Return the broker's time, as its look at a worker tells; our own where nobody is there to be commanded."""
        seen = await self._broker.presence.workers()
        return seen[0].at_ms + seen[0].age_ms if seen else self._clock.wall_ms()

    async def _store(self, command: Command, change: Change | None, *, until: float) -> Issued:
        """Issue a command, again while nobody knows whether it arrived: it is stored once per id."""
        unknown: UnknownOutcomeError | None = None
        while True:
            try:
                async with asyncio.timeout(max(AGAIN_S, until - self._clock.monotonic())):
                    return await self._broker.control.issue(command, change)
            except UnknownOutcomeError as error:
                unknown = error
            except TimeoutError:
                unknown = UnknownOutcomeError(
                    f"the broker at {self._broker.url} did not answer in time during {command.type}: it may or may not "
                    "have been done. Look, then ask again"
                )
            except BrokerUnreachableError:
                if unknown is None:
                    raise  # certainly not stored; after an unknown outcome that would be a guess
            except BrokerRefusedError as error:
                if unknown is None:
                    raise
                raise UnknownOutcomeError(  # it speaks of this try only
                    f"one try to send {command.type} got no answer, the next one was refused ({error}): it may or may "
                    "not have been done. See to the refusal, look, then ask again"
                ) from error
            if self._clock.monotonic() >= until - AGAIN_S:
                raise unknown
            await asyncio.sleep(AGAIN_S)

    async def _ask(
        self,
        kind: str,
        targets: Sequence[str],
        args: dict[str, Any],
        accept: Callable[[Reply], bool] = lambda reply: True,
    ) -> tuple[Request, tuple[str, ...]]:
        wanted = target.check_targets(targets)
        request = await self._issue(self._command(kind, wanted, args))
        alive, lost = target.live(request.issued.workers), target.missing(request.issued.workers)
        concerned = parties(target.select(alive, wanted), target.select(lost, wanted))
        await request.collect(concerned, limit_s=self._timeout_s, accept=accept)
        return request, target.unmatched([*alive, *lost], wanted)
