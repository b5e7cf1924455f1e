"""The systemd unit: systemd finds nothing wrong with it, and its worker runs, stops and is started again as it says."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from stem.config import StemConfig
from stem.worker.cli import EXIT_UNAVAILABLE, EXIT_USAGE
from stem.worker.lifecycle import HAND_BACK_S, LAST_ANSWERS_S, REFUSED_EXIT, WEDGED_EXIT, WorkerLifecycleConfig
from tests.conftest import OwnServer
from tests.deploy.unit import SAMPLE, UNIT, Service, Unit, read_environment_file, started
from tests.flow.running import BIN, environment, run
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(90)  # a worker, a server and several commands each, on a shared machine

MOST_EXPOSED: Final = 20
"""Tenths, of systemd's own measure from 0 to 10."""

APP: Final = """
import asyncio, os, socket, time
from pathlib import Path
from stem import Stem
app = Stem.connect()

@app.task("hold")
async def hold() -> None:
    Path("begun").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.02)

@app.task("stubborn", max_retries=0)
async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

def tried() -> dict[str, str]:
    found = {}
    for what, deed in {
        "state": lambda: Path(os.environ["STATE_DIRECTORY"], "file").write_text("x"),
        "application": lambda: Path("file").write_text("x"),
        "packet": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "internet": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
        "mount": lambda: os.chroot("/"),
    }.items():
        try:
            deed()
            found[what] = "done"
        except OSError as error:
            found[what] = type(error).__name__
    return found

@app.task("try.loop")
async def try_loop() -> dict[str, str]:
    return tried()

@app.task("try.thread")
def try_thread() -> dict[str, str]:
    return tried()

@app.task("try.process", isolation="process")
def try_process() -> dict[str, str]:
    return tried()
"""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words: str) -> str:
    done = run(["systemd-analyze", *words], env=os.environ)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Machine:
    """A folder that stands for `/`, with a server, an application and an instance called shop."""

    def __init__(self, root: Path, url: str) -> None:
        self.unit = Unit("shop", root)
        self.url = url
        (self.unit.folder / "tasks.py").write_text(APP)
        self.configure()

    def configure(self, **changed: str) -> None:
        """Write the environment file: the sample's lines, and these instead."""
        lines = read_environment_file(SAMPLE) | {"STEM_BROKER_URL": self.url, "STEM_HEALTH_PORT": "0"} | changed
        self.unit.environment_file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    def stemctl(self, *words: str, code: int = 0) -> Any:
        done = run(["stemctl", *words, "--json"], env=environment(STEM_BROKER_URL=self.url))
        assert done.returncode == code, f"stemctl {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)["data"]

    def await_ready(self, service: Service) -> None:
        def answers() -> bool:
            assert service.pid, service.log
            return run(["stemctl", "ping"], env=environment(STEM_BROKER_URL=self.url)).returncode == 0

        service.await_log("worker.ready")
        wait_until(answers, 20, what="it answers a ping")

    def enqueue(self, task: str, *words: str) -> str:
        return str(self.stemctl("enqueue", task, *words)["id"])

    def await_state(self, task_id: str, state: str) -> None:
        wait_until(lambda: self.stemctl("tasks", "show", task_id)["state"] == state, 20, what=f"{task_id} is {state}")


@pytest.fixture
def machine(tmp_path: Path, own_server: OwnServer) -> Machine:
    return Machine(tmp_path, own_server(tcp=True, options=("--maxmemory-policy", "noeviction")).tcp_url)


# ------------------------------------------------------------------------------------------------------------ the file


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit in a folder of its own, its program being one that is there (systemd looks)."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/stem/venv/bin/stem-worker", f'"{BIN}/stem-worker"'))
    return unit


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(installed: Path) -> None:
    assert analyze("verify", str(installed)) == ""


@needs_systemd
def test_systemd_finds_a_mistake_in_the_unit(installed: Path) -> None:
    """The test above would see one."""
    installed.write_text(installed.read_text().replace("KillMode=", "KilMode="))

    assert "KilMode" in analyze("verify", str(installed))


@needs_systemd
def test_the_unit_is_closed_as_far_as_a_worker_lets_it_be(installed: Path) -> None:
    analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(installed))


