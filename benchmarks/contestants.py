"""Who takes part: the command lines of producers and workers, default and tuned, and what was tuned."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
REQUIREMENTS: Final = ROOT / "benchmarks" / "peers"
PEERS: Final = ("celery", "dramatiq", "rq", "huey", "arq", "saq", "taskiq", "streaq", "docket")
HOME: Final = {
    **dict.fromkeys(("celery", "dramatiq", "rq", "huey"), "sync"),
    "arq": "arq",
    **dict.fromkeys(("saq", "taskiq", "streaq", "docket"), "async"),
}
"""The virtual environment of each peer: their client libraries exclude each other's versions."""
DISTRIBUTION: Final = {"docket": "pydocket"}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One queue in one configuration.

    Attributes:
        produce: the producer's command line without its verb.
        work: one worker process; `nap`: where 100 waiting tasks at once need another one; `due`: what has to run for
            delayed tasks (several programs).
        tasks: that fit into some two seconds.
        step: runs between two records of the stopwatch; 1 where each task gets a process of its own.
        processes: command line for two worker processes, None to start `work` twice.
        tuned: in words.
    """

    name: str
    variant: str
    produce: Sequence[str]
    work: Sequence[str]
    tasks: int
    nap: Sequence[str] = ()
    due: Sequence[Sequence[str]] = ()
    two: Sequence[str] = ()
    step: int = 50
    env: dict[str, str] = field(default_factory=dict)
    tuned: str = ""

    @property
    def label(self) -> str:
        return self.name if self.variant in ("", "tuned") else f"{self.name} ({self.variant})"


def program(peer: str, name: str) -> str:
    """Return the path of a program in the environment of a peer."""
    return str(ROOT / f".venv-bench-{HOME[peer]}" / "bin" / name)


def module(peer: str) -> list[str]:
    return [program(peer, "python"), "-m", f"benchmarks.peers.{peer}_peer"]


def ours() -> list[Contestant]:
    """Return raw and Stem."""
    raw = [sys.executable, "-m", "benchmarks.raw_peer"]
    stem = [sys.executable, "-m", "benchmarks.stem_peer"]
    worker = [sys.executable, "-m", "stem.worker.cli", "benchmarks.stem_peer:app", "--log-level", "warning"]
    hundred = [*worker, "--concurrency", "100"]
    return [
        Contestant(name="raw", variant="", produce=raw, work=[*raw, "work"], tasks=80_000, due=[[*raw, "work", "due"]]),
        Contestant(
            name="stem",
            variant="tuned",
            produce=stem,
            work=hundred,
            two=[*hundred, "--processes", "2"],
            tasks=40_000,
            tuned="`--concurrency 100`, nothing else",
        ),
        Contestant(
            name="stem", variant="default", produce=stem, work=worker, two=[*worker, "--processes", "2"], tasks=40_000
        ),
    ]


def blocking_peers() -> list[Contestant]:
    celery = [program("celery", "celery"), "-A", "benchmarks.peers.celery_peer:app", "worker", "--loglevel", "error"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    dramatiq = ["benchmarks.peers.dramatiq_peer", "--processes", "1", "--skip-logging"]
    rq = [program("rq", "rq"), "worker", "--quiet"]
    huey = [program("huey", "huey_consumer"), "benchmarks.peers.huey_peer.huey", "--quiet"]
    greenlets = [program("huey", "python"), "-m", "gevent.monkey", *huey, "-k", "greenlet", "-w", "100"]
    simple = [*rq, "--disable-job-desc-logging", "-S", "json", "-w", "rq.worker.SimpleWorker"]
    return [
        Contestant(
            name="celery", variant="default", produce=module("celery"), work=[*celery, "--concurrency", "1"], tasks=1500
        ),
        Contestant(
            name="celery",
            variant="tuned",
            produce=module("celery"),
            work=[*celery, "--pool", "solo", *quiet],
            nap=[*celery, "--pool", "gevent", "--concurrency", "100", *quiet],
            due=[[*celery, "--pool", "gevent", "--concurrency", "100", *quiet]],
            tasks=2_500,
            tuned="solo pool (gevent with 100 for waiting and delayed tasks), prefetch 100, no gossip, mingle, "
            "heartbeat and rate limits",
        ),
        Contestant(
            name="dramatiq",
            variant="default",
            produce=module("dramatiq"),
            work=[program("dramatiq", "dramatiq"), *dramatiq],
            tasks=4_000,
        ),
        Contestant(
            name="dramatiq",
            variant="tuned",
            produce=module("dramatiq"),
            work=[program("dramatiq", "dramatiq"), *dramatiq, "--threads", "8"],
            nap=[program("dramatiq", "dramatiq"), *dramatiq, "--threads", "100"],
            tasks=5_000,
            env={"dramatiq_queue_prefetch": "1000", "dramatiq_delay_queue_prefetch": "20000"},
            tuned="8 threads (100 for waiting tasks), prefetch 1000, no middleware but retries and results",
        ),
        Contestant(name="rq", variant="default", produce=module("rq"), work=rq, tasks=200, step=1),
        Contestant(
            name="rq",
            variant="tuned",
            produce=module("rq"),
            work=simple,
            due=[[*simple, "--with-scheduler"]],
            tasks=1_500,
            tuned="SimpleWorker (no fork), JSON, batches; runs one task at a time",
        ),
        Contestant(name="huey", variant="default", produce=module("huey"), work=huey, tasks=4_000),
        Contestant(
            name="huey",
            variant="tuned",
            produce=module("huey"),
            work=greenlets,
            tasks=6_000,
            tuned="100 greenlets, results pushed to the waiting producer",
        ),
    ]


def asyncio_peers() -> list[Contestant]:
    arq = [program("arq", "arq"), "benchmarks.peers.arq_peer.Settings"]
    saq = [program("saq", "saq"), "benchmarks.peers.saq_peer.settings", "--quiet"]
    taskiq = ["worker", "benchmarks.peers.taskiq_peer:broker", "--workers", "1", "--log-level", "ERROR"]
    taskiq = [program("taskiq", "taskiq"), *taskiq]
    received = [*taskiq, "--ack-type", "when_received", "--no-parse", "--max-async-tasks", "100"]
    received += ["--max-prefetch", "100"]
    scheduler = [program("taskiq", "taskiq"), "scheduler", "benchmarks.peers.taskiq_peer:scheduler"]
    scheduler += ["--update-interval", "1", "--loop-interval", "1", "--log-level", "ERROR"]
    streaq = [program("streaq", "streaq"), "run", "benchmarks.peers.streaq_peer:worker"]
    return [
        Contestant(name="arq", variant="default", produce=module("arq"), work=arq, tasks=1_500),
        Contestant(
            name="arq",
            variant="tuned",
            produce=module("arq"),
            work=[*module("arq"), "work"],
            tasks=4_000,
            tuned="100 jobs, poll every 10 ms (results 5 ms), MessagePack, uvloop, no log of results",
        ),
        Contestant(name="saq", variant="default", produce=module("saq"), work=saq, tasks=4_000),
        Contestant(
            name="saq",
            variant="tuned",
            produce=module("saq"),
            work=saq,
            tasks=5_000,
            tuned="concurrency 100, 100 operations at once, hiredis, uvloop; results polled every 5 ms",
        ),
        Contestant(name="taskiq", variant="default", produce=module("taskiq"), work=taskiq, tasks=4_000),
        Contestant(
            name="taskiq",
            variant="tuned",
            produce=module("taskiq"),
            work=received,
            due=[received, scheduler],
            tasks=5_000,
            tuned="list broker, acknowledged when received, 100 tasks, prefetch 100, no parsing, uvloop; results "
            "polled every 5 ms; its scheduler looks every second",
        ),
        Contestant(name="streaq", variant="default", produce=module("streaq"), work=streaq, tasks=2_000),
        Contestant(
            name="streaq",
            variant="tuned",
            produce=module("streaq"),
            work=streaq,
            tasks=3_000,
            tuned="concurrency 100, uvloop, JSON",
        ),
        Contestant(
            name="docket", variant="default", produce=module("docket"), work=[*module("docket"), "work"], tasks=2_500
        ),
        Contestant(
            name="docket",
            variant="tuned",
            produce=module("docket"),
            work=[*module("docket"), "work"],
            tasks=4_000,
            tuned="concurrency 100, uvloop, checks every 10 ms, due tasks every 50 ms",
        ),
    ]


def everybody() -> list[Contestant]:
    return ours() + blocking_peers() + asyncio_peers()


def versions() -> tuple[dict[str, str], dict[str, str]]:
    """Return the version of each peer that is installed, and why each other one is not."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for peer in PEERS:
        wanted = [DISTRIBUTION.get(peer, peer), "redis", "hiredis", "uvloop"]
        script = (
            "import json, sys\nfrom importlib.metadata import version, PackageNotFoundError\nfound = {}\n"
            "for name in sys.argv[1:]:\n    try:\n        found[name] = version(name)\n"
            "    except PackageNotFoundError:\n        pass\nprint(json.dumps(found))"
        )
        try:
            done = subprocess.run(
                [program(peer, "python"), "-c", script, *wanted], capture_output=True, text=True, timeout=30, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            missing[peer] = _reason(peer) or f"its environment does not run: {error}"
            continue
        there: dict[str, str] = json.loads(done.stdout)
        if wanted[0] in there:
            others = ", ".join(f"{name} {number}" for name, number in there.items() if name != wanted[0])
            found[peer] = f"{there[wanted[0]]} ({others})" if others else there[wanted[0]]
        else:
            missing[peer] = _reason(peer) or "it is not installed"
    return found, missing


def _reason(peer: str) -> str:
    """Return why it could not be installed, as far as that is known."""
    path = ROOT / f".venv-bench-{HOME[peer]}" / "left-out.json"
    if not path.exists():
        return "its environment was not made: `make bench` makes it"
    found: dict[str, str] = json.loads(path.read_text("utf-8"))
    return found.get(DISTRIBUTION.get(peer, peer), "")
