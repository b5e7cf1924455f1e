"""What an adapter gives to the contract suite, and the hands that the suite plays workers and operators with.

Knows contracts and messages only. Durations in the suite are some tens of milliseconds, because for an adapter on a
real server `advance` really waits.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar

import pytest

from stem.contracts import (
    Beat,
    BeatAnswer,
    Broker,
    Change,
    Delivery,
    Enqueued,
    Exchange,
    FetchRequest,
    Issued,
    Lease,
    Limits,
    Measured,
    NewTask,
    Outcome,
    Settlement,
    Swept,
)
from stem.messages.codec import pack
from stem.messages.command import Command
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import ErrorInfo, TaskStatus

T = TypeVar("T")

Corruption = Literal["whole", "fields"]

QUEUE: Final = "default"
LONG_MS: Final = 3_600_000
"""Longer than any test."""

PATIENCE_S: Final = 10.0
"""Real seconds after which something that should have happened did not."""

FLEET: Final = Limits(lost_after_ms=240)
"""Limits for tests in which workers are lost: short enough to wait for, long enough for a busy machine."""


class BrokerCase(ABC):
    """One adapter under test: an empty broker and what a test may do to its world.

    Attributes:
        broker: on an empty namespace, with default limits.
        real_time: `advance` really waits, so hours cannot pass; tests that need them are skipped, with the reason.
    """

    broker: Broker
    real_time: bool = False

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Let this much of the broker's time pass."""

    @abstractmethod
    def limits(self, limits: Limits) -> Broker:
        """Return a broker with these limits; the test uses only this one then. The case closes it."""

    async def lose_reply(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call whose reply is lost, repeat it, and return what the repetition answers."""
        await call()
        return await call()

    async def corrupt(self, task_id: str, how: Corruption) -> None:
        """Overwrite the stored record of a task with bytes that mean nothing: what it is as a whole, or its fields."""
        pytest.skip("this adapter's case does not say how to corrupt a record")

    async def misplace(self, task_id: str, queue: str) -> None:
        """Remove a waiting task from its queue behind the broker's back, leaving its record."""
        pytest.skip("this adapter's case does not say how to misplace a task")

    async def set_back(self, seconds: float) -> None:
        """Set the broker's clock back: what it has stored until now lies ahead of it then."""
        pytest.skip("this adapter's case does not say how to set the broker's clock back")

    def needs_hours(self) -> None:
        """Skip this test where time is real."""
        if self.real_time:
            pytest.skip("needs an hour or a minute to pass, and this adapter's time is real")


# ------------------------------------------------------------------------------------------------------------ producing


def new_task(
    task_id: str | None = None,
    *,
    task: str = "job",
    queue: str = QUEUE,
    args: Mapping[str, Any] | None = None,
    **set_: Any,
) -> NewTask:
    """Return a task with a real body; `set_` are fields of `NewTask`."""
    task_id = task_id or new_task_id()
    body = set_.pop("body", None) or Envelope(id=task_id, task=task, args=args or {}).encode()
    return NewTask(id=task_id, task=task, queue=queue, body=body, **set_)


async def enqueue(broker: Broker, **set_: Any) -> str:
    """Enqueue one task that must be accepted and return its id."""
    task = new_task(**set_)
    answer = await put(broker, task)
    assert answer.outcome in ("queued", "scheduled"), answer
    return answer.id


async def put(broker: Broker, task: NewTask) -> Enqueued:
    """Enqueue one task and return its answer."""
    answers = await broker.enqueue([task])
    assert len(answers) == 1
    return answers[0]


async def status_of(broker: Broker, task_id: str) -> TaskStatus:
    """Return the status of a task that must have a record."""
    (status,) = await broker.statuses([task_id])
    assert status is not None, f"no record of {task_id}"
    return status


async def state_of(broker: Broker, task_id: str) -> str:
    return (await status_of(broker, task_id)).state.value


async def now_ms(broker: Broker) -> int:
    """Return the broker's time."""
    return (await broker.control.read(0)).now_ms


# -------------------------------------------------------------------------------------------------------------- working


@dataclass(slots=True, kw_only=True)
class Hand:
    """A worker as the suite plays it: it fetches, settles and beats when it is told to, never by itself."""

    broker: Broker
    id: str
    name: str = ""
    queues: Sequence[str] = (QUEUE,)
    lease_ms: int = 30_000
    interval_ms: int = 2_000
    epoch: int = 0
    started_at_ms: int = 1
    concurrency: int = 8

    async def exchange(
        self,
        settlements: Sequence[Settlement] = (),
        *,
        count: int = 100,
        queues: Sequence[str] | None = None,
        **set_: Any,
    ) -> Exchange:
        fetch = FetchRequest(
            queues=queues if queues is not None else self.queues,
            count=count,
            lease_ms=set_.pop("lease_ms", self.lease_ms),
            epoch=set_.pop("epoch", self.epoch),
            **set_,
        )
        return await self.broker.exchange(self.id, settlements, fetch)

    async def fetch(self, count: int = 100, **set_: Any) -> Sequence[Delivery]:
        return (await self.exchange(count=count, **set_)).deliveries

    async def take(self, **set_: Any) -> Delivery:
        """Fetch the one task that must be there."""
        deliveries = await self.fetch(1, **set_)
        assert len(deliveries) == 1, "nothing was handed out"
        return deliveries[0]

    async def settle(self, *settlements: Settlement) -> Sequence[str]:
        return (await self.broker.exchange(self.id, settlements, None)).settled

    async def end(self, delivery: Delivery, outcome: Outcome = Outcome.SUCCEEDED, **set_: Any) -> str:
        """Settle one delivery and return the answer."""
        (answer,) = await self.settle(settlement(delivery, outcome, **set_))
        return answer

    def heartbeat(self, **set_: Any) -> Heartbeat:
        return Heartbeat(
            id=self.id,
            name=self.name or self.id,
            started_at_ms=self.started_at_ms,
            host="host",
            pid=1,
            version="0",
            queues=tuple(self.queues),
            concurrency=self.concurrency,
            epoch=self.epoch,
            interval_ms=self.interval_ms,
            **set_,
        )

    async def beat(
        self,
        *deliveries: Delivery,
        progress: Mapping[str, bytes] | None = None,
        measured: Sequence[Measured] = (),
        lease_ms: int | None = None,
        redacted: Mapping[str, Sequence[str]] | None = None,
        **set_: Any,
    ) -> BeatAnswer:
        """Send a heartbeat that renews the leases of these deliveries; `set_` are fields of the heartbeat."""
        return await self.broker.presence.beat(
            Beat(
                heartbeat=self.heartbeat(**set_),
                leases=[lease(delivery, lease_ms) for delivery in deliveries],
                progress=progress or {},
                measured=measured,
                redacted=redacted or {},
            )
        )

    async def catch_up(self) -> None:
        """Apply the control log, as far as fetching is concerned."""
        self.epoch = (await self.broker.control.read(self.epoch)).epoch


def lease(delivery: Delivery, lease_ms: int | None = None) -> Lease:
    return Lease(id=delivery.id, token=delivery.token, lease_ms=lease_ms or delivery.lease_ms, queue=delivery.queue)


def settlement(delivery: Delivery, outcome: Outcome = Outcome.SUCCEEDED, **set_: Any) -> Settlement:
    """Return the end of a delivery; a success without a result gets None as its result."""
    if outcome is Outcome.SUCCEEDED:
        set_.setdefault("result", pack(None))
    if outcome in (Outcome.DEAD, Outcome.RETRY):
        set_.setdefault("error", ErrorInfo(type="ValueError", message="no").encode())
        set_.setdefault("error_type", "ValueError")
    if outcome is Outcome.DEAD:
        set_.setdefault("reason", "failed")
    return Settlement(id=delivery.id, token=delivery.token, outcome=outcome, **set_)


async def make_dead(
    broker: Broker, *, task_id: str | None = None, reason: str = "failed", queue: str = QUEUE, **set_: Any
) -> Delivery:
    """Enqueue a task and bury it; return the delivery it ended with."""
    hand = Hand(broker=broker, id="undertaker")
    await hand.catch_up()
    await enqueue(broker, task_id=task_id, queue=queue, **set_)
    delivery = await hand.take(queues=[queue])
    assert await hand.end(delivery, Outcome.DEAD, reason=reason) == "applied"
    return delivery


async def outlive(case: BrokerCase, *alive: Hand) -> None:
    """Let every worker of a `FLEET` broker be lost but those `alive`, which go on beating meanwhile."""
    step_s = FLEET.lost_after_ms / 5_000
    for _ in range(6):
        for hand in alive:
            await hand.beat()
        await case.advance(step_s)


async def sweep_until(
    case: BrokerCase,
    broker: Broker,
    *alive: Hand,
    want: int = 1,
    queues: Sequence[str] = (QUEUE,),
    max_crashes: int = 3,
    step_s: float = 0.03,
) -> Swept:
    """Sweep, while the workers `alive` go on beating, until `want` tasks were reclaimed; return the sums.

    A sweep may be skipped (another one was just done, the fleet was silent); that is why it is repeated.
    """
    total = Swept()
    deadline = time.monotonic() + PATIENCE_S
    rounds = itertools.count()
    while total.requeued + total.buried < want:
        assert time.monotonic() < deadline, f"swept only {total} of {want}"
        assert not case.real_time or next(rounds) < 10_000
        for hand in alive:
            await hand.beat()
        swept = await broker.sweep(queues, max_crashes=max_crashes, worker=alive[0].id if alive else "")
        total = replace(total, requeued=total.requeued + swept.requeued, buried=total.buried + swept.buried)
        await case.advance(step_s)
    return total


# ------------------------------------------------------------------------------------------------------------ operating


@dataclass(slots=True)
class Operator:
    """Somebody who sends commands."""

    broker: Broker
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def command(self, kind: str = "ping", **set_: Any) -> Command:
        set_.setdefault("id", f"command-{next(self.numbers)}-{new_task_id()}"[:64])
        return Command(type=kind, actor=set_.pop("actor", "ada"), **set_)

    async def issue(self, kind: str, change: Change | None = None, **set_: Any) -> Issued:
        return await self.broker.control.issue(self.command(kind, **set_), change)


def event(number: int, *, kind: str = "task.started", worker: str = "w-1", **set_: Any) -> Event:
    return Event(kind=kind, at_ms=1_000 + number, worker=worker, seq=number, **set_)


async def until(predicate: Callable[[], Awaitable[T]], *, what: str) -> T:
    """Ask again until the answer is true.

    Raises:
        AssertionError: it never was, for `PATIENCE_S` real seconds.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (value := await predicate()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.01)
    return value
