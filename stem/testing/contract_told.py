"""The contract of ends that become others: what a worker is told that cannot know it by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stem.contracts import Outcome, RevokeTasks
from stem.testing.case import (
    FLEET,
    BrokerCase,
    Hand,
    Operator,
    enqueue,
    outlive,
    settlement,
    status_of,
    sweep_until,
)

CRASHES: int = 3


async def crash(hand: Hand, times: int) -> list[str]:
    """Start the one task that is there and settle it as crashed, so many times; return the answers."""
    return [await hand.end(await hand.take(), Outcome.CRASHED) for _ in range(times)]


class BrokerContractTold:
    """The broker says when a crash made a dead letter of the task, and when a revoke had been there first.

    A worker cannot count the crashes of others, and may not have heard of a revoke yet.
    """

    async def test_the_crash_that_buries_is_answered_so(self, broker_case: BrokerCase) -> None:
        """The ones before it are `applied`: the task runs again."""
        task_id = await enqueue(broker_case.broker)

        answers = await crash(Hand(broker=broker_case.broker, id="w-1"), CRASHES)
        status = await status_of(broker_case.broker, task_id)

        assert answers == ["applied", "applied", "buried"]
        assert (status.state, status.reason, status.crashes) == ("failed", "poison", CRASHES)

    async def test_it_is_answered_so_again_when_the_reply_was_lost(self, broker_case: BrokerCase) -> None:
        """Nobody else can tell of it. What an earlier crash is answered again stays `already`, and nothing changes."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        first = settlement(await hand.take(), Outcome.CRASHED)
        await hand.settle(first)
        await crash(hand, 1)
        last = settlement(await hand.take(), Outcome.CRASHED)
        await hand.settle(last)
        before = await status_of(broker_case.broker, task_id)

        other = replace(last, outcome=Outcome.GIVE_BACK)
        answers = await hand.settle(last, first, other)

        assert list(answers) == ["buried", "already", "already"]
        assert await status_of(broker_case.broker, task_id) == before

    async def test_after_a_replay_it_is_no_news_any_more(self, broker_case: BrokerCase) -> None:
        """The dead letter it made is none now."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await crash(hand, CRASHES - 1)
        last = settlement(await hand.take(), Outcome.CRASHED)
        await hand.settle(last)
        await broker_case.broker.replay([task_id])

        assert list(await hand.settle(last)) == ["already"]
        assert (await hand.take()).crashes == 0

    async def test_a_revoked_task_is_not_buried(self, broker_case: BrokerCase) -> None:
        """Its end is the operator's, however often it crashed."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await crash(hand, CRASHES - 1)
        delivery = await hand.take()
        await Operator(broker_case.broker).issue("revoke", RevokeTasks(ids=[task_id]))
        await hand.catch_up()

        answer = await hand.end(delivery, Outcome.CRASHED)

        assert answer == "revoked"
        assert (await status_of(broker_case.broker, task_id)).state == "revoked"

    @pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED])
    async def test_a_revoke_that_was_first_is_answered_so_each_time(
        self, broker_case: BrokerCase, outcome: Outcome
    ) -> None:
        """Nobody else can tell of it, and the first answer may get lost."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        end = settlement(await hand.take(), outcome)
        await Operator(broker_case.broker).issue("revoke", RevokeTasks(ids=[task_id]), reason="wrong file")

        answers = [*await hand.settle(end), *await hand.settle(end)]
        status = await status_of(broker_case.broker, task_id)

        assert answers == ["revoked", "revoked"]
        assert (status.state, status.reason) == ("revoked", "wrong file")

    async def test_what_its_worker_ends_as_revoked_keeps_the_reason_of_the_revoke(
        self, broker_case: BrokerCase
    ) -> None:
        """The worker knows that it was revoked, not why; what it says itself goes first."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        ids = [await enqueue(broker_case.broker) for _ in range(3)]
        asked, worded, unasked = await hand.fetch()
        await Operator(broker_case.broker).issue(
            "revoke", RevokeTasks(ids=ids[:2], terminate=True), reason="wrong file"
        )

        answers = await hand.settle(
            settlement(asked, Outcome.REVOKED),
            settlement(worded, Outcome.REVOKED, reason="its handler said so"),
            settlement(unasked, Outcome.REVOKED),
        )

        assert list(answers) == ["applied"] * 3
        reasons = [(await status_of(broker_case.broker, task_id)).reason for task_id in ids]
        assert reasons == ["wrong file", "its handler said so", ""]

    async def test_what_was_revoked_while_it_waited_is_no_news(self, broker_case: BrokerCase) -> None:
        """Its run had been handed back before that: this is what the worker has to tell of."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        end = settlement(await hand.take(), Outcome.GIVE_BACK)
        first = await hand.settle(end)
        await Operator(broker_case.broker).issue("revoke", RevokeTasks(ids=[task_id]))

        assert [*first, *await hand.settle(end)] == ["applied", "already"]

    async def test_who_lost_a_task_that_a_sweep_buried_is_told_that_it_is_lost(self, broker_case: BrokerCase) -> None:
        """The sweep counts the crash of a lost worker, and there is nobody to tell."""
        broker = broker_case.limits(FLEET)
        gone = Hand(broker=broker, id="gone", interval_ms=FLEET.lost_after_ms // 3)
        here = Hand(broker=broker, id="here", interval_ms=FLEET.lost_after_ms // 3)
        task_id = await enqueue(broker)
        await crash(gone, CRASHES - 1)
        await gone.beat()
        delivery = await gone.take(lease_ms=20)
        await outlive(broker_case, here)
        swept = await sweep_until(broker_case, broker, here)

        answer = await gone.end(delivery, Outcome.CRASHED)

        assert (swept.buried, answer) == (1, "lost")
        assert (await status_of(broker, task_id)).reason == "poison"
