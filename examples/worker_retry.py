"""Retries and signals: a task that fails twice, and a callback that sees each retry.

Run it: python examples/worker_retry.py
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from stem import (
    ExponentialJitterRetryStrategy,
    InMemoryBroker,
    InMemoryResultBackend,
    SimpleTaskRegistry,
    Stem,
    StemSignals,
    TaskContext,
    TaskHandler,
    TaskOptions,
    Worker,
    WorkerLifecycleConfig,
)


class FlakyTask(TaskHandler):
    name = "demo.flaky"
    options = TaskOptions(max_retries=2)

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> None:
        if context.attempt < 2:
            raise RuntimeError("Simulated failure")
        print(f"Succeeded on attempt {context.attempt}", flush=True)


async def main() -> None:
    StemSignals.on_task_retry(lambda event, context: print(f"[retry] next run at: {event.next_retry_at}", flush=True))

    registry = SimpleTaskRegistry()
    registry.register(FlakyTask())
    broker = InMemoryBroker()
    backend = InMemoryResultBackend()

    stem = Stem(broker=broker, registry=registry, backend=backend)
    await stem.enqueue("demo.flaky")

    worker = Worker(
        broker=broker,
        registry=registry,
        backend=backend,
        retry_strategy=ExponentialJitterRetryStrategy(base=0.2, max=1.0),
        lifecycle=WorkerLifecycleConfig(install_signal_handlers=True),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
