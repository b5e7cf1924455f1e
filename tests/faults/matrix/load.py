"""The load during a fault: producers that never lose count, a mix of tasks, and an operator who asks and steers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from stem.client import Stem
from stem.config import StemConfig
from stem.errors import BrokerError, BrokerUnreachableError, UnknownOutcomeError
from stem.options import TaskOptions

if TYPE_CHECKING:
    from tests.faults.matrix.stage import FaultWorld

MIX: Final[Mapping[str, tuple[int, dict[str, Any]]]] = {
    "quick": (62, {}),
    "nap": (18, {"seconds": 0.08}),
    "thread_nap": (8, {"seconds": 0.05}),
    "flaky": (6, {"failures": 1}),
    "again": (3, {"countdown": 0.2}),
    "raising": (3, {}),
}
"""Handlers of the fault application with their weight and arguments."""


class Load:
    """Enqueues until told to stop: the end of `async with Load(world, random) as load: …` waits for the producers.

    One producer repeats an enqueue of unknown outcome with the same id until it knows; the other gives up and writes
    `unknown`. Both write `tried` before, and `acked` when they have the id.

    Args:
        per_s: enqueues per second, of each producer; None for as fast as they are answered.
        url: where the producers go, if not straight to the server (through a proxy).
        steer: an operator pings and asks all the time, and cancels a task now and then.
    """

    def __init__(
        self,
        world: FaultWorld,
        chance: random.Random,
        *,
        per_s: float | None = 60.0,
        producers: int = 2,
        url: str | None = None,
        mix: Mapping[str, tuple[int, dict[str, Any]]] = MIX,
        lease_s: float | None = None,
        steer: bool = False,
    ) -> None:
        self._world = world
        self._seed = chance.random()
        self._per_s = per_s
        self._producers = producers
        self._url = url or world.url
        self._mix = mix
        self._lease_s = lease_s
        self._steer = steer
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.acked = 0
        self.unknown = 0
        self.refused = 0
        self.pings = 0
        self.pings_unanswered = 0

    async def __aenter__(self) -> Self:
        for number in range(self._producers):
            chance = random.Random(f"{self._seed} {number}")
            work = self._produce(chance, repeats=number % 2 == 0)
            self._tasks.append(asyncio.create_task(work, name=f"producer-{number}"))
        if self._steer:
            self._tasks.append(asyncio.create_task(self._operate(random.Random(f"{self._seed} op")), name="operator"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if error is not None:
            for task in self._tasks:
                task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None:
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def until(self, acked: int, *, timeout: float = 60.0) -> None:
        """Wait until so many are acknowledged."""
        async with asyncio.timeout(timeout):
            while self.acked < acked:
                await self._pause(0.01)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    async def _produce(self, chance: random.Random, *, repeats: bool) -> None:
        names = list(self._mix)
        weights = [weight for weight, _ in self._mix.values()]
        options = TaskOptions() if self._lease_s is None else TaskOptions(visibility_timeout=self._lease_s)
        async with Stem.connect(self._url, namespace=self._world.namespace, config=StemConfig()) as stem:
            while not self._over.is_set():
                name = chance.choices(names, weights)[0]
                await self._enqueue(stem, name, options, chance, repeats=repeats)
                if self._per_s is not None:
                    await self._pause(chance.expovariate(self._per_s))

    async def _enqueue(
        self, stem: Stem, name: str, options: TaskOptions, chance: random.Random, *, repeats: bool
    ) -> None:
        task_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        delay = 0.1 if chance.random() < 0.03 else None
        ledger = self._world.ledger
        ledger.write("tried", task_id)
        while True:
            try:
                await stem.enqueue(f"fault.{name}", self._mix[name][1], options=options, delay=delay, task_id=task_id)
            except (UnknownOutcomeError, BrokerUnreachableError) as error:
                unknown = isinstance(error, UnknownOutcomeError)
                if not self._over.is_set() and (repeats or not unknown):
                    await self._pause(0.05)
                    continue
                self.unknown += unknown
                if unknown:
                    ledger.write("unknown", task_id)
                return
            except BrokerError:  # refused: memory, rights, a full queue; not enqueued
                self.refused += 1
                await self._pause(0.05)
                return
            ledger.write("acked", task_id)
            self.acked += 1
            return

    async def _operate(self, chance: random.Random) -> None:
        controller = self._world.controller
        while not self._over.is_set():
            with contextlib.suppress(BrokerError):
                self.pings += 1
                answer = await controller.ping()
                self.pings_unanswered += bool(answer.silent)
            with contextlib.suppress(BrokerError):
                await controller.stats()
            await self._pause(0.4)
