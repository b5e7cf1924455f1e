"""`python -m stem.worker.child APP …`: a process that runs tasks for its worker, one at a time, and can be killed.

The main thread runs handlers, plain ones as they are and `async` ones on its event loop; another thread listens to the
worker. Everything a handler asks of its worker goes through one socket: a child needs no broker. Started by
`executor.childprocess` alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import fcntl
import functools
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from types import FrameType
from typing import Any, Final, NoReturn

from stem.errors import DecodeError, SoftTimeLimitExceeded, StemError
from stem.messages.codec import Fields, pack
from stem.messages.envelope import Envelope
from stem.registry import Registered, TaskRegistry
from stem.signals import StemSignals, WorkerChildInit, WorkerChildShutdown
from stem.task import CURRENT, Signature, TaskContext, given
from stem.worker import host, logs, verdict
from stem.worker.executor.aio import drive
from stem.worker.job import veil_over
from stem.worker.reference import load
from stem.worker.wire import MAX_FRAME, Inbox, frame, heard_refusal, told_failure, told_signature

log = logging.getLogger("stem.worker")

UNUSABLE: Final = 3
ORPHANED: Final = 4
PROGRESS_EVERY_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1
_SOFT: Final = signal.SIGXCPU
"""What wakes the main thread for the soft limit: hardly any program has a use of its own for it."""


class Link:
    """The socket to the worker; any thread may send."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._guard = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[str]] = {}

    def send(self, kind: str, **fields: object) -> None:
        message = frame(kind, **fields)
        with self._guard:
            try:
                # The soft limit waits: raised in the middle of a message, it would leave the rest of it unsent.
                signal.pthread_sigmask(signal.SIG_BLOCK, {_SOFT})
                self._socket.sendall(message)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {_SOFT})

    def receive(self) -> bytes:
        try:
            return self._socket.recv(256 * 1024)
        except OSError:
            return b""

    def ask(self, signature: Signature) -> Future[str]:
        """Ask the worker to enqueue; the future has the id, or the error."""
        asked: Future[str] = Future()
        number = next(self._numbers)
        told = told_signature(signature)
        self._asked[number] = asked
        self.send("ask", number=number, signature=told)
        return asked

    def answered(self, message: Fields) -> None:
        asked = self._asked.pop(message.integer("number"), None)
        if asked is None or not asked.set_running_or_notify_cancel():  # from here on it cannot be cancelled
            return
        if (task_id := message.optional_text("id")) is not None:
            asked.set_result(task_id)
        else:
            asked.set_exception(heard_refusal(message))


class Run:
    """One task in this process: the port of its context, and the work that executors see."""

    def __init__(self, order: Fields, link: Link, courier: Courier, *, worker: str) -> None:
        self._link = link
        self._courier = courier
        self._revoked = order.boolean("revoked")
        self._lost = order.boolean("lost")
        self._redacted = order.texts("redact")
        self._body = order.bytes_("body")
        self.envelope = envelope = Envelope.decode(self._body, limit=MAX_FRAME)
        self.registered: Registered | None = None
        self.saw_revoke = False
        self.soft_due = False
        self.ended: tuple[str, dict[str, object]] | None = None
        self.context = TaskContext(
            self,
            id=envelope.id,
            task=envelope.task,
            queue=order.text("queue"),
            attempt=order.integer("attempt"),
            token=order.integer("token"),
            max_retries=order.integer("max_retries"),
            headers=envelope.headers,
            meta=envelope.meta,
            root=envelope.root,
            parent=envelope.parent,
            worker=worker,
        )

    def told(self, what: str) -> None:
        """The worker says that the task is `revoked` or `lost`."""
        if what == "revoked":
            self._revoked = True
        else:
            self._lost = True

    # ----------------------------------------------------------------------------------------- for the executor

    late: Final = False

    def call(self) -> Any:
        assert self.registered is not None
        CURRENT.set(self.context)
        return self.registered.call(self.context, self.envelope.args)

    def succeeded(self, result: Any) -> None:
        try:
            packed = verdict.NONE if result is None else pack(result, what=f"the result of task {self.envelope.task}")
        except StemError as error:
            # The work was done and would be done again by a retry, to the same end.
            error = verdict.unstorable(result, error, task=self.envelope.task)
            self._tell_failure(error, retried=False, given_up=True)
        else:
            self.ended = "done", {"result": packed}

    def failed(self, error: BaseException) -> None:
        retried = given_up = False
        if self.registered is not None:
            options = self.registered.options
            retry_on = given(options.retry_on, None)
            retried = retry_on is None or isinstance(error, retry_on)
            given_up = isinstance(error, given(options.give_up_on, ()))
        self._tell_failure(error, retried=retried, given_up=given_up)

    def _tell_failure(self, error: BaseException, *, retried: bool, given_up: bool) -> None:
        # Hidden here already: on its way it is cut to its limits, and of a value cut in two the worker finds nothing.
        info = verdict.describe(error, veil_over(self._body, self._redacted))
        self.ended = "failed", told_failure(error, info, retried=retried, given_up=given_up)

    def dropped(self) -> NoReturn:
        raise AssertionError("nothing is late here: the worker has looked")

    # ------------------------------------------------------------------------------------- what a handler asks for

    def progress(self, value: object) -> None:
        packed = pack(value, what="progress", limit=64 * 1024)
        if self.ended is None:
            self._courier.bring(packed)

    def extend_lease(self, seconds: float) -> None:
        if self.ended is None:
            self._link.send("extend", seconds=seconds)

    def revoked(self) -> bool:
        if self._revoked:
            self.saw_revoke = True
        return self._revoked

    def lease_lost(self) -> bool:
        return self._lost

    async def enqueue(self, signature: Signature) -> str:
        return await asyncio.wrap_future(self._ask(signature))

    def enqueue_blocking(self, signature: Signature) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._ask(signature).result()
        raise RuntimeError("enqueue_blocking would block the event loop: use `await context.enqueue(...)` here")

    def _ask(self, signature: Signature) -> Future[str]:
        if self.ended is not None:
            raise RuntimeError("the task has ended: its context enqueues nothing more, use the application's `enqueue`")
        return self._link.ask(signature)


