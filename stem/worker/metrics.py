"""What `/metrics` tells, in the words of Prometheus. Belongs to the vitals loop; the client library is an extra.

Counted here is what this worker did; what stands in the queues is asked of the broker at a scrape, at most every few
seconds and not for long, so that neither many scrapers nor a broker that is away can hold anything up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from stem.contracts import Broker, Measured, QueueRow
from stem.errors import BrokerError
from stem.messages.heartbeat import Heartbeat
from stem.text import clean
from stem.worker.health import Page

if TYPE_CHECKING:  # loaded when somebody scrapes
    from prometheus_client import Metric

ASK_EVERY_S: Final = 2.0
ASK_WITHIN_S: Final = 1.0
MOST_TASKS: Final = 500
"""Names of tasks with a label of their own; the others are told together, as `other`."""
BUCKETS: Final = 22
"""Of durations: powers of two from 1 ms to 35 minutes, as the tallies of a worker count them."""
FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What `generate_latest` writes in every version; the name that the library has for it came with later ones."""
OUTCOMES: Final = ("succeeded", "failed", "retried", "revoked", "expired", "lost", "handed_back")
NAMES: Final = {
    "stem_worker_info": "Version, name and id of this worker",
    "stem_worker_ready": "1 while it takes work",
    "stem_worker_slots": "Tasks that it runs at once",
    "stem_worker_in_flight": "Tasks delivered to it and not settled",
    "stem_worker_loop_age_seconds": "For how long its work loop has stood still",
    "stem_worker_heartbeat_age_seconds": "Since its last heartbeat that the broker confirmed",
    "stem_worker_resident_memory_bytes": "Its resident memory",
    "stem_worker_cpu_ratio": "Processor time of its last seconds, 1 is a core",
    "stem_broker_round_trip_seconds": "Of its last heartbeat",
    "stem_broker_up": "1 when the broker answered what this scrape asked of it",
    "stem_tasks_started_total": "Tasks that it began",
    "stem_tasks_total": "Tasks that it ended, by outcome",
    "stem_task_run_seconds": "How long handlers ran, by task",
    "stem_task_wait_seconds": "From enqueue to start, by task",
    "stem_queue_ready": "Tasks that wait and are due",
    "stem_queue_delayed": "Tasks that are due later",
    "stem_queue_retrying": "Tasks that wait for another attempt",
    "stem_queue_held": "Tasks that wait because their name is paused",
    "stem_queue_in_flight": "Tasks that some worker holds",
    "stem_queue_dead": "Dead letters",
    "stem_queue_oldest_seconds": "Age of the oldest task that waits and is due; 0 when none does",
    "stem_queue_paused": "1 while it is paused",
    "stem_queue_workers": "Live workers that take from it",
}
"""Every metric there is, with its help: the page of the docs is held against it."""


class _Runs:
    """Run and wait times of one task name."""

    __slots__ = ("buckets", "count", "run_ms", "wait_ms")

    def __init__(self) -> None:
        self.count = 0
        self.run_ms = 0.0
        self.wait_ms = 0.0
        self.buckets = [0] * (BUCKETS + 1)

    def add(self, measured: Measured) -> None:
        self.count += measured.count
        self.run_ms += measured.run_ms
        self.wait_ms += measured.wait_ms
        for bucket, count in measured.buckets.items():
            self.buckets[min(bucket, BUCKETS)] += count


