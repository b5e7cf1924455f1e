"""How much is done per look at the picture, counted, not timed: what changed, not what is held."""

from __future__ import annotations

import gc
import random
import tracemalloc
import weakref
from typing import Any, Final

import pytest

from stem.adapters.connect import connect_broker
from stem.adapters.memory import InMemoryBroker
from stem.contracts import Beat, NewTask
from stem.messages.envelope import Envelope
from stem.messages.heartbeat import Heartbeat
from stem.observe import state as state_module
from stem.observe.rows import TaskLine
from stem.observe.state import ClusterState
from stem.testing import FakeClock
from stem_tui import figures
from stem_tui.app import QUICK, QUICK_DRAWS, SLOW, SLOW_DRAWS, TICK_S
from stem_tui.garbage import CLOSED, Garbage
from stem_tui.recent import Recent
from stem_tui.screens.details import TaskScreen
from stem_tui.widgets.grid import Grid
from tests.observe.builders import NOW, beat, event, fleet, seen, snapshot
from tests.observe.builders import state as empty_state
from tests.tui.still import make_app, make_session, settled, text_of
from tests.waiting import eventually

WORKERS: Final = 300
SIZE: Final = (160, 45)


def crowd() -> ClusterState:
    """Return a fleet of hundreds, as it was a moment ago."""
    made = fleet()
    made.apply(snapshot(workers=[seen(f"w{number:03d}-1-x", in_flight=1) for number in range(WORKERS)]), 1_001.0)
    return made


def work(grid: Grid) -> tuple[int, int]:
    """Return how many lines were made and painted since the last time."""
    done = grid.lines_made, grid.lines_painted
    grid.lines_made = grid.lines_painted = 0
    return done


async def test_a_look_without_changes_makes_and_paints_nothing() -> None:
    app = make_app(make_session(crowd()))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        app.draw_now()
        grids = list(app.screen.query(Grid))
        for grid in grids:
            work(grid)

        for _ in range(10):
            app.draw_now()

        assert [work(grid) for grid in grids] == [(0, 0)] * len(grids)


async def test_one_changed_row_paints_one_line_whatever_the_number_of_rows() -> None:
    session = make_session(crowd())
    app = make_app(session)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        app.draw_now()
        grid = app.screen.query_one("#workers", Grid)
        work(grid)

        grid.rows[3].in_flight = 2
        app.draw_now()

        assert len(grid.rows) >= WORKERS
        assert work(grid) == (1, 1)


async def test_a_cursor_key_paints_two_lines_and_fills_no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(make_session(crowd()))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        grid = app.screen.query_one("#workers", Grid)
        grid.focus()
        await settled(pilot)
        filled: list[int] = []
        monkeypatch.setattr(app.screen, "fill", filled.append)
        work(grid)

        await pilot.press("j")
        await pilot.pause()

        assert work(grid) == (2, 2)
        assert filled == []


async def test_a_tick_that_comes_a_moment_early_or_late_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(crowd())
    app = make_app(session)
    clock = session.clock
    assert isinstance(clock, FakeClock)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        app.draw_now()
        screen, drawn = app.live_screen, []
        assert screen is not None
        began_s = clock.monotonic() + 1.0
        monkeypatch.setattr(screen, "draw", lambda: drawn.append(round((clock.monotonic() - began_s) / TICK_S)))

        for tick in range(40):
            off_s = (0.009, -0.004, 0.0, -0.008)[tick % 4] if tick else 0.0
            clock.advance(began_s + tick * TICK_S + off_s - clock.monotonic())
            session.state.version += 1
            app._tick()

        # After a long time without any, two may come close together.
        assert drawn[0] == 0
        assert drawn[2:] == list(range(2, 40, 2))


async def test_slow_drawing_halves_the_pace_and_quick_drawing_brings_it_back() -> None:
    session = make_session(crowd())
    app = make_app(session)
    async with app.run_test(size=SIZE):
        for _ in range(2 * SLOW_DRAWS):
            app._keep_pace(SLOW * 1.1)
        assert session.hz == 2.5

        for _ in range(QUICK_DRAWS - 1):
            app._keep_pace(QUICK / 2)
        assert session.hz == 2.5
        for _ in range(3 * QUICK_DRAWS):
            app._keep_pace(QUICK / 2)
        assert session.hz == 10.0

        await app.run_action("pace(-1)")
        for _ in range(3 * QUICK_DRAWS):
            app._keep_pace(QUICK / 2)
        assert session.hz == 4.0


async def test_more_to_draw_at_a_slower_pace_does_not_keep_the_pace_slow() -> None:
    """A drawing takes 10 ms and a tenth of the time since the last one: 50 ms at the slow pace, 20 ms at its own."""
    session = make_session(crowd())
    app = make_app(session)
    async with app.run_test(size=SIZE):
        for _ in range(2 * SLOW_DRAWS):
            app._keep_pace(SLOW * 1.1)
        assert session.hz == 2.5

        for _ in range(3 * QUICK_DRAWS):
            app._keep_pace((0.010 + 0.1 / session.hz) * session.hz)
        assert session.hz == 10.0


