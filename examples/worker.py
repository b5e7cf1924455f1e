"""A worker with everything in memory. Producer and worker share one broker object: memory is not seen from outside.

Run it: python examples/worker.py
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from stem import (
    InMemoryBroker,
    InMemoryResultBackend,
    SimpleTaskRegistry,
    Stem,
    TaskContext,
    TaskHandler,
    TaskOptions,
    Worker,
    WorkerLifecycleConfig,
)


class EmailTask(TaskHandler):
    name = "email.send"
    options = TaskOptions(max_retries=2)

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> None:
        print(f"Sending to {args['to']} (attempt {context.attempt})", flush=True)


async def main() -> None:
    registry = SimpleTaskRegistry()
    registry.register(EmailTask())
    broker = InMemoryBroker()
    backend = InMemoryResultBackend()

    stem = Stem(broker=broker, registry=registry, backend=backend)
    await stem.enqueue("email.send", args={"to": "hello@example.com"})

    worker = Worker(
        broker=broker,
        registry=registry,
        backend=backend,
        queue="default",
        lifecycle=WorkerLifecycleConfig(install_signal_handlers=True),
    )
    await worker.run()  # until Ctrl-C or SIGTERM; `start()` and `shutdown()` are there for embedding it


if __name__ == "__main__":
    asyncio.run(main())
