"""The Kubernetes manifests: they agree with the image and the program, and their probes say what is so."""

from __future__ import annotations

import http.client
import os
import re
import signal
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from stem.config import StemConfig
from stem.errors import ConfigError
from stem.worker.lifecycle import HAND_BACK_S, LAST_ANSWERS_S, WorkerLifecycleConfig
from tests.conftest import OwnServer
from tests.deploy.container import Image, names_a_host
from tests.flow.running import ROOT, environment, run
from tests.servers import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(90)  # a worker, a server and several commands each, on a shared machine

MANIFESTS: Final = ROOT / "deploy" / "kubernetes.yaml"

APP: Final = """
import asyncio
from pathlib import Path
from stem import Stem
app = Stem.connect()

@app.task("hold")
async def hold() -> None:
    Path("begun").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.02)
"""


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFESTS.read_text())}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def worker(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


def given(worker: dict[str, Any], url: str) -> dict[str, str]:
    """Return the environment of the container, the secret filled in."""
    assert {entry["name"] for entry in worker["env"] if "valueFrom" in entry} == {"STEM_BROKER_URL"}
    return {entry["name"]: entry.get("value", url) for entry in worker["env"]}


def test_a_stop_is_given_the_time_that_it_takes(pod: dict[str, Any]) -> None:
    longest = StemConfig().drain_timeout_s + WorkerLifecycleConfig().soft_timeout + LAST_ANSWERS_S + HAND_BACK_S

    assert pod["terminationGracePeriodSeconds"] >= longest + 5


def test_a_stuck_worker_has_the_time_to_give_up_by_itself(worker: dict[str, Any]) -> None:
    probe = worker["livenessProbe"]

    assert probe["periodSeconds"] * probe["failureThreshold"] > StemConfig().wedged_timeout_s


def test_the_worker_agrees_with_the_image_and_the_settings(pod: dict[str, Any], worker: dict[str, Any]) -> None:
    image = Image()
    known = set(re.findall(r"^\| `(STEM_\w+)`", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    (port,) = worker["ports"]

    assert worker["args"] == image.one("CMD").words
    assert "command" not in worker, "the image's entry point is the worker"
    assert {entry["name"] for entry in worker["env"]} <= known
    assert str(port["containerPort"]) == image.one("EXPOSE").text == given(worker, "")["STEM_HEALTH_PORT"]
    assert {worker[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} == {port["name"]}
    user = pod["securityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == image.one("USER").text
    assert re.search(r":[^:/]+$", worker["image"])
    assert not names_a_host(worker["image"])


def test_it_may_nothing_and_can_write_where_it_must(pod: dict[str, Any], worker: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in worker["volumeMounts"]] == ["/tmp"], "child processes need it"
    assert {mount["name"] for mount in worker["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"requests", "limits"} <= set(worker["resources"])


def test_services_of_the_namespace_are_not_taken_for_settings(pod: dict[str, Any]) -> None:
    """What a service called stem-health would put into the environment, and what would come of it."""
    assert pod["enableServiceLinks"] is False
    with pytest.raises(ConfigError, match="STEM_HEALTH_PORT"):
        StemConfig.from_environment({"STEM_HEALTH_PORT": "tcp://10.0.0.1:9000"})


def test_selectors_choose_these_pods(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]

    for kind in ("Deployment", "PodDisruptionBudget"):
        assert manifests[kind]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_alerts_of_scaling_name_metrics_that_exist() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()

    named = set(re.findall(r"\bstem_\w+", MANIFESTS.read_text()))
    assert named
    assert all(f"`{metric}`" in page for metric in named)


def test_probes_say_that_it_drains_and_lives(worker: dict[str, Any], tmp_path: Path, own_server: OwnServer) -> None:
    """As the kubelet does it: asked while it runs, SIGTERM, asked while it finishes, and it ends with 0."""
    server = own_server(tcp=True)
    port = free_port()
    (tmp_path / "tasks.py").write_text(APP)

    def probe(name: str) -> int:
        asked = worker[name]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=asked["timeoutSeconds"])
        try:
            connection.request("GET", asked["httpGet"]["path"])
            return connection.getresponse().status
        finally:
            connection.close()

    environ = given(worker, server.tcp_url) | {"STEM_HEALTH_PORT": str(port)}
    with Image().container(environ, tmp_path, args=worker["args"]) as container:
        container.await_error("worker.ready")
        wait_until(lambda: probe("readinessProbe") == 200, 10, what="it is ready")
        assert probe("livenessProbe") == 200
        done = run(["stemctl", "enqueue", "hold"], env=environment(STEM_BROKER_URL=server.tcp_url))
        assert done.returncode == 0, done.stderr
        wait_until((tmp_path / "begun").exists, 20, what="it runs")

        os.kill(container.pid, signal.SIGTERM)

        wait_until(lambda: probe("readinessProbe") == 503, 10, what="it is not ready any more")
        assert probe("livenessProbe") == 200
        (tmp_path / "go").touch()
        assert container.ended() == 0
