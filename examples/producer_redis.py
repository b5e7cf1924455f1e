"""A producer on Redis or Valkey that chooses the queue of one task.

Run it: STEM_BROKER_URL=redis://localhost:6379 python examples/producer_redis.py

No worker takes the queue `reports` unless you start one that does. The task waits, and says why: stemctl why ID
"""

import asyncio
import os

from stem import RedisResultBackend, RedisStreamsBroker, SimpleTaskRegistry, Stem, TaskOptions


async def main() -> None:
    broker_url = os.environ.get("STEM_BROKER_URL", "redis://localhost:6379")
    backend_url = os.environ.get("STEM_RESULT_BACKEND_URL", broker_url)
    broker = await RedisStreamsBroker.connect(broker_url)
    backend = await RedisResultBackend.connect(backend_url)

    async with Stem(broker=broker, registry=SimpleTaskRegistry(), backend=backend) as stem:
        task_id = await stem.enqueue(
            "report.generate",
            args={"report_id": "monthly-2025-10"},
            options=TaskOptions(queue="reports"),
        )

        print(f"Enqueued {task_id}")

    # A Stem closes what it opened itself; these two were opened here.
    await backend.close()
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main())
