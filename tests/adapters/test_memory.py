"""What is particular to the in-memory adapter: its clock, its threads and loops, its bounds. The contract suite does
the rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from stem.adapters.memory import InMemoryBroker, InMemoryResultBackend
from stem.adapters.memory import broker as memory
from stem.adapters.memory.waiting import Bells, LoopWaiter, ThreadWaiter
from stem.contracts import (
    Beat,
    BlockingBroker,
    Broker,
    Outcome,
    ResultBackend,
    RevokeTasks,
    Settlement,
    WakeUp,
)
from stem.errors import BrokerUnreachableError, InvalidInputError, InvalidNameError
from stem.messages.command import Command, Reply
from stem.messages.event import Event
from stem.messages.status import TaskState, TaskStatus
from stem.testing import FakeClock
from tests.adapters.hands import ask, heartbeat, task
from tests.waiting import eventually, wait_until

T = TypeVar("T")


PROMPT_S = 10.0
"""Far below every timeout used here: who returns within it was woken, and did not time out."""


class Elsewhere:
    """Runs coroutines to their end in threads with an event loop of their own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=4)

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: asyncio.run(work()))

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture(autouse=True)
def _idle_as_long_as_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_IDLE_S", 20.0)


@pytest.fixture
def elsewhere() -> Any:
    pool = Elsewhere()
    yield pool
    pool.close()


async def waiters_of(broker: InMemoryBroker, count: int) -> None:
    """Return once this many waiters wait through a handle: only then is a wake-up a wake-up."""
    await asyncio.to_thread(wait_until, lambda: len(broker._handle._waiters) >= count, what="a waiter")


def test_it_is_a_broker_and_a_backend(broker: InMemoryBroker) -> None:
    """The type checker agrees that the handles keep the contracts."""
    whole: Broker = broker
    blocking: BlockingBroker = broker.blocking()
    backend: ResultBackend = InMemoryResultBackend()

    assert (whole.namespace, blocking.url) == ("stem", "memory://")
    assert backend is not None


# ------------------------------------------------------------------------------------------------------ injected clock


async def test_time_passes_only_on_the_injected_clock(broker: InMemoryBroker, clock: FakeClock) -> None:
    """A lease of a millisecond holds as long as the clock stands still."""
    await broker.enqueue([task("t-1")])
    await broker.exchange("w-1", (), ask(lease_ms=1))
    await asyncio.sleep(0.02)
    held = await broker.sweep(["q"])

    clock.advance(1)
    swept = await broker.sweep(["q"])

    assert (held.requeued, swept.requeued) == (0, 1)


async def test_every_time_in_an_answer_is_the_injected_clocks(broker: InMemoryBroker, clock: FakeClock) -> None:
    """Statuses, exchanges, commands and the census all speak of the same time."""
    await broker.enqueue([task("t-1")])
    clock.advance(5)
    answer = await broker.exchange("w-1", (), ask())
    (status,) = await broker.statuses(["t-1"])

    assert status is not None
    assert (answer.now_ms, status.started_at_ms) == (clock.wall_ms(), clock.wall_ms())
    assert status.enqueued_at_ms == clock.wall_ms() - 5_000
    assert (await broker.control.read(0)).now_ms == clock.wall_ms()
    assert (await broker.census.info()).now_ms == clock.wall_ms()


async def test_a_result_is_kept_for_its_time_and_the_higher_token_wins(clock: FakeClock) -> None:
    """The backend follows the injected clock too."""
    backend = InMemoryResultBackend(clock)
    old = TaskStatus(id="t-1", task="job", queue="q", state=TaskState.FAILED, token=1)
    new = TaskStatus(id="t-1", task="job", queue="q", state=TaskState.SUCCEEDED, token=2, result={"n": 1})

    stored = [await backend.store(one, ttl_ms=1_000) for one in (old, new, new, old)]
    kept = await backend.get("t-1")
    clock.advance(2)

    assert stored == [True, True, False, False]
    assert kept == new
    assert await backend.get("t-1") is None


