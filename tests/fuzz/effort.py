"""How long reading some bytes may take: a multiple of what plain `msgpack` takes for as many, here and now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgpack

TIMES: Final = 50
"""Of what the yardstick takes. Walking over what was unpacked makes it ten times as long for the worst input."""
SHORTEST: Final = 4_096
"""Length of the yardstick for anything shorter: below it a decoder's own fixed work counts, not the bytes."""
TRIES: Final = 5
"""The best of so many counts: a cold cache or a collection of garbage may fall into one."""
QUICK_S: Final = 0.001
"""What took less is not looked at any closer. A slower machine only looks more often."""


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of this thread that a call takes: a busy machine does not stretch them much."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def yardstick(length: int) -> float:
    """Return the seconds that `msgpack` takes for a list of empty lists of that many bytes."""
    count = max(length, SHORTEST)
    data = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    return timed(lambda: msgpack.unpackb(data))


def check_effort(what: str, call: Callable[[], object], length: int, took: float) -> None:
    """Fail when a call that reads `length` bytes, and `took` that long the first time, takes out of proportion."""
    if took < QUICK_S:
        return
    allowed = TIMES * yardstick(length)
    tries = 1
    while took >= allowed and tries < TRIES:
        took = min(took, timed(call))
        tries += 1
    assert took < allowed, f"{what}: {took:.3f} s for {length} bytes, {allowed:.3f} s are allowed"
