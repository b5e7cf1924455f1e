"""A signature is one of bytes: the same meaning in other bytes is not what was signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stem.contracts import NewTask
from stem.messages.codec import unpack
from stem.messages.envelope import Envelope, new_task_id
from stem.signing import PayloadSigner
from stem.task import TaskContext
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


def longer(body: bytes) -> bytes:
    """Return the same message with its outermost map's size written in two bytes: other bytes, equal in meaning."""
    assert body[0] & 0xF0 == 0x80, "a small map"
    other = b"\xde" + (body[0] & 0x0F).to_bytes(2, "big") + body[1:]
    assert unpack(other, what="x") == unpack(body, what="x")
    return other


async def test_the_signature_is_of_the_bytes_that_came_and_not_of_what_they_mean(memory_house: House) -> None:
    ran = []

    async def pay(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.append(context.id)

    house = memory_house
    on_loop(house.registry, "pay", pay)
    signer = PayloadSigner({"k1": b"x" * 32}, active="k1")
    await house.worker(signer=signer)
    tasks = []
    for signed, sent in ((bytes, bytes), (bytes, longer), (longer, longer), (longer, bytes)):
        task_id = new_task_id()
        body = Envelope(id=task_id, task="pay", args={}).encode()
        signature = signer.sign("task", house.broker.namespace, "default", signed(body))
        tasks.append(NewTask(id=task_id, task="pay", queue="default", body=sent(body), signature=signature))
    await house.broker.enqueue(tasks)

    ends = [await house.broker.wait(task.id, 10) for task in tasks]

    assert [end.reason for end in ends if end is not None] == ["", "signature-invalid", "", "signature-invalid"]
    assert ran == [tasks[0].id, tasks[2].id]
