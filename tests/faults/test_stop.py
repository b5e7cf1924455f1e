"""Each row of the table of stops: how long it takes, with which exit code, and what becomes of the tasks."""

from __future__ import annotations

import json
import signal
import time
from typing import Literal

import pytest

from stem.messages.status import TaskState
from tests.conftest import OwnServer
from tests.faults.conftest import Worlds
from tests.faults.fleet import WorkerProcess, World
from tests.faults.gates import open_gate
from tests.waiting import eventually

SOFT_S = 3.0
"""How long handlers that were told to stop may take."""
SLACK_S = 3.0
"""For a loaded machine."""

Mode = Literal["warm", "soft", "hard"]


async def _stops(worker: WorkerProcess, *numbers: signal.Signals) -> None:
    """Send signals, each after the one before was noticed."""
    for count, number in enumerate(numbers, 1):
        worker.send(number)
        await eventually(
            lambda count=count: worker.log().count("worker.stopping") >= count,  # type: ignore[misc]  # mypy sees no default in a lambda
            what=f"the worker noticed signal {count}\n{worker.log()[-1000:]}",
        )


async def _said_goodbye(world: World, worker: WorkerProcess) -> None:
    seen = await world.seen(worker)
    assert (seen.heartbeat.state, seen.heartbeat.in_flight) == ("stopped", 0)


async def _handed_back(world: World, *task_ids: str) -> None:
    """Assert that these wait again as if they had never started, and that another worker runs them to their end."""
    for task_id in task_ids:
        status = await world.stem.status(task_id)
        assert (status.state, status.attempt, status.crashes) == (TaskState.QUEUED, 0, 0)
    await world.nothing_in_flight(timeout=1)
    for task_id in task_ids:
        await world.controller.revoke([task_id])


async def test_sigterm_of_an_idle_worker_ends_it_at_once_with_zero(world: World) -> None:
    worker = await world.worker()
    begun = time.monotonic()

    worker.send(signal.SIGTERM)
    code = await worker.exit_code()

    assert code == 0
    assert time.monotonic() - begun < SLACK_S
    await _said_goodbye(world, worker)
    assert "\n".join(worker.tracebacks()) == ""


async def test_sigterm_finishes_what_runs_and_takes_nothing_more(world: World) -> None:
    worker = await world.worker()
    gate = world.fleet.folder / "gate"
    running = [
        await world.enqueue("nap_until", gate=str(gate), lease=30),
        await world.enqueue("thread_nap_until", gate=str(gate), lease=30),
    ]
    await world.started(*running)

    await _stops(worker, signal.SIGTERM)
    later = await world.enqueue("quick")
    answered = await world.controller.ping()
    open_gate(gate)
    code = await worker.exit_code()

    assert code == 0
    assert (answered.replied, [pong.diagnosis for pong in answered.workers]) == (1, ["draining"])
    statuses = await world.all_final(running)
    assert {(TaskState.SUCCEEDED, 0, 1)} == {(one.state, one.attempt, one.token) for one in statuses}
    assert world.ledger.read().starts(later) == []
    assert await world.state(later) is TaskState.QUEUED
    await _said_goodbye(world, worker)
    assert world.ledger.read().started_twice() == {}


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGTERM, signal.SIGTERM], id="second-sigterm"),
        pytest.param([signal.SIGINT], id="sigint"),
    ],
)
async def test_soft_cancels_what_runs_and_hands_it_back(world: World, signals: list[signal.Signals]) -> None:
    worker = await world.worker()
    running = [
        await world.enqueue("nap", seconds=60.0, lease=30),
        await world.enqueue("thread_nap", seconds=60.0, lease=30),
    ]
    await world.started(*running)
    begun = time.monotonic()

    await _stops(worker, *signals)
    code = await worker.exit_code()

    assert code == 0
    assert time.monotonic() - begun < SOFT_S + SLACK_S
    assert set(running) == world.ledger.read().ids("cut", "failed")
    await _said_goodbye(world, worker)
    await _handed_back(world, *running)


