"""The real program with a stop watch in it. Between SIGUSR1 and SIGUSR2 it measures; then it writes what it found.
SIGHUP opens the list of all tasks.

The file of STEM_BENCH_REPORT gets a line of JSON per second with what is held, and at SIGUSR2 one with the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from textual.screen import Screen

import stem.observe.state
import stem_tui.app
from stem.messages.event import Event
from stem_tui.__main__ import main
from stem_tui.screens.lists import TasksScreen
from stem_tui.widgets.grid import Grid

HELD: Final = 100_000
LAG_S: Final = 0.005
EACH: Final = 5
"""The age of every so-manieth event is taken."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def rss_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """What was measured in one stretch of time."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.cpu_s = time.process_time()
        self.draws_s: list[float] = []
        self.paints_s: list[float] = []
        self.frames_s: list[float] = []
        self.frames_cpu_s: list[float] = []
        self.lags_s: list[float] = []
        self.ages_ms: list[float] = []
        self.painted: list[int | None] = []
        """Of each key how much had been written when its move was painted; None where it moved nothing."""
        self.events = 0
        self.bytes = 0

    def report(self) -> dict[str, Any]:
        passed_s = time.monotonic() - self.began_s
        return {
            "seconds": passed_s,
            "flushes_per_s": len(self.draws_s) / passed_s,
            "events_per_s": self.events / passed_s,
            "lag_p99_ms": quantile(self.lags_s, 0.99) * 1000,
            "lag_max_ms": max(self.lags_s, default=0.0) * 1000,
            "draw_p50_ms": quantile(self.draws_s, 0.5) * 1000,
            "draw_p95_ms": quantile(self.draws_s, 0.95) * 1000,
            "paint_p95_ms": quantile(self.paints_s, 0.95) * 1000,
            "frame_p50_ms": quantile(self.frames_s, 0.5) * 1000,
            "frame_p95_ms": quantile(self.frames_s, 0.95) * 1000,
            "frame_cpu_p50_ms": quantile(self.frames_cpu_s, 0.5) * 1000,
            "frame_cpu_p95_ms": quantile(self.frames_cpu_s, 0.95) * 1000,
            "age_p50_ms": quantile(self.ages_ms, 0.5),
            "age_p95_ms": quantile(self.ages_ms, 0.95),
            "cpu_percent": (time.process_time() - self.cpu_s) / passed_s * 100,
            "rss_mb": rss_mb(),
            "out_kb_per_s": self.bytes / passed_s / 1000,
            "painted": self.painted,
        }


class ProbedTUI(stem_tui.app.StemTUI):
    """The dashboard, measured."""

    CSS_PATH = Path(stem_tui.app.__file__).with_name("stem.tcss")
    watch: Watch | None = None
    written = 0
    moved = False
    drawn_s = drawn_cpu_s = 0.0
    unseen: list[int]

    def on_mount(self) -> None:
        self.unseen = []
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._begin)
        loop.add_signal_handler(signal.SIGUSR2, self._end)
        loop.add_signal_handler(signal.SIGHUP, lambda: self.run_worker(self._list_all()))
        self._tasks = [loop.create_task(self._lag()), loop.create_task(self._tell())]
        self._count_what_is_written()
        self._take_ages()

    def _begin(self) -> None:
        self.unseen.clear()
        self.watch = Watch()

    def _end(self) -> None:
        watch, self.watch = self.watch, None
        if watch is not None:
            state = self.session.state
            self._report({"done": True, "tasks": len(state.tasks), "errors": self.errors, **watch.report()})

    async def _list_all(self) -> None:
        await self.action_mode("tasks")
        screen = self.screen
        assert isinstance(screen, TasksScreen)
        screen.show_tab("all")

    def _report(self, row: dict[str, Any]) -> None:
        with open(os.environ["STEM_BENCH_REPORT"], "a") as file:
            file.write(json.dumps(row) + "\n")

    async def _tell(self) -> None:
        while True:
            state = self.session.state
            self._report({"tasks": len(state.tasks), "workers": len(state.workers), "running": len(state.running)})
            await asyncio.sleep(1.0)

    async def _lag(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(LAG_S)
            if self.watch is not None:
                self.watch.lags_s.append(time.monotonic() - before_s - LAG_S)

    def _count_what_is_written(self) -> None:
        driver = self._driver
        assert driver is not None
        write = driver.write

        def counted(data: str) -> None:
            # The terminal makes two bytes of a line feed.
            size = len(data.encode("utf-8", "replace")) + data.count("\n")
            self.written += size
            if self.watch is not None:
                self.watch.bytes += size
            write(data)

        driver.write = counted  # type: ignore[method-assign]

    def _take_ages(self) -> None:
        state = self.session.state
        apply = state.apply_events

        def applied(events: Sequence[Event]) -> None:
            apply(events)
            self.unseen += [event.at_ms for event in events[::EACH]]
            if self.watch is not None:
                self.watch.events += len(events)

        state.apply_events = applied  # type: ignore[method-assign,assignment]

    def _tick(self) -> None:
        before, began_s, began_cpu_s = self._drawn_s, time.monotonic(), time.thread_time()
        super()._tick()
        if self._drawn_s != before and self.watch is not None:
            self.drawn_s, self.drawn_cpu_s = time.monotonic() - began_s, time.thread_time() - began_cpu_s
            self.watch.draws_s.append(self.drawn_s)

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        super()._display(screen, renderable)
        watch = self.watch
        if watch is None:
            return
        if self.moved:
            self.moved = False
            watch.painted.append(self.written)
        if self.drawn_s:
            now_ms = time.time() * 1000
            watch.ages_ms += [now_ms - at_ms for at_ms in self.unseen]
            self.unseen.clear()


def _timed_paint(screen: Screen[Any]) -> None:
    began_s, began_cpu_s = time.monotonic(), time.thread_time()
    _paint(screen)
    app = screen.app
    if isinstance(app, ProbedTUI) and app.watch is not None:
        took_s = time.monotonic() - began_s
        app.watch.paints_s.append(took_s)
        if app.drawn_s:
            app.watch.frames_s.append(app.drawn_s + took_s)
            app.watch.frames_cpu_s.append(app.drawn_cpu_s + time.thread_time() - began_cpu_s)
            app.drawn_s = 0.0


def _timed_go(grid: Grid, index: int) -> None:
    before = grid._index
    _go(grid, index)
    app = grid.app
    if isinstance(app, ProbedTUI) and app.watch is not None:
        if grid._index != before:
            app.moved = True
        else:
            app.watch.painted.append(None)


_paint = Screen._on_timer_update
_go = Grid._go

if __name__ == "__main__":
    Screen._on_timer_update = _timed_paint  # type: ignore[method-assign]
    Grid._go = _timed_go  # type: ignore[method-assign]
    stem_tui.app.StemTUI = ProbedTUI  # type: ignore[misc]
    stem.observe.state.FINISHED_KEPT = HELD  # type: ignore[misc]
    sys.exit(main())
