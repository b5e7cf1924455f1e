"""A keyspace that somebody spoilt: every call gives typed values, and good tasks beside spoilt ones still run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import pytest
import redis

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import FetchRequest, NewTask, Outcome, Settlement
from stem.errors import BrokerError
from stem.messages.command import Command
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.status import TaskState
from tests.conftest import OwnServer
from tests.fuzz.mutate import EDGES, SMALL
from tests.fuzz.sizes import TIMEOUT_S, random_for, reported, size
from tests.fuzz.test_stored import TEXTS, Stored
from tests.servers import Server

pytestmark = pytest.mark.timeout(TIMEOUT_S)

P: Final = "{stem}:"
QUEUE: Final = "q"
ANY_EPOCH: Final = 2**40
FIELDS: Final = (
    *("n", "q", "p", "b", "sg", "st", "a", "c", "k", "sk", "so", "o", "e", "du", "l", "x", "er", "re", "w", "u", "rv"),
    *("gb", "g1", "at", "s1", "f1", "tl", "pg", "ds", "tb"),
)
LONGEST_S: Final = 10.0
"""What a client waits for a reply: whatever takes longer has met one that does not come."""


def new_task(**set_: Any) -> NewTask:
    task_id = new_task_id()
    return NewTask(id=task_id, task="a", queue=QUEUE, body=Envelope(id=task_id, task="a").encode(), **set_)


def fetch(count: int = 100, **leases: int) -> FetchRequest:
    return FetchRequest(queues=[QUEUE], count=count, epoch=ANY_EPOCH, leases=leases)


async def fill(broker: RedisStreamsBroker) -> list[str]:
    """Put tasks into every place where a task can be; return their ids."""
    running, retrying, dead = (new_task() for _ in range(3))
    await broker.enqueue([running, retrying, dead])
    taken = {one.id: one for one in (await broker.exchange("w0", [], fetch())).deliveries}
    ends = [
        Settlement(id=retrying.id, token=taken[retrying.id].token, outcome=Outcome.RETRY, delay_ms=1),
        Settlement(id=dead.id, token=taken[dead.id].token, outcome=Outcome.DEAD, reason="failed"),
    ]
    await broker.exchange("w0", ends, None)
    rest = [
        new_task(),
        new_task(priority=9),
        new_task(delay_ms=1),
        new_task(delay_ms=3_600_000),
        new_task(unique_key="u"),
    ]
    await broker.enqueue(rest)
    return [running.id, retrying.id, dead.id, *(task.id for task in rest)]


def spoil_record(client: redis.Redis, stored: Stored, task_id: str) -> str:
    """Spoil one record; return what was done."""
    random, key = stored.random, f"{P}task:{task_id}"
    match random.randrange(8):
        case 0:
            client.delete(key)
            return f"DEL {key}"
        case 1:
            client.delete(key)
            client.set(key, random.choice(TEXTS))
            return f"SET {key}"
        case _:
            done = []
            for _ in range(random.choice((1, 1, 2, 5))):
                field, value = random.choice(FIELDS), stored.field()
                if value is None:
                    client.hdel(key, field)
                else:
                    client.hset(key, field, value[:2_000])
                done.append(f"{field}={value[:60] if value is not None else None!r}")
            return f"HSET {task_id} {' '.join(done)}"


def run(client: redis.Redis, *command: Any) -> None:
    client.execute_command(*command)  # type: ignore[no-untyped-call]  # of redis-py


def spoil_member(client: redis.Redis, stored: Stored, ids: list[str]) -> str:
    """Put something into a queue's sets and streams that does not belong there; return what was done."""
    random = stored.random
    member: str | bytes = random.choice((random.choice(ids), random.choice(TEXTS), random.choice(SMALL)[:200]))
    if random.random() < 0.6:
        part = random.choice(("delayed", "retry", "lease", "dead", "held"))
        score = random.choice(("-inf", "+inf", "0", "1e300", "-1", str(time.time() * 1000)))
        run(client, "ZADD", f"{P}q:{QUEUE}:{part}", score, member)
        return f"ZADD {part} {score} {member!r}"
    fields = random.choice(([b"i", member], [member, b"x"], [b"i", member, b"i", b"x"], [b"c", b"1"]))
    run(client, "XADD", f"{P}q:{QUEUE}:p{random.choice((0, 5, 9))}", "*", *fields)
    return f"XADD {fields!r}"