def test_what_is_held_is_out_of_the_collectors_sight_and_closed_screens_are_found_all_the_same() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    garbage, cycle = Garbage(), Cycle()
    gone = weakref.ref(cycle)
    try:
        garbage.settle()
        assert gc.get_freeze_count() > 10_000
        del cycle

        garbage.settle()
        assert gone() is not None, "it was frozen while somebody had it"

        garbage.closed = CLOSED
        garbage.settle()
        assert gone() is None
        assert garbage.closed == 0
    finally:
        gc.unfreeze()


def test_the_list_of_all_tasks_is_in_order_after_any_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "FINISHED_KEPT", 300)
    chance, made = random.Random(7), empty_state()
    recent = Recent(made)
    for turn in range(60):
        kinds = ("task.received", "task.started", "task.succeeded", "task.failed", "task.retried")
        made.apply_events(
            event(chance.choice(kinds), f"t{chance.randrange(900)}", at_ms=NOW + turn * 100 + chance.randrange(5_000))
            for _ in range(chance.choice((0, 1, 30, 400)))
        )
        rows = recent.rows()

        assert sorted(made.tasks.values(), key=lambda row: (-row.when_ms, row.key)) == rows
    assert recent.rows() is recent.rows()


def test_finished_tasks_are_bounded_and_the_first_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "FINISHED_KEPT", 100)
    made = empty_state()
    made.apply_events(event("task.succeeded", f"t{number}", at_ms=NOW + number) for number in range(1_000))

    assert list(made.finished) == [f"t{number}" for number in range(900, 1_000)]
    assert made.tasks.keys() == made.finished.keys()


def test_the_numbers_of_workers_that_nobody_knows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_NUMBERED", 100)
    made = empty_state()
    made.apply_events(event("task.started", f"t{number}", worker=f"w{number}") for number in range(1_000))

    assert len(made._numbers) <= 101


def test_a_task_takes_about_a_kilobyte_however_many_there_are() -> None:
    def held(first: int, count: int) -> int:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(first, first + count):
            made.apply_events([event("task.succeeded", f"{number:036d}", at_ms=NOW + number)])
        return tracemalloc.get_traced_memory()[0] - before

    made = empty_state()
    held(0, 4_000)  # what is kept of events is full
    tracemalloc.start()
    try:
        few, many = held(10_000, 5_000), held(20_000, 10_000)
    finally:
        tracemalloc.stop()

    assert few / 5_000 < 1_200
    assert many / few < 2.6


def test_loud_events_stay_while_quiet_ones_rush_by() -> None:
    made = empty_state()
    made.apply_events([event("task.failed", "bad", detail={"error": "E"})])
    made.apply_events(event("task.started", f"t{number}") for number in range(5_000))

    assert [line.task_id for line in made.news] == ["bad"]
    assert len(made.events) == state_module.EVENTS_KEPT


def test_missed_events_are_counted_by_the_numbers_of_each_worker() -> None:
    made = empty_state()
    for worker in ("a", "b"):
        made.apply_events(event("task.started", f"{worker}{n}", worker=worker, seq=n) for n in (1, 2, 3))
    assert made.missed == 0

    made.apply_events([event("task.started", "x", worker="a", seq=14), event("task.started", "y", worker="b", seq=4)])
    made.apply_events([event("events.sampled", "", worker="b", seq=5, detail={"skipped": 7})])

    assert made.missed == 10 + 7
    assert made.incomplete(NOW)
    made.apply_events([event("task.started", "z", worker="a", seq=20, at_ms=NOW + 600_000)])
    assert made.missed == 5  # of the last five minutes


async def test_a_heartbeat_that_was_there_the_last_time_is_not_read_again(
    valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    decode = Heartbeat.decode

    def counted(data: bytes) -> Heartbeat:
        read.append(data)
        return decode(data)

    monkeypatch.setattr(Heartbeat, "decode", counted)
    broker = connect_broker(valkey_url, namespace=namespace)
    try:
        for number in range(120):
            await broker.presence.beat(Beat(heartbeat=beat(f"w{number:03d}-1-x")))
        before = await broker.presence.workers()
        assert len(read) == len(before) == 120

        await broker.presence.beat(Beat(heartbeat=beat("w007-1-x", in_flight=3)))
        after = await broker.presence.workers()

        assert len(read) == 121
        assert [one.heartbeat.name for one in after] == [one.heartbeat.name for one in before]
        assert after[7].heartbeat.in_flight == 3
    finally:
        await broker.close()


async def test_the_payloads_of_a_task_are_laid_out_once_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, laid_out, lay_out = InMemoryBroker(), list[Any](), figures.value_lines

    def counted(value: Any) -> list[str]:
        laid_out.append(value)
        return lay_out(value)

    monkeypatch.setattr(figures, "value_lines", counted)
    body = Envelope(id="t-1", task="mail.send", args={"to": "ana"}).encode()
    await broker.enqueue([NewTask(id="t-1", task="mail.send", queue="default", body=body)])
    app = make_app(make_session(fleet(), broker), broker)
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        screen = TaskScreen(app.session, TaskLine("t-1", "t-1"))
        app.push_screen(screen)
        await eventually(lambda: "ARGUMENTS" in text_of(app))
        answer, made = screen.answer, len(laid_out)

        for _ in range(10):
            app.draw_now()

        assert screen.answer is answer
        assert made > 0
        assert len(laid_out) == made
