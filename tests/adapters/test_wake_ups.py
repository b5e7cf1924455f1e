"""What a wake-up on the control channel of a server carries."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import SetPause
from stem.messages.command import Command
from tests.servers import Server


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield made
    await made.close()


async def test_the_wake_up_of_a_question_carries_what_the_log_holds(broker: RedisStreamsBroker) -> None:
    """It may be answered at once. A change says only "look", and so does what is too large for every worker to get."""
    listener = broker.clone()
    await listener.control.subscribe()
    sent = [
        Command(id="c1", type="ping", signature=b"s" * 32),
        Command(id="c2", type="stats", targets=("w",)),
        Command(id="c3", type="ping", args={"nonce": "x" * 5_000}),
    ]

    for command in sent:
        await broker.control.issue(command)
    await broker.control.issue(Command(id="c4", type="pause"), SetPause(kind="queue", targets=["q"]))
    woken = [await listener.control.wake(5) for _ in range(4)]
    log = (await broker.control.read(0)).log

    assert [one.question for one in woken if one is not None] == [log[0], log[1], None, None]
    await listener.close()


@pytest.mark.parametrize(
    "message", [b"", b"watch", b"7", b"7 8 9", b"-1 2 0 x", b"1 2 99999 x", b"\xff 1 0 ", b"1 2 3 "]
)
async def test_a_wake_up_of_another_form_carries_nothing(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str, message: bytes
) -> None:
    await broker.control.subscribe()

    with valkey_server.client() as client:
        client.publish(f"{{{namespace}}}@0:control", message)

    woken = await broker.control.wake(5)
    assert woken is not None
    assert woken.question is None or woken.question.command == b""
