"""The image: what its file must and must not say, and its processes, run as a container engine would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import OwnServer
from tests.deploy.container import DOCKERFILE, Image, instructions, names_a_host
from tests.flow.running import ROOT, Program, environment, run
from tests.servers import Server, free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(90)  # a worker, a server and several commands each, on a shared machine

APP: Final = """
import asyncio, time
from pathlib import Path
from stem import Stem
app = Stem.connect()

@app.task("hold")
async def hold() -> None:
    Path("begun").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.02)

@app.task("block")
async def block() -> None:
    time.sleep(600)
"""
NAMESPACES: Final = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture(scope="module")
def image() -> Image:
    return Image()


# ------------------------------------------------------------------------------------------------------------ the file


def test_the_image_is_made_in_two_stages_from_named_versions_on_no_named_host(image: Image) -> None:
    assert len(image.stages) == 2
    for stage in image.stages:
        name = stage.split()[0]
        assert re.search(r":[^:/]+$", name), f"{name} has no version"
        assert not name.endswith(":latest")
        assert not names_a_host(name)


def test_what_runs_is_not_root_and_needs_no_shell(image: Image) -> None:
    user = image.one("USER").text

    assert all(int(part) >= 10_000 for part in user.split(":")), "Kubernetes takes only a number for not root"
    assert f"--uid {user.partition(':')[0]} " in " ".join(one.text for one in instructions() if one.name == "RUN")
    assert image.one("ENTRYPOINT").words == ["stem-worker"]
    assert image.health_check[0] == "python"
    assert image.one("STOPSIGNAL").text == "SIGTERM"


def test_what_is_installed_is_this_package_in_a_range_with_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    major, minor, _ = project["version"].split(".")
    (wanted,) = re.findall(rf'"{project["name"]}(?:\[\w+\])?([^"]+)"', DOCKERFILE.read_text())

    assert wanted == f">={major}.{minor},<{major}.{int(minor) + 1}"


def test_it_adds_nothing_from_elsewhere_and_holds_no_secret(image: Image) -> None:
    assert {one.name for one in instructions()} <= {
        *("ARG", "FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "EXPOSE"),
        *("HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"),
    }
    page = (ROOT / "docs" / "configuration.md").read_text()
    own = {name for name in image.environment if name.startswith("STEM_")}
    assert own <= set(re.findall(r"^\| `(STEM_\w+)`", page, re.MULTILINE))
    assert not {name for name in image.environment if re.search("URL|KEY|PASS|SECRET", name)}
    assert image.environment["STEM_HEALTH_PORT"] == image.one("EXPOSE").text


# ------------------------------------------------------------------------------------------------------- its processes


class Given:
    """What a container is given: a server, an application, a port for probes."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.folder = folder
        self.url = server.tcp_url
        self.environment = {"STEM_BROKER_URL": self.url, "STEM_HEALTH_PORT": str(free_port())}
        (folder / "tasks.py").write_text(APP)

    def stemctl(self, *words: str) -> None:
        done = run(["stemctl", *words], env=environment(STEM_BROKER_URL=self.url))
        assert done.returncode == 0, done.stderr


@pytest.fixture
def given(tmp_path: Path, own_server: OwnServer) -> Given:
    return Given(own_server(tcp=True, options=("--maxmemory-policy", "noeviction")), tmp_path)


def test_it_is_healthy_while_it_runs_and_ends_with_0(image: Image, given: Given) -> None:
    assert not image.is_healthy(given.environment), "nothing runs yet"
    with image.container(given.environment, given.folder) as worker:
        worker.await_error("worker.ready")
        given.stemctl("ping")

        assert image.is_healthy(given.environment)
        assert image.is_healthy(given.environment | {"http_proxy": "http://127.0.0.1:1"}), "it asks no proxy"
        assert worker.stop() == 0
    assert not image.is_healthy(given.environment)


def test_it_is_not_healthy_while_its_loop_stands_still(image: Image, given: Given) -> None:
    with image.container(given.environment, given.folder) as worker:
        worker.await_error("worker.ready")
        given.stemctl("enqueue", "block")

        wait_until(lambda: not image.is_healthy(given.environment), 20, what="the health check fails")


def test_it_waits_for_its_server_in_good_health(image: Image, given: Given) -> None:
    gone = given.environment | {"STEM_BROKER_URL": "redis://127.0.0.1:1"}
    with image.container(gone, given.folder) as worker:
        worker.await_error("broker.away")

        assert image.is_healthy(gone)
        assert worker.stop() == 0


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from (int(child) for child in (task / "children").read_text().split())


def inner(program: Program) -> int:
    """Return the process that is number 1 in the namespace of `unshare`."""
    return wait_until(lambda: next(children(program.pid), 0), 10, what="the first process of the namespace")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a process 1 of one's own needs root")
@pytest.mark.parametrize("processes", [1, 2])
def test_as_process_1_it_finishes_what_runs_at_sigterm(image: Image, given: Given, processes: int) -> None:
    free = given.environment | {"STEM_HEALTH_PORT": "0", "STEM_WORKER_PROCESSES": str(processes)}
    with image.container(free, given.folder, wrapper=NAMESPACES) as container:
        wait_until(lambda: container.errors.count("worker.ready") == processes, 20, what="they are ready")
        given.stemctl("enqueue", "hold")
        wait_until((given.folder / "begun").exists, 20, what="the task runs")
        first = inner(container)
        assert re.search(r"^NSpid:\s+\d+\s+1$", Path(f"/proc/{first}/status").read_text(), re.MULTILINE)

        os.kill(first, signal.SIGTERM)
        container.await_error("worker.stopping")
        (given.folder / "go").touch()

        assert container.ended() == 0, container.errors
        assert "worker.tasks_left" not in container.errors
