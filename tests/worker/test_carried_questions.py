"""Questions that come with their wake-up: answered before the log is read, and never instead of it."""

from __future__ import annotations

import time

from stem.authority import ControlConfig, ControlKeys
from stem.contracts import Logged
from stem.messages.command import Command
from stem.messages.envelope import new_task_id
from stem.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import House

KEYS = ControlConfig(keys={"old": b"o" * 32}, roles={"old": "operator"}, active_key="old")


def question(kind: str = "ping") -> Command:
    return Command(id=new_task_id(), type=kind, args={"nonce": "n"}, timeout_ms=5_000)


async def heard(worker: Worker, command: Command, *, ahead: int = 1) -> bool:
    """Return what the worker makes of a wake-up that carries this, `ahead` of the newest epoch it has read."""
    told: list[bool] = []
    responder = worker._vitals._responder

    def hear() -> None:
        logged = Logged(
            epoch=responder.epoch + ahead, issued_at_ms=time.time_ns() // 1_000_000, command=command.encode()
        )
        told.append(responder.answer(logged))

    worker._vitals.call(hear)
    await eventually(lambda: told)
    return told[0]


async def test_a_question_is_answered_before_it_is_read(memory_house: House) -> None:
    worker = await memory_house.worker()
    first, second = question(), question("stats")

    assert [await heard(worker, first), await heard(worker, second, ahead=2)] == [True, True]

    for command in (first, second):
        (reply,) = await memory_house.broker.control.replies(command.id, timeout_s=5)
        assert (reply.worker, reply.ok) == (worker.id, True)


async def test_what_lies_between_is_read_first(memory_house: House) -> None:
    """A question answers for the state of its epoch: a pause before it must have been taken over."""
    worker = await memory_house.worker()

    assert not await heard(worker, question(), ahead=2)
    assert not await heard(worker, question(), ahead=0)


async def test_a_change_is_never_taken_from_a_wake_up(memory_house: House) -> None:
    """Whoever may only look may publish: what changes something is acted on when it stands in the log."""
    worker = await memory_house.worker()

    for kind in ("shutdown", "drain", "revoke", "pause", "no such command"):
        assert not await heard(worker, Command(id=new_task_id(), type=kind))

    assert worker.stats()["state"] == "running"


async def test_a_false_question_hides_no_true_command(memory_house: House) -> None:
    """Its epoch is that of a command to come, which is read and confirmed all the same."""
    worker = await memory_house.worker()
    assert await heard(worker, question())

    result = await memory_house.controller.pause("worker", [worker.name])

    assert (result.applied, list(result.silent)) == (1, [])
    assert [pong.name for pong in (await memory_house.controller.ping()).workers] == [worker.name]


async def test_a_signed_question_is_answered_once(house: House) -> None:
    """It is read in the log later; that it was answered already is no repetition by a stranger."""
    worker = await house.worker(config={"control": KEYS})
    (seen,) = await house.broker.presence.workers()
    command = ControlKeys(KEYS).sign(question(), namespace=house.broker.namespace, now_ms=seen.at_ms + seen.age_ms)

    issued = await house.broker.control.issue(command)

    (reply,) = await house.broker.control.replies(command.id, timeout_s=5)
    assert reply.ok
    await eventually(lambda: worker._board.epoch == issued.epoch)
    assert await house.broker.control.replies(command.id, timeout_s=0.2) == []