async def test_soft_hands_back_after_the_grace_time_what_does_not_end(world: World) -> None:
    worker = await world.worker()
    running = [
        await world.enqueue("stubborn", seconds=60.0, lease=30),
        await world.enqueue("deaf_thread", seconds=60.0, lease=30),
    ]
    await world.started(*running)
    begun = time.monotonic()

    await _stops(worker, signal.SIGTERM, signal.SIGTERM)
    code = await worker.exit_code()

    assert code == 0
    assert SOFT_S - 0.2 <= time.monotonic() - begun < SOFT_S + SLACK_S
    await _said_goodbye(world, worker)
    await _handed_back(world, *running)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], id="third-sigterm"),
        pytest.param([signal.SIGINT, signal.SIGINT], id="second-sigint"),
        pytest.param([signal.SIGQUIT], id="sigquit"),
    ],
)
async def test_hard_hands_everything_back_now(world: World, signals: list[signal.Signals]) -> None:
    worker = await world.worker()
    running = [
        await world.enqueue("stubborn", seconds=30.0, lease=30),
        await world.enqueue("nap", seconds=30.0, lease=30),
        await world.enqueue("deaf_thread", seconds=30.0, lease=30),
    ]
    await world.started(*running)
    begun = time.monotonic()

    await _stops(worker, *signals)
    code = await worker.exit_code()

    assert code == 0
    assert time.monotonic() - begun < SLACK_S - 0.2  # less than the grace time of soft
    await _said_goodbye(world, worker)
    await _handed_back(world, *running)


async def test_hard_hands_back_also_from_under_a_blocked_work_loop(world: World) -> None:
    worker = await world.worker()
    nap = await world.enqueue("nap", seconds=30.0, lease=30)
    await world.started(nap)
    blocker = await world.enqueue("block_forever", lease=30)
    await world.started(blocker)
    begun = time.monotonic()

    worker.send(signal.SIGQUIT)
    code = await worker.exit_code()

    assert code == 0
    assert time.monotonic() - begun < SLACK_S
    await _said_goodbye(world, worker)
    await _handed_back(world, nap, blocker)


async def test_a_warm_stop_becomes_soft_when_the_drain_timeout_has_passed(worlds: Worlds, valkey_url: str) -> None:
    world = worlds(valkey_url, STEM_DRAIN_TIMEOUT="1s")
    worker = await world.worker()
    running = await world.enqueue("nap", seconds=60.0, lease=30)
    await world.started(running)
    begun = time.monotonic()

    worker.send(signal.SIGTERM)
    code = await worker.exit_code()

    assert code == 0
    assert 1.0 <= time.monotonic() - begun < 1.0 + SLACK_S
    assert [running] == [line.id for line in world.ledger.read().lines if line.kind == "cut"]
    await _said_goodbye(world, worker)
    await _handed_back(world, running)


@pytest.mark.parametrize("mode", ["warm", "soft", "hard"])
async def test_shutdown_by_command_ends_with_the_goodbye(world: World, mode: Mode) -> None:
    worker, other = await world.workers("w1", "w2")
    await world.controller.drain(["w2"], wait_s=5)
    running = await world.enqueue("nap", seconds=1.5 if mode == "warm" else 30.0, lease=30)
    await world.started(running)

    result = await world.controller.shutdown(["w1"], mode=mode, wait_s=10)
    code = await worker.exit_code(3.0)

    assert code == 0
    assert (result.expected, result.applied, result.waited_out, list(result.silent)) == (1, 1, False, [])
    assert [("w1", worker.id, "effect")] == [(item.target, item.worker, item.stage) for item in result.items]
    await _said_goodbye(world, worker)
    assert other.running
    assert (await world.seen(other)).heartbeat.state != "stopped"
    if mode == "warm":
        assert await world.state(running) is TaskState.SUCCEEDED
        world.ledger.read().check()
    else:
        await _handed_back(world, running)


