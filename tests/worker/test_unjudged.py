"""A handler whose end cannot be judged is settled all the same: nothing stays running and leased for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stem.errors import InvalidArgumentsError, Retry
from stem.messages.codec import pack
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import TaskContext
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


class Changing(dict[str, int]):
    """Packed, and then changed by another thread."""

    def values(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


class Broken(dict[str, int]):
    def values(self) -> Any:
        raise KeyError("hunter2")


class Later(Retry):
    def __init__(self) -> None:
        Exception.__init__(self, "later")


class Soon(Retry):
    def __init__(self) -> None:
        super().__init__("soon")
        self.__dict__["countdown"] = "soon"  # what nobody checks


@pytest.mark.parametrize("register", [on_loop, in_thread])
@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (Changing(a=1), "InvalidArgumentsError", "changed size during iteration"),
        (Broken(a=1), "StemError", "KeyError"),
    ],
)
async def test_a_result_that_cannot_be_looked_at_is_a_failure(
    memory_house: House, register: Any, value: object, error: str, says: str
) -> None:
    async def gives(context: TaskContext, args: Mapping[str, Any]) -> object:
        return value

    register(memory_house.registry, "gives", gives if register is on_loop else lambda context, args: value)
    worker = await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("gives"), timeout=10)

    assert (status.state, status.reason) == (TaskState.FAILED, "failed")
    assert status.error is not None
    assert status.error.type == error
    assert says in status.error.message
    assert "hunter2" not in status.error.message + status.error.traceback
    await eventually(lambda: worker.stats()["in_flight"] == 0)


async def test_a_retry_of_a_class_of_ones_own_waits_as_the_policy_says(memory_house: House) -> None:
    async def later(context: TaskContext, args: Mapping[str, Any]) -> int:
        if context.attempt == 0:
            raise Later
        return context.attempt

    on_loop(memory_house.registry, "later", later, TaskOptions(max_retries=1))
    await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("later"), timeout=10)

    assert (status.state, status.result) == (TaskState.SUCCEEDED, 1)


async def test_a_retry_that_cannot_be_planned_is_a_failure(memory_house: House) -> None:
    async def soon(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise Soon

    on_loop(memory_house.registry, "soon", soon)
    worker = await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("soon"), timeout=10)

    assert status.state is TaskState.FAILED
    await eventually(lambda: worker.stats()["in_flight"] == 0)


def test_a_value_that_changes_while_it_is_packed_is_refused() -> None:
    with pytest.raises(InvalidArgumentsError, match="changed size"):
        pack(Changing(a=1))