class Metrics:
    """Collects for one worker, and writes the page.

    Args:
        beat: what the worker would say of itself now.
        queues: those it takes from.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        beat: Callable[[], Heartbeat],
        queues: Sequence[str],
        counters: dict[str, int],
        ready: Callable[[], bool],
        beat_age_s: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._beat = beat
        self._queues = queues
        self._counters = counters
        self._ready = ready
        self._beat_age_s = beat_age_s
        self._runs: dict[str, _Runs] = {}
        self._rows: list[QueueRow] = []
        self._up = False
        self._asked_at = -ASK_EVERY_S
        self._asking = asyncio.Lock()

    def add(self, measured: Iterable[Measured]) -> None:
        """Take over what a heartbeat is about to tell the broker."""
        for one in measured:
            name = clean(one.task, 200)
            if name not in self._runs and len(self._runs) >= MOST_TASKS:
                name = "other"
            self._runs.setdefault(name, _Runs()).add(one)

    async def page(self) -> Page:
        """Return the answer to a scrape."""
        try:
            from prometheus_client import generate_latest
        except ImportError:
            return Page("501 Not Implemented", b"metrics need the extra: pip install 'stem-workers[prometheus]'\n")
        await self._ask()
        return Page("200 OK", generate_latest(self), FORMAT)

    async def _ask(self) -> None:
        async with self._asking:
            if time.monotonic() - self._asked_at < ASK_EVERY_S:
                return
            try:
                async with asyncio.timeout(ASK_WITHIN_S):
                    self._rows = await self._broker.census.queues(self._queues)
                self._up = True
            except (BrokerError, TimeoutError):
                self._rows, self._up = [], False
            self._asked_at = time.monotonic()

    # ---------------------------------------------------------------------------------- the library's side of a scrape

    def collect(self) -> Iterable[Metric]:
        """Yield every metric; called by the library while it writes the page."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        beat = self._beat()

        def gauge(name: str, value: float) -> Metric:
            return GaugeMetricFamily(name, NAMES[name], value=value)

        info = GaugeMetricFamily("stem_worker_info", NAMES["stem_worker_info"], labels=("name", "id", "version"))
        info.add_metric([beat.name, beat.id, beat.version], 1)
        yield info
        yield gauge("stem_worker_ready", self._ready())
        yield gauge("stem_worker_slots", beat.concurrency)
        yield gauge("stem_worker_in_flight", beat.in_flight)
        yield gauge("stem_worker_loop_age_seconds", beat.loop_age_ms / 1000)
        yield gauge("stem_worker_heartbeat_age_seconds", self._beat_age_s())
        yield gauge("stem_worker_resident_memory_bytes", beat.rss_bytes)
        yield gauge("stem_worker_cpu_ratio", beat.cpu_percent / 100)
        yield gauge("stem_broker_round_trip_seconds", beat.rtt_ms / 1000)
        yield gauge("stem_broker_up", self._up)
        started = CounterMetricFamily("stem_tasks_started", NAMES["stem_tasks_started_total"])
        started.add_metric([], self._counters["started"])
        yield started
        ended = CounterMetricFamily("stem_tasks", NAMES["stem_tasks_total"], labels=("outcome",))
        for outcome in OUTCOMES:
            ended.add_metric([outcome], self._counters[outcome])
        yield ended
        yield from self._durations()
        yield from self._of_queues()

    def _durations(self) -> Iterable[Metric]:
        from prometheus_client.core import HistogramMetricFamily, SummaryMetricFamily

        runs = HistogramMetricFamily("stem_task_run_seconds", NAMES["stem_task_run_seconds"], labels=("task",))
        waits = SummaryMetricFamily("stem_task_wait_seconds", NAMES["stem_task_wait_seconds"], labels=("task",))
        for name, tally in sorted(self._runs.items()):
            buckets: list[Any] = []
            below = 0
            for bits in range(BUCKETS):
                below += tally.buckets[bits]
                buckets.append((str(2**bits / 1000), below))
            buckets.append(("+Inf", tally.count))
            runs.add_metric([name], buckets, sum_value=tally.run_ms / 1000)
            waits.add_metric([name], count_value=tally.count, sum_value=tally.wait_ms / 1000)
        yield runs
        yield waits

    def _of_queues(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        told: dict[str, Callable[[QueueRow], float]] = {
            "stem_queue_ready": lambda row: row.ready,
            "stem_queue_delayed": lambda row: row.delayed,
            "stem_queue_retrying": lambda row: row.retrying,
            "stem_queue_held": lambda row: row.held,
            "stem_queue_in_flight": lambda row: row.in_flight,
            "stem_queue_dead": lambda row: row.dead,
            "stem_queue_oldest_seconds": lambda row: (row.oldest_ms or 0) / 1000,
            "stem_queue_paused": lambda row: row.pause is not None,
            "stem_queue_workers": lambda row: row.consumers,
        }
        for name, value in told.items():
            family = GaugeMetricFamily(name, NAMES[name], labels=("queue",))
            for row in self._rows:
                family.add_metric([row.name], value(row))
            yield family
