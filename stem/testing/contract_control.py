"""The contract of the control channel: the log, epoch and fence, wake-ups, replies; and of presence."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

from stem.contracts import (
    Beat,
    ClearDrain,
    RevokeTasks,
    SetDrain,
    SetPause,
    SetShutdown,
)
from stem.messages.command import Command, Reply
from stem.testing.case import QUEUE, BrokerCase, Hand, Operator, enqueue, settlement, until


class BrokerContractControlLog:
    """Commands that are stored first."""

    async def test_commands_are_logged_in_order(self, broker_case: BrokerCase) -> None:
        """Each raises the epoch by one and can be read back as it was, with the broker's time of issue."""
        control, operator = broker_case.broker.control, Operator(broker_case.broker)
        commands = [operator.command(kind, args={"n": n}, reason="r") for n, kind in enumerate(("ping", "stats", "x"))]

        issued = [await control.issue(command) for command in commands]
        desired = await control.read(0)

        assert [one.epoch for one in issued] == [1, 2, 3]
        assert [entry.epoch for entry in desired.log] == [1, 2, 3]
        assert [Command.decode(entry.command) for entry in desired.log] == commands
        assert all(0 < entry.issued_at_ms <= desired.now_ms for entry in desired.log)
        assert (desired.epoch, desired.fence, desired.reset) == (3, 0, False)

    async def test_reading_after_a_cursor_gives_the_newer_ones(self, broker_case: BrokerCase) -> None:
        """A worker that has applied up to an epoch reads what came after it, and nothing twice."""
        control, operator = broker_case.broker.control, Operator(broker_case.broker)
        for _ in range(3):
            await operator.issue("ping")

        some, none = await control.read(2), await control.read(3)

        assert [entry.epoch for entry in some.log] == [3]
        assert (list(none.log), none.epoch, none.reset) == ([], 3, False)

    async def test_an_untouched_broker_has_epoch_zero(self, broker_case: BrokerCase) -> None:
        """No command, no pause, no drain, no fence."""
        desired = await broker_case.broker.control.read(0)

        assert (desired.epoch, desired.fence, list(desired.log), desired.reset) == (0, 0, [], False)
        assert (list(desired.pauses), list(desired.drained), dict(desired.shutdown)) == ([], [], {})
        assert desired.now_ms > 0

    async def test_a_cursor_ahead_of_the_epoch_means_that_data_was_lost(self, broker_case: BrokerCase) -> None:
        """The worker is told to take this state as it is, with every command since: it has seen none of them."""
        await Operator(broker_case.broker).issue("ping")
        await Operator(broker_case.broker).issue("stats")

        desired = await broker_case.broker.control.read(7)

        assert (desired.reset, desired.epoch) == (True, 2)
        assert [Command.decode(entry.command).type for entry in desired.log] == ["ping", "stats"]

    async def test_a_command_is_stored_once(self, broker_case: BrokerCase) -> None:
        """Issuing it again after a lost reply answers the same and changes nothing more."""
        control, operator = broker_case.broker.control, Operator(broker_case.broker)
        command, change = operator.command("pause"), SetPause(kind="queue", targets=[QUEUE])
        first = await control.issue(command, change)

        again = await control.issue(command, change)
        desired = await control.read(0)

        assert (again.epoch, list(again.items)) == (first.epoch, list(first.items))
        assert [item.outcome for item in again.items] == ["set"]
        assert (desired.epoch, len(desired.log)) == (1, 1)

    async def test_a_repeated_revoke_answers_as_the_first(self, broker_case: BrokerCase) -> None:
        """Also when the first one has changed the state of the task."""
        task_id = await enqueue(broker_case.broker)
        command, change = Operator(broker_case.broker).command("revoke"), RevokeTasks(ids=[task_id])

        issued = await broker_case.lose_reply(lambda: broker_case.broker.control.issue(command, change))

        assert [(item.target, item.outcome) for item in issued.items] == [(task_id, "revoked")]

    async def test_a_repeated_question_answers_as_the_first(self, broker_case: BrokerCase) -> None:
        """It changes nothing, so there is nothing to say of any change."""
        control, command = broker_case.broker.control, Operator(broker_case.broker).command("ping")

        issued = [await control.issue(command) for _ in range(2)]

        assert [(one.epoch, list(one.items)) for one in issued] == [(1, [])] * 2

    async def test_questions_and_revokes_raise_no_fence(self, broker_case: BrokerCase) -> None:
        """Other changes do, to their own epoch."""
        control, operator = broker_case.broker.control, Operator(broker_case.broker)
        await operator.issue("ping")
        await operator.issue("revoke", RevokeTasks(ids=["nobody"]))
        low = (await control.read(0)).fence
        paused = await operator.issue("pause", SetPause(kind="queue", targets=["far"]))
        await operator.issue("stats")

        assert low == 0
        assert (await control.read(0)).fence == paused.epoch == 3

    async def test_the_log_is_read_in_pages(self, broker_case: BrokerCase) -> None:
        """At most 1 000 entries at a time; going on from the last one loses none. After a loss it is the last page."""
        control, operator = broker_case.broker.control, Operator(broker_case.broker)
        for _ in range(1_100):
            await operator.issue("ping")

        first = await control.read(0)
        rest = await control.read(first.log[-1].epoch)
        lost = await control.read(5_000)

        epochs = [entry.epoch for entry in (*first.log, *rest.log)]
        assert 0 < len(first.log) <= 1_000
        assert epochs == list(range(1, 1_101))
        assert [entry.epoch for entry in lost.log] == list(range(101, 1_101))

    async def test_the_log_forgets_after_a_day(self, broker_case: BrokerCase) -> None:
        """Old commands are not replayed to a worker that starts; the epoch stays."""
        broker_case.needs_hours()
        operator = Operator(broker_case.broker)
        await operator.issue("ping")
        await broker_case.advance(25 * 3_600)
        await operator.issue("ping")

        desired = await broker_case.broker.control.read(0)

        assert ([entry.epoch for entry in desired.log], desired.epoch) == ([2], 2)

    async def test_issuing_says_who_is_there(self, broker_case: BrokerCase) -> None:
        """The controller learns in the same step who ought to answer."""
        await Hand(broker=broker_case.broker, id="w-1", name="alpha").beat()

        issued = await Operator(broker_case.broker).issue("ping")

        assert [(seen.heartbeat.id, seen.heartbeat.name, seen.lost) for seen in issued.workers] == [
            ("w-1", "alpha", False)
        ]
        assert issued.now_ms > 0


