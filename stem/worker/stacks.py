"""What every thread and every asyncio task is doing now, as text; callable from any thread."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from stem.worker.executor.aio import RAISING_SOFT_LIMIT

MAX_TASKS: Final = 50
MAX_LINES: Final = 40


def thread_stacks() -> list[dict[str, Any]]:
    """Return each thread's name, id and stack lines, innermost last; the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames: Mapping[int, FrameType] = sys._current_frames()
    main = threading.main_thread().ident
    ordered = sorted(frames, key=lambda ident: (ident != main, ident))
    return [
        {"thread": names.get(ident, "?"), "ident": ident, "stack": _lines(traceback.extract_stack(frames[ident]))}
        for ident in ordered
    ]


def task_stacks(loop: asyncio.AbstractEventLoop | None) -> list[dict[str, Any]]:
    """Return name and stack lines of the tasks of `loop` (at most 50): where each of them waits."""
    if loop is None:
        return []
    try:
        tasks = list(asyncio.all_tasks(loop))
    except RuntimeError:  # the set kept changing under our eyes; the thread stacks still tell the story
        return []
    rows = []
    for task in sorted(tasks, key=lambda task: task.get_name())[:MAX_TASKS]:
        entries = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in _awaiting(task.get_coro()))
        rows.append({"task": task.get_name(), "stack": _lines(entries)})
    return rows


def report(loop: asyncio.AbstractEventLoop | None, children: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return all of it as text for stderr, with what child processes told of theirs."""
    parts = []
    for row in thread_stacks():
        parts.append(f"--- thread {row['thread']} ({row['ident']})")
        parts.extend(row["stack"])
    for row in task_stacks(loop):
        parts.append(f"--- asyncio task {row['task']}")
        parts.extend(row["stack"])
    for child in children:
        parts.append(f"--- child process {child['pid']}")
        parts.extend(child["stack"])
    return "\n".join(parts) + "\n"


def _awaiting(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it waits for; `Task.get_stack` knows the first one only."""
    for _ in range(MAX_LINES):
        frame = _attribute(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            return
        yield frame
        # The driver of soft limits steps the handler's coroutine by hand.
        stepped = frame.f_locals.get("coroutine") if frame.f_code is RAISING_SOFT_LIMIT else None
        coroutine = stepped or _attribute(coroutine, "cr_await", "gi_yieldfrom", "ag_await")


def _attribute(value: object, *names: str) -> Any:
    return next((found for name in names if (found := getattr(value, name, None)) is not None), None)


def _lines(entries: traceback.StackSummary) -> list[str]:
    return [
        f"{entry.filename}:{entry.lineno} in {entry.name}: {(entry.line or '').strip()}"
        for entry in entries[-MAX_LINES:]
    ]
