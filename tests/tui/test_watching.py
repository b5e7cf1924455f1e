"""What being watched costs the workers: events while somebody looks, and nothing once nobody does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import World
from tests.servers import Server
from tests.tui.terminal import Terminal
from tests.waiting import eventually

TASKS: Final = 20
BEAT_S = 0.4


def leases(server: Server, namespace: str) -> int:
    """Return how many watchers hold a lease."""
    seconds, micros = server.command("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    return int(server.command("ZCOUNT", f"{{{namespace}}}:watch", now_ms, "+inf"))


class Watched:
    """Workers behind a proxy that counts what they send, and a server that dashboards are pointed at."""

    def __init__(self, world: World, server: Server, proxy: ChaosProxy) -> None:
        self.world = world
        self.server = server
        self.proxy = proxy
        self.arguments = ("--url", server.url, "--namespace", world.namespace)

    async def run_some(self) -> None:
        """Run some tasks to their end."""
        ids = [await self.world.enqueue("quick", n=number) for number in range(TASKS)]
        for task_id in ids:
            status = await self.world.stem.wait_for(task_id, timeout=20)
            assert status.state.value == "succeeded"

    async def emits(self) -> bool:
        """Run tasks; say whether anything was told of them."""
        before = self.proxy.seen["emit"]
        await self.run_some()
        return self.proxy.seen["emit"] > before

    def leases(self) -> int:
        return leases(self.server, self.world.namespace)

    async def silent(self) -> bool:
        return not await self.emits()


@asynccontextmanager
async def watched(server: Server, namespace: str, folder: Path, *, beat_s: float = BEAT_S) -> AsyncIterator[Watched]:
    async with ChaosProxy(server.url, folder / "p") as proxy:
        world = World(url=server.url, namespace=namespace, folder=folder, beat_s=beat_s, STEM_BROKER_URL=proxy.url)
        try:
            await world.workers("w1", "w2")
            yield Watched(world, server, proxy)
        finally:
            await world.close()


@pytest.mark.timeout(120)
async def test_events_flow_only_while_a_dashboard_is_open(
    valkey_server: Server, namespace: str, tmp_path: Path
) -> None:
    async with watched(valkey_server, namespace, tmp_path) as it:
        await it.run_some()
        assert it.proxy.seen["emit"] == 0

        with Terminal(*it.arguments) as terminal:
            await eventually(it.leases, 20, what="the dashboard watches")
            await eventually(it.emits, 20, what="the workers tell of their tasks")
            terminal.press("q")
            await eventually(lambda: terminal.process.poll() is not None, what="it has ended")

        assert it.leases() == 0
        await eventually(it.silent, 20, what="each worker has learnt it, with a beat of its own")


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_dashboard_that_stands_still_or_is_killed_costs_no_worker_anything(
    valkey_server: Server, namespace: str, tmp_path: Path
) -> None:
    """Ctrl-s, or a dead ssh: the dashboard waits for its terminal, and nobody waits for the dashboard."""
    async with watched(valkey_server, namespace, tmp_path, beat_s=2.0) as it:  # no stall of the machine is a loss
        with Terminal(*it.arguments, "--hz", "20") as terminal:
            with Terminal(*it.arguments) as another:
                await eventually(lambda: it.leases() == 2, 20, what="both watch")
                await eventually(lambda: terminal.picture().link == "LIVE", 20)
                await eventually(it.emits, 20)
                another.process.kill()
                another.process.wait(10)
            terminal.stall()

            rounds = 0

            async def lapsed() -> bool:
                nonlocal rounds
                rounds += 1
                await it.run_some()
                beats = await it.world.broker.presence.workers()
                assert [each.heartbeat.name for each in beats if each.lost or each.heartbeat.loop_age_ms > 2_000] == []
                return not it.leases()

            await eventually(lapsed, 60, what="neither renews its lease")
            assert rounds > 3
            await eventually(it.silent, 20, what="the workers tell nothing")
            await it.world.enqueue("nap", seconds=30)

            terminal.go_on()
            await eventually(lambda: terminal.picture().link == "LIVE", 20, what="it is live again")
            await eventually(lambda: terminal.picture().notes["QUEUES"].get("in flight") == 1, 20)
            await eventually(lambda: "gap: events missed" in terminal.picture().text, 20, what="it says what it missed")
            assert terminal.process.poll() is None
