"""An application whose tasks run in child processes: each does one thing to its process, or asks one thing of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.errors import Reject, SoftTimeLimitExceeded
from stem.retry import FixedRetryStrategy
from stem.signals import StemSignals, WorkerChildInit, WorkerChildShutdown
from stem.task import TaskContext

app = Stem(InMemoryBroker())
"""Children never use its broker: what a context asks for goes through the worker."""

ROOM_BYTES = 64 * 1024 * 1024
MARKS = "STEM_TEST_MARKS"
"""A folder in which child processes leave marks."""
HANGS = "STEM_TEST_HANGS"
"""Children get stuck on their way to their first task."""

calls = 0


def mark(name: str) -> None:
    if folder := os.environ.get(MARKS):
        with (Path(folder) / name).open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")


def _init(event: WorkerChildInit, context: object) -> None:
    assert event.pid == os.getpid()
    mark("child-init")
    if HANGS in os.environ:
        time.sleep(600)


def _shutdown(event: WorkerChildShutdown, context: object) -> None:
    assert event.pid == os.getpid()
    mark("child-shutdown")


StemSignals.on_worker_child_init(_init)
StemSignals.on_worker_child_shutdown(_shutdown)


@app.task("p.add", isolation="process")
def add(left: int, right: int) -> dict[str, int]:
    return {"sum": left + right, "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp()}


@app.task("p.add_async", isolation="process")
async def add_async(context: TaskContext, left: int, right: int) -> dict[str, int]:
    await asyncio.sleep(0)
    return {"sum": left + right, "pid": os.getpid(), "attempt": context.attempt}


@app.task("p.bare", max_retries=0)
def bare() -> str:
    """Want nothing; a producer may want a child process for it."""
    return "ran"


@app.task("p.count", isolation="process")
def count() -> tuple[int, int]:
    """Return how many calls this process has seen."""
    global calls
    calls += 1
    return os.getpid(), calls


@app.task("p.context", isolation="process")
def tell(context: TaskContext) -> dict[str, Any]:
    context.heartbeat()
    context.extend_lease(60)
    context.progress({"at": "half"})
    return {
        "id": context.id,
        "task": context.task,
        "queue": context.queue,
        "attempt": context.attempt,
        "token": context.token,
        "max_retries": context.max_retries,
        "headers": dict(context.headers),
        "meta": dict(context.meta),
        "root": context.root,
        "parent": context.parent,
        "worker": context.worker,
        "revoked": context.is_revoked,
        "lost": context.lease_lost,
    }


@app.task("p.halfway", isolation="process")
def go_half_the_way(context: TaskContext, path: str) -> None:
    for step in range(100):
        context.progress({"at": step})
    context.progress({"at": "half"})
    context.extend_lease(60)
    wait_for_file(path)


@app.task("p.parent", isolation="process")
def enqueue_child(context: TaskContext) -> str:
    return context.enqueue_blocking("p.context", {}, meta={"from": "plain"}, task_id="child-of-plain", delay=0.001)


@app.task("p.parent_async", isolation="process")
async def enqueue_child_async(context: TaskContext) -> list[str]:
    first = context.enqueue("p.context", {}, task_id="child-1")
    second = context.enqueue("p.context", {}, task_id="child-2")
    return list(await asyncio.gather(first, second))


@app.task("p.refused", isolation="process")
async def ask_for_nonsense(context: TaskContext) -> str:
    try:
        await context.enqueue("p.nobody", {})
    except LookupError as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


@app.task("p.hopeful", isolation="process", max_retries=2, retry_strategy=FixedRetryStrategy(0.01))
def fail_first(context: TaskContext) -> int:
    if context.attempt < 2:
        raise ValueError(f"attempt {context.attempt}")
    return context.attempt


@app.task("p.later", isolation="process", max_retries=1)
def ask_for_retry(context: TaskContext) -> str:
    if context.attempt == 0:
        context.retry(countdown=0.01)
    return "the second time"


@app.task("p.picky", isolation="process", max_retries=5, retry_on=(ConnectionError,))
def raise_other() -> None:
    raise KeyError("not to be retried")


@app.task("p.tells", isolation="process", max_retries=0, redact=["password"])
def tell_at_length(password: str, other: str, before: int) -> None:
    raise ValueError("x" * before + password + other)


@app.task("p.given_up", isolation="process", max_retries=5, give_up_on=(LookupError,))
async def raise_hopeless() -> None:
    raise KeyError("given up")


async def never_run() -> None:
    raise AssertionError("nobody awaits it")


@app.task("p.hidden", isolation="process", max_retries=5)
def hidden() -> object:
    return never_run()


@app.task("p.reject", isolation="process", max_retries=5)
def reject() -> None:
    raise Reject("never again")


@app.task("p.unstorable", isolation="process", max_retries=5)
def return_object() -> object:
    return object()


@app.task("p.quit", isolation="process", max_retries=0)
def quit_politely() -> None:
    sys.exit("enough")


@app.task("p.soft", isolation="process", soft_time_limit=0.3)
def sleep_softly() -> str:
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "overslept"


@app.task("p.soft_async", isolation="process", soft_time_limit=0.3)
async def sleep_softly_async() -> str:
    try:
        await asyncio.sleep(60)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "overslept"


@app.task("p.soft_raised", isolation="process", soft_time_limit=0.2, max_retries=0)
def spin_softly() -> None:
    while True:
        pass


@app.task("p.spin", isolation="process", time_limit=0.4, max_retries=0)
def spin(path: str) -> None:
    """Spin in Python for ever, with a grandchild."""
    _leave_grandchild(path)
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            while True:
                pass


@app.task("p.stubborn", isolation="process", max_retries=0)
def stay(path: str) -> None:
    """Hold the interpreter lock in C code, for ever as far as a test is concerned; nothing but a kill ends it."""
    _leave_grandchild(path)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).usleep(600_000_000)


def _leave_grandchild(path: str) -> None:
    grandchild = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(f"{os.getpid()} {grandchild.pid}", encoding="ascii")


@app.task("p.polite", isolation="process", max_retries=0)
def watch_for_revoke(context: TaskContext, path: str) -> str:
    Path(path).write_text(f"{os.getpid()}", encoding="ascii")
    while not context.is_revoked:
        time.sleep(0.01)
    return "saw it"


@app.task("p.nap", isolation="process")
def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@app.task("p.grow", isolation="process")
def grow(size: int) -> int:
    """Keep memory after the end."""
    _kept.append(b"x" * size)
    return os.getpid()


_kept: list[bytes] = []


@app.task("p.stuck", isolation="process")
def wait_stuck(path: str) -> None:
    wait_for_file(path)


def wait_for_file(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


@app.task("p.die", isolation="process")
def die(context: TaskContext, how: str) -> None:
    """End this process in one of six ways."""
    mark(f"die-{context.id}")
    match how:
        case "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "stack":
            depth = 1_000_000
            compiled = ctypes.create_string_buffer(4096)
            ctypes.CDLL(None).regcomp(compiled, b"(" * depth + b")" * depth, 1)
        case "memory":
            _eat()
        case _:
            os.kill(os.getpid(), signal.SIGABRT)


@app.task("p.end_soon", isolation="process")
def end_soon(folder: str) -> None:
    """Return once told to, and end this process a moment later, as a crash of some library's thread does."""
    here = Path(folder)

    def end() -> None:
        time.sleep(0.1)
        (here / "ended").touch()
        os._exit(7)

    (here / "begun").touch()
    wait_for_file(str(here / "go"))
    threading.Thread(target=end).start()


@app.task("p.abandon", isolation="process")
def abandon(path: str) -> None:
    """Die and leave a process behind."""
    _leave_grandchild(path)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task("p.babble", isolation="process")
def babble(context: TaskContext) -> None:
    """Write to the socket of the worker, as a handler that mistakes it for its own would."""
    context._port._link._socket.sendall(b"\xff" * 64)  # type: ignore[attr-defined]  # it is a child's port
    time.sleep(60)


def _eat() -> None:
    """Eat what the process may have, and end as at the hands of the kernel's OOM killer."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, size + ROOM_BYTES))
    eaten = []
    try:
        while True:
            eaten.append(bytearray(1024 * 1024))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task("p.hungry", isolation="process", max_retries=0)
def run_out_of_memory() -> None:
    """Meet a limit that Python can tell of."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, before[1]))
    try:
        bytearray(4 * ROOM_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
