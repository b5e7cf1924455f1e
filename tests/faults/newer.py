"""The application of `tests.faults.app` one version later: it knows a task more."""

from __future__ import annotations

from stem.task import TaskContext
from tests.faults.app import accounted, app

__all__ = ["app"]


@app.task("fault.newer")
@accounted
async def newer(context: TaskContext) -> None:
    """Return at once; older workers do not know this name."""
