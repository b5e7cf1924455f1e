"""Ping names everybody who is there, and everybody who should be."""

from __future__ import annotations

import asyncio
import json

from stem.control.controller import Controller
from stem.control.diagnose import diagnose
from tests.conftest import OwnServer
from tests.faults.conftest import Worlds
from tests.faults.fleet import WorkerProcess, World
from tests.servers import Server
from tests.waiting import eventually

FIVE = ("w1", "w2", "w3", "w4", "w5")
PATIENCE_S = 3.0
"""How long four workers may take to answer together while a fifth one does not."""


async def _lost(world: World, worker: WorkerProcess) -> None:
    async def overdue() -> bool:
        return (await world.seen(worker)).lost

    await eventually(overdue, 10, what=f"{worker.name} counts as lost")


async def test_five_idle_workers_answer_within_fifty_milliseconds(world: World) -> None:
    await world.workers(*FIVE)

    results = [await world.controller.ping() for _ in range(7)]

    for result in results:
        assert (result.expected, result.replied, list(result.silent)) == (5, 5, [])
        assert set(FIVE) == {pong.name for pong in result.workers}
        assert {"healthy"} == {pong.diagnosis for pong in result.workers}
    # The best of seven: the promise is about Stem, not about what else runs on this machine.
    assert min(result.elapsed_ms for result in results) < 50


async def test_a_worker_frozen_a_moment_ago_is_named_silent_and_the_others_still_answer(
    worlds: Worlds, valkey_url: str
) -> None:
    world = worlds(valkey_url, beat_s=2.0)
    workers = await world.workers(*FIVE)
    patient = Controller(world.broker, timeout_s=PATIENCE_S)
    assert (await patient.ping()).replied == 5

    workers[2].freeze()
    result, (code, out, err) = await asyncio.gather(
        patient.ping(), world.stemctl("ping", "--json", "--timeout", f"{PATIENCE_S}s")
    )

    assert (result.expected, result.replied) == (5, 4)
    (silent,) = result.silent
    assert (workers[2].id, "w3") == (silent.id, silent.name)
    assert silent.diagnosis in ("deaf", "lost")
    assert silent.last_heartbeat_ms > 0
    assert result.elapsed_ms < 1000 * (PATIENCE_S + 2.0)
    data = json.loads(out)["data"]
    assert code == 4, err
    assert [one["name"] for one in data["silent"]] == ["w3"]
    assert data["silent"][0]["diagnosis"] in ("deaf", "lost")

    workers[2].thaw()

    async def all_back() -> bool:
        return (await patient.ping()).replied == 5

    await eventually(all_back, 10, what="the thawed worker answers again")


async def test_a_worker_lost_for_a_minute_is_named_at_once_and_not_waited_for(
    own_server: OwnServer, worlds: Worlds
) -> None:
    server: Server = own_server(aof=False)
    world = worlds(server.url)
    alive, dead = await world.workers("alive", "dead")
    dead.kill9()
    await _lost(world, dead)
    server.command("ZINCRBY", f"{{{world.namespace}}}:workers", -60_000, dead.id)

    result = await world.controller.ping()

    assert (result.expected, result.replied) == (1, 1)
    assert [alive.id] == [pong.id for pong in result.workers]
    (silent,) = result.silent
    assert (dead.id, "lost", False) == (silent.id, silent.diagnosis, silent.waited_for)
    assert silent.age_ms > 60_000
    assert result.elapsed_ms < 1000  # of a timeout of five seconds
    code, out, _ = await world.stemctl("ping", "--json")
    assert code == 4
    assert [one["diagnosis"] for one in json.loads(out)["data"]["silent"]] == ["lost"]


async def test_a_lost_worker_is_forgotten_when_one_of_its_name_starts(world: World) -> None:
    worker = await world.worker("w1")
    worker.kill9()
    await _lost(world, worker)

    await world.worker("w1")
    result = await world.controller.ping()

    assert (result.expected, result.replied, list(result.silent)) == (1, 1, [])


async def test_ping_of_nobody_returns_at_once_with_exit_code_three(world: World) -> None:
    result = await world.controller.ping()
    assert (result.expected, result.replied, list(result.silent)) == (0, 0, [])
    assert result.elapsed_ms < 1000  # of a timeout of five seconds

    code, out, err = await world.stemctl("ping", "--json")

    assert code == 3
    assert json.loads(out)["ok"] is False
    assert "Traceback" not in err


async def test_workers_answer_while_all_their_handlers_spin(world: World) -> None:
    await world.workers("w1", "w2", concurrency=4)
    # A long lease: the question is who answers. With the short one a machine that stalls for a second ends the lease.
    spinning = await world.enqueue_some(4, "spin", seconds=3.0, lease=20)
    await world.started(*spinning)

    results = [await world.controller.ping() for _ in range(5)]

    assert {2} == {result.replied for result in results}
    assert min(result.elapsed_ms for result in results) < 500
    await world.all_final(spinning, timeout=20)
    world.ledger.read().check()


async def test_ping_during_the_goodbye_waits_for_nobody_who_is_gone(world: World) -> None:
    staying, leaving = await world.workers("staying", "leaving")
    leaving.process.terminate()

    results = await asyncio.gather(*(world.controller.ping() for _ in range(3)))

    assert await leaving.exit_code() == 0
    for result in results:
        assert staying.id in {pong.id for pong in result.workers}
        assert result.elapsed_ms < 3000  # of a timeout of five seconds
    seen = await world.seen(leaving)
    assert diagnose(seen, answered=False) == "stopped"
