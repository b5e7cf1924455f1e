"""The compose file: it agrees with the image and the program, and its server and worker work with each other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from stem.config import StemConfig, parse_duration
from stem.worker.lifecycle import HAND_BACK_S, LAST_ANSWERS_S, WorkerLifecycleConfig
from tests.conftest import OwnServer
from tests.deploy.container import Image, names_a_host
from tests.flow.running import ROOT, environment, run
from tests.servers import free_port

pytestmark = pytest.mark.timeout(90)  # a worker, a server and several commands each, on a shared machine

COMPOSE: Final = ROOT / "deploy" / "compose.yaml"
PASSWORD: Final = "s3cret"
VARIABLE: Final = re.compile(r"\$\{(\w+):\?[^}]+\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


@pytest.fixture(scope="module")
def worker(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]["worker"]
    return found


def server_settings(compose: dict[str, Any]) -> dict[str, str]:
    """Return the server's configuration file."""
    lines = VARIABLE.sub(PASSWORD, compose["configs"]["valkey"]["content"]).splitlines()
    return dict(line.split(maxsplit=1) for line in lines if not line.startswith("#"))


def test_a_stop_is_given_the_time_that_it_takes(worker: dict[str, Any]) -> None:
    longest = StemConfig().drain_timeout_s + WorkerLifecycleConfig().soft_timeout + LAST_ANSWERS_S + HAND_BACK_S

    assert parse_duration(worker["stop_grace_period"], name="stop_grace_period") >= longest + 5


def test_the_worker_agrees_with_the_image_and_the_settings(worker: dict[str, Any]) -> None:
    image = Image()
    known = set(re.findall(r"^\| `(STEM_\w+)`", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))

    assert (COMPOSE.parent / worker["build"]["context"] / worker["build"]["dockerfile"]).samefile(
        ROOT / "deploy" / "Dockerfile"
    )
    assert worker["command"] == image.one("CMD").words
    assert set(worker["environment"]) <= known
    assert worker["environment"]["STEM_HEALTH_PORT"] == image.one("EXPOSE").text
    assert worker["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert worker["read_only"]
    assert worker["tmpfs"] == ["/tmp"], "child processes need a place for files"


def test_the_page_says_of_the_server_what_the_file_says(compose: dict[str, Any]) -> None:
    (said,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    kept = {name: value for name, value in server_settings(compose).items() if name not in ("dir", "requirepass")}

    assert dict(line.split(maxsplit=1) for line in said.splitlines()) == kept


def test_no_password_stands_in_the_file_and_none_is_guessed(compose: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    secrets = re.findall(r"(?:requirepass |redis://:|REDISCLI_AUTH: \")([^@\n\"]+)", text)

    assert len(secrets) == 3
    assert all(VARIABLE.fullmatch(secret) for secret in secrets), secrets
    assert len(re.findall(r"\$\{\w+", text)) == 3
    # A command line is seen by every user of the machine.
    assert not any("$" in word for service in compose["services"].values() for word in service["command"])


def test_images_have_a_version_and_no_host(compose: dict[str, Any]) -> None:
    image = compose["services"]["valkey"]["image"]

    assert re.search(r":\d", image)
    assert not names_a_host(image)


def test_worker_and_server_work_with_each_other(
    compose: dict[str, Any], worker: dict[str, Any], tmp_path: Path, own_server: OwnServer
) -> None:
    """The server runs with the file's configuration, the worker with its command and environment: nothing is wrong."""
    settings = server_settings(compose)
    command = compose["services"]["valkey"]["command"]
    assert compose["services"]["valkey"]["configs"] == [{"source": "valkey", "target": command[1]}]
    assert compose["services"]["valkey"]["volumes"] == [f"valkey:{settings.pop('dir')}"]
    password = settings.pop("requirepass")  # given below: tests wait for their server without one
    options = tuple(word for name, value in settings.items() for word in (f"--{name}", value))
    server = own_server(tcp=True, aof=False, options=options)
    server.command("CONFIG", "SET", "requirepass", password)
    check = compose["services"]["valkey"]["healthcheck"]
    assert check["test"][:2] == ["CMD", "valkey-cli"]
    url = VARIABLE.sub(PASSWORD, worker["environment"]["STEM_BROKER_URL"])
    assert "@valkey:6379/" in url
    given = worker["environment"] | {
        "STEM_BROKER_URL": url.replace("valkey:6379", f"127.0.0.1:{server.port}"),
        "STEM_HEALTH_PORT": str(free_port()),
    }
    (tmp_path / "tasks.py").write_text("from stem import Stem\napp = Stem.connect()\napp.task('t')(lambda: 1)\n")
    with Image().container(given, tmp_path, args=worker["command"]) as program:
        program.await_error("worker.ready")
        done = run(["stemctl", "health", "--json"], env=environment(STEM_BROKER_URL=given["STEM_BROKER_URL"]))

        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout)["warnings"] == []
        assert "worker.warning" not in program.errors
        if (client := shutil.which("redis-cli")) is not None:
            probe = [client, "-p", str(server.port), *check["test"][2:]]
            assert run(probe, env={"REDISCLI_AUTH": PASSWORD}).returncode == 0
            assert run(probe, env={"REDISCLI_AUTH": "wrong"}).returncode != 0
        assert program.stop() == 0
