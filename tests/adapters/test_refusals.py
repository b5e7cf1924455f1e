"""What a server refuses is told as what it is, and never as a task that nobody knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import redis

from stem.adapters.redis import RedisStreamsBroker
from stem.adapters.redis.blocking import BlockingRedisBroker
from stem.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.testing.case import event, new_task
from tests.conftest import OwnServer
from tests.servers import Server
from tests.waiting import eventually, wait_until

LOOKS: dict[str, Callable[[BlockingRedisBroker], object]] = {
    "statuses": lambda handle: handle.statuses(["t"]),
    "wait": lambda handle: handle.wait("t", 0),
}


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """A server that answers BUSY: a script that reads for ever runs past its time."""
    server.command("CONFIG", "SET", "lua-time-limit", 1)

    def spin() -> None:
        with pytest.raises(redis.ResponseError, match="killed"):
            server.command("EVAL", "while true do end", 0)

    def says_busy() -> bool:
        try:
            server.command("PING")
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        wait_until(says_busy)
        yield
    finally:
        server.command("SCRIPT", "KILL")
        thread.join(10)


async def test_a_task_that_may_not_be_looked_at_is_not_told_as_unknown(own_server: OwnServer) -> None:
    server = own_server(aof=False)
    server.command("ACL", "SETUSER", "half", "on", ">right", "~*", "&*", "+@all", "-hmget", "-hget")
    server.command("ZADD", "{stem}:workers", 1, "w")  # its heartbeat is read by HGET
    broker = RedisStreamsBroker(server.url.replace("://", "://half:right@"))

    for look in (broker.statuses(["t"]), broker.body("t"), broker.presence.workers()):
        with pytest.raises(BrokerRefusedError) as caught:
            await look
        assert caught.value.code == "NOPERM"
    await broker.close()


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_nor_by_the_blocking_handle(own_server: OwnServer, look: Callable[[BlockingRedisBroker], object]) -> None:
    server = own_server(aof=False)
    server.command("ACL", "SETUSER", "half", "on", ">right", "~*", "&*", "+@all", "-hmget")
    handle = RedisStreamsBroker(server.url.replace("://", "://half:right@")).blocking()

    with pytest.raises(BrokerRefusedError) as caught:
        look(handle)

    assert caught.value.code == "NOPERM"
    handle.close()


async def test_a_busy_server_is_told_as_one(own_server: OwnServer) -> None:
    server = own_server(aof=False)
    broker = RedisStreamsBroker(server.url)
    await broker.enqueue([new_task("t")])

    with busy(server), pytest.raises(BrokerUnreachableError, match="BUSY"):
        await broker.statuses(["t"])

    assert [status.id for status in await broker.statuses(["t"]) if status is not None] == ["t"]
    await broker.close()


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_and_by_the_blocking_handle(own_server: OwnServer, look: Callable[[BlockingRedisBroker], object]) -> None:
    server = own_server(aof=False)
    handle = RedisStreamsBroker(server.url).blocking()
    handle.enqueue([new_task("t")])

    with busy(server), pytest.raises(BrokerUnreachableError, match="BUSY"):
        look(handle)

    handle.close()


async def test_a_key_of_another_type_is_no_task_and_hides_no_other(
    valkey_server: Server, valkey_url: str, namespace: str
) -> None:
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    await broker.enqueue([new_task("good")])
    valkey_server.command("SET", f"{{{namespace}}}:task:bad", "text")
    handle = broker.blocking()

    here, there = await broker.statuses(["bad", "good"]), handle.statuses(["bad", "good"])

    assert [[status and status.id for status in found] for found in (here, there)] == [[None, "good"]] * 2
    assert handle.wait("bad", 0) is None
    handle.close()
    await broker.close()


async def test_events_are_dropped_at_maxmemory_and_nothing_else_is_hidden(own_server: OwnServer) -> None:
    server = own_server(aof=False)
    broker = RedisStreamsBroker(server.url)
    await broker.events.watch("screen", for_ms=60_000)
    server.command("CONFIG", "SET", "maxmemory", "1mb")

    await broker.events.emit([event(1)])

    assert server.command("XLEN", "{stem}:events") == 0
    server.command("CONFIG", "SET", "maxmemory", 0)
    await broker.events.emit([event(2)])
    assert list((await broker.events.read("0-0", timeout_s=1)).events) == [event(2)]
    server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(BrokerRefusedError, match="replica"):
        await broker.events.emit([event(3)])
    await broker.close()


@asynccontextmanager
async def refusing(path: Path, line: str) -> AsyncIterator[str]:
    """A server's double that lets everybody connect, and answers each command with this error."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(b"+OK\r\n" if b"SETNAME" in data else b"-" + line.encode() + b"\r\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix://{path}"
    finally:
        server.close()


NOT_READY = [
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
]


@pytest.mark.parametrize("line", NOT_READY)
async def test_a_server_that_is_not_ready_was_not_reached(tmp_path: Path, line: str) -> None:
    assert type(await _told(tmp_path / "s", line)) is BrokerUnreachableError


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("READONLY You can't write against a read only replica.", "READONLY"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.", "MISCONF"),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("NOPERM User half has no permissions to run the 'get' command", "NOPERM"),
        ("MOVED 3999 127.0.0.1:6381", "MOVED"),
        ("ASK 3999 127.0.0.1:6381", "ASK"),
    ],
)
async def test_a_refusal_keeps_its_code(tmp_path: Path, line: str, code: str) -> None:
    error = await _told(tmp_path / "s", line)

    assert isinstance(error, BrokerRefusedError)
    assert error.code == code


async def _told(path: Path, line: str) -> BrokerError:
    async with refusing(path, line) as url:
        broker = RedisStreamsBroker(url)
        with pytest.raises(BrokerError) as caught:
            await broker.statuses(["t"])
        await broker.close()
        return caught.value


KINDS = ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)]


@pytest.mark.parametrize("kind", KINDS)
async def test_who_waits_in_a_command_when_its_server_becomes_a_replica_is_cut_off(
    own_server: OwnServer, kind: str
) -> None:
    server = own_server(kind=kind, aof=False)
    broker = RedisStreamsBroker(server.url)
    reading = asyncio.create_task(broker.events.read("0-0", timeout_s=5))
    await eventually(lambda: server.command("INFO", "clients")["blocked_clients"] == 1)

    server.command("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(UnknownOutcomeError, match="UNBLOCKED"):
        await reading
    await broker.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_replica_without_its_primary_was_not_reached(own_server: OwnServer, kind: str) -> None:
    server = own_server(kind=kind, aof=False, options=("--replica-serve-stale-data", "no"))
    broker = RedisStreamsBroker(server.url)
    await broker.statuses(["t"])
    server.command("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(BrokerUnreachableError, match="not ready"):
        await broker.statuses(["t"])

    await broker.close()
