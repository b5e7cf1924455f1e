"""A server that answers garbage: named errors of the broker, in time, and the handle works again with a real one."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_type_hints

import pytest

from stem.adapters.redis import RedisResultBackend, RedisStreamsBroker, blocking, client, subscription
from stem.contracts import Beat, FetchRequest, Lease, NewTask, Outcome, Settlement
from stem.errors import BrokerError
from stem.messages.command import Command, Reply
from stem.messages.envelope import Envelope
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import TaskState, TaskStatus
from stem.text import clean
from tests.fuzz.garbage import FakeServer, Garbage
from tests.fuzz.sizes import TIMEOUT_S, random_for, reported, size

pytestmark = pytest.mark.timeout(TIMEOUT_S)

Answer = TypeVar("Answer")

REPLY_S: Final = 0.1
HANG_S: Final = 10.0
"""No call may take as long: it waits `REPLY_S` for a reply, and asks for a few."""
LANES: Final = 8
"""Handles at a time; most of their time is waiting for the end of a reply that does not come."""


END: Final = Settlement(id="t", token=1, outcome=Outcome.SUCCEEDED)


def beat() -> Beat:
    heartbeat = Heartbeat(id="w", name="w", started_at_ms=1, host="h", pid=1, version="1", queues=("q",))
    return Beat(heartbeat=heartbeat, leases=[Lease(id="t", token=1, lease_ms=1_000, queue="q")])


def calls_of(broker: RedisStreamsBroker, backend: RedisResultBackend) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return every call that asks the server."""
    task = NewTask(id="t", task="a", queue="q", body=Envelope(id="t", task="a").encode())
    status = TaskStatus(id="t", task="a", queue="q", state=TaskState.SUCCEEDED)
    census, channel = broker.census, broker.control
    listed: tuple[Any, ...] = ("running", "queued", "dead", "succeeded")
    return {
        "enqueue": lambda: broker.enqueue([task]),
        "exchange": lambda: broker.exchange("w", [END], FetchRequest(queues=["q"], count=9, epoch=1)),
        "adopt": lambda: broker.adopt("w", ["q"], []),
        "sweep": lambda: broker.sweep(["q"]),
        "leave": lambda: broker.leave("w", ["q"]),
        "extend": lambda: broker.extend("w", Lease(id="t", token=1, lease_ms=1, queue="q")),
        "statuses": lambda: broker.statuses(["t", "u"]),
        "body": lambda: broker.body("t"),
        "replay": lambda: broker.replay(["t"]),
        "purge": lambda: broker.purge("q", "dead"),
        "discard": lambda: broker.discard("q", ["t"]),
        "reconcile": broker.reconcile,
        "beat": lambda: broker.presence.beat(beat()),
        "workers": broker.presence.workers,
        "issue": lambda: channel.issue(Command(id="c", type="ping")),
        "read": lambda: channel.read(0),
        "reply": lambda: channel.reply(Reply(command_id="c", worker="w", name="w", stage="applied"), keep_ms=1),
        "replies": lambda: channel.replies("c", timeout_s=0.01),
        "subscribe": channel.subscribe,
        "wake": lambda: channel.wake(0.05),
        "emit": lambda: broker.events.emit([Event(kind="x", at_ms=1, worker="w", seq=1)]),
        "watch": lambda: broker.events.watch("me", for_ms=1),
        "tail": broker.events.tail,
        "events": lambda: broker.events.read("1-0", timeout_s=0.01),
        "queues": census.queues,
        **{f"tasks {state}": lambda state=state: census.tasks(state) for state in listed},  # type: ignore[misc]
        "history": census.history,
        "minutes": lambda: census.minutes(2),
        "pauses": census.pauses,
        "info": census.info,
        "wait": lambda: broker.wait("t", 0.01),
        "idle": lambda: broker.idle(["q"], 0.05),
        "store": lambda: backend.store(status, ttl_ms=1),
        "get": lambda: backend.get("t"),
    }


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REPLY_TIMEOUT_S", REPLY_S)
    monkeypatch.setattr(client, "LONGEST_BLOCK_S", REPLY_S - 5)
    monkeypatch.setattr(blocking, "REPLY_TIMEOUT_S", REPLY_S)
    monkeypatch.setattr(subscription, "PONG_WITHIN_S", REPLY_S)
    monkeypatch.setattr(subscription, "PING_EVERY_S", REPLY_S)


def check(error: BrokerError) -> None:
    assert clean(error, 2_000) == str(error), f"not printable: {error!a}"


