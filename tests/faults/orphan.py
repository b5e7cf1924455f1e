"""A worker process under test ends with the tests that started it, also when they are killed with SIGKILL (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

from tests.faults.ledger import PARENT_VARIABLE

CHILD: Final = "stem.worker.child"


def end_with_tests() -> None:
    """Ask the kernel to kill this process when its parent is gone; nothing where there is no prctl."""
    parent = os.environ.get(PARENT_VARIABLE)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if not parent or prctl is None or CHILD in sys.orig_argv:
        return  # a child process ends with its worker, and that with its supervisor: Stem's business, and tested
    prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(1)
