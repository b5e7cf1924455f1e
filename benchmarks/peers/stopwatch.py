"""Counts the runs of the no-op task inside the worker and writes how long they took. Needs nothing but Python."""

import os
import threading
import time

TOTAL = int(os.environ.get("BENCH_TOTAL", "0"))
WARM_UP = int(os.environ.get("BENCH_WARM_UP", "0"))
REPORT = os.environ.get("BENCH_REPORT", "")

_lock = threading.Lock()
_count = 0
_start = 0.0


def tick() -> None:
    """Count one run. The clock starts with the last run of the warm-up and stops with the last of all."""
    global _count, _start
    with _lock:
        _count += 1
        if _count == WARM_UP:
            _start = time.perf_counter()
        elif _count == WARM_UP + TOTAL:
            elapsed, cpu = time.perf_counter() - _start, time.process_time()
            with open(REPORT + ".part", "w", encoding="utf-8") as file:
                file.write(f"{elapsed} {cpu}")
            os.replace(REPORT + ".part", REPORT)
