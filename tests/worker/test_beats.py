"""When a worker beats: at its interval, and sooner only where a lease asks for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from stem.contracts import Beat, BeatAnswer
from stem.errors import UnknownOutcomeError
from stem.options import TaskOptions
from stem.signals import StemSignals, WorkerHeartbeat
from stem.task import TaskContext
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

UNHURRIED = {"heartbeat_interval_s": 30.0, "visibility_timeout_s": 120.0}


async def test_tasks_of_an_idle_worker_cost_no_beats(house: House) -> None:
    beats = _beats()
    on_loop(house.registry, "note", _note)
    await house.worker(config=UNHURRIED)
    for _ in range(10):
        await house.stem.wait_for(await house.stem.enqueue("note"), 10)

    # One of the start, and one of the state that follows on it.
    assert 1 <= len(beats) <= 2


async def test_a_lease_shorter_than_four_beats_is_renewed_in_time(house: House) -> None:
    beats = _beats()
    on_loop(house.registry, "nap", _nap)
    await house.worker(config=UNHURRIED)
    before = len(beats)
    task_id = await house.stem.enqueue("nap", options=TaskOptions(visibility_timeout=0.8))
    await eventually(lambda: len(beats) > before + 2, 10, what="beats that renew the lease")

    status = await house.stem.wait_for(task_id, 10)
    assert (status.state.value, status.attempt) == ("succeeded", 0)


async def test_progress_of_a_beat_without_an_answer_comes_with_the_next(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, lost = asyncio.Event(), list[str]()
    presence = memory_house.broker.presence
    real = presence.beat

    async def no_answer(beat: Beat) -> BeatAnswer:
        if beat.progress and not lost:
            lost.extend(beat.progress)
            raise UnknownOutcomeError("no answer")
        return await real(beat)

    monkeypatch.setattr(type(presence), "beat", lambda self, beat: no_answer(beat))

    async def tells(context: TaskContext, args: Mapping[str, Any]) -> None:
        context.progress({"phase": 1})
        await told.wait()

    on_loop(memory_house.registry, "tells", tells)
    await memory_house.worker()
    task_id = await memory_house.stem.enqueue("tells")

    async def known() -> bool:
        return bool((await memory_house.stem.status(task_id)).progress == {"phase": 1})

    await eventually(known, what="the progress in the record")
    assert lost == [task_id]
    told.set()


async def test_much_progress_keeps_no_beat_from_renewing_leases(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat above the limit does not arrive; of what it may carry, no task is left out for ever."""
    told, sizes = asyncio.Event(), list[int]()
    presence = memory_house.broker.presence
    real = presence.beat

    async def narrow(beat: Beat) -> BeatAnswer:
        sizes.append(sum(map(len, beat.progress.values())))
        if sizes[-1] > 64 * 1024:
            raise UnknownOutcomeError("no answer")
        return await real(beat)

    monkeypatch.setattr(type(presence), "beat", lambda self, beat: narrow(beat))

    async def tells(context: TaskContext, args: Mapping[str, Any]) -> None:
        while not told.is_set():
            context.progress(bytes(30_000))
            await asyncio.sleep(0.02)

    on_loop(memory_house.registry, "tells", tells)
    await memory_house.worker(concurrency=8)
    ids = [await memory_house.stem.enqueue("tells") for _ in range(8)]

    async def known() -> bool:
        return all([(await memory_house.stem.status(task_id)).progress == bytes(30_000) for task_id in ids])

    await eventually(known, what="the progress of all of them in the records")
    assert max(sizes) <= 64 * 1024
    told.set()


