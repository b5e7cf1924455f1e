"""The contract of working: fetch and settle in one round trip, and waiting for the end."""

from __future__ import annotations

import asyncio

import pytest

from stem.contracts import Delivery, FetchRequest, Outcome, Settlement
from stem.messages.codec import pack
from stem.messages.status import ErrorInfo
from stem.testing.case import (
    LONG_MS,
    QUEUE,
    BrokerCase,
    Corruption,
    Hand,
    enqueue,
    new_task,
    put,
    settlement,
    state_of,
    status_of,
    sweep_until,
)


class BrokerContractFetch:
    """Handing tasks out."""

    async def test_a_task_is_handed_to_one_worker_only(self, broker_case: BrokerCase) -> None:
        """What one worker has, no other is given."""
        await enqueue(broker_case.broker)

        assert len(await Hand(broker=broker_case.broker, id="w-1").fetch()) == 1
        assert list(await Hand(broker=broker_case.broker, id="w-2").fetch()) == []

    async def test_workers_that_fetch_at_once_share_the_tasks(self, broker_case: BrokerCase) -> None:
        """Every task goes to exactly one of them."""
        await broker_case.broker.enqueue([new_task(f"t-{n}") for n in range(30)])
        hands = [Hand(broker=broker_case.broker, id=f"w-{n}") for n in range(5)]

        batches = await asyncio.gather(*(hand.fetch(7) for hand in hands))

        assert sorted(d.id for batch in batches for d in batch) == sorted(f"t-{n}" for n in range(30))

    async def test_no_more_are_handed_out_than_asked_for(self, broker_case: BrokerCase) -> None:
        """The count is of all queues and priorities together, and `more` says that something is left."""
        tasks = [new_task(queue=queue, priority=priority) for queue in ("a", "b") for priority in (0, 9)]
        await broker_case.broker.enqueue(tasks)
        hand = Hand(broker=broker_case.broker, id="w-1", queues=["a", "b"])

        some = await hand.exchange(count=3)
        rest = await hand.exchange(count=3)

        assert (len(some.deliveries), some.more) == (3, True)
        assert (len(rest.deliveries), rest.more) == (1, False)

    async def test_an_exchange_without_a_fetch_hands_nothing_out(self, broker_case: BrokerCase) -> None:
        """A worker that stops may settle without taking more."""
        await enqueue(broker_case.broker)

        answer = await broker_case.broker.exchange("w-1", [], None)

        assert (list(answer.deliveries), list(answer.settled)) == ([], [])

    async def test_a_fetch_of_nothing_hands_nothing_out(self, broker_case: BrokerCase) -> None:
        """A worker without a free slot may ask for 0."""
        await enqueue(broker_case.broker)

        assert list(await Hand(broker=broker_case.broker, id="w-1").fetch(0)) == []

    async def test_a_started_task_says_who_runs_it(self, broker_case: BrokerCase) -> None:
        """State, worker, token and start are in the record before the worker has the delivery."""
        task_id = await enqueue(broker_case.broker)

        delivery = await Hand(broker=broker_case.broker, id="w-1").take()
        status = await status_of(broker_case.broker, task_id)

        assert (status.state, status.worker, status.token) == ("running", "w-1", 1)
        assert status.started_at_ms == delivery.started_at_ms

    async def test_each_start_has_a_higher_token(self, broker_case: BrokerCase) -> None:
        """Whatever ended the start before."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        tokens = []
        for outcome in (Outcome.GIVE_BACK, Outcome.RETRY, Outcome.CRASHED, Outcome.SUCCEEDED):
            delivery = await hand.take()
            tokens.append(delivery.token)
            await hand.end(delivery, outcome)

        assert tokens == [1, 2, 3, 4]

    async def test_the_lease_comes_from_the_task_then_the_name_then_the_worker(self, broker_case: BrokerCase) -> None:
        """What the producer set beats what the worker knows of the task, which beats the worker's default."""
        await enqueue(broker_case.broker, task="plain")
        await enqueue(broker_case.broker, task="known")
        await enqueue(broker_case.broker, task="known", lease_ms=70_000)

        deliveries = await Hand(broker=broker_case.broker, id="w-1").fetch(lease_ms=20_000, leases={"known": 50_000})

        assert [d.lease_ms for d in deliveries] == [20_000, 50_000, 70_000]

    async def test_the_answer_carries_the_time_of_the_broker(self, broker_case: BrokerCase) -> None:
        """Workers estimate the broker's clock from it."""
        hand = Hand(broker=broker_case.broker, id="w-1")

        first = (await hand.exchange()).now_ms
        await broker_case.advance(0.05)
        second = (await hand.exchange()).now_ms

        assert 45 <= second - first < 30_000

    async def test_many_dropped_tasks_do_not_hide_the_good_one(self, broker_case: BrokerCase) -> None:
        """A fetch skips a bounded number and says `more`; the next one goes on where it stopped."""
        dead = [new_task(f"x-{n}", expires_in_ms=5) for n in range(450)]
        await broker_case.broker.enqueue([*dead, new_task("good")])
        await broker_case.advance(0.02)
        hand = Hand(broker=broker_case.broker, id="w-1")

        for _ in range(10):
            answer = await hand.exchange()
            if answer.deliveries:
                break
            assert answer.more

        assert [d.id for d in answer.deliveries] == ["good"]
        assert await state_of(broker_case.broker, "x-449") == "expired"

    @pytest.mark.parametrize("how", ["whole", "fields"])
    async def test_a_record_that_cannot_be_read_stops_no_other(self, broker_case: BrokerCase, how: Corruption) -> None:
        """A fetch, a listing and a status go on past a broken record."""
        await broker_case.broker.enqueue([new_task("a"), new_task("broken"), new_task("z")])
        await broker_case.corrupt("broken", how)
        hand = Hand(broker=broker_case.broker, id="w-1")

        listed = await broker_case.broker.census.tasks("queued")
        statuses = await broker_case.broker.statuses(["a", "broken", "z"])
        deliveries = [*await hand.fetch(), *await hand.fetch()]

        assert {"a", "z"} <= {status.id for status in listed.items}
        assert statuses[0] is not None
        assert statuses[2] is not None
        assert {"a", "z"} <= {d.id for d in deliveries}


