"""What the families of kills share: several worlds at a time with one line of the table for all, and one more rule."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Final

from tests.faults.crashing import Crash
from tests.faults.fleet import LEASE_S
from tests.faults.ledger import Account
from tests.faults.matrix.family import Row
from tests.faults.matrix.invariants import Verdict
from tests.faults.matrix.stage import FaultWorld

SWEEP_S: Final = 1.0
SLACK_S: Final = 20.0
"""What a slow machine may add to lease and sweep; the table says how long it really took."""


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


def expect_recovery(verdict: Verdict, crashes: Sequence[Crash], *, aside: Collection[str] = ()) -> None:
    """Note how long what the dead had held waited to be started elsewhere, and expect a bound of it (I7)."""
    verdict.recovery_s = _recovery_s(verdict.account, crashes, aside)
    within = LEASE_S + SWEEP_S + SLACK_S
    verdict.expect((verdict.recovery_s or 0.0) <= within, f"a task waited {verdict.recovery_s} s, not {within} s")


def _recovery_s(account: Account, crashes: Sequence[Crash], aside: Collection[str]) -> float | None:
    """Return the longest time from a death until a task that was with the dead one was started elsewhere.

    What ended without another start (its end was recorded, the answer unread) waited for nobody.
    """
    longest: float | None = None
    for crash in crashes:
        open_ids = set(crash.ids)
        for line in account.lines:
            if line.pid == crash.pid and line.at_ns <= crash.at_ns:
                if line.kind == "start":
                    open_ids.add(line.id)
                elif line.kind == "retry" or line.kind.startswith("final:"):
                    open_ids.discard(line.id)
        later: dict[str, int] = {}
        for line in account.lines:
            if line.kind == "start" and line.id in open_ids and line.at_ns > crash.at_ns and line.pid != crash.pid:
                later.setdefault(line.id, line.at_ns)
        for task_id, at_ns in later.items():
            if task_id not in aside:
                longest = max(longest or 0.0, (at_ns - crash.at_ns) / 1e9)
    return longest
