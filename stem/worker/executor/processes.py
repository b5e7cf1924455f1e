"""Runs handlers in child processes, one task at a time each. Knows nothing of brokers, retries or leases.

Not `concurrent.futures`: there the death of one child fails the work of all, and none can be ended by itself.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from stem.errors import HandlerError, StemError
from stem.messages.codec import Fields, unpack
from stem.task import Signature
from stem.text import clean
from stem.worker import host
from stem.worker.executor.childprocess import ChildProcess
from stem.worker.wire import frame, heard_failure, heard_signature, told_refusal

log = logging.getLogger("stem.worker")

TERM_GRACE_S: Final = 2.0
"""How long a child that is ended may clean up before it is killed."""
CLOSE_GRACE_S: Final = 3.0
READY_WITHIN_S: Final = 300.0
"""What an import or a `worker_child_init` may take, also where many children start at once on few cores; one that hangs
would keep what waits for the child for ever."""
START_TRIES: Final = 3
"""After so many children in a row that could not start, what waits for one is failed."""
LONGEST_START_PAUSE_S: Final = 10.0
LONGEST_CRASH_PAUSE_S: Final = 1.0
SHORTEST_PAUSE_S: Final = 0.1
STACK_WAIT_S: Final = 0.3
COUNTERS: Final = ("started", "recycled", "crashed", "killed", "unusable")


class ProcessWork(Protocol):
    """A piece of work, as this executor sees it. Everything is called on the work loop."""

    saw_revoke: bool
    """The handler has looked, and knows that it is revoked."""

    def begin(self) -> bool:
        """Called right before it is given to a child; False means: do not run it, it was taken back."""

    def order(self) -> Mapping[str, Any]:
        """Return what the child is told."""

    def succeeded(self, result: Any) -> None: ...

    def failed(self, error: BaseException) -> None: ...

    def dropped(self) -> None: ...

    def died(self, how: str, *, trace: str, killed: bool) -> None:
        """Its child has ended, and with it whatever it did; `how` says how, for people.

        Args:
            trace: what the child's interpreter said of its last moment; often nothing.
            killed: it was ended from here, by `end` or with all others.
        """

    def progress_told(self, packed: bytes) -> None: ...

    def extend_lease(self, seconds: float) -> None: ...

    def enqueue(self, signature: Signature) -> Coroutine[Any, Any, str]: ...


@dataclass(slots=True, eq=False)
class _Child:
    """A process and what it is doing."""

    process: ChildProcess
    start_limit: asyncio.TimerHandle
    ready: bool = False
    work: ProcessWork | None = None
    told_end: bool = False
    leaving: bool = False
    done: int = 0
    rss_bytes: int = 0
    stack_at: int = 0
    complaint: str = ""


class ProcessExecutor:
    """A pool of child processes: started when they are needed, kept warm, replaced when they end.

    Belongs to the work loop; `rows`, `stacks`, `kill_all`, `alive` and the counts may be used from any thread.

    Args:
        app: reference of the application that children import; None: there can be no child.
        size: how many tasks run at once.
        hello: what each child is told first.
        max_tasks: a child is replaced after so many; `max_memory`: when it holds more bytes after a task.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        size: int,
        *,
        app: str | None,
        hello: Mapping[str, Any],
        max_tasks: int | None = None,
        max_memory: int | None = None,
    ) -> None:
        self._loop = loop
        self._size = size
        self._app = app
        self._hello = hello
        self._max_tasks = max_tasks
        self._max_memory = max_memory
        self._queue: deque[ProcessWork] = deque()
        self._children: dict[ChildProcess, _Child] = {}
        self._running: dict[ProcessWork, _Child] = {}
        self._asks: set[asyncio.Task[None]] = set()
        self._start_failures = 0
        self._crashes_in_a_row = 0
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied = asyncio.Event()
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)

    @property
    def usable(self) -> bool:
        """There is an application to import."""
        return self._app is not None

    @property
    def size(self) -> int:
        return self._size

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> int:
        return len(self._running)

    # --------------------------------------------------------------------------------------------------- the work loop

    def start(self, work: ProcessWork) -> None:
        """Run `work` as soon as a child is free."""
        self._queue.append(work)
        self._turn()

    def take_back(self, work: ProcessWork) -> bool:
        """Take `work` out of the waiting line; False if it has begun."""
        try:
            self._queue.remove(work)
        except ValueError:
            return False
        return True

    def interrupt(self, work: ProcessWork) -> None:
        """Raise `SoftTimeLimitExceeded` in the handler, if it runs."""
        self.tell(work, "soft")

    def tell(self, work: ProcessWork, what: str) -> None:
        """Let the handler's context know that its task is `revoked` or `lost`."""
        child = self._running.get(work)
        if child is not None:
            child.process.send(frame(what))

    def end(self, work: ProcessWork) -> None:
        """End the child that runs `work`, and its group: told first, killed after a grace; `died` says when it is gone.

        Whatever the handler still returns counts no more.
        """
        child = self._running.get(work)
        if child is not None and not child.told_end:
            child.told_end = True
            self.counters["killed"] += 1
            child.process.end(TERM_GRACE_S)

    async def close(self) -> None:
        """End all children, idle ones politely; returns when they are gone, or do not go although they were killed."""
        self._closed = True
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        for child in list(self._children.values()):
            if child.work is None and child.ready:
                self._dismiss(child)
            else:
                child.process.kill()
        for ask in self._asks:
            ask.cancel()
        try:
            async with asyncio.timeout(CLOSE_GRACE_S):
                await self._gone()
        except TimeoutError:
            self.kill_all()
            try:
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._gone()
            except TimeoutError:
                log.error("children.left", extra={"pids": " ".join(str(each.pid) for each in self._children)})

    async def _gone(self) -> None:
        while self._children:
            self._emptied.clear()
            await self._emptied.wait()

    # ------------------------------------------------------------------------------------------------------ any thread

    def kill_all(self) -> None:
        """Kill every child now and start none any more."""
        self._closed = True
        for process in list(self._children):
            process.kill()

    def alive(self) -> int:
        """Return how many have not ended."""
        return sum(process.alive() for process in list(self._children))

    def rows(self) -> list[dict[str, Any]]:
        """Return what `inspect children` shows."""
        now, rows = time.monotonic(), []
        for process, child in list(self._children.items()):
            work = child.work
            rows.append(
                {
                    "pid": process.pid,
                    "state": _state(child),
                    "task_id": getattr(work, "id", ""),
                    "tasks_done": child.done,
                    "rss_bytes": host.rss_bytes(process.pid) or child.rss_bytes,
                    "age_s": round(now - process.started_at, 1),
                }
            )
        return rows

    def stacks(self) -> list[dict[str, Any]]:
        """Return where each child is, as it says itself; waits for that for a moment."""
        asked = [(process, process.stack_size()) for process, child in list(self._children.items()) if child.ready]
        for process, _ in asked:
            process.ask_stack()
        deadline = time.monotonic() + STACK_WAIT_S
        while time.monotonic() < deadline and any(process.stack_size() <= size for process, size in asked):
            time.sleep(0.005)
        return [{"pid": process.pid, "stack": process.read_stack(size).splitlines()} for process, size in asked]

    # --------------------------------------------------------------------------------------------------------- private

    def _turn(self) -> None:
        """Give waiting work to idle children, and start as many as are missing."""
        idle = [child for child in self._children.values() if child.ready and child.work is None and not child.leaving]
        while self._queue and idle:
            if not idle[-1].process.over:  # or the task would be charged its end
                self._give(idle[-1], self._queue.popleft())
            idle.pop()
        present = [child for child in self._children.values() if not child.leaving and not child.told_end]
        starting = sum(not child.ready for child in present)
        for _ in range(min(len(self._queue) - starting, self._size - len(present))):
            if self._closed or not self._spawn():
                return

    def _give(self, child: _Child, work: ProcessWork) -> None:
        if not work.begin():
            work.dropped()
            self._loop.call_soon(self._turn)
            return
        child.work = work
        child.stack_at = child.process.stack_size()
        self._running[work] = child
        child.process.send(frame("run", **work.order()))

    def _spawn(self) -> bool:
        wait_s = self._not_before - time.monotonic()
        if wait_s > 0:
            self._later(wait_s)
            return False
        assert self._app is not None
        try:
            process = ChildProcess(self._app, self._loop, heard=self._heard, ended=self._ended)
        except OSError as error:
            self._could_not_start(f"{type(error).__name__}: {error}")
            return False
        self.counters["started"] += 1
        limit = self._loop.call_later(READY_WITHIN_S, self._not_ready, process)
        self._children[process] = _Child(process, limit)
        process.send(frame("hello", **self._hello))
        return True

    def _not_ready(self, process: ChildProcess) -> None:
        child = self._children[process]
        child.complaint = child.complaint or f"it was not ready after {READY_WITHIN_S:g} s"
        process.kill()

    def _later(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, self._turn)

    def _dismiss(self, child: _Child) -> None:
        """Let an idle child end."""
        child.leaving = True
        child.process.send(frame("stop"))
        self._loop.call_later(CLOSE_GRACE_S, child.process.kill)

    # ------------------------------------------------------------------------------------------- what children say

    def _heard(self, process: ChildProcess, message: Fields) -> None:
        child = self._children[process]
        kind = message.text("kind")
        if kind == "ready":
            if child.complaint:
                return  # too late: it is being killed
            child.start_limit.cancel()
            child.ready = True
            self._start_failures = 0
            self._turn()
            return
        if kind == "broken":
            child.complaint = message.text("error")
            return
        work = child.work
        if work is None or child.told_end:
            return  # too late: it is being ended for what it did
        match kind:
            case "progress":
                work.progress_told(message.bytes_("value"))
            case "extend":
                work.extend_lease(float(message.number("seconds")))
            case "ask":
                self._ask(child, work, message.integer("number"), message.bytes_("signature"))
            case "done" | "failed":
                self._finished(child, work, message, kind)
            case _:
                pass  # of a newer version

    def _finished(self, child: _Child, work: ProcessWork, message: Fields, kind: str) -> None:
        result, error = None, None
        if kind == "done":
            result = unpack(message.bytes_("result"), what="result of a child process")
        else:
            error = heard_failure(message)
        work.saw_revoke = work.saw_revoke or message.boolean("saw_revoke")
        child.rss_bytes = message.integer("rss")
        child.work = None
        child.done += 1
        self._crashes_in_a_row = 0
        del self._running[work]
        if error is None:
            work.succeeded(result)
        else:
            work.failed(error)
        self._recycle(child)
        self._turn()

    def _recycle(self, child: _Child) -> None:
        enough = self._max_tasks is not None and child.done >= self._max_tasks
        large = self._max_memory is not None and child.rss_bytes > self._max_memory
        if not (enough or large) or self._closed:
            return
        self.counters["recycled"] += 1
        log.info(
            "child.recycled",
            extra={"pid": child.process.pid, "tasks_done": child.done, "rss_bytes": child.rss_bytes},
        )
        self._dismiss(child)

    def _ask(self, child: _Child, work: ProcessWork, number: int, signature: bytes) -> None:
        asking = self._loop.create_task(self._answer(child, work, number, signature), name="child's enqueue")
        self._asks.add(asking)
        asking.add_done_callback(self._asks.discard)

    async def _answer(self, child: _Child, work: ProcessWork, number: int, signature: bytes) -> None:
        try:
            answer: dict[str, Any] = {"id": await work.enqueue(heard_signature(signature))}
        except StemError as error:
            answer = told_refusal(error)
        except Exception as error:  # a broken broker adapter: the handler is told, the worker goes on
            log.exception("child.enqueue_failed")
            answer = told_refusal(StemError(f"{type(error).__name__}: {clean(error, 300)}"))
        child.process.send(frame("answer", number=number, **answer))

    # ------------------------------------------------------------------------------------------------ how they end

    def _ended(self, process: ChildProcess) -> None:
        child = self._children.pop(process)
        child.start_limit.cancel()
        code = process.exit_code
        assert code is not None
        if not self._children:
            self._emptied.set()
        work, child.work = child.work, None
        if work is not None:
            del self._running[work]
            self._died(child, work, code)
        elif not child.ready and not self._closed:
            self._could_not_start(child.complaint or process.complaint or f"it {_end_of(code)}")
        elif not child.leaving and not self._closed:
            log.warning("child.ended", extra={"pid": process.pid, "end": _end_of(code), "complaint": process.complaint})
        if not self._closed:
            self._turn()

    def _died(self, child: _Child, work: ProcessWork, code: int) -> None:
        process = child.process
        how = f"child process {process.pid} {_end_of(code)}"
        if process.complaint:
            how = f"child process {process.pid} was killed because {process.complaint}"
        killed = child.told_end or self._closed
        if not killed:
            self.counters["crashed"] += 1
            self._crashes_in_a_row += 1
            if self._crashes_in_a_row > self._size:
                self._pause(self._crashes_in_a_row - self._size, LONGEST_CRASH_PAUSE_S)
            log.error("child.crashed", extra={"pid": process.pid, "end": _end_of(code), "tasks_done": child.done})
        work.died(how, trace=process.read_stack(child.stack_at).strip(), killed=killed)

    def _could_not_start(self, why: str) -> None:
        self.counters["unusable"] += 1
        self._start_failures += 1
        log.error("child.unusable", extra={"error": clean(why, 500), "in_a_row": self._start_failures})
        self._pause(self._start_failures, LONGEST_START_PAUSE_S)
        if self._start_failures >= START_TRIES:
            # Better a failure that says why, and is retried as any other, than work that waits for ever.
            waiting, self._queue = self._queue, deque()
            for work in waiting:
                if work.begin():
                    work.failed(HandlerError(f"no child process can start: {why}", type="WorkerLostError"))
                else:
                    work.dropped()
        elif self._queue:
            self._later(max(0.0, self._not_before - time.monotonic()))

    def _pause(self, times: int, longest_s: float) -> None:
        self._not_before = time.monotonic() + min(longest_s, SHORTEST_PAUSE_S * 2 ** min(times, 20))


def _state(child: _Child) -> str:
    if child.told_end:
        return "ending"
    if child.leaving:
        return "leaving"
    if not child.ready:
        return "starting"
    return "idle" if child.work is None else "busy"


def _end_of(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code} in the middle of its work" if code == 0 else f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
