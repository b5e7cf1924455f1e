"""What a worker says when it starts: who and where it is, and what will hurt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stem.contracts import ServerInfo
from stem.registry import TaskRegistry
from stem.task import given
from stem.text import clean

SHOWN_TASKS: Final = 12


def warnings(
    info: ServerInfo | None, registry: TaskRegistry, queues: Sequence[str], *, default_queue: str
) -> list[str]:
    """Return sentences, each with what to do."""
    found: list[str] = []
    if info is not None and info.kind != "memory":
        if info.policy != "noeviction":
            found.append(
                f"the server's maxmemory-policy is {clean(info.policy, 40)}: when memory is full it deletes tasks; "
                "set maxmemory-policy noeviction"
            )
        if not info.persistent:
            found.append("the server keeps no append-only file: a restart loses every task; set appendonly yes")
        if not info.writable:
            found.append("the server takes no writes now: look at its memory, disk and role")
    elsewhere: dict[str, list[str]] = {}
    for name in registry.names():
        queue = given(registry.get(name).options.queue, default_queue)
        if queue not in queues:
            elsewhere.setdefault(queue, []).append(name)
    for queue, names in sorted(elsewhere.items()):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(
            f"{', '.join(names[:3])}{more} go to queue {queue!r}, which this worker does not take: add --queue {queue}"
        )
    if not len(registry):
        found.append("no task is registered: import the modules that define them, or check the app's name")
    return found


def lines(
    *,
    version: str,
    worker_id: str,
    name: str,
    info: ServerInfo | None,
    url: str,
    namespace: str,
    registry: TaskRegistry,
    queues: Sequence[str],
    concurrency: int,
    threads: int,
) -> list[str]:
    """Return the banner."""
    names = registry.names()
    shown = ", ".join(names[:SHOWN_TASKS]) + (f", … ({len(names)})" if len(names) > SHOWN_TASKS else "")
    server = "" if info is None else f"  ({clean(info.kind, 40)} {clean(info.version, 40)})"
    return [
        f"stem-worker {clean(name, 64)}  Stem {clean(version, 40)}  id {worker_id}",
        f"  broker       {clean(url, 200)}{server}  namespace {namespace}",
        f"  queues       {', '.join(queues)}",
        f"  tasks        {shown or 'none'}",
        f"  concurrency  {concurrency} at once, {threads} threads",
    ]
