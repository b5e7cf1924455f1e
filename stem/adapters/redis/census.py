"""Counts and listings for whoever looks. Reads only; bounded work per call, whatever the backlog."""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter, deque
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

from stem.adapters.redis import audit, examine
from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.presence import RedisPresence
from stem.adapters.redis.reading import reading, whole
from stem.adapters.redis.record import final_row_of, number, pauses_of, text
from stem.contracts import (
    AuditPage,
    Examination,
    FinalRow,
    ListState,
    Measured,
    MinuteRow,
    Pause,
    QueueRow,
    Seen,
    ServerInfo,
    TaskPage,
)
from stem.errors import BrokerRefusedError, InvalidInputError
from stem.messages.names import is_name
from stem.messages.status import TaskState, TaskStatus

_SETS: Final = {"running": "lease", "scheduled": "delayed", "retrying": "retry", "held": "held", "dead": "dead"}
_HISTORY_CHUNK: Final = 500
_PRIORITIES: Final = range(9, -1, -1)


class _Statuses(Protocol):
    def __call__(self, ids: Sequence[str]) -> Awaitable[list[TaskStatus | None]]: ...


class RedisCensus:
    """The census of one namespace."""

    def __init__(self, client: RedisClient, presence: RedisPresence, statuses: _Statuses) -> None:
        self._client = client
        self._presence = presence
        self._statuses = statuses

    async def queues(self, names: Sequence[str] = (), *, workers: Sequence[Seen] | None = None) -> list[QueueRow]:
        workers = await self._presence.workers() if workers is None else workers
        consumers = Counter(
            queue for seen in workers if not (seen.stopped or seen.lost) for queue in set(seen.heartbeat.queues)
        )
        reply = await self._client.run("queues", *names)
        with reading("queues"):
            now_ms, rows, flat = reply
            pauses = {pause.target: pause for pause in pauses_of(flat) if pause.kind == "queue"}
            return sorted(
                (
                    QueueRow(
                        name=text(name),
                        ready=whole(ready),
                        delayed=whole(delayed),
                        retrying=whole(retrying),
                        held=whole(held),
                        in_flight=whole(in_flight),
                        dead=whole(dead),
                        oldest_ms=max(0, now_ms - oldest) if whole(oldest) >= 0 else None,
                        pause=pauses.get(text(name)),
                        consumers=consumers[text(name)],
                        enqueued_total=whole(total),
                    )
                    for name, ready, delayed, retrying, held, in_flight, dead, oldest, total in rows
                    if is_name("queue", text(name))
                ),
                key=lambda row: row.name,
            )

    async def tasks(
        self, state: ListState, *, queue: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> TaskPage:
        limit = max(1, min(limit, 500))
        with reading("a listing of tasks"):
            if state in ("succeeded", "failed", "revoked", "expired"):
                return await self._final(TaskState(state), queue, cursor, limit)
            queues = [queue] if queue is not None else await self._queue_names()
            if state == "queued":
                return await self._queued(queues, cursor, limit)
            return await self._from_sets(state, queues, cursor, limit)

    async def _queue_names(self) -> list[str]:
        names = [text(name) for name in await self._client.command("SMEMBERS", self._client.keys.queues)]
        return sorted(name for name in names if is_name("queue", name))

    async def _from_sets(self, state: str, queues: Sequence[str], cursor: str | None, limit: int) -> TaskPage:
        """Page through one zset per queue, merged by their scores; the cursor says how much of each was listed."""
        keys, part = self._client.keys, _SETS[state]
        command, sign = ("ZREVRANGE", -1) if state == "dead" else ("ZRANGE", 1)
        names = [keys.of_queue(queue, part) for queue in queues]
        at = _places(cursor, len(names))
        sizes = await self._client.commands([("ZCARD", name) for name in names])
        # A part of each is read at first, and more of those that the page takes from.
        most = max(20, limit // max(1, len(names)))

        def reading_of(index: int) -> tuple[str | int, ...]:
            return command, names[index], at[index], at[index] + most - 1, "WITHSCORES"

        found = [_scored(one, sign) for one in await self._client.commands([reading_of(i) for i in range(len(names))])]
        heads = [(rows[0][0], index) for index, rows in enumerate(found) if rows]
        heapq.heapify(heads)
        ids: list[str] = []
        while heads and len(ids) < limit:
            _, index = heapq.heappop(heads)
            ids.append(found[index].popleft()[1])
            at[index] += 1
            if not found[index] and at[index] < sizes[index]:
                found[index] = _scored(await self._client.command(*reading_of(index)), sign)
            if found[index]:
                heapq.heappush(heads, (found[index][0][0], index))
        return TaskPage(items=await self._present(ids), next=_cursor(at) if heads else None, total=sum(sizes))

    async def _queued(self, queues: Sequence[str], cursor: str | None, limit: int) -> TaskPage:
        """Page through the undelivered end of each stream. The cursor is "<queue index>:<priority>:<entry>"."""
        keys = self._client.keys
        at, priority, after = _triple(cursor)
        total = sum(row.ready for row in await self.queues(queues)) if queues else 0
        ids: list[str] = []
        for index in range(at, len(queues)):
            for level in _PRIORITIES:
                if index == at and level > priority:
                    continue
                stream = keys.stream(queues[index], level)
                start = await self._delivered(stream)
                if index == at and level == priority and after:
                    start = max(start, after, key=_entry)  # what was handed out meanwhile waits no more
                found = await self._client.command("XRANGE", stream, f"({start}", "+", "COUNT", limit - len(ids))
                ids += (text(fields[1]) for _, fields in found if fields)
                if found and len(ids) >= limit:
                    following = f"{index}:{level}:{text(found[-1][0])}"
                    more = len(ids) < total or cursor is not None
                    return TaskPage(items=await self._present(ids), next=following if more else None, total=total)
        return TaskPage(items=await self._present(ids), total=total)

    async def _delivered(self, stream: str) -> str:
        with contextlib.suppress(BrokerRefusedError):
            for group in await self._client.command("XINFO", "GROUPS", stream):
                named = dict(zip(group[::2], group[1::2], strict=True))
                return text(named.get(b"last-delivered-id")) or "0-0"
        return "0-0"

    async def _final(self, state: TaskState, queue: str | None, cursor: str | None, limit: int) -> TaskPage:
        """Page through the history for rows of one state.

        Records that have expired are told from their row. What was replayed since is left out: it stands elsewhere now.
        """
        start = _offset(cursor)
        rows: list[FinalRow] = []
        following: str | None = None
        while following is None and len(rows) < limit:
            chunk = await self._client.command("LRANGE", self._client.keys.history, start, start + _HISTORY_CHUNK - 1)
            if not chunk:
                break
            for data in chunk:
                start += 1
                row = final_row_of(data)
                if row is not None and row.state is state and queue in (None, row.queue):
                    rows.append(row)
                    if len(rows) == limit:
                        following = str(start)
                        break
        known = await self._statuses([row.id for row in rows])
        return TaskPage(
            items=[
                _status_of_row(row) if status is None else status
                for row, status in zip(rows, known, strict=True)
                if status is None or (status.state is state and status.finished_at_ms == row.finished_at_ms)
            ],
            next=following,
        )

    async def _present(self, ids: Sequence[str]) -> list[TaskStatus]:
        return [status for status in await self._statuses(ids) if status is not None]

    async def history(self, limit: int = 1_000) -> list[FinalRow]:
        data = await self._client.command("LRANGE", self._client.keys.history, 0, max(0, min(limit, 10_000)) - 1)
        with reading("LRANGE"):
            return [row for line in data if (row := final_row_of(line)) is not None]

    async def minutes(self, count: int = 60) -> list[MinuteRow]:
        time = await self._client.command("TIME")
        with reading("TIME"):
            newest = int(time[0]) // 60
        wanted = range(newest - min(max(count, 1), 180) + 1, newest + 1)
        hashes = await self._client.commands([("HGETALL", self._client.keys.stats(minute)) for minute in wanted])
        with reading("HGETALL"):
            return [row for minute, flat in zip(wanted, hashes, strict=True) for row in _minute_rows(minute, flat)]

    async def pauses(self) -> list[Pause]:
        time, flat = await self._client.commands([("TIME",), ("HGETALL", self._client.keys.pauses)])
        with reading("HGETALL"):
            now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
            return [pause for pause in pauses_of(flat) if pause.until_ms is None or pause.until_ms > now_ms]

    async def audit(
        self,
        *,
        verb: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        return await audit.read(self._client, verb=verb, actor=actor, target=target, cursor=cursor, limit=limit)

    async def redacted(self, task: str) -> tuple[str, ...]:
        kept = await self._client.command("HGET", self._client.keys.redact, task)
        with reading("HGET"):
            return () if kept is None else tuple(sorted(text(kept).split("\n")))

    async def examine(self, *, keys: int = 50_000) -> Examination:
        workers = await self._presence.workers()
        known = frozenset(seen.heartbeat.id for seen in workers)
        return await examine.look(self._client, (await self._queue_names())[: examine.QUEUES], known, keys=keys)

    async def info(self) -> ServerInfo:
        raw, time = await self._client.commands([("INFO",), ("TIME",)])
        refusal = ""
        try:
            await self._client.command("SET", self._client.keys.probe, "1", "PX", 1000)
        except BrokerRefusedError as error:
            refusal = str(error)
        with reading("INFO"):
            said = _parse_info(text(raw))
            valkey = "valkey_version" in said
            return ServerInfo(
                kind="valkey" if valkey else "redis",
                version=str(said.get("valkey_version" if valkey else "redis_version", "")),
                url=str(self._client.address),
                namespace=self._client.keys.namespace,
                policy=str(said.get("maxmemory_policy", "")),
                persistent=str(said.get("aof_enabled", "0")) == "1",
                used_memory_bytes=int(said.get("used_memory", 0)),
                max_memory_bytes=int(said.get("maxmemory", 0)),
                clients=int(said.get("connected_clients", 0)),
                uptime_s=int(said.get("uptime_in_seconds", 0)),
                now_ms=int(time[0]) * 1000 + int(time[1]) // 1000,
                writable=not refusal,
                refusal=refusal,
            )


def _status_of_row(row: FinalRow) -> TaskStatus:
    return TaskStatus(
        id=row.id,
        task=row.task,
        queue=row.queue,
        state=row.state,
        attempt=row.attempt,
        worker=row.worker or None,
        enqueued_at_ms=row.enqueued_at_ms or None,
        started_at_ms=row.started_at_ms or None,
        finished_at_ms=row.finished_at_ms,
    )


def _minute_rows(minute: int, flat: Any) -> list[MinuteRow]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    grouped: dict[tuple[str, str], dict[str, int]] = {}
    for field, value in pairs:
        parts = text(field).split("|")
        if len(parts) == 3 and is_name("queue", parts[0]):
            grouped.setdefault((parts[0], parts[1]), {})[parts[2]] = number(value) or 0
    rows = []
    for (queue, task), found in sorted(grouped.items()):
        buckets = {
            bucket: by
            for what, by in found.items()
            if what.startswith("h") and (bucket := number(what[1:])) is not None and 0 <= bucket < 64
        }
        measured = None
        if found.get("n"):
            measured = Measured(
                queue=queue,
                task=task,
                count=found["n"],
                wait_ms=found.get("wait", 0),
                run_ms=found.get("run", 0),
                buckets=buckets,
            )
        counts = {what: by for what, by in found.items() if what in _COUNTS}
        rows.append(MinuteRow(at_ms=minute * 60_000, queue=queue, task=task, counts=counts, measured=measured))
    return rows


_COUNTS: Final = frozenset(
    ("enqueued", "succeeded", "failed", "retried", "revoked", "expired", "crashed", "handed_back")
)


def _parse_info(said: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in said.splitlines() if ":" in line and not line.startswith("#"))


def _bad(cursor: str) -> InvalidInputError:
    return InvalidInputError(f"{cursor[:40]!r} is not a cursor of this listing: use `next` of the page before")


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 12):
        raise _bad(cursor)
    return int(cursor)


def _scored(listed: Sequence[Any], sign: int) -> deque[tuple[float, str]]:
    """Return what a command `WITHSCORES` has told, each with what it is ordered by."""
    return deque((sign * float(score), text(name)) for name, score in zip(listed[::2], listed[1::2], strict=True))


def _cursor(at: Sequence[int]) -> str:
    return ",".join(f"{index}:{offset}" for index, offset in enumerate(at) if offset)


def _places(cursor: str | None, queues: int) -> list[int]:
    """Return how much of each queue was listed before a cursor."""
    at = [0] * queues
    for place in [] if cursor is None else cursor.split(","):
        index, _, offset = place.partition(":")
        try:
            wanted, listed = _offset(index), _offset(offset)
        except InvalidInputError:
            raise _bad(cursor or "") from None
        if wanted < queues:  # else a queue has gone since
            at[wanted] = listed
    return at


def _entry(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-"))


def _triple(cursor: str | None) -> tuple[int, int, str]:
    if cursor is None:
        return 0, 9, ""
    parts = cursor.split(":")
    entry = parts[2].split("-") if len(parts) == 3 else []
    if len(entry) != 2 or not all(part.isascii() and part.isdigit() for part in (*parts[:2], *entry)):
        raise _bad(cursor)
    return int(parts[0]), int(parts[1]), parts[2]
