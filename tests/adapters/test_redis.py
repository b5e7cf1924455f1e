"""What is particular to the adapter on Redis; what every adapter does is in the contract suite."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stem.adapters.redis import RedisResultBackend, RedisStreamsBroker, subscription
from stem.adapters.redis.address import parse_address
from stem.contracts import Beat, FetchRequest, NewTask, Outcome, RevokeTasks, SetPause, Settlement
from stem.errors import BrokerRefusedError, BrokerUnreachableError, ConfigError
from stem.messages.command import Command
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat
from tests.conftest import OwnServer
from tests.servers import Server
from tests.waiting import eventually

ANY_EPOCH = 1_000_000


def new_task(*, queue: str = "q", delay_ms: int | None = None, size: int = 10) -> NewTask:
    task_id = new_task_id()
    body = Envelope(id=task_id, task="t", args={"a": "x" * size}).encode()
    return NewTask(id=task_id, task="t", queue=queue, body=body, delay_ms=delay_ms)


def heartbeat(worker: str = "w") -> Heartbeat:
    return Heartbeat(id=worker, name=worker, started_at_ms=1, host="h", pid=1, version="1", queues=("q",))


def fetch(count: int = 10) -> FetchRequest:
    return FetchRequest(queues=["q"], count=count, epoch=ANY_EPOCH)


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://user:secret@host:1/2", "redis://user@host:1/2"),
        ("valkey://:secret@host", "redis://host:6379/0"),
        ("unix:///run/s?db=3", "unix:///run/s?db=3"),
        ("redis://[::1]:7000/1", "redis://[::1]:7000/1"),
    ],
)
def test_an_address_is_shown_without_its_secret(url: str, shown: str) -> None:
    address = parse_address(url)

    assert str(address) == shown
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost",
        "redis://",
        "redis://host:port",
        "redis://host/x",
        "redis://host/-1",
        "redis://host?socket_timeout=0",
        "rediss://host?ssl_cert_reqs=none",
        "unix://relative",
        "redis://:hunter2@host:99999",
    ],
)
def test_another_url_is_refused_with_the_accepted_form(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(url)

    assert "hunter2" not in str(caught.value)


async def test_scripts_survive_a_flush_of_the_script_cache(broker: RedisStreamsBroker, valkey_server: Server) -> None:
    await broker.enqueue([new_task()])
    valkey_server.command("SCRIPT", "FLUSH")

    answer = await broker.exchange("w", [], fetch())

    assert len(answer.deliveries) == 1


async def test_a_time_of_enqueue_is_stored_where_its_own_entry_names_another(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """Ids of entries only rise: after the server's clock was set back they are ahead of it."""
    first, second = new_task(), new_task()
    await broker.enqueue([first])
    tomorrow_ms = (await broker.control.read(0)).now_ms + 86_400_000
    valkey_server.command("XADD", f"{{{namespace}}}:q:q:p0", f"{tomorrow_ms}-0", "i", "ahead")
    before_ms = (await broker.control.read(0)).now_ms

    await broker.enqueue([second])

    names = [valkey_server.command("HGET", f"{{{namespace}}}:task:{each.id}", "at") for each in (first, second)]
    assert names[0] is None
    (status,) = await broker.statuses([second.id])
    assert status is not None
    assert status.enqueued_at_ms == int(names[1])
    assert before_ms <= int(names[1]) < before_ms + 60_000


