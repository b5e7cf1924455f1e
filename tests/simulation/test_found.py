"""What the simulation found outside of the adapters, as the shortest test that shows it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from tests.simulation import scene as scenes
from tests.simulation import world
from tests.simulation.loop import Process
from tests.simulation.network import Network


async def test_repeating_an_enqueue_with_its_id_is_safe_also_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    stem = Stem(InMemoryBroker())
    monkeypatch.setattr(time, "time_ns", lambda: 1_750_000_000_000_000_000)
    await stem.enqueue("job", {"to": "ada"}, task_id="mine")
    monkeypatch.setattr(time, "time_ns", lambda: 1_750_000_000_005_000_000)

    assert await stem.enqueue("job", {"to": "ada"}, task_id="mine") == "mine"


def test_a_worker_that_waits_for_its_first_look_at_the_server_is_not_wedged(monkeypatch: pytest.MonkeyPatch) -> None:
    """`worker.start()` asks for the server's details once; that may take as long as a command may take."""
    call = Network.call

    def slow_info(
        self: Network,
        process: Process,
        what: str,
        args: tuple[Any, ...],
        make: Callable[[], Coroutine[Any, Any, Any]],
    ) -> asyncio.Future[Any]:
        if what == "census.info":
            self.weather.usual_s, usual_s = 4.0, self.weather.usual_s
            try:
                return call(self, process, what, args, make)
            finally:
                self.weather.usual_s = usual_s
        return call(self, process, what, args, make)

    def short_patience(rng: random.Random, profile: scenes.Profile) -> scenes.Scene:
        made = scene(rng, profile)
        made.plan.wedged_s = 0.6
        return made

    scene = scenes.scene
    monkeypatch.setattr(Network, "call", slow_info)
    monkeypatch.setattr(world, "scene", short_patience)

    report = world.simulate(1, "calm")

    assert [line for line in report.trace if " exit " in line and line.endswith(" 70")] == []
    assert report.violations == []
