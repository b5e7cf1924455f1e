"""Runs plain functions in threads of its own. Knows nothing of brokers, retries or leases.

Not `concurrent.futures`: its threads are joined when the interpreter exits, so one handler that never returns would
keep the process alive; and they cannot be told apart, which interrupting one handler needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Protocol

from stem.errors import SoftTimeLimitExceeded

log = logging.getLogger("stem.worker")


class ThreadWork(Protocol):
    """A piece of work, as this executor sees it."""

    def begin(self) -> bool:
        """Called in the thread right before the handler; False means: do not run it, it was taken back.

        An interrupt may be raised in it: the work has `failed` then, and has not begun.
        """

    def call(self) -> Any: ...

    def succeeded(self, result: Any) -> None:
        """Called on the work loop."""

    def failed(self, error: BaseException) -> None:
        """Called on the work loop."""

    def dropped(self) -> None:
        """Called on the work loop: it was taken back before it began."""


class ThreadExecutor:
    """A pool of daemon threads that starts them as they are needed.

    `start` and the `waiting` count belong to the work loop; `interrupt` may be called from any thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int, *, name: str = "stem-handler") -> None:
        self._loop = loop
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._queue: deque[ThreadWork] = deque()
        self._idle = 0
        self._threads: set[_Thread] = set()
        self._running: dict[ThreadWork, _Thread] = {}
        self._done: list[Callable[[], None]] = []
        self._closed = False
        self._short = False
        self._serial = 0

    @property
    def size(self) -> int:
        return self._size

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def start(self, work: ThreadWork) -> None:
        """Run `work` as soon as a thread is free; it is dropped when there is none and the system gives none."""
        with self._lock:
            self._queue.append(work)
            if self._idle >= len(self._queue):
                self._wanted.notify()
                return
            if len(self._threads) >= self._size or self._start_thread() or self._threads:
                return
            self._queue.remove(work)
        self.report(work.dropped)

    def take_back(self, work: ThreadWork) -> bool:
        """Take `work` out of the waiting line; False if it has begun."""
        with self._lock:
            try:
                self._queue.remove(work)
            except ValueError:
                return False
            return True

    def interrupt(self, work: ThreadWork, exception: type[BaseException]) -> bool:
        """Raise `exception` in the thread that runs `work`, at its next bytecode; False if it does not run.

        A thread inside a blocking call of C code notices only when that call returns.
        """
        with self._lock:
            thread = self._running.get(work)
            if thread is None or thread.ident is None:
                return False
            thread.interrupted = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(exception))
            return True

    def close(self) -> None:
        """Let idle threads end; those that run a handler end with it, or with the process."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._wanted.notify_all()

    def _start_thread(self) -> bool:
        self._serial += 1
        thread = _Thread(self, f"{self._name}-{self._serial}")
        try:
            thread.start()
        except RuntimeError as error:  # the next piece of work tries again
            if not self._short:
                log.error("thread.not_started", extra={"error": str(error), "threads": len(self._threads)})
            self._short = True
            return False
        self._short = False
        self._threads.add(thread)
        return True

    # ------------------------------------------------------------------------------------- called by the threads

    def next_work(self, thread: _Thread) -> ThreadWork | None:
        with self._lock:
            while not self._queue:
                if self._closed:
                    self._threads.discard(thread)
                    return None
                self._idle += 1
                self._wanted.wait()
                self._idle -= 1
            return self._queue.popleft()

    def enter(self, work: ThreadWork, thread: _Thread) -> None:
        """Interrupts reach the thread from now on."""
        with self._lock:
            self._running[work] = thread

    def release(self, work: ThreadWork, thread: _Thread) -> None:
        """No interrupt can reach the thread after this."""
        with self._lock:
            self._running.pop(work, None)
            if thread.interrupted:
                thread.interrupted = False
                # It may not have been raised yet; it must not hit the next piece of work.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)

    def report(self, call: Callable[[], None]) -> None:
        """Run `call` on the work loop; many ends share one wake-up of it."""
        with self._lock:
            self._done.append(call)
            if len(self._done) > 1:
                return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: the program is over, and nobody is left to be told
            self._done.clear()

    def _deliver(self) -> None:
        with self._lock:
            calls, self._done = self._done, []
        for call in calls:
            try:
                call()
            except Exception:  # a fault of ours in one end: the others are told all the same
                log.exception("thread.end_lost")


class _Thread(threading.Thread):
    def __init__(self, pool: ThreadExecutor, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._pool = pool
        self.interrupted = False

    def run(self) -> None:
        while (work := self._pool.next_work(self)) is not None:
            self._run(work)
            del work

    def _run(self, work: ThreadWork) -> None:
        # An interrupt is raised at some bytecode after it was asked for, so also right after the handler: whatever
        # happens between `enter` and `release`, the work has one end, and it is reported.
        pool = self._pool
        ends: list[Callable[[], None]] = []
        while True:
            try:
                if not ends:
                    ends.append(self._call(work))
                pool.release(work, self)
                break
            except SoftTimeLimitExceeded as late:
                if not ends:
                    ends.append(functools.partial(work.failed, late))
        end = ends.pop(0)
        pool.report(end)
        # An error holds this frame, and this frame would hold the error: what the handler held would stay with them.
        del end

    def _call(self, work: ThreadWork) -> Callable[[], None]:
        """Run the handler and return how to report its end."""
        try:
            # Before `begin`: whoever stops the work after `begin` has looked finds the thread, and the interrupt lands.
            self._pool.enter(work, self)
            if not work.begin():
                return work.dropped
            # In a context of its own, as a task on the loop has it: what it sets ends with it.
            return functools.partial(work.succeeded, copy_context().run(work.call))
        except BaseException as error:
            return functools.partial(work.failed, error)
