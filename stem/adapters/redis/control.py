"""The control channel: a log that is the truth, and pub/sub that makes it fast."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import redis
import redis.asyncio

from stem.adapters.redis.address import Address
from stem.adapters.redis.audit import is_row
from stem.adapters.redis.calls import issue_args, items_of, record_args, seen_of
from stem.adapters.redis.client import LONGEST_BLOCK_S, RedisClient, translate
from stem.adapters.redis.reading import MISREAD, raw, reading, whole
from stem.adapters.redis.record import number, pauses_of, text
from stem.contracts import Change, Desired, Issued, Logged
from stem.errors import BrokerUnreachableError, DecodeError
from stem.messages.audit import AuditOutcome, Deed
from stem.messages.command import Command, Reply

PING_EVERY_S: Final = 5.0
PONG_WITHIN_S: Final = 3.0
READ_AT_ONCE: Final = 100
"""Commands whose replies are read at the same time by one handle."""


class RedisControl:
    """Commands of one namespace. One subscription per handle, owned by the loop that called `subscribe`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._connection: redis.asyncio.Redis | None = None
        self._pubsub: redis.asyncio.client.PubSub | None = None
        self._heard = 0.0
        self._asked: float | None = None
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
        self._connection = self._client.lone_client()
        self._pubsub = self._connection.pubsub()
        try:
            channel = self._client.keys.control_channel
            await self._pubsub.subscribe(channel)
            confirmed = await self._pubsub.get_message(timeout=PONG_WITHIN_S)
            if confirmed is not None and confirmed["channel"] != channel.encode():
                raise ValueError(f"{confirmed['channel']!r} was subscribed to")  # as deaf as none at all
        except (redis.RedisError, OSError) as error:
            await self.close()
            raise translate(error, what="SUBSCRIBE", address=self._client.address) from error
        except MISREAD as error:
            await self.close()
            raise _garbage(self._client.address) from error
        if confirmed is None:
            await self.close()
            raise BrokerUnreachableError(f"SUBSCRIBE on {self._client.address} was not confirmed in {PONG_WITHIN_S} s")
        self._heard, self._asked = asyncio.get_running_loop().time(), None

    async def wake(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if self._pubsub is None:
                raise BrokerUnreachableError("the control subscription is closed: subscribe again")
            # A half-open connection delivers nothing and says nothing: so ask, and give it a deadline to answer.
            now = loop.time()
            if self._asked is None and now - self._heard > PING_EVERY_S:
                await self._send_ping()
                self._asked = now
            if self._asked is not None and now - self._asked > PONG_WITHIN_S:
                await self.close()
                raise BrokerUnreachableError(
                    f"the control subscription on {self._client.address} did not answer a PING in {PONG_WITHIN_S} s"
                )
            due = self._asked + PONG_WITHIN_S if self._asked is not None else self._heard + PING_EVERY_S
            message = await self._next(max(0.0, min(deadline, due + 0.01) - now))
            if message is not None:
                self._heard, self._asked = loop.time(), None
                if message["type"] == "message":
                    return True
            elif loop.time() >= deadline:
                return False

    async def _send_ping(self) -> None:
        pubsub = self._pubsub
        assert pubsub is not None
        try:
            await pubsub.ping()
        except (redis.RedisError, OSError) as error:
            await self.close()
            raise BrokerUnreachableError(f"the control subscription was lost: {type(error).__name__}") from error

    async def _next(self, timeout_s: float) -> dict[str, object] | None:
        pubsub = self._pubsub
        assert pubsub is not None
        try:
            message: dict[str, object] | None = await pubsub.get_message(timeout=timeout_s)
        except (redis.RedisError, OSError, RuntimeError) as error:
            await self.close()
            raise BrokerUnreachableError(
                f"the control subscription on {self._client.address} was lost: {type(error).__name__}"
            ) from error
        except MISREAD as error:
            await self.close()
            raise _garbage(self._client.address) from error
        return message

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
        pubsub, connection = self._pubsub, self._connection
        self._pubsub = self._connection = None
        if pubsub is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
        if connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                await connection.aclose()


def _garbage(address: Address) -> BrokerUnreachableError:
    return BrokerUnreachableError(f"the control subscription on {address} got what is no message")
