"""A byte that changed on its way makes no false promise: what cannot be a script's answer is of unknown outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from stem.adapters.redis import RedisStreamsBroker, client, control
from stem.contracts import Enqueued, NewTask
from stem.errors import BrokerError
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import DOWN, UP, Fault, of_kind
from tests.servers import Server


async def test_no_byte_of_an_answer_may_change_and_acknowledge_another_task(
    valkey_server: Server, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REPLY_TIMEOUT_S", 0.2)
    async with ChaosProxy(valkey_server.url, tmp_path / "p", seed=1) as proxy:
        broker = RedisStreamsBroker(proxy.url, namespace=namespace)
        await broker.enqueue([NewTask(id="t-0", task="x", queue="default", body=b"b")])
        acknowledged = 0
        # The answer is *4 $5 t-000 $6 queued $5 t-001 $6 queued: 4 + 2 * (4 + 7 + 4 + 8) bytes.
        for k in range(1, 51):
            tasks = [NewTask(id=f"t-{k}{n:02}", task="x", queue="default", body=b"b") for n in range(2)]
            with proxy.having(Fault(corrupt_at=k, sides=DOWN, where=of_kind("commands"))):
                try:
                    answers = await broker.enqueue(tasks)
                except BrokerError:
                    continue
            assert answers == [Enqueued(task.id, "queued") for task in tasks], k
            acknowledged += 1
        await broker.close()

    # The last bytes may change without harm only where the client library reads past them.
    assert acknowledged <= 10
    assert proxy.corrupted >= 40


async def test_a_subscription_hears_what_it_is_for_or_is_none(
    valkey_server: Server, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever byte of its greeting or of its channel's name is another one."""
    monkeypatch.setattr(client, "LONGEST_BLOCK_S", -4.8)  # a reply has 0.2 s
    monkeypatch.setattr(control, "PONG_WITHIN_S", 0.2)
    async with ChaosProxy(valkey_server.url, tmp_path / "p", seed=1) as proxy:
        broker = RedisStreamsBroker(proxy.url, namespace=namespace)
        clean = Fault(sides=UP)
        with proxy.having(clean):
            await broker.control.subscribe()
        stood = 0
        for k in range(1, clean.passed + 1):
            with proxy.having(Fault(corrupt_at=k, sides=UP)):
                try:
                    await broker.control.subscribe()
                except BrokerError:
                    continue
            valkey_server.command("PUBLISH", f"{{{namespace}}}@0:control", "look")
            assert await broker.control.wake(5.0), f"deaf after another byte {k} of {clean.passed}"
            stood += 1
        await broker.close()

    assert stood < clean.passed / 2  # what changes the connection's name does no harm
