"""stdin, stdout and stderr of a program that may have been given none, a full one, or one that lacks characters."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from stem.streams import fill_gaps, give_up


def prepare() -> None:
    """Open what a caller closed, or connections would get these numbers; and let no text fail at stdout's encoding."""
    fill_gaps()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def takes_all() -> bool:
    """Say whether stdout has every character there is."""
    out: TextIO | None = sys.stdout
    return out is None or "utf" in (out.encoding or "").lower()


def say(words: str) -> None:
    """Write a line to stderr, if there is one that takes it."""
    err: TextIO | None = sys.stderr
    if err is None:
        return
    try:
        err.write(f"stem-tui: {words}\n")
        err.flush()
    except OSError:
        give_up(err)
