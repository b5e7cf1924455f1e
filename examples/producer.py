"""A producer with everything in memory: nothing to install, nothing to start.

Run it: python examples/producer.py
"""

import asyncio

from stem import InMemoryBroker, InMemoryResultBackend, SimpleTaskRegistry, Stem


async def main() -> None:
    registry = SimpleTaskRegistry()  # empty: this producer enqueues by name and leaves the handlers to the workers

    async with Stem(broker=InMemoryBroker(), registry=registry, backend=InMemoryResultBackend()) as stem:
        task_id = await stem.enqueue("email.send", args={"to": "hello@example.com", "subject": "Welcome"})

        print(f"Enqueued {task_id}")


if __name__ == "__main__":
    asyncio.run(main())
