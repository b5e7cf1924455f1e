"""doctor: each planted problem is named with its fix, and a healthy system has none. On real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import redis

import stem
from stem.contracts import Outcome
from stem.messages.command import Command
from tests.cli.conftest import Cli, Ran
from tests.cli.hands import HandMadeWorker, answers_all, answers_none
from tests.cli.work import settle
from tests.servers import Server
from tests.waiting import wait_until

GOOD = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "client-output-buffer-limit": "normal 0 0 0 replica 256mb 64mb 60 pubsub 32mb 8mb 60",
    "min-replicas-to-write": "0",
}


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server of this module's, whose settings its tests change and put back."""
    server = Server(aof=True, in_memory=True, tcp=True).start()
    try:
        yield server
    finally:
        server.remove()


@dataclass(frozen=True, slots=True)
class Ward:
    """A server with an own namespace in it, healthy but for what a test does to it."""

    server: Server
    namespace: str
    cli: Cli

    def key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    def hire(self, name: str = "web", **options: Any) -> HandMadeWorker:
        options.setdefault("version", stem.__version__)
        return HandMadeWorker(self.server.url, self.namespace, name, **options)

    def doctor(self, timeout: str = "2s") -> Ran:
        """Ask; a shorter time is for where nobody is to answer."""
        return self.cli("doctor", "--json", "--timeout", timeout)

    def enqueue(self, *argv: str) -> str:
        ran = self.cli("enqueue", "mail.send", *argv, "--quiet")
        assert ran.code == 0, ran.err
        return ran.out.strip()


@pytest.fixture
def ward(own_server: Server, offline: Cli, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.setenv("STEM_BROKER_URL", own_server.url)
    monkeypatch.setenv("STEM_NAMESPACE", namespace)
    yield Ward(own_server, namespace, offline)
    with own_server.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
        for name, value in GOOD.items():
            client.execute_command("CONFIG", "SET", name, value)
        client.flushall()


def codes(ran: Ran) -> list[str]:
    """Return the codes of the findings, each of which must say something and how to mend it."""
    for finding in ran.data["findings"]:
        assert set(finding) == {"code", "severity", "text", "fix"}
        assert finding["severity"] in ("error", "warning")
        assert len(finding["text"]) > 20
        assert len(finding["fix"]) > 10
    assert ran.code == (1 if ran.data["findings"] else 0)
    return [finding["code"] for finding in ran.data["findings"]]


def test_a_healthy_system_has_no_finding(ward: Ward) -> None:
    """With tasks in every state, dead letters, history, an audit, a watcher's and a worker's keys."""
    with ward.hire():
        ward.enqueue()
        settle(ward.server.url, ward.namespace, Outcome.SUCCEEDED)
        ward.enqueue()
        settle(ward.server.url, ward.namespace, Outcome.DEAD)
        ward.enqueue("--unique-key", "k")
        settle(ward.server.url, ward.namespace, Outcome.RETRY, delay_ms=60_000)
        ward.enqueue("--delay", "1h")
        ward.enqueue()
        settle(ward.server.url, ward.namespace, None)
        ward.enqueue()
        ward.cli("pause", "--queue", "default", "--reason", "a short one")

        ran = ward.doctor()
        said = ward.cli("doctor")

    assert codes(ran) == []
    assert len(ran.data["checked"]) == 14
    assert ran.data["skipped"] == []
    assert (said.code, said.out) == (0, "")
    assert "nothing is wrong" in said.err
    assert "a power cut loses about the last second" in said.err


def evicting(ward: Ward) -> None:
    ward.server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")


def without_aof(ward: Ward) -> None:
    ward.server.command("CONFIG", "SET", "appendonly", "no")


def without_fsync(ward: Ward) -> None:
    ward.server.command("CONFIG", "SET", "appendfsync", "no")


def nearly_full(ward: Ward) -> None:
    with ward.server.client() as client:
        used = int(client.info("memory")["used_memory"])
    ward.server.command("CONFIG", "SET", "maxmemory", int(used * 1.1))


def test_health_says_why_the_server_takes_no_writes(ward: Ward) -> None:
    """Full memory was told as "is it a replica?"."""
    with ward.hire():
        ward.server.command("CONFIG", "SET", "maxmemory", "1")
        ran = ward.cli("health", "--json")

    (found,) = [check for check in ran.data["checks"] if not check["ok"]]
    assert (ran.code, ran.json["error"]["code"], found["name"]) == (1, "unhealthy-writable", "writable")
    assert "refused SET: command not allowed when used memory > 'maxmemory'" in found["found"].replace("OOM ", "")
    assert "replica" not in str(ran.json)


def small_buffers(ward: Ward) -> None:
    ward.server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1024 512 1")


def strange_key(ward: Ward) -> None:
    ward.server.command("SET", ward.key("somebody-elses"), "1")


def endless_reply(ward: Ward) -> None:
    ward.server.command("SET", ward.key("result:t-1"), "1")


def endless_record(ward: Ward) -> None:
    ward.server.command("HSET", ward.key("task:t-1"), "st", "succeeded", "q", "default", "n", "mail.send")


def unheld_unique(ward: Ward) -> None:
    ward.server.command("SET", ward.key("unique:9:mail.send:k"), "t-gone")


def stuck_lease(ward: Ward) -> None:
    task_id = ward.enqueue()
    settle(ward.server.url, ward.namespace, None)
    ward.server.command("ZADD", ward.key("q:default:lease"), time.time() * 1000 - 120_000, task_id)


def leftover_consumer(ward: Ward) -> None:
    ward.enqueue()
    stream = ward.key("q:default:p0")
    ward.server.command("XGROUP", "CREATECONSUMER", stream, "stem", "ghost-1")


def no_taker(ward: Ward) -> None:
    ward.enqueue("--queue", "nobodys")


def long_pause(ward: Ward) -> None:
    ago = int(time.time() * 1000) - 2 * 3_600_000
    ward.server.command("HSET", ward.key("desired:pause"), "queue:default", f"{ago}\t0\tada@host\tdeploy")


def unregistered(ward: Ward) -> None:
    ran = ward.cli("enqueue", "mail.unknown")
    assert ran.code == 0


@pytest.mark.parametrize(
    ("plant", "code", "named"),
    [
        (evicting, "eviction", "allkeys-lru"),
        (without_aof, "no-aof", "append-only"),
        (without_fsync, "no-fsync", "appendfsync"),
        (nearly_full, "memory", "%"),
        (small_buffers, "output-buffer", "pubsub"),
        (strange_key, "keys-unknown", "somebody-elses"),
        (endless_reply, "keys-endless", "result:t-1"),
        (endless_record, "keys-endless", "task:t-1"),
        (unheld_unique, "keys-orphan", "unique:9:mail.send:k"),
        (stuck_lease, "stuck-leases", "default"),
        (leftover_consumer, "leftover-consumers", "ghost-1"),
        (no_taker, "no-taker", "nobodys"),
        (long_pause, "long-pause", "ada@host"),
        (unregistered, "unregistered", "mail.unknown"),
    ],
)
def test_a_planted_problem_is_the_one_that_is_named(
    ward: Ward, plant: Callable[[Ward], None], code: str, named: str
) -> None:
    with ward.hire():
        plant(ward)
        ran = ward.doctor()

    assert codes(ran) == [code]
    assert named in ran.data["findings"][0]["text"]


def test_a_replica_is_named(ward: Ward) -> None:
    """It counts no queues and takes no commands: what could not be looked at for that is said apart."""
    with ward.hire():
        ward.enqueue()
    ward.server.command("REPLICAOF", "127.0.0.1", "1")

    ran = ward.doctor()

    assert codes(ran)[0] == "replica"
    assert "primary" in ran.data["findings"][0]["fix"]
    assert {one["check"] for one in ran.data["skipped"]} >= {"queues", "answers"}


def answers_wedged(command: Command) -> list[tuple[str, Mapping[str, Any]]]:
    """Answer a ping as a worker whose handler blocks the work loop."""
    return [(stage, {**data, "loop_age_ms": 9_000}) for stage, data in answers_all(command)]


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"version": "0.0.1"}, "version-skew", "0.0.1"),
        ({"clock_offset_ms": -90_000}, "clock-skew", "90s ahead"),
        ({"answer": answers_none}, "deaf", "web"),
        ({"answer": answers_wedged}, "wedged", "web"),
    ],
)
def test_what_is_wrong_with_a_worker_is_named(ward: Ward, options: dict[str, Any], code: str, named: str) -> None:
    with ward.hire(**options):
        ran = ward.doctor("0.4s" if code == "deaf" else "2s")

    assert codes(ran) == [code]
    assert named in ran.data["findings"][0]["text"]


