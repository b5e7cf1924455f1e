"""The application of app.py with tasks for child processes: good ones, and six ways to be deadly there."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

from stem.retry import FixedRetryStrategy
from stem.task import TaskContext
from tests.faults.app import accounted, accounted_plain
from tests.faults.app import app as app  # the application that a worker loads from here
from tests.faults.deadly import ROOM_BYTES

GRANDCHILDREN = "FAULTS_GRANDCHILDREN"
"""A file to which handlers append the process ids of what they start."""


@app.task("fault.child_quick", isolation="process")
@accounted
async def child_quick(context: TaskContext) -> None:
    """Return soon, on the child's loop."""
    context.progress({"part": 1})


@app.task("fault.child_nap", isolation="process")
@accounted_plain
def child_nap(context: TaskContext, seconds: float) -> None:
    """Sleep in a child, and tell of it."""
    context.progress({"part": 1})
    time.sleep(seconds)


@app.task("fault.child_flaky", isolation="process", retry_strategy=FixedRetryStrategy(0.1))
@accounted_plain
def child_flaky(context: TaskContext, failures: int) -> None:
    """Raise on the first attempts."""
    context.progress({"attempt": context.attempt})
    if context.attempt < failures:
        raise ConnectionError(f"attempt {context.attempt} fails")


@app.task("fault.child_family", isolation="process")
@accounted_plain
def child_family(context: TaskContext, seconds: float) -> None:
    """Start another process, and sleep; the first time only, so that it can end elsewhere."""
    if context.token > 1:
        return
    grandchild = subprocess.Popen(["sleep", "3600"])
    with Path(os.environ[GRANDCHILDREN]).open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()} {grandchild.pid}\n")
    time.sleep(seconds)


@app.task("fault.child_kill", isolation="process")
@accounted_plain
def kill_itself(context: TaskContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task("fault.child_exit", isolation="process")
@accounted
async def exit_now(context: TaskContext) -> None:
    os._exit(3)


@app.task("fault.child_segfault", isolation="process")
@accounted_plain
def segfault(context: TaskContext) -> None:
    ctypes.string_at(0)


@app.task("fault.child_overflow", isolation="process")
@accounted_plain
def overflow_stack(context: TaskContext) -> None:
    """Let a C library call itself until the stack ends."""
    depth = 1_000_000
    compiled = ctypes.create_string_buffer(4096)
    ctypes.CDLL(None).regcomp(compiled, b"(" * depth + b")" * depth, 1)


@app.task("fault.child_eat", isolation="process")
@accounted_plain
def eat_memory(context: TaskContext) -> None:
    """Eat all the memory that the process may have, and end as at the hands of the kernel's OOM killer."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, size + ROOM_BYTES))
    eaten = []
    try:
        while True:
            eaten.append(bytearray(1024 * 1024))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(
    "fault.child_seize", isolation="process", time_limit=0.5, retry_strategy=FixedRetryStrategy(0.1), max_retries=2
)
@accounted_plain
def seize(context: TaskContext) -> None:
    """Stay in C code that keeps the interpreter lock, past the time limit."""
    ctypes.PyDLL(None).usleep(3_600_000_000)
