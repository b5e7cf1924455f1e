"""How long the server keeps the record of a task that has ended."""

from __future__ import annotations

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import FetchRequest, NewTask, Outcome, Settlement
from stem.messages.envelope import new_task_id
from tests.servers import Server

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("asked_ms", "kept_ms"),
    [
        (400 * DAY_MS, 400 * DAY_MS),
        (3_650 * DAY_MS, 3_650 * DAY_MS),  # as long as a setting may say
        (3_651 * DAY_MS, DAY_MS),
    ],
)
async def test_a_record_is_kept_for_as_long_as_is_asked_for(
    valkey_url: str, valkey_server: Server, namespace: str, asked_ms: int, kept_ms: int
) -> None:
    broker, task_id = RedisStreamsBroker(valkey_url, namespace=namespace), new_task_id()
    await broker.enqueue([NewTask(id=task_id, task="t", queue="q", body=b"b")])
    await broker.exchange("w", (), FetchRequest(queues=["q"], count=1))

    await broker.exchange("w", [Settlement(id=task_id, token=1, outcome=Outcome.SUCCEEDED, ttl_ms=asked_ms)], None)

    left_ms = valkey_server.command("PTTL", f"{{{namespace}}}:task:{task_id}")
    assert kept_ms - 60_000 < left_ms <= kept_ms
    await broker.close()
