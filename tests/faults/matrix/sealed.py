"""The fault application with a task that knows what it was enqueued with: its text follows from its id."""

from __future__ import annotations

import hashlib

from stem.task import TaskContext
from tests.faults.app import accounted
from tests.faults.app import app as app


def seal(task_id: str) -> str:
    """Return the text that belongs to a task: long, so that what changes bytes meets it often."""
    return hashlib.sha256(task_id.encode()).hexdigest() * 16


@app.task("fault.sealed", max_retries=0)
@accounted
async def sealed(context: TaskContext, text: str) -> None:
    """Fail if the text is another task's, or no task's."""
    if text != seal(context.id):
        raise ValueError("this is not what was enqueued")
