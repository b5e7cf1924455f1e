"""The application of app.py with tasks that end or wedge the process that runs them, each in another way."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time

from stem.retry import FixedRetryStrategy
from stem.task import TaskContext
from tests.faults.app import accounted, accounted_plain
from tests.faults.app import app as app  # the application that a worker loads from here

ROOM_BYTES = 64 * 1024 * 1024


@app.task("fault.exit")
@accounted
async def exit_now(context: TaskContext) -> None:
    """End the process past all cleaning up."""
    os._exit(3)


@app.task("fault.segfault")
@accounted_plain
def segfault(context: TaskContext) -> None:
    """Read from nowhere."""
    ctypes.string_at(0)


@app.task("fault.overflow_stack")
@accounted_plain
def overflow_stack(context: TaskContext) -> None:
    """Let a C library call itself until the stack ends: glibc compiles each bracket by a call."""
    depth = 1_000_000
    compiled = ctypes.create_string_buffer(4096)
    ctypes.CDLL(None).regcomp(compiled, b"(" * depth + b")" * depth, 1)


@app.task("fault.eat_memory")
@accounted_plain
def eat_memory(context: TaskContext) -> None:
    """Eat all the memory that the process may have, and die of it as at the hands of the kernel's OOM killer."""
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, size + ROOM_BYTES))
    eaten = []
    try:
        while True:
            eaten.append(bytearray(1024 * 1024))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task("fault.seize")
@accounted_plain
def seize(context: TaskContext, seconds: float) -> None:
    """Stay in C code that does not give the interpreter lock back: the whole process stands still."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


@app.task("fault.overstay", time_limit=0.3, retry_strategy=FixedRetryStrategy(0.1), max_retries=2)
@accounted_plain
def overstay(context: TaskContext, seconds: float) -> None:
    """Sleep in one call of C code, past its time limit: the thread cannot be ended."""
    time.sleep(seconds)
