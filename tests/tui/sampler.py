"""What the server holds, asked again and again: the truth that a screen is compared with."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from stem.adapters.connect import connect_broker
from stem.contracts import QueueRow, Seen
from stem.errors import BrokerError
from tests.tui.terminal import Worker

PACE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server held at some moment between `asked_s` and `answered_s`."""

    asked_s: float
    answered_s: float
    queues: dict[str, dict[str, int]]
    paused: frozenset[str]
    workers: dict[str, Worker]

    def total(self, column: str) -> int:
        return sum(row[column] for row in self.queues.values())


def word_of(seen: Seen) -> str:
    """Return what a worker is to be called, by its last heartbeat alone."""
    beat = seen.heartbeat
    if beat.state == "stopped":
        return "stopped"
    if seen.age_ms > 3 * beat.interval_ms:
        return "lost"
    if beat.loop_age_ms > 2_000:
        return "wedged"
    if seen.age_ms > 2 * beat.interval_ms:
        return "late"
    if beat.state == "starting":
        return "start"
    return "busy" if beat.in_flight >= beat.concurrency else "up"


def worker_of(seen: Seen) -> Worker:
    """Return what is to be said of a worker; of a lost one nobody knows what it runs."""
    beat, word = seen.heartbeat, word_of(seen)
    return word, None if word == "lost" else beat.in_flight, beat.concurrency


def sample_of(asked_s: float, rows: Sequence[QueueRow], seen: Sequence[Seen]) -> Sample:
    return Sample(
        asked_s=asked_s,
        answered_s=time.monotonic(),
        queues={
            row.name: {
                "READY": row.ready,
                "RUN": row.in_flight,
                "DELAY": row.delayed,
                "RETRY": row.retrying,
                "DEAD": row.dead,
            }
            for row in rows
        },
        paused=frozenset(row.name for row in rows if row.pause is not None),
        workers={each.heartbeat.name: worker_of(each) for each in seen},
    )


def widest_gap_s(samples: Sequence[Sample]) -> float:
    """Return the longest time from asking for one sample to having the next."""
    return max((after.answered_s - before.asked_s for before, after in pairwise(samples)), default=0.0)


class Sampler:
    """Asks the server what it holds, every 20 ms, on a thread and a connection of its own."""

    def __init__(self, url: str, namespace: str) -> None:
        self._broker = connect_broker(url, namespace=namespace)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="sampler")
        self.samples: list[Sample] = []
        self.error: Exception | None = None

    @property
    def newest(self) -> Sample:
        return self.samples[-1]

    def between(self, since_s: float, until_s: float) -> list[Sample]:
        found = []
        for sample in reversed(self.samples):
            if sample.answered_s < since_s:
                break
            if sample.asked_s <= until_s:
                found.append(sample)
        return found[::-1]

    async def _run(self) -> None:
        try:
            while not self._ended.is_set():
                asked_s = time.monotonic()
                try:
                    rows = await self._broker.census.queues()
                    seen = await self._broker.presence.workers()
                except BrokerError:
                    await asyncio.sleep(PACE_S)
                    continue
                self.samples.append(sample_of(asked_s, rows, seen))
                await asyncio.sleep(max(0.0, asked_s + PACE_S - time.monotonic()))
        except Exception as error:
            self.error = error
        finally:
            await self._broker.close()

    @contextmanager
    def running(self) -> Iterator[Sampler]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join(10)
