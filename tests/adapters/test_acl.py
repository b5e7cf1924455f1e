"""The four users of docs/security.md on a real server: each can do its work, and is refused what is not its work."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import redis

from stem.adapters.connect import access_rules, connect_broker
from stem.client import Stem
from stem.clock import SystemClock
from stem.config import StemConfig
from stem.contracts import Outcome, RevokeTasks, SetPause, Settlement
from stem.control.audit import recorded
from stem.control.controller import Controller
from stem.errors import BrokerRefusedError
from stem.messages.audit import AuditOutcome
from stem.observe.feed import take
from stem.registry import SimpleTaskRegistry
from stem.task import TaskContext
from stem.testing.case import QUEUE, Hand, Operator, enqueue, new_task
from stem.worker import Worker
from tests.servers import Kind, Server, redis_server_path
from tests.waiting import eventually

ROOT: Final = Path(__file__).resolve().parents[2]
KINDS: Final = ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind: Kind = request.param
    if kind == "redis" and redis_server_path() is None:
        pytest.skip("redis-server is not on PATH")
    server = Server(kind=kind, tcp=True).start()
    try:
        with redis.Redis(port=server.port) as admin:
            for role, rule in access_rules("shop").items():
                admin.execute_command(*rule.split())
                admin.execute_command("ACL", "SETUSER", f"shop-{role}", ">secret")
        yield server
    finally:
        server.stop()


def url_of(server: Server, role: str) -> str:
    return f"redis://shop-{role}:secret@127.0.0.1:{server.port}"


async def test_every_role_can_do_its_work(server: Server) -> None:
    """And the server's log of refusals stays empty."""
    brokers = {role: connect_broker(url_of(server, role), namespace="shop") for role in access_rules("shop")}
    producer, worker, operator, viewer = (brokers[name] for name in ("producer", "worker", "operator", "viewer"))
    try:
        hand, boss = Hand(broker=worker, id="w-1"), Operator(broker=operator)
        await worker.control.subscribe()
        await hand.beat()
        await worker.census.info()
        done, buried, late = [await enqueue(producer, task_id=name) for name in ("t-done", "t-dead", "t-late")]
        await enqueue(producer, task_id="t-delayed", delay_ms=60_000)
        await enqueue(producer, task_id="t-unique", unique_key="one")
        await boss.issue("ping")
        paused = await boss.issue("pause", SetPause(kind="queue", targets=["other"]))
        assert await operator.control.conclude(paused.audit, AuditOutcome(verdict="applied"))
        await boss.issue("revoke", RevokeTasks(ids=["t-delayed"]))
        asked = await worker.control.read(0)
        given = {delivery.id: delivery for delivery in await hand.fetch(epoch=asked.epoch)}
        assert {done, buried, late} <= given.keys()
        await hand.settle(
            Settlement(id=done, token=given[done].token, outcome=Outcome.SUCCEEDED, result=b"\x01"),
            Settlement(id=buried, token=given[buried].token, outcome=Outcome.DEAD, reason="failed"),
            Settlement(id=late, token=given[late].token, outcome=Outcome.RETRY, delay_ms=0),
        )
        found = await producer.wait(done, 1)
        assert found is not None
        assert found.state == "succeeded"
        await worker.adopt("w-1", hand.queues, [])
        await producer.enqueue([new_task(queue="large", body=bytes(600_000)) for _ in range(2)])
        assert [len(await hand.fetch(epoch=asked.epoch, queues=["large"])) for _ in range(2)] == [1, 1]
        await worker.sweep(hand.queues)
        await worker.reconcile()
        async with recorded(operator, "replay", [buried]) as tally:
            tally.add_all(await operator.replay([buried]))
        assert tally.counts == {"queued": 1}
        assert tally.warnings == []
        assert await operator.purge(hand.queues[0], "waiting") > 0
        await viewer.events.watch("v", for_ms=1000)
        await viewer.events.tail()
        await viewer.events.unwatch("v")
        for reader in (viewer, operator):
            snapshot = await take(reader, clock=SystemClock(), minutes=1, history=10, info=True)
            assert not snapshot.refused
            await reader.census.tasks("dead")
            assert [row.verb for row in (await reader.census.audit()).items] == ["replay", "revoke", "pause"]
        await worker.leave("w-1", hand.queues)
    finally:
        for broker in brokers.values():
            await broker.close()
    with redis.Redis(port=server.port) as admin:
        assert admin.execute_command("ACL", "LOG") == []


