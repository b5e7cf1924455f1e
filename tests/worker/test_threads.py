"""The pool of threads for plain handlers, alone."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from stem.errors import SoftTimeLimitExceeded
from stem.messages.status import TaskState
from stem.worker.executor.threads import ThreadExecutor, _Thread
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread


class Piece:
    """Work for a thread."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.ends: list[Any] = []

    def begin(self) -> bool:
        return True

    def call(self) -> Any:
        return self._function()

    def succeeded(self, result: Any) -> None:
        self.ends.append(result)

    def failed(self, error: BaseException) -> None:
        self.ends.append(error)

    def dropped(self) -> None:
        self.ends.append("dropped")


async def test_interrupts_end_each_piece_of_work_exactly_once() -> None:
    """Whenever the interrupt comes, before, in or after the handler, the work has one end and the thread survives."""
    pool = ThreadExecutor(asyncio.get_running_loop(), 2)
    pieces = [Piece(lambda: sum(range(200))) for _ in range(2_000)]
    for piece in pieces:
        pool.start(piece)
    stop = threading.Event()

    def interrupt_all() -> None:
        while not stop.is_set():
            for piece in pieces:
                pool.interrupt(piece, SoftTimeLimitExceeded)

    interrupter = threading.Thread(target=interrupt_all)
    interrupter.start()
    try:
        await eventually(lambda: all(piece.ends for piece in pieces), 20)
    finally:
        stop.set()
        await asyncio.to_thread(interrupter.join)

    assert {len(piece.ends) for piece in pieces} == {1}
    after = Piece(lambda: "well")
    pool.start(after)
    await eventually(lambda: after.ends == ["well"])
    pool.close()


async def test_work_that_waits_can_be_taken_back() -> None:
    pool, go = ThreadExecutor(asyncio.get_running_loop(), 1), threading.Event()
    first, second = Piece(go.wait), Piece(lambda: "ran")
    pool.start(first)
    pool.start(second)

    assert pool.take_back(second)
    assert not pool.take_back(second)
    go.set()
    await eventually(lambda: first.ends == [True])
    assert second.ends == []
    pool.close()


class NoThreads:
    """A system that gives no thread so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.times = times
        start = _Thread.start

        def starting(thread: _Thread) -> None:
            if self.times:
                self.times -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(_Thread, "start", starting)


async def test_a_thread_that_does_not_start_costs_the_pool_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It counted as a thread of the pool ever after: with a size of one nothing ran any more."""
    NoThreads(monkeypatch, 2)
    pool = ThreadExecutor(asyncio.get_running_loop(), 1)
    pieces = [Piece(lambda: "ran") for _ in range(3)]

    for piece in pieces:
        pool.start(piece)
    await eventually(lambda: all(piece.ends for piece in pieces))

    assert [piece.ends for piece in pieces] == [["dropped"], ["dropped"], ["ran"]]
    assert pool.waiting == 0
    assert [record.message.split()[0] for record in caplog.records] == ["thread.not_started"]
    pool.close()


async def test_a_task_that_gets_no_thread_goes_back_to_its_queue(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment: it may come straight back to the same worker, and would go to and fro without end."""
    NoThreads(monkeypatch, 1)
    in_thread(house.registry, "work", lambda context, args: "ran")
    await house.worker(concurrency=1)
    began_s = time.monotonic()

    status = await house.stem.wait_for(await house.stem.enqueue("work"), timeout=10)

    assert (status.state, status.result, status.attempt, status.crashes) == (TaskState.SUCCEEDED, "ran", 0, 0)
    assert status.token == 2
    assert time.monotonic() - began_s >= 1.0


async def test_what_gets_no_thread_of_its_own_runs_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, go = ThreadExecutor(asyncio.get_running_loop(), 2), threading.Event()
    first, second = Piece(go.wait), Piece(lambda: "ran")
    pool.start(first)
    await eventually(lambda: pool.waiting == 0, what="the first has its thread")
    NoThreads(monkeypatch, 1)
    pool.start(second)

    assert pool.waiting == 1
    go.set()
    await eventually(lambda: second.ends == ["ran"])
    assert first.ends == [True]
    pool.close()


async def test_what_a_handler_sets_in_its_context_ends_with_it() -> None:
    """The thread kept it, and showed it to the next task: the request or the tenant of another one."""
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    pool = ThreadExecutor(asyncio.get_running_loop(), 1)

    def act() -> tuple[int, str]:
        before = tenant.get()
        tenant.set("acme")
        return threading.get_ident(), before

    first, second = Piece(act), Piece(act)
    pool.start(first)
    pool.start(second)
    await eventually(lambda: second.ends)

    assert first.ends == second.ends == [(first.ends[0][0], "nobody")]
    pool.close()