async def test_a_time_of_enqueue_outlives_its_own_entry(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """Of a task that runs, and whose stream and lease the server lost."""
    task = new_task()
    await broker.enqueue([task])
    (delivery,) = (await broker.exchange("w", [], fetch())).deliveries
    valkey_server.command("DEL", f"{{{namespace}}}:q:q:p0", f"{{{namespace}}}:q:q:lease")
    await asyncio.sleep(0.01)

    cursor, repaired = await broker.reconcile()
    while cursor != "0":
        cursor, more = await broker.reconcile(cursor)
        repaired += more

    assert repaired == 1
    (status,) = await broker.statuses([task.id])
    assert status is not None
    assert (status.state, status.enqueued_at_ms) == ("queued", delivery.enqueued_at_ms)


async def test_one_command_is_one_publish(broker: RedisStreamsBroker, valkey_server: Server, namespace: str) -> None:
    def published() -> int:
        # MONITOR does not show what scripts call on every server; the statistics count it everywhere.
        stats = valkey_server.command("INFO", "commandstats")
        return int(stats.get("cmdstat_publish", {"calls": 0})["calls"])

    listener = broker.clone()
    await listener.control.subscribe()
    before = published()

    await broker.control.issue(Command(id="c1", type="revoke"), RevokeTasks(ids=["a", "b"]))

    assert published() - before == 1
    assert valkey_server.command("PUBSUB", "NUMSUB", f"{{{namespace}}}@0:control")[1] == 1
    assert await listener.control.wake(1)
    await listener.close()


@pytest.fixture
def _idle_as_long_as_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever returns far below that was woken, also on a machine that stalls for a second."""
    monkeypatch.setattr("stem.adapters.redis.broker.LONGEST_IDLE_S", 20.0)


@pytest.mark.usefixtures("_idle_as_long_as_is_asked_for")
async def test_an_idle_wait_ends_on_time_and_leaves_no_reader_behind(broker: RedisStreamsBroker) -> None:
    await broker.enqueue([new_task(delay_ms=3_600_000)])
    await broker.idle(["q"], 0.5)  # the bell that the new earliest due time rang

    took = []
    for _ in range(10):
        started = time.monotonic()
        await broker.idle(["q"], 0.03)
        took.append(time.monotonic() - started)

    # The shortest: a busy machine makes some of them longer. An idle server's own time-outs take 100 ms.
    assert 0.025 < min(took) < 0.09
    # Had the reader stayed, it would take this token, and the next wait would sleep.
    await broker.enqueue([new_task()])
    started = time.monotonic()
    await broker.idle(["q"], 20)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)])
async def test_an_idle_wait_ends_no_server_that_holds_writes_back(own_server: OwnServer, kind: str) -> None:
    """Redis 7.0 ends with "Unknown btype" when a client is unblocked that CLIENT PAUSE WRITE holds back.

    A planned failover is such a pause.
    """
    server = own_server(kind=kind)
    broker = RedisStreamsBroker(server.url, namespace="paused")
    await broker.idle(["q"], 0.01)
    server.command("CLIENT", "PAUSE", 700, "WRITE")

    await broker.idle(["q"], 0.1)
    await broker.idle(["q"], 0.1)

    assert not server.exited
    assert server.command("PING")
    await broker.close()


@pytest.mark.usefixtures("_idle_as_long_as_is_asked_for")
async def test_a_cancelled_idle_wait_loses_no_bell(broker: RedisStreamsBroker) -> None:
    waiting = asyncio.create_task(broker.idle(["q"], 20))
    await asyncio.sleep(0)
    await eventually(lambda: bool(broker._bell._sleepers))
    waiting.cancel()
    await asyncio.wait({waiting})

    await broker.enqueue([new_task()])
    started = time.monotonic()
    await broker.idle(["q"], 20)

    assert time.monotonic() - started < 10


async def test_a_wait_ends_although_its_subscription_was_cut(
    broker: RedisStreamsBroker, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stem.adapters.redis.broker._LOOK_AGAIN_S", 0.2)
    task = new_task()
    await broker.enqueue([task])
    waiting = asyncio.create_task(broker.wait(task.id, 25))
    await eventually(lambda: broker._waits._told)
    await eventually(lambda: int(valkey_server.command("CLIENT", "KILL", "TYPE", "pubsub")) > 0)

    delivery = (await broker.exchange("w", [], fetch())).deliveries[0]
    settlement = Settlement(id=task.id, token=delivery.token, outcome=Outcome.SUCCEEDED, result=b"\xc0")
    await broker.exchange("w", [settlement], None)

    status = await asyncio.wait_for(waiting, 10)
    assert status is not None
    assert status.succeeded


async def test_a_wait_goes_on_when_what_it_was_told_of_is_no_end_any_more(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may have been given a new life since, of whose end nobody would tell who does not ask again."""
    monkeypatch.setattr("stem.adapters.redis.broker._LOOK_AGAIN_S", 25.0)
    task = new_task()
    await broker.enqueue([task])
    waiting = asyncio.create_task(broker.wait(task.id, 25))
    key, channel = f"{{{namespace}}}:task:{task.id}", f"{{{namespace}}}@0:done:{broker._waits.client_id}"
    await eventually(lambda: valkey_server.command("HDEL", key, "w"))

    valkey_server.command("PUBLISH", channel, task.id)
    await eventually(lambda: valkey_server.command("HGET", key, "w"))
    assert not waiting.done()

    (delivery,) = (await broker.exchange("w", [], fetch())).deliveries
    settlement = Settlement(id=task.id, token=delivery.token, outcome=Outcome.SUCCEEDED, result=b"\xc0")
    began = time.monotonic()
    await broker.exchange("w", [settlement], None)
    status = await waiting
    assert status is not None
    assert status.succeeded
    assert time.monotonic() - began < 10


async def test_a_silent_subscription_is_given_up(own_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PING_EVERY_S", 0.2)
    monkeypatch.setattr(subscription, "PONG_WITHIN_S", 1.5)
    server = own_server(aof=False)
    broker = RedisStreamsBroker(server.url)
    await broker.control.subscribe()
    assert not await broker.control.wake(2.0)  # it answers pings: nothing is wrong
    server.sigstop()

    monkeypatch.setattr(subscription, "PONG_WITHIN_S", 0.3)
    started = time.monotonic()
    with pytest.raises(BrokerUnreachableError, match="PING"):
        await broker.control.wake(30)

    assert time.monotonic() - started < 5
    server.sigcont()
    await broker.close()


async def test_at_maxmemory_nothing_is_enqueued_but_work_goes_on(own_server: OwnServer) -> None:
    server = own_server(aof=False)
    broker = RedisStreamsBroker(server.url)
    task = new_task()
    await broker.enqueue([task])
    server.command("CONFIG", "SET", "maxmemory", "1mb")

    with pytest.raises(BrokerRefusedError) as caught:
        await broker.enqueue([new_task()])
    assert caught.value.code == "OOM"

    delivery = (await broker.exchange("w", [], fetch())).deliveries[0]
    settlement = Settlement(id=task.id, token=delivery.token, outcome=Outcome.RETRY, delay_ms=1)
    assert (await broker.exchange("w", [settlement], None)).settled == ["applied"]
    await broker.presence.beat(Beat(heartbeat=heartbeat()))
    await broker.control.issue(Command(id="c", type="pause"), SetPause(kind="queue", targets=["q"]))
    await broker.close()


async def test_an_end_of_no_known_kind_ends_nothing(broker: RedisStreamsBroker) -> None:
    """A byte that changed in the outcome made a state of it that nobody looks for; the task went with its record."""
    task = new_task()
    await broker.enqueue([task])
    (delivery,) = (await broker.exchange("w", [], fetch())).deliveries

    async def settle(outcome: str) -> list[str]:
        end = Settlement(id=task.id, token=delivery.token, outcome=cast("Outcome", SimpleNamespace(value=outcome)))
        return [str(answer) for answer in (await broker.exchange("w", [end], None)).settled]

    for unknown in ("give_bbck", "Succeeded", "running", ""):
        assert await settle(unknown) == ["lost"]
    assert await settle("succeeded") == ["applied"]


async def test_a_wrong_password_is_refused_and_not_shown(own_server: OwnServer) -> None:
    server = own_server(aof=False, tcp=True)
    server.command("CONFIG", "SET", "requirepass", "right")

    with pytest.raises(BrokerRefusedError) as caught:
        await RedisStreamsBroker.connect(server.tcp_url.replace("redis://", "redis://:hunter2@"))

    assert "hunter2" not in str(caught.value)
    assert caught.value.code == "WRONGPASS"


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)])
async def test_a_missing_password_is_another_refusal_than_a_wrong_one(own_server: OwnServer, kind: str) -> None:
    server = own_server(kind=kind, aof=False, tcp=True)
    server.command("CONFIG", "SET", "requirepass", "right")

    with pytest.raises(BrokerRefusedError) as caught:
        await RedisStreamsBroker.connect(server.tcp_url)

    assert caught.value.code == "NOAUTH"