# --------------------------------------------------------------------------------------------------- loops and threads


async def test_an_idle_worker_in_another_loop_is_woken_by_an_enqueue_here(
    broker: InMemoryBroker, elsewhere: Elsewhere
) -> None:
    other = broker.clone()

    async def work() -> tuple[float, int]:
        await other.idle(["q"], 20.0)
        woken = time.monotonic()
        return woken, len((await other.exchange("w-1", (), ask())).deliveries)

    working = elsewhere(work)
    await waiters_of(other, 1)
    began = time.monotonic()
    await broker.enqueue([task("t-1")])
    woken, taken = await working

    assert taken == 1
    assert woken - began < PROMPT_S


async def test_one_new_task_wakes_one_idle_worker(broker: InMemoryBroker) -> None:
    """The others sleep on; a second task wakes the next."""
    idle = [asyncio.create_task(broker.idle(["q", "r"], 20.0)) for _ in range(3)]
    await waiters_of(broker, 3)

    async def woken(least: int) -> int:
        await eventually(lambda: sum(one.done() for one in idle) >= least)
        await asyncio.sleep(0.1)
        return sum(one.done() for one in idle)

    await broker.enqueue([task("t-1")])
    after_one = await woken(1)
    await broker.enqueue([task("t-2", queue="r")])
    after_two = await woken(2)
    for one in idle:
        one.cancel()
    await asyncio.gather(*idle, return_exceptions=True)

    assert (after_one, after_two) == (1, 2)


async def test_a_worker_that_leaves_work_behind_wakes_the_next(broker: InMemoryBroker) -> None:
    """A batch rings once; whoever took what fits rings again."""
    other = broker.clone()
    idle = asyncio.create_task(other.idle(["q"], 20.0))
    await broker.enqueue([task("t-1"), task("t-2")])
    await idle
    second = asyncio.create_task(broker.idle(["q"], 20.0))
    await waiters_of(broker, 1)

    answer = await other.exchange("w-1", (), ask(1))
    await asyncio.wait_for(second, PROMPT_S)

    assert answer.more


async def test_a_cancelled_idle_passes_its_wake_up_on(broker: InMemoryBroker) -> None:
    """A wake-up that met a cancelled waiter is not lost: the next one has it."""
    idle = asyncio.create_task(broker.idle(["q"], 20.0))
    await waiters_of(broker, 1)
    # The enqueue wakes it; it is cancelled before its loop has run it.
    broker.blocking().enqueue([task("t-1")])
    idle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await idle
    began = time.monotonic()

    await broker.idle(["q"], 20.0)

    assert time.monotonic() - began < PROMPT_S


async def test_a_waiter_in_a_closed_loop_is_passed_over() -> None:
    """Somebody's event loop may end without a word; the bell goes to a living one."""
    bells, living = Bells(), ThreadWaiter()
    loop = asyncio.new_event_loop()

    async def make() -> LoopWaiter:
        return LoopWaiter()

    dead = await asyncio.to_thread(loop.run_until_complete, make())
    loop.close()
    bells.add(["q"], dead)
    bells.add(["q"], living)

    bells.ring("q")

    assert (dead.fired, living.fired) == (False, True)
    assert not bells.take(["q"])


async def test_a_thread_without_a_loop_is_told_of_the_end(broker: InMemoryBroker) -> None:
    """`SyncStem` waits on the same core as the worker's loop."""
    blocking = broker.blocking()
    blocking.enqueue([task("t-1")])
    (delivery,) = (await broker.exchange("w-1", (), ask())).deliveries
    waiting = asyncio.create_task(asyncio.to_thread(blocking.wait, "t-1", 20.0))
    await asyncio.to_thread(wait_until, lambda: bool(blocking._handle._waiters))
    began = time.monotonic()

    await broker.exchange("w-1", [Settlement(id="t-1", token=delivery.token, outcome=Outcome.SUCCEEDED)], None)
    status = await waiting

    assert status is not None
    assert status.state is TaskState.SUCCEEDED
    assert time.monotonic() - began < PROMPT_S


