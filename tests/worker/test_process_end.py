"""How a worker's process begins and ends, whatever its application does meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stem.client import Stem
from stem.worker import supervisor
from stem.worker.lifecycle import signals_to
from tests.waiting import eventually, wait_until
from tests.worker.test_cli import ROOT, Process, environment

IN_TIME_S = 8.0
"""Far less than what a handler would sleep for."""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    made: list[Process] = []
    yield made
    for process in made:
        process.close()


@pytest.mark.parametrize("name", ["sample.aside", "sample.beside", "sample.generates"])
async def test_what_a_handler_leaves_behind_does_not_keep_the_process(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process], name: str
) -> None:
    """A call in one of asyncio's threads, a thread of its own, a generator: the interpreter would wait for each."""
    quick = ("--drain-timeout", "0s", "--soft-timeout", "1s", "--log-format", "json")
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, *quick)
    processes.append(process)
    await process.ready()
    async with Stem.connect(valkey_url, namespace=namespace) as stem:
        task_id = await stem.enqueue(name, {"seconds": 60})

        async def running() -> bool:
            return (await stem.status(task_id)).state.value == "running"

        await eventually(running, what="the handler")
        process.process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.process.poll() is not None, IN_TIME_S, what="the end of the process")
        status = await stem.status(task_id)

    assert process.process.returncode == 0, process.log()
    assert status.state.value == "queued"
    assert "worker.stopped" in process.log()
    assert "Traceback" not in process.log()


def run_until_sigterm(folder: Path, application: str) -> tuple[int | None, str]:
    """Run a worker of an application, stop it once it is ready, and return its exit code and its log."""
    (folder / "own_app.py").write_text(application)
    log = folder / "log"
    with started(folder, "own_app:app", stderr=log) as process:
        wait_until(lambda: "worker.ready" in log.read_text(), what="worker.ready")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.poll() is not None, IN_TIME_S, what="the end of the process")
    return process.returncode, log.read_text()


BLOCKING_APP = """
import time
from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.signals import StemSignals
from stem.worker import vitals

vitals.ENDING_S = 1.0
StemSignals.on_worker_shutdown(lambda event, context: time.sleep(60))
app = Stem(InMemoryBroker())
"""


def test_a_callback_that_blocks_at_the_end_does_not_keep_the_process(tmp_path: Path) -> None:
    code, log = run_until_sigterm(tmp_path, BLOCKING_APP)

    assert code == 0, log


LOGGING_APP = """
import logging, pathlib, sys
from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.signals import StemSignals

file = logging.FileHandler(pathlib.Path(__file__).with_name("own_log"))
logging.basicConfig(level=LEVEL, handlers=[logging.StreamHandler(), logging.StreamHandler(sys.stdout), file])
StemSignals.on_worker_ready(lambda event, context: logging.getLogger("shop").info("shop.open"))
app = Stem(InMemoryBroker())
"""


@pytest.mark.parametrize(("level", "times"), [("INFO", 1), ("WARNING", 0)])
def test_an_application_keeps_its_own_logs_beside_those_of_the_worker(tmp_path: Path, level: str, times: int) -> None:
    """Its handlers on the root logger were dropped, and the level that it had given it was raised."""
    _, log = run_until_sigterm(tmp_path, LOGGING_APP.replace("LEVEL", repr(level)))
    own = (tmp_path / "own_log").read_text()

    assert (log.count("shop.open"), own.count("shop.open")) == (times, times)
    assert (log.count("worker.ready"), own.count("worker.ready")) == (1, 1)


@contextmanager
def heard_by(url: str, namespace: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], None]]]:
    """Run a worker whose stderr somebody reads until the given function is called."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "stem.worker.cli", "tests.worker.sample:app", "--url", url),
            *("--namespace", namespace, "--wedged-timeout", "2s"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
        env=environment({}),
        cwd=ROOT,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as reader:
        try:
            yield process, reader.close
        finally:
            process.kill()
            process.wait(10)


async def test_a_wedged_worker_that_nobody_listens_to_counts_its_task_as_a_crash(
    valkey_url: str, namespace: str
) -> None:
    """Its stacks could not be written, and the task was handed back uncounted: so it wedged one worker after another.

    Nor may what its log still holds keep it from its end.
    """
    with heard_by(valkey_url, namespace) as (process, go_away):
        async with Stem.connect(valkey_url, namespace=namespace) as stem:
            task_id = await stem.enqueue("sample.block", {"seconds": 60})

            async def running() -> bool:
                return (await stem.status(task_id)).state.value == "running"

            await eventually(running, what="the handler")
            go_away()
            await eventually(lambda: process.poll() is not None, what="the end of the process")
            status = await stem.status(task_id)

    assert (process.returncode, status.state.value, status.crashes) == (70, "queued", 1)


POOLED_APP = """
import atexit, pathlib, time
from concurrent.futures import ThreadPoolExecutor
from stem.adapters.memory import InMemoryBroker
from stem.client import Stem

