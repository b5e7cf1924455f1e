"""Replies that never come, and wake-ups that never come: what a worker makes of them, without waiting for a lease."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stem.contracts import Beat, BeatAnswer, Delivery, Exchange, FetchRequest, Settlement
from stem.errors import BrokerUnreachableError, UnknownOutcomeError
from stem.messages.command import Command
from stem.messages.status import TaskState
from stem.task import TaskContext
from stem.worker import vitals
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

HOUR: dict[str, Any] = {"visibility_timeout_s": 3600.0}
"""A lease that outlasts every test: what comes back before its end did not come back by it."""


async def note(context: TaskContext, args: Mapping[str, Any]) -> str:
    return f"token {context.token}"


def on_exchange(house: House, monkeypatch: pytest.MonkeyPatch, what: Any) -> list[str]:
    """Put `what(applied, answer)` between the work loop and the broker, until it says that it was enough.

    `applied()` sends the exchange and returns its answer; `what` returns None to let the exchange go its way.
    """
    done: list[str] = []
    exchange = house.broker.exchange

    async def between(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        if not done:
            answer: Exchange | None = await what(done, lambda: exchange(worker, settlements, fetch), settlements)
            if answer is not None:
                return answer
        return await exchange(worker, settlements, fetch)

    monkeypatch.setattr(house.broker, "exchange", between)
    return done


def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "SHORTEST_SWEEP_S", 3600.0)


async def test_deliveries_whose_reply_was_lost_begin_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker has handed them out; the worker knows only that something went wrong, and asks what is its own."""
    no_sweeps(monkeypatch)
    on_loop(house.registry, "note", note)

    async def lose(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange:
        answer: Exchange = await send()
        if answer.deliveries:
            done.append("lost")
            raise UnknownOutcomeError("the reply was lost")
        return answer

    lost = on_exchange(house, monkeypatch, lose)
    await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("note")

    status = await house.stem.wait_for(task_id, timeout=10)

    assert lost == ["lost"]
    assert status.result == "token 1"


async def test_deliveries_that_got_lost_unnoticed_are_found_by_the_next_sweep(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing failed that the worker could see: it looks for its own all the same, every few seconds."""
    on_loop(house.registry, "note", note)

    async def swallow(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange:
        answer: Exchange = await send()
        if answer.deliveries:
            done.append("swallowed")
            return replace(answer, deliveries=[])
        return answer

    on_exchange(house, monkeypatch, swallow)
    monkeypatch.setattr(vitals, "LONGEST_SWEEP_S", 0.5)
    await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("note")

    status = await house.stem.wait_for(task_id, timeout=20)

    assert status.result == "token 1"


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_an_outcome_whose_reply_was_lost_is_sent_again(
    house: House, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    """Until the broker has answered it nobody knows that the task has ended: it would be held and renewed for ever."""
    no_sweeps(monkeypatch)
    on_loop(house.registry, "note", note)

    async def lose(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange | None:
        if not settlements:
            return None
        done.append("lost")
        if applied:
            await send()
        raise UnknownOutcomeError("the reply was lost")

    lost = on_exchange(house, monkeypatch, lose)
    worker = await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("note")

    await eventually(lambda: worker.stats()["counters"]["succeeded"] == 1)

    assert lost == ["lost"]
    assert worker.stats()["in_flight"] == 0
    status = await house.stem.status(task_id)
    assert (status.state, status.token) == (TaskState.SUCCEEDED, 1)


async def test_a_lease_counts_from_when_it_was_asked_for_and_not_from_the_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's clock runs from its side of the call: counted from a late answer, a lease would seem to last longer
    than it does, and the worker would stop itself too late."""
    asked: dict[str, float] = {}

    async def forever(context: TaskContext, args: Mapping[str, Any]) -> None:
        await asyncio.sleep(3600)

    async def answer_late(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange:
        at = time.monotonic()
        answer: Exchange = await send()
        if answer.deliveries:
            done.append("late")
            asked["fetch"] = at
            await asyncio.sleep(0.3)
        return answer

    on_loop(house.registry, "forever", forever)
    on_exchange(house, monkeypatch, answer_late)
    worker = await house.worker(config=HOUR | {"heartbeat_interval_s": 600.0})
    presence = worker._vitals._broker.presence
    beat = presence.beat

    async def beat_late(sent: Beat) -> BeatAnswer:
        at = time.monotonic()
        answer: BeatAnswer = await beat(sent)
        await asyncio.sleep(0.3)
        asked["beat"] = at
        return answer

    monkeypatch.setattr(presence, "beat", beat_late)
    task_id = await house.stem.enqueue("forever")
    await eventually(lambda: worker.stats()["in_flight"] == 1)
    job = worker._board.jobs[task_id]
    assert job.confirmed_at <= asked["fetch"]
    granted_at = job.confirmed_at

    worker._vitals.poke()

    await eventually(lambda: job.confirmed_at > granted_at)
    assert job.confirmed_at <= asked["beat"]


async def test_a_pause_is_confirmed_only_once_what_was_handed_out_before_it_has_begun(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply that is still under way may carry tasks: confirmed before, they would start after the confirmation."""
    on_loop(house.registry, "note", note)
    handed_out, release = asyncio.Event(), asyncio.Event()

    async def hold(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange:
        answer: Exchange = await send()
        if answer.deliveries:
            done.append("held")
            handed_out.set()
            await release.wait()
        return answer

    on_exchange(house, monkeypatch, hold)
    worker = await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("note")
    await handed_out.wait()
    controller = house.controller

    pausing = asyncio.create_task(controller.pause("queue", ["default"]))
    await eventually(lambda: worker._board.paused_queues)
    await asyncio.wait({pausing}, timeout=1.0)
    confirmed_too_early = pausing.done()
    release.set()

    assert not confirmed_too_early
    paused = await pausing
    assert (paused.failed, len(paused.silent)) == (0, 0)
    assert (await house.stem.wait_for(task_id, timeout=10)).succeeded


async def test_what_arrives_while_the_worker_stops_is_handed_back_and_does_not_begin(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []

    async def begin(context: TaskContext, args: Mapping[str, Any]) -> None:
        began.append(context.id)

    on_loop(house.registry, "begin", begin)
    handed_out, release = asyncio.Event(), asyncio.Event()

    async def hold(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange:
        answer: Exchange = await send()
        if answer.deliveries:
            done.append("held")
            handed_out.set()
            await release.wait()
        return answer

    on_exchange(house, monkeypatch, hold)
    worker = await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("begin")
    await handed_out.wait()
    stopping = asyncio.create_task(worker.shutdown())
    await eventually(lambda: worker._board.stopping)

    release.set()

    assert await stopping == 0
    assert began == []
    status = await house.stem.status(task_id)
    assert (status.state, status.attempt, status.crashes) == (TaskState.QUEUED, 0, 0)


async def test_a_command_that_came_while_nobody_listened_is_read_once_somebody_listens_again(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listen first, read then: the other way round, what comes in between is heard by nobody until a later beat."""
    worker = await memory_house.worker(config={"heartbeat_interval_s": 600.0})
    control: Any = worker._vitals._broker.control
    subscribe, wake = control.subscribe, control.wake
    broken: list[str] = []
    issued: list[int] = []

    async def cut(timeout_s: float) -> bool:
        if not broken:
            broken.append("cut")
            with control._core.lock:
                del control._core.subscriptions[control._handle.subscription]
                control._handle.subscription = None
            raise BrokerUnreachableError("the subscription was lost")
        heard: bool = await wake(timeout_s)
        return heard

    async def subscribe_late() -> None:
        # A question: a worker notices a pause when it asks for tasks, too.
        issued.append((await memory_house.broker.control.issue(Command(id="c-1", type="ping"))).epoch)
        await subscribe()

    monkeypatch.setattr(control, "subscribe", subscribe_late)
    monkeypatch.setattr(control, "wake", cut)
    await memory_house.controller.ping()  # ends the wait that is under way

    await eventually(lambda: issued and worker._vitals._responder.epoch == issued[0])

    assert broken == ["cut"]


async def test_a_worker_that_hears_nothing_learns_of_commands_from_its_heartbeat(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that change nothing it would notice when it asks for tasks: a question is answered."""
    worker = await house.worker()
    control = worker._vitals._broker.control
    deaf = threading.Event()

    async def hears_nothing(timeout_s: float) -> bool:
        deaf.set()
        await asyncio.sleep(timeout_s)
        return False

    monkeypatch.setattr(control, "wake", hears_nothing)
    await house.controller.ping()
    await eventually(deaf.is_set)

    result = await house.controller.ping()

    assert [one.id for one in result.workers] == [worker.id]


async def test_a_wire_that_breaks_all_the_time_is_no_news_each_time(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Deliveries are taken over after each of ten lost replies; it is said at once, then no more for a while."""
    no_sweeps(monkeypatch)
    caplog.set_level("DEBUG", "stem.worker")
    on_loop(house.registry, "note", note)
    lost: list[str] = []
    exchange = house.broker.exchange

    async def between(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        answer = await exchange(worker, settlements, fetch)
        if answer.deliveries and len(lost) < 10:
            lost.extend(each.id for each in answer.deliveries)
            raise UnknownOutcomeError("the reply was lost")
        return answer

    monkeypatch.setattr(house.broker, "exchange", between)
    await house.worker(config=HOUR)
    for _ in range(11):
        await house.stem.wait_for(await house.stem.enqueue("note"), timeout=15)

    told = [record for record in caplog.records if record.getMessage().startswith("tasks.adopted")]
    assert [record.levelname for record in told] == ["INFO"] + ["DEBUG"] * 9
    assert [record.__dict__["count"] for record in told] == [1, *range(1, 10)]


async def test_what_does_not_arrive_in_one_answer_is_asked_for_until_all_is_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three answers got lost, each with a body that fills most of one: one look brings one of them."""
    no_sweeps(monkeypatch)
    on_loop(house.registry, "note", note)
    swallowed: list[str] = []
    exchange = house.broker.exchange

    async def between(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        answer = await exchange(worker, settlements, fetch)
        swallowed.extend(each.id for each in answer.deliveries)
        return replace(answer, deliveries=[])

    monkeypatch.setattr(house.broker, "exchange", between)
    worker = await house.worker(config=HOUR)
    ids = await house.stem.enqueue_many([("note", {"data": bytes(700_000)})] * 3)
    await eventually(lambda: len(swallowed) == 3)

    worker._vitals._work.adopt_soon()

    statuses = [await house.stem.wait_for(task_id, timeout=10) for task_id in ids]
    assert [status.result for status in statuses] == ["token 1"] * 3


async def test_an_adoption_that_never_arrives_holds_up_no_ends(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body may be too large for the link; what the worker has done meanwhile is done."""
    no_sweeps(monkeypatch)
    freed, tries = asyncio.Event(), 0

    async def hold(context: TaskContext, args: Mapping[str, Any]) -> str:
        await freed.wait()
        return "done"

    async def too_slow(worker: str, queues: Sequence[str], known: Collection[str]) -> list[Delivery]:
        nonlocal tries
        tries += 1
        raise UnknownOutcomeError("no answer in time")

    on_loop(house.registry, "hold", hold)
    worker = await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("hold")
    await eventually(lambda: worker.stats()["counters"]["started"] == 1)
    monkeypatch.setattr(house.broker, "adopt", too_slow)
    worker._vitals._work.adopt_soon()
    await eventually(lambda: tries > 0)

    freed.set()

    assert (await house.stem.wait_for(task_id, timeout=10)).result == "done"


async def test_a_task_that_was_revoked_before_its_worker_knew_of_it_is_ended_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its delivery got lost, and the revoke found nothing to stop. It never begins, and does not wait for its lease."""
    began: list[bool] = []

    async def forever(context: TaskContext, args: Mapping[str, Any]) -> None:
        began.append(True)
        await asyncio.sleep(3600)

    async def swallow(done: list[str], send: Any, settlements: Sequence[Settlement]) -> Exchange:
        answer: Exchange = await send()
        if answer.deliveries:
            done.append("swallowed")
            return replace(answer, deliveries=[])
        return answer

    on_loop(house.registry, "forever", forever)
    swallowed = on_exchange(house, monkeypatch, swallow)
    worker = await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("forever")
    await eventually(lambda: swallowed)
    await house.controller.revoke([task_id], terminate=True)

    worker._vitals._work.adopt_soon()

    status = await house.stem.wait_for(task_id, timeout=15)
    assert (status.state, began) == (TaskState.REVOKED, [])


async def test_the_answer_to_a_beat_that_a_lease_is_gone_ends_the_handler(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not only when the worker is handed the same task again or its time without renewal is over."""
    no_sweeps(monkeypatch)
    ended: list[bool] = []

    async def forever(context: TaskContext, args: Mapping[str, Any]) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(context.lease_lost)

    on_loop(house.registry, "forever", forever)
    worker = await house.worker(config=HOUR)
    task_id = await house.stem.enqueue("forever")
    await eventually(lambda: worker.stats()["in_flight"] == 1)
    # As if its lease had run out and been given to another one: the token in hand is an old one.
    worker._board.jobs[task_id].delivery.token -= 1

    await eventually(lambda: ended == [True])

    assert (await house.stem.status(task_id)).state is TaskState.RUNNING


async def test_every_page_of_records_is_looked_at_for_repair(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look goes on where the last one ended: from the start each time, what stands behind would never be seen."""
    monkeypatch.setattr(vitals, "LONGEST_SWEEP_S", 0.5)
    monkeypatch.setattr(vitals, "SHORTEST_SWEEP_S", 0.02)
    asked: list[str] = []

    async def pages(cursor: str = "0", *, limit: int = 500) -> tuple[str, int]:
        asked.append(cursor)
        return ("0" if cursor == "200" else str(int(cursor) + 100)), 0

    worker = await memory_house.worker(config={"visibility_timeout_s": 0.1})
    monkeypatch.setattr(worker._vitals._broker, "reconcile", pages)

    await eventually(lambda: len(asked) >= 3, 20)

    assert asked[:3] == ["0", "100", "200"]
