"""Everything that producers, workers and operators ask of a broker, as short exercises that check their own outcome.

Together they send every script and every command there is. An exercise acts as a careful caller does: what has an
unknown outcome is asked again, and then it must have happened exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar, get_args

from stem.adapters.redis import RedisResultBackend, RedisStreamsBroker
from stem.client import Stem
from stem.config import StemConfig
from stem.contracts import ListState
from stem.control.controller import Controller
from stem.errors import BrokerError, BrokerUnreachableError, UnknownOutcomeError
from stem.messages.audit import AuditOutcome, Deed, Verdict
from stem.messages.command import Command
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState, TaskStatus
from stem.options import TaskOptions
from tests.faults.fleet import WorkerProcess
from tests.faults.matrix.stage import FaultWorld
from tests.waiting import eventually

T = TypeVar("T")

WAIT_S: Final = 20.0
FAR_S: Final = 3600.0


class Cast:
    """Who takes part: workers behind a proxy, and a client behind the same one.

    Attributes:
        url: of the proxy.
        forgiven: tasks that end twice or whose record goes because that was asked for; the exercise judges them itself.
        replayed: how many dead letters were given another life.
    """

    def __init__(self, world: FaultWorld, url: str, workers: list[WorkerProcess]) -> None:
        self.world = world
        self.url = url
        self.workers = workers
        self.stem = Stem.connect(url, namespace=world.namespace, config=StemConfig())
        self.forgiven: set[str] = set()
        self.replayed = 0

    @property
    def broker(self) -> Any:
        return self.stem.broker

    @property
    def controller(self) -> Controller:
        return Controller(self.broker, actor="exercise", timeout_s=WAIT_S)

    async def close(self) -> None:
        await self.stem.close()

    async def enqueue(self, name: str, *, stem: Stem | None = None, queue: str = "default", **options: Any) -> str:
        """Enqueue one task; what is not an option is an argument of it."""
        task_id = str(uuid.uuid4())
        delay, retries = options.pop("delay", None), options.pop("max_retries", None)
        chosen = TaskOptions(queue=queue) if retries is None else TaskOptions(queue=queue, max_retries=retries)
        self.world.ledger.write("tried", task_id)
        used = self.stem if stem is None else stem

        async def send() -> str:
            return await used.enqueue(f"fault.{name}", options, options=chosen, delay=delay, task_id=task_id)

        assert await again(send) == task_id
        self.world.ledger.write("acked", task_id)
        return task_id

    async def ends(self, task_id: str, state: TaskState) -> TaskStatus:
        status = await again(lambda: self.stem.wait_for(task_id, WAIT_S))
        assert status.state is state, f"{task_id} is {status.state.value}, not {state.value}: {status.error}"
        return status

    def starts(self, task_id: str) -> int:
        return len(self.world.ledger.read().starts(task_id))


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while its outcome is unknown, as a careful caller does."""
    for _ in range(4):
        try:
            return await call()
        except (UnknownOutcomeError, BrokerUnreachableError):
            await asyncio.sleep(0.05)
    return await call()


async def work(cast: Cast) -> None:
    ids = {
        await cast.enqueue("quick"): TaskState.SUCCEEDED,
        await cast.enqueue("thread_nap", seconds=0.02): TaskState.SUCCEEDED,
        await cast.enqueue("flaky", failures=1): TaskState.SUCCEEDED,
        await cast.enqueue("quick", delay=0.1): TaskState.SUCCEEDED,
        await cast.enqueue("raising"): TaskState.FAILED,
    }
    await asyncio.gather(*(cast.ends(task_id, state) for task_id, state in ids.items()))


async def from_a_thread(cast: Cast) -> None:
    """Enqueue, wait and cancel without an event loop, on a connection of its own."""
    task_id, late_id = str(uuid.uuid4()), str(uuid.uuid4())
    for one in (task_id, late_id):
        cast.world.ledger.write("tried", one)

    def once_known(call: Callable[[], T]) -> T:
        for _ in range(3):
            with contextlib.suppress(UnknownOutcomeError):
                return call()
        return call()

    def produce() -> tuple[TaskStatus, str]:
        with Stem.connect(cast.url, namespace=cast.world.namespace, config=StemConfig()).blocking() as sync:
            once_known(lambda: sync.enqueue("fault.quick", {}, task_id=task_id))
            once_known(lambda: sync.enqueue("fault.quick", {}, task_id=late_id, delay=FAR_S))
            status = once_known(lambda: sync.wait_for(task_id, WAIT_S))
            return status, once_known(lambda: sync.cancel(late_id)).outcome

    status, outcome = await asyncio.to_thread(produce)
    for one in (task_id, late_id):
        cast.world.ledger.write("acked", one)
    assert status.state is TaskState.SUCCEEDED
    assert outcome in ("revoked", "already")


