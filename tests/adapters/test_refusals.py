"""What a server refuses is told as what it is, and never as a task that nobody knows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from stem.adapters.redis import RedisStreamsBroker
from stem.adapters.redis.blocking import BlockingRedisBroker
from stem.errors import BrokerRefusedError, BrokerUnreachableError
from stem.testing.case import new_task
from tests.conftest import OwnServer
from tests.servers import Server
from tests.waiting import wait_until

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
