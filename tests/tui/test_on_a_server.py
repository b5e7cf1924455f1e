"""Every deed of the dashboard by its key, on a real server with workers that run: its effect is seen on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.screen import ModalScreen

from stem import Stem
from stem.adapters.connect import connect_broker
from stem.contracts import QueueRow, Seen
from stem.control.diagnose import diagnose
from stem.observe.feed import Feed
from stem.observe.state import ClusterState
from stem.worker.runtime import Worker
from stem_tui.actions import ACTIONS
from stem_tui.app import StemTUI
from stem_tui.session import Session
from stem_tui.widgets.dialogs import Confirm
from stem_tui.widgets.grid import Grid
from tests.tui.still import text_of
from tests.waiting import eventually

WORKERS = ("w-a", "w-b", "w-c")
DEEDS = {action.id for action in ACTIONS if action.changes}


class Stage:
    """Three workers of one namespace, the dashboard over it, and somebody at its keys."""

    def __init__(self, url: str, namespace: str) -> None:
        self.broker = connect_broker(url, namespace=namespace)
        self.stem = Stem(self.broker)
        self.workers: dict[str, Worker] = {}
        self.cured = False
        self.ran: list[str] = []
        state = ClusterState(diagnose)
        feed = Feed(self.broker, state, watcher="test", interval_s=0.1)
        session = Session(state=state, feed=feed, url=self.broker.url, namespace=namespace, hz=20)
        self.app = StemTUI(session, self.broker, actor="tester")
        self.pilot: Pilot[int]

        @self.stem.task("t.wait", queue="work")
        async def wait() -> None:
            await asyncio.sleep(3600)

        @self.stem.task("t.quick", queue="work")
        async def quick(name: str) -> None:
            self.ran.append(name)

        @self.stem.task("t.fail", queue="work", max_retries=0)
        async def fail() -> None:
            if not self.cured:
                raise KeyError("customer_id")

    async def start(self, name: str) -> None:
        worker = Worker(broker=self.broker, registry=self.stem.registry, name=name, concurrency=2, queues=["work"])
        self.workers[name] = worker
        await worker.start()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def to(self, screen: str, name: str) -> None:
        """Put the cursor on the row of this name."""
        await self.leave()
        await self.press(screen)

        async def there() -> bool:
            grid = self.app.screen.query_one(Grid)
            if grid.row is not None and grid.row.name == name:
                return True
            await self.press("j" if any(row.name == name for row in grid.rows[grid._index :]) else "k")
            return False

        await eventually(there, what=f"the cursor on {name}")

    async def to_task(self, tab: str, task_id: str) -> None:
        await self.leave()
        await self.app.show_tasks(tab, f"id:{task_id}")
        grid = self.app.screen.query_one(Grid)
        await eventually(lambda: grid.row is not None and grid.row.id == task_id, what=f"the cursor on {task_id}")

    async def leave(self) -> None:
        while isinstance(self.app.screen, ModalScreen):
            await self.press("escape")

    async def do(self, deed: str, *, line: str = "") -> None:
        """Press the key of a deed, fill in what it asks, and wait until it says how it went."""
        action = next(each for each in ACTIONS if each.id == deed)
        before = self.app.session.receipt
        await self.press(action.keys[0])
        if line:
            await eventually(lambda: isinstance(self.app.screen, ModalScreen))
            await self.press(*["backspace"] * 10, *line, "enter")
        if action.tier:
            await eventually(lambda: isinstance(self.app.screen, Confirm), what=f"{deed} asks")
            screen = self.app.screen
            assert isinstance(screen, Confirm)
            word = screen.question.word
            await self.press(*(word or "y"), *(["enter"] if word else []))
        await eventually(lambda: self.app.session.receipt is not before, 20, what=f"{deed} is answered")
        assert self.app.errors == []

    async def status(self, task_id: str) -> str:
        (status,) = await self.broker.statuses([task_id])
        return "gone" if status is None else status.state.value

    async def becomes(self, task_id: str, state: str) -> None:
        async def so() -> bool:
            return await self.status(task_id) == state

        await eventually(so, 20, what=f"{task_id} is {state}")

    async def pauses(self) -> list[tuple[str, str, bool]]:
        return [(each.kind, each.target, each.until_ms is not None) for each in await self.broker.census.pauses()]

    async def row(self) -> QueueRow:
        (row,) = await self.broker.census.queues(["work"])
        return row

    async def beat(self, name: str) -> Seen | None:
        seen = await self.broker.presence.workers()
        return next((each for each in seen if each.heartbeat.name == name and not each.stopped), None)


@asynccontextmanager
async def stage(url: str, namespace: str, workers: int = 1) -> AsyncIterator[Stage]:
    made = Stage(url, namespace)
    async with AsyncExitStack() as closing:
        closing.push_async_callback(made.broker.close)
        closing.push_async_callback(made.stem.close)
        for name in WORKERS[:workers]:
            await made.start(name)
            closing.push_async_callback(made.workers[name].shutdown, "hard")
        made.pilot = await closing.enter_async_context(made.app.run_test(size=(120, 36)))
        await eventually(lambda: len(made.app.session.state.workers) == workers, 20)
        yield made


@pytest.mark.timeout(60)
async def test_queues(valkey_url: str, namespace: str) -> None:
    async with stage(valkey_url, namespace) as it:
        dead = [await it.stem.enqueue("t.fail") for _ in range(2)]
        for task_id in dead:
            await it.becomes(task_id, "failed")
        await it.to("2", "work")

        await it.do("queue.pause")
        assert await it.pauses() == [("queue", "work", False)]
        held = await it.stem.enqueue("t.quick", {"name": "held"})
        await asyncio.sleep(0.3)
        assert await it.status(held) == "queued"
        await eventually(lambda: "‖ paused" in text_of(it.app))
        await it.do("queue.purge")
        await it.becomes(held, "revoked")

        await it.leave()
        await it.do("queue.pause")  # the same key resumes
        assert await it.pauses() == []
        await it.becomes(await it.stem.enqueue("t.quick", {"name": "again"}), "succeeded")

        await it.to("2", "work")
        await it.do("queue.pause_for", line="10m")
        assert await it.pauses() == [("queue", "work", True)]
        await it.leave()
        await it.press("u")
        await eventually(lambda: "resumed" in text_of(it.app))
        assert await it.pauses() == []

        it.cured = True
        await it.to("2", "work")
        await eventually(lambda: it.app.session.state.queues["work"].dead == 2)
        await it.do("queue.replay")
        for task_id in dead:
            await it.becomes(task_id, "succeeded")
        it.cured = False
        await it.becomes(await it.stem.enqueue("t.fail"), "failed")
        await it.to("2", "work")
        await eventually(lambda: it.app.session.state.queues["work"].dead == 1)
        await it.do("queue.discard")
        assert (await it.row()).dead == 0
    assert it.ran == ["again"]


@pytest.mark.timeout(60)
async def test_workers(valkey_url: str, namespace: str) -> None:
    async with stage(valkey_url, namespace, workers=3) as it:
        for name in WORKERS[1:]:
            await it.to("3", name)
            await it.do("worker.pause")
        assert sorted(await it.pauses()) == [("worker", "w-b", False), ("worker", "w-c", False)]
        await it.to("3", "w-a")
        await it.do("worker.pause_for", line="1h")
        assert ("worker", "w-a", True) in await it.pauses()
        task_id = await it.stem.enqueue("t.wait")
        await asyncio.sleep(0.3)
        assert await it.status(task_id) == "queued"

        await it.leave()
        await it.do("worker.pause")  # and the same key lets it work again
        await it.becomes(task_id, "running")
        (status,) = await it.broker.statuses([task_id])
        assert status is not None
        assert status.worker == it.workers["w-a"].id

        await it.leave()
        await it.do("worker.drain")
        waits = await it.stem.enqueue("t.quick", {"name": "waits"})
        await asyncio.sleep(0.3)
        assert await it.status(waits) == "queued"
        await it.leave()
        await eventually(lambda: "draining" in text_of(it.app))
        await it.do("worker.drain")
        await it.becomes(waits, "succeeded")

        # Asked to stop softly it hands back what it runs; a hard stop hands back at once; the next one takes it over.
        await it.to("3", "w-b")
        await it.do("worker.pause")
        await it.to("3", "w-a")
        await it.do("worker.soft")
        await it.becomes(task_id, "running")

        async def on_b() -> bool:
            (now,) = await it.broker.statuses([task_id])
            return now is not None and now.worker == it.workers["w-b"].id

        await eventually(on_b, 20, what="the task runs on w-b")
        await it.to("3", "w-b")
        await it.do("worker.kill")
        await it.becomes(task_id, "queued")
        await it.to("3", "w-c")
        await it.do("worker.stop")

        async def nobody() -> bool:
            return all([await it.beat(name) is None for name in WORKERS])

        await eventually(nobody, 20, what="all have left")


@pytest.mark.timeout(60)
async def test_tasks(valkey_url: str, namespace: str) -> None:
    async with stage(valkey_url, namespace) as it:
        later = await it.stem.enqueue("t.quick", {"name": "later"}, delay=3600)
        never = await it.stem.enqueue("t.quick", {"name": "never"}, delay=3600)
        runs = await it.stem.enqueue("t.wait")
        dead = [await it.stem.enqueue("t.fail") for _ in range(2)]
        await it.becomes(runs, "running")
        for task_id in dead:
            await it.becomes(task_id, "failed")

        await it.to_task("scheduled", never)
        await it.do("task.revoke")
        await it.becomes(never, "revoked")
        await it.to_task("scheduled", later)
        await it.do("task.retry")
        await it.becomes(later, "succeeded")
        await it.to_task("running", runs)
        await it.do("task.terminate")
        await it.becomes(runs, "revoked")

        it.cured = True
        await it.to_task("dead", dead[0])
        await it.do("task.retry")
        await it.becomes(dead[0], "succeeded")
        await it.to_task("dead", dead[1])
        await it.do("task.discard")

        async def gone() -> bool:
            return (await it.row()).dead == 0

        await eventually(gone)

        again = await it.stem.enqueue("t.quick", {"name": "again"}, delay=3600)
        await it.to_task("scheduled", again)
        await it.do("task.pause")
        assert await it.pauses() == [("task", "t.quick", False)]
        held = await it.stem.enqueue("t.quick", {"name": "held"})
        await asyncio.sleep(0.3)
        assert await it.status(held) not in ("running", "succeeded")
        await it.to_task("scheduled", again)
        await it.do("task.pause")
        await it.becomes(held, "succeeded")
        await it.to_task("scheduled", again)
        await it.do("task.pause_for", line="5m")
        assert await it.pauses() == [("task", "t.quick", True)]


@pytest.mark.timeout(60)
async def test_failures(valkey_url: str, namespace: str) -> None:
    async with stage(valkey_url, namespace) as it:
        await it.becomes(await it.stem.enqueue("t.fail"), "failed")
        grid = it.app.screen.query_one("#failures", Grid)
        await eventually(lambda: len(grid.rows) == 1, 20, what="the failure is shown")
        grid.focus()
        await it.pilot.pause()

        await it.do("failure.pause")
        assert await it.pauses() == [("task", "t.fail", False)]
        await it.leave()
        await it.do("failure.pause")
        assert await it.pauses() == []
        await it.leave()
        await it.do("failure.pause_for", line="5m")
        assert await it.pauses() == [("task", "t.fail", True)]


def test_each_deed_has_its_place_here() -> None:
    """A deed that is added to the table is to be added above, too."""
    written = Path(__file__).read_text(encoding="utf-8")

    assert {deed for deed in DEEDS if f'it.do("{deed}"' not in written} == set()
