"""What the operating system says of this process: its cores, memory, processor time, and a unique worker id."""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
import time
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the cores this process may use: the affinity mask, and less where a cgroup sets a quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        count = os.cpu_count() or 1
    quota = cgroup_quota(_CGROUP)
    if quota is not None:
        count = min(count, max(1, math.ceil(quota)))
    return max(1, count)


def cgroup_quota(root: Path) -> float | None:
    """Return the processor quota of this cgroup in cores, None where there is none (version 2, then version 1)."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        micros = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
        return micros / period_us if micros > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process, by default this one; 0 where it cannot be told."""
    try:
        statm = Path(f"/proc/{'self' if pid is None else pid}/statm")
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def host_name() -> str:
    """Return this host's name, reduced to the characters a worker name may have."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:40] or "host"


def new_worker_id(host: str) -> str:
    """Return an id that no other start of any worker has."""
    return f"{host[:40]}-{os.getpid()}-{secrets.token_hex(4)}"


class CpuMeter:
    """Processor time of this process between two readings, in percent of one core."""

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._used = time.process_time()

    def percent(self) -> float:
        now, used = time.monotonic(), time.process_time()
        elapsed = now - self._at
        percent = 100.0 * (used - self._used) / elapsed if elapsed > 0 else 0.0
        self._at, self._used = now, used
        return round(percent, 1)