class Courier:
    """Brings progress to the worker, the last value of every 50 ms; whoever has news does not wait."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._guard = threading.Lock()
        self._news = threading.Event()
        self._value: bytes | None = None
        self._started = False

    def bring(self, packed: bytes) -> None:
        with self._guard:
            self._value = packed
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="stem-courier", daemon=True).start()
        self._news.set()

    def flush(self) -> None:
        """Send what is left of a task, before its end is told."""
        with self._guard:
            value, self._value = self._value, None
            if value is not None:
                self._link.send("progress", value=value)

    def _run(self) -> None:
        while self._news.wait():
            self._news.clear()
            try:
                self.flush()
            except OSError:
                return  # the worker is gone
            time.sleep(PROGRESS_EVERY_S)


class Child:
    """This process: `serve` belongs to the main thread, `_listen` to its own."""

    def __init__(self, link: Link, *, parent: int) -> None:
        self._link = link
        self._parent = parent
        self._courier = Courier(link)
        self._inbox = Inbox()
        self._orders: deque[Run | None] = deque()
        self._loop = asyncio.new_event_loop()
        self._arrived: asyncio.Future[None] | None = None
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._interruptible: Run | None = None
        self._doomed = False
        self._main = threading.get_ident()
        self._worker = self._worker_name = ""
        self._registry: TaskRegistry | None = None

    # ------------------------------------------------------------------------------------------------ the main thread

    def serve(self, app: str) -> int:
        """Import the application, run tasks until told to stop, and return the exit code."""
        asyncio.set_event_loop(self._loop)
        hello = self._first()
        self._worker, self._worker_name = hello.text("worker"), hello.text("name")
        sys.path[:] = hello.texts("path")
        if style := hello.optional_text("log_style"):
            logs.install(style=style, level=hello.text("log_level"), worker=hello.text("log_worker"))
        try:
            self._registry = load(app).registry
        except BaseException as error:
            self._link.send("broken", error=f"{type(error).__name__}: {error}"[:1000])
            return UNUSABLE
        signal.signal(_SOFT, self._interrupt)
        threading.Thread(target=self._listen, name="stem-child", daemon=True).start()
        about: dict[str, Any] = {"worker": self._worker, "worker_name": self._worker_name, "pid": os.getpid()}
        self._tell(StemSignals.worker_child_init.emit(WorkerChildInit(**about)))
        self._link.send("ready")
        while (run := self._loop.run_until_complete(self._next())) is not None:
            self._perform(run)
            del run  # what it was given is not kept until the next one comes
            if self._doomed:
                return 128 + signal.SIGTERM
        self._tell(StemSignals.worker_child_shutdown.emit(WorkerChildShutdown(**about, exit_code=0)))
        self._end_loop()
        return 0

    def _first(self) -> Fields:
        while data := self._link.receive():
            for message in self._inbox.feed(data):
                return message
        os._exit(ORPHANED)

    def _tell(self, emitting: Coroutine[Any, Any, None]) -> None:
        self._loop.run_until_complete(emitting)

    async def _next(self) -> Run | None:
        # On the loop, so that what `async` handlers left running there goes on between tasks.
        while not self._orders:
            self._arrived = self._loop.create_future()
            await self._arrived
        return self._orders.popleft()

    def _perform(self, run: Run) -> None:
        try:
            assert self._registry is not None
            run.registered = self._registry.get(run.envelope.task)
        except StemError as error:
            run.failed(error)
        else:
            if run.registered.kind == "async":
                self._task = self._loop.create_task(drive(run), name=run.context.id)
                if run.soft_due:
                    self._task.cancel()
                try:
                    self._loop.run_until_complete(self._task)
                except asyncio.CancelledError:
                    # `drive` tells of every end but one: cancelled before its first step, it never ran.
                    run.failed(SoftTimeLimitExceeded("the soft time limit has passed"))
                self._task = None
            else:
                self._call(run)
        self._run = None
        self._courier.flush()
        assert run.ended is not None
        kind, fields = run.ended
        self._link.send(kind, saw_revoke=run.saw_revoke, rss=host.rss_bytes(), **fields)

    def _call(self, run: Run) -> None:
        """Run a plain handler. The interrupt may be raised at any bytecode until it is switched off again."""
        try:
            try:
                self._interruptible = run
                if run.soft_due:
                    self._raise_soft(run)
                result = copy_context().run(run.call)
            finally:
                self._interruptible = None
        except BaseException as error:
            self._interruptible = None
            run.failed(error)
        else:
            run.succeeded(result)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        run = self._interruptible
        if run is not None and run.soft_due:
            self._raise_soft(run)

    def _raise_soft(self, run: Run) -> NoReturn:
        run.soft_due = False
        raise SoftTimeLimitExceeded("the soft time limit has passed")

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """React to SIGTERM: the worker's own comes with a word; what others send to everybody is the worker's to obey.

        A warm stop by systemd or a shell reaches the whole group of processes, and would cost tasks their runs. Without
        a worker it came from the kernel, which tells of the worker's end with it.
        """
        if os.getppid() != self._parent:
            _end_group(ORPHANED)
        if self._doomed:
            sys.exit(128 + signal.SIGTERM)

    def _end_loop(self) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    # -------------------------------------------------------------------------------------------- the other thread

    def _listen(self) -> None:
        data = b""  # what came together with the first message is in the box already
        try:
            while True:
                for message in self._inbox.feed(data):
                    self._take(message)
                if not (data := self._link.receive()):
                    break
        except DecodeError as error:
            log.critical("child.unreadable", extra={"error": str(error)})
        except Exception:
            log.critical("child.deaf", exc_info=True)  # alive, it would hear of no task, limit or stop any more
        # The worker is gone, or not to be heard or understood: nobody would hear how this ends.
        _end_group(ORPHANED)

    def _take(self, message: Fields) -> None:
        run = self._run
        match message.text("kind"):
            case "run":
                self._run = run = Run(message, self._link, self._courier, worker=self._worker)
                self._order(run)
            case "stop":
                self._order(None)
            case "soft" if run is not None:
                run.soft_due = True
                self._soon(functools.partial(self._cancel, run))
                signal.pthread_kill(self._main, _SOFT)
            case "revoked" | "lost" as what if run is not None:
                run.told(what)
            case "answer":
                self._link.answered(message)
            case "end":
                self._doomed = True
                signal.pthread_kill(self._main, signal.SIGTERM)
            case _:
                pass  # too late, or of a newer version

    def _order(self, order: Run | None) -> None:
        self._orders.append(order)
        self._soon(self._wake)

    def _soon(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the loop is closed: this process is ending

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _cancel(self, run: Run) -> None:
        if self._run is run and run.soft_due and self._task is not None:
            self._task.cancel()


# ------------------------------------------------------------------------------------------------- ends with the worker


def _end_group(code: int) -> NoReturn:
    """End this process and everything it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(code)


