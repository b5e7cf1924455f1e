"""The child process's own parts, without a process: what a race between its two threads must not do."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, cast

import pytest

from stem.messages.codec import Fields, unpack
from stem.messages.envelope import Envelope
from stem.registry import SimpleTaskRegistry
from stem.task import CURRENT, TaskContext
from stem.worker import child as module
from stem.worker.child import _SOFT, ORPHANED, Child, Link, Run
from stem.worker.wire import Inbox, frame, heard_failure, heard_signature
from tests.worker.handlers import in_thread, on_loop


class Told:
    """What a child would have sent to its worker."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.messages.append((kind, fields))


async def note(context: TaskContext, args: Any) -> None:
    return None


def made(link: Link, registry: SimpleTaskRegistry, name: str) -> tuple[Child, Run]:
    """Return a child that is no process of its own, and a task for it."""
    child = Child(link, parent=os.getpid())
    child._registry = registry
    order = {"body": Envelope(id="t", task=name).encode(), "queue": "q", "attempt": 0, "token": 1, "max_retries": 0}
    fields = Fields(order | {"revoked": False, "lost": False}, "order")
    return child, Run(fields, link, child._courier, worker="w")


def performed(registry: SimpleTaskRegistry, name: str, *, soft_due: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Run a task in such a child, and return what it tells."""
    told = Told()
    child, run = made(cast("Link", told), registry, name)
    run.soft_due = soft_due
    asyncio.set_event_loop(child._loop)
    try:
        child._perform(run)
    finally:
        asyncio.set_event_loop(None)
        child._loop.close()
    return told.messages


def test_a_soft_limit_that_comes_before_the_first_step_ends_the_task_and_not_the_child() -> None:
    """Cancelled before its first step, the task never ran to tell of its end: the child died of it, as in a crash."""
    registry = SimpleTaskRegistry()
    on_loop(registry, "note", note)

    ((kind, fields),) = performed(registry, "note", soft_due=True)

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

    told = [*performed(registry, "act"), *performed(registry, "act")]

    assert [unpack(fields["result"]) for _, fields in told] == ["nobody"] * 2
    assert CURRENT.get() is None


def test_a_soft_limit_in_the_middle_of_a_message_waits_for_its_end() -> None:
    """Half of it was sent, the next one behind that: the worker killed the child for what it could not read."""

    def ask(context: TaskContext, args: Any) -> None:
        context.enqueue_blocking("note", {"data": "x" * 1_000_000})

    registry = SimpleTaskRegistry()
    in_thread(registry, "ask", ask)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    link = Link(ours.detach())
    child, run = made(link, registry, "ask")
    heard: list[Fields] = []

    def listen() -> None:
        inbox = Inbox()
        data = theirs.recv(1_000)  # it is on its way, and does not get there before somebody reads on
        run.soft_due = True
        signal.pthread_kill(child._main, _SOFT)
        while data and len(heard) < 2:
            heard.extend(inbox.feed(data))
            data = theirs.recv(100_000) if len(heard) < 2 else b""

    before = signal.signal(_SOFT, child._interrupt)
    listening = threading.Thread(target=listen)
    listening.start()
    try:
        with theirs:
            child._perform(run)
            link._socket.shutdown(socket.SHUT_WR)
            listening.join()
    finally:
        signal.signal(_SOFT, before)
        child._loop.close()
        link._socket.close()

    assert [message.text("kind") for message in heard] == ["ask", "failed"]
    assert heard_signature(heard[0].bytes_("signature")).args == {"data": "x" * 1_000_000}
    assert heard_failure(heard[1]).type == "SoftTimeLimitExceeded"
    assert _SOFT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


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
