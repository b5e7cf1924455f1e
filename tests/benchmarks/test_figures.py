"""The numbers that the benchmark computes from what it measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures, records
from benchmarks.contestants import ROOT
from benchmarks.records import Record

SECOND = 1_000_000_000


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(100, 0, -1)]

    assert figures.percentile(values, 0.5) == 50
    assert figures.percentile(values, 0.99) == 99
    assert figures.percentile(values, 1) == 100
    assert figures.percentile([7.0], 0.99) == 7


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.5)])
def test_a_percentile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        figures.percentile(values, share)


@pytest.mark.parametrize(
    ("value", "text"),
    [(18_432.7, "18 400"), (1_234_567.0, "1 230 000"), (0.42513, "0.425"), (3.0, "3"), (0.0, "0"), (99.96, "100")],
)
def test_figures_are_shown_with_three_digits(value: float, text: str) -> None:
    assert figures.shown(value) == text


def test_no_ratio_to_nothing() -> None:
    assert figures.ratio(3, 2) == 1.5
    assert figures.ratio(3, 0) is None


def _stream(pid: int, *, start_s: float, every_s: float, records_: int, count: int = 50) -> list[Record]:
    """Return the records of a process that needs `every_s` for each `count` runs, at 40 % CPU."""
    return [
        Record(pid, count, int((start_s + n * every_s) * SECOND), int(n * every_s * 0.4 * SECOND), 0)
        for n in range(records_)
    ]


def test_the_rate_of_one_process_leaves_the_warm_up_out() -> None:
    slow = _stream(1, start_s=0, every_s=5, records_=2)
    fast = _stream(1, start_s=5.1, every_s=0.1, records_=10)

    span = records.window([*slow, *fast], warm_up=100)

    assert span.tasks == 500
    assert span.per_s == pytest.approx(500)


def test_cpu_is_per_task_of_the_window() -> None:
    span = records.window(_stream(1, start_s=0, every_s=0.1, records_=11), warm_up=50)

    assert span.cpu_us == pytest.approx(0.04 / 50 * 1e6)


def test_two_processes_count_while_both_are_at_work() -> None:
    """The first runs alone from 0 to 10 s, the second alone from 20 to 30 s: neither stretch counts."""
    first = _stream(1, start_s=0, every_s=0.1, records_=201)
    second = _stream(2, start_s=10, every_s=0.1, records_=201)

    span = records.window([*first, *second], warm_up=0, processes=2)

    assert span.seconds == pytest.approx(10)
    assert span.per_s == pytest.approx(1000, rel=0.02)


def test_processes_that_never_met_have_no_rate() -> None:
    apart = [*_stream(1, start_s=0, every_s=0.1, records_=5), *_stream(2, start_s=9, every_s=0.1, records_=5)]

    with pytest.raises(ValueError, match="same time"):
        records.window(apart, warm_up=0, processes=2)


def test_a_process_too_few_is_noticed() -> None:
    with pytest.raises(ValueError, match="1 processes ran tasks where 2 were expected"):
        records.window(_stream(1, start_s=0, every_s=0.1, records_=5), warm_up=0, processes=2)


def test_a_process_for_each_task_is_one_stream() -> None:
    """As rq's fork for each job: the rate is that of all together, and no CPU time is claimed."""
    forks = [Record(100 + n, 1, n * SECOND // 10, 5_000_000, 0) for n in range(11)]

    span = records.window(forks, warm_up=1)

    assert span.per_s == pytest.approx(10)
    assert span.cpu_s == 0


def test_the_stopwatch_writes_what_is_read(tmp_path: Path) -> None:
    """It runs in other environments and can import nothing of ours: only this test ties the two together."""
    script = (
        "import os, threading, time\nfrom benchmarks.peers import stopwatch\n"
        "def run():\n    for _ in range(100):\n        stopwatch.tick()\n"
        "threads = [threading.Thread(target=run) for _ in range(3)]\n"
        "[each.start() for each in threads]\n[each.join() for each in threads]\n"
        "stopwatch.mark(time.time_ns() - 2_000_000_000)\n"
    )
    env = os.environ | {"BENCH_REPORT": str(tmp_path / "report"), "BENCH_STEP": "50", "PYTHONPATH": str(ROOT)}

    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=20)

    data = (tmp_path / "report").read_bytes()
    found = records.parse(data + b"half a record")
    assert records.total(found) == 301
    assert [each.count for each in found] == [50] * 6 + [1]
    assert found[-1].value_ns >= 2_000_000_000
    assert len({each.pid for each in found}) == 1
    assert sorted(each.cpu_ns for each in found) == [each.cpu_ns for each in found]
