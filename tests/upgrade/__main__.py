"""Run the previous version and this one on one server: `make upgrade-test`, or with FROM=COMMIT.

Each step is a claim of docs/upgrading.md. Prints one line per claim and ends with 1 at the first that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.servers import Server
from tests.upgrade.wheels import PREVIOUS, install
from tests.waiting import wait_until

START_S: Final = 60.0
MANY: Final = 200

APP: Final = """
import asyncio, os
from pathlib import Path
import stem
from stem import Stem
app = Stem.connect()

@app.task("where")
async def where() -> str:
    return str(Path(stem.__file__).parents[1])

@app.task("count")
async def count(number: int) -> None:
    await asyncio.sleep(0.02)
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{number}\\n")

@app.task("flaky", max_retries=5)
async def flaky(context) -> int:
    if context.attempt < 3:
        raise ValueError("not yet")
    return context.attempt

@app.task("long")
async def long(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return str(Path(stem.__file__).parents[1])
"""

PRODUCE: Final = """
import asyncio, json, sys
from stem import Stem, TaskOptions
async def main():
    queue, task, args, wait = json.loads(sys.argv[1])
    stem = Stem.connect()
    ids = [await stem.enqueue(task, args=one, options=TaskOptions(queue=queue)) for one in args]
    results = [(await stem.wait_for(one, timeout=60)).result for one in ids] if wait else []
    print(json.dumps({"ids": ids, "results": results}))
    await stem.close()
asyncio.run(main())
"""


class Version:
    """One installed version: runs its programs on the server of this run."""

    def __init__(self, name: str, installed: Path, folder: Path, url: str, stack: ExitStack) -> None:
        self.name = name
        self.home = str(installed)
        self._folder = folder
        self._stack = stack
        kept = {key: value for key, value in os.environ.items() if not key.startswith("STEM_")}
        self._env = kept | {
            "PYTHONPATH": self.home,
            "STEM_BROKER_URL": url,
            "STEM_HEARTBEAT_INTERVAL": "500ms",
            "STEM_VISIBILITY_TIMEOUT": "3s",
            "STEM_CONTROL_TIMEOUT": "15s",
            "LEDGER": str(folder / "ledger"),
        }

    def worker(self, name: str, *queues: str) -> subprocess.Popen[bytes]:
        """Start a worker of this version and return once it answers."""
        options = [word for queue in queues for word in ("--queue", queue)]
        command = [sys.executable, "-m", "stem.worker.cli", "tasks:app", "--name", name, *options]
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, cwd=self._folder, env=self._env, stdout=log, stderr=log)
        self._stack.callback(_end, process)

        def answers() -> bool:
            assert process.poll() is None, (self._folder / f"{name}.log").read_text()
            with contextlib.suppress(AssertionError):
                return bool(self.stemctl("ping", name)["replied"] == 1)
            return False

        wait_until(answers, START_S, what=f"{name} answers")
        return process

    def stemctl(self, *words: str) -> Any:
        """Run a command of this version's and return its `data`."""
        done = self._python("-m", "stemctl", *words, "--json")
        assert done.returncode == 0, (
            f"{self.name}: stemctl {' '.join(words)}: {done.returncode} {done.stdout}{done.stderr}"
        )
        return json.loads(done.stdout)["data"]

    def enqueue(self, queue: str, task: str, *args: dict[str, Any], wait: bool = True) -> dict[str, list[Any]]:
        """Enqueue with this version's client and, unless told otherwise, wait for the results with it."""
        done = self._python("-c", PRODUCE, json.dumps([queue, task, args or [{}], wait]))
        assert done.returncode == 0, f"{self.name}: {done.stderr}"
        found: dict[str, list[Any]] = json.loads(done.stdout)
        return found

    def _python(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=120)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def claims(old: Version, new: Version, ledger: Path) -> Iterator[str]:
    """Try one claim after the other; yields each that holds."""
    workers = {"old": old.worker("old", "old", "both"), "new": new.worker("new", "new", "both")}
    for producer, worker, queue in ((old, new, "new"), (new, old, "old")):
        ran_in = producer.enqueue(queue, "where")["results"]
        assert ran_in == [worker.home], f"{ran_in} is not {worker.home}"
        yield f"a task of the {producer.name} producer runs on the {worker.name} worker, and its result is read"
        assert producer.enqueue(queue, "flaky")["results"] == [3]
        yield f"its retries are counted on: {producer.name} producer, {worker.name} worker"
    for version in (old, new):
        assert version.stemctl("ping")["replied"] == 2
        for question in (["inspect", "registered"], ["inspect", "active"], ["stats"]):
            assert len(version.stemctl(*question)["workers"]) == 2
        assert {row["name"] for row in version.stemctl("workers", "ls")["items"]} == {"old", "new"}
        yield f"both workers answer ping, inspect and stats of the {version.name} stemctl, which lists both"
        version.stemctl("pause", "--queue", "both")
        version.stemctl("resume", "--queue", "both")
        version.stemctl("drain", "*", "--wait", "20s")
        version.stemctl("undrain", "*")
        yield f"both workers confirm pause, resume, drain and undrain of the {version.name} stemctl"
    yield from _shared(old, new, workers, ledger)


def _shared(old: Version, new: Version, workers: dict[str, subprocess.Popen[bytes]], ledger: Path) -> Iterator[str]:
    """One queue for both versions, while the old worker is replaced, and one is killed."""
    held = new.enqueue("old", "long", {"seconds": 4.0}, wait=False)["ids"]
    wait_until(lambda: new.stemctl("tasks", "show", held[0])["state"] == "running", START_S, what="it runs")
    workers["old"].send_signal(signal.SIGKILL)
    workers["old"].wait()
    heir = new.worker("heir", "old")
    wait_until(lambda: new.stemctl("tasks", "show", held[0])["state"] == "succeeded", START_S, what="it runs again")
    assert new.stemctl("tasks", "show", held[0])["crashes"] == 1
    yield "what a killed old worker ran is run by a new one"

    leaving = old.worker("leaving", "both")
    numbers = [{"number": number} for number in range(MANY)]
    sent = old.enqueue("both", "count", *numbers[: MANY // 2], wait=False)["ids"]
    sent += new.enqueue("both", "count", *numbers[MANY // 2 :], wait=False)["ids"]
    leaving.send_signal(signal.SIGTERM)
    code = leaving.wait(START_S)
    assert code == 0, f"the old worker ended with {code}"
    wait_until(lambda: _read(ledger) == list(range(MANY)), START_S, what="every task has run")
    assert new.stemctl("queues", "show", "both")["dead"] == 0
    yield f"{MANY} tasks of both on one queue, the old worker stopped under them: each ran once"

    heir.send_signal(signal.SIGKILL)
    heir.wait()
    back = new.enqueue("old", "where", wait=False)["ids"]
    returned = old.worker("returned", "old")
    wait_until(lambda: old.stemctl("tasks", "show", back[0])["state"] == "succeeded", START_S, what="the way back")
    assert returned.poll() is None
    yield "the way back: an old worker runs what waited for a new one"


def _read(ledger: Path) -> list[int]:
    return sorted(int(line) for line in ledger.read_text().split()) if ledger.exists() else []


def main() -> int:
    """Build both versions, try every claim, and say how it went."""
    parser = argparse.ArgumentParser(description="Two versions of Stem on one server.")
    parser.add_argument("--from", dest="previous", default=PREVIOUS, metavar="COMMIT", help="default: %(default)s")
    parser.add_argument("--to", default="HEAD", metavar="COMMIT", help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stem-upgrade-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "tasks.py").write_text(APP)
        server = Server(aof=True, options=("--maxmemory-policy", "noeviction")).start()
        stack.callback(server.remove)
        try:
            homes = [install(commit, folder / commit) for commit in (options.previous, options.to)]
            old, new = (
                Version(kind, home, folder, server.url, stack) for kind, home in zip(("old", "new"), homes, strict=True)
            )
            for claim in claims(old, new, folder / "ledger"):
                print(f"holds: {claim}", flush=True)
        except (AssertionError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"FAILS: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
