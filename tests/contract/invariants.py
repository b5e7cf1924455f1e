"""What must be true of the keys of a namespace after any sequence of calls on the Redis adapter.

The contract sees a broker from outside; these look at the keys, so that what is merely left lying about (an entry that
nobody acknowledged, a record that nobody will ever delete) fails a test too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import redis

from tests.servers import Server

PLACES: Final = {"delayed": "scheduled", "retry": "retrying", "held": "queued", "lease": "running", "dead": "failed"}
FINAL: Final = {"succeeded", "failed", "revoked", "expired"}


def broken_in(server: Server, namespace: str) -> list[str]:
    """Return what is wrong with the keys of a namespace, in words; nothing when all is well."""
    with server.client() as client:
        keys = Keys(client, f"{{{namespace}}}:")
        return [*_places(keys), *_streams(keys), *_records(keys), *_unique(keys)]


class Keys:
    """The keys of one namespace, by their first part."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.client: Any = client
        self.prefix = prefix
        names = [
            str(key)[len(prefix) :] for key in client.scan_iter(match=prefix.replace("{", "[{]") + "*", count=1_000)
        ]
        self.tasks = {name[5:]: self.record(name[5:]) for name in names if name.startswith("task:")}
        self.queue_parts = [name.split(":") for name in names if name.startswith("q:")]
        self.unique = [name for name in names if name.startswith("unique:")]

    def record(self, task_id: str) -> dict[str, str]:
        fields: dict[str, str] = self.client.hgetall(f"{self.prefix}task:{task_id}")
        return fields


def _places(keys: Keys) -> list[str]:
    """Whoever stands in a set has a record in the state that belongs there, and stands in one set only."""
    wrong, seen = [], Counter[str]()
    for _, queue, part in keys.queue_parts:
        if part in PLACES:
            for task_id in keys.client.zrange(f"{keys.prefix}q:{queue}:{part}", 0, -1):
                seen[task_id] += 1
                state = keys.tasks.get(task_id, {}).get("st", "gone")
                if state != PLACES[part]:
                    wrong.append(f"{task_id} stands in {queue}:{part} and is {state}")
    return wrong + [f"{task_id} stands in {count} places" for task_id, count in seen.items() if count > 1]


def _streams(keys: Keys) -> list[str]:
    """As many entries are pending as tasks run, and every entry belongs to the record that names it."""
    wrong, pending, leased = [], Counter[str](), Counter[str]()
    for _, queue, part in keys.queue_parts:
        name = f"{keys.prefix}q:{queue}:{part}"
        if part == "lease":
            leased[queue] = keys.client.zcard(name)
        elif part.startswith("p"):
            pending[queue] += keys.client.xpending(name, "stem")["pending"]
            for entry, fields in keys.client.xrange(name):
                record = keys.tasks.get(fields["i"], {})
                if record.get("e") != entry or record.get("st") not in ("queued", "running"):
                    wrong.append(f"{part} of {queue} holds {fields['i']}, which is {record.get('st')}")
    return wrong + [
        f"{queue}: {pending[queue]} pending, {leased[queue]} leased"
        for queue in pending | leased
        if pending[queue] != leased[queue]
    ]


def _records(keys: Keys) -> list[str]:
    """Final records end by themselves, unless they are dead letters; the others never do."""
    wrong = []
    for task_id, record in keys.tasks.items():
        ends = keys.client.pttl(f"{keys.prefix}task:{task_id}") != -1
        state = record.get("st", "gone")
        dead = keys.client.zscore(f"{keys.prefix}q:{record.get('q')}:dead", task_id) is not None
        if state != "gone" and ends == (dead or state not in FINAL):
            wrong.append(f"the record of {task_id} ({state}) {'ends' if ends else 'is kept for ever'}")
    return wrong


def _unique(keys: Keys) -> list[str]:
    """A unique key is held by a task that is not final."""
    wrong = []
    for name in keys.unique:
        holder = keys.client.get(keys.prefix + name)
        state = keys.tasks.get(holder, {}).get("st", "gone")
        if state in FINAL or state == "gone":
            wrong.append(f"{name} is held by {holder}, which is {state}")
    return wrong
