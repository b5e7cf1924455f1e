"""What is particular to the in-memory adapter: its clock, its threads and loops, its bounds. The contract suite does
the rest."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from stem.adapters.memory import InMemoryBroker, InMemoryResultBackend
from stem.adapters.memory.line import Line
from stem.adapters.memory.ordered import Key, OrderedIds
from stem.adapters.memory.record import TIMELINE_LIMIT
from stem.adapters.memory.stats import NAMES_KEPT, ROWS_KEPT, Stats
from stem.adapters.memory.waiting import Bells, LoopWaiter, ThreadWaiter
from stem.contracts import (
    Beat,
    BlockingBroker,
    Broker,
    ClearPause,
    FetchRequest,
    Limits,
    NewTask,
    Outcome,
    ResultBackend,
    RevokeTasks,
    SetPause,
    Settlement,
)
from stem.errors import BrokerUnreachableError, InvalidInputError, InvalidNameError
from stem.messages.command import Command, Reply
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import TaskState, TaskStatus
from stem.testing import FakeClock
from tests.waiting import wait_until

T = TypeVar("T")

PROMPT_S = 1.0
"""Far below every timeout used here: who returns within it was woken, and did not time out."""


def task(task_id: str, **fields: Any) -> NewTask:
    return NewTask(**{"id": task_id, "task": "job", "queue": "q", "body": b"\x80", **fields})


def ask(count: int = 100, *queues: str, **fields: Any) -> FetchRequest:
    return FetchRequest(queues=queues or ("q",), count=count, **fields)


def heartbeat(worker: str, **fields: Any) -> Heartbeat:
    return Heartbeat(
        **{
            "id": worker,
            "name": worker,
            "started_at_ms": 0,
            "host": "h",
            "pid": 1,
            "version": "0",
            "queues": ("q",),
            **fields,
        }
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def broker(clock: FakeClock) -> InMemoryBroker:
    return InMemoryBroker(clock=clock)


class Elsewhere:
    """Runs coroutines to their end in threads with an event loop of their own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=4)

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: asyncio.run(work()))

    def close(self) -> None:
        self._pool.shutdown()


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
        await other.idle(["q"], 2.0)
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
    idle = [asyncio.create_task(broker.idle(["q", "r"], 2.0)) for _ in range(3)]
    await waiters_of(broker, 3)

    await broker.enqueue([task("t-1")])
    after_one = len((await asyncio.wait(idle, timeout=0.1))[0])
    await broker.enqueue([task("t-2", queue="r")])
    after_two = len((await asyncio.wait(idle, timeout=0.1))[0])
    for one in idle:
        one.cancel()
    await asyncio.gather(*idle, return_exceptions=True)

    assert (after_one, after_two) == (1, 2)


async def test_a_worker_that_leaves_work_behind_wakes_the_next(broker: InMemoryBroker) -> None:
    """A batch rings once; whoever took what fits rings again."""
    other = broker.clone()
    idle = asyncio.create_task(other.idle(["q"], 2.0))
    await broker.enqueue([task("t-1"), task("t-2")])
    await idle
    second = asyncio.create_task(broker.idle(["q"], 2.0))
    await waiters_of(broker, 1)

    answer = await other.exchange("w-1", (), ask(1))
    await asyncio.wait_for(second, PROMPT_S)

    assert answer.more


async def test_a_cancelled_idle_passes_its_wake_up_on(broker: InMemoryBroker) -> None:
    """A wake-up that met a cancelled waiter is not lost: the next one has it."""
    idle = asyncio.create_task(broker.idle(["q"], 2.0))
    await waiters_of(broker, 1)
    # The enqueue wakes it; it is cancelled before its loop has run it.
    broker.blocking().enqueue([task("t-1")])
    idle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await idle
    began = time.monotonic()

    await broker.idle(["q"], 2.0)

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
    waiting = asyncio.create_task(asyncio.to_thread(blocking.wait, "t-1", 8.0))
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
        elsewhere(lambda: handles[0].control.wake(8.0)),
        elsewhere(lambda: handles[1].control.replies("c-1", timeout_s=8.0)),
        elsewhere(lambda: handles[2].events.read(cursor, timeout_s=8.0)),
        elsewhere(lambda: handles[3].wait("t-1", 8.0)),
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
        asyncio.create_task(other.wait("t-1", 8.0)),
        asyncio.create_task(other.control.wake(8.0)),
        asyncio.create_task(other.idle(["r"], 2.0)),
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

    assert [await broker.control.wake(0.01), await broker.control.wake(0.01)] == [True, False]


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


