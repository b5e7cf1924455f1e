"""A fleet for the dashboard to look at: hundreds of workers in one process that do everything but run a handler.

Tasks are enqueued, fetched under leases and settled, workers beat and emit their events, all through the adapter, so
that counts, records, heartbeats and the event stream agree as they do in earnest. Commands come on stdin, a line each:
`fill N` tells of N finished tasks at once, `stop` ends it. It prints `ready` once all workers have beaten.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from stem.adapters.connect import connect_broker
from stem.contracts import Beat, Broker, Delivery, FetchRequest, Lease, Measured, NewTask, Outcome, Settlement
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.event import Event, encode_events
from stem.messages.heartbeat import Heartbeat, RunningTask
from stem.messages.status import ErrorInfo

BEAT_S: Final = 2.0
SLOTS: Final = 10
STEP: Final = 8
"""Tasks that one worker ends and begins at a time: three events each."""
LANES: Final = 4
QUEUES: Final = ("default", "mail", "etl", "reports", "media", "low")
TASKS: Final = tuple(f"{queue}.{verb}" for queue in QUEUES for verb in ("send", "load", "render", "sync", "index"))
BACKLOG: Final = 12_000
FRAME: Final = struct.Struct(">dI")
"""Before each batch of a recording: seconds since its beginning, and how many bytes follow."""
_ERROR: Final = ErrorInfo(type="SMTPServerDisconnected", message="Connection unexpectedly closed").encode()


@dataclass(slots=True)
class FakeWorker:
    """One worker, as the broker knows it."""

    number: int
    id: str
    queue: str
    started_at_ms: int
    running: dict[str, Delivery] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    seq: int = 0

    def event(self, kind: str, delivery: Delivery, at_ms: int, **detail: object) -> Event:
        self.seq += 1
        return Event(
            kind=kind,
            at_ms=at_ms,
            worker=self.id,
            seq=self.seq,
            task_id=delivery.id,
            task=delivery.task,
            queue=delivery.queue,
            attempt=delivery.attempt,
            detail=detail,
        )

    def heartbeat(self) -> Heartbeat:
        rows = tuple(
            RunningTask(
                id=one.id,
                task=one.task,
                queue=one.queue,
                attempt=one.attempt,
                token=one.token,
                started_at_ms=one.started_at_ms,
            )
            for one in self.running.values()
        )
        return Heartbeat(
            id=self.id,
            name=f"w-{self.number:03d}",
            started_at_ms=self.started_at_ms,
            host=f"box-{self.number % 40:02d}",
            pid=1_000 + self.number,
            version="0.1.0",
            queues=(self.queue,),
            concurrency=SLOTS,
            in_flight=len(rows),
            running=rows,
            counters=dict(self.counters),
            cpu_percent=random.uniform(5.0, 95.0),
            rss_bytes=200_000_000 + self.number * 100_000,
            rtt_ms=random.uniform(0.3, 3.0),
        )

    def measured(self) -> list[Measured]:
        found = [
            Measured(
                queue=self.queue, task=task, count=count, wait_ms=20 * count, run_ms=900 * count, buckets={10: count}
            )
            for task, count in self.runs.items()
        ]
        self.runs.clear()
        return found


class Fleet:
    """All of it, on one event loop."""

    def __init__(self, broker: Broker, *, workers: int, rate: float, record: BinaryIO | None) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._broker = broker
        self._rate = rate
        self._record = record
        self._began_s = time.monotonic()
        self._watched = False
        self._workers = [
            FakeWorker(number, f"box-{1_000 + number}-{number:06x}", QUEUES[number % len(QUEUES)], now_ms - 3_600_000)
            for number in range(workers)
        ]
        self._turn = itertools.cycle(self._workers)
        self._wanted: Counter[str] = Counter()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        for queue in QUEUES:
            await self._enqueue(queue, BACKLOG // len(QUEUES))
        for worker in self._workers:
            await self._beat(worker)
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._steps(lane)) for lane in range(LANES)]
            tasks += [group.create_task(self._beats()), group.create_task(self._refill())]
            tasks.append(group.create_task(self._listen()))
            await self._stopped.wait()
            for task in tasks:
                task.cancel()

    async def _listen(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            if line[0] == "fill":
                await self._fill(int(line[1]))
            else:
                break
        self._stopped.set()

    async def _steps(self, lane: int) -> None:
        every_s = 3 * STEP * LANES / self._rate
        due_s = time.monotonic() + lane * every_s / LANES
        while True:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            # Behind by a second (the server stood still): what was due meanwhile is not made up for.
            due_s = max(due_s + every_s, time.monotonic() - 1.0)
            await self._step(next(self._turn))

    async def _step(self, worker: FakeWorker) -> None:
        ended = list(worker.running.values())[: max(0, len(worker.running) - (SLOTS - STEP))]
        settlements, kinds = [], []
        for one in ended:
            chance = random.random()
            if chance < 0.97:
                settlements.append(Settlement(id=one.id, token=one.token, outcome=Outcome.SUCCEEDED, ttl_ms=60_000))
                kinds.append("succeeded")
            else:
                outcome = Outcome.RETRY if chance < 0.995 else Outcome.DEAD
                settlements.append(
                    Settlement(
                        id=one.id,
                        token=one.token,
                        outcome=outcome,
                        error=_ERROR,
                        error_type="SMTPServerDisconnected",
                        reason="raised",
                        delay_ms=20_000,
                    )
                )
                kinds.append("retried" if outcome is Outcome.RETRY else "failed")
        fetch = FetchRequest(queues=[worker.queue], count=STEP)
        answer = await self._broker.exchange(worker.id, settlements, fetch)
        self._wanted[worker.queue] += len(answer.deliveries)
        now_ms = time.time_ns() // 1_000_000
        events = []
        for one, kind in zip(ended, kinds, strict=True):
            del worker.running[one.id]
            worker.counters[kind] += 1
            worker.runs[one.task] += 1
            if kind == "succeeded":
                events.append(worker.event("task.succeeded", one, now_ms, duration_ms=now_ms - one.started_at_ms))
            else:
                words = {
                    "error": "SMTPServerDisconnected",
                    "message": f"Connection unexpectedly closed ({now_ms % 97})",
                }
                events.append(worker.event(f"task.{kind}", one, now_ms, **words))
        for one in answer.deliveries:
            worker.running[one.id] = one
            worker.counters["started"] += 1
            events += [worker.event("task.received", one, now_ms), worker.event("task.started", one, now_ms)]
        await self._emit(events)

    async def _emit(self, events: list[Event]) -> None:
        if not self._watched or not events:
            return
        if self._record is not None:
            data = encode_events(events)
            self._record.write(FRAME.pack(time.monotonic() - self._began_s, len(data)) + data)
        await self._broker.events.emit(events)

    async def _beats(self) -> None:
        due_s = time.monotonic()
        for worker in itertools.cycle(self._workers):
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s = max(due_s + BEAT_S / len(self._workers), time.monotonic() - 1.0)
            await self._beat(worker)

    async def _beat(self, worker: FakeWorker) -> None:
        leases = [
            Lease(id=one.id, token=one.token, lease_ms=30_000, queue=one.queue) for one in worker.running.values()
        ]
        beat = Beat(heartbeat=worker.heartbeat(), leases=leases, measured=worker.measured())
        self._watched = (await self._broker.presence.beat(beat)).watched

    async def _refill(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for queue in QUEUES:
                taken, self._wanted[queue] = self._wanted[queue], 0
                await self._enqueue(queue, taken)

    async def _enqueue(self, queue: str, count: int) -> None:
        names = [name for name in TASKS if name.startswith(queue)]
        tasks = []
        for number in range(count):
            envelope = Envelope(id=new_task_id(), task=names[number % len(names)], args={"n": number})
            tasks.append(NewTask(id=envelope.id, task=envelope.task, queue=queue, body=envelope.encode()))
        for first in range(0, count, 500):
            await self._broker.enqueue(tasks[first : first + 500])

    async def _fill(self, count: int) -> None:
        """Tell of tasks that have finished; the broker has forgotten them, as it does with old ones."""
        while count > 0:
            worker = next(self._turn)
            now_ms = time.time_ns() // 1_000_000
            some = [
                Delivery(id=new_task_id(), task=random.choice(TASKS), token=1, queue=worker.queue, body=b"")
                for _ in range(min(count, 100))
            ]
            await self._emit([worker.event("task.succeeded", one, now_ms, duration_ms=900) for one in some])
            count -= len(some)
            await asyncio.sleep(0.01)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--namespace", default="bench")
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--rate", type=float, default=5_000.0, help="events per second")
    parser.add_argument("--record", help="a file for the batches of events")
    options = parser.parse_args()
    broker = connect_broker(options.url, namespace=options.namespace)
    record = open(options.record, "wb") if options.record else None  # noqa: ASYNC230, SIM115 # before anything runs
    try:
        await Fleet(broker, workers=options.workers, rate=options.rate, record=record).run()
    finally:
        await broker.close()
        if record is not None:
            record.close()


if __name__ == "__main__":
    asyncio.run(main())
