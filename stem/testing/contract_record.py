"""The contract of what a record shows after a try that was not the last one, and of an issue that is repeated."""

from __future__ import annotations

import pytest

from stem.contracts import Change, Outcome, RevokeTasks, SetDrain, SetShutdown
from stem.messages.codec import pack
from stem.testing.case import (
    FLEET,
    BrokerCase,
    Hand,
    Operator,
    enqueue,
    outlive,
    state_of,
    status_of,
    sweep_until,
)


class BrokerContractRecord:
    """What belongs to one try is gone with it."""

    async def test_a_success_shows_no_error_of_a_try_before_it(self, broker_case: BrokerCase) -> None:
        """While it waits for the next try the error is there to see."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await hand.end(await hand.take(), Outcome.RETRY)
        between = await status_of(broker_case.broker, task_id)

        await hand.end(await hand.take(), result=pack(1))
        after = await status_of(broker_case.broker, task_id)

        assert between.error is not None
        assert (after.state, after.result, after.error) == ("succeeded", 1, None)

    @pytest.mark.parametrize("delay_ms", [0, 3_600_000])
    @pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED])
    async def test_what_waits_again_has_no_worker(
        self, broker_case: BrokerCase, outcome: Outcome, delay_ms: int
    ) -> None:
        """The one that ran it has nothing to do with it any more."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        delivery = await hand.take()
        running = await status_of(broker_case.broker, task_id)

        await hand.end(delivery, outcome, delay_ms=delay_ms)

        assert running.worker == "w-1"
        assert (await status_of(broker_case.broker, task_id)).worker is None

    async def test_what_was_reclaimed_has_no_worker(self, broker_case: BrokerCase) -> None:
        """Nor has it when its worker was lost; who ends it is named."""
        broker = broker_case.limits(FLEET)
        gone, alive = Hand(broker=broker, id="gone", lease_ms=20), Hand(broker=broker, id="alive")
        await gone.beat()
        task_id = await enqueue(broker)
        await gone.take()
        await outlive(broker_case, alive)
        await sweep_until(broker_case, broker, alive)
        waiting = await status_of(broker, task_id)

        await alive.end(await alive.take())

        assert (waiting.state, waiting.worker) == ("queued", None)
        assert (await status_of(broker, task_id)).worker == "alive"

    @pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED])
    async def test_a_new_try_begins_without_progress(self, broker_case: BrokerCase, outcome: Outcome) -> None:
        """That of the last one would look like its own."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        delivery = await hand.take()
        await hand.beat(delivery, progress={task_id: pack(0.9)})
        first = await status_of(broker_case.broker, task_id)
        await hand.end(delivery, outcome)

        await hand.take()

        assert first.progress == 0.9
        assert (await status_of(broker_case.broker, task_id)).progress is None

    async def test_a_try_after_a_lost_worker_begins_without_progress(self, broker_case: BrokerCase) -> None:
        """As after one that ended."""
        broker = broker_case.limits(FLEET)
        gone, alive = Hand(broker=broker, id="gone"), Hand(broker=broker, id="alive")
        task_id = await enqueue(broker)
        await gone.beat(await gone.take(), progress={task_id: pack(0.9)}, lease_ms=20)
        await outlive(broker_case, alive)
        await sweep_until(broker_case, broker, alive)

        await alive.take()

        assert (await status_of(broker, task_id)).progress is None

    async def test_an_id_that_was_revoked_before_it_came_is_shown(self, broker_case: BrokerCase) -> None:
        """As revoked, with when and why, to whoever looks and to whoever waits for it."""
        broker = broker_case.broker
        operator = Operator(broker)
        issued = await operator.issue("revoke", RevokeTasks(ids=["t-1"]), reason="not needed")
        again = await operator.issue("revoke", RevokeTasks(ids=["t-1"]), reason="twice")

        waited = await broker.wait("t-1", 8.0)
        status = await status_of(broker, "t-1")
        (plain,) = await broker.statuses(["t-1"], timeline=False)

        assert [(item.outcome, item.state) for item in (*issued.items, *again.items)] == [
            ("stored", ""),
            ("already", "revoked"),
        ]
        assert waited == status
        assert (status.state, status.task, status.queue) == ("revoked", "", "")
        assert (status.worker, status.enqueued_at_ms, status.started_at_ms) == (None, None, None)
        assert status.reason == "not needed"
        assert status.finished_at_ms is not None
        assert abs(status.finished_at_ms - issued.now_ms) <= 1
        assert [(each.event, each.detail) for each in status.timeline] == [("revoked", "not needed")]
        assert plain is not None
        assert (plain.state, plain.timeline) == ("revoked", ())
        assert await broker.body("t-1") is None
        assert await broker.retry_now(["t-1"]) == {"t-1": "unknown"}
        assert await state_of(broker, "t-1") == "revoked"


MANY = tuple(f"w-{number}" for number in range(600))


class BrokerContractRepeatedIssue:
    """A command whose first answer was lost, to more targets than a page holds."""

    @pytest.mark.parametrize(
        ("kind", "change"),
        [
            ("shutdown", SetShutdown(workers=MANY, mode="warm")),
            ("drain", SetDrain(workers=MANY)),
            ("revoke", RevokeTasks(ids=MANY)),
        ],
    )
    async def test_a_repeated_issue_to_many_answers_the_same(
        self, broker_case: BrokerCase, kind: str, change: Change
    ) -> None:
        """With all that the first one changed: nobody could find out any more."""
        control = broker_case.broker.control
        command = Operator(broker_case.broker).command(kind)

        first = await control.issue(command, change)
        repeated = await control.issue(command, change)

        assert [item.target for item in first.items] == [*MANY]
        assert all(item.changed for item in first.items)
        assert list(repeated.items) == list(first.items)
        assert (repeated.epoch, repeated.audit) == (first.epoch, first.audit)