# -------------------------------------------------------------------------------------------------------------- bounds


async def test_the_timeline_of_a_task_that_never_ends_stays_bounded(broker: InMemoryBroker) -> None:
    """The first step is kept, the middle is dropped."""
    await broker.enqueue([task("t-1")])
    for _ in range(TIMELINE_LIMIT):
        (delivery,) = (await broker.exchange("w-1", (), ask())).deliveries
        await broker.exchange("w-1", [Settlement(id="t-1", token=delivery.token, outcome=Outcome.RETRY)], None)

    (status,) = await broker.statuses(["t-1"])

    assert status is not None
    assert len(status.timeline) == TIMELINE_LIMIT
    assert (status.timeline[0].event, status.timeline[-1].event) == ("enqueued", "retried")


async def test_history_keeps_the_last_ten_thousand(broker: InMemoryBroker) -> None:
    for first in range(0, ROWS_KEPT + 100, 100):
        await broker.enqueue([task(f"t-{n}") for n in range(first, first + 100)])
        taken = (await broker.exchange("w-1", (), ask())).deliveries
        ends = [Settlement(id=d.id, token=d.token, outcome=Outcome.SUCCEEDED, ttl_ms=1) for d in taken]
        await broker.exchange("w-1", ends, None)

    rows = await broker.census.history(20_000)

    assert len(rows) == ROWS_KEPT
    assert (rows[0].id, rows[-1].id) == (f"t-{ROWS_KEPT + 99}", "t-100")


async def test_a_page_of_final_tasks_follows_its_cursor_while_others_end(
    broker: InMemoryBroker, clock: FakeClock
) -> None:
    """What ends meanwhile comes before the first page; none is shown twice, none is passed over."""

    async def end(*ids: str) -> None:
        await broker.enqueue([task(task_id) for task_id in ids])
        taken = (await broker.exchange("w-1", (), ask())).deliveries
        ends = [Settlement(id=d.id, token=d.token, outcome=Outcome.SUCCEEDED, ttl_ms=10) for d in taken]
        await broker.exchange("w-1", ends, None)

    await end("a", "b", "c", "d")
    first = await broker.census.tasks("succeeded", limit=2)
    await end("e")
    clock.advance(1)  # the records are gone, the history stays
    second = await broker.census.tasks("succeeded", limit=2, cursor=first.next)

    assert [item.id for item in (*first.items, *second.items)] == ["d", "c", "b", "a"]
    assert (first.next is None, second.next) == (False, None)


@pytest.mark.parametrize("cursor", ["", "x", "1.x", "1", "1.2.3", "--1.2", "9" * 5_000])
async def test_a_cursor_from_elsewhere_is_refused(broker: InMemoryBroker, cursor: str) -> None:
    """Of listings, events and reconciling alike."""
    with pytest.raises(InvalidInputError, match="cursor"):
        await broker.census.tasks("queued", cursor=cursor)
    with pytest.raises(InvalidInputError, match="cursor"):
        await broker.census.tasks("failed", cursor=cursor)
    if cursor != "1":
        with pytest.raises(InvalidInputError, match="cursor"):
            await broker.events.read(cursor, timeout_s=0)
        with pytest.raises(InvalidInputError, match="cursor"):
            await broker.reconcile(cursor)


