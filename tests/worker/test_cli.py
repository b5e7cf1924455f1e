"""`stem-worker` as a process: what it refuses, how it ends, what it says."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stem.client import Stem
from stem.worker import cli
from stem.worker.lifecycle import signals_to
from stem.worker.logs import JsonFormatter, spell_out
from tests.conftest import OwnServer
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2"


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "STEM_HEARTBEAT_INTERVAL": "300ms", **extra}


def call(*args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "stem.worker.cli", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=25,
        env=environment(extra),
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    ("args", "extra", "says"),
    [
        ([], {}, "APP"),
        (["tests.worker.sample:app", "--concurrency", "many"], {}, "--concurrency"),
        (["tests.worker.sample:app", "--concurrency", "0"], {"STEM_BROKER_URL": "memory://"}, "at least 1"),
        (["tests.worker.sample:app", "--queue", "a b"], {"STEM_BROKER_URL": "memory://"}, "queue name"),
        (["tests.worker.sample:app", "--processes", "0"], {}, "0 processes: give 1 to 512"),
        (["tests.worker.sample:app", "--processes", str(2**63 - 1)], {}, f"{2**63 - 1} processes: give 1 to 512"),
        (
            ["tests.worker.sample:app", "--health-port", "70000"],
            {"STEM_BROKER_URL": "memory://"},
            "--health-port 70000",
        ),
        (["tests.worker.sample:app", "--drain-timeout", "soon"], {}, "--drain-timeout"),
        (["tests.worker.sample:app"], {"STEM_WORKER_CONCURRENCY": "x"}, "STEM_WORKER_CONCURRENCY"),
        (["tests.worker.sample:app"], {"STEM_WORKER_PROCESSES": "many"}, "STEM_WORKER_PROCESSES"),
        (["tests.worker.sample:app"], {}, "STEM_BROKER_URL"),
        (["tests.worker.sample:app", "--url", "postgresql://u:hunter2@h/db"], {}, "postgresql"),
        (["tests.worker.sample:missing"], {"STEM_BROKER_URL": "memory://"}, "no attribute 'missing'"),
        (["tests.worker.sample:not_an_app"], {"STEM_BROKER_URL": "memory://"}, "not a Stem application"),
        (["nowhere.at.all:app"], {}, "no module nowhere"),
        (["../etc/passwd"], {}, "package.module:attribute"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_exit_2(args: list[str], extra: dict[str, str], says: str) -> None:
    done = call(*args, **extra)

    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("raise ConnectionRefusedError('the database is away')", 70),
        ("raise RuntimeError('the database is away')", 70),
        ("raise SystemExit('DATABASE_URL is not set')", 70),
        ("raise ImportError('the database is away')", 2),
        ("the database is away", 2),  # a SyntaxError
    ],
)
def test_an_application_that_fails_while_it_is_imported_is_started_again_where_that_may_help(
    tmp_path: Path, line: str, code: int
) -> None:
    """A database that was away for a second, while Django was set up, ended the service for ever."""
    (tmp_path / "shaky.py").write_text(line + "\n")

    done = call("shaky:app", STEM_BROKER_URL="memory://", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")

    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("stem-worker: shaky cannot be imported: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_wrong_password_is_one_clear_line_and_exit_78(own_server: OwnServer) -> None:
    server = own_server(tcp=True, aof=False)
    server.command("CONFIG", "SET", "requirepass", "right")
    url = server.tcp_url.replace("redis://", f"redis://:{SECRET}@")

    done = call("tests.worker.sample:app", "--url", url)

    assert done.returncode == 78
    assert "password" in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


class Process:
    """A worker process and what it says."""

    def __init__(self, folder: Path, *args: str, **extra: str) -> None:
        self._path = folder / "log"
        with self._path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stem.worker.cli", "tests.worker.sample:app", *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(extra),
                cwd=ROOT,
            )

    def log(self) -> str:
        return self._path.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines()]

    async def ready(self) -> None:
        await eventually(lambda: "worker.ready" in self.log(), what="worker.ready")

    async def ended(self) -> int:
        await eventually(lambda: self.process.poll() is not None, what="the end of the worker")
        return int(self.process.returncode)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    made: list[Process] = []
    yield made
    for process in made:
        process.close()


async def test_it_works_says_what_it_takes_and_stops_with_0(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process]
) -> None:
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, "--name", "w1", "--log-format", "json")
    processes.append(process)
    await process.ready()
    async with Stem.connect(valkey_url, namespace=namespace) as stem:
        status = await stem.wait_for(await stem.enqueue("sample.add", {"a": 1, "b": 2}), timeout=10)
    process.process.send_signal(signal.SIGTERM)

    assert await process.ended() == 0
    assert status.result == 3
    events = process.events()
    assert {event["worker"] for event in events} == {"w1"}
    hints = [event["hint"] for event in events if event["event"] == "worker.warning"]
    assert any("sample.elsewhere" in hint and "--queue reports" in hint for hint in hints)
    assert any("append-only" in hint for hint in hints)
    assert [event["event"] for event in events][-2:] == ["worker.stopping", "worker.stopped"]


async def test_a_handler_that_closes_the_application_leaves_the_worker_its_broker_and_backend(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process]
) -> None:
    settings = {
        "STEM_BROKER_URL": valkey_url,
        "STEM_RESULT_BACKEND_URL": valkey_url,
        "STEM_NAMESPACE": namespace,
    }
    process = Process(tmp_path, "--log-format", "json", **settings)
    processes.append(process)
    await process.ready()
    async with Stem.connect(valkey_url, namespace=namespace, backend=valkey_url) as stem:
        for _ in range(3):
            await stem.wait_for(await stem.enqueue("sample.leave"), timeout=10)
        status = await stem.wait_for(await stem.enqueue("sample.add", {"a": 1, "b": 2}), timeout=10)
        backend = stem.backend
        assert backend is not None
        await eventually(lambda: backend.get(status.id), what="the copy of the result")

    assert status.result == 3
    assert "broker.away" not in process.log()


async def test_it_waits_for_an_absent_server_saying_so_once_and_can_be_stopped(
    tmp_path: Path, processes: list[Process]
) -> None:
    process = Process(tmp_path, "--url", f"unix://{tmp_path}/nobody", "--log-format", "json")
    processes.append(process)
    await eventually(lambda: "broker.away" in process.log())
    await asyncio.sleep(1.0)
    assert process.process.poll() is None
    assert process.log().count("broker.away") == 1

    process.process.send_signal(signal.SIGTERM)

    assert await process.ended() == 0
    assert "Traceback" not in process.log()


async def test_ctrl_c_hands_running_tasks_back(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process]
) -> None:
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, "--log-format", "console")
    processes.append(process)
    await process.ready()
    async with Stem.connect(valkey_url, namespace=namespace) as stem:
        task_id = await stem.enqueue("sample.nap", {"seconds": 60})

        async def running() -> bool:
            return (await stem.status(task_id)).state.value == "running"

        await eventually(running)
        process.process.send_signal(signal.SIGINT)
        assert await process.ended() == 0
        status = await stem.status(task_id)

    assert (status.state.value, status.attempt, status.crashes) == ("queued", 0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_up_to_its_very_end_leave_the_exit_code_alone(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process], number: int
) -> None:
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, "--log-format", "json")
    processes.append(process)
    await process.ready()

    while process.process.poll() is None:
        process.process.send_signal(number)
        await asyncio.sleep(0.002)

    assert process.process.returncode == 0, process.log()
    assert "Traceback" not in process.log()


async def test_signals_at_the_end_of_a_supervisor_leave_the_exit_code_alone(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process]
) -> None:
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, "--processes", "2")
    processes.append(process)
    await eventually(lambda: process.log().count("worker.ready") == 2, timeout=15, what="both workers")
    process.process.send_signal(signal.SIGTERM)
    await eventually(lambda: "supervisor.stopped" in process.log(), what="the end of the workers")

    while process.process.poll() is None:
        process.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.001)

    assert process.process.returncode == 0, process.log()


async def test_a_signal_right_before_the_worker_listens_is_not_lost_and_one_after_it_is() -> None:
    before = {number: signal.getsignal(number) for number in cli.SIGNALS}
    heard: list[int] = []
    try:
        cli._guard_the_end()
        signal.raise_signal(signal.SIGTERM)
        with signals_to(heard.append):
            await eventually(lambda: bool(heard))
        signal.raise_signal(signal.SIGTERM)
        for _ in range(5):
            await asyncio.sleep(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert heard == [signal.SIGTERM]


def test_an_application_without_logging_of_its_own_reads_whole_lines() -> None:
    """What went wrong is in the message, not only in fields that a plain formatter does not print."""
    spell_out()
    logger = logging.getLogger("stem.worker")
    record = logger.makeRecord(
        logger.name, logging.WARNING, "f", 1, "task.failed", (), None, extra={"task": "a\x1b[31m"}
    )

    logger.filter(record)

    assert record.getMessage() == r"task.failed task=a\x1b[31m"
    assert json.loads(JsonFormatter("w").format(record))["event"] == "task.failed"


def test_a_prefetch_is_refused_and_not_ignored() -> None:
    done = call("tests.worker.sample:app", STEM_PREFETCH="5", STEM_BROKER_URL="redis://127.0.0.1:1")

    assert done.returncode == 2
    assert "STEM_PREFETCH" in done.stderr
