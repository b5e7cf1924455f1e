"""What a script leaves behind when a command in its middle is refused, and what it passes over: no task is lost by it.

A script is atomic, but nothing is undone when it stops half way. So it adds first and removes last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import Limits, Outcome
from stem.errors import BrokerRefusedError
from stem.testing.case import QUEUE, Hand, enqueue, new_task, settlement, state_of, status_of
from tests.contract.invariants import broken_in
from tests.servers import Server
from tests.waiting import eventually


class Keys:
    """The keys of one queue, spoilt and mended behind the broker's back."""

    def __init__(self, server: Server, namespace: str) -> None:
        self._server = server
        self._namespace = namespace

    def spoil(self, part: str) -> None:
        """Put text where a stream or a set should be: whatever adds to it is refused."""
        self._server.command("SET", self._key(part), "spoilt")

    def mend(self, part: str) -> None:
        self._server.command("DEL", self._key(part))

    def members(self, part: str) -> list[str]:
        return [str(one) for one in self._server.command("ZRANGE", self._key(part), 0, -1)]

    def pending(self, part: str) -> int:
        return int(self._server.command("XPENDING", self._key(part), "stem")["pending"])

    def _key(self, part: str) -> str:
        return f"{{{self._namespace}}}:q:{QUEUE}:{part}"


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(valkey_url, namespace=namespace, limits=Limits(lost_after_ms=240))
    yield made
    await made.close()


@pytest.fixture
def keys(valkey_server: Server, namespace: str) -> Keys:
    return Keys(valkey_server, namespace)


async def test_a_due_task_stays_where_it_waits_until_it_stands_in_its_stream(
    broker: RedisStreamsBroker, keys: Keys
) -> None:
    hand = Hand(broker=broker, id="w")
    task_id = await enqueue(broker, delay_ms=1)
    await eventually(lambda: keys.members("delayed"))
    keys.spoil("p0")

    with pytest.raises(BrokerRefusedError, match="WRONGTYPE"):
        await eventually(lambda: hand.fetch())

    assert keys.members("delayed") == [task_id]
    keys.mend("p0")
    assert (await hand.take()).id == task_id


async def test_a_retry_that_cannot_be_stored_takes_nothing_from_its_worker(
    broker: RedisStreamsBroker, keys: Keys
) -> None:
    """Lease and entry are given up only once the task stands where it waits for its time."""
    hand = Hand(broker=broker, id="w")
    task_id = await enqueue(broker)
    delivery = await hand.take()
    keys.spoil("retry")

    with pytest.raises(BrokerRefusedError, match="WRONGTYPE"):
        await hand.end(delivery, Outcome.RETRY, delay_ms=60_000)

    assert (keys.members("lease"), keys.pending("p0")) == ([task_id], 1)
    assert await state_of(broker, task_id) == "running"
    keys.mend("retry")
    assert await hand.end(delivery, Outcome.RETRY, delay_ms=60_000) == "applied"
    assert keys.members("retry") == [task_id]
    assert (await status_of(broker, task_id)).attempt == 1  # the refused one has not been counted


async def test_a_crash_that_cannot_be_stored_is_counted_once(broker: RedisStreamsBroker, keys: Keys) -> None:
    hand = Hand(broker=broker, id="w")
    task_id = await enqueue(broker)
    delivery = await hand.take()
    keys.spoil("delayed")
    for _ in range(3):
        with pytest.raises(BrokerRefusedError, match="WRONGTYPE"):
            await hand.end(delivery, Outcome.CRASHED, delay_ms=60_000)

    keys.mend("delayed")

    assert await hand.end(delivery, Outcome.CRASHED, delay_ms=60_000) == "applied"
    status = await status_of(broker, task_id)
    assert (status.state, status.crashes) == ("scheduled", 1)


async def test_a_sweep_that_cannot_give_a_task_back_keeps_it_for_the_next(
    broker: RedisStreamsBroker, keys: Keys, valkey_server: Server, namespace: str
) -> None:
    owner, here = Hand(broker=broker, id="owner"), Hand(broker=broker, id="here")
    task_id = await enqueue(broker)
    await owner.take(lease_ms=1)
    keys.spoil("p0")

    async def refused() -> bool:
        await here.beat()
        try:
            await broker.sweep([QUEUE], worker="here")
        except BrokerRefusedError as error:
            return "WRONGTYPE" in str(error)
        return False

    for _ in range(3):
        await eventually(refused)

    assert keys.members("lease") == [task_id]
    keys.mend("p0")
    assert await eventually(lambda: _swept(broker, here)) == 1
    again = await here.take()
    assert (again.id, again.crashes) == (task_id, 1)  # not three: then it would have been buried as poison
    assert broken_in(valkey_server, namespace) == []


async def _swept(broker: RedisStreamsBroker, alive: Hand) -> int:
    await alive.beat()
    return (await broker.sweep([QUEUE], worker=alive.id)).requeued


async def test_a_sweep_comes_past_more_bad_records_than_it_looks_at_in_one_turn(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """A hundred a turn: were the bad ones left where they stand, they would hide the good one for ever."""
    owner, here = Hand(broker=broker, id="owner"), Hand(broker=broker, id="here")
    bad = [f"bad-{number:03}" for number in range(120)]
    await broker.enqueue([new_task(task_id) for task_id in bad])
    await owner.fetch(200, lease_ms=1)
    for task_id in bad:
        valkey_server.command("SET", f"{{{namespace}}}:task:{task_id}", "spoilt")
    await enqueue(broker, task_id="good")
    await owner.take(lease_ms=5)

    assert await eventually(lambda: _swept(broker, here)) == 1

    assert (await here.take()).id == "good"


async def test_what_was_settled_in_a_batch_that_was_refused_is_answered_when_it_is_sent_again(
    broker: RedisStreamsBroker, keys: Keys
) -> None:
    """One of two ends was recorded before the other was refused: the repetition says `already`, and loses neither."""
    hand = Hand(broker=broker, id="w")
    await broker.enqueue([new_task("fine"), new_task("stuck")])
    fine, stuck = await hand.fetch()
    keys.spoil("retry")
    ends = [settlement(fine), settlement(stuck, Outcome.RETRY, delay_ms=60_000)]
    with pytest.raises(BrokerRefusedError, match="WRONGTYPE"):
        await hand.settle(*ends)

    keys.mend("retry")

    assert list(await hand.settle(*ends)) == ["already", "applied"]
    assert keys.members("retry") == ["stuck"]
