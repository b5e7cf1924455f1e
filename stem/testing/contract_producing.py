"""The contract of producing: enqueue, due times, expiry, unique keys, queue limits, order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stem.contracts import Limits, Outcome
from stem.messages.envelope import Envelope
from stem.testing.case import (
    LONG_MS,
    BrokerCase,
    Corruption,
    Hand,
    enqueue,
    new_task,
    now_ms,
    put,
    state_of,
    status_of,
)


class BrokerContractEnqueue:
    """Taking tasks in."""

    async def test_an_enqueued_task_is_delivered_with_what_was_given(self, broker_case: BrokerCase) -> None:
        """A task is handed out with its body, signature, name, queue and priority, at attempt 0, with token 1."""
        broker = broker_case.broker
        task = new_task("t-1", task="mail.send", queue="mail", priority=4, signature=b"\x00sig\xff", args={"to": "ada"})

        answer = await put(broker, task)
        delivery = await Hand(broker=broker, id="w-1", queues=["mail"]).take()

        assert (answer.id, answer.outcome) == ("t-1", "queued")
        assert (delivery.id, delivery.task, delivery.queue, delivery.priority) == ("t-1", "mail.send", "mail", 4)
        assert (delivery.body, delivery.signature) == (task.body, b"\x00sig\xff")
        assert (delivery.attempt, delivery.crashes, delivery.token, delivery.give_backs) == (0, 0, 1, 0)
        assert delivery.enqueued_at_ms > 0
        assert delivery.started_at_ms >= delivery.enqueued_at_ms

    async def test_an_enqueued_task_has_the_state_queued(self, broker_case: BrokerCase) -> None:
        """The record of a waiting task says where it waits, since when, and that nobody has it."""
        before = await now_ms(broker_case.broker)

        task_id = await enqueue(broker_case.broker, task="job", queue="mail", priority=3)
        status = await status_of(broker_case.broker, task_id)

        assert (status.state, status.task, status.queue, status.priority) == ("queued", "job", "mail", 3)
        assert (status.attempt, status.crashes, status.token) == (0, 0, 0)
        assert not status.worker
        assert status.enqueued_at_ms is not None
        assert status.enqueued_at_ms >= before
        assert status.finished_at_ms is None
        assert status.result is None
        assert status.error is None

    async def test_a_batch_answers_each_task_in_order(self, broker_case: BrokerCase) -> None:
        """One answer per task, in the order given, also when they differ."""
        old = new_task("t-old")
        await put(broker_case.broker, old)

        answers = await broker_case.broker.enqueue([new_task("t-a"), old, new_task("t-b", delay_ms=LONG_MS)])

        assert [(answer.id, answer.outcome) for answer in answers] == [
            ("t-a", "queued"),
            ("t-old", "exists"),
            ("t-b", "scheduled"),
        ]

    async def test_an_empty_batch_is_answered_with_nothing(self, broker_case: BrokerCase) -> None:
        """Enqueueing no task does nothing."""
        assert list(await broker_case.broker.enqueue([])) == []

    async def test_a_batch_larger_than_a_round_trip_is_taken_whole(self, broker_case: BrokerCase) -> None:
        """1 203 tasks of one call are all taken, in order."""
        tasks = [new_task(f"t-{number}") for number in range(1_203)]

        answers = await broker_case.broker.enqueue(tasks)

        assert {answer.outcome for answer in answers} == {"queued"}
        assert [answer.id for answer in answers] == [task.id for task in tasks]
        (row,) = await broker_case.broker.census.queues()
        assert row.ready == 1_203

    async def test_enqueueing_again_after_a_lost_reply_makes_no_second_task(self, broker_case: BrokerCase) -> None:
        """The same id with the same body is one task, whatever a producer repeats."""
        task = new_task("t-1")

        (answer,) = await broker_case.lose_reply(lambda: broker_case.broker.enqueue([task]))

        assert (answer.id, answer.outcome) == ("t-1", "exists")
        assert len(await Hand(broker=broker_case.broker, id="w-1").fetch()) == 1

    async def test_enqueueing_again_after_the_task_ran_does_not_run_it_again(self, broker_case: BrokerCase) -> None:
        """A repetition that comes very late meets the final record."""
        task, hand = new_task("t-1"), Hand(broker=broker_case.broker, id="w-1")
        await put(broker_case.broker, task)
        await hand.end(await hand.take())

        answer = await put(broker_case.broker, task)

        assert answer.outcome == "exists"
        assert await state_of(broker_case.broker, "t-1") == "succeeded"
        assert list(await hand.fetch()) == []

    async def test_enqueueing_a_scheduled_task_again_keeps_its_time(self, broker_case: BrokerCase) -> None:
        """A repetition neither doubles a scheduled task nor moves it."""
        task = new_task("t-1", delay_ms=LONG_MS)
        await put(broker_case.broker, task)
        first = (await status_of(broker_case.broker, "t-1")).due_at_ms
        await broker_case.advance(0.01)

        answer = await put(broker_case.broker, task)

        assert answer.outcome == "exists"
        assert (await status_of(broker_case.broker, "t-1")).due_at_ms == first
        (row,) = await broker_case.broker.census.queues()
        assert (row.ready, row.delayed) == (0, 1)

    async def test_the_same_id_with_another_body_is_a_conflict(self, broker_case: BrokerCase) -> None:
        """The first body stays; the second is refused and changes nothing."""
        first = new_task("t-1", args={"n": 1})
        await put(broker_case.broker, first)

        answer = await put(broker_case.broker, new_task("t-1", args={"n": 2}))

        assert (answer.id, answer.outcome) == ("t-1", "conflict")
        assert (await Hand(broker=broker_case.broker, id="w-1").take()).body == first.body

    async def test_the_body_is_not_read_by_the_broker(self, broker_case: BrokerCase) -> None:
        """Any bytes come out as they went in: decoding them is the worker's business."""
        body = bytes(range(256)) + b"\r\n\xc1"

        await put(broker_case.broker, new_task("t-1", body=body))

        assert (await Hand(broker=broker_case.broker, id="w-1").take()).body == body

    async def test_body_returns_what_was_enqueued(self, broker_case: BrokerCase) -> None:
        """The body and signature of a task can be asked for; an unknown task has none."""
        task = new_task("t-1", signature=b"sig")
        await put(broker_case.broker, task)

        assert await broker_case.broker.body("t-1") == (task.body, b"sig")
        assert await broker_case.broker.body("t-2") is None

    async def test_an_unknown_task_has_no_status(self, broker_case: BrokerCase) -> None:
        """Statuses come in the order asked for, None for an id without a record."""
        task_id = await enqueue(broker_case.broker)

        first, second, third = await broker_case.broker.statuses(["nobody", task_id, "none"])

        assert (first, third) == (None, None)
        assert second is not None
        assert second.id == task_id

    async def test_meta_of_the_body_is_shown_in_the_status(self, broker_case: BrokerCase) -> None:
        """What the producer put into `meta` can be seen while the task waits."""
        body = Envelope(id="t-1", task="job", meta={"tenant": "acme"}).encode()
        await put(broker_case.broker, new_task("t-1", body=body))

        assert dict((await status_of(broker_case.broker, "t-1")).meta) == {"tenant": "acme"}

    async def test_tasks_of_another_queue_stay_where_they_are(self, broker_case: BrokerCase) -> None:
        """A worker is handed tasks of the queues it asks for only."""
        await enqueue(broker_case.broker, queue="mail")

        assert list(await Hand(broker=broker_case.broker, id="w-1").fetch()) == []

    async def test_a_broken_record_stops_no_other_of_its_batch(self, broker_case: BrokerCase) -> None:
        """Enqueueing its id again is not accepted, the others are."""
        await put(broker_case.broker, new_task("broken", unique_key="k"))
        await broker_case.corrupt("broken", "whole")

        first, second, third = await broker_case.broker.enqueue(
            [new_task("a"), new_task("broken", args={"n": 2}), new_task("z", unique_key="k")]
        )

        assert (first.outcome, second.outcome) == ("queued", "conflict")
        assert third.outcome in ("queued", "duplicate")

    async def test_two_enqueues_at_once_are_both_taken(self, broker_case: BrokerCase) -> None:
        """Concurrent calls on one handle do not disturb each other."""
        answers = await asyncio.gather(*(put(broker_case.broker, new_task(f"t-{n}")) for n in range(20)))

        assert [answer.id for answer in answers] == [f"t-{n}" for n in range(20)]
        assert len(await Hand(broker=broker_case.broker, id="w-1").fetch()) == 20


