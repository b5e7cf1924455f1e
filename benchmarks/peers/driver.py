"""What producers are asked to do, the same for every queue: `python -m benchmarks.peers.X_peer VERB …`.

    fill TASK N    enqueue N tasks by the quickest way the library has
    one N          N enqueues, each awaited before the next        -> {"seconds": …}
    batch N        N enqueues by the quickest way; where it is awaited, two batches of 500 are under way at a time
                                                                   -> {"seconds": …}
    idle N         N tasks `mark`, one every 25 ms, so that each finds an idle worker
    result N       N times: enqueue, wait for the result           -> {"ms": […]}
    due N AT       N tasks `mark` that are all due at AT, in Unix seconds

A peer is an object with the methods below, all blocking or all `async`. Needs nothing but Python.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

URL = os.environ.get("BENCH_URL", "")
TUNED = os.environ.get("BENCH_VARIANT") == "tuned"
RESULTS = os.environ.get("BENCH_RESULTS", "1") == "1"
NAP_S = 0.01
KEEP_S = 86_400
"""How long every queue keeps results that it stores: Stem's default."""
PAUSE_S = 0.025


class Blocking(Protocol):
    """A queue whose producer blocks."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def enqueue(self, task: str, n: int) -> Any: ...
    def enqueue_many(self, task: str, numbers: list[int]) -> None: ...
    def result(self, handle: Any) -> None: ...
    def later(self, task: str, numbers: list[int], at_s: float) -> None: ...


class Awaited(Protocol):
    """A queue whose producer is awaited."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def enqueue(self, task: str, n: int) -> Any: ...
    async def enqueue_many(self, task: str, numbers: list[int]) -> None: ...
    async def result(self, handle: Any) -> None: ...
    async def later(self, task: str, numbers: list[int], at_s: float) -> None: ...


def chunks(count: int, size: int = 500) -> list[list[int]]:
    """Return the numbers from 0 in lists of at most `size`."""
    return [list(range(first, min(first + size, count))) for first in range(0, count, size)]


def drive(peer: Blocking) -> None:
    """Do what the command line says with a blocking producer."""
    verb, words = sys.argv[1], sys.argv[2:]
    peer.open()
    match verb:
        case "fill":
            for numbers in chunks(int(words[1])):
                peer.enqueue_many(words[0], numbers)
        case "one":
            for n in range(100):
                peer.enqueue("noop", n)
            begin = time.perf_counter()
            for n in range(int(words[0])):
                peer.enqueue("noop", n)
            _say(seconds=time.perf_counter() - begin)
        case "batch":
            peer.enqueue_many("noop", list(range(100)))
            begin = time.perf_counter()
            for numbers in chunks(int(words[0])):
                peer.enqueue_many("noop", numbers)
            _say(seconds=time.perf_counter() - begin)
        case "idle":
            for _ in range(int(words[0])):
                time.sleep(PAUSE_S)
                peer.enqueue("mark", time.time_ns())
        case "result":
            took = []
            for n in range(int(words[0]) + 5):
                begin = time.perf_counter()
                peer.result(peer.enqueue("noop", n))
                took.append((time.perf_counter() - begin) * 1000)
            _say(ms=took[5:])
        case "due":
            at_s = float(words[1])
            for numbers in chunks(int(words[0])):
                peer.later("mark", [int(at_s * 1e9)] * len(numbers), at_s)
        case _:
            sys.exit(f"{verb} is not known")
    peer.close()


async def _drive(peer: Awaited) -> None:
    verb, words = sys.argv[1], sys.argv[2:]
    await peer.open()
    match verb:
        case "fill":
            for numbers in chunks(int(words[1])):
                await peer.enqueue_many(words[0], numbers)
        case "one":
            for n in range(100):
                await peer.enqueue("noop", n)
            begin = time.perf_counter()
            for n in range(int(words[0])):
                await peer.enqueue("noop", n)
            _say(seconds=time.perf_counter() - begin)
        case "batch":
            await peer.enqueue_many("noop", list(range(100)))
            begin = time.perf_counter()
            left = iter(chunks(int(words[0])))
            await asyncio.gather(_send(peer, left), _send(peer, left))
            _say(seconds=time.perf_counter() - begin)
        case "idle":
            for _ in range(int(words[0])):
                await asyncio.sleep(PAUSE_S)
                await peer.enqueue("mark", time.time_ns())
        case "result":
            took = []
            for n in range(int(words[0]) + 5):
                begin = time.perf_counter()
                await peer.result(await peer.enqueue("noop", n))
                took.append((time.perf_counter() - begin) * 1000)
            _say(ms=took[5:])
        case "due":
            at_s = float(words[1])
            for numbers in chunks(int(words[0])):
                await peer.later("mark", [int(at_s * 1e9)] * len(numbers), at_s)
        case _:
            sys.exit(f"{verb} is not known")
    await peer.close()


async def _send(peer: Awaited, left: Iterator[list[int]]) -> None:
    """Send one chunk after the other. Two do so at a time: while the server takes one, the next one is made."""
    for numbers in left:
        await peer.enqueue_many("noop", numbers)


def drive_async(peer: Awaited) -> None:
    """Do what the command line says with an awaited producer, on uvloop where that is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_drive(peer))
    else:
        uvloop.run(_drive(peer))


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)