async def test_a_page_over_several_queues_follows_its_cursor(broker: InMemoryBroker) -> None:
    """All queues are listed as one order, without doubles at the borders of pages."""
    ids = {f"t-{n}" for n in range(25)}
    await broker.enqueue([task(task_id, queue=f"q{index % 3}") for index, task_id in enumerate(sorted(ids))])
    listed: list[str] = []
    cursor: str | None = None
    while True:
        page = await broker.census.tasks("queued", limit=4, cursor=cursor)
        listed += [item.id for item in page.items]
        cursor = page.next
        if cursor is None:
            break

    assert (len(listed), set(listed), page.total) == (25, ids, 25)


async def test_commands_are_forgotten_after_a_day(broker: InMemoryBroker, clock: FakeClock) -> None:
    """Also when no other command comes; what they changed stays."""
    await broker.control.issue(Command(id="c-1", type="pause"), SetPause(kind="queue", targets=["q"]))
    clock.advance(86_401)

    desired = await broker.control.read(0)

    assert (list(desired.log), desired.epoch, desired.fence) == ([], 1, 1)
    assert [pause.target for pause in desired.pauses] == ["q"]


def test_statistics_count_the_names_beyond_the_limit_together() -> None:
    """Somebody who makes names up costs no memory."""
    stats = Stats()
    for number in range(NAMES_KEPT + 50):
        stats.count(0, "q", f"task-{number}", "enqueued")

    rows = stats.rows(0, 60)

    assert len(rows) == NAMES_KEPT + 1
    assert [row.counts["enqueued"] for row in rows if row.task == "~other"] == [50]