def test_a_stop_is_given_the_time_that_it_takes(tmp_path: Path) -> None:
    longest = StemConfig().drain_timeout_s + WorkerLifecycleConfig().soft_timeout + LAST_ANSWERS_S + HAND_BACK_S

    assert Unit("shop", tmp_path).stop_s >= longest + 5


def test_the_sample_names_settings_that_exist(tmp_path: Path) -> None:
    named = set(read_environment_file(SAMPLE)) | {
        line.partition("=")[0] for line in Unit("shop", tmp_path).all("Environment") + commented(SAMPLE)
    }
    page = (UNIT.parents[1] / "docs" / "configuration.md").read_text()

    unknown = {name for name in named if not name.startswith("WORKER_") and f"`{name}`" not in page}
    assert not unknown
    assert {name for name in named if name.startswith("WORKER_")} == {"WORKER_APP", "WORKER_OPTIONS"}


def test_the_page_names_files_and_times_that_are_so(tmp_path: Path) -> None:
    page = (UNIT.parents[1] / "docs" / "deploy.md").read_text()
    unit = Unit("shop", tmp_path)

    assert f"`TimeoutStopSec`\n  ({unit.stop_s:.0f} s)" in page
    for name in ("WorkingDirectory", "EnvironmentFile", "StateDirectory"):
        assert unit.one(name).removeprefix(str(tmp_path)) in page, name
    assert {file.name for file in UNIT.parent.iterdir()} == set(re.findall(r"\]\(\.\./deploy/([^)]+)\)", page))


def commented(path: Path) -> list[str]:
    """Return the assignments that a reader would take the `#` away from."""
    return [line[1:] for line in path.read_text().splitlines() if line.startswith("#STEM_")]


# ---------------------------------------------------------------------------------------------------------- its worker


def test_it_runs_and_stops_after_what_it_runs(machine: Machine) -> None:
    with started(machine.unit) as service:
        machine.await_ready(service)
        (worker,) = machine.stemctl("workers", "ls")["items"]
        task = machine.enqueue("hold")
        wait_until((machine.unit.folder / "begun").exists, 20, what="the task runs")

        ended = service.stop(meanwhile=(machine.unit.folder / "go").touch)

        assert (ended.code, ended.killed, ended.left) == (0, False, ())
        assert worker["name"].startswith("shop-")
        assert machine.stemctl("tasks", "show", task)["state"] == "succeeded"
        assert not machine.unit.starts_again(ended.code)


def test_several_processes_stop_as_one(machine: Machine) -> None:
    machine.configure(WORKER_OPTIONS="--processes 2 --concurrency 3")
    with started(machine.unit) as service:
        wait_until(lambda: len(machine.stemctl("workers", "ls")["items"]) == 2, 20, what="two workers")
        assert machine.stemctl("ping")["replied"] == 2

        ended = service.stop()

        assert (ended.code, ended.killed, ended.left) == (0, False, ())


def test_what_does_not_end_is_handed_back_in_time(machine: Machine) -> None:
    machine.configure(STEM_DRAIN_TIMEOUT="500ms", WORKER_OPTIONS="--soft-timeout 500ms")
    with started(machine.unit) as service:
        machine.await_ready(service)
        task = machine.enqueue("stubborn")
        machine.await_state(task, "running")

        ended = service.stop()

        assert (ended.code, ended.killed, ended.left) == (0, False, ())
        assert machine.stemctl("tasks", "show", task)["state"] == "queued"


def test_a_worker_that_is_killed_is_started_again(machine: Machine) -> None:
    with started(machine.unit) as service:
        machine.await_ready(service)
        os.kill(service.pid, signal.SIGKILL)
        code = service.ended()

    assert machine.unit.starts_again(code)
    assert machine.unit.starts_again(WEDGED_EXIT)


def test_a_worker_that_an_operator_shut_down_stays_down(machine: Machine) -> None:
    with started(machine.unit) as service:
        machine.await_ready(service)
        machine.stemctl("shutdown", "--wait", "20s", "--yes")

        assert not machine.unit.starts_again(service.ended())


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        pytest.param({"WORKER_APP": "nothing:app"}, EXIT_USAGE, id="no-application"),
        pytest.param({"WORKER_APP": ""}, EXIT_USAGE, id="none-named"),
        pytest.param({"STEM_BROKER_URL": ""}, EXIT_USAGE, id="no-server-named"),
        pytest.param({"STEM_DRAIN_TIMEOUT": "soon"}, EXIT_USAGE, id="wrong-setting"),
        pytest.param({"STEM_BROKER_URL": "redis://:wrong@{host}"}, REFUSED_EXIT, id="wrong-password"),
    ],
)
def test_a_start_that_cannot_change_anything_is_not_tried_again(
    machine: Machine, changed: dict[str, str], code: int
) -> None:
    host = machine.url.removeprefix("redis://")
    machine.configure(**{name: value.format(host=host) for name, value in changed.items()})

    with started(machine.unit) as service:
        assert service.ended() == code, service.log
        assert not machine.unit.starts_again(code)
        assert "Traceback" not in service.log
        assert len(service.log.splitlines()) == 1, service.log


