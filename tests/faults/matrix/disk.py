"""A server with no room left: on its disk, and in its memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stem.client import Stem
from stem.config import StemConfig
from stem.errors import BrokerError, BrokerRefusedError
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.gauge import Gauge, off_loop, said
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.servers import Server
from tests.waiting import eventually

SMALL: Final = "8m"
ROOMY: Final = "64m"
ANSWER_S: Final = 12.0
"""A producer's call ends by then: it is repeated for 5 s, and one try of it waits 10 s for a reply at most."""
POLICIES: Final = (
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
)


@contextmanager
def _small_disk(server: Server) -> Iterator[Path]:
    """Put a file system of a few megabytes under the server's data; it is gone afterwards, whatever happens."""
    place = server.folder / "data"
    place.mkdir()
    server.options = (*server.options, "--dir", str(place))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        server.kill9()
        shutil.copytree(place, server.folder / "kept", ignore=shutil.ignore_patterns("ballast"))
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _resize(place: Path, size: int | str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def _fill(place: Path) -> None:
    """Leave no byte free there."""
    with contextlib.suppress(OSError), (place / "ballast").open("ab", buffering=0) as ballast:
        while True:
            ballast.write(b"\0" * 4096)


async def _ask_for_it(world: FaultWorld) -> tuple[float, BrokerError | None]:
    """Enqueue one task; return how long that took, and how it was refused."""
    begun = time.monotonic()
    try:
        await world.enqueue("quick")
    except BrokerError as error:
        return time.monotonic() - begun, error
    return time.monotonic() - begun, None


@family("T-F10", "server: disk full", share_s=120)
async def disk_full(stage: Stage) -> list[Row]:
    if os.geteuid() != 0:
        stage.say("skipped: only root can mount a small file system")
        return [Row(check=stage.family.title, injected="nothing", note="skipped: only root can mount a small disk")]
    policies = ["everysec", "always"] if stage.scale == "full" else [stage.random.choice(["everysec", "always"])]
    return [await _disk_full(stage, fsync, times=stage.times(full=3, share=1)) for fsync in policies]


async def _disk_full(stage: Stage, fsync: str, *, times: int) -> Row:
    server = stage.make_server(options=("--appendfsync", fsync))
    slowest = 0.0
    with _small_disk(server) as place:
        server.start()
        world = await stage.world(server.url, workers=3)
        gauge = Gauge(world)
        errors: list[BrokerError] = []
        async with Load(world, stage.random) as load:
            for _ in range(times):
                await load.until(load.acked + 60)
                async with world.disturbed():
                    _fill(place)
                    await eventually(lambda: _is_full(server, fsync), 20.0, what="the server has no room left")
                    async with gauge.quiet(server if fsync == "everysec" else None, settle_s=0.3):
                        took, error = await _ask_for_it(world)
                        slowest = max(slowest, took)
                        errors += [error] if error is not None else []
                    (place / "ballast").unlink()
                    _resize(place, ROOMY)
                    if fsync == "always":
                        server.kill9()
                        await off_loop(server.start)
                    else:
                        await eventually(lambda: not _is_full(server, fsync), 20.0, what="the server writes again")
                    await gauge.working()
                    _resize(place, _used_and_more(place))
            _resize(place, ROOMY)
        verdict = await judge(world)
        verdict.expect(len(errors) == times, f"{len(errors)} of {times} enqueues were refused with a full disk")
        if fsync == "everysec":
            codes = {error.code for error in errors if isinstance(error, BrokerRefusedError)}
            verdict.expect(codes == {"MISCONF"}, f"refused with {codes or errors}")
        verdict.expect(slowest < ANSWER_S, f"an enqueue hung for {slowest:.1f} s")
        gauge.into(verdict)
        await world.close()
    ends = "MISCONF" if fsync == "everysec" else "the server ends"
    return stage.row(
        verdict,
        check=f"{stage.family.title} (appendfsync {fsync}: {ends})",
        injected=f"{times} times",
        note=f"refused within {slowest:.1f} s; {load.refused} refused, {load.unknown} of unknown outcome",
    )


def _is_full(server: Server, fsync: str) -> bool:
    if fsync == "always":
        return server.exited
    with server.client() as client:
        persistence: dict[str, str] = client.info("persistence")
        return persistence["aof_last_write_status"] != "ok"


def _used_and_more(place: Path) -> int:
    stat = os.statvfs(place)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize + 2_000_000


# ------------------------------------------------------------------------------------------------------------- memory


@family("T-F12", "server: memory full", share_s=120)
async def memory(stage: Stage) -> list[Row]:
    return await memory_full(stage) + await policies_named(stage)


async def memory_full(stage: Stage) -> list[Row]:
    """What runs is finished and counted; what is new is refused, and says why."""
    times = stage.times(full=5, share=1)
    server = stage.server(options=("--maxmemory-policy", "noeviction"))
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    errors: list[BrokerError] = []
    stuck: list[str] = []
    async with Load(world, stage.random) as load:
        for _ in range(times):
            await load.until(load.acked + 60)
            running = await world.enqueue_some(12, "nap", seconds=0.4)
            await world.started(*running)
            server.command("CONFIG", "SET", "maxmemory", 1_000_000)
            async with gauge.quiet():
                _, error = await _ask_for_it(world)
                errors += [error] if error is not None else []
                for status in await world.all_final(running, timeout=10.0):
                    stuck += [] if status.succeeded else [status.id]
                await asyncio.sleep(1.0)
            server.command("CONFIG", "SET", "maxmemory", 0)
            await gauge.working()
    verdict = await judge(world)
    verdict.expect(not stuck, f"running tasks that did not end well while memory was full: {stuck[:5]}")
    _expect_oom(verdict, errors, times)
    gauge.into(verdict)
    await world.close()
    check = "server: memory full (noeviction)"
    return [
        stage.row(
            verdict,
            check=check,
            injected=f"{times} times",
            note=f"{load.refused} enqueues refused; running tasks ended",
        )
    ]


def _expect_oom(verdict: Verdict, errors: list[BrokerError], times: int) -> None:
    verdict.expect(len(errors) == times, f"{len(errors)} of {times} enqueues were refused with a full memory")
    for error in errors:
        code = error.code if isinstance(error, BrokerRefusedError) else type(error).__name__
        verdict.expect(code == "OOM" and "memory limit" in str(error), f"refused with {code}: {error}")


async def policies_named(stage: Stage) -> list[Row]:
    """By each worker that starts, and by `stemctl health`."""
    chosen = list(POLICIES) if stage.scale == "full" else [stage.random.choice(POLICIES)]
    server = stage.server()
    world = await stage.world(server.url)
    row = Row(check="server: an eviction policy that deletes tasks is named", injected=f"{len(chosen)} policies")
    for number, policy in enumerate(chosen):
        server.command("CONFIG", "SET", "maxmemory-policy", policy)
        worker = await world.worker(f"w{number}")
        async with Stem.connect(server.url, namespace=world.namespace, config=StemConfig()) as stem:
            found = (await stem.broker.census.info()).policy
        code, out, err = await world.stemctl("health")
        hints = [str(line["hint"]) for line in said(world, "worker.warning") if line["worker"] == worker.name]
        if found != policy or not any(policy in hint and "noeviction" in hint for hint in hints):
            row.violations.append(f"the worker says nothing of {policy}: {hints}")
        if code == 0 or policy not in out + err or "noeviction" not in out + err:
            row.violations.append(f"stemctl health ends with {code} on {policy}: {out[-300:]}{err[-300:]}")
    return [row]
