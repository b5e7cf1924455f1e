"""stdin, stdout and stderr as a caller may have left them: closed, or with nobody who reads them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO


def fill_gaps() -> None:
    """Open what a caller closed of stdin, stdout and stderr, or connections would get these numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def give_up(stream: TextIO | None) -> None:
    """Throw away what waits to be written, or Python would complain once more at its exit, and change the exit code."""
    if stream is not None:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
