"""stdin, stdout and stderr as a caller may have left them: closed, or with nobody who reads them."""

from __future__ import annotations

import os
import sys
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


def on_terminal(*streams: TextIO | None) -> bool:
    """Say whether all of these are there, and a terminal."""
    return all(stream is not None and not stream.closed and stream.isatty() for stream in streams)


def can_draw() -> bool:
    """Say whether a dashboard can be shown: it reads stdin and draws on stderr, and a dumb terminal has no screen."""
    return on_terminal(sys.stdin, sys.stdout, sys.stderr) and os.environ.get("TERM") != "dumb"
