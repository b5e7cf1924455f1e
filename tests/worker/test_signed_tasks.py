"""Signed tasks and a worker that checks them: forged ones never run, and keys are changed without a refused task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from stem.client import Stem
from stem.contracts import NewTask
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.status import TaskState
from stem.signing import PayloadSigner
from stem.task import Signature, TaskContext
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

OLD: Final = b"o" * 32
NEW: Final = b"n" * 32
EACH: Final = 50


def counting(house: House) -> list[str]:
    ran: list[str] = []

    async def pay(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.append(context.id)

    on_loop(house.registry, "pay", pay)
    return ran


async def test_of_fifty_forged_tasks_of_each_kind_none_runs(memory_house: House) -> None:
    house = memory_house
    ran, space = counting(house), house.broker.namespace
    ours = PayloadSigner({"k1": OLD, "k2": NEW}, active="k1")
    stranger = PayloadSigner({"k1": b"s" * 32}, active="k1")

    def flipped(body: bytes) -> bytes:
        whole = bytearray(ours.sign("task", space, "default", body))
        bit = body[-1] * 7 % (len(whole) * 8)
        whole[bit // 8] ^= 1 << bit % 8
        return bytes(whole)

    forgeries: dict[str, Callable[[bytes], bytes]] = {
        "unsigned": lambda body: b"",
        "a flipped bit": flipped,
        "another namespace": lambda body: ours.sign("task", space + "x", "default", body),
        "another queue": lambda body: ours.sign("task", space, "other", body),
        "another purpose": lambda body: ours.sign("control", space, "default", body),
        "a key of the same id": lambda body: stranger.sign("task", space, "default", body),
        "another key's id": lambda body: bytes([2]) + b"k2" + ours.sign("task", space, "default", body)[3:],
        "another body": lambda body: ours.sign("task", space, "default", body + b"\x00"),
    }
    kinds: dict[str, str] = {}
    tasks: list[NewTask] = []
    for kind, forge in forgeries.items():
        for number in range(EACH):
            task_id = new_task_id()
            body = Envelope(id=task_id, task="pay", args={"n": number}, produced_at_ms=number).encode()
            kinds[task_id] = kind
            tasks.append(NewTask(id=task_id, task="pay", queue="default", body=body, signature=forge(body)))
    await house.worker(signer=ours, concurrency=20)

    await house.broker.enqueue(tasks)
    ends = [await house.broker.wait(task.id, 20) for task in tasks]

    assert [kinds[end.id] for end in ends if end is not None and end.reason != "signature-invalid"] == []
    assert len(ends) == 8 * EACH
    assert ran == []


async def test_keys_rotate_and_no_task_is_refused(memory_house: House) -> None:
    """The new key to who checks, then to who signs; the old one is taken away when what it signed has ended."""
    house = memory_house
    ran = counting(house)
    old, new = PayloadSigner({"old": OLD}, active="old"), PayloadSigner({"new": NEW}, active="new")
    both = {"old": OLD, "new": NEW}
    ids: list[str] = []

    async def produce(signer: PayloadSigner, *, delay: float | None = None) -> None:
        async with Stem(house.broker.clone(), house.registry, signer=signer) as producer:
            requests = [Signature(name="pay", args={}, delay=delay) for _ in range(EACH)]
            ids.extend(await producer.enqueue_many(requests))

    first = await house.worker(name="a", signer=old, clone=True)
    await produce(old)
    second = await house.worker(name="b", signer=PayloadSigner(both, active="old"), clone=True)
    await produce(old)
    await first.shutdown()
    await produce(old, delay=0.5)
    await produce(PayloadSigner(both, active="new"))
    await produce(new)
    before = [await house.stem.wait_for(each, 20) for each in ids]
    await house.worker(name="c", signer=new, clone=True)
    await second.shutdown()
    count = len(ids)
    await produce(new)
    after = [await house.stem.wait_for(each, 20) for each in ids[count:]]

    assert [end.reason for end in (*before, *after) if end.state is not TaskState.SUCCEEDED] == []
    assert sorted(ran) == sorted(ids)
    assert len(ids) == 6 * EACH