def spoil_keys(client: redis.Redis, stored: Stored) -> str:
    """Spoil one of the keys that are not a task's; return what was done."""
    random = stored.random
    value = (stored.field() or b"x")[:2_000]
    name = random.choice(TEXTS)[:200]
    edge = str(random.choice(EDGES))
    commands: list[tuple[Any, ...]] = [
        (
            "HSET",
            f"{P}q:{QUEUE}:meta",
            random.choice((b"in", b"hs", b"hl", b"hp", b"hd", b"sw", b"p3", b"p", name)),
            value,
        ),
        ("HSET", f"{P}stats:{int(time.time()) // 60}", b"|".join((b"q", name, b"n")), value),
        ("HSET", f"{P}stats:{int(time.time()) // 60}", name, edge),
        ("LPUSH", f"{P}history", value),
        ("HSET", f"{P}desired:pause", random.choice((b"task:other", b"queue:other", name)), value),
        ("HSET", f"{P}desired:drain", name, value),
        ("HSET", f"{P}desired:shutdown", name, value),
        ("ZADD", f"{P}workers", random.choice(("inf", "-inf", "0", "1e300")), name),
        ("HSET", f"{P}worker:w9", random.choice((b"h", b"n", b"s")), value),
        ("HSET", f"{P}fleet", random.choice((b"last", b"resumed")), value),
        ("SADD", f"{P}queues", name),
        ("XADD", f"{P}events", "*", random.choice((b"b", name)), value),
        (
            "XADD",
            f"{P}control:log",
            "*",
            *random.choice(([b"c", value], [b"c", value, b"t", name], [name, value, b"t", edge])),
        ),
        ("SET", f"{P}epoch", random.choice((value, edge.encode()))),
        ("SET", f"{P}fence", random.choice((value, edge.encode()))),
        ("SET", f"{P}unique:1:a:u", value),
        ("ZADD", f"{P}watch", "inf", name),
        ("XADD", f"{P}reply:c-1", "*", random.choice((b"r", name)), value),
        ("HSET", f"{P}request:c-2", random.choice((b"epoch", b"items")), value),
        (
            "SET",
            f"{P}{random.choice(('queues', 'workers', 'history', 'events', 'watch', 'fleet', 'redact', 'audit'))}",
            value,
        ),
    ]
    chosen = random.choice(commands)
    try:
        run(client, *chosen)
    except redis.ResponseError as error:
        return f"{chosen!r:.200} ({error})"
    return f"{chosen!r:.200}"


