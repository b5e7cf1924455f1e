"""What the families of kills share: several worlds at a time with one line of the table for all, and one more rule."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.faults.matrix.family import Row
from tests.faults.matrix.invariants import Verdict
from tests.faults.matrix.stage import FaultWorld


async def together(plays: Sequence[Coroutine[Any, Any, Row]]) -> list[Row]:
    """Play all at once; the first that fails ends them all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(play) for play in plays]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def summed(rows: Sequence[Row], *, injected: str, note: str = "") -> Row:
    """Return one line for several worlds."""
    recovered = [row.recovery_s for row in rows if row.recovery_s is not None]
    return Row(
        check=rows[0].check,
        injected=injected,
        tasks=sum(row.tasks for row in rows),
        lost=sum(row.lost for row in rows),
        doubled=sum(row.doubled for row in rows),
        extra_starts=sum(row.extra_starts for row in rows),
        unexplained=sum(row.unexplained for row in rows),
        recovery_s=max(recovered, default=None),
        violations=[text for row in rows for text in row.violations],
        note="; ".join(filter(None, [note, *dict.fromkeys(row.note for row in rows)])),
    )


def expect_nothing_mended(verdict: Verdict, world: FaultWorld) -> None:
    """A death leaves nothing that stands nowhere: what the reconciler had to mend was lost, though not for long."""
    mended = [worker.name for worker in world.fleet if '"tasks.repaired"' in worker.log()]
    verdict.expect(not mended, f"the reconciler found tasks that stood nowhere, on {mended}")