class BrokerContractSettle:
    """Ending deliveries."""

    async def test_a_success_stores_its_result(self, broker_case: BrokerCase) -> None:
        """State, result and end are visible as soon as the settlement was applied."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)

        answer = await hand.end(await hand.take(), result=pack({"pages": 3, "raw": b"\x00"}))
        status = await status_of(broker_case.broker, task_id)

        assert answer == "applied"
        assert (status.state, status.result, status.worker) == ("succeeded", {"pages": 3, "raw": b"\x00"}, "w-1")
        assert status.error is None
        assert status.finished_at_ms is not None
        assert status.started_at_ms is not None
        assert status.finished_at_ms >= status.started_at_ms

    async def test_settling_and_fetching_is_one_exchange(self, broker_case: BrokerCase) -> None:
        """The settlements come first, then the fetch, in one answer."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task("t-1"), new_task("t-2")])
        first = await hand.take()

        answer = await hand.exchange([settlement(first)], count=5)

        assert list(answer.settled) == ["applied"]
        assert [d.id for d in answer.deliveries] == ["t-2"]

    @pytest.mark.parametrize("outcome", list(Outcome))
    async def test_settling_again_after_a_lost_reply_changes_nothing(
        self, broker_case: BrokerCase, outcome: Outcome
    ) -> None:
        """The token that settled it before is answered `already`, for every outcome."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        end = settlement(await hand.take(), outcome, delay_ms=LONG_MS)
        await hand.settle(end)
        before = await status_of(broker_case.broker, task_id)
        await broker_case.advance(0.01)

        (answer,) = await hand.settle(end)

        assert answer == "already"
        assert await status_of(broker_case.broker, task_id) == before

    async def test_a_late_repetition_does_not_touch_the_next_start(self, broker_case: BrokerCase) -> None:
        """The settlement of an earlier token is `already`, while the new owner goes on and after it has ended."""
        first, second = Hand(broker=broker_case.broker, id="w-1"), Hand(broker=broker_case.broker, id="w-2")
        task_id = await enqueue(broker_case.broker)
        end = settlement(await first.take(), Outcome.RETRY)
        await first.settle(end)
        delivery = await second.take()

        (answer,) = await first.settle(end)
        status = await status_of(broker_case.broker, task_id)

        assert answer == "already"
        assert (status.state, status.worker, status.attempt, status.token) == ("running", "w-2", 1, 2)
        assert await second.end(delivery) == "applied"
        assert list(await first.settle(end)) == ["already"]

    @pytest.mark.parametrize("outcome", list(Outcome))
    async def test_a_stale_token_settles_nothing(self, broker_case: BrokerCase, outcome: Outcome) -> None:
        """Once the task was started again, the old delivery is `lost`, whatever it says."""
        old, new = Hand(broker=broker_case.broker, id="w-1"), Hand(broker=broker_case.broker, id="w-2")
        task_id = await enqueue(broker_case.broker)
        await old.beat()
        delivery = await old.take(lease_ms=20)
        await broker_case.advance(0.04)
        await sweep_until(broker_case, broker_case.broker, old, new)
        between = await new.take()
        await new.end(between, Outcome.GIVE_BACK)
        await new.take()

        (answer,) = await old.settle(settlement(delivery, outcome))

        assert answer == "lost"
        status = await status_of(broker_case.broker, task_id)
        assert (status.state, status.worker, status.attempt) == ("running", "w-2", 0)

    async def test_another_worker_cannot_settle_with_the_right_token(self, broker_case: BrokerCase) -> None:
        """The owner counts as well as the token."""
        owner, thief = Hand(broker=broker_case.broker, id="w-1"), Hand(broker=broker_case.broker, id="w-2")
        await enqueue(broker_case.broker)
        delivery = await owner.take()

        assert await thief.end(delivery) == "lost"
        assert await owner.end(delivery) == "applied"

    async def test_a_token_that_was_never_given_settles_nothing(self, broker_case: BrokerCase) -> None:
        """Neither a higher token nor an id without a record."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await hand.take()

        answers = await hand.settle(
            Settlement(id=task_id, token=2, outcome=Outcome.DEAD),
            Settlement(id="nobody", token=1, outcome=Outcome.SUCCEEDED, result=pack(1)),
        )

        assert list(answers) == ["lost", "lost"]
        assert await state_of(broker_case.broker, task_id) == "running"
        assert await broker_case.broker.statuses(["nobody"]) == [None]

    async def test_a_waiting_task_cannot_be_settled(self, broker_case: BrokerCase) -> None:
        """Who never started it cannot finish it, with token 0 neither."""
        task_id = await enqueue(broker_case.broker)

        answers = await Hand(broker=broker_case.broker, id="w-1").settle(
            Settlement(id=task_id, token=0, outcome=Outcome.SUCCEEDED, result=pack(1))
        )

        assert list(answers) == ["lost"]
        assert await state_of(broker_case.broker, task_id) == "queued"

    async def test_one_lost_settlement_stops_no_other(self, broker_case: BrokerCase) -> None:
        """Answers come in order, each for itself."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task("t-1"), new_task("t-2")])
        one, two = await hand.fetch()

        answers = await hand.settle(
            settlement(one), Settlement(id="nobody", token=1, outcome=Outcome.DEAD), settlement(two), settlement(one)
        )

        assert list(answers) == ["applied", "lost", "applied", "already"]

    async def test_a_final_state_is_never_overwritten(self, broker_case: BrokerCase) -> None:
        """A second, different end of the same token changes nothing."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        delivery = await hand.take()
        await hand.end(delivery, result=pack("first"))

        answer = await hand.end(delivery, Outcome.DEAD)
        status = await status_of(broker_case.broker, task_id)

        assert answer == "already"
        assert (status.state, status.result) == ("succeeded", "first")

    async def test_a_retry_counts_an_attempt_and_waits(self, broker_case: BrokerCase) -> None:
        """State `retrying`, attempt 1, the error and the next time are in the record; it is not handed out yet."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        error = ErrorInfo(type="OSError", message="later", traceback="tb")

        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=LONG_MS, error=error.encode(), error_type="OSError")
        status = await status_of(broker_case.broker, task_id)

        assert (status.state, status.attempt, status.crashes) == ("retrying", 1, 0)
        assert status.error == error
        assert status.due_at_ms is not None
        assert list(await hand.fetch()) == []

    async def test_a_retry_runs_again_when_it_is_due(self, broker_case: BrokerCase) -> None:
        """With the same body and signature, the next attempt, and a new token."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await put(broker_case.broker, new_task("t-1", signature=b"s"))
        first = await hand.take()
        await hand.end(first, Outcome.RETRY, delay_ms=20)
        await broker_case.advance(0.05)

        again = await hand.take()

        assert (again.id, again.attempt, again.token) == ("t-1", 1, 2)
        assert (again.body, again.signature) == (first.body, b"s")

    async def test_a_hand_back_keeps_the_attempt(self, broker_case: BrokerCase) -> None:
        """A worker that stops gives its tasks back as if it had not started them; the token goes on."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)

        await hand.end(await hand.take(), Outcome.GIVE_BACK)
        state = await state_of(broker_case.broker, task_id)
        again = await Hand(broker=broker_case.broker, id="w-2").take()

        assert state == "queued"
        assert (again.attempt, again.crashes, again.token, again.give_backs) == (0, 0, 2, 0)

    async def test_a_hand_back_with_a_delay_waits(self, broker_case: BrokerCase) -> None:
        """It is not handed out before the delay has passed, and then it is."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.GIVE_BACK, delay_ms=150)

        early = await hand.fetch()
        await broker_case.advance(0.2)
        late = await hand.fetch()

        assert (list(early), [d.attempt for d in late]) == ([], [0])

    async def test_giving_back_an_unknown_task_is_counted(self, broker_case: BrokerCase) -> None:
        """The next worker sees how often and since when nobody could run it."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.GIVE_BACK, unknown=True)
        second = await hand.take()
        await broker_case.advance(0.02)
        await hand.end(second, Outcome.GIVE_BACK, unknown=True)
        third = await hand.take()

        assert (second.give_backs, third.give_backs) == (1, 2)
        assert 0 < second.first_give_back_ms == third.first_give_back_ms
        assert third.attempt == 0

    async def test_only_giving_back_counts_as_giving_back(self, broker_case: BrokerCase) -> None:
        """`unknown` says nothing beside another outcome."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.CRASHED, unknown=True)

        second = await hand.take()

        assert (second.crashes, second.give_backs, second.first_give_back_ms) == (1, 0, 0)

    async def test_a_replayed_task_puts_no_other_off(self, broker_case: BrokerCase) -> None:
        """Its crashes are forgiven: beside it may run what one more crash would bury."""
        broker = broker_case.broker
        one, other = Hand(broker=broker, id="w-1"), Hand(broker=broker, id="w-2")
        await enqueue(broker, task_id="replayed")
        for outcome in (Outcome.CRASHED, Outcome.CRASHED, Outcome.DEAD):
            await one.end(await one.take(), outcome)
        await broker.replay(["replayed"])
        beside = await one.take()
        await enqueue(broker, task_id="suspect")
        for _ in range(2):
            await other.end(await other.take(), Outcome.CRASHED)

        suspect = await one.take()

        assert [(each.id, each.crashes) for each in (beside, suspect)] == [("replayed", 0), ("suspect", 2)]

    async def test_a_crash_is_counted_apart_from_attempts(self, broker_case: BrokerCase) -> None:
        """A crashed task runs again with crashes + 1 and the attempt it had."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.CRASHED)

        again = await hand.take()

        assert (again.attempt, again.crashes) == (0, 1)

    async def test_the_third_crash_is_poison(self, broker_case: BrokerCase) -> None:
        """A task that kills its workers becomes a dead letter instead of killing more."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        for _ in range(3):
            await hand.end(await hand.take(), Outcome.CRASHED)

        status = await status_of(broker_case.broker, task_id)

        assert (status.state, status.reason, status.crashes) == ("failed", "poison", 3)
        assert list(await hand.fetch()) == []
        assert [item.id for item in (await broker_case.broker.census.tasks("dead")).items] == [task_id]

    async def test_a_dead_task_is_failed_with_its_reason(self, broker_case: BrokerCase) -> None:
        """It is final, keeps its error, and stands among the dead letters of its queue."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        error = ErrorInfo(type="ValueError", message="bad input")

        await hand.end(await hand.take(), Outcome.DEAD, reason="malformed", error=error.encode())
        status = await status_of(broker_case.broker, task_id)

        assert (status.state, status.reason, status.error) == ("failed", "malformed", error)
        assert status.finished_at_ms is not None
        (row,) = await broker_case.broker.census.queues()
        assert (row.dead, row.in_flight) == (1, 0)

    @pytest.mark.parametrize(
        ("outcome", "state"), [(Outcome.REVOKED, "revoked"), (Outcome.EXPIRED, "expired")], ids=["revoked", "expired"]
    )
    async def test_a_worker_may_end_a_task_as(self, broker_case: BrokerCase, outcome: Outcome, state: str) -> None:
        """Revoked or expired, as it found it; both are final."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)

        assert await hand.end(await hand.take(), outcome, reason="why") == "applied"
        assert await state_of(broker_case.broker, task_id) == state
        assert list(await hand.fetch()) == []

    async def test_a_final_record_is_forgotten_after_its_time(self, broker_case: BrokerCase) -> None:
        """`ttl_ms` counts from the end."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await hand.end(await hand.take(), ttl_ms=40)
        await broker_case.advance(0.06)

        assert await broker_case.broker.statuses([task_id]) == [None]

    async def test_a_record_that_is_not_final_is_never_forgotten(self, broker_case: BrokerCase) -> None:
        """A retry with a tiny `ttl_ms` stays."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=LONG_MS, ttl_ms=10)
        await broker_case.advance(0.04)

        assert await state_of(broker_case.broker, task_id) == "retrying"

    async def test_a_result_that_cannot_be_read_stops_nothing(self, broker_case: BrokerCase) -> None:
        """Broken bytes in one record are that record's trouble; the status of others is still answered."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task("bad"), new_task("good")])
        bad, good = await hand.fetch()
        await hand.end(bad, result=b"\xc1\xff", error=b"\xc1")
        await hand.end(good, result=pack(7))

        statuses = await broker_case.broker.statuses(["bad", "good"])

        assert statuses[1] is not None
        assert statuses[1].result == 7
        assert {"good"} <= {item.id for item in (await broker_case.broker.census.tasks("succeeded")).items}

    async def test_the_timeline_tells_the_steps_in_order(self, broker_case: BrokerCase) -> None:
        """With times that never go back, the worker's id, and the attempt; `timeline=False` leaves it out."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.RETRY)
        await hand.end(await hand.take())

        timeline = (await status_of(broker_case.broker, task_id)).timeline
        (bare,) = await broker_case.broker.statuses([task_id], timeline=False)

        assert len(timeline) >= 4
        assert [entry.at_ms for entry in timeline] == sorted(entry.at_ms for entry in timeline)
        assert "w-1" in {entry.worker for entry in timeline}
        assert bare is not None
        assert bare.timeline == ()

    async def test_a_fetch_may_be_combined_with_many_settlements(self, broker_case: BrokerCase) -> None:
        """Group commit: hundreds of ends and a fetch leave together and are all answered."""
        await broker_case.broker.enqueue([new_task(f"t-{n}") for n in range(700)])
        hand = Hand(broker=broker_case.broker, id="w-1")
        taken: list[Delivery] = []
        while len(taken) < 600:
            batch = await hand.fetch(600 - len(taken))
            assert batch
            taken.extend(batch)

        answer = await broker_case.broker.exchange(
            "w-1", [settlement(d) for d in taken], FetchRequest(queues=[QUEUE], count=50)
        )

        assert list(answer.settled) == ["applied"] * 600
        assert len(answer.deliveries) == 50
