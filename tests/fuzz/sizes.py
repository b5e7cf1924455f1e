"""How much is tried, and from which seed. Printed by each run, so that a failure can be run again.

`STEM_FUZZ=full` tries 20 000 to 100 000 of each kind, as `python -m tests.fuzz` does; without it a share that fits into
`make test`. `STEM_FUZZ_SEED` sets the seed; it is random otherwise.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Final

from stem.worker.host import rss_bytes

FULL: Final = os.environ.get("STEM_FUZZ") == "full"
SEED: Final = int(os.environ.get("STEM_FUZZ_SEED") or secrets.randbits(32))
TIMEOUT_S: Final = 1_800 if FULL else 60


def size(share: int, full: int = 20_000) -> int:
    """Return how many to try: `share` in `make test`, `full` in the big run."""
    return full if FULL else share


def random_for(what: str) -> Random:
    """Return the source of chance of one test: the same for the same seed, whatever else runs."""
    return Random(f"{SEED} {what}")


class Counted:
    """What a run has tried so far.

    Attributes:
        slowest_s: the longest time between two counts.
        growth: tells by how many bytes memory grew since; set it to tell that of another process than this one.
    """

    def __init__(self) -> None:
        self.tried = 0
        self.accepted = 0
        self.slowest_s = 0.0
        before = rss_bytes()
        self.growth: Callable[[], int] = lambda: rss_bytes() - before
        self._last = time.monotonic()

    def add(self, accepted: int, *, tried: int = 1) -> None:
        """Count so many more tried, and of these so many accepted."""
        now = time.monotonic()
        self.slowest_s = max(self.slowest_s, now - self._last)
        self._last = now
        self.tried += tried
        self.accepted += accepted


@contextmanager
def reported(what: str) -> Iterator[Counted]:
    """Count, and print one line about it at the end; with a failure too."""
    counted = Counted()
    began = time.monotonic()
    try:
        yield counted
    finally:
        took = max(time.monotonic() - began, 1e-9)
        sys.stdout.write(
            f"\nfuzz: {what:<44} {counted.tried:>7} tried, {counted.accepted:>6} accepted, "
            f"{counted.tried - counted.accepted:>6} refused, slowest {counted.slowest_s * 1e3:>5.0f} ms, "
            f"RSS {counted.growth() / 1024 / 1024:>+5.1f} MB, {took:>5.1f} s, STEM_FUZZ_SEED={SEED}\n"
        )
