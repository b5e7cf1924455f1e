"""The application that workers run in fault tests: handlers that behave well, badly and very badly, all with a ledger.

Each handler writes a line before and after its work; the worker writes one more when the broker has recorded an end. A
handler returns who ran it, under which token, so that a stored result can be told from a late one.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec

from stem.client import Stem
from stem.retry import FixedRetryStrategy
from stem.signals import StemSignals
from stem.task import TaskContext
from tests.faults import gates
from tests.faults.ledger import LEDGER_VARIABLE, Ledger
from tests.faults.orphan import end_with_tests

P = ParamSpec("P")
Ran = dict[str, Any]

app = Stem.connect()


@functools.cache
def _ledger() -> Ledger:
    return Ledger(os.environ[LEDGER_VARIABLE])


@contextmanager
def _accounted(context: TaskContext) -> Iterator[Ran]:
    ledger = _ledger()
    ledger.write("start", context.id, context)
    try:
        yield {"worker": context.worker, "token": context.token, "attempt": context.attempt}
    except Exception:
        ledger.write("failed", context.id, context)
        raise
    except BaseException:  # cancelled
        ledger.write("cut", context.id, context)
        raise
    ledger.write("done", context.id, context)


def accounted(
    function: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, Ran]]:
    """Write down each run of an async handler, and return who ran it."""

    @functools.wraps(function)
    async def run(context: TaskContext, /, *args: P.args, **kwargs: P.kwargs) -> Ran:
        with _accounted(context) as ran:
            await function(context, *args, **kwargs)
            return ran

    return run


def accounted_plain(
    function: Callable[Concatenate[TaskContext, P], None],
) -> Callable[Concatenate[TaskContext, P], Ran]:
    """Do the same for a plain handler, which runs in a thread."""

    @functools.wraps(function)
    def run(context: TaskContext, /, *args: P.args, **kwargs: P.kwargs) -> Ran:
        with _accounted(context) as ran:
            function(context, *args, **kwargs)
            return ran

    return run


@app.task("fault.quick")
@accounted
async def quick(context: TaskContext, n: int = 0) -> None:
    """Return at once."""


@app.task("fault.nap")
@accounted
async def nap(context: TaskContext, seconds: float) -> None:
    """Sleep as a good handler does."""
    await asyncio.sleep(seconds)


@app.task("fault.nap_first")
@accounted
async def nap_first(context: TaskContext, seconds: float) -> None:
    """Sleep at the first start; later starts return at once."""
    if context.token == 1:
        await asyncio.sleep(seconds)


@app.task("fault.nap_until")
@accounted
async def nap_until(context: TaskContext, gate: str) -> None:
    """Sleep as a good handler does, until a gate is open."""
    await gates.pass_gate(gate)


@app.task("fault.thread_nap_until")
@accounted_plain
def thread_nap_until(context: TaskContext, gate: str) -> None:
    """Do the same in a thread."""
    while gates.shut(gate):
        time.sleep(0.02)


@app.task("fault.thread_nap_first")
@accounted_plain
def thread_nap_first(context: TaskContext, seconds: float) -> None:
    """Sleep in a thread at the first start; later starts return at once."""
    if context.token == 1:
        time.sleep(seconds)


@app.task("fault.thread_nap")
@accounted_plain
def thread_nap(context: TaskContext, seconds: float) -> None:
    """Sleep in a thread in small steps, and never look at anything: an interrupt ends it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)