def test_a_lost_worker_is_named(ward: Ward) -> None:
    """A frozen or killed one is lost once three of its beats are out."""
    with ward.hire("gone", interval_ms=50) as gone, ward.hire("web"):
        gone.vanish()

        wait_until(lambda: codes(ward.doctor()) == ["lost-workers"])
        ran = ward.doctor()

    assert "gone" in ran.data["findings"][0]["text"]


def test_a_queue_at_its_limits_is_named(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        ward.enqueue()
    settle(ward.server.url, ward.namespace, Outcome.DEAD)
    for _ in range(3):
        ward.enqueue()
    monkeypatch.setenv("STEM_MAX_QUEUE_LENGTH", "3")
    monkeypatch.setenv("STEM_DEAD_MAX", "2")
    with ward.hire():
        assert codes(ward.doctor()) == ["queue-full", "dead-full"]


def test_without_a_worker_that_is_what_is_said(ward: Ward) -> None:
    said = ward.cli("doctor")

    assert said.code == 1
    assert said.out.startswith("error no-worker: ")
    assert "  fix: start one: stem-worker" in said.out


def test_what_may_not_be_looked_at_is_no_finding(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a managed server that refuses CONFIG, and for a user with few rights."""
    ward.server.command("ACL", "SETUSER", "few", "on", ">pw", "~*", "&*", "+@all", "-config", "-scan")
    monkeypatch.setenv("STEM_BROKER_URL", f"redis://few:pw@127.0.0.1:{ward.server.port}")
    try:
        with ward.hire():
            ran = ward.doctor()
            said = ward.cli("doctor")
    finally:
        ward.server.command("ACL", "DELUSER", "few")

    assert codes(ran) == []
    assert {one["check"] for one in ran.data["skipped"]} == {"buffers", "keyspace"}
    assert "could not look at keyspace: " in said.err


def test_without_a_server_it_says_so(offline: Cli) -> None:
    assert offline("doctor", "--url", "redis://127.0.0.1:1").code == 69


def test_names_from_the_server_are_cleaned(ward: Ward) -> None:
    with ward.hire(), redis.Redis(unix_socket_path=str(ward.server.socket)) as client:
        client.set(ward.key("x\x1b[31m\u202e[bold]y"), "1")
        said = ward.cli("doctor")

    assert said.code == 1
    assert "[bold]y" in said.out
    assert all(character == "\n" or character.isprintable() for character in said.out)
