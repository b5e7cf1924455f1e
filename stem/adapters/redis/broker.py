"""The broker: tasks in and out of queues. Each method is one script; what it does is in scripts/."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, Literal, Self

from stem.adapters.redis.address import parse_address
from stem.adapters.redis.blocking import BlockingRedisBroker
from stem.adapters.redis.calls import CHUNK, enqueue_args, enqueued_of, exchange_args, half_way
from stem.adapters.redis.census import RedisCensus
from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.connections import to_the_end
from stem.adapters.redis.control import RedisControl
from stem.adapters.redis.events import RedisEvents
from stem.adapters.redis.keys import Keys
from stem.adapters.redis.presence import RedisPresence
from stem.adapters.redis.reading import reading, whole
from stem.adapters.redis.record import FIELDS, LISTED, delivery_of, expired_of, number, status_of
from stem.adapters.redis.waiting import Bell, Waits
from stem.contracts import (
    Delivery,
    Enqueued,
    Exchange,
    FetchRequest,
    Lease,
    Limits,
    NewTask,
    SettleAnswer,
    Settlement,
    Swept,
)
from stem.errors import BrokerError
from stem.messages.names import check_name, is_name
from stem.messages.status import ErrorInfo, TaskStatus

if TYPE_CHECKING:
    from stem.config import TLSConfig

DEFAULT_MAX_CRASHES: Final = 3
_LOOK_AGAIN_S: Final = 5.0
LONGEST_IDLE_S: Final = 2.0
_ANSWERS: Final[tuple[SettleAnswer, ...]] = ("lost", "applied", "already", "buried", "revoked")
_LOST = ErrorInfo(type="WorkerLostError", message="the worker was lost while it ran this task, too often").encode()


class RedisStreamsBroker:
    """A broker on one Redis or Valkey server. Owned by the event loop that first uses it."""

    def __init__(
        self, url: str, *, namespace: str = "stem", limits: Limits | None = None, tls: TLSConfig | None = None
    ) -> None:
        """Make a handle; nothing is connected before the first call.

        Raises:
            ConfigError: a URL of another form, or files for TLS that cannot be used.
            InvalidNameError: an ill-formed namespace.
        """
        self._address = parse_address(url, tls)
        self._url = url
        self._tls = tls
        self._keys = Keys(check_name("namespace", namespace), self._address.db)
        self._limits = limits or Limits()
        self._client = RedisClient(self._address, self._keys, client_name=f"stem-{namespace}")
        self._presence = RedisPresence(self._client, self._limits)
        self._control = RedisControl(self._client)
        self._events = RedisEvents(self._client)
        self._census = RedisCensus(self._client, self._presence, self._listed)
        self._waits = Waits(self._client)
        self._bell = Bell(self._client)

    @classmethod
    async def connect(
        cls, url: str, *, namespace: str = "stem", limits: Limits | None = None, tls: TLSConfig | None = None
    ) -> Self:
        """Make a handle and prove that the server answers.

        Raises:
            BrokerUnreachableError, BrokerRefusedError: it does not.
        """
        broker = cls(url, namespace=namespace, limits=limits, tls=tls)
        try:
            await broker._client.command("PING")
        except BrokerError:
            await broker.close()
            raise
        return broker

    @property
    def namespace(self) -> str:
        return self._keys.namespace

    @property
    def url(self) -> str:
        return str(self._address)

    @property
    def presence(self) -> RedisPresence:
        return self._presence

    @property
    def control(self) -> RedisControl:
        return self._control

    @property
    def events(self) -> RedisEvents:
        return self._events

    @property
    def census(self) -> RedisCensus:
        return self._census

    def clone(self) -> RedisStreamsBroker:
        return RedisStreamsBroker(self._url, namespace=self.namespace, limits=self._limits, tls=self._tls)

    def blocking(self) -> BlockingRedisBroker:
        return BlockingRedisBroker(self._address, self._keys, self._limits)

    async def close(self) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        await self._client.close()  # first: from here on nothing new is connected
        await self._bell.close()
        await self._control.close()
        await self._waits.close()

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        answers: list[Enqueued] = []
        for first in range(0, len(tasks), CHUNK):
            chunk = tasks[first : first + CHUNK]
            try:
                reply = await self._client.run("enqueue", *enqueue_args(chunk, self._limits))
                with reading("enqueue"):
                    answers += enqueued_of(reply, chunk)
            except BrokerError as error:
                if not answers:
                    raise
                raise half_way("enqueue", error, enqueued=[one.id for one in answers if one.taken]) from error
        return answers

    async def exchange(self, worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        settled: list[SettleAnswer] = []
        try:
            while len(settlements) > CHUNK:
                chunk, settlements = settlements[:CHUNK], settlements[CHUNK:]
                settled += (await self.exchange(worker, chunk, None)).settled
            args = exchange_args(worker, settlements, fetch, self._limits, DEFAULT_MAX_CRASHES)
            reply = await self._client.run("exchange", *args)
        except BrokerError as error:
            if not settled:
                raise
            raise half_way("exchange", error) from error
        with reading("exchange"):
            now_ms, answers, fetched = reply
            if len(answers) != len(settlements):
                raise ValueError(f"{len(answers)} answers to {len(settlements)} settlements")
            settled += [_ANSWERS[answer] for answer in answers]
            if not fetched:
                return Exchange(settled=settled, now_ms=whole(now_ms))
            stale, more, due, rows, mended, late = fetched
            now_ms = whole(now_ms)
            return Exchange(
                settled=settled,
                deliveries=[delivery_of(row, now_ms) for row in rows],
                more=bool(more),
                stale=bool(stale),
                next_due_ms=due if whole(due) >= 0 else None,
                now_ms=now_ms,
                mended=[queue.decode() for queue in mended],
                expired=[expired_of(row) for row in late] if late else (),
            )

    async def idle(self, queues: Sequence[str], timeout_s: float) -> None:
        await self._bell.wait([self._keys.bell(queue) for queue in queues], min(timeout_s, LONGEST_IDLE_S))

    async def adopt(self, worker: str, queues: Sequence[str], known: Collection[str]) -> list[Delivery]:
        reply = await self._client.run("adopt", worker, 30_000, len(queues), *queues, *known)
        with reading("adopt"):
            now_ms, rows = reply
            return [delivery_of(row, whole(now_ms)) for row in rows]

    async def sweep(self, queues: Sequence[str], *, max_crashes: int = DEFAULT_MAX_CRASHES, worker: str = "") -> Swept:
        limits = self._limits
        reply = await self._client.run(
            "sweep",
            limits.dead_count,
            limits.dead_ttl_ms,
            max_crashes,
            limits.lost_after_ms,
            _LOST,
            worker,
            *queues,
        )
        with reading("sweep"):
            requeued, buried, skipped, more = reply
            return Swept(
                requeued=whole(requeued), buried=whole(buried), skipped=skipped.decode(), more=whole(more) == 1
            )

    async def leave(self, worker: str, queues: Sequence[str]) -> None:
        await self._client.run("leave", worker, *queues)

    async def extend(self, worker: str, lease: Lease) -> bool:
        reply = await self._client.run(
            "beat",
            *(worker, "", "", b"", self._limits.lost_after_ms, 1),
            *(lease.id, lease.token, lease.lease_ms, lease.queue, 0, 0),
        )
        with reading("beat"):
            return not reply[3]

    async def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        reads = [("HMGET", self._keys.task(task_id), *FIELDS) for task_id in ids]
        rows = await self._client.commands(reads, each=True)
        with reading("HMGET"):
            return [status_of(task_id, row, timeline=timeline) for task_id, row in zip(ids, rows, strict=True)]

    async def _listed(self, ids: Sequence[str]) -> list[TaskStatus | None]:
        """Return the statuses as a listing tells them."""
        rows = await self._client.commands([("HMGET", self._keys.task(task_id), *LISTED) for task_id in ids], each=True)
        with reading("HMGET"):
            return [status_of(one, row, timeline=False, listed=True) for one, row in zip(ids, rows, strict=True)]

    async def body(self, task_id: str) -> tuple[bytes, bytes] | None:
        (row,) = await self._client.commands([("HMGET", self._keys.task(task_id), "b", "sg")], each=True)
        with reading("HMGET"):
            return None if row is None or row[0] is None else (row[0], row[1] or b"")

    async def wait(self, task_id: str, timeout_s: float) -> TaskStatus | None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._waits.told_of(task_id, within_s=timeout_s) as told:
            while True:
                left = deadline - asyncio.get_running_loop().time()
                state = number(await self._client.run("wait", task_id, self._waits.client_id))
                if state != 0 or left <= 0:
                    return (await self.statuses([task_id]))[0]
                # Told by pub/sub, which may lose a message: so look again every few seconds.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LOOK_AGAIN_S)):
                        await told.wait()
                if told.is_set():
                    told.clear()
                    status = (await self.statuses([task_id]))[0]
                    if status is None or status.state.final:
                        return status  # else it was given a new life meanwhile, and nobody would tell of its next end

    async def replay(self, ids: Sequence[str]) -> dict[str, str]:
        return await self._revive("replay", ids)

    async def retry_now(self, ids: Sequence[str]) -> dict[str, str]:
        return await self._revive("now", ids)

    async def _revive(self, mode: str, ids: Sequence[str]) -> dict[str, str]:
        outcomes: dict[str, str] = {}
        for first in range(0, len(ids), CHUNK):
            chunk = ids[first : first + CHUNK]
            try:
                reply = await self._client.run("revive", mode, *chunk)
            except BrokerError as error:
                if not outcomes:
                    raise
                raise half_way("revive", error) from error
            with reading("revive"):
                outcomes |= {task_id: answer.decode() for task_id, answer in zip(chunk, reply, strict=True)}
        return outcomes

    async def purge(self, queue: str, what: Literal["waiting", "dead"], *, limit: int = CHUNK) -> int:
        gone = await self._client.run("purge", queue, what, min(limit, CHUNK), "purged")
        with reading("purge"):
            return whole(gone)

    async def discard(self, queue: str, ids: Sequence[str]) -> int:
        gone = 0
        for first in range(0, len(ids), CHUNK):
            try:
                reply = await self._client.run("purge", queue, "dead", CHUNK, "discarded", *ids[first : first + CHUNK])
            except BrokerError as error:
                if not first:
                    raise
                raise half_way("purge", error) from error
            with reading("purge"):
                gone += whole(reply)
        return gone

    async def reconcile(self, cursor: str = "0", *, limit: int = CHUNK) -> tuple[str, int]:
        page = await self._client.command("SCAN", cursor, "MATCH", self._keys.tasks_pattern, "COUNT", limit)
        with reading("SCAN"):
            following, keys = page[0].decode(), page[1]
            named = [key.decode("utf-8", "replace").rpartition(":task:")[2] for key in keys]
        ids = [task_id for task_id in named if is_name("task id", task_id)]
        repaired = await self._client.run("reconcile", *ids) if ids else 0
        with reading("reconcile"):
            return following, whole(repaired)
