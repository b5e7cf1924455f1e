"""An operator whose connection breaks before the answer came hears the same as one whose connection holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.control.controller import Controller
from stem.errors import BrokerUnreachableError, UnknownOutcomeError
from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import World
from tests.faults.rules import Command, Fault, Loss, Watch
from tests.servers import Server


@pytest.fixture
async def proxy(valkey_server: Server, tmp_path: Path) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(valkey_server.url, tmp_path / "p") as proxy:
        yield proxy


@pytest.fixture
async def operator(proxy: ChaosProxy, world: World) -> AsyncIterator[Controller]:
    broker = RedisStreamsBroker(proxy.url, namespace=world.namespace)
    yield Controller(broker, actor="tests", timeout_s=10.0)
    await broker.close()


async def test_every_answer_to_an_operator_may_get_lost(world: World, proxy: ChaosProxy, operator: Controller) -> None:
    await world.workers("w1", "w2")
    await operator.ping()
    assert (await operator.pause("queue", ["aside"], wait_s=10)).applied == 0  # nobody takes it
    before = (await world.broker.control.read(0)).epoch
    asked = {name for name in proxy.seen if not name.startswith("CLIENT ")} - {"GET", "SET"}
    assert {"issue", "XREAD"} <= asked

    for name in sorted(asked):
        loss = Loss(name, nth={1, 2})
        with proxy.having(loss):
            ping = await operator.ping()
            paused = await operator.pause("queue", ["default"], wait_s=10)
            resumed = await operator.resume("queue", ["default"], wait_s=10)

        assert loss.lost == 2, name
        assert (ping.expected, ping.replied, ping.silent) == (2, 2, []), name
        assert (paused.applied, resumed.applied) == (2, 2), name
    stored = await world.broker.control.read(before)
    assert stored.epoch == before + 3 * len(asked)  # each once


async def test_a_command_that_may_be_stored_is_not_reported_as_impossible(
    world: World, proxy: ChaosProxy, operator: Controller
) -> None:
    """The first try got no answer, the later ones no connection: nobody knows, and that is what is said."""
    quick = Controller(operator._broker, timeout_s=0.5)
    await quick.ping()
    proxy.on(Loss("issue", nth={1}))
    proxy.refuse()

    with pytest.raises(UnknownOutcomeError):
        await quick.pause("queue", ["default"])

    assert [pause.target for pause in await world.broker.census.pauses()] == ["default"]


async def test_an_operator_cut_off_while_answers_come_is_told_so_and_names_nobody_silent(
    world: World, proxy: ChaosProxy, operator: Controller
) -> None:
    await world.worker("w1")

    async def cut_off(k: int, command: Command) -> None:
        proxy.refuse()

    proxy.on(Watch("issue", after=cut_off))

    with pytest.raises(BrokerUnreachableError):
        await Controller(operator._broker, timeout_s=1.0).ping()


async def test_a_change_that_is_stored_is_not_reported_as_impossible(
    world: World, proxy: ChaosProxy, operator: Controller
) -> None:
    """The server left after the change was stored: the plain error would say that nothing was done."""
    worker = await world.worker("w1")
    worker.freeze()

    async def cut_off(k: int, command: Command) -> None:
        proxy.refuse()

    proxy.on(Watch("issue", after=cut_off))

    with pytest.raises(UnknownOutcomeError, match=r"^pause is stored \(epoch \d+\), but its answers "):
        await Controller(operator._broker, timeout_s=1.0).pause("queue", ["default"])

    assert [pause.target for pause in await world.broker.census.pauses()] == ["default"]


async def test_over_a_slow_line_who_is_silent_is_named_all_the_same(
    world: World, proxy: ChaosProxy, operator: Controller
) -> None:
    """The broker says after the deadline that nothing came: a line's length later. That is no silence of the broker."""
    worker = await world.worker("w1")
    worker.freeze()
    await operator.ping(["nobody"])  # the connection is there
    patient = Controller(operator._broker, timeout_s=2.0)

    with proxy.having(Fault(latency_s=0.15)):
        ping = await patient.ping()
        paused = await patient.pause("queue", ["default"])

    assert (ping.expected, [one.name for one in ping.silent]) == (1, ["w1"])
    assert ([item.changed for item in paused.items], [one.name for one in paused.silent]) == ([True], ["w1"])