class BrokerContractFence:
    """No worker that is behind gets another task."""

    async def test_a_worker_behind_the_fence_is_stale(self, broker_case: BrokerCase) -> None:
        """It is handed nothing until it has read the log; then it is."""
        await enqueue(broker_case.broker)
        issued = await Operator(broker_case.broker).issue("pause", SetPause(kind="queue", targets=["far"]))
        hand = Hand(broker=broker_case.broker, id="w-1")

        behind = await hand.exchange(epoch=issued.epoch - 1)
        level = await hand.exchange(epoch=issued.epoch)

        assert (behind.stale, list(behind.deliveries)) == (True, [])
        assert (level.stale, len(level.deliveries)) == (False, 1)

    async def test_a_stale_worker_can_still_settle(self, broker_case: BrokerCase) -> None:
        """The fence is about starting, not about finishing."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        delivery = await hand.take()
        await Operator(broker_case.broker).issue("pause", SetPause(kind="queue", targets=["far"]))

        answer = await hand.exchange([settlement(delivery)])

        assert (list(answer.settled), answer.stale) == (["applied"], True)

    async def test_a_question_makes_nobody_stale(self, broker_case: BrokerCase) -> None:
        """A ping must not stop the work."""
        await enqueue(broker_case.broker)
        await Operator(broker_case.broker).issue("ping")

        answer = await Hand(broker=broker_case.broker, id="w-1").exchange()

        assert (answer.stale, len(answer.deliveries)) == (False, 1)

    async def test_a_beat_tells_the_epoch(self, broker_case: BrokerCase) -> None:
        """So a wake-up that got lost costs one beat."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        before = (await hand.beat()).epoch
        await Operator(broker_case.broker).issue("ping")

        assert (before, (await hand.beat()).epoch) == (0, 1)

    async def test_a_beat_tells_whether_the_worker_was_known(self, broker_case: BrokerCase) -> None:
        """A worker that has beaten and is not known learns that the broker lost its data."""
        hand = Hand(broker=broker_case.broker, id="w-1")

        assert [(await hand.beat()).known for _ in range(2)] == [False, True]

    async def test_a_beat_tells_how_large_the_fleet_is(self, broker_case: BrokerCase) -> None:
        """So that a large one tells of its tasks less often, and a watcher costs no more than with a small one."""
        hands = [Hand(broker=broker_case.broker, id=f"w-{number}") for number in range(3)]

        assert [(await hand.beat()).fleet for hand in (*hands, hands[0])] == [1, 2, 3, 3]