def typed(value: object) -> None:
    """Fail when a number or text in an answer is something else: whoever reads it next would stumble."""
    if isinstance(value, list | tuple | frozenset):
        for item in value:
            typed(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        for field in dataclasses.fields(value):
            found, hint = getattr(value, field.name), hints[field.name]
            kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            if all(kind in (int, str, bytes, bool, NoneType) for kind in kinds):
                assert type(found) in kinds, f"{type(value).__name__}.{field.name} is {found!a:.100}, no {hint}"
            typed(found)


async def made(name: str, call: Callable[[], Awaitable[object]]) -> bool:
    """Make a call; True if it gave a value, False for a named error; anything else fails."""
    began = time.monotonic()
    try:
        typed(await asyncio.wait_for(call(), 2 * HANG_S))
    except BrokerError as error:
        check(error)
        return False
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        assert time.monotonic() - began < HANG_S, f"{name} took {time.monotonic() - began:.1f} s"
    return True


async def test_garbage_replies_give_named_errors_in_time() -> None:
    garbage = Garbage(random_for("replies of a server"))

    async def lane(url: str) -> None:
        while garbage.given < size(500, 5_000):
            broker, backend = RedisStreamsBroker(url), RedisResultBackend(url)
            for name, call in calls_of(broker, backend).items():
                counted.add(await made(name, call))
            await broker.close()
            await backend.close()

    with FakeServer(garbage.answer) as server, reported("garbage replies") as counted:
        await asyncio.gather(*(lane(server.url) for _ in range(LANES)))


def test_garbage_replies_to_a_blocking_handle_give_named_errors_in_time() -> None:
    garbage = Garbage(random_for("replies to a blocking handle"))
    task = NewTask(id="t", task="a", queue="q", body=Envelope(id="t", task="a").encode())
    with FakeServer(garbage.answer) as server, reported("garbage replies, blocking") as counted:
        while garbage.given < size(100, 2_000):
            handle = RedisStreamsBroker(server.url).blocking()
            tries: dict[str, Callable[[], object]] = {
                "enqueue": lambda handle=handle: handle.enqueue([task]),  # type: ignore[misc]
                "statuses": lambda handle=handle: handle.statuses(["t"]),  # type: ignore[misc]
                "wait": lambda handle=handle: handle.wait("t", 0.01),  # type: ignore[misc]
                "cancel": lambda handle=handle: handle.cancel("t", Command(id="c", type="revoke")),  # type: ignore[misc]
            }
            for name, call in tries.items():
                began = time.monotonic()
                try:
                    typed(call())
                except BrokerError as error:
                    check(error)
                    counted.add(0)
                except Exception as error:
                    raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
                else:
                    counted.add(1)
                assert time.monotonic() - began < HANG_S, name
            handle.close()


SCRIPTED: Final = ("enqueue", "exchange", "adopt", "sweep", "beat", "issue", "read", "purge", "store", "subscribe")


async def works(name: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return what a call gives as soon as it succeeds: a slow machine may miss the short time for a reply."""
    deadline = time.monotonic() + 2 * HANG_S
    while True:
        try:
            return await call()
        except BrokerError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} does not work: {error}") from error


async def test_the_replies_held_for_right_are_understood() -> None:
    """If this fails, a script gives something new: `RIGHT` in `garbage` is to say it too."""
    garbage = Garbage(random_for("right replies"))
    garbage.well = True
    with FakeServer(garbage.answer) as server:
        broker, backend = RedisStreamsBroker(server.url), RedisResultBackend(server.url)
        calls = calls_of(broker, backend)
        for name in SCRIPTED:
            typed(await works(name, calls[name]))
        await broker.close()
        await backend.close()


async def test_a_handle_that_got_garbage_works_again_with_right_replies() -> None:
    """Whatever connections it left behind: each call succeeds when it is made again, with the right answer."""
    garbage = Garbage(random_for("then right replies"))
    with FakeServer(garbage.answer) as server:
        broker, backend = RedisStreamsBroker(server.url), RedisResultBackend(server.url)
        calls = calls_of(broker, backend)
        for name, call in calls.items():
            await made(name, call)
        garbage.well = True
        for name in SCRIPTED:
            await works(name, calls[name])
        request = FetchRequest(queues=["q"], count=9, epoch=1)
        taken = await works("exchange", lambda: broker.exchange("w", [END], request))
        await broker.close()
        await backend.close()

    assert taken.settled == ["applied"]
    assert [delivery.id for delivery in taken.deliveries] == ["t"]


@pytest.mark.parametrize("drip_s", [0.0, 0.05])
async def test_silence_and_a_drip_of_bytes_end_in_time(drip_s: float) -> None:
    """A byte now and then is no sign of life: the time is for the whole reply."""

    def answer(asked: bytes) -> bytes:
        if b"SETNAME" in asked:
            return b"+OK\r\n"
        return b"$100000\r\n" + b"x" * 100_000 if drip_s else b""

    with FakeServer(answer, drip_s=drip_s) as server:
        broker, backend = RedisStreamsBroker(server.url), RedisResultBackend(server.url)
        asked = calls_of(broker, backend)
        made_it = await asyncio.gather(
            *(made(name, asked[name]) for name in ("enqueue", "exchange", "statuses", "queues"))
        )
        await broker.close()
        await backend.close()

    assert made_it == [False] * 4


async def test_a_reply_too_many_is_never_taken_for_the_next_one(namespace: str) -> None:
    """Two replies to one command: the second must not become the answer to the next call on that connection."""
    sent = 0

    def answer(asked: bytes) -> bytes:
        nonlocal sent
        if b"SETNAME" in asked:
            return b"+OK\r\n"
        if b"schema" in asked:
            return b"$1\r\n1\r\n"
        sent += 1
        # The first HMGET is answered twice; the second answer says another task's body.
        return (
            (b"*2\r\n$4\r\nmine\r\n$-1\r\n" + b"*2\r\n$6\r\nothers\r\n$-1\r\n")
            if sent == 1
            else b"*2\r\n$4\r\nnext\r\n$-1\r\n"
        )

    with FakeServer(answer) as server:
        broker = RedisStreamsBroker(server.url, namespace=namespace)
        first = await broker.body("t")
        second = await broker.body("u")
        await broker.close()

    assert first == (b"mine", b"")
    assert second == (b"next", b"")
