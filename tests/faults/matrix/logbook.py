"""What worker processes wrote to their logs, read as data."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from tests.faults.fleet import WorkerProcess

REFUSED: Final = "task.late_result_refused"
LOST: Final = "task.lease_lost"
UNRENEWED: Final = "task.lease_unrenewed"
COMMAND: Final = "control.command"


def entries(worker: WorkerProcess, *events: str) -> list[dict[str, Any]]:
    """Return the entries of a worker's log of these events, in order; a line that is being written is left out."""
    found = []
    for line in worker.log().splitlines():
        if not line.startswith("{"):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") in events:
            found.append(entry)
    return found


def tasks_of(worker: WorkerProcess, *events: str) -> set[str]:
    """Return the ids of tasks that the worker's log has one of these events of."""
    return {entry["task_id"] for entry in entries(worker, *events) if "task_id" in entry}


def commands(worker: WorkerProcess, issued: Collection[str]) -> list[str]:
    """Return those of the issued commands that a worker carried out, as often and in the order in which it did."""
    return [entry["command_id"] for entry in entries(worker, COMMAND) if entry["command_id"] in issued]