class BrokerContractOrder:
    """Which task comes first."""

    async def test_tasks_of_one_priority_come_in_the_order_enqueued(self, broker_case: BrokerCase) -> None:
        """First in, first out, over several calls and batches."""
        await broker_case.broker.enqueue([new_task("t-1"), new_task("t-2")])
        await broker_case.broker.enqueue([new_task("t-3")])

        assert [d.id for d in await Hand(broker=broker_case.broker, id="w-1").fetch()] == ["t-1", "t-2", "t-3"]

    async def test_priority_nine_comes_before_zero(self, broker_case: BrokerCase) -> None:
        """Within a queue priorities are taken strictly from 9 down to 0."""
        priorities = [0, 5, 9, 1, 8, 2, 7, 3, 6, 4]
        await broker_case.broker.enqueue([new_task(priority=priority) for priority in priorities])
        hand = Hand(broker=broker_case.broker, id="w-1")

        taken = [d.priority for d in await hand.fetch(4)] + [d.priority for d in await hand.fetch(10)]

        assert taken == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

    async def test_a_late_urgent_task_overtakes(self, broker_case: BrokerCase) -> None:
        """A priority that was empty before is seen as soon as something is in it."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task("slow-1"), new_task("slow-2")])
        await hand.take()
        await enqueue(broker_case.broker, task_id="urgent", priority=9)

        assert (await hand.take()).id == "urgent"

    async def test_queues_are_asked_in_the_order_given(self, broker_case: BrokerCase) -> None:
        """The caller rotates its queues, so none starves; priorities count within a queue only."""
        await broker_case.broker.enqueue([new_task("a-1", queue="a"), new_task("a-2", queue="a")])
        await broker_case.broker.enqueue([new_task("b-1", queue="b", priority=9), new_task("b-2", queue="b")])
        hand = Hand(broker=broker_case.broker, id="w-1")

        assert [d.id for d in await hand.fetch(1, queues=["a", "b"])] == ["a-1"]
        assert [d.id for d in await hand.fetch(1, queues=["b", "a"])] == ["b-1"]
        assert [d.id for d in await hand.fetch(2, queues=["b", "a"])] == ["b-2", "a-2"]


class BrokerContractDue:
    """Delay, eta and expiry, by the broker's clock."""

    async def test_a_delayed_task_waits(self, broker_case: BrokerCase) -> None:
        """It has the state `scheduled`, says when it is due, and is not handed out before."""
        before = await now_ms(broker_case.broker)

        answer = await put(broker_case.broker, new_task("t-1", delay_ms=LONG_MS))
        status = await status_of(broker_case.broker, "t-1")

        assert answer.outcome == "scheduled"
        assert status.state == "scheduled"
        assert status.due_at_ms is not None
        assert before + LONG_MS <= status.due_at_ms <= await now_ms(broker_case.broker) + LONG_MS
        assert list(await Hand(broker=broker_case.broker, id="w-1").fetch()) == []

    async def test_a_delayed_task_is_handed_out_when_it_is_due(self, broker_case: BrokerCase) -> None:
        """Once the delay has passed a fetch finds it, without anybody having moved it."""
        await enqueue(broker_case.broker, task_id="t-1", delay_ms=30)
        await broker_case.advance(0.05)

        assert (await Hand(broker=broker_case.broker, id="w-1").take()).id == "t-1"

    async def test_a_task_with_a_future_eta_waits_for_it(self, broker_case: BrokerCase) -> None:
        """An eta is a point in the broker's time."""
        eta_ms = await now_ms(broker_case.broker) + 150
        hand = Hand(broker=broker_case.broker, id="w-1")

        answer = await put(broker_case.broker, new_task("t-1", eta_ms=eta_ms))
        status = await status_of(broker_case.broker, "t-1")
        await broker_case.advance(0.2)

        assert answer.outcome == "scheduled"
        assert status.due_at_ms == eta_ms
        assert (await hand.take()).started_at_ms >= eta_ms

    @pytest.mark.parametrize("due", [{"delay_ms": 0}, {"delay_ms": -5_000}, {"eta_ms": 1}])
    async def test_a_task_whose_time_is_past_is_ready_at_once(
        self, broker_case: BrokerCase, due: dict[str, Any]
    ) -> None:
        """A delay of nothing and an eta that is past are no delay."""
        answer = await put(broker_case.broker, new_task("t-1", **due))

        assert answer.outcome == "queued"
        assert (await Hand(broker=broker_case.broker, id="w-1").take()).id == "t-1"

    async def test_delayed_tasks_become_ready_in_the_order_of_their_times(self, broker_case: BrokerCase) -> None:
        """Not in the order in which they were enqueued."""
        delays = (("late", 60), ("early", 20), ("middle", 40))  # in one call: from one moment, however slow the machine
        await broker_case.broker.enqueue([new_task(task_id, delay_ms=delay_ms) for task_id, delay_ms in delays])
        await broker_case.advance(0.08)

        assert [d.id for d in await Hand(broker=broker_case.broker, id="w-1").fetch()] == ["early", "middle", "late"]

    @pytest.mark.parametrize("how", ["whole", "fields"])
    async def test_a_broken_record_stops_no_other_from_becoming_due(
        self, broker_case: BrokerCase, how: Corruption
    ) -> None:
        """One bad record among the delayed ones is passed over."""
        await broker_case.broker.enqueue([new_task(one, delay_ms=60) for one in ("a", "broken", "z")])
        await broker_case.corrupt("broken", how)
        await broker_case.advance(0.08)
        hand = Hand(broker=broker_case.broker, id="w-1")

        assert {"a", "z"} <= {d.id for d in (*await hand.fetch(), *await hand.fetch())}

    async def test_a_delayed_task_keeps_its_priority(self, broker_case: BrokerCase) -> None:
        """When it becomes due it stands before the less urgent ones."""
        await enqueue(broker_case.broker, task_id="plain")
        await enqueue(broker_case.broker, task_id="urgent", priority=9, delay_ms=20)
        await broker_case.advance(0.04)

        assert [d.id for d in await Hand(broker=broker_case.broker, id="w-1").fetch()] == ["urgent", "plain"]

    async def test_a_fetch_says_when_the_next_task_is_due(self, broker_case: BrokerCase) -> None:
        """So that an idle worker knows how long it may sleep; None when nothing waits for its time."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        nothing = await hand.exchange()
        await enqueue(broker_case.broker, delay_ms=LONG_MS)
        await enqueue(broker_case.broker, delay_ms=50_000)

        something = await hand.exchange()

        assert nothing.next_due_ms is None
        assert something.next_due_ms is not None
        assert 0 < something.next_due_ms <= 50_000

    @pytest.mark.parametrize("relative", [True, False])
    async def test_an_expired_task_is_never_started(self, broker_case: BrokerCase, relative: bool) -> None:
        """A fetch after its expiry drops it and makes it `expired`, which is final."""
        when = {"expires_in_ms": 20} if relative else {"expires_ms": await now_ms(broker_case.broker) + 20}
        await enqueue(broker_case.broker, task_id="t-1", **when)
        await enqueue(broker_case.broker, task_id="t-2")
        await broker_case.advance(0.05)

        deliveries = await Hand(broker=broker_case.broker, id="w-1").fetch()
        status = await status_of(broker_case.broker, "t-1")

        assert [d.id for d in deliveries] == ["t-2"]
        assert status.state == "expired"
        assert status.finished_at_ms is not None

    async def test_a_task_is_started_before_its_expiry(self, broker_case: BrokerCase) -> None:
        """An expiry in the future changes nothing, and the status says when it is."""
        await enqueue(broker_case.broker, task_id="t-1", expires_in_ms=LONG_MS)

        assert (await status_of(broker_case.broker, "t-1")).expires_at_ms is not None
        assert (await Hand(broker=broker_case.broker, id="w-1").take()).id == "t-1"

    async def test_a_running_task_does_not_expire(self, broker_case: BrokerCase) -> None:
        """Expiry is about starting; a task that started may finish."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="t-1", expires_in_ms=150)
        delivery = await hand.take()
        await broker_case.advance(0.2)

        assert await hand.end(delivery) == "applied"
        assert await state_of(broker_case.broker, "t-1") == "succeeded"

    async def test_a_retry_past_the_expiry_is_not_started(self, broker_case: BrokerCase) -> None:
        """The expiry counts for every start, not only the first."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="t-1", expires_in_ms=150)
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=10)
        await broker_case.advance(0.2)

        assert list(await hand.fetch()) == []
        assert await state_of(broker_case.broker, "t-1") == "expired"


class BrokerContractUnique:
    """Unique keys."""

    async def test_a_second_task_with_the_key_is_answered_with_the_first(self, broker_case: BrokerCase) -> None:
        """The producer gets the holder's id, and nothing is enqueued."""
        await enqueue(broker_case.broker, task_id="t-1", unique_key="user-7")

        answer = await put(broker_case.broker, new_task("t-2", unique_key="user-7"))

        assert (answer.id, answer.outcome) == ("t-1", "duplicate")
        assert await broker_case.broker.statuses(["t-2"]) == [None]
        assert len(await Hand(broker=broker_case.broker, id="w-1").fetch()) == 1

    async def test_a_key_counts_within_one_batch(self, broker_case: BrokerCase) -> None:
        """The first of a batch holds the key, the others are duplicates of it."""
        answers = await broker_case.broker.enqueue([new_task(f"t-{n}", unique_key="k") for n in range(3)])

        assert [(a.id, a.outcome) for a in answers] == [("t-0", "queued"), ("t-0", "duplicate"), ("t-0", "duplicate")]

    async def test_a_key_belongs_to_a_task_name(self, broker_case: BrokerCase) -> None:
        """Another task name may use the same key."""
        await enqueue(broker_case.broker, task="a", unique_key="k")

        assert (await put(broker_case.broker, new_task(task="b", unique_key="k"))).outcome == "queued"

    async def test_name_and_key_are_told_apart_whatever_is_in_them(self, broker_case: BrokerCase) -> None:
        """Both may contain colons; each is released by itself."""
        hand, pairs = Hand(broker=broker_case.broker, id="w-1"), [("billing", "eu:42"), ("billing:eu", "42")]
        await hand.broker.enqueue([new_task(f"t-{len(key)}", task=name, unique_key=key) for name, key in pairs])
        await hand.end(await hand.take())

        again = await hand.broker.enqueue([new_task(f"u-{len(key)}", task=name, unique_key=key) for name, key in pairs])

        assert [(one.id, one.outcome) for one in again] == [("u-5", "queued"), ("t-2", "duplicate")]

    async def test_repeating_the_holder_is_no_duplicate_of_itself(self, broker_case: BrokerCase) -> None:
        """A lost reply is told apart from a second task."""
        task = new_task("t-1", unique_key="k")

        (answer,) = await broker_case.lose_reply(lambda: broker_case.broker.enqueue([task]))

        assert (answer.id, answer.outcome) == ("t-1", "exists")

    @pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.DEAD, Outcome.REVOKED, Outcome.EXPIRED])
    async def test_a_final_state_releases_the_key(self, broker_case: BrokerCase, outcome: Outcome) -> None:
        """However the holder ended, the next one may come; and the one after that."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, unique_key="k")
        await hand.end(await hand.take(), outcome)

        assert (await put(broker_case.broker, new_task("t-2", unique_key="k"))).outcome == "queued"
        await hand.end(await hand.take(), outcome)

    async def test_an_expired_holder_releases_the_key(self, broker_case: BrokerCase) -> None:
        """Also when it was dropped by a fetch, without ever having run."""
        await enqueue(broker_case.broker, unique_key="k", expires_in_ms=20)
        await broker_case.advance(0.04)
        await Hand(broker=broker_case.broker, id="w-1").fetch()

        assert (await put(broker_case.broker, new_task("t-2", unique_key="k"))).outcome == "queued"

    @pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED])
    async def test_a_holder_that_runs_again_keeps_the_key(self, broker_case: BrokerCase, outcome: Outcome) -> None:
        """Between two attempts nobody else gets in."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="t-1", unique_key="k")
        await hand.end(await hand.take(), outcome, delay_ms=LONG_MS)

        answer = await put(broker_case.broker, new_task("t-2", unique_key="k"))

        assert (answer.id, answer.outcome) == ("t-1", "duplicate")


