"""What an event leads to: its own worker, its queue, its task; and a word where there is nothing."""

from __future__ import annotations

import pytest

from stem.observe.rows import EventLine
from stem.observe.state import ClusterState
from stem_tui import about
from stem_tui.app import StemTUI
from stem_tui.screens.details import TaskScreen, WorkerScreen
from stem_tui.screens.lists import TasksScreen
from stem_tui.screens.queues import QueueScreen
from stem_tui.widgets.dialogs import Menu
from tests.observe.builders import NOW, event, queue, seen, snapshot, state
from tests.tui.still import make_app, make_session, settled, text_of
from tests.waiting import eventually

AT_ONCE = (100, 30)


def two_of_one_name() -> ClusterState:
    """Return a picture with a dead worker, and the living one that took its name."""
    made = state()
    dead = seen("api-1-aa", age_ms=300_000, started_at_ms=NOW - 900_000)
    made.apply(snapshot(workers=[dead, seen("api-2-bb", started_at_ms=NOW - 60_000)], queues=[queue("mail")]), 1.0)
    made.events.clear()
    made.news.clear()
    return made


def app_with(*lines: EventLine) -> StemTUI:
    made = two_of_one_name()
    for line in lines:
        made.tell(line)
    return make_app(make_session(made))


@pytest.mark.parametrize("worker", ["api-1-aa", "api-2-bb"])
async def test_enter_opens_the_worker_that_told_of_itself(worker: str) -> None:
    made = two_of_one_name()
    made.apply_events([event("worker.ready", "", worker=worker, task="", queue="")])
    app = make_app(make_session(made))
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "enter")
        await eventually(lambda: isinstance(app.screen, WorkerScreen))

        assert isinstance(app.screen, WorkerScreen)
        assert app.screen.key == worker


async def test_of_a_name_alone_the_one_that_lives_is_meant() -> None:
    app = app_with(EventLine("1", NOW, "worker.paused", worker="api"))
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "enter")
        await eventually(lambda: isinstance(app.screen, WorkerScreen))

        assert isinstance(app.screen, WorkerScreen)
        assert app.screen.key == "api-2-bb"


def test_what_snapshots_and_history_tell_of_knows_its_worker_too() -> None:
    made = state()
    made.apply(snapshot(workers=[seen("api-1-aa")]), 1.0)
    made.apply(snapshot(workers=[seen("api-1-aa", age_ms=300_000), seen("api-2-bb", started_at_ms=NOW - 60_000)]), 2.0)

    assert {(row.kind, row.owner) for row in made.events} == {
        ("worker.ready", "api-1-aa"), ("worker.lost", "api-1-aa"), ("worker.ready", "api-2-bb"),
    }  # fmt: skip


def test_a_worker_that_is_forgotten_is_not_another_one_of_its_name() -> None:
    found = about.subject(EventLine("1", NOW, "worker.lost", worker="api", owner="api-0-zz"), two_of_one_name())

    assert found == "worker api is not known (any more)"


async def test_enter_opens_the_queue_that_was_paused() -> None:
    app = app_with(EventLine("1", NOW, "queue.paused", queue="mail"))
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "enter")
        await eventually(lambda: isinstance(app.screen, QueueScreen))

        assert isinstance(app.screen, QueueScreen)
        assert app.screen.key == "mail"


async def test_enter_on_a_paused_name_shows_the_tasks_of_that_name() -> None:
    app = app_with(EventLine("1", NOW, "task.paused", task="mail.send"))
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "enter")
        await eventually(lambda: isinstance(app.screen, TasksScreen))
        await eventually(lambda: "/name:=mail.send" in text_of(app))


