"""The dashboard over a broker with a real worker on it, and as a program in a terminal of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from stem import Stem, TaskOptions
from stem.adapters.connect import connect_broker
from stem.adapters.memory import InMemoryBroker
from stem.contracts import Broker
from stem.control.diagnose import diagnose
from stem.observe.feed import Feed
from stem.observe.rows import TaskLine, WorkerLine
from stem.observe.state import ClusterState
from stem.task import TaskContext
from stem.worker.runtime import Worker
from stem_tui.app import StemTUI
from stem_tui.session import Session
from stem_tui.widgets.dialogs import Answered, Confirm
from stem_tui.widgets.grid import Grid
from tests.servers import Server
from tests.tui.still import text_of
from tests.tui.test_watching import leases
from tests.waiting import eventually, wait_until


def live_app(broker: Broker) -> StemTUI:
    state = ClusterState(diagnose)
    feed = Feed(broker, state, watcher="test", interval_s=0.05)
    return StemTUI(Session(state=state, feed=feed, url=broker.url, namespace=broker.namespace, hz=20), broker)


@asynccontextmanager
async def at_work(broker: Broker) -> AsyncIterator[tuple[Stem, asyncio.Event]]:
    """Run a worker with a task that waits for the event, and one that fails."""
    stem, done = Stem(broker), asyncio.Event()

    @stem.task("demo.wait")
    async def wait(context: TaskContext) -> None:
        context.progress(0.5)
        await done.wait()

    @stem.task("demo.fail", max_retries=0)
    async def fail() -> None:
        raise KeyError("customer_id")

    worker = Worker(broker=broker, registry=stem.registry, name="w-live", concurrency=4, queues=["default", "etl"])
    await worker.start()
    try:
        yield stem, done
    finally:
        done.set()
        await worker.shutdown()
        await stem.close()


def queue(app: StemTUI, name: str) -> Any:
    return app.session.state.queues.get(name)


def focused(app: StemTUI) -> Any:
    """Return the row under the cursor."""
    return app.focused.row if isinstance(app.focused, Grid) else None


async def test_the_overview_says_what_the_broker_holds_and_a_stop_stops(namespace: str) -> None:
    broker = InMemoryBroker(namespace=namespace)
    async with at_work(broker) as (stem, done):
        app = live_app(broker)
        async with app.run_test(size=(100, 40)) as pilot:
            for _ in range(3):
                await stem.enqueue("demo.wait")
            for _ in range(2):
                await stem.enqueue("demo.fail", options=TaskOptions(queue="etl"))
            later = await stem.enqueue("demo.wait", delay=3_600)

            def told() -> bool:
                line, etl = queue(app, "default"), queue(app, "etl")
                return line is not None and etl is not None and (line.in_flight, line.delayed, etl.dead) == (3, 1, 2)

            await eventually(told)
            await eventually(lambda: "✗ 2 dead" in text_of(app) and "3 in flight" in text_of(app))

            async def told_in_words() -> bool:
                """Workers learn within a beat that somebody watches; what failed before that is known by its type."""
                await stem.enqueue("demo.fail", options=TaskOptions(queue="etl"))
                return "KeyError: 'customer_id'" in text_of(app)

            await eventually(told_in_words)
            await eventually(lambda: "w-live" in text_of(app))

            await pilot.press("4", "l", "l")
            await eventually(lambda: later[-8:] in text_of(app) and isinstance(focused(app), TaskLine))
            await pilot.press("K")
            await eventually(lambda: isinstance(app.screen, Confirm))
            await pilot.press("y")
            await eventually(lambda: isinstance(app.screen, Answered))
            status = await stem.status(later)
            assert status is not None
            assert status.state.value == "revoked"

            await pilot.press("escape", "3")
            await eventually(lambda: isinstance(focused(app), WorkerLine))
            await pilot.press("t")
            await eventually(lambda: "threads" in text_of(app))
            await pilot.press("escape")
            await eventually(lambda: isinstance(focused(app), WorkerLine))
            await pilot.press("S")
            await eventually(lambda: isinstance(app.screen, Confirm))
            await pilot.press("y")
            await eventually(lambda: isinstance(app.screen, Answered))
            assert "✓ w-live" in text_of(app)
            done.set()
            await eventually(lambda: "stopped" in text_of(app) or app.session.state.workers == {})
            assert not app.errors


async def test_the_watch_is_given_back_before_the_app_has_ended(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ran the app closes the broker next, and what is on its way then gets nowhere."""
    broker = InMemoryBroker(namespace=namespace)
    polling, left, census, unwatch = asyncio.Event(), list[str](), broker.census.queues, broker.events.unwatch

    async def hangs(**given: Any) -> Any:
        if not watching():
            return await census(**given)
        polling.set()
        return await asyncio.Event().wait()

    async def far_away(watcher: str) -> None:
        await asyncio.sleep(0.1)  # as long as the way to the broker
        await unwatch(watcher)
        left.append(watcher)

    def watching() -> bool:
        return broker.events._core.batches.watched(0)

    monkeypatch.setattr(broker.census, "queues", hangs)
    monkeypatch.setattr(broker.events, "unwatch", far_away)
    app = live_app(broker)
    async with app.run_test():
        await asyncio.wait_for(polling.wait(), 10)

    assert left == ["test"]
    assert not watching()


