"""How much is tried, and from which seed. Printed by each run, so that a failure can be run again.

`STEM_FUZZ=full` tries 100 000 of each kind; without it a share that fits into `make test`. `STEM_FUZZ_SEED` sets the
seed; it is random otherwise.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Final

FULL: Final = os.environ.get("STEM_FUZZ") == "full"
SEED: Final = int(os.environ.get("STEM_FUZZ_SEED") or secrets.randbits(32))
TIMEOUT_S: Final = 1_800 if FULL else 60


def size(share: int, full: int = 100_000) -> int:
    """Return how many to try: `share` in `make test`, `full` in the big run."""
    return full if FULL else share


def random_for(what: str) -> Random:
    """Return the source of chance of one test: the same for the same seed, whatever else runs."""
    return Random(f"{SEED} {what}")


class Counted:
    """What a run has tried so far."""

    __slots__ = ("accepted", "tried")

    def __init__(self) -> None:
        self.tried = 0
        self.accepted = 0


@contextmanager
def reported(what: str) -> Iterator[Counted]:
    """Count, and print seed, number and rate at the end; with a failure too."""
    counted = Counted()
    began = time.monotonic()
    try:
        yield counted
    finally:
        took = max(time.monotonic() - began, 1e-9)
        sys.stdout.write(
            f"\nfuzz: {what}: {counted.tried} tried, {counted.accepted} accepted, {counted.tried / took:.0f}/s, "
            f"{took:.1f} s, STEM_FUZZ_SEED={SEED}\n"
        )
