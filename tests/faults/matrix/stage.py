"""Where a family plays: servers, worlds and random numbers that end with it; what a failing run leaves to look at."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.fleet import BEAT_S, World
from tests.faults.ledger import Disturbance
from tests.faults.matrix.family import Family, Row, Scale
from tests.faults.matrix.invariants import Verdict
from tests.servers import Kind, Server


class FaultWorld(World):
    """A world that writes down when it was disturbed, and whom.

    Attributes:
        disturbances: who may have lost work, and when. `pids` None means everybody.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.disturbances: list[Disturbance] = []

    @asynccontextmanager
    async def disturbed(self, pids: Sequence[int] | None = None, *, after_s: float = 0.0) -> AsyncIterator[None]:
        """Say that what runs meanwhile (and `after_s` longer), on these workers or all, may be started once more."""
        mark = Disturbance(time.monotonic_ns(), 2**63, None if pids is None else frozenset(pids))
        self.disturbances.append(mark)
        try:
            yield
        finally:
            mark.end_ns = time.monotonic_ns() + round(after_s * 1e9)

    def kill9(self, *names: str) -> list[int]:
        """Kill these workers with SIGKILL, written down as a disturbance; return their process ids."""
        victims = [worker for worker in self.fleet if worker.name in names and worker.running]
        for worker in victims:
            self.disturbances.append(Disturbance(time.monotonic_ns(), 2**63, frozenset([worker.pid])))
            worker.kill9()
        return [worker.pid for worker in victims]


class Stage:
    """One run of one family.

    Attributes:
        random: seeded; every choice of a family comes from it.
        folder: for files; kept with the servers' data when the run fails.
    """

    def __init__(self, family: Family, scale: Scale, seed: int, folder: Path, *, quiet: bool = False) -> None:
        self.family = family
        self.scale: Scale = scale
        self.seed = seed
        self.random = random.Random(f"{family.id} {seed}")
        self.folder = folder
        self._quiet = quiet
        self._servers: list[Server] = []
        self._worlds: list[FaultWorld] = []

    def times(self, *, full: int, share: int) -> int:
        """Return how often, by the scale."""
        return full if self.scale == "full" else share

    def say(self, text: str) -> None:
        """Tell what goes on: on stderr, with the family's name; the share in `make test` shows it when it fails."""
        sys.stderr.write(f"  {self.family.id}: {text}\n")
        sys.stderr.flush()

    def server(
        self,
        *,
        kind: Kind = "valkey",
        aof: bool = True,
        tcp: bool = False,
        options: Sequence[str] = (),
        in_memory: bool = False,
    ) -> Server:
        """Start a server of the family's own."""
        return self.make_server(kind=kind, aof=aof, tcp=tcp, options=options, in_memory=in_memory).start()

    def make_server(
        self,
        *,
        kind: Kind = "valkey",
        aof: bool = True,
        tcp: bool = False,
        options: Sequence[str] = (),
        in_memory: bool = False,
    ) -> Server:
        """Return a server of the family's own, not started."""
        server = Server(kind=kind, aof=aof, tcp=tcp, options=options, in_memory=in_memory)
        self._servers.append(server)
        return server

    async def world(
        self, url: str, *, workers: int = 0, beat_s: float = BEAT_S, concurrency: int = 8, **env: str
    ) -> FaultWorld:
        """Make a world in a fresh namespace, with workers `w1`, `w2`, … that take work."""
        folder = self.folder / f"world-{len(self._worlds)}"
        folder.mkdir(parents=True)
        world = FaultWorld(url=url, namespace=f"f{secrets.token_hex(5)}", folder=folder, beat_s=beat_s, **env)
        self._worlds.append(world)
        if workers:
            await world.workers(*(f"w{n + 1}" for n in range(workers)), concurrency=concurrency)
        return world

    def row(self, verdict: Verdict, *, injected: str, check: str = "", note: str = "") -> Row:
        """Return the table's line for a verdict."""
        return Row(
            check=check or self.family.title,
            injected=injected,
            tasks=verdict.tasks,
            lost=len(verdict.lost),
            doubled=len(verdict.doubled),
            extra_starts=verdict.extra_starts,
            unexplained=len(verdict.unexplained),
            recovery_s=verdict.recovery_s,
            violations=list(verdict.violations),
            note="; ".join(filter(None, [note, *verdict.notes])),
        )

    async def close(self, *, keep: bool) -> None:
        """End every process. With `keep` the servers' folders (AOF, log) are moved beside the ledgers and logs."""
        for world in self._worlds:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(10):
                    await world.close()
            world.fleet.close()
        for number, server in enumerate(self._servers):
            server.kill9()
            if keep:
                shutil.copytree(
                    server.folder,
                    self.folder / f"server-{number}",
                    ignore=shutil.ignore_patterns("s"),
                    symlinks=True,
                    dirs_exist_ok=True,
                )
            server.remove()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


async def perform(family: Family, *, scale: Scale, seed: int, folder: Path) -> list[Row]:
    """Play a family and return its rows. What it raises becomes a violation; what failed is kept under `folder`."""
    stage = Stage(family, scale, seed, folder / family.id)
    stage.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows: list[Row] = []
    try:
        async with asyncio.timeout(family.full_s if scale == "full" else family.share_s):
            rows = await family.body(stage)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error or f'at {Path(place.filename).name}:{place.lineno}, {place.line}'}"
        rows.append(Row(check=family.title, injected="not finished", violations=[text]))
        if not isinstance(error, AssertionError | TimeoutError):
            stage.say("".join(traceback.format_exception(error)))
    held = bool(rows) and all(row.held for row in rows)
    await stage.close(keep=not held)
    for row in rows:
        row.seconds = (time.monotonic() - began) / len(rows)
        if not row.held:
            row.violations.append(f"seed {seed}; ledger, logs and server data in {stage.folder}")
    return rows
