"""A worker process under a rain of garbage: it stays up, answers, buries what cannot be read, and does its work."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from stem.adapters.connect import connect_broker
from stem.client import Stem
from stem.config import StemConfig
from stem.contracts import Broker, NewTask
from stem.errors import DecodeError, NewerVersionError
from stem.messages.codec import unpack
from stem.messages.command import Command, Reply
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.status import TaskState, TaskStatus
from stem.signing import SigningConfig
from tests.faults.conftest import Worlds
from tests.faults.fleet import WorkerProcess, World
from tests.fuzz.corpus import nasty_bytes
from tests.fuzz.mutate import Mutator
from tests.fuzz.sizes import TIMEOUT_S, Counted, random_for, reported, size
from tests.servers import Server
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(TIMEOUT_S)

MB: Final = 1024 * 1024
GROWTH: Final = 20 * MB
BATCH: Final = 250
WARM_UP: Final = size(2, 80)
"""Batches after which the worker's memory is taken as its usual one: what it remembers of tasks is full by then."""
AT_ONCE: Final = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Has the C library give back at once what is free. By itself it raises these bounds with the first large block, and
keeps 20 MB of what was freed for minutes, or for seconds, as it happens: as much as the growth that is looked for."""
TASK: Final = "fault.quick"
KEY: Final = bytes(range(32))


def resident(worker: WorkerProcess) -> int:
    """Return the resident memory of a worker's process in bytes."""
    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


