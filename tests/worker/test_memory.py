"""What a task had in its hands is let go when it ends, not when the garbage collector gets round to it.

A full collection may be hours away in a worker whose objects are few and old; until then each failure would keep all
that its handler's frames held.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import pytest

from stem.contracts import NewTask
from stem.errors import SoftTimeLimitExceeded
from stem.messages import codec
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import TaskContext
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


class Big:
    """Stands for a large object."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("kind", ["loop", "thread"])
@pytest.mark.parametrize("end", ["return", "raise", "raise from", "retry", "time out"])
async def test_what_a_handler_held_is_let_go(house: House, kind: str, end: str) -> None:
    held: list[weakref.ref[Big]] = []

    def work(context: TaskContext, args: Mapping[str, Any]) -> None:
        big = Big()
        held.append(weakref.ref(big))
        if end == "retry" and context.attempt == 0:
            raise ValueError(f"holds {big is not None}")
        if end == "raise":
            raise ValueError("at the first")
        if end == "raise from":
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("outer") from error
        if end == "time out":
            raise SoftTimeLimitExceeded("as the soft limit does")

    async def work_on_loop(context: TaskContext, args: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        work(context, args)

    retries = TaskOptions(max_retries=1 if end == "retry" else 0)
    if kind == "loop":
        on_loop(house.registry, "work", work_on_loop, retries)
    else:
        in_thread(house.registry, "work", work, retries)
    await house.worker()

    status = await house.stem.wait_for(await house.stem.enqueue("work"), timeout=10)

    assert status.state is (TaskState.SUCCEEDED if end in ("return", "retry") else TaskState.FAILED)
    await eventually(lambda: [ref() for ref in held] == [None] * len(held), 2, what="nothing is held")


class BigList(list[int]):
    """A result that can be watched."""


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_an_idle_worker_does_not_hold_its_last_task(house: House, kind: str) -> None:
    """A thread that waits for work had it in its context: no collection frees that."""
    held: list[weakref.ref[BigList]] = []

    def work(context: TaskContext, args: Mapping[str, Any]) -> BigList:
        held.append(weakref.ref(result := BigList([1])))
        return result

    async def work_on_loop(context: TaskContext, args: Mapping[str, Any]) -> BigList:
        return work(context, args)

    if kind == "loop":
        on_loop(house.registry, "work", work_on_loop)
    else:
        in_thread(house.registry, "work", work)
    await house.worker()

    status = await house.stem.wait_for(await house.stem.enqueue("work"), timeout=10)

    def let_go() -> bool:
        gc.collect()
        return [ref() for ref in held] == [None]

    assert status.result == [1]
    await eventually(let_go, 5, what="nothing is held")


@pytest.mark.usefixtures("no_collection")
async def test_what_a_malformed_body_was_unpacked_to_is_let_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of 1 MB may unpack to 80; two of them made a worker grow by 150 MB, for good."""
    held: list[weakref.ref[Big]] = []
    unpack = msgpack.unpackb

    def unpacked(data: bytes, **how: Any) -> Any:
        value = unpack(data, **how)
        if value == ["garbage"]:
            big = Big()
            held.append(weakref.ref(big))
            value.append(big)
        return value

    monkeypatch.setattr(msgpack, "unpackb", unpacked)
    await house.worker()

    task_id = new_task_id()
    await house.broker.enqueue([NewTask(id=task_id, task="work", queue="default", body=codec.pack(["garbage"]))])
    status = await house.stem.wait_for(task_id, timeout=10)

    assert status.reason == "malformed"
    assert held
    await eventually(lambda: [ref() for ref in held] == [None] * len(held), 2, what="nothing is held")
