"""What the in-memory adapter keeps and for how long: bounds, held tasks, mending, order."""

from __future__ import annotations

import random
from typing import TypeVar

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.adapters.memory.line import Line
from stem.adapters.memory.ordered import Key, OrderedIds
from stem.adapters.memory.record import TIMELINE_LIMIT
from stem.adapters.memory.stats import NAMES_KEPT, ROWS_KEPT, Stats
from stem.contracts import (
    Beat,
    ClearPause,
    Limits,
    Outcome,
    SetPause,
    Settlement,
)
from stem.errors import InvalidInputError
from stem.messages.command import Command
from stem.testing import FakeClock
from tests.adapters.hands import ask, heartbeat, task

T = TypeVar("T")


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
