"""The child process's own parts, without a process: what a race between its two threads must not do."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast

from stem.messages.codec import Fields
from stem.messages.envelope import Envelope
from stem.registry import SimpleTaskRegistry
from stem.task import TaskContext
from stem.worker.child import Child, Link, Run
from tests.worker.handlers import on_loop


class Told:
    """What a child would have sent to its worker."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.messages.append((kind, fields))


async def note(context: TaskContext, args: Any) -> None:
    return None


def test_a_soft_limit_that_comes_before_the_first_step_ends_the_task_and_not_the_child() -> None:
    """Cancelled before its first step, the task never ran to tell of its end: the child died of it, as in a crash."""
    registry, told = SimpleTaskRegistry(), Told()
    on_loop(registry, "note", note)
    child = Child(cast("Link", told), parent=os.getpid())
    child._registry = registry
    order = {"body": Envelope(id="t", task="note").encode(), "queue": "q", "attempt": 0, "token": 1, "max_retries": 0}
    run = Run(Fields(order | {"revoked": False, "lost": False}, "order"), child._link, child._courier, worker="w")
    run.soft_due = True

    asyncio.set_event_loop(child._loop)
    try:
        child._perform(run)
    finally:
        asyncio.set_event_loop(None)
        child._loop.close()

    ((kind, fields),) = told.messages
    assert kind == "failed"
    assert "SoftTimeLimitExceeded" in str(fields)
