"""A worker on Redis or Valkey.

Run it: STEM_BROKER_URL=redis://localhost:6379 python examples/worker_redis.py [QUEUE...]

It knows `report.generate` but takes only the queue `default` unless told otherwise, and warns that those tasks will
wait. `python examples/worker_redis.py default reports` takes both.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from stem import (
    RedisResultBackend,
    RedisStreamsBroker,
    SimpleTaskRegistry,
    TaskContext,
    TaskHandler,
    TaskOptions,
    Worker,
    WorkerLifecycleConfig,
)
from stem.worker import logs


class EmailTask(TaskHandler):
    name = "email.send"
    options = TaskOptions(queue="default", max_retries=3, visibility_timeout=timedelta(seconds=30))

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> None:
        print(f"Sending to {args['to']} (attempt {context.attempt})", flush=True)  # call your email provider here


class ReportTask(TaskHandler):
    name = "report.generate"
    options = TaskOptions(queue="reports")

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> str:
        print(f"Generating {args['report_id']}", flush=True)
        return f"{args['report_id']}.pdf"


async def main() -> None:
    logs.install(
        style="console", level="info", worker="worker_redis"
    )  # a program that has logging of its own leaves it
    broker_url = os.environ.get("STEM_BROKER_URL", "redis://localhost:6379")
    backend_url = os.environ.get("STEM_RESULT_BACKEND_URL", broker_url)
    registry = SimpleTaskRegistry()
    registry.register(EmailTask())
    registry.register(ReportTask())

    worker = Worker(
        broker=await RedisStreamsBroker.connect(broker_url),
        registry=registry,
        backend=await RedisResultBackend.connect(backend_url),
        queues=sys.argv[1:] or ["default"],
        concurrency=os.cpu_count(),
        lifecycle=WorkerLifecycleConfig(install_signal_handlers=True),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
