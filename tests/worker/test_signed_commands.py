"""Signed commands through a broker, to real workers."""

from __future__ import annotations

from typing import Any, Final

from stem.authority import ControlConfig, ControlKeys, Role
from stem.contracts import SetDrain, SetShutdown
from stem.control.controller import Controller
from stem.messages.command import Command
from stem.messages.envelope import new_task_id
from tests.waiting import eventually
from tests.worker.conftest import House

OLD: Final = b"o" * 32
NEW: Final = b"n" * 32
EYES: Final = b"e" * 32


def config(active: str | None = None, /, **keys: tuple[Role, bytes]) -> ControlConfig:
    return ControlConfig(
        keys={kid: key for kid, (_, key) in keys.items()},
        roles={kid: role for kid, (role, _) in keys.items()},
        active_key=active,
    )


OBEYED: Final = config(old=("operator", OLD), eyes=("viewer", EYES))


def controller(house: House, keys: ControlConfig | None) -> Controller:
    return Controller(house.broker, timeout_s=5.0, keys=None if keys is None else ControlKeys(keys))


async def test_a_worker_answers_whom_it_obeys_and_tells_others_why_not(house: House) -> None:
    worker = await house.worker(config={"control": OBEYED})
    operator, viewer = (
        controller(house, config("old", old=("operator", OLD))),
        controller(house, config("eyes", eyes=("viewer", EYES))),
    )
    stranger = controller(house, config("old", old=("operator", NEW)))
    nobody = controller(house, None)

    assert [(pong.name, pong.ok) for pong in (await operator.ping()).workers] == [(worker.name, True)]
    assert (await viewer.stats()).failed == 0
    drained = await operator.drain([worker.name], wait_s=5)
    assert [(item.stage, item.error) for item in drained.items] == [("effect", "")]
    assert worker.stats()["state"] == "draining"
    assert (await operator.undrain([worker.name])).applied == 1

    for who, code in ((stranger, "signature-invalid"), (nobody, "signature-missing")):
        assert [(pong.ok, pong.error_code) for pong in (await who.ping()).workers] == [(False, code)]
        refused = await who.shutdown([worker.name])
        assert [item.error.partition(":")[0] for item in refused.items] == [code]
    refused = await viewer.shutdown([worker.name])
    assert [item.error.partition(":")[0] for item in refused.items] == ["role-refused"]
    assert worker.stats()["state"] == "running"


async def test_a_forged_state_and_a_command_repeated_by_a_stranger_do_nothing(house: House) -> None:
    worker = await house.worker(config={"control": OBEYED})
    keys = ControlKeys(config("old", old=("operator", OLD)))
    control = house.broker.control
    (seen,) = await house.broker.presence.workers()
    once = keys.sign(
        Command(id=new_task_id(), type="drain", targets=(worker.id,)),
        namespace=house.broker.namespace,
        now_ms=seen.at_ms + seen.age_ms,
    )
    await control.issue(once)
    assert [reply.ok for reply in await control.replies(once.id, timeout_s=5)][-1:] == [True]
    await controller(house, config("old", old=("operator", OLD))).undrain([worker.name])

    forged: list[tuple[Command, Any]] = [
        (Command(id=new_task_id(), type="drain", targets=(worker.id,)), SetDrain(workers=[worker.id])),
        (Command(id=new_task_id(), type="shutdown"), SetShutdown(workers=[worker.id], mode="hard")),
    ]
    for command, change in forged:
        await control.issue(command, change)
        replies = await control.replies(command.id, timeout_s=5)
        assert [(reply.ok, reply.error_code) for reply in replies] == [(False, "signature-missing")]
    assert worker.stats()["state"] == "running"


async def test_keys_rotate_and_no_command_is_refused(memory_house: House) -> None:
    """New key to the workers, then to the operator; only then is the old one taken away."""
    house = memory_house
    both = config(old=("operator", OLD), new=("operator", NEW))
    first = await house.worker(name="a", config={"control": config(old=("operator", OLD))})
    answers: list[bool] = []

    async def ping(keys: ControlConfig) -> None:
        for _ in range(5):
            result = await controller(house, keys).ping()
            answers.extend(pong.ok for pong in result.workers)

    await ping(config("old", old=("operator", OLD)))
    second = await house.worker(name="b", config={"control": both})
    await first.shutdown()
    await ping(config("old", old=("operator", OLD)))
    await ping(config("new", old=("operator", OLD), new=("operator", NEW)))
    await house.worker(name="c", config={"control": config(new=("operator", NEW))})
    await second.shutdown()
    await eventually(lambda: second.stats()["state"] != "running")
    await ping(config("new", new=("operator", NEW)))

    assert len(answers) >= 20
    assert all(answers)
