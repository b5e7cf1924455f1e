"""What the state machine stands on: the broker, the model beside it, and the comparison of the two after every rule."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from stem.contracts import Change, Delivery, PauseKind
from stem.messages.command import Command
from tests.model.model import FINAL, LATER, Model, Record
from tests.model.worlds import World

T = TypeVar("T")

QUEUES: Final = ("alpha", "beta")
NAMES: Final = ("mail", "image")
WORKERS: Final = ("ann", "bob")
TARGETS: Final[Mapping[PauseKind, Sequence[str]]] = {"queue": QUEUES, "task": NAMES, "worker": WORKERS}


def agree(broker: object, model: object, what: str = "the answer") -> None:
    """Raise an AssertionError that shows both, unless they are equal."""
    if broker != model:
        raise AssertionError(f"{what}: the broker says {broker!r}, the model {model!r}")


@dataclass(slots=True)
class Worker:
    """What one worker process believes: who it is, what of desired state it has applied, what it holds."""

    id: str
    epoch: int = 0
    held: dict[str, Delivery] = field(default_factory=dict)


class Comparison(RuleBasedStateMachine):
    """One run against one adapter; who subclasses it adds the rules."""

    open_world: ClassVar[Callable[[], World]]
    """Makes the empty broker of a run; set by a subclass per adapter."""

    seen: ClassVar[Counter[str]]
    """What happened in all runs, so that nobody takes a machine that does little for a proof."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = self.run(self._open())
        self.broker = self.world.broker
        self.model = Model()
        self.model.now = self.world.now_ms()
        self.workers = {name: Worker(f"{name}-0") for name in WORKERS}
        self.ids: list[str] = []
        self.given: list[tuple[str, Delivery]] = []
        self.tokens: Counter[str] = Counter()
        self.commands: list[tuple[Command, Change, list[tuple[str, str, bool]], int]] = []
        self.last: Callable[[], None] | None = None
        self.watched = True
        self.steps = 0

    async def _open(self) -> World:
        return type(self).open_world()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def do(self, call: Callable[[], None]) -> None:
        """Make a call, and let `the_reply_was_lost` make it again."""
        call()
        self.last = call

    def pick(self, back: int, apt: Sequence[str]) -> str:
        """Return one of these ids, counted from the newest; if there is none an id that was never enqueued."""
        there = [task_id for task_id in apt if task_id not in self.model.dropped]
        return there[-1 - back % len(there)] if there else f"t-{len(self.ids)}"

    def in_state(self, *states: str) -> list[str]:
        return [task_id for task_id, record in self.model.tasks.items() if record.state in states]

    @invariant()
    def the_broker_is_as_the_model_says(self) -> None:
        """In some runs only at the end, because an adapter may mend something when it is looked at."""
        self.steps += 1
        if self.watched:
            self._compare_records()
            self._compare_queues()
            self._compare_history()

    def _compare_records(self) -> None:
        model = self.model
        there = [task_id for task_id in (*self.ids, f"t-{len(self.ids)}") if task_id not in model.dropped]
        for task_id, status in zip(there, self.run(self.broker.statuses(there, timeline=False)), strict=True):
            record = model.tasks.get(task_id)
            if record is None:
                # What is there is the tombstone of an id that was revoked before it came.
                tomb = status is not None and status.state.value == "revoked" and not status.task
                assert status is None or tomb, f"{task_id} is made up"
                agree(tomb, task_id in model.tombs, f"the tombstone of {task_id}")
                continue
            assert status is not None, f"{task_id} is lost"
            said = (status.state.value, status.attempt, status.crashes, status.token)
            agree(said, (record.state, record.attempt, record.crashes, record.token), task_id)
            if record.state == "succeeded":
                agree((status.result, status.error), (record.settled, None), f"the result of {task_id}")
            if record.state == "running":
                agree(status.worker, record.owner, f"the worker of {task_id}")

    def _compare_queues(self) -> None:
        rows = {row.name: row for row in self.run(self.broker.census.queues())}
        for queue in QUEUES:
            row, states = rows.get(queue), Counter(map(self._counts_as, self.model.of(queue).values()))
            wanted = [states[state] for state in ("queued", *LATER, "running")]
            wanted.append(sum(one.dead for one in self.model.of(queue).values()))
            said = [row.ready + row.held, row.delayed, row.retrying, row.in_flight, row.dead] if row else [0] * 5
            agree(said, wanted, f"ready, delayed, retrying, in flight and dead of {queue}")

    def _counts_as(self, record: Record) -> str:
        """What is due is ready, also where nobody has fetched it yet."""
        return "queued" if record.state in LATER and record.due <= self.model.now else record.state

    def _compare_history(self) -> None:
        """Every end is recorded, and once."""
        ended = Counter(row.id for row in self.run(self.broker.census.history(10_000)) if row.state.value in FINAL)
        tasks = self.model.tasks
        agree({each: ended[each] for each in tasks}, {each: one.ends for each, one in tasks.items()}, "ends")

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # nothing has failed so far, nor was this example cut short
                self.drain()
                agree(self.run(self.world.broken()), [], "left behind")
                self.seen["examples"] += 1
                self.seen["steps"] += self.steps
        finally:
            self.run(self.world.close())
            self.runner.close()

    def drain(self) -> None:
        """Bring every task to its end."""
        raise NotImplementedError
