"""Counts the runs of a task inside the worker, and notes when they were. Needs nothing but Python.

Every `BENCH_STEP` runs one record goes to the end of the file `BENCH_REPORT`: process id, runs since the last record,
monotonic time, CPU time of the process, and for `mark` how late the run was. Several processes may write to one file:
an append of a few bytes is one step. `benchmarks/records.py` reads it.
"""

import os
import struct
import threading
import time

STEP = int(os.environ.get("BENCH_STEP", "50"))
REPORT = os.environ.get("BENCH_REPORT", "")
RECORD = struct.Struct("<IIqqq")

_lock = threading.Lock()
_count = 0
_file = -1


def tick() -> None:
    """Count one run."""
    global _count
    with _lock:
        _count += 1
        if _count == STEP:
            _count = 0
            _write(STEP, 0)


def mark(at_ns: int) -> None:
    """Note how long after `at_ns`, by the wall clock, this is."""
    late_ns = time.time_ns() - at_ns
    with _lock:
        _write(1, late_ns)


def _write(count: int, value_ns: int) -> None:
    global _file
    if _file < 0:
        _file = os.open(REPORT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_file, RECORD.pack(os.getpid(), count, time.monotonic_ns(), time.process_time_ns(), value_ns))
