"""The version of a keyspace: written once, looked at once per handle, and a newer one is left alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from stem.adapters.redis import RedisResultBackend, RedisStreamsBroker, schema
from stem.contracts import FetchRequest, NewTask, Outcome, Settlement
from stem.errors import BrokerRefusedError
from stem.messages.command import Command
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.status import TaskState, TaskStatus
from tests.conftest import OwnServer
from tests.faults.fleet import Fleet, World
from tests.servers import Server

Call = Callable[[RedisStreamsBroker], Awaitable[object]]


def new_task() -> NewTask:
    task_id = new_task_id()
    return NewTask(id=task_id, task="t", queue="q", body=Envelope(id=task_id, task="t").encode())


async def blocking_enqueue(broker: RedisStreamsBroker) -> None:
    handle = broker.blocking()
    try:
        handle.enqueue([new_task()])
    finally:
        handle.close()


async def blocking_look(broker: RedisStreamsBroker) -> None:
    handle = broker.blocking()
    try:
        handle.statuses(["x"])
    finally:
        handle.close()


READS: dict[str, Call] = {
    "statuses": lambda broker: broker.statuses(["x"]),
    "body": lambda broker: broker.body("x"),
    "wait": lambda broker: broker.wait("x", 0.01),
    "queues": lambda broker: broker.census.queues(),
    "workers": lambda broker: broker.presence.workers(),
    "history": lambda broker: broker.census.history(),
    "desired state": lambda broker: broker.control.read(0),
    "events": lambda broker: broker.events.read("0-0", timeout_s=0.01),
    "blocking statuses": blocking_look,
}
WRITES: dict[str, Call] = {
    "enqueue": lambda broker: broker.enqueue([new_task()]),
    "exchange": lambda broker: broker.exchange("w", [], FetchRequest(queues=["q"], count=1, epoch=0)),
    "issue": lambda broker: broker.control.issue(Command(id="c-1", type="ping")),
    "blocking enqueue": blocking_enqueue,
}
EVERYTHING = READS | WRITES


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield made
    await made.close()


@pytest.mark.parametrize("name", WRITES)
async def test_the_first_write_marks_the_keyspace(broker: RedisStreamsBroker, valkey_server: Server, name: str) -> None:
    await WRITES[name](broker)

    assert valkey_server.command("GET", f"{{{broker.namespace}}}:schema") == str(schema.SCHEMA)
    assert valkey_server.command("TTL", f"{{{broker.namespace}}}:schema") == -1


@pytest.mark.parametrize("name", READS)
async def test_looking_into_an_empty_namespace_leaves_nothing_there(
    broker: RedisStreamsBroker, valkey_server: Server, name: str
) -> None:
    await READS[name](broker)

    assert valkey_server.command("KEYS", f"{{{broker.namespace}}}:*") == []


async def test_a_handle_that_only_looked_marks_the_keyspace_when_it_writes(
    broker: RedisStreamsBroker, valkey_server: Server
) -> None:
    await broker.census.queues()

    await broker.enqueue([new_task()])

    assert valkey_server.command("GET", f"{{{broker.namespace}}}:schema") == "1"


@pytest.mark.parametrize("name", EVERYTHING)
async def test_a_newer_keyspace_is_refused_and_left_alone(
    broker: RedisStreamsBroker, valkey_server: Server, name: str
) -> None:
    key = f"{{{broker.namespace}}}:schema"
    valkey_server.command("SET", key, schema.SCHEMA + 1)

    for _ in range(2):  # it is not taken for seen the second time
        with pytest.raises(BrokerRefusedError, match=r"newer Stem.*upgrade this program") as refused:
            await EVERYTHING[name](broker)

    assert refused.value.code == "SCHEMA"
    assert valkey_server.command("KEYS", f"{{{broker.namespace}}}:*") == [key]
    assert valkey_server.command("GET", key) == str(schema.SCHEMA + 1)


@pytest.mark.parametrize("stored", ["", "0", "-1", "1.0", "one", "²", "1" * 5000, "1\n", " 1", "\x1b[2J"])
async def test_what_is_no_version_is_refused_without_being_shown(
    broker: RedisStreamsBroker, valkey_server: Server, stored: str
) -> None:
    valkey_server.command("SET", f"{{{broker.namespace}}}:schema", stored)

    with pytest.raises(BrokerRefusedError, match="no readable version") as refused:
        await broker.enqueue([new_task()])

    assert refused.value.code == "SCHEMA"
    assert str(refused.value).isprintable()


async def test_a_key_of_another_type_is_refused(broker: RedisStreamsBroker, valkey_server: Server) -> None:
    valkey_server.command("LPUSH", f"{{{broker.namespace}}}:schema", "1")

    with pytest.raises(BrokerRefusedError, match="no readable version"):
        await broker.enqueue([new_task()])
    with pytest.raises(BrokerRefusedError, match="no readable version"):
        await blocking_look(broker)


async def test_a_newer_program_reads_an_older_keyspace_and_does_not_raise_its_version(
    valkey_url: str, valkey_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = RedisStreamsBroker(valkey_url, namespace=namespace)
    task = new_task()
    await older.enqueue([task])
    await older.close()
    monkeypatch.setattr(schema, "SCHEMA", 2)

    newer = RedisStreamsBroker(valkey_url, namespace=namespace)
    (status,) = await newer.statuses([task.id])
    await newer.enqueue([new_task()])
    await newer.close()

    assert status is not None
    assert status.state is TaskState.QUEUED
    assert valkey_server.command("GET", f"{{{namespace}}}:schema") == "1"


async def test_connecting_and_result_backends_refuse_a_newer_keyspace_too(
    valkey_url: str, valkey_server: Server, namespace: str
) -> None:
    valkey_server.command("SET", f"{{{namespace}}}:schema", 2)

    with pytest.raises(BrokerRefusedError, match="upgrade"):
        await RedisStreamsBroker.connect(valkey_url, namespace=namespace)
    with pytest.raises(BrokerRefusedError, match="upgrade"):
        await RedisResultBackend.connect(valkey_url, namespace=namespace)
    backend = RedisResultBackend(valkey_url, namespace=namespace)
    with pytest.raises(BrokerRefusedError, match="upgrade"):
        await backend.store(TaskStatus(id="x", task="t", queue="q", state=TaskState.SUCCEEDED), ttl_ms=1000)
    await backend.close()


async def test_the_look_costs_one_command_per_handle_and_none_after(own_server: OwnServer) -> None:
    server = own_server(aof=False)

    def counted(command: str) -> int:
        found = server.command("INFO", "commandstats").get(f"cmdstat_{command}")
        return int(found["calls"]) if found else 0

    first = RedisStreamsBroker(server.url)
    for _ in range(20):
        await first.enqueue([new_task()])
        await first.statuses(["x"])
    await first.close()
    assert (counted("get"), counted("set")) == (1, 1)

    second = RedisStreamsBroker(server.url)
    for _ in range(20):
        await second.enqueue([new_task()])
        await second.statuses(["x"])
    await second.close()
    assert (counted("get"), counted("set")) == (2, 1)


async def test_a_worker_that_meets_a_full_server_can_still_settle(own_server: OwnServer) -> None:
    """The look must not be what a full server refuses: then nothing could ever be finished, and it stays full."""
    server = own_server(aof=False)
    before = RedisStreamsBroker(server.url)
    task = new_task()
    await before.enqueue([task])
    await before.close()
    server.command("DEL", "{stem}:schema")  # the worst case: it has to be written, and cannot be
    server.command("CONFIG", "SET", "maxmemory", "1")

    broker = RedisStreamsBroker(server.url)
    with pytest.raises(BrokerRefusedError) as refused:
        await broker.enqueue([new_task()])
    taken = await broker.exchange("w", [], FetchRequest(queues=["q"], count=1, epoch=9))
    end = Settlement(id=task.id, token=taken.deliveries[0].token, outcome=Outcome.SUCCEEDED, ttl_ms=1000)
    settled = await broker.exchange("w", [end], None)
    await broker.close()

    assert refused.value.code == "OOM"
    assert settled.settled == ["applied"]


async def test_a_worker_refuses_a_newer_keyspace_with_one_line_and_78(
    valkey_server: Server, namespace: str, tmp_path: Path
) -> None:
    valkey_server.command("SET", f"{{{namespace}}}:schema", 2)
    fleet = Fleet(url=valkey_server.url, namespace=namespace, folder=tmp_path)

    worker = fleet.spawn("w1")
    try:
        code = await worker.exit_code()
    finally:
        fleet.close()

    assert code == 78
    lines = [line for line in worker.log().splitlines() if not _is_record(line)]
    assert len(lines) == 1, worker.log()
    assert lines[0].startswith("stem-worker: the namespace ")
    assert "upgrade this program" in lines[0]
    assert "Traceback" not in worker.log()
    assert valkey_server.command("KEYS", f"{{{namespace}}}:*") == [f"{{{namespace}}}:schema"]


def _is_record(line: str) -> bool:
    return line.startswith("{") and "level" in json.loads(line)


@pytest.mark.parametrize("words", [("ping",), ("queues", "ls"), ("enqueue", "mail.send"), ("tasks", "show", "x")])
async def test_stemctl_refuses_a_newer_keyspace_with_5_and_says_what_to_do(
    valkey_server: Server, namespace: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    valkey_server.command("SET", f"{{{namespace}}}:schema", 2)
    world = World(url=valkey_server.url, namespace=namespace, folder=tmp_path)
    try:
        code, out, err = await world.stemctl(*words)
    finally:
        await world.close()

    assert (code, out) == (5, "")
    assert "upgrade this program" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
