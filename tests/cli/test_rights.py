"""stemctl as a user of docs/security.md: what needs a right that he has not is left out, and the rest is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stem.adapters.connect import access_rules
from tests.cli.conftest import Cli, OwnServer
from tests.cli.hands import HandMadeWorker
from tests.servers import Server

PASSWORD = "swordfish-77"


@pytest.fixture
def guarded(own_server: OwnServer, namespace: str) -> Server:
    """A server with a user for each role."""
    server = own_server(aof=False, tcp=True)
    for role, rule in access_rules(namespace).items():
        server.command("ACL", "SETUSER", f"{namespace}-{role}", *rule.split()[3:], f">{PASSWORD}")
    return server


@pytest.fixture
def worker(guarded: Server, namespace: str) -> Iterator[HandMadeWorker]:
    with HandMadeWorker(url_of(guarded, namespace, "worker"), namespace, "web") as made:
        yield made


def url_of(server: Server, namespace: str, role: str) -> str:
    return f"redis://{namespace}-{role}:{PASSWORD}@127.0.0.1:{server.port}"


@pytest.mark.parametrize("role", ["producer", "worker", "operator"])
def test_whoever_may_enqueue_may_do_so_from_the_command_line(
    offline: Cli, guarded: Server, worker: HandMadeWorker, namespace: str, role: str
) -> None:
    """Which workers would take it is looked up for a warning: who may not ask is told so, and enqueues."""
    where = ("--url", url_of(guarded, namespace, role), "--namespace", namespace)

    foreseen = offline("enqueue", "mail.send", "to=ada", "--dry-run", *where)
    ran = offline("enqueue", "mail.send", "to=ada", "--json", *where)

    assert (foreseen.code, ran.code) == (0, 0), (foreseen.err, ran.err)
    assert "would enqueue mail.send into default" in foreseen.out
    assert ran.data["task"] == "mail.send"
    assert ("may not ask" in "".join(ran.json["warnings"])) == (role != "operator")


def test_a_viewer_learns_why_a_task_waits(
    offline: Cli, guarded: Server, worker: HandMadeWorker, namespace: str
) -> None:
    boss = ("--url", url_of(guarded, namespace, "operator"), "--namespace", namespace)
    viewer = ("--url", url_of(guarded, namespace, "viewer"), "--namespace", namespace)
    task_id = offline("enqueue", "mail.send", "--quiet", *boss).out.strip()
    assert offline("pause", "--queue", "default", *boss).code in (0, 4)

    ran = offline("why", task_id, "--json", *viewer)

    assert ran.code == 0, ran.err
    assert ran.data["causes"][0]["code"] == "queue-paused"