def _tie_to(parent: int, life: int) -> None:
    """Let the kernel end this process with its worker, whatever runs here then; with all it started, where it can.

    The worker holds the other end of `life`, which is closed however it ends. Linux is asked to answer that with a
    SIGKILL to the whole group. As a second rope it is to send SIGTERM, should a copy of that end be held elsewhere: not
    SIGKILL, which would come first (one thread dies before the files of all are closed) and would leave the others.
    The third one is the end of the connection.
    """
    if sys.platform == "linux":
        if os.getpgrp() == os.getpid():
            fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(life, _F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before the ropes were tied
        os._exit(ORPHANED)


_F_SETSIG: Final = 10


def main() -> int:
    app, fds, parent = sys.argv[1:4]
    link_fd, life, stack = (int(fd) for fd in fds.split(","))
    for fd in (link_fd, life, stack):
        os.set_inheritable(fd, False)
    child = Child(Link(link_fd), parent=int(parent))
    # Handlers rather than SIG_IGN, which what a handler starts would inherit.
    signal.signal(signal.SIGTERM, child.terminate)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    _tie_to(int(parent), life)
    faulthandler.enable(stack, all_threads=False)
    faulthandler.register(signal.SIGUSR1, stack)
    sys.argv[:] = [app]
    return child.serve(app)


if __name__ == "__main__":
    # The module by its name, as everybody else imports it: there shall not be two of each class.
    from stem.worker import child

    sys.exit(child.main())