async def test_the_app_ends_where_the_broker_answers_no_more(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = InMemoryBroker(namespace=namespace)

    async def silent(watcher: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(broker.events, "unwatch", silent)
    app = live_app(broker)
    async with app.run_test():
        await eventually(lambda: app.session.phase == "LIVE")
        begun_s = time.monotonic()

    assert time.monotonic() - begun_s < 5


# -------------------------------------------------------------------------------------------------------- as a program


@contextmanager
def in_terminal(*arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run stem-tui in a pseudo terminal of 100x30."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "stem_tui", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none", **env},
        start_new_session=True,
    )
    os.close(follower)
    try:
        yield process, leader
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)
        os.close(leader)


def read_until(leader: int, wanted: bytes, timeout_s: float = 15.0) -> bytes:
    """Return what the program wrote up to `wanted`."""
    got, deadline = b"", time.monotonic() + timeout_s
    while wanted not in got:
        assert time.monotonic() < deadline, got[-3000:]
        ready, _, _ = select.select([leader], [], [], 0.1)
        if ready:
            try:
                got += os.read(leader, 65_536)
            except OSError:
                break
    return got


def test_the_program_draws_and_leaves_the_terminal_as_it_was(valkey_url: str, namespace: str) -> None:
    with in_terminal("--url", valkey_url, "--namespace", namespace) as (process, leader):
        read_until(leader, "● LIVE".encode())
        os.write(leader, b"q")
        rest = read_until(leader, b"\x1b[?1049l")

        assert process.wait(10) == 0
        assert b"Traceback" not in rest


def test_the_program_starts_without_a_server_and_ctrl_c_ends_it(namespace: str) -> None:
    with in_terminal("--url", "redis://127.0.0.1:1", "--namespace", namespace) as (process, leader):
        read_until(leader, "✖ DOWN".encode())
        os.write(leader, b"\x03")

        read_until(leader, b"\x1b[?1049l")
        assert process.wait(10) == 0


def test_told_to_end_the_program_leaves_the_terminal_as_it_was(valkey_server: Server, namespace: str) -> None:
    with in_terminal("--url", valkey_server.url, "--namespace", namespace) as (process, leader):
        before = termios.tcgetattr(leader)
        read_until(leader, "● LIVE".encode())
        assert termios.tcgetattr(leader) != before
        wait_until(lambda: leases(valkey_server, namespace) == 1, what="it watches")
        process.send_signal(signal.SIGTERM)
        rest = read_until(leader, b"\x1b[?1049l")

        assert process.wait(10) == 128 + signal.SIGTERM
        assert leases(valkey_server, namespace) == 0
        assert termios.tcgetattr(leader) == before
        for off in (b"\x1b[?1000l", b"\x1b[?1003l", b"\x1b[?1006l"):
            assert off in rest
        assert b"Traceback" not in rest


def test_told_to_end_a_loop_that_waits_for_its_terminal_is_ended_by_force() -> None:
    """Of a terminal that stands still: what would draw on it never hears of anything again."""
    program = """
import asyncio, threading
from stem_tui import hangup

async def main():
    hangup.GRACE_S = 0.2
    hangup.end_when_told(print)
    print("up", flush=True)
    full = threading.Lock()
    full.acquire()
    full.acquire()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == 128 + signal.SIGTERM


def test_told_to_end_a_program_that_has_ended_already_says_nothing() -> None:
    program = """
import asyncio, os, signal
from stem_tui import hangup

async def main():
    hangup.end_when_told(print)

asyncio.run(main())
os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.timeout(60)
def test_the_program_ends_with_its_terminal(valkey_url: str, namespace: str) -> None:
    """Nobody sends a hang-up to a program in a session of its own; it drew on, at a fifth of a core."""
    with in_terminal("--url", valkey_url, "--namespace", namespace) as (process, leader):
        read_until(leader, "● LIVE".encode())
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, leader)
        os.close(nothing)

        assert process.wait(20) in (-signal.SIGHUP, 128 + signal.SIGHUP)


def test_a_dumb_terminal_gets_text(valkey_url: str, namespace: str) -> None:
    with in_terminal("--url", valkey_url, "--namespace", namespace, TERM="dumb") as (process, leader):
        got = read_until(leader, b"--once")

        assert process.wait(10) == 0
        assert b"QUEUES" in got
        assert b"\x1b[" not in got


async def test_the_feed_keeps_true_over_a_real_server(valkey_url: str, namespace: str) -> None:
    broker = connect_broker(valkey_url, namespace=namespace)
    try:
        async with at_work(broker) as (stem, _):
            app = live_app(broker)
            async with app.run_test(size=(100, 40)):
                for _ in range(3):
                    await stem.enqueue("demo.wait")
                await eventually(lambda: queue(app, "default") is not None and queue(app, "default").in_flight == 3)
                (row,) = await broker.census.queues(["default"])

                assert row.in_flight == 3
                await eventually(lambda: "3 in flight" in text_of(app) and "3 running" in text_of(app))

                async def heard() -> bool:
                    """Workers learn within a beat that somebody watches; what started before is not told."""
                    await stem.enqueue("demo.fail")
                    return any(each.kind == "task.failed" for each in app.session.state.events)

                await eventually(heard)
    finally:
        await broker.close()
