"""Producer and worker inside one application, on one broker.

Both sides must be given the same broker object: two in-memory brokers are two worlds. Swap `InMemoryBroker()` for
`await RedisStreamsBroker.connect(url)` when you deploy; nothing else changes.

Run it: python examples/bootstrap.py
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
    TaskRegistry,
    Worker,
)
from stem.contracts import Broker


class StemRuntime:
    """What an application holds on to: start it with the application, stop it with the application."""

    def __init__(self, *, registry: TaskRegistry, broker: Broker) -> None:
        backend = InMemoryResultBackend()
        self.stem = Stem(broker=broker, registry=registry, backend=backend)
        self.worker = Worker(broker=broker, registry=registry, backend=backend)

    async def start(self) -> None:
        await self.worker.start()

    async def stop(self) -> None:
        await self.worker.shutdown()
        await self.stem.close()


class GreetTask(TaskHandler):
    name = "greet"

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> str:
        return f"Hello, {args['name']}"


async def main() -> None:
    registry = SimpleTaskRegistry()
    registry.register(GreetTask())
    runtime = StemRuntime(registry=registry, broker=InMemoryBroker())

    await runtime.start()
    try:
        task_id = await runtime.stem.enqueue("greet", args={"name": "Stem"})
        status = await runtime.stem.wait_for(task_id, timeout=10)
        print(f"{status.state}: {status.result}")
    finally:
        await runtime.stop()


if __name__ == "__main__":
    asyncio.run(main())
