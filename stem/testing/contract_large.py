"""The contract of large bodies: an answer to a worker holds at most 1 MiB of them, to arrive over a slow link too."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from stem.testing.case import FLEET, QUEUE, BrokerCase, Hand, enqueue, new_task, sweep_until

LARGE: bytes = bytes(400_000)
"""Two of these have room in an answer, three have not."""


class BrokerContractLargeBodies:
    """Fetching and adopting what does not arrive at once."""

    async def test_a_fetch_of_many_large_ones_hands_out_a_part_and_says_more(self, broker_case: BrokerCase) -> None:
        """The rest keeps its places, for whoever asks next."""
        broker = broker_case.broker
        one, other = Hand(broker=broker, id="one"), Hand(broker=broker, id="other")
        await broker.enqueue([new_task(f"t-{n}", body=LARGE) for n in range(5)])

        answers = [await hand.exchange() for hand in (one, other, one, other)]

        assert [[d.id for d in answer.deliveries] for answer in answers] == [
            ["t-0", "t-1"],
            ["t-2", "t-3"],
            ["t-4"],
            [],
        ]
        assert [answer.more for answer in answers] == [True, True, False, False]
        assert {d.token for answer in answers for d in answer.deliveries} == {1}

    async def test_one_that_is_larger_than_that_goes_alone(self, broker_case: BrokerCase) -> None:
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        sizes = [1, 1_100_000, 1_100_000, 1]
        await broker.enqueue([new_task(f"t-{n}", body=bytes(size)) for n, size in enumerate(sizes)])

        answers = [await hand.exchange() for _ in range(4)]

        assert [[d.id for d in answer.deliveries] for answer in answers] == [["t-0"], ["t-1"], ["t-2"], ["t-3"]]
        assert [answer.more for answer in answers] == [True, True, True, False]

    async def test_large_ones_that_came_too_late_are_told_in_parts(self, broker_case: BrokerCase) -> None:
        """However many were asked for: what has no room in an answer keeps its place, and is told in the next."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await broker.enqueue([new_task(f"x-{n}", body=LARGE, expires_ms=1) for n in range(12)])
        await broker.enqueue([new_task("good", body=LARGE)])

        answers = [await hand.exchange(count=12) for _ in range(7)]

        told = [[one.id for one in answer.expired] for answer in answers]
        assert told == [[f"x-{n}", f"x-{n + 1}"] for n in range(0, 12, 2)] + [[]]
        assert [[d.id for d in answer.deliveries] for answer in answers] == [[]] * 6 + [["good"]]
        assert [answer.more for answer in answers] == [True] * 6 + [False]

    async def test_what_came_too_late_and_what_is_handed_out_share_the_room(self, broker_case: BrokerCase) -> None:
        """One that is larger than all of it goes alone, whichever it is."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1", queues=["a", "b"])
        sizes = [("x-1", 400_000), ("t-1", 400_000), ("x-2", 400_000), ("t-2", 1_100_000), ("x-3", 1_100_000)]
        late: dict[str, Any] = {"expires_ms": 1}
        await broker.enqueue(
            [new_task(name, queue="a", body=bytes(size), **(late if name[0] == "x" else {})) for name, size in sizes]
        )
        await broker.enqueue([new_task("x-4", queue="b", expires_ms=1)])

        answers = [await hand.exchange() for _ in range(5)]

        told = [[x.id for x in answer.expired] + [d.id for d in answer.deliveries] for answer in answers]
        assert told == [["x-1", "t-1"], ["x-2"], ["t-2"], ["x-3"], ["x-4"]]

    async def test_nothing_overtakes_what_has_no_room(self, broker_case: BrokerCase) -> None:
        """Neither a small one behind it, nor one of a lower priority or a later queue, though they have room."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1", queues=["a", "b"])
        large = [new_task(f"t-{n}", queue="a", priority=5, body=LARGE) for n in range(3)]
        small = [new_task("p5", queue="a", priority=5), new_task("p0", queue="a"), new_task("b", queue="b")]
        await broker.enqueue(large + small)

        first, rest = await hand.exchange(), await hand.exchange()

        assert [d.id for d in first.deliveries] == ["t-0", "t-1"]
        assert [d.id for d in rest.deliveries] == ["t-2", "p5", "p0", "b"]

    async def test_who_has_no_room_for_more_wakes_the_next(self, broker_case: BrokerCase) -> None:
        """What one worker receives slowly, another may receive at once."""
        broker = broker_case.broker
        await broker.enqueue([new_task(body=LARGE) for _ in range(3)])
        await broker.idle([QUEUE], 2.0)  # takes the ring of the burst
        waiting = asyncio.create_task(broker.idle([QUEUE], 2.0))
        await asyncio.sleep(0.05)
        began = time.monotonic()

        await Hand(broker=broker, id="w-1").fetch()
        await waiting

        assert time.monotonic() - began < 1.0

    async def test_many_large_ones_are_adopted_in_parts(self, broker_case: BrokerCase) -> None:
        """Those of the last answer are known the next time; who goes on until nothing comes has them all."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task(f"t-{n}", body=LARGE) for n in range(5)])
        for _ in range(3):
            await owner.fetch()

        known: set[str] = set()
        sizes = []
        while part := await broker.adopt("owner", [QUEUE], known):
            sizes.append(len(part))
            known |= {d.id for d in part}

        assert sizes == [2, 2, 1]
        assert known == {f"t-{n}" for n in range(5)}

    async def test_what_is_not_in_the_answer_keeps_the_lease_that_it_has(self, broker_case: BrokerCase) -> None:
        """Renewed unseen, again and again, it would be nobody's for ever."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task(f"t-{n}", body=bytes(700_000)) for n in range(3)])
        for _ in range(3):
            await owner.fetch()
            await broker_case.advance(0.01)

        (adopted,) = await broker.adopt("owner", [QUEUE], [])

        assert adopted.id == "t-0"
        assert [item.id for item in (await broker.census.tasks("running")).items] == ["t-1", "t-2", "t-0"]

    async def test_what_never_arrives_is_not_held_for_ever(self, broker_case: BrokerCase) -> None:
        """Adopted again and again, it moves on all the same when its lease is over, and no crash is counted."""
        broker = broker_case.limits(FLEET)
        deaf = Hand(broker=broker, id="deaf", interval_ms=FLEET.lost_after_ms // 3)
        await enqueue(broker, task_id="t-1")
        await deaf.beat()
        await deaf.take(lease_ms=600)
        for _ in range(9):
            await broker_case.advance(0.08)
            await deaf.beat()
            await broker.adopt("deaf", [QUEUE], [])

        assert list(await broker.adopt("deaf", [QUEUE], [])) == []
        swept = await sweep_until(broker_case, broker, deaf)
        moved = await Hand(broker=broker, id="other").take()

        assert (swept.requeued, moved.id, moved.token, moved.crashes) == (1, "t-1", 2, 0)
