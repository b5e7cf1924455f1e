"""A text is a sequence of texts: where a list of names belongs, one text is refused."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stem.control.controller import Controller
from stem.control.target import check_targets
from stem.errors import InvalidInputError
from tests.control.channel import ScriptedBroker, seen


@pytest.mark.parametrize(
    "call",
    [
        lambda it: it.ping("web*"),
        lambda it: it.inspect("active", "web*"),
        lambda it: it.stats("web*"),
        lambda it: it.shutdown("web*"),
        lambda it: it.shutdown("web*", dry_run=True),
        lambda it: it.drain("web*"),
        lambda it: it.undrain("web*"),
        lambda it: it.revoke("abc"),
        lambda it: it.pause("queue", "abc"),
        lambda it: it.pause("worker", "web*"),
        lambda it: it.resume("task", "abc"),
        lambda it: it.resume("worker", "web*"),
    ],
)
async def test_one_text_is_not_taken_for_a_list_of_its_characters(
    call: Callable[[Controller], Coroutine[Any, Any, object]],
) -> None:
    """`*` is among those of `web*`, and means everybody."""
    broker = ScriptedBroker([seen("w1"), seen("w2")])

    with pytest.raises(InvalidInputError, match="give a list"):
        await call(Controller(broker.as_broker))

    assert broker.issued == []


def test_an_iterator_of_workers_means_those_and_not_everybody() -> None:
    """It can be read once, and no names at all mean everybody."""
    names: Any = iter(["w1", "w2"])

    assert check_targets(names) == ("w1", "w2")


def test_what_is_recorded_is_not_one_text_either() -> None:
    with pytest.raises(InvalidInputError, match="give a list"):
        Controller(ScriptedBroker().as_broker).recorded("purge", "abc", kind="queue")
