"""What stays of bounded size on the server, whatever comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.testing.case import QUEUE, Hand, new_task
from tests.servers import Server


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield made
    await made.close()


async def test_of_any_number_of_names_a_minute_keeps_two_hundred(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """What comes after them is one field for each kind of count, however often it comes."""
    for _ in range(3):
        await broker.enqueue([replace(new_task(), task=f"name-{number}") for number in range(500)])

    stored = [valkey_server.command("HGETALL", key) for key in _keys(valkey_server, namespace, "stats:*")]

    for minute in stored:
        assert len(minute) <= 2 * 200 + 2  # a mark and a count each, the number of them, and the others
    others = sum(int(minute.get(f"{QUEUE}|~other|enqueued", 0)) for minute in stored)
    assert others > 0
    assert (
        others + sum(int(minute[f]) for minute in stored for f in minute if "name-" in f and f.count("|") == 2) == 1500
    )


async def test_the_history_is_cut_to_its_newest_ends(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """Only now and then, which is cheaper."""
    history = f"{{{namespace}}}:history"
    with valkey_server.client() as client:
        client.rpush(history, *(f"old-{number}" for number in range(10_499)))
    await broker.enqueue([new_task(), new_task()])
    hand = Hand(broker=broker, id="w")
    lengths = []

    for delivery in await hand.fetch(2):
        await hand.end(delivery)
        lengths.append(valkey_server.command("LLEN", history))

    assert lengths == [10_500, 10_000]
    assert [row.split("\t")[0] for row in valkey_server.command("LRANGE", history, 0, 2)][2] == "old-0"
    assert valkey_server.command("LINDEX", history, -1) == "old-9997"


async def test_a_listing_reads_no_bodies(broker: RedisStreamsBroker, valkey_server: Server) -> None:
    """Fifty tasks of 200 KB each are listed for a few bytes each."""
    for _ in range(50):
        await broker.enqueue([new_task(body=b"x" * 200_000)])
    with valkey_server.client() as client:
        before = client.info("stats")["total_net_output_bytes"]

        page = await broker.census.tasks("queued")

        sent = client.info("stats")["total_net_output_bytes"] - before
    assert len(page.items) == 50
    assert sent < 200_000


def _keys(server: Server, namespace: str, part: str) -> list[str]:
    with server.client() as client:
        return [str(key) for key in client.scan_iter(match=f"[{{]{namespace}}}:{part}", count=1_000)]