def calls_of(broker: RedisStreamsBroker, ids: list[str], *, slow: bool) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return every call that reads or repairs; with `slow` those that block too: a server ends a block every 100 ms."""
    census = broker.census
    states: tuple[Any, ...] = (
        "running",
        "scheduled",
        "retrying",
        "held",
        "dead",
        "queued",
        "succeeded",
        "failed",
        "revoked",
    )
    blocking: dict[str, Callable[[], Awaitable[object]]] = {
        "replies": lambda: broker.control.replies("c-1", timeout_s=0.001),
        "events": lambda: broker.events.read("0-1", timeout_s=0.001),
        "wait": lambda: broker.wait(ids[0], 0.001),
    }
    return (blocking if slow else {}) | {
        "statuses": lambda: broker.statuses(ids),
        "body": lambda: broker.body(ids[0]),
        "queues": census.queues,
        **{f"tasks {state}": partial(census.tasks, state, limit=3) for state in states},
        "history": census.history,
        "minutes": lambda: census.minutes(3),
        "pauses": census.pauses,
        "info": census.info,
        "workers": broker.presence.workers,
        "desired": lambda: broker.control.read(0),
        "tail": broker.events.tail,
        "adopt": lambda: broker.adopt("w0", [QUEUE], []),
        "sweep": lambda: broker.sweep([QUEUE]),
        "reconcile": lambda: broker.reconcile(limit=100),
        "retry now": lambda: broker.retry_now(ids[2:5]),
        "issue": lambda: broker.control.issue(Command(id=new_task_id(), type="ping")),
        "issue again": lambda: broker.control.issue(Command(id="c-2", type="ping")),
    }


async def attempt(name: str, call: Callable[[], Awaitable[object]], done: list[str], *, refusals: bool) -> None:
    """Make a call; only a typed answer is right, or where `refusals` are, a named error."""
    began = time.monotonic()
    try:
        await call()
    except BrokerError as error:
        if not refusals:
            raise AssertionError(f"{name}: {error}\nafter {done}") from error
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}\nafter {done}") from error
    assert time.monotonic() - began < LONGEST_S, f"{name} took too long after {done}"


@pytest.fixture
def server(own_server: OwnServer) -> Server:
    return own_server(aof=False)


async def test_spoilt_records_stop_nothing_and_good_tasks_run(server: Server) -> None:
    stored = Stored(random_for("spoilt records"))
    broker = RedisStreamsBroker(server.url)
    with server.client() as client, reported("records on a server") as counted:
        for _ in range(size(100, 1_000)):
            client.flushdb()
            ids = await fill(broker)
            done = [spoil_record(client, stored, one) for one in ids if stored.random.random() < 0.7]
            done += [spoil_member(client, stored, ids) for _ in range(stored.random.choice((0, 0, 1, 3)))]
            good = [new_task() for _ in range(3)]
            await attempt("enqueue", partial(broker.enqueue, good), done, refusals=False)
            for name, call in calls_of(broker, ids, slow=counted.tried % 10 == 0).items():
                await attempt(name, call, done, refusals=False)
            await run_good(broker, good, done)
            counted.add(len(done), tried=len(done))
    await broker.close()


async def run_good(broker: RedisStreamsBroker, good: list[NewTask], done: list[str]) -> None:
    """Take and settle until the good tasks have succeeded, as a worker does."""
    wanted = {task.id for task in good}
    for _ in range(50):
        taken = await broker.exchange("w1", [], fetch())
        ends = [
            Settlement(id=one.id, token=one.token, outcome=Outcome.SUCCEEDED, ttl_ms=60_000) for one in taken.deliveries
        ]
        try:
            await broker.exchange("w1", ends, None)
        except Exception as error:
            raise AssertionError(f"settling: {type(error).__name__}: {error}\nafter {done}") from error
        wanted -= {one.id for one in taken.deliveries}
        if not wanted:
            break
    statuses = await broker.statuses([task.id for task in good])
    assert [one and one.state for one in statuses] == [TaskState.SUCCEEDED] * len(good), f"after {done}"


async def test_spoilt_keys_give_named_errors_at_worst(server: Server) -> None:
    stored = Stored(random_for("spoilt keys"))
    broker = RedisStreamsBroker(server.url)
    with server.client() as client, reported("keys on a server") as counted:
        for _ in range(size(100, 1_000)):
            client.flushdb()
            ids = await fill(broker)
            done = [spoil_keys(client, stored) for _ in range(stored.random.choice((1, 2, 5)))]
            for name, call in calls_of(broker, ids, slow=counted.tried % 10 == 0).items():
                await attempt(name, call, done, refusals=True)
            await attempt("enqueue", lambda: broker.enqueue([new_task()]), done, refusals=True)
            await attempt("exchange", lambda: broker.exchange("w1", [], fetch()), done, refusals=True)
            counted.add(len(done), tried=len(done))
    await broker.close()


@pytest.mark.parametrize("value", [None, b"\xff\x00", b"nan", b"-inf", "\u00b2".encode(), b"", b"1e400"])
@pytest.mark.parametrize("place", ["queued", "running", "retrying", "due"])
async def test_no_single_field_stops_a_queue(
    valkey_url: str, valkey_server: Server, namespace: str, place: str, value: bytes | None
) -> None:
    """Without its priority or queue, one record made every worker's fetch of its queue fail, for ever."""
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    with valkey_server.client() as client:
        spoilt = []
        for field in FIELDS:
            task = new_task(delay_ms=1) if place == "due" else new_task()
            await broker.enqueue([task])
            if place in ("running", "retrying"):
                taken = await broker.exchange("w0", [], fetch())
                if place == "retrying":
                    ends = [
                        Settlement(id=one.id, token=one.token, outcome=Outcome.RETRY, delay_ms=1)
                        for one in taken.deliveries
                    ]
                    await broker.exchange("w0", ends, None)
            spoilt.append((task, field))
        for task, field in spoilt:
            key = f"{{{namespace}}}:task:{task.id}"
            _ = client.hdel(key, field) if value is None else client.hset(key, field, value)
        good = [new_task() for _ in range(3)]
        await broker.enqueue(good)

        await broker.statuses([task.id for task, _ in spoilt])
        await broker.adopt("w0", [QUEUE], [])
        await broker.sweep([QUEUE])
        await broker.reconcile(limit=500)
        await run_good(broker, good, [f"{place} tasks with {field}={value!r}" for _, field in spoilt])
    await broker.close()


