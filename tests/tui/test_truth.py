"""What the Overview says is what the server holds: at random moments under load, and after faults."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from stem.errors import BrokerError
from stem.messages.envelope import new_task_id
from tests.conftest import OwnServer
from tests.faults.fleet import WorkerProcess, World
from tests.servers import Server
from tests.tui.sampler import PACE_S, Sample, Sampler, widest_gap_s
from tests.tui.terminal import COUNTS, Picture, Terminal
from tests.waiting import eventually

BEAT_S: Final = 0.8
SLOTS: Final = 4
QUEUES: Final = ("default", "mail")
BURST: Final = 5
"""Tasks enqueued at once on one queue, at most."""
GAP_S: Final = 0.25
"""With more between two samples nobody knows what the server held: no moment to judge a screen by."""
WINDOW_S: Final = 1.5
"""What the screen says may be that old: it asks once a second, and draws ten times a second."""
SETTLED_S: Final = 8.0
"""Once the server holds still: until the screen says exactly that, also on a busy machine."""
ALIVE_S: Final = 4.0
"""Once it answers again: until the screen is LIVE. It asks every second then."""
MOMENTS: Final = 20
DOUBTS: Final = 2
"""At how many of them a heartbeat may be on the screen that was replaced before the next sample."""


# -------------------------------------------------------------------------------------------------------------- load


class Load:
    """Enqueues a mixture on two queues, and knows what must remain of it: dead tasks, and those of the next hour."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.dead: Counter[str] = Counter()
        self.later: Counter[str] = Counter()
        self.acked = 0
        self._world = world
        self._chance = chance
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Enqueue until the block ends; everything that was begun is acknowledged then."""
        producers = [asyncio.create_task(self._produce(queue)) for queue in QUEUES]
        try:
            yield self
            self._stop.set()
            await asyncio.gather(*producers)
        finally:
            for producer in producers:
                producer.cancel()
            await asyncio.gather(*producers, return_exceptions=True)

    async def _produce(self, queue: str) -> None:
        chance = self._chance
        while not self._stop.is_set():
            for _ in range(BURST if chance.random() < 0.02 else 1):
                await asyncio.gather(*(self._one(queue) for _ in range(chance.randint(1, BURST))))
                await asyncio.sleep(chance.uniform(0.05, 0.1))
            await asyncio.sleep(chance.uniform(0.0, 0.2))

    async def _one(self, queue: str) -> None:
        chance = self._chance
        pick, seconds = chance.choices(range(7), (4, 6, 2, 3, 2, 2, 1))[0], chance.uniform(0.2, 0.9)
        name, options = (
            ("quick", {}),
            ("nap", {"seconds": seconds}),
            ("flaky", {"failures": 1}),
            ("again", {"countdown": 3 * seconds}),
            ("raising", {}),
            ("quick", {"delay": 3 * seconds}),
            ("quick", {"delay": 3_600}),
        )[pick]
        await self.enqueue(name, queue=queue, **options)
        self.dead[queue] += name == "raising"
        self.later[queue] += options.get("delay") == 3_600

    async def enqueue(self, name: str, *, queue: str, **options: Any) -> None:
        """Enqueue one; as often as it takes, but not twice."""
        task_id = new_task_id()
        while True:
            try:
                await self._world.enqueue(name, queue=queue, task_id=task_id, **options)
                break
            except BrokerError:
                await asyncio.sleep(0.05)
        self.acked += 1


# --------------------------------------------------------------------------------------------------------- comparing


def untruths(picture: Picture, samples: list[Sample]) -> list[str]:
    """Return what a picture says that the server held at no time during these samples.

    What moves may have stood outside the samples between two of them: by as much as it moved from one to the next. What
    is enqueued at once may even have come, run and gone between two.
    """
    found: list[str] = []

    def must(what: str, said: object, held: set[Any]) -> None:
        if said not in held:
            found.append(f"{what}: the screen says {said!r}, the server held {sorted(held, key=str)}")

    def number(what: str, said: int, values: list[int], unseen: int) -> None:
        step = max((abs(after - before) for before, after in pairwise(values)), default=0)
        if not min(values) - step <= said <= max(values) + max(step, unseen):
            found.append(f"{what}: the screen says {said}, the server held {min(values)}..{max(values)} (step {step})")

    must("queues", frozenset(picture.queues), {frozenset(sample.queues) for sample in samples})
    for name in picture.queues.keys() & samples[0].queues.keys():
        for column in COUNTS:
            values = [sample.queues[name][column] for sample in samples]
            number(f"{name} {column}", picture.queues[name][column], values, BURST if column in ("READY", "RUN") else 0)
        must(f"{name} state", picture.states[name] == "paused", {name in sample.paused for sample in samples})
    must("workers", frozenset(picture.workers), {frozenset(sample.workers) for sample in samples})
    for name, (word, _, _) in picture.workers.items():
        held = [sample.workers[name] for sample in samples if name in sample.workers]
        alive = ("up", "busy")  # which of these two depends on the slots
        must(f"worker {name}", word in alive or word, {each[0] in alive or each[0] for each in held})
    return found + contradictions(picture)


def doubts(picture: Picture, samples: list[Sample]) -> list[str]:
    """Return the slots that the screen shows and no sample does.

    A worker beats at once when somebody begins to watch or commands it: a beat can replace another within milliseconds,
    so that a dashboard happens to see it and a sampler does not. Seldom.
    """
    return [
        f"worker {name}: the screen says {said}, the server held {held}"
        for name, said in picture.workers.items()
        if said not in (held := {sample.workers[name] for sample in samples if name in sample.workers})
    ]


def contradictions(picture: Picture) -> list[str]:
    """Return where the sums in the rules of the panels are not those of the rows below them."""
    sums = {column: sum(row[column] for row in picture.queues.values()) for column in COUNTS}
    words = Counter(word for word, _, _ in picture.workers.values())
    wanted = {
        "ready": sums["READY"],
        "in flight": sums["RUN"],
        "running": sums["RUN"],
        "retrying": sums["RETRY"],
        "dead": sums["DEAD"],
        "paused": sum(state == "paused" for state in picture.states.values()),
        **words,
        "up": words["up"] + words["busy"] + words["start"],
    }
    said = {**picture.notes["QUEUES"], **picture.notes["WORKERS"], **picture.notes["LONGEST RUNNING"]}
    return [
        f"{word}: {number} above, {wanted[word]} below"
        for word, number in said.items()
        if word in wanted and number != wanted[word]
    ]


def exactly(picture: Picture, sample: Sample) -> list[str]:
    """Return how a picture differs from what the server holds."""
    pairs: tuple[tuple[str, object, object], ...] = (
        ("link", picture.link, "LIVE"),
        ("queues", picture.queues, sample.queues),
        ("paused", {name for name, state in picture.states.items() if state == "paused"}, set(sample.paused)),
        ("workers", picture.workers, sample.workers),
        ("in flight", picture.notes["QUEUES"].get("in flight"), sample.total("RUN")),
        ("running", picture.notes["LONGEST RUNNING"]["running"], sample.total("RUN")),
    )
    differing = [f"{what}: {said!r}, not {held!r}" for what, said, held in pairs if said != held]
    # The list of them shows at least three rows, and the rest when scrolled.
    shown, runs = len(set(picture.running)), sample.total("RUN")
    if not min(runs, 3) <= shown <= runs:
        differing.append(f"{shown} tasks are listed that run, of {runs}")
    return differing + contradictions(picture)


class Trial:
    """Looks at the screen at random moments and compares."""

    def __init__(self, terminal: Terminal, sampler: Sampler, chance: random.Random) -> None:
        self.terminal = terminal
        self.sampler = sampler
        self.chance = chance
        self.moments = 0
        self.doubted = 0
        self.alive_since_s = 0.0
        self.too_busy = ""

    async def moments_of(self, what: str, count: int) -> None:
        """Judge so many moments, or as many as this machine allows: then the test is skipped after its end."""
        goal, tries = self.moments + count, 0
        while self.moments < goal:
            tries += 1
            if tries > (count if self.too_busy else count + 80):
                self.too_busy = f"{what}: this machine is too busy to ask the server every {GAP_S} s"
                tell(self.too_busy)
                break
            await asyncio.sleep(self.chance.uniform(0.1, 0.9))
            self.moments += await self.look(what)

    async def look(self, what: str, *, link: str = "LIVE", as_of_s: float | None = None) -> bool:
        """Compare the screen with what the server held of late, or when it was last there.

        Returns:
            False when it cannot be judged: too much time lies between two samples.
        """
        picture = await self.picture()
        # The samples must reach past the moment of the picture.
        await eventually(lambda: as_of_s or self.sampler.newest.asked_s > picture.at_s, 5, what="a sample was taken")
        until_s = as_of_s or picture.at_s
        samples = self.sampler.between(max(until_s - WINDOW_S, self.alive_since_s), until_s)
        if not samples or widest_gap_s(samples) > GAP_S:
            tell(f"{what}: not judged")
            return False
        wrong, doubtful = untruths(picture, samples), doubts(picture, samples)
        self.doubted += bool(doubtful)
        if self.doubted > DOUBTS:
            wrong += doubtful
        if picture.link != link:
            wrong.append(f"the link is {picture.link}, not {link}")
        if wrong:
            raise AssertionError(f"{what}, moment {self.moments + 1}: " + "; ".join(wrong) + f"\n{picture.text}")
        return True

    async def picture(self) -> Picture:
        return await asyncio.to_thread(self.terminal.picture)

    async def until(self, what: str, wrong: Callable[[Picture], object], timeout_s: float) -> None:
        """Wait until nothing is wrong with what the screen says."""
        began_s = time.monotonic()
        while True:
            picture = await self.picture()
            still = wrong(picture)
            if not still:
                break
            if time.monotonic() > began_s + timeout_s:
                raise AssertionError(f"{what}: not within {timeout_s} s; wrong is {still}\n{picture.text}")
            await asyncio.sleep(PACE_S)
        tell(f"{what} after {time.monotonic() - began_s:.2f} s")


# ---------------------------------------------------------------------------------------------------------- the trial


def tell(line: str) -> None:
    """Say how the trial goes; pytest shows it when it fails."""
    sys.stdout.write(line + "\n")


@asynccontextmanager
async def world_of(server: Server, namespace: str, folder: Path) -> AsyncIterator[World]:
    world = World(url=server.url, namespace=namespace, folder=folder, beat_s=BEAT_S, STEM_VISIBILITY_TIMEOUT="4s")
    try:
        yield world
    finally:
        await world.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_overview_says_what_the_server_holds_under_load_and_after_faults(
    own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("STEM_TRUTH_SEED") or random.SystemRandom().randrange(1_000_000))
    tell(f"seed {seed}: STEM_TRUTH_SEED={seed} repeats its choices")
    chance = random.Random(seed)
    server = own_server(aof=True)
    async with world_of(server, namespace, tmp_path) as world:
        workers = await world.workers("w1", "w2", "w3", queues=QUEUES, concurrency=SLOTS)
        with (
            Sampler(server.url, namespace).running() as sampler,
            Terminal("--url", server.url, "--namespace", namespace, "--hz", "10") as terminal,
        ):
            trial = Trial(terminal, sampler, chance)
            load = Load(world, chance)
            async with load.running():
                await trial.until("the first picture", lambda it: not (it.link == "LIVE" and len(it.queues) == 2), 15)
                await trial.moments_of("under load", 6)
                await _pause(trial, world)
                await _kill_a_worker(trial, world, chance.choice(workers))
                await _kill_the_server(trial, server)
                assert trial.moments == MOMENTS or trial.too_busy
            await _load_ends(trial, world, load)
            terminal.press("q")
            await eventually(lambda: terminal.process.poll() is not None, what="stem-tui has ended")
        assert sampler.error is None
        assert terminal.process.returncode == 0
    if trial.too_busy:
        pytest.skip(f"{trial.too_busy}: only {trial.moments} of {MOMENTS} moments could be judged")


async def _pause(trial: Trial, world: World) -> None:
    queue = trial.chance.choice(QUEUES)
    await world.controller.pause("queue", [queue], reason="a look at the screen")
    await trial.until(f"{queue} shown as paused", lambda it: it.states[queue] != "paused", SETTLED_S)
    await trial.moments_of(f"{queue} paused", 3)
    await world.controller.resume("queue", [queue])
    await trial.until(f"{queue} shown as running", lambda it: it.states[queue] != "run", SETTLED_S)
    await trial.moments_of(f"{queue} resumed", 2)


async def _kill_a_worker(trial: Trial, world: World, worker: WorkerProcess) -> None:
    name = worker.name
    await eventually(lambda: trial.sampler.newest.workers[name][1], what=f"{name} has something in flight")
    worker.kill9()
    await trial.moments_of(f"{name} just killed", 2)
    await trial.until(f"{name} shown as lost", lambda it: it.workers[name][0] != "lost", 3 * BEAT_S + 2)
    await trial.moments_of(f"{name} lost", 2)
    await world.worker("w4", queues=QUEUES, concurrency=SLOTS)
    await trial.until("w4 shown as up", lambda it: it.workers.get("w4", ("",))[0] not in ("up", "busy"), SETTLED_S)


async def _kill_the_server(trial: Trial, server: Server) -> None:
    """The picture stays while the server is away, and comes alive with it."""

    def known() -> bool:
        now_s = time.monotonic()
        return widest_gap_s(trial.sampler.between(now_s - WINDOW_S, now_s)) <= GAP_S

    try:
        await eventually(known)
    except AssertionError:
        trial.too_busy = "this machine is too busy to know what the server held when it was killed"
        tell(trial.too_busy)
    killed_s = time.monotonic()
    server.kill9()
    await trial.until("DOWN shown", lambda it: it.link != "DOWN", SETTLED_S)
    for _ in range(3):
        await asyncio.sleep(trial.chance.uniform(0.1, 0.9))
        await trial.look("without a server", link="DOWN", as_of_s=killed_s)
    # A bad moment to come back: the longest wait between two attempts has begun just now.
    await trial.until("long waits", lambda it: not re.search(r"retry ([4-9]|\d\d) in 0\.[5-8]", it.text), 10)
    server.start()
    trial.alive_since_s = time.monotonic()
    await trial.until("LIVE shown", lambda it: it.link != "LIVE", ALIVE_S)
    await trial.look("LIVE again")
    await trial.moments_of("after the restart", 5)


async def _load_ends(trial: Trial, world: World, load: Load) -> None:
    """The server comes to rest, once with nothing to do, once with something in every column."""
    expected = {queue: dict.fromkeys(COUNTS, 0) | {"DELAY": load.later[queue], "DEAD": load.dead[queue]}
                for queue in QUEUES}  # fmt: skip

    def rests() -> float:
        """Return since when the server has held just this, once that is certain: every worker has beaten twice."""
        still: list[Sample] = []
        for sample in reversed(trial.sampler.samples):
            if (sample.queues, sample.workers) != (expected, trial.sampler.newest.workers):
                break
            still.append(sample)
        return still[-1].asked_s if still and still[0].asked_s - still[-1].asked_s > 2 * BEAT_S else 0.0

    async def shown(what: str) -> None:
        try:
            since_s = await eventually(rests, 20)
        except AssertionError:
            raise AssertionError(f"{what}: the server holds {trial.sampler.newest}, not {expected}") from None
        # On a busy machine that is seen late: the screen has a second from then at least.
        left_s = max(1.0, since_s + SETTLED_S - time.monotonic())
        await trial.until(what, lambda it: exactly(it, trial.sampler.newest), left_s)
        await asyncio.sleep(trial.chance.uniform(0.5, 1.5))
        assert exactly(await trial.picture(), trial.sampler.newest) == []

    await shown("the load's end")
    await world.controller.pause("queue", ["mail"])
    await asyncio.gather(
        *(load.enqueue("quick", queue="mail") for _ in range(37)),
        *(load.enqueue("nap", queue="default", seconds=60) for _ in range(5)),
        *(load.enqueue("again", queue="default", countdown=600) for _ in range(3)),
    )
    expected["mail"]["READY"], expected["default"]["RUN"], expected["default"]["RETRY"] = 37, 5, 3
    await shown("something in every column")
    tell(f"{load.acked} tasks, at the end {expected}")