class BrokerContractDesired:
    """Drains and shutdowns, bound to worker ids."""

    async def test_a_drain_is_stored_and_cleared(self, broker_case: BrokerCase) -> None:
        """Every worker that reads sees it, until it is taken back."""
        operator, control = Operator(broker_case.broker), broker_case.broker.control
        await Hand(broker=broker_case.broker, id="w-1").beat()

        set_ = await operator.issue("drain", SetDrain(workers=["w-1"]))
        again = await operator.issue("drain", SetDrain(workers=["w-1"]))
        drained = list((await control.read(0)).drained)
        cleared = await operator.issue("undrain", ClearDrain(workers=["w-1"]))
        nothing = await operator.issue("undrain", ClearDrain(workers=["w-1"]))

        assert [(i.target, i.outcome, i.changed) for i in set_.items] == [("w-1", "set", True)]
        assert [(i.outcome, i.changed) for i in again.items] == [("already", False)]
        assert drained == ["w-1"]
        assert [(i.outcome, i.changed) for i in cleared.items] == [("cleared", True)]
        assert [(i.outcome, i.changed) for i in nothing.items] == [("already", False)]
        assert list((await control.read(0)).drained) == []

    async def test_a_shutdown_is_stored_with_its_mode(self, broker_case: BrokerCase) -> None:
        """A harder mode replaces a softer one, which is a change."""
        operator, control = Operator(broker_case.broker), broker_case.broker.control
        await Hand(broker=broker_case.broker, id="w-1").beat()

        warm = await operator.issue("shutdown", SetShutdown(workers=["w-1"], mode="warm"))
        same = await operator.issue("shutdown", SetShutdown(workers=["w-1"], mode="warm"))
        hard = await operator.issue("shutdown", SetShutdown(workers=["w-1"], mode="hard"))

        assert [(i.outcome, i.changed) for i in (*warm.items, *same.items, *hard.items)] == [
            ("set", True),
            ("already", False),
            ("set", True),
        ]
        assert dict((await control.read(0)).shutdown) == {"w-1": "hard"}

    async def test_a_goodbye_ends_what_was_asked_of_that_process(self, broker_case: BrokerCase) -> None:
        """Worker ids are unique per start, so nothing of a stopped one needs to be kept."""
        operator, hand = Operator(broker_case.broker), Hand(broker=broker_case.broker, id="w-1")
        await hand.beat()
        await operator.issue("drain", SetDrain(workers=["w-1"]))
        await operator.issue("shutdown", SetShutdown(workers=["w-1"], mode="warm"))

        await hand.beat(state="stopped")
        desired = await broker_case.broker.control.read(0)

        assert (list(desired.drained), dict(desired.shutdown)) == ([], {})