def test_statistics_older_than_three_hours_are_dropped() -> None:
    stats = Stats()
    for minute in range(200):
        stats.count(minute * 60_000, "q", "job", "enqueued")

    assert [row.at_ms // 60_000 for row in stats.rows(199 * 60_000, 500)] == list(range(20, 200))


async def test_dead_letters_beyond_the_count_are_forgotten_with_their_records(clock: FakeClock) -> None:
    """Oldest first; those too old go with the next sweep or look."""
    broker = InMemoryBroker(clock=clock, limits=Limits(dead_count=2, dead_ttl_ms=60_000))
    for number in range(3):
        await broker.enqueue([task(f"t-{number}")])
        (delivery,) = (await broker.exchange("w-1", (), ask())).deliveries
        await broker.exchange("w-1", [Settlement(id=delivery.id, token=1, outcome=Outcome.DEAD)], None)
        clock.advance(1)

    kept = await broker.census.tasks("dead")
    clock.advance(60)
    later = await broker.census.tasks("dead")

    assert [item.id for item in kept.items] == ["t-2", "t-1"]
    assert await broker.statuses(["t-0"]) == [None]
    assert later.items == ()


# --------------------------------------------------------------------------------------------------------------- pauses


async def test_held_tasks_keep_their_order_and_are_released_when_the_pause_ends(
    broker: InMemoryBroker, clock: FakeClock
) -> None:
    """By its time as by a resume; other task names pass meanwhile."""
    await broker.control.issue(Command(id="c-1", type="pause"), SetPause(kind="task", targets=["job"], for_ms=1_000))
    await broker.enqueue([task("t-1"), task("t-2", priority=5), task("t-3"), task("o-1", task="other")])
    paused = await broker.exchange("w-1", (), ask(epoch=1))
    (row,) = await broker.census.queues()

    clock.advance(1)
    after = await broker.exchange("w-1", (), ask(epoch=1))

    assert [delivery.id for delivery in paused.deliveries] == ["o-1"]
    assert (row.ready, row.held, paused.next_due_ms) == (0, 3, 1_000)
    assert [delivery.id for delivery in after.deliveries] == ["t-2", "t-1", "t-3"]


async def test_a_worker_paused_by_its_name_gets_nothing(broker: InMemoryBroker) -> None:
    """The name is known from its heartbeat."""
    await broker.enqueue([task("t-1")])
    await broker.presence.beat(Beat(heartbeat=heartbeat("host-1-abc", name="mailer")))
    await broker.control.issue(Command(id="c-1", type="pause"), SetPause(kind="worker", targets=["mailer"]))
    paused = await broker.exchange("host-1-abc", (), ask(epoch=1))
    other = await broker.census.queues()
    await broker.control.issue(Command(id="c-2", type="resume"), ClearPause(kind="worker", targets=["mailer"]))
    resumed = await broker.exchange("host-1-abc", (), ask(epoch=2))

    assert (paused.stale, list(paused.deliveries), other[0].ready) == (False, [], 1)
    assert len(resumed.deliveries) == 1


# ------------------------------------------------------------------------------------------------------------- mending


async def test_reconcile_mends_tasks_that_stand_nowhere(broker: InMemoryBroker) -> None:
    """Page by page over all records; those that stand where they say, and final ones, are left alone."""
    await broker.enqueue([task("ready"), task("later", delay_ms=60_000), task("fine"), task("other", queue="r")])
    await broker.exchange("w-1", (), ask(1, "r"))
    for task_id, queue in (("ready", "q"), ("later", "q"), ("other", "r")):
        record = broker._core.records[task_id]
        broker._core.lines[queue].take(record)
    cursor, repaired, rounds = "0", 0, 0
    while rounds == 0 or cursor != "0":
        cursor, mended = await broker.reconcile(cursor, limit=2)
        repaired, rounds = repaired + mended, rounds + 1
    again = await broker.reconcile()

    assert (repaired, rounds, again) == (3, 2, ("0", 0))
    assert [d.id for d in (await broker.exchange("w-2", (), ask(9, "q", "r"))).deliveries] == ["fine", "ready", "other"]
    (row, _other) = await broker.census.queues()
    assert row.delayed == 1


async def test_a_record_whose_bytes_cannot_be_read_is_shown_without_them(broker: InMemoryBroker) -> None:
    """And it stops nothing: others are listed, it can be handed out and settled."""
    await broker.enqueue([task("bad"), task("good")])
    broken = broker._core.records["bad"]
    broken.body = broken.result = broken.error = broken.progress = b"\xc1"

    page = await broker.census.tasks("queued")
    taken = (await broker.exchange("w-1", (), ask())).deliveries

    assert [(item.id, item.result, item.error, item.progress, dict(item.meta)) for item in page.items] == [
        ("bad", None, None, None, {}),
        ("good", None, None, None, {}),
    ]
    assert [delivery.body for delivery in taken] == [b"\xc1", b"\x80"]


# ------------------------------------------------------------------------------------------------------------- ordering


def test_ordered_ids_agree_with_a_sorted_list() -> None:
    """Thousands of random insertions, moves and removals, over the borders of chunks."""
    chance = random.Random(7)
    ordered, model = OrderedIds(), dict[str, Key]()
    for turn in range(30_000):
        name = f"id-{chance.randrange(6_000)}"
        if chance.random() < 0.6:
            model[name] = (chance.randrange(50), turn)
            ordered.add(name, model[name])
        else:
            assert ordered.remove(name) == (model.pop(name, None) is not None)
    expected = sorted((key, name) for name, key in model.items())
    middle = expected[len(expected) // 2][0]

    assert list(ordered.after()) == expected
    assert list(ordered.after(middle)) == [item for item in expected if item[0] > middle]
    assert list(ordered.after((25, 1 << 62))) == [item for item in expected if item[0][0] > 25]
    assert (ordered.first(), ordered.last()) == (expected[0][1], expected[-1][1])
    assert (len(ordered), ordered.first_score()) == (len(model), expected[0][0][0])


def test_an_empty_queue_has_no_order() -> None:
    ordered, line = OrderedIds(), Line("q", iter(range(10)))

    assert (ordered.first(), ordered.last(), ordered.first_score(), list(ordered.after())) == (None, None, None, [])
    assert (line.waiting, line.next_due_ms(), list(line.heads())) == (0, None, [])