async def test_a_worker_with_the_rights_of_an_older_version_gets_large_bodies_as_before(server: Server) -> None:
    """It may not put back what has no room in an answer: so all of it is handed out, and nothing is lost."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "shop-worker", "-xgroup|setid")
    producer, worker = (connect_broker(url_of(server, role), namespace="shop") for role in ("producer", "worker"))
    try:
        await producer.enqueue([new_task(f"t-{n}", body=bytes(600_000)) for n in range(4)])

        deliveries = await Hand(broker=worker, id="w-1").fetch()

        assert [delivery.id for delivery in deliveries] == ["t-0", "t-1", "t-2", "t-3"]
        # But no more is read than was asked for at once, once that is too much.
        await producer.enqueue([new_task(f"x-{n}", body=bytes(600_000), expires_ms=1) for n in range(4)])
        late = await Hand(broker=worker, id="w-1").exchange(count=1)
        assert ([one.id for one in late.expired], late.more) == (["x-0", "x-1"], True)
    finally:
        await producer.close()
        await worker.close()


async def test_a_viewer_with_the_rights_of_an_older_version_still_counts(server: Server) -> None:
    """It may not ask how many are due: the one that is known to be is counted as ready, and its age is told."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "shop-viewer", "-zcount")
    producer, viewer = (connect_broker(url_of(server, role), namespace="shop") for role in ("producer", "viewer"))
    try:
        await producer.enqueue([new_task(f"t-{n}", delay_ms=1) for n in range(3)])

        async def is_due() -> bool:
            (row,) = await viewer.census.queues()
            return (row.ready, row.delayed) == (1, 2) and row.oldest_ms is not None

        await eventually(is_due, what="one of them counts as ready")
    finally:
        await producer.close()
        await viewer.close()


EVERYBODY: Final = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET dir", "KEYS *", "ACL LIST", "MONITOR", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0",
    "GET {other}:schema", "HGETALL {other}:task:1", "SET {other}:schema 1", "SUBSCRIBE {other}@0:control",
    "EVAL 0 1 {other}:", "RENAME {shop}:queues {shop}:x", "CLIENT KILL TYPE normal", "SCRIPT FLUSH",
)  # fmt: skip
OF_ROLE: Final = {
    "viewer": (
        "XADD {shop}:q:q:p5 * i 1", "HSET {shop}:desired:pause a b",
        "DEL {shop}:task:1", "SET {shop}:schema 9", "SCAN 0", "XADD {shop}:audit * a b",
        "ZADD {shop}:audit:outcomes 1 x",
    ),
    "producer": (
        "XADD {shop}:control:log * c x", "INCR {shop}:epoch", "LRANGE {shop}:history 0 1",
        "SUBSCRIBE {shop}@0:control", "DEL {shop}:task:1", "INFO", "SCAN 0",
    ),
    "worker": (
        "XADD {shop}:control:log * c x", "INCR {shop}:epoch", "XADD {shop}:audit * a b",
        "ZADD {shop}:audit:outcomes 1 x", "XREVRANGE {shop}:audit + -", "LRANGE {shop}:history 0 1",
        "SET {shop}:fence 1",
    ),
    "operator": ("HSET {shop}:worker:w s x", "XADD {shop}:events * b x", "BLPOP {shop}:q:q:bell 1"),
}  # fmt: skip


@pytest.mark.parametrize("role", list(OF_ROLE))
def test_the_server_refuses_what_is_not_a_roles_work(server: Server, role: str) -> None:
    """By its own rules: a NOPERM for each of these, which change nothing."""
    with redis.Redis(port=server.port, username=f"shop-{role}", password="secret") as client:
        for action in (*EVERYBODY, *OF_ROLE[role]):
            with pytest.raises(redis.ResponseError) as refused:
                client.execute_command(*action.split())
            said = str(refused.value).lower()
            assert "permission" in said, (action, said)


async def test_operators_and_viewers_may_look_behind_the_scenes(server: Server) -> None:
    """Not at the server's settings, which are everybody's; a viewer not at the names of others' keys."""
    found = {}
    for role in ("operator", "viewer"):
        broker = connect_broker(url_of(server, role), namespace="shop")
        try:
            found[role] = set((await broker.census.examine()).refused)
        finally:
            await broker.close()

    assert found == {"operator": {"settings"}, "viewer": {"settings", "keyspace"}}


