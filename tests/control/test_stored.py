"""A change that is stored is never reported as one that was not made, whatever breaks after that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stem.contracts import ChangeItem
from stem.control.controller import Controller
from stem.errors import BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.messages.command import Reply
from stem.messages.status import TaskStatus
from tests.control.channel import ScriptedBroker, seen

RUNNING = ChangeItem(target="t-1", outcome="running", changed=True, worker="a-1")


class Leaving(ScriptedBroker):
    """Stores what it is given, and has gone when answers or records are read."""

    error: Exception = BrokerUnreachableError("gone")

    async def replies(self, command_id: str, *, timeout_s: float) -> list[Reply]:
        self.now += timeout_s
        raise self.error

    async def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokerUnreachableError("gone"), BrokerRefusedError("no", code="NOPERM"), UnknownOutcomeError("silence")]
)
@pytest.mark.parametrize("verb", ["revoke", "pause", "drain"])
async def test_a_stored_change_is_never_reported_as_not_done(verb: str, error: Exception) -> None:
    items = [RUNNING] if verb == "revoke" else []
    broker = Leaving([seen("a")], items=items)
    broker.error = error
    boss = Controller(broker.as_broker, timeout_s=0.3, clock=broker)

    with pytest.raises(
        UnknownOutcomeError, match=rf"^{verb} is stored \(epoch 7\), but its answers .*{error}"
    ) as caught:
        await {
            "revoke": lambda: boss.revoke(["t-1"]),
            "pause": lambda: boss.pause("queue", ["default"]),
            "drain": lambda: boss.drain(["a"]),
        }[verb]()

    assert caught.value.__cause__ is error


async def test_a_revoke_whose_end_cannot_be_looked_up_is_stored_all_the_same() -> None:
    class Later(Leaving):
        replies = ScriptedBroker.replies

    broker = Later([seen("a")], items=[RUNNING])
    broker.answer(0.01, "a", data={"held": []})

    with pytest.raises(UnknownOutcomeError, match=r"^revoke is stored"):
        await Controller(broker.as_broker, timeout_s=1.0, clock=broker).revoke(["t-1"])


async def test_a_question_without_answers_is_told_plainly() -> None:
    broker = Leaving([seen("a")])

    with pytest.raises(BrokerUnreachableError, match=r"^gone$"):
        await Controller(broker.as_broker, timeout_s=0.3, clock=broker).ping()
