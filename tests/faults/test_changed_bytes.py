"""A byte that changed on its way makes no false promise: what cannot be a script's answer is of unknown outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stem.adapters.redis import RedisStreamsBroker, client, subscription
from stem.adapters.redis.calls import exchange_args
from stem.contracts import Enqueued, FetchRequest, Limits, NewTask, Outcome, Settlement
from stem.errors import BrokerError, BrokerRefusedError
from stem.messages.status import TaskState
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import DOWN, UP, Fault, of_kind
from tests.servers import Server


async def test_no_byte_of_an_answer_may_change_and_acknowledge_another_task(
    valkey_server: Server, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RedisStreamsBroker(valkey_server.url, namespace=namespace)
    await plain.enqueue([NewTask(id="t-0", task="x", queue="default", body=b"b")])  # the server has the script then
    await plain.close()
    monkeypatch.setattr(client, "REPLY_TIMEOUT_S", 0.2)
    async with ChaosProxy(valkey_server.url, tmp_path / "p", seed=1) as proxy:
        broker = RedisStreamsBroker(proxy.url, namespace=namespace)
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "t\x961"},
        {"id": ""},
        {"id": "t" * 65},
        {"queue": "de fault"},
        {"queue": "de:fault"},
        {"task": "x\n"},
        {"task": ""},
        {"unique_key": "k k"},
        {"priority": 10},
        {"priority": -1},
        {"delay_ms": "1x"},
        {"expires_ms": "-"},
        {"lease_ms": " "},
    ],
)
async def test_nothing_is_stored_under_what_is_no_name(
    valkey_server: Server, valkey_url: str, namespace: str, wrong: dict[str, Any]
) -> None:
    """Nobody could settle it: it would be handed out again and again. The rest of its batch waits for the next try."""
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    good = NewTask(id="good", task="x", queue="default", body=b"b")
    await broker.statuses(["good"])
    before = set(valkey_server.command("KEYS", "*"))

    with pytest.raises(BrokerRefusedError, match="ILLFORMED"):
        await broker.enqueue([good, replace(good, **{"id": "bad"} | wrong)])

    assert set(valkey_server.command("KEYS", "*")) - before <= {f"{{{namespace}}}:schema"}
    await broker.close()


async def test_no_time_to_live_makes_a_result_vanish_at_once(valkey_url: str, namespace: str) -> None:
    """One byte makes 86400000 into -6400000: the record would be gone as soon as it is final."""
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    lengths: list[str | int] = [86_400_000, -6_400_000, "8640\x960000", ""]
    for n, ttl in enumerate(lengths):
        await broker.enqueue([NewTask(id=f"t-{n}", task="x", queue="default", body=b"b")])
        fetched = await broker.exchange("w", [], FetchRequest(queues=["default"], count=1, lease_ms=60_000, epoch=0))
        (delivery,) = fetched.deliveries
        args = exchange_args("w", [Settlement(id=delivery.id, token=1, outcome=Outcome.SUCCEEDED)], None, Limits(), 3)
        await broker._client.run("exchange", *args[:-1], ttl)

        (status,) = await broker.statuses([delivery.id])
        assert status is not None
        assert status.state is TaskState.SUCCEEDED
    await broker.close()


async def test_a_subscription_hears_what_it_is_for_or_is_none(
    valkey_server: Server, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever byte of its greeting or of its channel's name is another one."""
    monkeypatch.setattr(client, "LONGEST_BLOCK_S", -4.8)  # a reply has 0.2 s
    monkeypatch.setattr(subscription, "PONG_WITHIN_S", 0.2)
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