def farewell():
    time.sleep(2.5)
    pathlib.Path(__file__).with_name("farewell").touch()

atexit.register(farewell)
pool = ThreadPoolExecutor()
pool.submit(time.sleep, 0).result()
app = Stem(InMemoryBroker())
"""


def test_what_an_application_does_at_its_exit_is_not_cut_short_by_an_idle_pool(tmp_path: Path) -> None:
    code, log = run_until_sigterm(tmp_path, POOLED_APP)

    assert code == 0, log
    assert (tmp_path / "farewell").exists()


@contextmanager
def started(folder: Path, app: str, *, stderr: Path, wrapper: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of an application in `folder`."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "stem.worker.cli", app],
            stdin=subprocess.DEVNULL,
            stderr=file,
            env=environment({"PYTHONPATH": path, "STEM_BROKER_URL": "memory://"}),
            cwd=ROOT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def test_a_terminal_that_goes_away_lets_it_finish_what_runs(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process]
) -> None:
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, "--log-format", "json")
    processes.append(process)
    await process.ready()
    async with Stem.connect(valkey_url, namespace=namespace) as stem:
        task_id = await stem.enqueue("sample.nap", {"seconds": 1.5})

        async def running() -> bool:
            return (await stem.status(task_id)).state.value == "running"

        await eventually(running, what="the handler")
        process.process.send_signal(signal.SIGHUP)
        assert await process.ended() == 0
        status = await stem.status(task_id)

    assert status.state.value == "succeeded"


@pytest.fixture
def hang_up() -> Iterator[Callable[[Any], object]]:
    """Say what this process does about SIGHUP, until the end of the test."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_goes_away_is_a_stop_unless_it_is_to_be_outlived(hang_up: Callable[[Any], object]) -> None:
    heard: list[int] = []

    hang_up(signal.SIG_IGN)
    with signals_to(heard.append), supervisor._signals():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert heard == []

    hang_up(signal.SIG_DFL)
    with signals_to(heard.append):
        signal.raise_signal(signal.SIGHUP)
    assert heard == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


SLOW_APP = """
import pathlib, time
pathlib.Path(__file__).with_name("begun").touch()
try:
    for _ in range(600):  # a signal that comes on the way into a sleep is heard of after it
        time.sleep(0.1)
except BaseException:
    pass
"""
AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.mark.parametrize(
    ("wrapper", "number"),
    [((), signal.SIGTERM), ((), signal.SIGHUP), (AS_PROCESS_1, signal.SIGTERM)],
    ids=["plain", "hang-up", "process-1"],
)
def test_a_signal_while_the_application_loads_ends_it_with_0(
    tmp_path: Path, wrapper: tuple[str, ...], number: int
) -> None:
    if wrapper and (os.geteuid() != 0 or shutil.which("unshare") is None):
        pytest.skip("a process 1 of one's own needs root")
    (tmp_path / "slow_app.py").write_text(SLOW_APP)
    log = tmp_path / "log"
    with started(tmp_path, "slow_app:app", stderr=log, wrapper=wrapper) as process:
        wait_until((tmp_path / "begun").exists, what="the import of the application")
        os.kill(_first_child(process.pid) if wrapper else process.pid, number)
        wait_until(lambda: process.poll() is not None, IN_TIME_S, what="the end of the process")

    assert process.returncode == 0, log.read_text()
    assert log.read_text() == ""


def test_a_worker_that_is_asked_for_its_stacks_while_the_application_loads_shows_them(tmp_path: Path) -> None:
    """An import that hangs is what one asks for; the signal ended it, and no line said where it stood."""
    (tmp_path / "slow_app.py").write_text(SLOW_APP)
    log = tmp_path / "log"
    with started(tmp_path, "slow_app:app", stderr=log) as process:
        wait_until((tmp_path / "begun").exists, what="the import of the application")
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "slow_app.py" in log.read_text(), what="its stacks")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.poll() is not None, IN_TIME_S, what="the end of the process")

    assert process.returncode == 0


def _first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