async def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(BrokerUnreachableError, match="Is the server running"):
        await RedisStreamsBroker.connect("redis://127.0.0.1:1")
    with pytest.raises(BrokerUnreachableError, match="Is the server running"):
        await RedisStreamsBroker.connect("unix:///nonexistent/socket")


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)])
@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_wrong_password_is_a_refusal_that_waiting_does_not_heal(
    own_server: OwnServer, kind: str, transport: str
) -> None:
    server = own_server(kind=kind, tcp=True, aof=False)
    server.command("ACL", "SETUSER", "worker", "on", ">right", "~*", "&*", "+@all")
    where = server.tcp_url if transport == "tcp" else server.url
    broker = RedisStreamsBroker(where.replace("://", "://worker:wrong@"))

    with pytest.raises(BrokerRefusedError) as caught:
        await broker.census.queues()

    assert caught.value.code == "WRONGPASS"
    await broker.close()


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)])
async def test_a_right_that_only_a_script_needs_is_told_as_a_missing_right(own_server: OwnServer, kind: str) -> None:
    server = own_server(kind=kind, aof=False)
    server.command("ACL", "SETUSER", "worker", "on", ">right", "~*", "&*", "+@all", "-hset")
    broker = RedisStreamsBroker(server.url.replace("://", "://worker:right@"))

    with pytest.raises(BrokerRefusedError, match="enqueue") as caught:
        await broker.enqueue([new_task()])

    assert caught.value.code == "NOPERM"
    await broker.close()


