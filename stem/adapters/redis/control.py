"""The control channel: a log that is the truth, and pub/sub that makes it fast."""

from __future__ import annotations

import contextlib
import re
from typing import Final

import redis

from stem.adapters.redis.address import Address
from stem.adapters.redis.audit import is_row
from stem.adapters.redis.calls import issue_args, items_of, record_args, seen_of
from stem.adapters.redis.client import LONGEST_BLOCK_S, RedisClient, translate
from stem.adapters.redis.reading import MISREAD, raw, reading, whole
from stem.adapters.redis.record import number, pauses_of, text
from stem.adapters.redis.subscription import Subscription
from stem.contracts import Change, Desired, Issued, Logged, WakeUp
from stem.errors import BrokerUnreachableError, DecodeError
from stem.messages.audit import AuditOutcome, Deed
from stem.messages.command import Command, Reply
from stem.text import clean

_CARRIES: Final = re.compile(rb"(\d{1,15}) (\d{1,15}) (\d{1,4}) ")
READ_AT_ONCE: Final = 100
"""Commands whose replies are read at the same time by one handle."""


class RedisControl:
    """Commands of one namespace. One subscription per handle, owned by the loop that called `subscribe`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._subscription: Subscription | None = None
        self._read_to: dict[str, str] = {}

    async def issue(self, command: Command, change: Change | None = None) -> Issued:
        reply = await self._client.run("issue", *issue_args(command, change))
        with reading("issue"):
            epoch, now_ms, items, workers, audit = reply
            seen = seen_of(workers, whole(now_ms))
            return Issued(
                epoch=whole(epoch), now_ms=now_ms, items=items_of(items), workers=seen, audit=raw(audit).decode("ascii")
            )

    async def record(self, deed: Deed) -> str:
        row = await self._client.run("record", *record_args(deed))
        with reading("record"):
            return raw(row).decode("ascii")

    async def conclude(self, audit: str, outcome: AuditOutcome) -> bool:
        if not is_row(audit):
            return False
        told = await self._client.run("conclude", audit, outcome.encode())
        with reading("conclude"):
            return whole(told) == 1

    async def read(self, after_epoch: int) -> Desired:
        reply = await self._client.run("read", after_epoch)
        with reading("read"):
            epoch, fence, now_ms, log, pauses, drained, shutdown = reply
            return Desired(
                epoch=whole(epoch),
                fence=whole(fence),
                now_ms=whole(now_ms),
                log=[
                    Logged(
                        epoch=int(at), issued_at_ms=number(time) or 0, command=raw(command), signature=raw(signature)
                    )
                    for at, time, command, signature in zip(*(log[i::4] for i in range(4)), strict=True)
                ],
                pauses=pauses_of(pauses),
                drained=frozenset(text(worker) for worker in drained),
                shutdown={text(worker): text(mode) for worker, mode in zip(shutdown[::2], shutdown[1::2], strict=True)},
                reset=epoch < after_epoch,
            )

    async def subscribe(self) -> None:
        await self.close()
        subscription = Subscription(self._client, self._client.keys.control_channel)
        try:
            await subscription.open()
        except BaseException as error:
            await subscription.close()
            if isinstance(error, MISREAD):
                raise _garbage(self._client.address) from error
            if isinstance(error, redis.RedisError | OSError):
                raise translate(error, what="SUBSCRIBE", address=self._client.address) from error
            raise
        self._subscription = subscription

    async def wake(self, timeout_s: float) -> WakeUp | None:
        if self._subscription is None:
            raise BrokerUnreachableError("the control subscription is closed: subscribe again")
        try:
            message = await self._subscription.message(timeout_s)
        except (redis.RedisError, OSError, RuntimeError) as error:
            await self.close()
            raise BrokerUnreachableError(
                f"the control subscription on {self._client.address} was lost: {clean(error, 200)}"
            ) from error
        except MISREAD as error:
            await self.close()
            raise _garbage(self._client.address) from error
        return None if message is None else WakeUp(question=_question(message))

    async def reply(self, reply: Reply, *, keep_ms: int) -> None:
        await self._client.run("reply", reply.command_id, reply.encode(), keep_ms)

    async def replies(self, command_id: str, *, timeout_s: float) -> list[Reply]:
        # Read, not taken away: an answer that gets lost with the connection is there for the next look.
        key, cursor = self._client.keys.reply(command_id), self._read_to.get(command_id, "0-0")
        wait_ms = int(min(max(timeout_s, 0.001), LONGEST_BLOCK_S) * 1000)
        found = await self._client.block("XREAD", "COUNT", 500, "BLOCK", max(1, wait_ms), "STREAMS", key, cursor)
        replies = []
        with reading("XREAD"):
            for entry, fields in found[0][1] if found else ():
                cursor = entry.decode()
                with contextlib.suppress(DecodeError):
                    replies.append(Reply.decode(fields[1]))
        self._remember(command_id, cursor)
        return replies

    def _remember(self, command_id: str, cursor: str) -> None:
        """Keep how far the replies to the newest commands were read; an older one's would be read once more."""
        self._read_to.pop(command_id, None)  # the dict stays in the order of use
        self._read_to[command_id] = cursor
        while len(self._read_to) > READ_AT_ONCE:
            del self._read_to[next(iter(self._read_to))]

    async def close(self) -> None:
        """End the subscription; `subscribe` starts it again."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()


def _question(message: bytes) -> Logged | None:
    """Return the question that a wake-up carries: its epoch, time, length of its signature, signature and command."""
    head = _CARRIES.match(message)
    if head is None:
        return None
    begin = head.end()
    end = begin + int(head[3])
    return Logged(epoch=int(head[1]), issued_at_ms=int(head[2]), command=message[end:], signature=message[begin:end])


def _garbage(address: Address) -> BrokerUnreachableError:
    return BrokerUnreachableError(f"the control subscription on {address} got what is no message")