async def test_a_shutdown_never_stops_a_later_process_of_the_same_name(world: World) -> None:
    first = await world.worker("w1")
    await world.controller.shutdown(["w1"], wait_s=10)
    assert await first.exit_code() == 0

    second = await world.worker("w1")
    task_id = await world.enqueue("quick")

    await world.reaches(task_id, TaskState.SUCCEEDED)
    assert second.running


async def test_stemctl_shutdown_of_all_asks_first_and_then_stops_all(world: World) -> None:
    workers = await world.workers("w1", "w2")

    refused, _, err = await world.stemctl("shutdown", "--json")
    assert all(worker.running for worker in workers)
    code, out, _ = await world.stemctl("shutdown", "--yes", "--wait", "10s", "--json")

    assert refused == 5, err
    assert code == 0
    assert {"effect"} == {item["stage"] for item in json.loads(out)["data"]["items"]}
    assert [await worker.exit_code() for worker in workers] == [0, 0]


async def test_a_drained_worker_takes_nothing_and_answers_until_it_is_undrained(world: World) -> None:
    worker = await world.worker()
    running = await world.enqueue("nap", seconds=0.8)
    await world.started(running)

    drained = await world.controller.drain(["w1"], wait_s=10)
    waiting = await world.enqueue("quick")
    answered = await world.controller.ping()

    assert [(item.stage, item.outcome) for item in drained.items] == [("effect", "set")]
    assert await world.state(running) is TaskState.SUCCEEDED
    assert answered.replied == 1
    assert world.ledger.read().starts(waiting) == []
    await world.controller.undrain(["w1"], wait_s=5)
    await world.reaches(waiting, TaskState.SUCCEEDED)
    assert worker.running


async def test_sigusr1_writes_all_stacks_and_stops_nothing(world: World) -> None:
    worker = await world.worker()
    gate = world.fleet.folder / "gate"
    running = await world.enqueue("nap_until", gate=str(gate), lease=30)
    await world.started(running)

    worker.send(signal.SIGUSR1)
    await eventually(lambda: "in nap_until" in worker.log(), what="the stack of the handler on stderr")
    open_gate(gate)

    assert running in worker.log()
    assert await world.reaches(running, TaskState.SUCCEEDED)
    assert worker.running


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("away", ["gone", "frozen"])
async def test_sigterm_while_the_server_is_away_ends_in_time(
    own_server: OwnServer, worlds: Worlds, away: str, busy: bool
) -> None:
    server = own_server()
    world = worlds(server.url, STEM_DRAIN_TIMEOUT="1s")
    worker = await world.worker()
    if busy:
        await world.started(await world.enqueue("nap", seconds=60.0, lease=30))
    if away == "gone":
        server.kill9()
    else:
        server.sigstop()
    begun = time.monotonic()

    worker.send(signal.SIGTERM)
    code = await worker.exit_code(20.0)
    took_s = time.monotonic() - begun
    if away == "frozen":
        server.sigcont()

    # Nobody can be told: what ran is left to its lease, and the code says so.
    assert code == (1 if busy else 0)
    assert took_s < 1.0 + SOFT_S + 2.0 + SLACK_S  # drain, grace, and two seconds to hand back and say goodbye
    assert "\n".join(worker.tracebacks()) == ""


async def test_sigterm_during_start_up_ends_it(world: World) -> None:
    worker = world.fleet.spawn("early")

    async def heard_of() -> bool:
        return bool(await world.broker.presence.workers())

    await eventually(heard_of, 15, what="the first heartbeat")
    worker.send(signal.SIGTERM)

    assert await worker.exit_code() == 0
    assert [seen.heartbeat.state for seen in await world.broker.presence.workers()] == ["stopped"]