def test_an_application_that_fails_for_a_moment_is_started_again(machine: Machine) -> None:
    """Its own code looks for a database, say, while it is imported: that is none of the mistakes that stay."""
    (machine.unit.folder / "tasks.py").write_text("raise ConnectionRefusedError('the database is away')\n")
    with started(machine.unit) as service:
        assert service.ended() == WEDGED_EXIT, service.log

    assert machine.unit.starts_again(WEDGED_EXIT)


def test_a_server_that_is_away_is_waited_for_and_ends_no_start(machine: Machine) -> None:
    machine.configure(STEM_BROKER_URL="redis://127.0.0.1:1")
    with started(machine.unit) as service:
        service.await_log("broker.away")

        assert service.stop().code == 0
    assert machine.unit.starts_again(EXIT_UNAVAILABLE)


# ------------------------------------------------------------------------------------------------------------ its walls


@functools.cache
def calls_of(group: str) -> frozenset[str]:
    """Return the system calls of a group such as `@system-service`, as systemd lists them."""
    found: set[str] = set()
    for line in analyze("syscall-filter", group).splitlines()[1:]:
        name = line.strip()
        found |= calls_of(name) if name.startswith("@") else set() if name.startswith("#") or not name else {name}
    return frozenset(found)


def walls(unit: Unit) -> str:
    calls: set[str] = set()
    for line in unit.all("SystemCallFilter"):
        words = line.removeprefix("~").split()
        named = set().union(*(calls_of(word) if word.startswith("@") else {word} for word in words))
        calls = calls - named if line.startswith("~") else calls | named
    read_only = unit.one("ProtectSystem") == "strict" and os.geteuid() == 0
    return json.dumps(
        {
            "calls": sorted(calls),
            "families": unit.one("RestrictAddressFamilies").split(),
            "writable": str(unit.state_folder) if read_only else None,
        }
    )


@needs_systemd
def test_handlers_of_every_kind_run_behind_the_walls_of_the_unit(machine: Machine) -> None:
    """System calls, sockets and namespaces are filtered as systemd would; as root, `/` is read-only, too."""
    with started(machine.unit, confinement=walls(machine.unit)) as service:
        machine.await_ready(service)
        for kind in ("loop", "thread", "process"):
            task = machine.enqueue(f"try.{kind}")
            found = machine.stemctl("result", task, "--wait", "20s")["result"]

            assert found["internet"] == found["state"] == "done", kind
            assert found["mount"] == found["packet"] == "PermissionError", kind
            if os.geteuid() == 0:
                assert found["application"] == "OSError", f"{kind}: / is not read-only"

        ended = service.stop()

        assert (ended.code, ended.killed, ended.left) == (0, False, ())


def test_nothing_of_the_caller_reaches_the_worker(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this module calls a unit's run would be none with this environment."""
    monkeypatch.setenv("STEM_NAMESPACE", "elsewhere")
    with started(machine.unit) as service:
        machine.await_ready(service)
        seen = Path(f"/proc/{service.pid}/environ").read_bytes().split(b"\0")

        assert service.stop().code == 0
    assert not any(line.startswith(b"STEM_NAMESPACE=") for line in seen)
    assert any(line.startswith(b"STEM_WORKER_NAME=shop-") for line in seen)


def test_a_stop_that_takes_too_long_is_seen(machine: Machine) -> None:
    """The helper that stops as systemd does says when SIGKILL was needed."""
    machine.configure(STEM_DRAIN_TIMEOUT="1h")
    with started(machine.unit) as service:
        machine.await_ready(service)
        machine.await_state(machine.enqueue("stubborn"), "running")

        assert service.stop(within_s=0.5).killed