async def anew(cast: Cast) -> None:
    """Come as a new client does: a greeting, a look at the schema, a first task."""
    broker = await again(partial(RedisStreamsBroker.connect, cast.url, namespace=cast.world.namespace))
    stem = Stem(broker, config=StemConfig())
    try:
        task_id = await cast.enqueue("quick", stem=stem)
        await cast.ends(task_id, TaskState.SUCCEEDED)
    finally:
        await stem.close()
        await broker.close()


async def questions(cast: Cast) -> None:
    names = {worker.name for worker in cast.workers}
    ping = await again(cast.controller.ping)
    assert (ping.expected, {pong.name for pong in ping.workers}, ping.silent) == (len(names), names, [])
    stats = await again(cast.controller.stats)
    assert (stats.replied, stats.failed, stats.silent) == (len(names), 0, [])


async def pauses(cast: Cast) -> None:
    """A pause and its end are each applied once, also when the answer to the operator gets lost."""
    control = cast.world.broker.control
    before = (await control.read(0)).epoch
    paused = await cast.controller.pause("queue", ["aside"], wait_s=WAIT_S)
    held = await cast.enqueue("quick", queue="aside")
    resumed = await cast.controller.resume("queue", ["aside"], wait_s=WAIT_S)
    await cast.ends(held, TaskState.SUCCEEDED)
    desired = await control.read(before)
    assert [Command.decode(item.command).type for item in desired.log] == ["pause", "resume"]
    assert desired.epoch == before + 2
    assert (paused.applied, resumed.applied) == (len(cast.workers), len(cast.workers))


async def revokes(cast: Cast) -> None:
    waiting = await cast.enqueue("quick", delay=FAR_S)
    running = await cast.enqueue("nap", seconds=FAR_S)
    await cast.world.started(running, timeout=WAIT_S)
    first = await cast.controller.revoke([waiting])
    second = await cast.controller.revoke([running], terminate=True, wait_s=WAIT_S)
    assert [item.outcome for item in first.items] == ["revoked"]
    assert [item.outcome for item in second.items] == ["cancelled"]
    await cast.ends(waiting, TaskState.REVOKED)
    await cast.ends(running, TaskState.REVOKED)
    assert (cast.starts(waiting), cast.starts(running)) == (0, 1)


async def replays(cast: Cast) -> None:
    """A dead letter gets one new life, not two."""
    task_id = await cast.enqueue("late", seconds=0.01, end="raise", max_retries=0)
    cast.forgiven.add(task_id)
    await cast.ends(task_id, TaskState.FAILED)
    cast.replayed += 1
    cast.world.ledger.write("retry", task_id)  # one more start is asked for
    answer = await again(lambda: cast.broker.replay([task_id]))
    assert answer[task_id] in ("queued", "not-dead")
    await cast.ends(task_id, TaskState.SUCCEEDED)
    assert cast.starts(task_id) == 2


async def hurries(cast: Cast) -> None:
    """What waits for its next attempt is made due once."""
    task_id = await cast.enqueue("again", countdown=FAR_S)
    await cast.world.reaches(task_id, TaskState.RETRYING, timeout=WAIT_S)
    answer = await again(lambda: cast.broker.retry_now([task_id]))
    assert answer[task_id] in ("queued", "already", "final")
    await cast.ends(task_id, TaskState.SUCCEEDED)


async def purges(cast: Cast) -> None:
    ids = [await cast.enqueue("quick", queue="shelf", delay=FAR_S) for _ in range(3)]
    while await again(lambda: cast.broker.purge("shelf", "waiting")):
        pass
    for task_id in ids:
        await cast.ends(task_id, TaskState.REVOKED)
    dead = await cast.enqueue("raising")
    cast.forgiven.add(dead)
    await cast.ends(dead, TaskState.FAILED)
    await again(lambda: cast.broker.discard("default", [dead]))
    letters = await cast.world.broker.census.tasks("dead", limit=100)
    assert dead not in [status.id for status in letters.items]


