"""The contract of listing tasks, page by page."""

from __future__ import annotations

import pytest

from stem.contracts import ListState, Outcome
from stem.errors import InvalidInputError
from stem.messages.codec import pack
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState
from stem.testing.case import LONG_MS, QUEUE, BrokerCase, Hand, enqueue, new_task, put, settlement, status_of


class BrokerContractListings:
    """Pages of tasks."""

    async def test_waiting_tasks_are_listed_in_the_order_they_will_run(self, broker_case: BrokerCase) -> None:
        """Priority 9 first, then as they came; what runs is not among them."""
        await enqueue(broker_case.broker, task_id="runs")
        await Hand(broker=broker_case.broker, id="w-1").take()
        await broker_case.broker.enqueue(
            [new_task("a"), new_task("b", priority=9), new_task("c"), new_task("d", priority=5)]
        )

        page = await broker_case.broker.census.tasks("queued", queue=QUEUE)

        assert [item.id for item in page.items] == ["b", "d", "a", "c"]
        assert {item.state for item in page.items} == {TaskState.QUEUED}
        assert page.next is None

    async def test_what_was_handed_out_between_two_pages_is_not_on_the_second(self, broker_case: BrokerCase) -> None:
        """It waits no more."""
        broker = broker_case.broker
        await broker.enqueue([new_task(f"t-{number}") for number in range(9)])
        first = await broker.census.tasks("queued", limit=3)
        await Hand(broker=broker, id="w-1").fetch(5)

        second = await broker.census.tasks("queued", cursor=first.next, limit=3)

        assert [item.id for item in (*first.items, *second.items)] == ["t-0", "t-1", "t-2", "t-5", "t-6", "t-7"]

    @pytest.mark.parametrize("state", ["queued", "scheduled", "running", "retrying", "dead", "succeeded", "failed"])
    async def test_a_listing_goes_on_page_by_page(self, broker_case: BrokerCase, state: ListState) -> None:
        """Following the cursor gives every task once, over several queues, with pages of at most `limit`."""
        want = await _seven_of(broker_case, state)
        pages: list[str] = []
        cursor: str | None = None
        for _ in range(20):
            page = await broker_case.broker.census.tasks(state, cursor=cursor, limit=3)
            assert len(page.items) <= 3
            pages.extend(item.id for item in page.items)
            cursor = page.next
            if cursor is None:
                break

        assert sorted(pages) == sorted(want)

    @pytest.mark.parametrize("state", ["queued", "scheduled", "running", "retrying", "held", "dead", "succeeded"])
    @pytest.mark.parametrize(
        "cursor",
        ["", "nonsense", "9" * 400, "1:2:3:4:5", "\x00\xff", "-1"],
        ids=["empty", "word", "huge", "parts", "bytes", "negative"],
    )
    async def test_a_cursor_from_elsewhere_is_refused(
        self, broker_case: BrokerCase, state: ListState, cursor: str
    ) -> None:
        """By name, not by a wrong page or a crash."""
        await _seven_of(broker_case, "queued")

        with pytest.raises(InvalidInputError):
            await broker_case.broker.census.tasks(state, cursor=cursor)

    async def test_a_listing_may_be_of_one_queue(self, broker_case: BrokerCase) -> None:
        """And knows its total, where counting is cheap."""
        await broker_case.broker.enqueue(
            [new_task("a-1", queue="a"), new_task("b-1", queue="b"), new_task("a-2", queue="a")]
        )

        page = await broker_case.broker.census.tasks("queued", queue="a")

        assert [item.id for item in page.items] == ["a-1", "a-2"]
        assert page.total in (2, None)
        assert all(item.timeline == () for item in page.items)

    async def test_an_unknown_queue_lists_nothing(self, broker_case: BrokerCase) -> None:
        """Nobody is surprised by an error."""
        page = await broker_case.broker.census.tasks("queued", queue="never")

        assert (list(page.items), page.next) == ([], None)

    async def test_scheduled_tasks_are_listed_by_time(self, broker_case: BrokerCase) -> None:
        """The next one first, with its time."""
        for task_id, delay_ms in (("late", LONG_MS + 2_000), ("early", LONG_MS), ("middle", LONG_MS + 1_000)):
            await enqueue(broker_case.broker, task_id=task_id, delay_ms=delay_ms)

        page = await broker_case.broker.census.tasks("scheduled", queue=QUEUE)

        assert [item.id for item in page.items] == ["early", "middle", "late"]
        assert all(item.due_at_ms for item in page.items)

    async def test_several_queues_are_listed_as_one(self, broker_case: BrokerCase) -> None:
        """Whoever is paged looks for the newest dead letter, not for those of the first queue of the alphabet."""
        broker, hand = broker_case.broker, Hand(broker=broker_case.broker, id="w-1", queues=["a", "b", "c"])
        want = [f"t-{number:02}" for number in range(50)]
        for number, task_id in enumerate(want):
            await enqueue(broker, task_id=task_id, queue="aab"[number % 3] if number else "c")
            await hand.end(await hand.take(), Outcome.DEAD)
            await broker_case.advance(0.002)
        pages: list[list[str]] = []
        cursor: str | None = None
        while cursor is not None or not pages:
            page = await broker.census.tasks("dead", cursor=cursor, limit=20)
            pages.append([item.id for item in page.items])
            cursor = page.next

        assert [len(page) for page in pages] == [20, 20, 10]
        assert [task_id for page in pages for task_id in page] == want[::-1]

    async def test_running_tasks_are_listed_by_the_end_of_their_lease(self, broker_case: BrokerCase) -> None:
        """The one in the greatest danger first, with its worker."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        for task_id, lease_ms in (("long", 90_000), ("short", 30_000), ("middle", 60_000)):
            await enqueue(broker_case.broker, task_id=task_id, lease_ms=lease_ms)
        await hand.fetch()

        page = await broker_case.broker.census.tasks("running", queue=QUEUE)

        assert [(item.id, item.worker) for item in page.items] == [("short", "w-1"), ("middle", "w-1"), ("long", "w-1")]

    async def test_final_tasks_are_listed_newest_first(self, broker_case: BrokerCase) -> None:
        """By state, from history."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        for number in range(3):
            await enqueue(broker_case.broker, task_id=f"t-{number}")
            await hand.end(await hand.take())
        await enqueue(broker_case.broker, task_id="x")
        await hand.end(await hand.take(), Outcome.EXPIRED)
        census = broker_case.broker.census

        assert [item.id for item in (await census.tasks("succeeded")).items] == ["t-2", "t-1", "t-0"]
        assert [item.id for item in (await census.tasks("expired")).items] == ["x"]
        assert list((await census.tasks("revoked")).items) == []

    async def test_what_was_replayed_is_listed_as_what_it_is_now(self, broker_case: BrokerCase) -> None:
        """Its failure stays in the history, and is no failed task any more; one that failed twice is listed once."""
        broker, hand = broker_case.broker, Hand(broker=broker_case.broker, id="w-1")
        for task_id, second in (("good", Outcome.SUCCEEDED), ("bad", Outcome.DEAD)):
            await enqueue(broker, task_id=task_id)
            await hand.end(await hand.take(), Outcome.DEAD)
            await broker_case.advance(0.005)
            await broker.replay([task_id])
            await hand.end(await hand.take(), second)

        assert [item.id for item in (await broker.census.tasks("failed")).items] == ["bad"]
        assert [item.id for item in (await broker.census.tasks("succeeded")).items] == ["good"]

    async def test_a_listing_leaves_out_what_may_be_large(self, broker_case: BrokerCase) -> None:
        """Results and meta are told of single tasks; a dashboard lists hundreds every second."""
        broker, hand = broker_case.broker, Hand(broker=broker_case.broker, id="w-1")
        body = Envelope(id="t-1", task="job", meta={"tenant": "acme"}).encode()
        await put(broker, new_task("t-1", body=body))
        (waiting,) = (await broker.census.tasks("queued")).items
        await hand.end(await hand.take(), result=pack("much", what="result"))

        (ended,) = (await broker.census.tasks("succeeded")).items

        assert (dict(waiting.meta), dict(ended.meta), ended.result) == ({}, {}, None)
        alone = await status_of(broker, "t-1")
        assert (dict(alone.meta), alone.result) == ({"tenant": "acme"}, "much")


async def _seven_of(case: BrokerCase, state: ListState) -> list[str]:
    """Bring seven tasks of two queues into a state."""
    hand = Hand(broker=case.broker, id="w-1", queues=["a", "b"])
    delay_ms = LONG_MS if state == "scheduled" else None
    ids = [f"t-{number}" for number in range(7)]
    await case.broker.enqueue(
        [new_task(one, queue="ab"[n % 2], priority=n % 3, delay_ms=delay_ms) for n, one in enumerate(ids)]
    )
    if state in ("queued", "scheduled"):
        return ids
    deliveries = await hand.fetch()
    if state != "running":
        outcome = {"retrying": Outcome.RETRY, "dead": Outcome.DEAD, "failed": Outcome.DEAD}.get(
            state, Outcome.SUCCEEDED
        )
        await hand.settle(*(settlement(d, outcome, delay_ms=LONG_MS) for d in deliveries))
    return ids