class BrokerContractWakeUp:
    """Pub/sub, which only makes it fast."""

    async def test_a_command_wakes_who_is_subscribed(self, broker_case: BrokerCase) -> None:
        """A wake-up issued right after `subscribe` returned is not missed."""
        listener = broker_case.broker.clone()
        try:
            await listener.control.subscribe()
            waiting = asyncio.create_task(listener.control.wake(8.0))
            began = time.monotonic()

            await Operator(broker_case.broker).issue("ping")

            assert await waiting is not None
            assert time.monotonic() - began < 2.0
        finally:
            await listener.close()

    async def test_a_wake_up_between_two_waits_is_kept(self, broker_case: BrokerCase) -> None:
        """While the worker is busy with one command the next one may come."""
        listener = broker_case.broker.clone()
        try:
            await listener.control.subscribe()
            await Operator(broker_case.broker).issue("ping")
            await asyncio.sleep(0.05)

            assert await listener.control.wake(8.0) is not None
        finally:
            await listener.close()

    async def test_without_a_command_the_wait_times_out(self, broker_case: BrokerCase) -> None:
        """None means: nothing came, and the subscription stands."""
        listener = broker_case.broker.clone()
        try:
            await listener.control.subscribe()

            assert await listener.control.wake(0.05) is None
        finally:
            await listener.close()

    async def test_everybody_is_woken(self, broker_case: BrokerCase) -> None:
        """One command, one wake-up for each subscriber."""
        listeners = [broker_case.broker.clone() for _ in range(3)]
        try:
            for listener in listeners:
                await listener.control.subscribe()
            await Operator(broker_case.broker).issue("ping")

            assert None not in await asyncio.gather(*(one.control.wake(8.0) for one in listeners))
        finally:
            for listener in listeners:
                await listener.close()


class BrokerContractReplies:
    """Answers to commands."""

    async def test_replies_come_to_their_request(self, broker_case: BrokerCase) -> None:
        """In order, each once, and not to another request."""
        control = broker_case.broker.control
        first = reply("c-1", worker="w-1", data={"nonce": "n", "n": 1})
        second = reply("c-1", worker="w-2", stage="effect", ok=False, error_code="failed", error_message="no")
        await control.reply(first, keep_ms=60_000)
        await control.reply(reply("c-2"), keep_ms=60_000)
        await control.reply(second, keep_ms=60_000)

        got = list(await control.replies("c-1", timeout_s=1.0))

        assert got == [first, second]
        assert list(await control.replies("c-1", timeout_s=0.02)) == []
        assert len(await control.replies("c-2", timeout_s=1.0)) == 1

    async def test_each_handle_gets_all_replies(self, broker_case: BrokerCase) -> None:
        """Once each: who reads them takes them away from nobody."""
        control, clone = broker_case.broker.control, broker_case.broker.clone()
        first, second = reply("c-1", worker="w-1"), reply("c-1", worker="w-2")
        try:
            await control.reply(first, keep_ms=60_000)
            assert list(await control.replies("c-1", timeout_s=1.0)) == [first]
            await control.reply(second, keep_ms=60_000)

            assert list(await clone.control.replies("c-1", timeout_s=1.0)) == [first, second]
            assert list(await control.replies("c-1", timeout_s=1.0)) == [second]
            assert list(await clone.control.replies("c-1", timeout_s=0.02)) == []
        finally:
            await clone.close()

    async def test_waiting_for_a_reply_is_ended_by_it(self, broker_case: BrokerCase) -> None:
        """The controller has it as soon as it comes."""
        control = broker_case.broker.control
        clone = broker_case.broker.clone()
        try:
            waiting = asyncio.create_task(control.replies("c-1", timeout_s=8.0))
            await asyncio.sleep(0.05)
            began = time.monotonic()

            await clone.control.reply(reply("c-1"), keep_ms=60_000)

            assert [one.worker for one in await waiting] == ["w-1"]
            assert time.monotonic() - began < 2.0
        finally:
            await clone.close()

    async def test_no_reply_is_an_empty_list(self, broker_case: BrokerCase) -> None:
        """After the timeout, not an error."""
        assert list(await broker_case.broker.control.replies("c-1", timeout_s=0.02)) == []

    async def test_replies_are_forgotten(self, broker_case: BrokerCase) -> None:
        """`keep_ms` after the last one, when nobody came for them."""
        control = broker_case.broker.control
        await control.reply(reply("c-1"), keep_ms=30)
        await broker_case.advance(0.05)

        assert list(await control.replies("c-1", timeout_s=0.02)) == []

    async def test_an_ill_formed_reply_is_dropped(self, broker_case: BrokerCase) -> None:
        """And the good ones are not."""
        control = broker_case.broker.control
        await control.reply(reply("c-1", worker=cast(Any, 7)), keep_ms=60_000)
        await control.reply(reply("c-1", worker="good"), keep_ms=60_000)

        async def good() -> list[Reply]:
            return list(await control.replies("c-1", timeout_s=0.5))

        assert [one.worker for one in await until(good, what="the good reply came")] == ["good"]


