"""A look behind the scenes for `stemctl doctor`: settings, strange keys, leases and consumers that are left over.

Reads only, and bounded: some keys, some queues, some of each. What the server refuses is named, not raised.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, Final

from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.reading import reading
from stem.adapters.redis.record import number, text
from stem.contracts import Examination, Leftover, Overdue, Stray
from stem.errors import BrokerRefusedError
from stem.text import clean

QUEUES: Final = 200
"""Queues whose leases and consumers are looked at."""
STRAYS_KEPT: Final = 100
_AT_ONCE: Final = 500
_LATE_KEPT: Final = 100
_SETTINGS: Final = (
    *("appendfsync", "client-output-buffer-limit", "min-replicas-to-write", "save", "maxmemory-policy"),
)
_SAID: Final = (*("role", "connected_slaves", "aof_enabled", "aof_last_write_status", "rdb_last_bgsave_status"),)
_NAME: Final = r"[A-Za-z0-9_.-]{1,64}"
_FORMS: Final = re.compile(
    rf"""(?:
        (?P<task>task:{_NAME})
      | (?P<unique>unique:[0-9]+:[A-Za-z0-9_.:/-]+)
      | (?P<ends>(?:result|worker|request|reply|wake):{_NAME} | stats:[0-9]+ | events | watch | probe)
      | q:{_NAME}:(?:p[0-9]|delayed|retry|lease|dead|held|meta|bell)
      | desired:(?:pause|drain|shutdown)
      | queues | workers | fleet | epoch | fence | control:log | history | audit | audit:outcomes | redact | schema
    )""",
    re.VERBOSE,
)
"""The forms of keys.py. What matches `ends` must have a time to live; tasks and unique keys depend on the record."""
_FINAL: Final = frozenset(("succeeded", "failed", "revoked", "expired"))


async def look(client: RedisClient, queues: Sequence[str], known: Collection[str], *, keys: int) -> Examination:
    """Return what is found. `known`: ids of the workers that were here within the hour."""
    refused: dict[str, str] = {}

    async def attempt(what: str, call: Awaitable[Any], otherwise: Any) -> Any:
        try:
            return await call
        except BrokerRefusedError as error:
            refused[what] = clean(str(error), 300)
            return otherwise

    settings = await attempt("settings", _settings(client), {})
    state = await attempt("state", _state(client), {})
    strays, seen, complete = await attempt("keyspace", _strays(client, keys), ((), 0, False))
    leftovers = await attempt("consumers", _leftovers(client, queues, known), ())
    overdue = await attempt("leases", _overdue(client, queues), ())
    return Examination(
        settings=settings,
        state=state,
        strays=strays,
        keys_seen=seen,
        complete=complete,
        leftovers=leftovers,
        overdue=overdue,
        refused=refused,
    )


async def _settings(client: RedisClient) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _SETTINGS:
        flat = await client.command("CONFIG", "GET", name)
        with reading("CONFIG"):
            found |= {text(key): text(value) for key, value in zip(flat[::2], flat[1::2], strict=True)}
    return found


async def _state(client: RedisClient) -> dict[str, str]:
    raw = await client.command("INFO")
    with reading("INFO"):
        said = dict(line.split(":", 1) for line in text(raw).splitlines() if ":" in line)
        return {name: said[name] for name in _SAID if name in said}


# ---------------------------------------------------------------------------------------------------------------- keys


async def _strays(client: RedisClient, budget: int) -> tuple[list[Stray], int, bool]:
    found: list[Stray] = []
    prefix, cursor, looked, seen = client.keys.prefix, "0", 0, 0
    while looked < budget and len(found) < STRAYS_KEPT:
        page = await client.command("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", _AT_ONCE)
        with reading("SCAN"):
            cursor, raw = text(page[0]), [key for key in page[1] if isinstance(key, bytes)]
        looked += _AT_ONCE
        seen += len(raw)
        for first in range(0, len(raw), _AT_ONCE):
            found += await _among(client, raw[first : first + _AT_ONCE])
        if cursor == "0":
            return found[:STRAYS_KEPT], seen, True
    return found[:STRAYS_KEPT], seen, False


async def _among(client: RedisClient, raw: Sequence[bytes]) -> list[Stray]:
    """Return the strays among some keys of the namespace."""
    prefix = client.keys.prefix
    forms = {key: _FORMS.fullmatch(text(key)[len(prefix) :]) for key in raw}
    found = [Stray(key=text(key), why="unknown") for key, form in forms.items() if form is None]
    lasting = [key for key, form in forms.items() if form is not None and form.lastgroup is not None]
    ends = await client.commands([("PTTL", key) for key in lasting], each=True)
    # A key that has gone meanwhile (-2) is none of ours any more.
    endless = [(key, forms[key]) for key, left in zip(lasting, ends, strict=True) if left == -1]
    tasks = [key for key, form in endless if form is not None and form["task"]]
    unique = [key for key, form in endless if form is not None and form["unique"]]
    found += [Stray(key=text(key), why="endless") for key, form in endless if form is not None and form["ends"]]
    return found + await _endless_tasks(client, tasks) + await _unheld(client, unique)


async def _endless_tasks(client: RedisClient, keys: Sequence[bytes]) -> list[Stray]:
    """Return the records that no end is set for, though they are final and no dead letters."""
    records = await client.commands([("HMGET", key, "st", "q") for key in keys], each=True)
    final = [
        (key, text(record[1]))
        for key, record in zip(keys, records, strict=True)
        if record is not None and text(record[0]) in _FINAL
    ]
    asked = [("ZSCORE", client.keys.of_queue(queue, "dead"), text(key).rpartition(":task:")[2]) for key, queue in final]
    scores = await client.commands(asked, each=True)
    return [Stray(key=text(key), why="endless") for (key, _), dead in zip(final, scores, strict=True) if dead is None]


async def _unheld(client: RedisClient, keys: Sequence[bytes]) -> list[Stray]:
    """Return the unique keys whose task has ended or is gone: they hold off every other of that key."""
    holders = await client.commands([("GET", key) for key in keys], each=True)
    held = [(key, text(holder)) for key, holder in zip(keys, holders, strict=True) if holder is not None]
    states = await client.commands([("HGET", client.keys.task(holder), "st") for _, holder in held], each=True)
    return [
        Stray(key=text(key), why="orphan")
        for (key, _), state in zip(held, states, strict=True)
        if state is None or text(state) in _FINAL
    ]


# -------------------------------------------------------------------------------------------------------------- queues


async def _leftovers(client: RedisClient, queues: Sequence[str], known: Collection[str]) -> list[Leftover]:
    streams = [(queue, client.keys.stream(queue, priority)) for queue in queues for priority in range(10)]
    found: dict[tuple[str, str], int] = {}
    for first in range(0, len(streams), _AT_ONCE):
        some = streams[first : first + _AT_ONCE]
        replies = await client.commands([("XINFO", "CONSUMERS", stream, "stem") for _, stream in some], each=True)
        with reading("XINFO"):
            for (queue, _), consumers in zip(some, replies, strict=True):
                for consumer in consumers or ():
                    named = dict(zip(consumer[::2], consumer[1::2], strict=True))
                    worker = text(named.get(b"name"))
                    if worker not in known:
                        found[queue, worker] = found.get((queue, worker), 0) + (number(named.get(b"pending")) or 0)
    return [Leftover(queue=queue, worker=worker, pending=pending) for (queue, worker), pending in found.items()]


async def _overdue(client: RedisClient, queues: Sequence[str]) -> list[Overdue]:
    time = await client.command("TIME")
    asked = [("ZRANGE", client.keys.of_queue(queue, "lease"), 0, _LATE_KEPT - 1, "WITHSCORES") for queue in queues]
    replies = await client.commands(asked, each=True)
    with reading("ZRANGE"):
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        found = []
        for queue, flat in zip(queues, replies, strict=True):
            late = [now_ms - int(float(score)) for score in (flat or ())[1::2] if float(score) <= now_ms]
            if late:
                found.append(Overdue(queue=queue, tasks=len(late), late_ms=max(late)))
        return found
