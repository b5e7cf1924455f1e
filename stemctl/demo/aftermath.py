"""What somebody did at the demo's dashboard: taken back at the end, so that all can finish, and put into the account.

The demo's own operator writes down what he is answered. A person at the dashboard writes nothing, so the broker is
asked afterwards what was revoked, purged or replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from stem.contracts import Broker
from stem.control.controller import Controller
from stem.messages.status import TaskState
from stemctl.demo.ledger import Ledger, Line, questionable

BATCH: Final = 500


async def take_back(broker: Broker, controller: Controller) -> None:
    """Resume what is paused and let drained workers work: else what waits there would never end."""
    for pause in await broker.census.pauses():
        await controller.resume(pause.kind, [pause.target], reason="the demo ends")
    await controller.undrain(["*"], reason="the demo ends")


async def enter(broker: Broker, ledger: Ledger, lines: Sequence[Line]) -> None:
    """Write down which tasks were withdrawn or replayed by somebody who keeps no ledger."""
    known = Counter((line.kind, line.task_id) for line in lines)
    ids = questionable(lines)
    for first in range(0, len(ids), BATCH):
        for status in await broker.statuses(ids[first : first + BATCH]):
            if status is None:
                continue
            replays = sum(entry.event == "replayed" for entry in status.timeline)
            for _ in range(replays - known["replayed", status.id]):
                ledger.write("replayed", status.id)
            if status.state is not TaskState.REVOKED or known["final:revoked", status.id]:
                continue
            waited = known["started", status.id] == known["final:retry", status.id]
            kind = "withdrawn" if waited else "stopping"
            if not known[kind, status.id]:
                ledger.write(kind, status.id)