class BrokerContractQueueLimit:
    """The length limit of a queue."""

    async def test_a_full_queue_refuses_and_keeps_no_trace(self, broker_case: BrokerCase) -> None:
        """What is over the limit is answered `full`; no record and no unique key of it stays."""
        broker = broker_case.limits(Limits(queue_length=2))
        await broker.enqueue([new_task(), new_task()])

        answer = await put(broker, new_task("t-3", unique_key="k"))

        assert answer.outcome == "full"
        assert await broker.statuses(["t-3"]) == [None]
        await Hand(broker=broker, id="w-1").fetch()
        assert (await put(broker, new_task("t-4", unique_key="k"))).outcome == "queued"

    async def test_a_batch_that_fits_in_part_is_taken_in_part(self, broker_case: BrokerCase) -> None:
        """The first ones are taken, each of the others is answered `full`."""
        broker = broker_case.limits(Limits(queue_length=3))

        answers = await broker.enqueue([new_task(f"t-{n}") for n in range(5)])

        assert [a.outcome for a in answers] == ["queued", "queued", "queued", "full", "full"]
        assert [d.id for d in await Hand(broker=broker, id="w-1").fetch()] == ["t-0", "t-1", "t-2"]

    async def test_what_waits_for_its_time_counts(self, broker_case: BrokerCase) -> None:
        """Delayed and retrying tasks count as the ready ones do; running ones do not."""
        broker = broker_case.limits(Limits(queue_length=2))
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker)
        delivery = await hand.take()
        await enqueue(broker, delay_ms=LONG_MS)
        one_more = await put(broker, new_task("t-3"))
        over = await put(broker, new_task("t-4"))

        assert (one_more.outcome, over.outcome) == ("queued", "full")
        assert await hand.end(delivery, Outcome.RETRY, delay_ms=LONG_MS) == "applied"
        await hand.fetch()
        assert (await put(broker, new_task("t-5"))).outcome == "full"

    async def test_the_limit_is_of_one_queue(self, broker_case: BrokerCase) -> None:
        """A full queue stops no other."""
        broker = broker_case.limits(Limits(queue_length=1))

        answers = await broker.enqueue([new_task(queue="a"), new_task(queue="a"), new_task(queue="b")])

        assert [a.outcome for a in answers] == ["queued", "full", "queued"]

    async def test_a_task_that_is_known_is_not_refused_by_a_full_queue(self, broker_case: BrokerCase) -> None:
        """Repeating an accepted enqueue is answered `exists`, however full the queue is now."""
        broker = broker_case.limits(Limits(queue_length=1))
        task = new_task("t-1")

        (answer,) = await broker_case.lose_reply(lambda: broker.enqueue([task]))

        assert answer.outcome == "exists"

    async def test_settling_is_never_refused_by_a_full_queue(self, broker_case: BrokerCase) -> None:
        """A task that goes back to a full queue goes back; only new ones are refused."""
        broker = broker_case.limits(Limits(queue_length=1))
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker)
        delivery = await hand.take()
        await enqueue(broker)

        assert await hand.end(delivery, Outcome.GIVE_BACK) == "applied"
        assert len(await hand.fetch()) == 2
