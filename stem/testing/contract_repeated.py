"""The contract of an enqueue that is repeated from elsewhere: who asks is no part of what is asked."""

from __future__ import annotations

from typing import Any

import pytest

from stem.messages.envelope import Envelope
from stem.testing.case import BrokerCase, Hand, new_task, put

TASK = "t-1"
LONG = "r" * 40
"""Longer than 31: packed in another way than a short one."""


def _body(root: str | None = None, parent: str | None = None, **set_: Any) -> bytes:
    """A body under an id of the caller's: it tells no time."""
    return Envelope(id=TASK, task="job", root=root, parent=parent, **{"args": {"n": 1}, **set_}).encode()


class BrokerContractRepeated:
    """Bodies that differ in their lineage alone."""

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (_body(), _body("r", "p")),
            (_body("r", "p"), _body()),
            (_body("r", "p"), _body(LONG, "q" * 64)),
            (_body(LONG, "p", meta={"root": "x", "parent": "y"}), _body(meta={"root": "x", "parent": "y"})),
        ],
    )
    async def test_the_same_task_may_be_sent_by_others(
        self, broker_case: BrokerCase, first: bytes, second: bytes
    ) -> None:
        """The first one stays, and with it the lineage it has."""
        await put(broker_case.broker, new_task(TASK, body=first))

        answer = await put(broker_case.broker, new_task(TASK, body=second))

        assert (answer.id, answer.outcome) == (TASK, "exists")
        assert (await Hand(broker=broker_case.broker, id="w-1").take()).body == first

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (_body("r", "p"), _body("r", "p", args={"n": 2})),
            (_body("r", "p"), _body(args={"n": 2})),
            (_body(meta={"root": "r", "parent": "p"}), _body(meta={"root": "r", "parent": "q"})),
            (_body(meta={"root": "r", "parent": "p"}), _body("r", "p", meta={})),
            (_body(args={"n": b"\xa4root\xa1r\xa6parent\xa1p"}), _body(args={"n": b"\xa4root\xa1r\xa6parent\xa1q"})),
            (_body("r", "p"), b"\x85not a body"),
            (b"\x85not a body", _body("r", "p")),
        ],
    )
    async def test_what_differs_in_more_is_a_conflict(
        self, broker_case: BrokerCase, first: bytes, second: bytes
    ) -> None:
        """Also where something inside the body looks like a lineage."""
        await put(broker_case.broker, new_task(TASK, body=first))

        assert (await put(broker_case.broker, new_task(TASK, body=second))).outcome == "conflict"