@pytest.mark.parametrize("key", ["enter", "x"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (EventLine("1", NOW, "queue.paused", queue="gone"), "queue gone is not known (any more)"),
        (EventLine("1", NOW, "worker.paused", worker="w-*"), "worker w-* is not known (any more)"),
        (EventLine("1", NOW, "events.missed"), "events.missed is about no single task"),
    ],
)
async def test_where_there_is_nothing_it_says_so(line: EventLine, said: str, key: str) -> None:
    app = app_with(line)
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", key)
        await eventually(lambda: said in text_of(app))

        assert not isinstance(app.screen, Menu)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (EventLine("1", NOW, "task.failed", task="mail.send", task_id="t-1", worker="api", owner="api-1-aa"), "Revoke"),
        (EventLine("1", NOW, "worker.lost", worker="api", owner="api-1-aa"), "Drain"),
        (EventLine("1", NOW, "queue.paused", queue="mail"), "Purge"),
    ],
)
async def test_the_menu_is_that_of_what_it_is_about(line: EventLine, shown: str) -> None:
    app = app_with(line)
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "x")
        await eventually(lambda: isinstance(app.screen, Menu) and shown in text_of(app))


async def test_several_events_have_no_menu() -> None:
    lines = [EventLine(str(number), NOW, "queue.paused", queue="mail") for number in range(2)]
    app = app_with(*lines)
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "asterisk", "x")
        await eventually(lambda: "nothing can be done with this: they are several" in text_of(app))


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        (EventLine("1", NOW, "task.failed", task_id="t-1", queue="mail", worker="api", owner="api-1-aa"),
         "tasks show t-1"),
        (EventLine("1", NOW, "worker.lost", worker="api", owner="api-1-aa"), "workers show api-1-aa"),
        (EventLine("1", NOW, "worker.paused", worker="api"), "workers show api"),
        (EventLine("1", NOW, "queue.paused", queue="mail"), "queues show mail"),
    ],
)  # fmt: skip
async def test_the_copied_command_shows_what_it_is_about(line: EventLine, copied: str) -> None:
    app = app_with(line)
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "Y")
        await eventually(lambda: app.clipboard.endswith(f" {copied}"))


@pytest.mark.parametrize(
    "line", [EventLine("1", NOW, "task.paused", task="mail.send"), EventLine("1", NOW, "events.missed")]
)
async def test_where_no_command_shows_it_none_is_copied(line: EventLine) -> None:
    app = app_with(line)
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "Y")
        await eventually(lambda: "no stemctl command shows this" in text_of(app))

        assert app.clipboard == ""


async def test_enter_on_the_event_of_a_task_opens_the_task() -> None:
    app = app_with(EventLine("1", NOW, "task.failed", task_id="t-1", worker="api", owner="api-1-aa"))
    async with app.run_test(size=AT_ONCE) as pilot:
        await pilot.press("5", "enter")
        await eventually(lambda: isinstance(app.screen, TaskScreen))


async def test_its_events_are_not_those_of_another_worker_of_its_name() -> None:
    """What is said by the name alone stands with both: nobody knows whose it was."""
    made = two_of_one_name()
    for at, worker in enumerate(("api-1-aa", "api-2-bb")):
        task = f"task.of.{worker}"
        made.apply_events([event("task.succeeded", f"t{at}", worker=worker, task=task, at_ms=NOW + at)])
    made.tell(EventLine("9", NOW, "worker.paused", worker="api", owner="api", text="by ana"))
    made.tell(EventLine("8", NOW, "worker.lost", worker="api", owner="api-0-zz", text="of one that nobody lists now"))
    app = make_app(make_session(made))
    async with app.run_test(size=AT_ONCE) as pilot:
        for worker, other in (("api-1-aa", "api-2-bb"), ("api-2-bb", "api-1-aa")):
            await app.open_row(made.workers[worker])
            await settled(pilot)

            assert f"task.of.{worker}" in text_of(app)
            assert f"task.of.{other}" not in text_of(app)
            assert "by ana" in text_of(app)
            assert "nobody lists" not in text_of(app)
            await pilot.press("escape")
