"""Very many tasks and no fault at all: each is started once, ended once, and counted once by the server."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Final

from stem.client import Stem
from stem.config import StemConfig
from stem.messages.status import TaskState
from stem.task import Signature
from tests.faults.matrix.counted import PREFIX, count, ended
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.keyspace import strays
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.waiting import eventually

BATCH: Final = 500
IN_FLIGHT: Final = 100
SLOWEST_PER_S: Final = 300
"""Tasks per second on a machine that is still worth waiting for."""


@family("T-L1", "clean run", share_s=60, full_s=3_000)
async def clean_run(stage: Stage) -> list[Row]:
    tasks = stage.times(full=1_000_000, share=3_000)
    ledger = stage.folder / "counted"
    ledger.touch()
    server = stage.server()
    world = await stage.world(server.url, FAULTS_COUNTED=str(ledger), STEM_VISIBILITY_TIMEOUT="30s")
    app = "tests.faults.matrix.counted:app"
    await world.workers("w1", "w2", app=app, concurrency=IN_FLIGHT)
    with server.client() as client:
        empty = client.info("memory")["used_memory"]
        began = time.monotonic()
        enqueued = await _produce(world, tasks)
        produced_s = time.monotonic() - began
        await _all_ended(stage, ledger, tasks)
        took_s = time.monotonic() - began
        bytes_each = (client.info("memory")["used_memory"] - empty) / tasks
    row = Row(check=stage.family.title, injected="nothing", tasks=enqueued)
    found = count(ledger, tasks)
    row.lost = found.never + found.unfinished
    row.doubled = found.extra_ends
    row.extra_starts = row.unexplained = found.extra_starts
    if not found.exact:
        row.violations.append(f"{found}")
    row.violations += await _counted_by_the_server(world, tasks)
    row.violations += await strays(world.url, world.namespace, world.broker)
    row.violations += [f"{one.name} wrote {text}" for one in world.fleet for text in one.tracebacks()]
    row.note = (
        f"{tasks / took_s:.0f} tasks/s through 2 workers; enqueued in {produced_s:.0f} s, ended after {took_s:.0f} s; "
        f"{bytes_each:.0f} bytes of the server's memory for each ended task"
    )
    return [row]


async def _produce(world: FaultWorld, tasks: int) -> int:
    """Enqueue all; return how many ids were acknowledged."""
    enqueued = 0
    async with Stem.connect(world.url, namespace=world.namespace, config=StemConfig()) as stem:
        for first in range(0, tasks, BATCH):
            numbers = range(first, min(first + BATCH, tasks))
            wanted = [Signature(name="fault.counted", args={"n": n}, task_id=f"{PREFIX}{n}") for n in numbers]
            answered = await stem.enqueue_many(wanted)
            assert answered == [one.task_id for one in wanted]
            enqueued += len(answered)
    return enqueued


async def _all_ended(stage: Stage, path: Path, tasks: int) -> None:
    seen = read_to = 0
    said = time.monotonic()

    def all_there() -> bool:
        nonlocal seen, read_to, said
        more, read_to = ended(path, read_to)
        seen += more
        if time.monotonic() - said > 10:
            said = time.monotonic()
            stage.say(f"{seen} of {tasks} tasks ended")
        return seen >= tasks

    # A lost one is not an end of everything: it is counted afterwards, by its number.
    try:
        await eventually(all_there, 20 + tasks / SLOWEST_PER_S)
    except AssertionError:
        stage.say(f"only {seen} of {tasks} tasks ended in time")


async def _counted_by_the_server(world: FaultWorld, tasks: int) -> list[str]:
    """Compare the queue's, the minutes' and the records' own account with what was enqueued."""

    async def settled() -> bool:
        rows = await world.broker.census.queues()
        return all(row.ready == row.in_flight == row.retrying == row.delayed == row.held == 0 for row in rows)

    await eventually(settled, 30, what="every queue is empty")
    complaints = []
    (queue,) = await world.broker.census.queues()
    if queue.enqueued_total != tasks or queue.dead:
        complaints.append(f"the queue counts {queue.enqueued_total} enqueued and {queue.dead} dead")
    totals: Counter[str] = Counter()
    for minute in await world.broker.census.minutes(180):
        totals.update(minute.counts)
    expected = {"enqueued": tasks, "succeeded": tasks}
    if {kind: n for kind, n in totals.items() if n} != expected:
        complaints.append(f"the minutes count {dict(totals)}")
    states: Counter[str] = Counter()
    for first in range(0, tasks, BATCH):
        ids = [f"{PREFIX}{n}" for n in range(first, min(first + BATCH, tasks))]
        for status in await world.broker.statuses(ids, timeline=False):
            once = status is not None and status.token == 1 and status.attempt == 0 and status.crashes == 0
            good = once and status is not None and status.state is TaskState.SUCCEEDED
            states["good" if good else str(status)] += 1
    if states != {"good": tasks}:
        complaints.append(f"the records say {states.most_common(3)}")
    return complaints