async def test_a_blocking_handle_revokes_a_task(broker: InMemoryBroker) -> None:
    """`cancel` is a whole command: logged, with an epoch, once per id."""
    blocking = broker.blocking()
    blocking.enqueue([task("t-1")])
    command = Command(id="c-1", type="revoke", reason="not wanted")

    items = [blocking.cancel("t-1", command), blocking.cancel("t-1", command)]
    (status,) = blocking.statuses(["t-1"])

    assert [(item.outcome, item.changed) for item in items] == [("revoked", True)] * 2
    assert status is not None
    assert (status.state, status.reason) == (TaskState.REVOKED, "not wanted")
    assert (await broker.control.read(0)).epoch == 1


async def test_wake_replies_events_and_ends_cross_loops(broker: InMemoryBroker, elsewhere: Elsewhere) -> None:
    """A vitals thread, a controller and a dashboard may each live in a loop of their own."""
    await broker.enqueue([task("t-1")])
    (delivery,) = (await broker.exchange("w-1", (), ask())).deliveries
    await broker.events.watch("me", for_ms=60_000)
    handles = [broker.clone() for _ in range(4)]
    cursor = await broker.events.tail()
    await handles[0].control.subscribe()
    waits = (
        elsewhere(lambda: handles[0].control.wake(20.0)),
        elsewhere(lambda: handles[1].control.replies("c-1", timeout_s=20.0)),
        elsewhere(lambda: handles[2].events.read(cursor, timeout_s=20.0)),
        elsewhere(lambda: handles[3].wait("t-1", 20.0)),
    )
    for handle in handles:
        await waiters_of(handle, 1)
    began = time.monotonic()

    await broker.control.issue(Command(id="c-1", type="ping"))
    await broker.control.reply(Reply(command_id="c-1", worker="w-1", name="w", stage="applied"), keep_ms=1_000)
    await broker.events.emit([Event(kind="task.started", at_ms=1, worker="w-1", seq=1)])
    await broker.exchange("w-1", [Settlement(id="t-1", token=delivery.token, outcome=Outcome.SUCCEEDED)], None)
    woken, replies, batch, status = await asyncio.gather(*waits)

    assert woken
    assert [reply.worker for reply in replies] == ["w-1"]
    assert [event.seq for event in batch.events] == [1]
    assert status is not None
    assert status.state is TaskState.SUCCEEDED
    assert time.monotonic() - began < PROMPT_S