async def test_after_a_beat_without_an_answer_comes_one_without_progress(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a link that is too slow for both, the leases are renewed all the same."""
    told, beats = asyncio.Event(), list[list[str]]()
    presence = memory_house.broker.presence
    real = presence.beat

    async def too_slow(beat: Beat) -> BeatAnswer:
        beats.append(list(beat.progress))
        if beat.progress:
            raise UnknownOutcomeError("no answer")
        return await real(beat)

    monkeypatch.setattr(type(presence), "beat", lambda self, beat: too_slow(beat))

    async def tells(context: TaskContext, args: Mapping[str, Any]) -> None:
        context.progress({"phase": 1})
        await told.wait()

    on_loop(memory_house.registry, "tells", tells)
    await memory_house.worker()
    task_id = await memory_house.stem.enqueue("tells")

    await eventually(lambda: beats.count([task_id]) >= 2, what="the progress is tried again")
    first = beats.index([task_id])
    assert beats[first : first + 3] == [[task_id], [], [task_id]]
    told.set()


async def test_progress_of_a_run_that_has_ended_is_not_told_of_the_next(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beat that carried it gets no answer; meanwhile the run ends, and the next one begins."""
    again, done, told = asyncio.Event(), asyncio.Event(), list[Mapping[str, bytes]]()
    presence = memory_house.broker.presence
    real = presence.beat

    async def no_answer(beat: Beat) -> BeatAnswer:
        told.append(beat.progress)
        if beat.progress and not again.is_set():
            again.set()
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(second.wait(), loop))
            raise UnknownOutcomeError("no answer")
        return await real(beat)

    monkeypatch.setattr(type(presence), "beat", lambda self, beat: no_answer(beat))
    loop, second = asyncio.get_running_loop(), asyncio.Event()

    async def tells(context: TaskContext, args: Mapping[str, Any]) -> None:
        if context.attempt == 0:
            context.progress({"phase": 1})
            await eventually(again.is_set)
            raise ValueError
        second.set()
        await done.wait()

    on_loop(memory_house.registry, "tells", tells)
    await memory_house.worker()
    task_id = await memory_house.stem.enqueue("tells")
    await eventually(second.is_set, what="the second run")
    since = len(told)
    await eventually(lambda: len(told) >= since + 3, what="beats after that")

    assert [progress for progress in told[since:] if progress] == []
    assert (await memory_house.stem.status(task_id)).progress is None
    done.set()


async def test_a_clock_that_is_corrected_does_not_move_the_start(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its start a worker is told from those of the same name before it."""
    beats, ahead_ms = _beats(), [90_000]
    presence = memory_house.broker.presence
    real = presence.beat

    async def by_another_clock(beat: Beat) -> BeatAnswer:
        answer = await real(beat)
        return replace(answer, now_ms=answer.now_ms + ahead_ms[0])

    monkeypatch.setattr(type(presence), "beat", lambda self, beat: by_another_clock(beat))
    before_ms = time.time_ns() // 1_000_000
    await memory_house.worker()
    await eventually(lambda: len(beats) >= 3)
    ahead_ms[0] = -3_600_000
    since = len(beats)
    await eventually(lambda: len(beats) >= since + 3)

    assert beats[-1].heartbeat.clock_offset_ms == pytest.approx(-3_600_000, abs=2_000)
    assert len({beat.heartbeat.started_at_ms for beat in beats[1:]}) == 1
    assert beats[-1].heartbeat.started_at_ms - 90_000 == pytest.approx(before_ms, abs=2_000)


async def test_a_lease_that_is_extended_in_a_loop_costs_few_beats(memory_house: House) -> None:
    beats = _beats()

    async def extends(context: TaskContext, args: Mapping[str, Any]) -> float:
        began = time.monotonic()
        while time.monotonic() < began + 1.0:
            context.extend_lease(args["seconds"])
            await asyncio.sleep(0.001)
        return time.monotonic() - began

    on_loop(memory_house.registry, "extends", extends)
    await memory_house.worker(config=UNHURRIED)

    async def during(seconds: float) -> tuple[int, float]:
        before = len(beats)
        status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("extends", {"seconds": seconds}), 10)
        return len(beats) - before, float(status.result)

    short, _ = await during(60.0)
    long, took_s = await during(300.0)

    assert short <= 1, "its lease of 120 s is longer than that"  # one of the start may still be under way
    assert 2 <= long <= took_s / 0.1 + 2


async def test_a_lease_that_is_extended_is_confirmed_at_once(memory_house: House) -> None:
    beats, done = _beats(), asyncio.Event()

    async def extends(context: TaskContext, args: Mapping[str, Any]) -> None:
        context.extend_lease(600)
        await done.wait()

    on_loop(memory_house.registry, "extends", extends)
    worker = await memory_house.worker(config=UNHURRIED)
    await memory_house.stem.enqueue("extends")

    await eventually(lambda: any(job.lease_s > 500 for job in worker._board.snapshot()), 2, what="a longer lease")
    assert len(beats) <= 4
    done.set()


def _beats() -> list[WorkerHeartbeat]:
    found: list[WorkerHeartbeat] = []
    StemSignals.worker_heartbeat.connect(lambda event, context: found.append(event))
    return found


async def _note(context: TaskContext, args: Mapping[str, Any]) -> None: ...


async def _nap(context: TaskContext, args: Mapping[str, Any]) -> None:
    await asyncio.sleep(1.5)
