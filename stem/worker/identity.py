"""Who a worker is: fixed at its start, said in every heartbeat."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import field
from importlib.metadata import PackageNotFoundError, version

from stem.messages.names import check_name
from stem.record import record
from stem.worker import host


def stem_version() -> str:
    try:
        return version("stem-workers")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


@record
class Identity:
    """`id` is unique per start, `name` is stable over restarts."""

    id: str
    name: str
    host: str
    pid: int = field(default_factory=os.getpid)
    version: str = field(default_factory=stem_version)
    started_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    python: str = field(default_factory=platform.python_version)


def new_identity(name: str | None) -> Identity:
    """Return the identity of one start; without a name, the host's.

    Raises:
        InvalidNameError: the name is ill-formed.
    """
    here = host.host_name()
    chosen = check_name("worker", here if name is None else name)
    return Identity(id=host.new_worker_id(here), name=chosen, host=here)