async def test_each_task_runs_once_with_workers_in_several_loops(broker: InMemoryBroker, elsewhere: Elsewhere) -> None:
    """Two loops produce and two consume at once; every task is delivered and settled exactly once."""
    total = 2_000
    ran: list[str] = []
    finished = threading.Event()

    async def produce(half: int) -> None:
        handle = broker.clone()
        for first in range(0, total // 2, 50):
            await handle.enqueue([task(f"t-{half}-{n}", priority=n % 10) for n in range(first, first + 50)])

    async def consume(worker: str) -> None:
        handle, ends = broker.clone(), list[Settlement]()
        while not finished.is_set():
            answer = await handle.exchange(worker, ends, ask(7))
            assert set(answer.settled) <= {"applied"}
            ran.extend(delivery.id for delivery in answer.deliveries)
            if len(ran) == total:
                finished.set()
            ends = [Settlement(id=d.id, token=d.token, outcome=Outcome.SUCCEEDED) for d in answer.deliveries]
            if not answer.deliveries:
                await handle.idle(["q"], 0.05)
        await handle.exchange(worker, ends, None)

    await asyncio.gather(
        elsewhere(lambda: consume("w-1")),
        elsewhere(lambda: consume("w-2")),
        elsewhere(lambda: produce(0)),
        elsewhere(lambda: produce(1)),
    )
    (row,) = await broker.census.queues()

    assert len(ran) == len(set(ran)) == total
    assert (row.ready, row.in_flight) == (0, 0)
    assert len(await broker.census.history(10_000)) == total


async def test_closing_a_handle_releases_who_waits_through_it(broker: InMemoryBroker) -> None:
    """And only those: another handle of the same broker goes on; closing twice is harmless."""
    await broker.enqueue([task("t-1")])
    other = broker.clone()
    await other.control.subscribe()
    waits = (
        asyncio.create_task(other.wait("t-1", 20.0)),
        asyncio.create_task(other.control.wake(20.0)),
        asyncio.create_task(other.idle(["r"], 20.0)),
    )
    await waiters_of(other, 3)
    began = time.monotonic()

    await other.close()
    await other.close()
    status, woken, idle = await asyncio.gather(*waits, return_exceptions=True)

    assert isinstance(status, TaskStatus)
    assert status.state is TaskState.QUEUED
    assert isinstance(woken, BrokerUnreachableError)
    assert idle is None
    assert time.monotonic() - began < PROMPT_S
    assert len((await broker.exchange("w-1", (), ask())).deliveries) == 1


async def test_a_wake_up_needs_a_subscription(broker: InMemoryBroker) -> None:
    """Waiting without one would wait for ever, so it says so."""
    with pytest.raises(BrokerUnreachableError, match="subscribe"):
        await broker.control.wake(0.1)


async def test_a_wake_up_that_nobody_waited_for_is_kept(broker: InMemoryBroker) -> None:
    """Between two waits a worker is busy; it hears of the command when it listens again, once."""
    await broker.control.subscribe()
    await broker.control.issue(Command(id="c-1", type="ping"))
    await broker.control.issue(Command(id="c-2", type="ping"))

    assert [await broker.control.wake(0.01), await broker.control.wake(0.01)] == [WakeUp(), None]


# -------------------------------------------------------------------------------------------------- bytes, not objects


async def test_what_is_stored_does_not_change_with_the_senders_objects(broker: InMemoryBroker) -> None:
    """Messages are encoded when they come in, as on a server."""
    args: dict[str, Any] = {"nonce": "a"}
    counters = {"started": 1}
    await broker.control.issue(Command(id="c-1", type="ping", args=args))
    await broker.presence.beat(Beat(heartbeat=heartbeat("w-1", counters=counters)))

    args["nonce"], counters["started"] = "b", 2
    (logged,) = (await broker.control.read(0)).log
    (seen,) = await broker.presence.workers()

    assert Command.decode(logged.command).args == {"nonce": "a"}
    assert seen.heartbeat.counters == {"started": 1}


async def test_a_command_that_cannot_travel_changes_nothing(broker: InMemoryBroker) -> None:
    """It is encoded before anything is applied."""
    await broker.enqueue([task("t-1")])
    command = Command(id="c-1", type="revoke", args={"what": object()})

    with pytest.raises(InvalidInputError):
        await broker.control.issue(command, RevokeTasks(ids=["t-1"]))

    (status,) = await broker.statuses(["t-1"])
    assert status is not None
    assert status.state is TaskState.QUEUED
    assert (await broker.control.read(0)).epoch == 0


@pytest.mark.parametrize("fields", [{"queue": "a b"}, {"task": ""}, {"task_id": "x" * 65}, {"priority": 10}])
async def test_an_ill_formed_task_is_refused_with_its_whole_batch(
    broker: InMemoryBroker, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        await broker.enqueue([task("t-1"), task(**{"task_id": "t-2", **fields})])

    assert await broker.census.queues() == []


def test_an_ill_formed_namespace_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        InMemoryBroker("a b")