async def test_workers_learn_what_is_desired_beside_what_is_garbage(
    valkey_url: str, valkey_server: Server, namespace: str
) -> None:
    """Reading the log is how a worker is steered: whatever stands in it, the rest must arrive."""
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    prefix = f"{{{namespace}}}:"
    with valkey_server.client() as client:
        first = await broker.control.issue(Command(id="c-1", type="ping"))
        client.hset(f"{prefix}desired:drain", mapping={b"\xff\xfe": b"1", b"w1": b"1"})
        client.hset(f"{prefix}desired:shutdown", mapping={b"\xff\xfe": b"\xff", b"w1": b"warm"})
        client.hset(
            f"{prefix}desired:pause", mapping={b"queue:a": "\u00b2\t0\tme\t".encode(), b"queue:b": b"1\t0\tme\t"}
        )
        for number, entry in enumerate(([b"x", b"y"], [b"c", b"\xff", b"t", "\u00b2".encode()]), start=1):
            run(client, "INCR", f"{prefix}epoch")
            run(client, "XADD", f"{prefix}control:log", f"{first.epoch + number}-0", *entry)

    desired = await broker.control.read(0)
    await broker.control.issue(Command(id="c-2", type="ping"))
    later = await broker.control.read(first.epoch + 2)
    await broker.close()

    assert [logged.epoch for logged in desired.log] == [first.epoch + step for step in range(3)]
    assert Command.decode(desired.log[0].command).id == "c-1"
    assert [Command.decode(logged.command).id for logged in later.log] == ["c-2"]
    assert "w1" in desired.drained
    assert desired.shutdown["w1"] == "warm"
    assert [pause.target for pause in desired.pauses] == ["b"]


async def test_keys_and_names_that_are_not_stems_are_passed_over(own_server: OwnServer) -> None:
    server = own_server(aof=False)
    broker = RedisStreamsBroker(server.url)
    task = new_task()
    await broker.enqueue([task])
    with server.client() as client:
        client.hset(b"{stem}:task:\xff\xfe", "st", "queued")
        client.hset("{stem}:task:a}b c", "st", "queued")
        client.sadd("{stem}:queues", b"\xff", "a b", "x}:stream:y")
        client.zadd("{stem}:workers", {b"\xff": 1.0, "w9": float("inf")})
        client.set("{stem}:worker:w9", "not a hash")
        client.set("{stem}:task:of-another-type", "not a hash")

    cursor, _ = await broker.reconcile(limit=500)
    queues = await broker.census.queues()
    page = await broker.census.tasks("queued")
    workers = await broker.presence.workers()
    body = await broker.body("of-another-type")
    waited = await broker.wait("of-another-type", 0.01)
    await broker.close()

    assert cursor == "0"
    assert [row.name for row in queues] == [QUEUE]
    assert [status.id for status in page.items] == [task.id]
    assert workers == []
    assert body is None
    assert waited is None
