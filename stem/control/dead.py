"""Removing dead letters by their ids, and saying of each what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from stem.contracts import Broker
from stem.messages.status import TaskStatus

AT_A_TIME: Final = 8


async def discard(broker: Broker, ids: Sequence[str]) -> AsyncIterator[dict[str, str]]:
    """Remove these dead letters; yield, part by part, for each id `discarded`, `not-dead` or `unknown`.

    The queue of each is asked for, not believed. They go one by one, though several at a time: a record still says
    `failed` for a minute after its letter was removed, so only the removal itself tells whose it was.

    Raises:
        BrokerError: one could not be removed; what was done before it and beside it has been yielded by then.
    """
    wanted = list(dict.fromkeys(ids))
    found = list(zip(wanted, await broker.statuses(wanted, timeline=False), strict=True))
    for start in range(0, len(found), AT_A_TIME):
        part = found[start : start + AT_A_TIME]
        # All are waited for before the first error is raised: nothing goes on behind the caller's back.
        answers = await asyncio.gather(*(_one(broker, *each) for each in part), return_exceptions=True)
        done = {task_id: answer for (task_id, _), answer in zip(part, answers, strict=True) if isinstance(answer, str)}
        if done:
            yield done
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer


async def _one(broker: Broker, task_id: str, status: TaskStatus | None) -> str:
    if status is None:
        return "unknown"
    removed = status.state == "failed" and await broker.discard(status.queue, [task_id])
    return "discarded" if removed else "not-dead"
