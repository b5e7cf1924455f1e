"""The contract of adoption, of what was fetched and never heard of; and of leaving."""

from __future__ import annotations

from stem.contracts import Limits, Outcome, RevokeTasks
from stem.testing.case import (
    FLEET,
    QUEUE,
    BrokerCase,
    Hand,
    Operator,
    enqueue,
    new_task,
    settlement,
    sweep_until,
)


class BrokerContractAdopt:
    """A fetch whose reply was lost, and leaving."""

    async def test_a_lost_fetch_reply_is_adopted(self, broker_case: BrokerCase) -> None:
        """The worker finds what was handed to it unseen: same token, same body, and can settle it."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        task = new_task("t-1", signature=b"s", lease_ms=50_000, priority=2)
        await broker.enqueue([task])
        lost = await owner.take()

        (adopted,) = await broker.adopt("owner", [QUEUE], [])

        assert adopted == lost
        assert await owner.end(adopted) == "applied"

    async def test_an_adopted_delivery_keeps_the_lease_that_was_granted(self, broker_case: BrokerCase) -> None:
        """Also one that came from the worker and not from the producer; a longer one would delay its recovery."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task("t-1", task="a"), new_task("t-2", task="b", lease_ms=50_000)])
        lost = await owner.fetch(lease_ms=20_000, leases={"a": 7_000})

        adopted = await broker.adopt("owner", [QUEUE], [])
        again = await broker.adopt("owner", [QUEUE], [])

        assert {d.id: d.lease_ms for d in lost} == {"t-1": 7_000, "t-2": 50_000}
        assert {d.id: d.lease_ms for d in adopted} == {d.id: d.lease_ms for d in again} == {"t-1": 7_000, "t-2": 50_000}

    async def test_an_adopted_delivery_begins_its_lease_anew(self, broker_case: BrokerCase) -> None:
        """Nobody renewed it while nobody knew of it: else it would be reclaimed as soon as it has begun."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task("unseen"), new_task("known")])
        for _ in range(2):
            await owner.take()
            await broker_case.advance(0.01)

        await broker.adopt("owner", [QUEUE], {"known"})

        assert [item.id for item in (await broker.census.tasks("running")).items] == ["known", "unseen"]

    async def test_adopting_again_after_a_lost_reply_gives_the_same(self, broker_case: BrokerCase) -> None:
        """Adoption starts nothing, so it may be repeated."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task("t-1"), new_task("t-2")])
        await owner.fetch()

        adopted = await broker_case.lose_reply(lambda: broker.adopt("owner", [QUEUE], []))

        assert {(d.id, d.token) for d in adopted} == {("t-1", 1), ("t-2", 1)}

    async def test_what_a_worker_knows_is_not_adopted(self, broker_case: BrokerCase) -> None:
        """Only ids that are missing from `known`, and never those of another worker or queue."""
        broker = broker_case.broker
        owner, other = Hand(broker=broker, id="owner"), Hand(broker=broker, id="other")
        await broker.enqueue([new_task("t-1"), new_task("t-2"), new_task("t-3"), new_task("t-4", queue="far")])
        await owner.fetch(2)
        await other.fetch(1)
        await owner.fetch(queues=["far"])

        adopted = await broker.adopt("owner", [QUEUE], {"t-1"})

        assert [d.id for d in adopted] == ["t-2"]

    async def test_what_has_ended_or_moved_is_not_adopted(self, broker_case: BrokerCase) -> None:
        """A settled task is nobody's, a reclaimed one is another's."""
        broker = broker_case.broker
        owner, other = Hand(broker=broker, id="owner"), Hand(broker=broker, id="other")
        await broker.enqueue([new_task("t-1"), new_task("t-2")])
        ended, moved = await owner.fetch()
        await owner.end(ended)
        await owner.end(moved, Outcome.GIVE_BACK)
        await other.take()

        assert list(await broker.adopt("owner", [QUEUE], [])) == []

    async def test_what_was_revoked_meanwhile_is_not_adopted(self, broker_case: BrokerCase) -> None:
        """Its worker never got it: it would begin after the revoke. A sweep ends it when its lease is over."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task("t-1"), new_task("t-2")])
        await owner.fetch()
        await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))

        adopted = await broker.adopt("owner", [QUEUE], [])

        assert [d.id for d in adopted] == ["t-2"]

    async def test_an_exchange_repeated_as_it_is_loses_nothing(self, broker_case: BrokerCase) -> None:
        """Settle and fetch in one call, sent twice: the end counts once, and both hand-outs are this worker's."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task(f"t-{n}") for n in range(3)])
        first = await owner.take()
        ends = [settlement(first)]
        answer = await broker_case.lose_reply(lambda: owner.exchange(ends, count=1))
        adopted = await broker.adopt("owner", [QUEUE], {d.id for d in answer.deliveries})

        assert list(answer.settled) == ["already"]
        assert sorted(d.id for d in (*answer.deliveries, *adopted)) == ["t-1", "t-2"]

    async def test_leaving_loses_no_task(self, broker_case: BrokerCase) -> None:
        """A worker that leaves while it still owns something leaves it to be reclaimed."""
        broker = broker_case.limits(Limits(lost_after_ms=FLEET.lost_after_ms))
        leaver, here = (
            Hand(broker=broker, id="leaver"),
            Hand(broker=broker, id="here", interval_ms=FLEET.lost_after_ms // 3),
        )
        task_id = await enqueue(broker)
        await leaver.beat()
        await leaver.take(lease_ms=20)
        await leaver.beat(state="stopped")

        await broker_case.lose_reply(lambda: broker.leave("leaver", [QUEUE, "never-used"]))
        await sweep_until(broker_case, broker, here)

        assert (await here.take()).id == task_id

    async def test_leaving_forgets_no_delivery(self, broker_case: BrokerCase) -> None:
        """What is still owned can be adopted: only consumers that own nothing are forgotten."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await enqueue(broker, task_id="t-1")
        await owner.take()

        await broker.leave("owner", [QUEUE])

        assert [d.id for d in await broker.adopt("owner", [QUEUE], [])] == ["t-1"]

    async def test_leaving_with_nothing_is_allowed(self, broker_case: BrokerCase) -> None:
        """The normal end of a worker; the queue goes on."""
        broker = broker_case.broker
        leaver = Hand(broker=broker, id="leaver")
        await enqueue(broker)
        await leaver.end(await leaver.take())

        await broker.leave("leaver", [QUEUE])
        await enqueue(broker, task_id="t-2")

        assert (await Hand(broker=broker, id="here").take()).id == "t-2"
