"""Short ways to make what the tests of adapters send, and to see who is connected."""

from __future__ import annotations

from typing import Any

from stem.contracts import FetchRequest, NewTask
from stem.messages.heartbeat import Heartbeat
from tests.servers import Server


def task(task_id: str, **fields: Any) -> NewTask:
    return NewTask(**{"id": task_id, "task": "job", "queue": "q", "body": b"\x80", **fields})


def ask(count: int = 100, *queues: str, **fields: Any) -> FetchRequest:
    return FetchRequest(queues=queues or ("q",), count=count, **fields)


def heartbeat(worker: str, **fields: Any) -> Heartbeat:
    return Heartbeat(
        **{
            "id": worker,
            "name": worker,
            "started_at_ms": 0,
            "host": "h",
            "pid": 1,
            "version": "0",
            "queues": ("q",),
            **fields,
        }
    )


def connections(server: Server, namespace: str) -> list[str]:
    """Return what each connection of this namespace has sent last."""
    with server.client() as client:
        return [row["cmd"] for row in client.client_list() if row["name"] == f"stem-{namespace}"]
