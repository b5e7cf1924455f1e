"""Removing dead letters by their ids, and saying of each what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stem.contracts import Broker


async def discard(broker: Broker, ids: Sequence[str]) -> dict[str, str]:
    """Remove these dead letters; return for each id `discarded`, `not-dead` or `unknown`.

    The queue of each is asked for, not believed. They go one by one, though several at a time: a record still says
    `failed` for a minute after its letter was removed, so only the removal itself tells whose it was.
    """
    statuses = await broker.statuses(ids, timeline=False)

    async def one(task_id: str, queue: str) -> str:
        return "discarded" if await broker.discard(queue, [task_id]) else "not-dead"

    dead = {
        task_id: status.queue
        for task_id, status in zip(ids, statuses, strict=True)
        if status is not None and status.state == "failed"
    }
    removed: list[str] = []
    # All are waited for before the first error is raised: nothing goes on behind the caller's back.
    for answer in await asyncio.gather(*(one(*each) for each in dead.items()), return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        removed.append(answer)
    known = {task_id for task_id, status in zip(ids, statuses, strict=True) if status is not None}
    found = {task_id: "not-dead" if task_id in known else "unknown" for task_id in ids}
    return found | dict(zip(dead, removed, strict=True))