def reply(command_id: str, *, worker: str = "w-1", stage: str = "applied", **set_: Any) -> Reply:
    return Reply(command_id=command_id, worker=worker, name="alpha", stage=stage, **set_)


class BrokerContractPresence:
    """Who is there."""

    async def test_a_heartbeat_is_shown_as_it_was_sent(self, broker_case: BrokerCase) -> None:
        """With its age by the broker's clock."""
        hand = Hand(broker=broker_case.broker, id="w-1", name="alpha", queues=["a", "b"], concurrency=3)
        answer = await hand.beat(counters={"succeeded": 7}, in_flight=2)
        await broker_case.advance(0.05)

        (seen,) = await broker_case.broker.presence.workers()

        assert seen.heartbeat == hand.heartbeat(counters={"succeeded": 7}, in_flight=2)
        assert abs(seen.at_ms - answer.now_ms) <= 1
        assert 45 <= seen.age_ms < 30_000
        assert (seen.lost, seen.stopped) == (False, False)

    async def test_workers_are_listed_by_name_then_start(self, broker_case: BrokerCase) -> None:
        """Whatever the order of their beats."""
        for worker, name, started in (("w-3", "beta", 1), ("w-2", "alpha", 9), ("w-1", "alpha", 5)):
            await Hand(broker=broker_case.broker, id=worker, name=name, started_at_ms=started).beat()

        assert [seen.heartbeat.id for seen in await broker_case.broker.presence.workers()] == ["w-1", "w-2", "w-3"]

    async def test_a_silent_worker_is_lost_and_still_named(self, broker_case: BrokerCase) -> None:
        """After three of its intervals without a beat."""
        await Hand(broker=broker_case.broker, id="w-1", interval_ms=10).beat()
        await broker_case.advance(0.05)

        (seen,) = await broker_case.broker.presence.workers()

        assert (seen.lost, seen.stopped) == (True, False)

    async def test_a_worker_that_said_goodbye_is_stopped(self, broker_case: BrokerCase) -> None:
        """It is listed for a while, and is not lost however long ago that was."""
        hand = Hand(broker=broker_case.broker, id="w-1", interval_ms=10)
        await hand.beat()
        await hand.beat(state="stopped")
        await broker_case.advance(0.05)

        (seen,) = await broker_case.broker.presence.workers()

        assert (seen.stopped, seen.lost) == (True, False)

    async def test_a_goodbye_is_the_last_word(self, broker_case: BrokerCase) -> None:
        """A beat that was under way when it was said does not bring the worker back."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await hand.beat(state="stopped")
        await hand.beat()

        (seen,) = await broker_case.broker.presence.workers()

        assert seen.stopped

    async def test_a_worker_is_forgotten_after_an_hour(self, broker_case: BrokerCase) -> None:
        """Until then a lost one can be named."""
        broker_case.needs_hours()
        await Hand(broker=broker_case.broker, id="w-1").beat()
        await broker_case.advance(3_500)
        before = await broker_case.broker.presence.workers()
        await broker_case.advance(200)

        assert (len(before), len(await broker_case.broker.presence.workers())) == (1, 0)

    async def test_an_ill_formed_heartbeat_hides_nobody_else(self, broker_case: BrokerCase) -> None:
        """What cannot be read back is left out."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await hand.beat()
        bad = replace(hand.heartbeat(), id="w-2", pid=cast(Any, "x"))
        await broker_case.broker.presence.beat(Beat(heartbeat=bad))

        assert [seen.heartbeat.id for seen in await broker_case.broker.presence.workers()] == ["w-1"]

    async def test_a_beat_tells_of_revokes_and_watchers(self, broker_case: BrokerCase) -> None:
        """The worker learns which of its tasks were revoked, and whether somebody watches."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="t-1")
        await enqueue(broker_case.broker, task_id="t-2")
        one, two = await hand.fetch()
        before = await hand.beat(one, two)

        await Operator(broker_case.broker).issue("revoke", RevokeTasks(ids=["t-2"]))
        await broker_case.broker.events.watch("screen", for_ms=60_000)
        after = await hand.beat(one, two)

        assert (list(before.revoked), before.watched) == ([], False)
        assert (list(after.revoked), list(after.lost), after.watched) == (["t-2"], [], True)