async def test_calls_of_another_role_are_refused(server: Server) -> None:
    """The same through the library: enqueue, steer, work, purge and replay are of the roles that they are of."""
    allowed: dict[str, tuple[str, ...]] = {
        "producer": ("enqueue",),
        "viewer": (),
        "worker": ("enqueue", "exchange"),
        "operator": ("enqueue", "issue"),
    }
    for role, may in allowed.items():
        broker = connect_broker(url_of(server, role), namespace="shop")
        try:
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "enqueue": partial(enqueue, broker, task_id=f"t-{role}"),
                "issue": partial(Operator(broker=broker).issue, "pause", SetPause(kind="queue", targets=["other"])),
                "purge": partial(broker.purge, QUEUE, "waiting"),
                "exchange": partial(Hand(broker=broker, id="w-2").fetch, epoch=99),
            }
            for name, call in calls.items():
                if name in may or (role, name) == ("operator", "purge"):
                    await call()
                    continue
                with pytest.raises(BrokerRefusedError) as refused:
                    await call()
                assert refused.value.code == "NOPERM", (role, name)
        finally:
            await broker.close()


def test_the_page_shows_what_is_printed() -> None:
    """And no rule has a password."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for rule in access_rules("shop").values():
        assert rule in page
        assert not any(word.startswith((">", "#")) or word == "nopass" for word in rule.split())


@pytest.mark.parametrize("kind", KINDS)
def test_users_in_a_file_outlive_a_restart_and_need_a_line_for_default(kind: Kind, tmp_path: Path) -> None:
    """The page says so: with such a file `requirepass` is ignored, and only its own line closes the user `default`."""
    if kind == "redis" and redis_server_path() is None:
        pytest.skip("redis-server is not on PATH")
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(user default on >PASSWORD [^`]+)`", page)
    users = tmp_path / "users.acl"
    users.touch()
    server = Server(kind=kind, tcp=True, options=("--aclfile", str(users), "--requirepass", "PASSWORD")).start()
    try:
        assert server.command("ACL", "WHOAMI") == "default", "without a password"
        server.command(*access_rules("shop")["worker"].split())
        server.command("ACL", "SETUSER", "shop-worker", ">secret")
        server.command("ACL", "SAVE")

        server.restart()

        with redis.Redis(port=server.port, username="shop-worker", password="secret") as worker:
            assert worker.ping()
        users.write_text(f"{line}\n")
        server.command("ACL", "LOAD")
        with pytest.raises(redis.AuthenticationError):
            server.command("PING")
        with redis.Redis(port=server.port, password="PASSWORD") as boss:
            assert boss.execute_command("ACL", "SETUSER", "default", "off")
        with redis.Redis(port=server.port, password="PASSWORD") as boss, pytest.raises(redis.AuthenticationError):
            boss.ping()
    finally:
        server.remove()


async def test_a_real_worker_works_and_answers_under_its_rights(server: Server) -> None:
    """Bells, beats, retries, replies, results, a revoke and a warm stop; producer and operator under theirs."""
    registry = SimpleTaskRegistry()
    app = Stem(connect_broker(url_of(server, "worker"), namespace="shop"), registry)
    tried: list[int] = []

    @app.task("twice", max_retries=1)
    async def twice(context: TaskContext) -> str:
        tried.append(context.attempt)
        if context.attempt == 0:
            raise ValueError("once more")
        return "done"

    @app.task("long")
    async def long(context: TaskContext) -> None:
        await asyncio.sleep(60)

    worker = Worker(broker=app.broker, registry=registry, config=StemConfig(heartbeat_interval_s=0.3))
    producing = Stem(connect_broker(url_of(server, "producer"), namespace="shop"), SimpleTaskRegistry())
    operating = connect_broker(url_of(server, "operator"), namespace="shop")
    control = Controller(operating, timeout_s=5.0)
    try:
        await worker.start()
        await asyncio.sleep(0.5)  # idle: it waits for the bell
        assert (await producing.wait_for(await producing.enqueue("twice"), timeout=20)).state.value == "succeeded"
        assert tried == [0, 1]
        assert (await control.ping()).replied == 1
        running = await producing.enqueue("long")
        await eventually(lambda: worker.stats()["in_flight"] == 1)
        assert (await control.pause("queue", ["default"], wait_s=5)).applied == 1
        assert [item.outcome for item in (await control.revoke([running], terminate=True, wait_s=10)).items]
        assert (await control.resume("queue", ["default"], wait_s=5)).applied == 1
        assert (await control.shutdown(wait_s=10)).applied == 1
        assert await worker.wait() == 0
    finally:
        await worker.shutdown("hard")
        for one in (app, producing):
            await one.close()
        for broker in (app.broker, producing.broker, operating):
            await broker.close()
    with redis.Redis(port=server.port) as admin:
        assert admin.execute_command("ACL", "LOG") == []
