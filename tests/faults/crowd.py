"""Many workers in one process, as an application embeds them: `python -m tests.faults.crowd --count 50`.

Each has connections and a vitals thread of its own, like a worker that is alone in its process. Without `--generations`
they stay until SIGTERM. With it, so many generations follow each other; every worker of one leaves once it has run a
task. One line of JSON is written when a generation is up (`up`), and one at the end: what is left of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from stem.contracts import Broker
from stem.worker import Worker, WorkerLifecycleConfig
from tests.faults.app import app

AT_ONCE = 10
"""How many connect at the same time: a whole process at once would only wait for its own event loop."""


class Crowd:
    """The workers of one generation."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._members: list[tuple[Worker, Broker]] = []

    async def start(self) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                broker = app.broker.clone()
                worker = Worker(
                    broker=broker,
                    registry=app.registry,
                    concurrency=2,
                    config=replace(app.config, worker_name=f"{self._name}-{number}"),
                    lifecycle=WorkerLifecycleConfig(soft_timeout=1.0),
                )
                self._members.append((worker, broker))
                await worker.start()

        await asyncio.gather(*(one(number) for number in range(self._count)))

    async def leave_after_a_task(self) -> None:
        """Each of them leaves once it has run a task."""

        async def one(worker: Worker, broker: Broker) -> None:
            while not worker.stats()["counters"]["succeeded"]:  # noqa: ASYNC110  # counters tell nobody
                await asyncio.sleep(0.02)
            await _leave(worker, broker)

        await asyncio.gather(*(one(*member) for member in self._members))

    async def leave(self) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(worker: Worker, broker: Broker) -> None:
            async with gate:
                await _leave(worker, broker)

        await asyncio.gather(*(one(*member) for member in self._members))


async def _leave(worker: Worker, broker: Broker) -> None:
    code = await worker.shutdown("warm")
    await broker.close()
    if code:
        raise RuntimeError(f"{worker!r} ended with {code}")


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def leftovers() -> dict[str, int]:
    """Return what this process holds: threads, open files, and asyncio tasks besides the one that asks."""
    gc.collect()
    files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    return {"threads": threading.active_count(), "files": files, "tasks": len(asyncio.all_tasks()) - 1}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default=f"crowd{os.getpid()}")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--generations", type=int, default=0)
    options = parser.parse_args()
    before = leftovers()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    for generation in range(max(1, options.generations)):
        crowd = Crowd(f"{options.name}-{generation}", options.count)
        await crowd.start()
        say(up=options.count)
        if options.generations:
            await crowd.leave_after_a_task()
        else:
            await over.wait()
            await crowd.leave()
    say(gone=options.count * max(1, options.generations), before=before, after=leftovers())
    await app.close()


if __name__ == "__main__":
    asyncio.run(main())