async def test_a_server_that_became_a_replica_is_left_for_whoever_the_url_means_now(
    own_server: OwnServer, tmp_path: Path
) -> None:
    """It keeps its connections, so they would lead there for ever."""
    first, second = own_server(tcp=True, aof=False), own_server(tcp=True, aof=False)
    here = tmp_path / "s"
    here.symlink_to(first.socket)
    broker = RedisStreamsBroker(f"unix://{here}")
    await broker.enqueue([new_task()])
    first.command("REPLICAOF", "127.0.0.1", second.port)
    here.unlink()
    here.symlink_to(second.socket)

    with pytest.raises(BrokerRefusedError, match="replica"):
        await broker.enqueue([new_task()])
    (answer,) = await broker.enqueue([new_task()])

    assert answer.outcome == "queued"
    await broker.close()


async def test_an_entry_that_somebody_was_given_and_never_started_is_put_back(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """A script that was refused half way left it with a consumer; nobody else is given it, and no lease runs out."""
    task = new_task()
    await broker.enqueue([task])
    stream = f"{{{namespace}}}:q:q:p0"
    valkey_server.command("XREADGROUP", "GROUP", "stem", "gone", "COUNT", 1, "STREAMS", stream, ">")
    assert (await broker.exchange("w", [], fetch())).deliveries == []

    _, repaired = await broker.reconcile()

    answer = await broker.exchange("w", [], fetch())
    assert (repaired, [delivery.id for delivery in answer.deliveries]) == (1, [task.id])
    assert valkey_server.command("XLEN", stream) == 1


async def test_a_destroyed_group_is_made_anew_and_nothing_is_passed_over(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    await broker.enqueue([new_task(), new_task()])
    valkey_server.command("XGROUP", "DESTROY", f"{{{namespace}}}:q:q:p0", "stem")

    answer = await broker.exchange("w", [], fetch())
    again = await broker.exchange("w", [], fetch())

    assert len(answer.deliveries) == 2
    assert (answer.mended, again.mended) == (["q"], [])


async def test_namespaces_and_databases_do_not_hear_each_other(valkey_url: str, namespace: str) -> None:
    here = RedisStreamsBroker(valkey_url, namespace=namespace)
    there = RedisStreamsBroker(f"{valkey_url}?db=1", namespace=namespace)
    await there.control.subscribe()

    await here.control.issue(Command(id="c", type="ping"))

    assert not await there.control.wake(0.2)
    assert (await there.control.read(0)).epoch == 0
    await here.close()
    await there.close()


async def test_what_waits_keeps_no_expiry_and_what_is_over_has_one(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    waiting, ending = new_task(), new_task()
    await broker.enqueue([ending, waiting])
    delivery = (await broker.exchange("w", [], fetch(1))).deliveries[0]
    settlement = Settlement(id=ending.id, token=delivery.token, outcome=Outcome.SUCCEEDED, ttl_ms=5_000)
    await broker.exchange("w", [settlement], None)

    assert valkey_server.command("PTTL", f"{{{namespace}}}:task:{waiting.id}") == -1
    assert 0 < valkey_server.command("PTTL", f"{{{namespace}}}:task:{ending.id}") <= 5_000


async def test_a_backend_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(BrokerUnreachableError):
        await RedisResultBackend.connect("redis://127.0.0.1:1/1")


@pytest.mark.parametrize(("slept_s", "missed"), [(5.0, False), (40.0, True)])
async def test_a_cursor_is_not_sure_after_a_sleep_of_the_machine(
    broker: RedisStreamsBroker, monkeypatch: pytest.MonkeyPatch, slept_s: float, missed: bool
) -> None:
    now_s = 100.0
    monkeypatch.setattr("stem.adapters.redis.events.boottime_s", lambda: now_s)
    await broker.events.watch("test", for_ms=60_000)
    long_ago = (await broker.events.read("1-0", timeout_s=0.001)).cursor
    await broker.events.emit([Event(kind="task.started", at_ms=1, worker="w", seq=1)])

    now_s += slept_s

    assert (await broker.events.read(long_ago, timeout_s=0.001)).missed is missed