@app.task("fault.polite_thread")
@accounted_plain
def polite_thread(context: TaskContext, seconds: float) -> None:
    """Sleep in a thread, and return early when an operator wants that."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not context.is_revoked:
        time.sleep(0.02)


@app.task("fault.deaf_thread")
@accounted_plain
def deaf_thread(context: TaskContext, seconds: float) -> None:
    """Sleep in one call of C code: nothing ends it but the end of the process."""
    time.sleep(seconds)


@app.task("fault.block")
@accounted
async def block(context: TaskContext, seconds: float) -> None:
    """Block the work loop."""
    time.sleep(seconds)  # noqa: ASYNC251  # the fault under test


@app.task("fault.block_until")
@accounted
async def block_until(context: TaskContext, lock: str) -> None:
    """Block the work loop in one call until a lock is opened."""
    gates.wait_at_lock(lock)


@app.task("fault.block_forever")
@accounted
async def block_forever(context: TaskContext) -> None:
    """Block the work loop and never return."""
    while True:
        time.sleep(0.01)  # noqa: ASYNC251  # the fault under test


@app.task("fault.hold_gil")
@accounted
async def hold_gil(context: TaskContext, seconds: float, then: float = 0.0) -> None:
    """Hold the interpreter lock at the first start, so that no thread of the process runs; later starts sleep."""
    if context.token == 1:
        ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    else:
        await asyncio.sleep(then)


@app.task("fault.hold_gil_until")
@accounted
async def hold_gil_until(context: TaskContext, lock: str, gate: str) -> None:
    """Do the same at the first start until a lock is opened; later starts sleep until a gate is open."""
    if context.token == 1:
        gates.wait_at_lock_with_gil(lock)
    else:
        await gates.pass_gate(gate)


@app.task("fault.late", retry_strategy=FixedRetryStrategy(0.1))
@accounted
async def late(context: TaskContext, seconds: float, end: str) -> None:
    """Go on whatever happens, then return, raise or ask for a retry at the first start; later starts return."""
    await _in_spite_of_all(seconds)
    _end_late(context, end)


@app.task("fault.late_until", retry_strategy=FixedRetryStrategy(0.1))
@accounted
async def late_until(context: TaskContext, gate_of: list[str], end: str) -> None:
    """Do the same; each start goes on until its own gate is open."""
    while gates.shut(gate_of[context.token - 1]):
        await _in_spite_of_all(0.02)
    _end_late(context, end)


def _end_late(context: TaskContext, end: str) -> None:
    if context.token == 1 and end == "raise":
        raise ValueError("the first start fails")
    if context.token == 1 and end == "retry":
        context.retry(countdown=0)


@app.task("fault.spin")
@accounted_plain
def spin(context: TaskContext, seconds: float) -> None:
    """Use the processor in a thread."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


@app.task("fault.stubborn")
@accounted
async def stubborn(context: TaskContext, seconds: float) -> None:
    """Swallow every cancellation."""
    await _in_spite_of_all(seconds)


@app.task("fault.fail_at", retry_strategy=FixedRetryStrategy(0.1))
@accounted
async def fail_at(context: TaskContext, gate: str) -> None:
    """Raise once a gate is open, every time."""
    await gates.pass_gate(gate)
    raise ConnectionError("it never works")


async def _in_spite_of_all(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(until - time.monotonic())
        except asyncio.CancelledError:
            continue


@app.task("fault.flaky", retry_strategy=FixedRetryStrategy(0.1))
@accounted
async def flaky(context: TaskContext, failures: int) -> None:
    """Raise on the first attempts."""
    if context.attempt < failures:
        raise ConnectionError(f"attempt {context.attempt} fails")


@app.task("fault.raising", max_retries=0)
@accounted
async def raising(context: TaskContext) -> None:
    """Raise, and not again."""
    raise ValueError("this one never works")


@app.task("fault.again")
@accounted
async def again(context: TaskContext, countdown: float) -> None:
    """Ask for another attempt at the first one."""
    if context.attempt == 0:
        context.retry(countdown=countdown)


@app.task("fault.report")
@accounted
async def report(context: TaskContext, seconds: float) -> None:
    """Sleep, and tell how far it is."""
    for part in range(4):
        context.progress({"part": part})
        await asyncio.sleep(seconds / 4)


@app.task("fault.die")
@accounted
async def die(context: TaskContext) -> None:
    """Kill the process, as a crash in C code does."""
    os.kill(os.getpid(), signal.SIGKILL)


if LEDGER_VARIABLE in os.environ:
    end_with_tests()
    StemSignals.on_task_succeeded(lambda event, _: _ledger().write("final:succeeded", event.id))
    StemSignals.on_task_failed(lambda event, _: _ledger().write("final:failed", event.id))
    StemSignals.on_task_revoked(lambda event, _: _ledger().write("final:revoked", event.id))
    StemSignals.on_task_expired(lambda event, _: _ledger().write("final:expired", event.id))
    StemSignals.on_task_retry(lambda event, _: _ledger().write("retry", event.id))
