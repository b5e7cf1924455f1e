"""A broker that does not answer holds no command up for longer than asked for; what was not sent is in no doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from stem.authority import ControlConfig, ControlKeys
from stem.contracts import ChangeItem, Pause, Seen
from stem.control.controller import Controller
from stem.errors import BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.messages.status import TaskStatus
from tests.control.channel import ScriptedBroker, seen

LATE_S = 5.0
"""Far beyond the time-outs given here, and below that of the client library."""

KEYS = ControlKeys(ControlConfig(keys={"k": b"in-time-in-time-in-time-in-time!"}, roles={"k": "operator"}))


class Frozen(ScriptedBroker):
    """Takes what it is asked, and says nothing."""

    async def workers(self) -> list[Seen]:
        return await asyncio.Future()

    async def pauses(self) -> list[Pause]:
        return await asyncio.Future()

    async def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        return await asyncio.Future()


CALLS: dict[str, Callable[[Controller], Awaitable[Any]]] = {
    "drain": lambda boss: boss.drain(["a"]),
    "undrain": lambda boss: boss.undrain(["a"]),
    "shutdown": lambda boss: boss.shutdown(),
    "pause": lambda boss: boss.pause("worker", ["a"], wait_s=60),
    "resume": lambda boss: boss.resume("worker", ["a"]),
    "dry drain": lambda boss: boss.drain(["a"], dry_run=True),
    "dry pause": lambda boss: boss.pause("queue", ["default"], dry_run=True),
    "dry resume": lambda boss: boss.resume("task", ["send"], dry_run=True),
    "dry revoke": lambda boss: boss.revoke(["t-1"], dry_run=True),
}
SIGNED: dict[str, Callable[[Controller], Awaitable[Any]]] = {
    "ping": lambda boss: boss.ping(),
    "inspect": lambda boss: boss.inspect("active"),
    "pause": lambda boss: boss.pause("queue", ["default"]),
    "revoke": lambda boss: boss.revoke(["t-1"], wait_s=60),
}


@pytest.mark.parametrize("call", CALLS)
async def test_what_cannot_be_looked_up_in_time_is_not_sent(call: str) -> None:
    broker = Frozen()

    async with asyncio.timeout(LATE_S):
        with pytest.raises(BrokerUnreachableError, match="did not answer in time: nothing was sent"):
            await CALLS[call](Controller(broker.as_broker, timeout_s=0.2))

    assert broker.issued == []


@pytest.mark.parametrize("call", SIGNED)
async def test_what_cannot_be_signed_in_time_is_not_sent(call: str) -> None:
    broker = Frozen()

    async with asyncio.timeout(LATE_S):
        with pytest.raises(BrokerUnreachableError, match="did not answer in time: nothing was sent"):
            await SIGNED[call](Controller(broker.as_broker, timeout_s=0.2, keys=KEYS))

    assert broker.issued == []


async def test_a_look_that_got_no_answer_is_taken_again() -> None:
    class Shaky(ScriptedBroker):
        async def workers(self) -> list[Seen]:
            if self.errors:
                raise self.errors.pop(0)
            return await super().workers()

    broker = Shaky([seen("a")])
    broker.errors = [UnknownOutcomeError("reset"), UnknownOutcomeError("reset")]
    broker.answer(0.01, "a")

    result = await Controller(broker.as_broker, timeout_s=1.0, clock=broker).drain(["a"])

    assert (result.expected, result.applied) == (1, 1)


async def test_a_look_that_is_refused_or_finds_nobody_says_so() -> None:
    class Refusing(ScriptedBroker):
        async def workers(self) -> list[Seen]:
            raise self.errors[0]

    broker = Refusing()
    for error in (BrokerRefusedError("no", code="NOPERM"), BrokerUnreachableError("gone")):
        broker.errors = [error]
        with pytest.raises(type(error)) as caught:
            await Controller(broker.as_broker, timeout_s=1.0).drain(["a"])
        assert caught.value is error


async def test_what_the_look_took_is_not_waited_once_more() -> None:
    class Slow(ScriptedBroker):
        async def workers(self) -> list[Seen]:
            self.now += 0 if self.issued else 0.7
            return await super().workers()

    broker = Slow([seen("a")])

    result = await Controller(broker.as_broker, timeout_s=1.0, clock=broker).drain(["a"])

    assert [silent.name for silent in result.silent] == ["a"]
    assert broker.now == pytest.approx(1.0)
    assert result.elapsed_ms == pytest.approx(1000)


async def test_a_revoke_whose_end_is_not_told_in_time_is_stored_all_the_same() -> None:
    class Mute(ScriptedBroker):
        statuses = Frozen.statuses

    broker = Mute([seen("a")], items=[ChangeItem(target="t-1", outcome="running", changed=True, worker="a-1")])
    broker.answer(0.01, "a", data={"held": []})

    async with asyncio.timeout(LATE_S):
        with pytest.raises(UnknownOutcomeError, match=r"^revoke is stored .* how tasks ended"):
            await Controller(broker.as_broker, timeout_s=0.2, clock=broker).revoke(["t-1"])
