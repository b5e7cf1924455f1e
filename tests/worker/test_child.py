"""The child process's own parts, without a process: what a race between its two threads must not do."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, cast

import pytest

from stem.messages.codec import Fields, unpack
from stem.messages.envelope import Envelope
from stem.registry import SimpleTaskRegistry
from stem.task import CURRENT, TaskContext
from stem.worker import child as module
from stem.worker.child import ORPHANED, Child, Link, Run
from stem.worker.wire import frame
from tests.worker.handlers import in_thread, on_loop


class Told:
    """What a child would have sent to its worker."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.messages.append((kind, fields))


async def note(context: TaskContext, args: Any) -> None:
    return None


def performed(registry: SimpleTaskRegistry, name: str, *, times: int = 1, soft_due: bool = False) -> Told:
    """Run a task in a child that is no process of its own, and return what it tells."""
    told = Told()
    child = Child(cast("Link", told), parent=os.getpid())
    child._registry = registry
    order = {"body": Envelope(id="t", task=name).encode(), "queue": "q", "attempt": 0, "token": 1, "max_retries": 0}
    asyncio.set_event_loop(child._loop)
    try:
        for _ in range(times):
            fields = Fields(order | {"revoked": False, "lost": False}, "order")
            run = Run(fields, child._link, child._courier, worker="w")
            run.soft_due = soft_due
            child._perform(run)
    finally:
        asyncio.set_event_loop(None)
        child._loop.close()
    return told


def test_a_soft_limit_that_comes_before_the_first_step_ends_the_task_and_not_the_child() -> None:
    """Cancelled before its first step, the task never ran to tell of its end: the child died of it, as in a crash."""
    registry = SimpleTaskRegistry()
    on_loop(registry, "note", note)

    ((kind, fields),) = performed(registry, "note", soft_due=True).messages

    assert kind == "failed"
    assert "SoftTimeLimitExceeded" in str(fields)


def test_what_a_plain_handler_sets_in_its_context_ends_with_it() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    def act(context: TaskContext, args: Any) -> str:
        before = tenant.get()
        tenant.set("acme")
        return before

    registry = SimpleTaskRegistry()
    in_thread(registry, "act", act)

    told = performed(registry, "act", times=2)

    assert [unpack(fields["result"]) for _, fields in told.messages] == ["nobody"] * 2
    assert CURRENT.get() is None


class CancelledAsItIsLookedAt(Future[str]):
    def cancelled(self) -> bool:
        before = super().cancelled()
        self.cancel()
        return before


def test_an_enqueue_cancelled_as_its_answer_arrives_leaves_the_child_listening() -> None:
    """The handler's cancellation came between the look and the answer: InvalidStateError ended the listening thread."""
    ours, theirs = socket.socketpair()
    with theirs:
        link = Link(ours.detach())
        link._asked = {1: Future(), 2: (asked := CancelledAsItIsLookedAt())}
        link._asked[1].cancel()

        for number in (1, 2, 3):
            link.answered(Fields({"number": number, "id": "t"}, "answer"))
        link._socket.close()

    assert asked.result(timeout=1) == "t"


def test_a_child_that_cannot_listen_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(module, "_end_group", ended.append)

    class Wire(Told):
        def receive(self) -> bytes:
            return frame("answer", number=1)

    child = Child(cast("Link", Wire()), parent=os.getpid())  # which knows of no answers
    child._listen()
    child._loop.close()

    assert ended == [ORPHANED]