async def accounts(cast: Cast) -> None:
    """What is done without a command stands in the audit once, with the outcome that was told first."""
    control = cast.broker.control
    deed = Deed(id=new_task_id(), verb="purge", actor="exercise", kind="queue", targets=["shelf"], count=1)
    row = await again(lambda: control.record(deed))
    verdicts: tuple[Verdict, ...] = ("applied", "failed")
    for verdict in verdicts:
        assert await again(partial(control.conclude, row, AuditOutcome(verdict=verdict)))
    page = await again(lambda: cast.broker.census.audit(verb="purge", limit=50))
    (found,) = [each for each in page.items if each.command_id == deed.id]
    assert (found.id, found.actor, found.outcome.verdict) == (row, "exercise", "applied")


async def watches(cast: Cast) -> None:
    """Events are told at most once: some must come, and after the watcher has left nobody waits for them."""
    events = cast.broker.events
    await again(lambda: events.watch("exercise", for_ms=60_000))
    cursor = await again(events.tail)

    async def seen() -> bool:
        nonlocal cursor
        await cast.enqueue("quick")
        batch = await again(lambda: events.read(cursor, timeout_s=0.3))
        cursor = batch.cursor
        return bool(batch.events)

    await eventually(seen, WAIT_S, what="an event was seen")
    await again(lambda: events.unwatch("exercise"))


async def looks(cast: Cast) -> None:
    census = cast.broker.census
    waiting = await cast.enqueue("quick", queue="shelf", delay=FAR_S)
    assert "default" in [row.name for row in await again(census.queues)]
    for state in get_args(ListState):
        page = await again(partial(census.tasks, state, queue="shelf", limit=5))
        assert state != "scheduled" or waiting in [status.id for status in page.items]
    assert await again(lambda: census.history(10))
    assert await again(lambda: census.minutes(10))  # not 2: in silence, each question before took its time-out
    assert await again(census.pauses) == []
    assert (await again(census.info)).writable
    assert len(await again(cast.broker.presence.workers)) >= len(cast.workers)
    assert await again(lambda: cast.broker.body(waiting)) is not None
    await again(lambda: cast.stem.cancel(waiting))


async def copies(cast: Cast) -> None:
    """A result backend keeps one copy."""
    task_id = await cast.enqueue("quick")
    status = await cast.ends(task_id, TaskState.SUCCEEDED)
    backend = RedisResultBackend(cast.url, namespace=cast.world.namespace)
    try:
        await again(lambda: backend.store(status, ttl_ms=60_000))
        copy = await again(lambda: backend.get(task_id))
    finally:
        await backend.close()
    assert copy is not None
    assert (copy.id, copy.token, copy.result) == (status.id, status.token, status.result)


async def comes_and_goes(cast: Cast) -> None:
    """A worker starts, works and leaves."""
    guest = await cast.world.worker(f"guest-{uuid.uuid4().hex[:6]}", queues=("guests",), concurrency=2)
    task_id = await cast.enqueue("quick", queue="guests")
    await cast.ends(task_id, TaskState.SUCCEEDED)
    guest.send(signal.SIGTERM)
    assert await guest.exit_code(30) == 0


async def repairs(cast: Cast) -> None:
    cursor, repaired = "0", 0
    while True:
        cursor, count = await again(partial(cast.broker.reconcile, cursor))
        repaired += count
        if cursor == "0":
            break
    assert repaired == 0


async def rests(cast: Cast) -> None:
    """Workers that have nothing to do sleep, beat and sweep."""
    await asyncio.sleep(1.0)


EXERCISES: Final[dict[str, Callable[[Cast], Awaitable[None]]]] = {
    one.__name__: one
    for one in (
        work,
        questions,
        looks,
        from_a_thread,
        anew,
        pauses,
        revokes,
        replays,
        hurries,
        purges,
        accounts,
        watches,
        copies,
        repairs,
        rests,
        comes_and_goes,
    )
}

BROKEN: Final = (BrokerError, AssertionError, TimeoutError)
