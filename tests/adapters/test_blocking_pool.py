"""The blocking client's pool: what is handed out is well and nobody else's. For forks: flow/test_sync_processes.py."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from stem.adapters.redis.address import parse_address
from stem.adapters.redis.client import make_blocking
from stem.adapters.redis.connections import BlockingPool, ask_blocking, ask_many_blocking
from tests.servers import Server


@pytest.fixture
def pool(valkey_server: Server) -> Iterator[BlockingPool]:
    client = make_blocking(parse_address(valkey_server.url), reply_timeout_s=5.0, client_name="pool")
    made = client.connection_pool
    assert isinstance(made, BlockingPool)
    yield made
    client.close()
    assert not any(each.is_connected for each in made._available_connections)


def test_one_connection_serves_call_after_call(pool: BlockingPool) -> None:
    ids = {ask_blocking(pool, "CLIENT", "ID") for _ in range(5)}

    assert len(ids) == 1


def test_a_connection_that_was_closed_meanwhile_is_made_anew(pool: BlockingPool, valkey_server: Server) -> None:
    before = ask_blocking(pool, "CLIENT", "ID")
    valkey_server.command("CLIENT", "KILL", "ID", before)

    assert ask_blocking(pool, "PING") == b"PONG"
    assert ask_blocking(pool, "CLIENT", "ID") != before


def test_a_call_in_a_hurry_leaves_the_connection_its_time_outs(pool: BlockingPool) -> None:
    assert ask_blocking(pool, "PING", within_s=0.5) == b"PONG"
    connection = pool.get_connection()
    assert (connection.socket_timeout, connection._sock.gettimeout()) == (5.0, 5.0)
    pool.release(connection)

    with pytest.raises(redis.TimeoutError):
        ask_blocking(pool, "BLPOP", "nothing", 2, within_s=0.1)

    assert ask_blocking(pool, "ECHO", "mine", within_s=0.5) == b"mine"
    connection = pool.get_connection()
    assert (connection.socket_timeout, connection._sock.gettimeout()) == (5.0, 5.0)
    pool.release(connection)
    assert not pool._in_use_connections


def test_a_connection_that_is_not_made_in_time_is_given_back_with_its_time_outs(
    pool: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may take it at once: it would have kept the short ones for good."""
    pool.release(pool.get_connection())
    (connection,) = pool._available_connections
    seen: list[tuple[float | None, float | None]] = []
    release = pool.release

    def refuse() -> None:
        assert connection.socket_timeout == 0.5
        raise redis.ConnectionError("refused")

    def released(given: redis.Connection) -> None:
        seen.append((given.socket_timeout, given.socket_connect_timeout))
        release(given)

    connection.disconnect()
    usual = connection.socket_timeout, connection.socket_connect_timeout
    monkeypatch.setattr(connection, "connect", refuse)
    monkeypatch.setattr(pool, "release", released)

    with pytest.raises(redis.ConnectionError, match="refused"):
        ask_blocking(pool, "PING", within_s=0.5)

    assert seen[-1] == usual


def test_a_reply_that_nobody_asked_for_is_given_to_nobody(pool: BlockingPool) -> None:
    connection = pool.get_connection()
    connection.send_command("ECHO", "another's")
    assert select.select([connection._sock], [], [], 5)[0]
    pool.release(connection)

    assert ask_blocking(pool, "ECHO", "mine") == b"mine"


class Interrupted(BaseException):
    """As a signal's handler raises it, or a soft time limit in a thread: between any two lines."""


def interrupted_after(deed: Callable[..., Any]) -> Callable[..., Any]:
    def done(*args: Any, **options: Any) -> Any:
        deed(*args, **options)
        raise Interrupted

    return done


@pytest.mark.parametrize("within_s", [None, 3.0])
def test_a_call_that_was_interrupted_leaves_its_reply_to_nobody(
    pool: BlockingPool, monkeypatch: pytest.MonkeyPatch, within_s: float | None
) -> None:
    """The reply is late: nothing of it is there to be seen when the next call begins."""
    pool.release(pool.get_connection())
    (connection,) = pool._available_connections
    with monkeypatch.context() as patch:
        patch.setattr(connection, "send_command", interrupted_after(connection.send_command))
        with pytest.raises(Interrupted):
            ask_blocking(pool, "BLPOP", "nothing", "0.5", within_s=within_s)

    assert ask_blocking(pool, "ECHO", "mine", within_s=within_s) == b"mine"
    assert not pool._in_use_connections


def test_many_that_were_interrupted_leave_their_replies_to_nobody(
    pool: BlockingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask_many_blocking(pool, [("ECHO", "one"), ("ECHO", "two")]) == [b"one", b"two"]
    (connection,) = pool._available_connections
    with monkeypatch.context() as patch:
        patch.setattr(connection, "send_packed_command", interrupted_after(connection.send_packed_command))
        with pytest.raises(Interrupted):
            ask_many_blocking(pool, [("BLPOP", "nothing", "0.5"), ("ECHO", "another's")])

    assert ask_many_blocking(pool, [("ECHO", "mine")]) == [b"mine"]
    assert not pool._in_use_connections


@pytest.mark.parametrize("within_s", [None, 3.0])
def test_a_greeting_that_was_interrupted_leaves_its_reply_to_nobody(
    pool: BlockingPool, monkeypatch: pytest.MonkeyPatch, within_s: float | None
) -> None:
    pool.release(pool.get_connection())
    (connection,) = pool._available_connections
    connection.disconnect()
    send = connection.send_command
    with monkeypatch.context() as patch:
        late = interrupted_after(lambda *_, **options: send("BLPOP", "nothing", "0.5", **options))
        patch.setattr(connection, "send_command", late)  # instead of the greeting
        with pytest.raises(Interrupted):
            ask_blocking(pool, "PING", within_s=within_s)

    assert ask_blocking(pool, "ECHO", "mine", within_s=within_s) == b"mine"
    assert not pool._in_use_connections


def test_an_error_among_many_is_told_in_its_place(pool: BlockingPool) -> None:
    before = ask_blocking(pool, "CLIENT", "ID")

    first, refused, last = ask_many_blocking(pool, [("ECHO", "one"), ("GET",), ("ECHO", "two")])

    assert (first, last) == (b"one", b"two")
    assert isinstance(refused, redis.ResponseError)
    assert ask_blocking(pool, "CLIENT", "ID") == before


def test_a_refused_command_leaves_the_connection_in_use_for_nobody(pool: BlockingPool) -> None:
    before = ask_blocking(pool, "CLIENT", "ID")
    with pytest.raises(redis.ResponseError):
        ask_blocking(pool, "GET")

    assert ask_blocking(pool, "CLIENT", "ID") == before
    assert not pool._in_use_connections


def test_calls_at_the_same_time_have_connections_of_their_own(pool: BlockingPool) -> None:
    got: list[bytes] = []
    at_once = threading.Barrier(4, timeout=10)

    def call(word: bytes) -> None:
        at_once.wait()
        got.extend(ask_blocking(pool, "ECHO", word) for _ in range(50))

    threads = [threading.Thread(target=call, args=(b"%d" % number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(got) == sorted(b"%d" % number for number in range(4) for _ in range(50))
    assert not pool._in_use_connections
