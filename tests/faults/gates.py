"""Gates: a handler waits before one until the test opens it, so that no test must be quicker than a handler."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from tests.waiting import eventually, wait_until

HOURS_S: Final = 7_200.0


def shut(gate: str) -> bool:
    """Say whether a gate is not open yet."""
    return not os.path.exists(gate)


async def pass_gate(gate: str) -> None:
    """Wait as a good handler does."""
    await eventually(lambda: not shut(gate), HOURS_S)


def open_gate(gate: Path) -> None:
    gate.touch()


def make_lock(lock: Path) -> str:
    """Make a gate that is waited for in one call of C code."""
    os.mkfifo(lock)
    return str(lock)


def open_lock(lock: Path) -> None:
    """Let the one go who waits there, or is about to."""

    def opened() -> bool:
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody waits yet
                raise
            return False
        return True

    wait_until(opened, what="somebody waits at the lock")


def wait_at_lock(lock: str) -> None:
    os.close(os.open(lock, os.O_RDONLY))


def wait_at_lock_with_gil(lock: str) -> None:
    """Wait, and hold the interpreter lock: no thread of the process runs."""
    os.close(ctypes.PyDLL(None).open(lock.encode(), os.O_RDONLY))