class Memory:
    """The worker's memory over the batches of a run."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._seen: list[int] = []

    def look(self) -> None:
        self._seen.append(resident(self._worker))

    def growth(self) -> int:
        """Return by how many bytes it grew since it was warm: its lowest in the last quarter, against the first."""
        seen = self._seen[min(WARM_UP, len(self._seen) // 2) :]
        quarter = max(1, len(seen) // 4)
        return min(seen[-quarter:]) - min(seen[:quarter]) if seen else 0

    def check(self) -> None:
        assert self.growth() < GROWTH, f"grew by {self.growth() / MB:.1f} MB: {self._seen}"


def bodies(mutator: Mutator) -> tuple[str, bytes]:
    """Return a task id and the mutated body of that task."""
    task_id = new_task_id()
    whole = Envelope(
        id=task_id,
        task=TASK,
        args={"n": 1},
        headers={"h": "x"},
        meta={"m": [1, {"deep": None}]},
        options={"queue": "default", "max_retries": 0, "soft_ms": 1_000, "hard_ms": 2_000, "result_ttl_ms": 5_000},
    )
    chance = mutator.random.random()
    if chance < 0.1:
        return task_id, mutator.random.choice([data for data in nasty_bytes().values() if len(data) < 2 * MB // 100])
    if chance < 0.102:
        # Few: looking at them takes this test longer than burying them takes the worker.
        return task_id, mutator.random.choice([data for data in nasty_bytes().values() if len(data) > MB // 2])
    return task_id, mutator.message(unpack(whole.encode()))


def right_end(status: TaskStatus | None, body: bytes) -> bool:
    """Say whether a garbage task stands where it should by now."""
    if status is None:
        return True  # the oldest dead letters have left
    try:
        envelope = Envelope.decode(body)
    except NewerVersionError:
        return status.state in (TaskState.SCHEDULED, TaskState.QUEUED, TaskState.RUNNING)
    except DecodeError:
        return status.state is TaskState.FAILED and status.reason == "malformed"
    if envelope.id != status.id or envelope.task != status.task:
        return status.state is TaskState.FAILED and status.reason == "malformed"
    # Some mutations leave a task that can be read, but fails for a time limit of a moment: it is tried again later.
    return status.state.final or status.state in (TaskState.SCHEDULED, TaskState.RETRYING)


async def rain(
    world: World,
    broker: Broker,
    mutator: Mutator,
    counted: Counted,
    is_right: Callable[[TaskStatus | None, bytes], bool],
) -> None:
    """Put one batch of garbage into the queue with good tasks in between; wait for the end of all."""
    garbage = [bodies(mutator) for _ in range(BATCH)]
    good = []
    for first in range(0, BATCH, 50):
        new = [
            NewTask(id=task_id, task=TASK, queue="default", body=body, signature=mutator.random.choice(SIGNATURES))
            for task_id, body in garbage[first : first + 50]
        ]
        await broker.enqueue(new)
        good += [await world.enqueue("quick", n=first)]
    statuses = await world.all_final(good, timeout=30)
    assert {status.state for status in statuses} == {TaskState.SUCCEEDED}

    left = dict(garbage)
    wrong: list[object] = []

    async def ended() -> bool:
        found = await broker.statuses(list(left), timeline=False)
        wrong.clear()
        for (task_id, body), status in zip(list(left.items()), found, strict=True):
            if is_right(status, body):
                del left[task_id]
            else:
                wrong.append((status and (status.state.value, status.reason, status.error), body[:300].hex()))
        return not left

    try:
        await eventually(ended, 30, what="every garbage task stands where it should")
    except AssertionError as error:
        raise AssertionError(f"{error}: {wrong[:5]}") from None
    counted.add(len(good), tried=len(garbage) + len(good))


SIGNATURES: Final = (b"", b"\x01k" + b"\x00" * 32, b"\xff", b"\x03abc", b"\x01k" + b"\x00" * 31)


async def answers(world: World, worker: WorkerProcess) -> None:
    """The worker is there and answers a ping."""
    assert worker.running, worker.log()[-2_000:]
    ping = await world.controller.ping()
    assert [row.name for row in ping.workers] == [worker.name]
    assert not ping.silent


async def test_garbage_tasks_end_as_dead_letters_and_good_ones_between_them_succeed(
    worlds: Worlds,
    valkey_url: str,
) -> None:
    world = worlds(valkey_url, **AT_ONCE)
    worker = await world.worker(concurrency=32)
    mutator, memory = Mutator(random_for("live tasks")), Memory(worker)

    with reported("tasks into a live worker") as counted:
        counted.growth = memory.growth
        while counted.tried < size(2_000, 100_000):
            await rain(world, world.broker, mutator, counted, right_end)
            memory.look()
            await answers(world, worker)

    memory.check()
    assert worker.tracebacks() == []
    assert "loop.died" not in worker.log()


async def test_with_signing_on_whatever_was_not_signed_is_buried_unread(
    worlds: Worlds,
    valkey_url: str,
    namespace: str,
) -> None:
    world = worlds(valkey_url, STEM_SIGNING_KEYS=f"k:{base64.b64encode(KEY).decode()}", **AT_ONCE)
    unsigned = world.broker
    config = StemConfig(signing=SigningConfig(keys={"k": KEY}))
    signed = Stem.connect(valkey_url, namespace=namespace, config=config)
    worker = await world.worker(concurrency=32)
    mutator, memory = Mutator(random_for("live signed tasks")), Memory(worker)

    async def enqueue(name: str, **args: Any) -> str:
        return await signed.enqueue(f"fault.{name}", args)

    world.enqueue = enqueue  # type: ignore[method-assign]  # the good tasks of this world are signed

    def buried(status: TaskStatus | None, body: bytes) -> bool:
        return status is None or (status.state is TaskState.FAILED and status.reason == "signature-invalid")

    try:
        with reported("unsigned tasks into a live worker") as counted:
            counted.growth = memory.growth
            while counted.tried < size(500):
                await rain(world, unsigned, mutator, counted, buried)
                memory.look()
                await answers(world, worker)
    finally:
        await signed.close()
    memory.check()
    assert worker.tracebacks() == []


class Channel:
    """Writes into the control channel of a namespace past every check."""

    def __init__(self, server: Server, namespace: str, random: Random) -> None:
        self.client = server.client()
        self.prefix = f"{{{namespace}}}:"
        self.wake = f"{{{namespace}}}@0:control"
        self.mutator = Mutator(random)

    def send(self, count: int) -> None:
        """Log so many broken commands as the broker would, each with its wake-up, and wake-ups that say nothing.

        At once: a worker must never see an epoch before its entry. Nobody else logs meanwhile.
        """
        epoch = int(self.run("GET", f"{self.prefix}epoch") or 0)
        with self.client.pipeline(transaction=True) as pipeline:
            for _ in range(count):
                if self.mutator.random.random() < 0.25:
                    pipeline.execute_command("PUBLISH", self.wake, self.false(epoch))  # type: ignore[no-untyped-call]
                    continue
                epoch += 1
                pipeline.execute_command("SET", f"{self.prefix}epoch", epoch)  # type: ignore[no-untyped-call]
                pipeline.execute_command("XADD", f"{self.prefix}control:log", f"{epoch}-0", *self.entry())  # type: ignore[no-untyped-call]
                pipeline.execute_command("PUBLISH", self.wake, str(epoch))  # type: ignore[no-untyped-call]
            pipeline.execute()

    def false(self, epoch: int) -> bytes:
        """Return a wake-up that says nothing true: noise, or a broken question of an epoch that nobody logged yet."""
        random = self.mutator.random
        if random.random() < 0.5:
            return self.mutator.binary()
        carried = self.mutator.message(unpack(Command(id=new_task_id(), type="ping", args={"nonce": "n"}).encode()))
        at, stamp = epoch + random.choice((0, 1, 1, 1, 2)), time.time_ns() // 1_000_000
        return f"{at} {stamp} {random.choice((0, 0, 5, 9_999))} ".encode() + carried

    def entry(self) -> list[Any]:
        """Return the fields of one broken entry of the log."""
        random = self.mutator.random
        command = random.choice(
            (
                Command(id=new_task_id(), type="ping", args={"nonce": "n"}),
                Command(id=new_task_id(), type="inspect", targets=("w1",), args={"what": "active"}),
                Command(id=new_task_id(), type="stats", targets=("*",)),
                Command(id=new_task_id(), type="revoke", args={"ids": ["a", "b"], "terminate": True}, reason="r"),
                Command(id=new_task_id(), type="pause", args={"kind": "queue", "targets": ["x"]}),
            )
        )
        data = self.mutator.message(unpack(command.encode()))
        stamp = random.choice((str(time.time_ns() // 1_000_000), "0", str(2**63), "x"))
        whole: list[Any] = [b"c", data, b"t", stamp]
        return random.choice((whole, whole, whole[:2], [data, b"x"]))

    def run(self, *command: Any) -> Any:
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # of redis-py


async def test_garbage_commands_and_wake_ups_change_nothing_for_a_worker(
    worlds: Worlds,
    valkey_url: str,
    valkey_server: Server,
    namespace: str,
) -> None:
    world = worlds(valkey_url)
    worker = await world.worker(concurrency=32)
    memory = Memory(worker)
    channel = Channel(valkey_server, namespace, random_for("live commands"))

    with reported("commands and wake-ups into a live worker") as counted:
        counted.growth = memory.growth
        while counted.tried < size(2_000, 100_000):
            end = counted.tried + BATCH
            while counted.tried < end:
                many = channel.mutator.random.choice((1, 1, 2, 10, 60))
                channel.send(many)
                counted.add(0, tried=many)
            task_id = await world.enqueue("quick")
            (status,) = await world.all_final([task_id])
            assert status.state is TaskState.SUCCEEDED
            await answers(world, worker)
            memory.look()
    channel.client.close()

    memory.check()
    assert worker.tracebacks() == []
    assert "loop.died" not in worker.log()
    assert (await world.seen(worker)).heartbeat.state == "running"
    expiries = Counter(
        channel_ttl(valkey_server, key) for key in valkey_server.command("KEYS", f"{{{namespace}}}:reply:*")
    )
    assert not expiries["never"]


def channel_ttl(server: Server, key: str) -> str:
    return "never" if server.command("TTL", key) == -1 else "some time"


async def test_garbage_replies_hide_no_good_one(valkey_url: str, valkey_server: Server, namespace: str) -> None:
    broker = connect_broker(valkey_url, namespace=namespace)
    mutator = Mutator(random_for("replies"))
    good = Reply(command_id="c-1", worker="w1", name="w1", stage="applied", data={"n": 1})
    key = f"{{{namespace}}}:reply:c-1"
    with valkey_server.client() as client, reported("replies") as counted:
        while counted.tried < size(2_000):
            garbage = [mutator.message(unpack(good.encode()))[:100_000] for _ in range(BATCH)]
            pipe = client.pipeline(transaction=False)
            for one in garbage:
                pipe.xadd(key, {"r": one})
            pipe.execute()
            await broker.control.reply(good, keep_ms=10_000)
            found: list[Reply] = []
            looks = 0
            while not found or found[-1] != good:
                found += await broker.control.replies("c-1", timeout_s=1)
                looks += 1
                assert looks < 100, "the good reply was lost"
            assert all(isinstance(reply, Reply) for reply in found)
            counted.add(len(found), tried=BATCH + 1)
    await broker.close()
