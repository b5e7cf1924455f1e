"""The contract of leases: renewal, lost ones, reclaiming after a loss and after an outage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stem.contracts import Limits, Outcome
from stem.messages.codec import pack
from stem.testing.case import (
    FLEET,
    QUEUE,
    BrokerCase,
    Corruption,
    Hand,
    enqueue,
    lease,
    new_task,
    outlive,
    state_of,
    status_of,
    sweep_until,
)

SOON: int = FLEET.lost_after_ms // 3
"""The beat interval that belongs to `FLEET`, in milliseconds."""
SLOW_FLEET = Limits(lost_after_ms=1_500)
"""For what is only so until workers have had two beats: more time than a busy machine needs for two calls."""
SUSPECT_DELAY_S: float = 1.05
"""A little longer than a fetch puts off what may not run beside another."""


class BrokerContractReclaim:
    """Giving back what a worker lost."""

    async def test_a_lost_workers_task_runs_elsewhere_with_a_crash(self, broker_case: BrokerCase) -> None:
        """Its lease ran out and its owner is silent: it goes back with crashes + 1 and the attempt it had."""
        broker = broker_case.limits(FLEET)
        gone, here = Hand(broker=broker, id="gone", interval_ms=SOON), Hand(broker=broker, id="here", interval_ms=SOON)
        task_id = await enqueue(broker)
        await gone.beat()
        await gone.take(lease_ms=20)
        await outlive(broker_case, here)

        swept = await sweep_until(broker_case, broker, here)
        again = await here.take()

        assert (swept.requeued, swept.buried) == (1, 0)
        assert (again.id, again.attempt, again.crashes, again.token) == (task_id, 0, 1, 2)

    async def test_a_live_workers_expired_lease_is_no_crash(self, broker_case: BrokerCase) -> None:
        """A worker that beats but did not renew in time loses the task, and nobody counts a crash."""
        broker = broker_case.broker
        slow, other = Hand(broker=broker, id="slow"), Hand(broker=broker, id="other")
        await enqueue(broker)
        await slow.beat()
        await slow.take(lease_ms=20)
        await broker_case.advance(0.04)

        swept = await sweep_until(broker_case, broker, slow, other)
        again = await other.take()

        assert (swept.requeued, again.crashes, again.attempt, again.token) == (1, 0, 0, 2)

    async def test_a_worker_that_said_goodbye_is_lost(self, broker_case: BrokerCase) -> None:
        """What it left behind counts as a crash: it ended without settling."""
        broker = broker_case.broker
        gone, here = Hand(broker=broker, id="gone"), Hand(broker=broker, id="here")
        await enqueue(broker)
        await gone.beat()
        await gone.take(lease_ms=20)
        await gone.beat(state="stopped")
        await broker_case.advance(0.04)

        await sweep_until(broker_case, broker, here)

        assert (await here.take()).crashes == 1

    async def test_a_task_under_its_lease_is_left_alone(self, broker_case: BrokerCase) -> None:
        """Also when its owner is silent: the lease is the right to run."""
        broker = broker_case.limits(FLEET)
        gone, here = Hand(broker=broker, id="gone", interval_ms=SOON), Hand(broker=broker, id="here", interval_ms=SOON)
        task_id = await enqueue(broker, task_id="kept")
        await gone.beat()
        await gone.take(lease_ms=3_600_000)
        await enqueue(broker)
        await gone.take(lease_ms=20)
        await outlive(broker_case, here)

        swept = await sweep_until(broker_case, broker, here)

        assert swept.requeued == 1
        assert await state_of(broker, task_id) == "running"

    async def test_the_former_owner_settles_nothing(self, broker_case: BrokerCase) -> None:
        """After the reclaim its settlement is lost, whether the task waits again, runs elsewhere, or has ended."""
        broker = broker_case.broker
        slow, other = Hand(broker=broker, id="slow"), Hand(broker=broker, id="other")
        task_id = await enqueue(broker)
        old = await slow.take(lease_ms=20)
        await slow.beat()
        await broker_case.advance(0.04)
        await sweep_until(broker_case, broker, slow, other)

        waiting = await slow.end(old, result=pack("old"))
        new = await other.take()
        running = await slow.end(old, result=pack("old"))
        await other.end(new, result=pack("new"))
        ended = await slow.end(old, result=pack("old"))

        assert (waiting, running, ended) == ("lost", "lost", "lost")
        assert (await status_of(broker, task_id)).result == "new"

    async def test_a_worker_that_got_its_task_again_has_no_say_by_the_old_token(self, broker_case: BrokerCase) -> None:
        """It lost the lease and was handed the same task anew: what is left of its first run changes nothing."""
        owner = Hand(broker=broker_case.broker, id="owner")
        await enqueue(broker_case.broker)
        old = await owner.take(lease_ms=20)
        await broker_case.advance(0.04)
        await sweep_until(broker_case, broker_case.broker, owner)
        new = await owner.take()

        assert list((await owner.beat(old)).lost) == [old.id]
        assert await owner.end(old) == "lost"
        assert await owner.end(new) == "applied"

    async def test_a_task_that_kills_workers_is_buried(self, broker_case: BrokerCase) -> None:
        """At the limit of crashes a reclaim makes it a dead letter `poison`, and never starts it again."""
        broker = broker_case.limits(FLEET)
        here = Hand(broker=broker, id="here", interval_ms=SOON)
        task_id = await enqueue(broker, unique_key="k")
        for number in range(2):
            victim = Hand(broker=broker, id=f"victim-{number}", interval_ms=SOON)
            await victim.beat()
            await victim.take(lease_ms=10)
            await victim.beat(state="stopped")
            swept = await sweep_until(broker_case, broker, here, max_crashes=2)

        status = await status_of(broker, task_id)

        assert swept.buried == 1
        assert (status.state, status.reason, status.crashes) == ("failed", "poison", 2)
        assert status.error is not None
        assert list(await here.fetch()) == []
        assert [item.id for item in (await broker.census.tasks("dead")).items] == [task_id]
        assert (await broker.enqueue([new_task("next", unique_key="k")]))[0].outcome == "queued"

    async def test_a_worker_holds_one_task_that_another_crash_would_bury(self, broker_case: BrokerCase) -> None:
        """Tasks that were twice with a worker that died are told apart: the one that kills is not beside another then.

        What runs beside a poisonous task shares its first two crashes, and would be buried with it by the third.
        """
        broker = broker_case.limits(FLEET)
        here = Hand(broker=broker, id="here", interval_ms=SOON)
        suspects = {await enqueue(broker) for _ in range(3)}
        for number in range(2):
            victim = Hand(broker=broker, id=f"victim-{number}", interval_ms=SOON)
            await victim.beat()
            assert {one.id for one in await victim.fetch(3, lease_ms=10)} == suspects  # after one crash still together
            await victim.beat(state="stopped")
            await sweep_until(broker_case, broker, here, want=3)
        fresh = await enqueue(broker)
        one, other = Hand(broker=broker, id="one"), Hand(broker=broker, id="other")

        first = await one.fetch(9)
        later = [await state_of(broker, task_id) for task_id in suspects - {each.id for each in first}]
        await broker_case.advance(SUSPECT_DELAY_S)
        beside = await one.fetch(9)
        await broker_case.advance(SUSPECT_DELAY_S)
        elsewhere = await other.fetch(9)

        assert [each.crashes for each in first if each.id != fresh] == [2]
        assert fresh in {each.id for each in first}  # what never crashed may run beside it
        assert later == ["scheduled", "scheduled"]
        assert list(beside) == []
        assert [each.crashes for each in elsewhere] == [2]
        for each in first:
            assert await one.end(each) == "applied"
        await broker_case.advance(SUSPECT_DELAY_S)
        assert {each.id for each in (*first, *elsewhere, *await one.fetch(9))} == {*suspects, fresh}

    async def test_a_former_owner_cannot_settle_a_buried_task(self, broker_case: BrokerCase) -> None:
        """Poison stays poison when the worker comes back after all."""
        broker = broker_case.limits(FLEET)
        victim, here = Hand(broker=broker, id="victim"), Hand(broker=broker, id="here", interval_ms=SOON)
        task_id = await enqueue(broker)
        old = await victim.take(lease_ms=10)
        await victim.beat(state="stopped")
        await sweep_until(broker_case, broker, here, max_crashes=1)

        assert await victim.end(old) == "lost"
        assert await state_of(broker, task_id) == "failed"

    async def test_after_an_outage_nobody_is_robbed_at_once(self, broker_case: BrokerCase) -> None:
        """When the whole fleet was silent nobody could renew: a sweep waits until workers had two beats to do so."""
        broker = broker_case.limits(SLOW_FLEET)
        interval_ms = SLOW_FLEET.lost_after_ms // 3
        owner, other = Hand(broker=broker, id="owner", interval_ms=interval_ms), Hand(broker=broker, id="other")
        await enqueue(broker)
        await owner.beat()
        delivery = await owner.take(lease_ms=20)
        await broker_case.advance(SLOW_FLEET.lost_after_ms / 1_000 * 1.5)

        during = await broker.sweep([QUEUE], worker="other")
        await other.beat()
        after = await broker.sweep([QUEUE], worker="other")
        answer = await owner.beat(delivery, lease_ms=60_000)

        assert (during.skipped, during.requeued) == ("outage", 0)
        assert (after.skipped, after.requeued) == ("outage", 0)
        assert list(answer.lost) == []
        assert await owner.end(delivery) == "applied"

    async def test_after_an_outage_the_lost_are_reclaimed_in_the_end(self, broker_case: BrokerCase) -> None:
        """It is put off for some beats, not for ever."""
        broker = broker_case.limits(FLEET)
        gone, here = Hand(broker=broker, id="gone", interval_ms=SOON), Hand(broker=broker, id="here", interval_ms=SOON)
        await enqueue(broker)
        await gone.beat()
        await gone.take(lease_ms=20)
        await broker_case.advance(FLEET.lost_after_ms / 1_000 * 1.5)

        swept = await sweep_until(broker_case, broker, here)

        assert swept.requeued == 1

    async def test_a_loss_is_counted_as_a_crash_in_the_minute(self, broker_case: BrokerCase) -> None:
        """One for the lost owner, none for the one that was only late."""
        broker = broker_case.broker
        late, gone = Hand(broker=broker, id="late"), Hand(broker=broker, id="gone")
        await broker.enqueue([new_task(), new_task()])
        await late.beat()
        await late.take(lease_ms=20)
        await gone.beat()
        await gone.take(lease_ms=20)
        await gone.beat(state="stopped")
        await broker_case.advance(0.04)
        await sweep_until(broker_case, broker, late, want=2)

        rows = await broker.census.minutes(3)

        assert sum(row.counts.get("crashed", 0) for row in rows) == 1

    async def test_sweeps_are_rate_limited_over_the_fleet(self, broker_case: BrokerCase) -> None:
        """A second one right after the first, by another worker, looks at nothing."""
        broker = broker_case.broker
        here = Hand(broker=broker, id="here")
        await enqueue(broker)
        await here.beat()
        first = await broker.sweep([QUEUE], worker="here")

        second = await broker.sweep([QUEUE], worker="other")

        assert (first.skipped, second.skipped) == ("", "recent")

    async def test_what_is_more_than_a_sweep_takes_is_taken_by_the_next_at_once(self, broker_case: BrokerCase) -> None:
        """A worker that had many is lost: a sweep that took as many as it may says so, and puts off no other."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task() for _ in range(250)])
        await owner.beat()
        while await owner.fetch(lease_ms=20):
            pass
        await broker_case.advance(0.04)

        swept = [await broker.sweep([QUEUE], worker="owner") for _ in range(4)]

        assert [(one.requeued, one.more, one.skipped) for one in swept] == [
            *((100, True, ""), (100, True, ""), (50, False, "")),
            (0, False, "recent"),
        ]

    async def test_a_sweep_takes_several_tasks_and_queues(self, broker_case: BrokerCase) -> None:
        """Whatever ran out in the queues named goes back; other queues are not looked at."""
        broker = broker_case.broker
        owner, other = Hand(broker=broker, id="owner"), Hand(broker=broker, id="other")
        await broker.enqueue([new_task(queue=queue) for queue in ("a", "b", "c") for _ in range(3)])
        await owner.beat()
        await owner.fetch(queues=["a", "b", "c"], lease_ms=20)
        await broker_case.advance(0.04)

        await sweep_until(broker_case, broker, owner, other, want=6, queues=["a", "b"])

        assert len(await other.fetch(queues=["a", "b", "c"])) == 6

    @pytest.mark.parametrize("how", ["whole", "fields"])
    async def test_a_broken_record_does_not_stop_a_sweep(self, broker_case: BrokerCase, how: Corruption) -> None:
        """One bad item is passed over, the others go back."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await broker.enqueue([new_task("a"), new_task("broken"), new_task("z")])
        await owner.beat()
        await owner.fetch(lease_ms=20)
        await broker_case.corrupt("broken", how)
        await broker_case.advance(0.04)

        await sweep_until(broker_case, broker, owner, want=2)

        assert {"a", "z"} <= {d.id for d in await owner.fetch()}


class BrokerContractRenew:
    """Keeping a lease."""

    async def test_a_beat_renews_leases(self, broker_case: BrokerCase) -> None:
        """A task whose owner renews stays with it past its first lease."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await enqueue(broker)
        delivery = await owner.take(lease_ms=1_000)
        answer = await owner.beat(delivery, lease_ms=60_000)
        await broker_case.advance(1.2)
        await owner.beat()

        swept = await broker.sweep([QUEUE], worker="other")

        assert list(answer.lost) == []
        assert (swept.requeued, swept.skipped) == (0, "")
        assert await owner.end(delivery) == "applied"

    async def test_a_beat_reports_what_was_lost(self, broker_case: BrokerCase) -> None:
        """Of several leases exactly those that another holds, that have ended, or that never were."""
        broker = broker_case.broker
        owner, other = Hand(broker=broker, id="owner"), Hand(broker=broker, id="other")
        await broker.enqueue([new_task(f"t-{n}") for n in range(4)])
        mine, ended, taken, stale = await owner.fetch()
        await owner.end(ended)
        await owner.end(taken, Outcome.GIVE_BACK)
        await other.take()

        answer = await owner.beat(mine, ended, taken, replace(stale, token=9), replace(mine, id="nobody"))

        assert set(answer.lost) == {ended.id, taken.id, stale.id, "nobody"}

    async def test_a_late_beat_takes_nothing_back(self, broker_case: BrokerCase) -> None:
        """A former owner's renewal leaves the new owner's lease as it is."""
        broker = broker_case.broker
        slow, new = Hand(broker=broker, id="slow"), Hand(broker=broker, id="new")
        task_id = await enqueue(broker)
        old = await slow.take(lease_ms=20)
        await slow.beat()
        await broker_case.advance(0.04)
        await sweep_until(broker_case, broker, slow, new)
        delivery = await new.take()

        answer = await slow.beat(old)

        assert list(answer.lost) == [task_id]
        assert (await status_of(broker, task_id)).worker == "new"
        assert await new.end(delivery) == "applied"

    async def test_repeating_a_beat_changes_nothing(self, broker_case: BrokerCase) -> None:
        """A beat whose reply was lost is sent again and answered the same."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await enqueue(broker)
        delivery = await owner.take()

        answer = await broker_case.lose_reply(lambda: owner.beat(delivery))

        assert (list(answer.lost), list(answer.revoked)) == ([], [])
        assert len(await broker.presence.workers()) == 1

    async def test_extend_lengthens_one_lease(self, broker_case: BrokerCase) -> None:
        """A handler that needs longer keeps its task."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await enqueue(broker)
        delivery = await owner.take(lease_ms=1_000)

        extended = await broker.extend("owner", lease(delivery, 60_000))
        await broker_case.advance(1.2)
        await owner.beat()
        swept = await broker.sweep([QUEUE], worker="other")

        assert extended is True
        assert (swept.requeued, swept.skipped) == (0, "")

    async def test_extend_says_that_a_lease_is_lost(self, broker_case: BrokerCase) -> None:
        """With an old token, as somebody else, after the end, or without any record."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        await enqueue(broker)
        old = await owner.take()
        await owner.end(old, Outcome.GIVE_BACK)
        delivery = await owner.take()

        assert await broker.extend("owner", lease(old)) is False
        assert await broker.extend("thief", lease(delivery)) is False
        assert await broker.extend("owner", replace(lease(delivery), id="nobody")) is False
        await owner.end(delivery)
        assert await broker.extend("owner", lease(delivery)) is False

    async def test_progress_of_a_running_task_is_shown(self, broker_case: BrokerCase) -> None:
        """What the handler reported travels with the beat into the status."""
        broker = broker_case.broker
        owner = Hand(broker=broker, id="owner")
        task_id = await enqueue(broker)
        delivery = await owner.take()

        await owner.beat(delivery, progress={task_id: pack({"done": 3})})

        assert (await status_of(broker, task_id)).progress == {"done": 3}

    async def test_progress_of_a_lost_task_is_dropped(self, broker_case: BrokerCase) -> None:
        """Only the holder of the lease reports progress; bytes that mean nothing stop no beat."""
        broker = broker_case.broker
        owner, other = Hand(broker=broker, id="owner"), Hand(broker=broker, id="other")
        task_id = await enqueue(broker)
        old = await owner.take()
        await owner.end(old, Outcome.GIVE_BACK)
        delivery = await other.take()
        await other.beat(delivery, progress={task_id: pack("new")})

        await owner.beat(old, progress={task_id: pack("old"), "nobody": pack(1)})
        shown = (await status_of(broker, task_id)).progress
        await other.beat(delivery, progress={task_id: b"\xc1\xff"})

        assert shown == "new"
        assert await state_of(broker, task_id) == "running"
