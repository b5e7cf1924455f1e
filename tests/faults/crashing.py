"""The application of app.py in a process that kills itself at a named point. Only tests import this.

The point and the pass at which to die come in FAULTS_CRASH (`P5:2`). A function of the worker or of its adapter is
wrapped; at the pass that counts, one line goes to the file in FAULTS_CRASHES, and SIGKILL follows. Stem itself knows
nothing of it. A function that has gone is an error, and so is one whose arguments look different: then the process
ends with `BROKEN`, and never for a wrong reason by -9.

`python -m tests.faults.crashing ID` is a producer that enqueues one task, and may die on it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from stem.contracts import Outcome
from tests.faults.childish import app as app  # the application that a worker loads from here
from tests.faults.orphan import CHILD

CRASH_VARIABLE: Final = "FAULTS_CRASH"
CRASHES_VARIABLE: Final = "FAULTS_CRASHES"
BROKEN: Final = 99
DURING_S: Final = 0.02

Scene = Literal["load", "sweep", "control", "drain", "start", "producer", "child"]
When = Literal["before", "after", "during"]
Call = Mapping[str, Any]
Takes = Callable[[Call], list[str] | None]


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the code at which a process may die.

    Attributes:
        where: `module:Class.method`.
        when: before the call, after it (with its result at hand, which nobody else has seen), or a moment into it.
        takes: gets the call's arguments, and its `result`; returns the tasks concerned if this is the point, else None.
        scene: what brings a process there.
        most: the highest pass at which to die: later ones may never come.
    """

    name: str
    what: str
    where: str
    when: When
    takes: Takes
    scene: Scene = "load"
    most: int = 3


@dataclass(frozen=True, slots=True)
class Crash:
    """What a process wrote right before it died. `ids`: the tasks that were on their way."""

    point: str
    pid: int
    at_ns: int
    ids: tuple[str, ...]


def _always(call: Call) -> list[str] | None:
    return []


def _when(holds: Callable[[Call], object]) -> Takes:
    return lambda call: [] if holds(call) else None


def _delivered(wanted: Callable[[Any], object] = lambda delivery: True) -> Takes:
    """The answer of an exchange carries such a delivery."""

    def takes(call: Call) -> list[str] | None:
        found = call["result"].deliveries
        return [one.id for one in found] if any(wanted(one) for one in found) else None

    return takes


def _settled(outcome: Outcome) -> Takes:
    """An exchange takes such an outcome along."""
    return _when(lambda call: any(one.outcome is outcome for one in call["settlements"]))


def _job(wanted: Callable[[Any], object] = lambda job: True) -> Takes:
    return lambda call: [call["self"].id] if wanted(call["self"]) else None


def _of_child(kind: str) -> Takes:
    """The worker's message to a child is of this kind; which task it is about nobody knows yet."""
    return _when(lambda call: call["message"].text("kind") == kind)


def _run_of_child(call: Call) -> list[str] | None:
    return [call["run"].context.id]


def _self_of_child(call: Call) -> list[str] | None:
    return [call["self"].context.id]


def _job_of_call(call: Call) -> list[str] | None:
    return [call["job"].id]


def _isolated_job(call: Call) -> list[str] | None:
    return [call["job"].id] if call["job"].isolated else None


def _rang(reply: Any) -> bool:
    """Say whether a reply is that of a BLPOP which popped from a bell."""
    return type(reply) is list and len(reply) == 2 and type(reply[0]) is bytes and reply[0].endswith(b":bell")


_says_done: Final = _when(lambda call: call["kind"] == "done")
_SENT: Final = "stem.worker.child:Link.send"
_DIED: Final = "stem.worker.dispatch:Dispatcher.died"
_DONE: Final = "stem.worker.dispatch:Dispatcher.succeeded"

_EXCHANGE: Final = "stem.adapters.redis.broker:RedisStreamsBroker.exchange"
_BEAT: Final = "stem.adapters.redis.presence:RedisPresence.beat"
_SWEEP: Final = "stem.adapters.redis.broker:RedisStreamsBroker.sweep"
_LEAVE: Final = "stem.adapters.redis.broker:RedisStreamsBroker.leave"
_CALL: Final = "stem.worker.job:Job.call"

_ALL: Final = (
    Point(
        "P1",
        "the bell was heard, nothing asked for yet",
        "redis.asyncio.connection:AbstractConnection.read_response",
        "after",
        _when(lambda call: _rang(call["result"])),
    ),
    Point("P2", "deliveries handed out, answer unread", _EXCHANGE, "after", _delivered()),
    Point("P3", "before the handler", _CALL, "before", _job()),
    Point("P4", "amid the handler", _CALL, "during", _job(lambda job: job.delivery.task == "fault.nap")),
    Point(
        "P5",
        "the handler has returned",
        "stem.worker.dispatch:Dispatcher.succeeded",
        "before",
        lambda call: [call["job"].id],
    ),
    Point("P5b", "outcomes gathered, not sent", _EXCHANGE, "before", _settled(Outcome.SUCCEEDED)),
    Point("P6", "successes settled, answer unread", _EXCHANGE, "after", _settled(Outcome.SUCCEEDED)),
    Point(
        "P6b",
        "a second exchange beside one under way",
        "stem.worker.intake:Intake._exchange",
        "before",
        _when(lambda call: call["self"]._under_way),
    ),
    Point(
        "P7",
        "success known, nobody told",
        "stem.worker.finisher:Finisher._signal",
        "before",
        _when(lambda call: call["settlement"].outcome is Outcome.SUCCEEDED),
    ),
    Point("P8", "a retry settled, answer unread", _EXCHANGE, "after", _settled(Outcome.RETRY)),
    Point("P9", "a dead letter settled, answer unread", _EXCHANGE, "after", _settled(Outcome.DEAD)),
    Point("P10", "before leases are renewed", _BEAT, "before", _when(lambda call: call["beat"].leases)),
    Point("P10b", "leases renewed, answer unread", _BEAT, "after", _when(lambda call: call["beat"].leases)),
    Point("P11", "before a sweep", _SWEEP, "before", _always, "sweep", 2),
    Point(
        "P11b",
        "tasks of a lost worker given back, answer unread",
        _SWEEP,
        "after",
        _when(lambda call: call["result"].requeued),
        "sweep",
        1,
    ),
    Point("P12", "a due task handed out, answer unread", _EXCHANGE, "after", _delivered(lambda one: one.attempt > 0)),
    Point(
        "P13",
        "draining, with tasks in flight",
        "stem.worker.lifecycle:Lifecycle._until_empty",
        "before",
        _when(lambda call: call["self"]._board.jobs),
        "drain",
        1,
    ),
    Point("P13b", "drained, before the goodbye", "stem.worker.vitals:Vitals._leave", "before", _always, "drain", 1),
    Point("P13c", "goodbye said, before leaving the queues", _LEAVE, "before", _always, "drain", 1),
    Point("P13d", "queues left, answer unread", _LEAVE, "after", _always, "drain", 1),
    Point(
        "P14",
        "the control log was read, nothing applied",
        "stem.worker.steering:Steering.adopt_desired",
        "before",
        _when(lambda call: call["desired"].log and call["self"]._state() == "running"),
        "control",
        1,
    ),
    Point(
        "P15",
        "a command applied, not answered",
        "stem.control.responder:Responder._reply",
        "before",
        _when(lambda call: call["command"].type == "pause"),
        "control",
        1,
    ),
    Point(
        "P16", "subscribed, before the first heartbeat", "stem.worker.beat:Beater.beat", "before", _always, "start", 1
    ),
    Point("P16b", "the first heartbeat is out", "stem.worker.beat:Beater.beat", "after", _always, "start", 1),
    Point("P16c", "registered as consumer by its first fetch", _EXCHANGE, "after", _always, "start", 1),
    Point(
        "P18",
        "a producer, before it sends",
        "stem.adapters.redis.client:RedisClient.run",
        "before",
        _when(lambda call: call["name"] == "enqueue"),
        "producer",
        1,
    ),
    Point(
        "P18b",
        "a producer, answer unread",
        "stem.adapters.redis.client:RedisClient.run",
        "after",
        _when(lambda call: call["name"] == "enqueue"),
        "producer",
        1,
    ),
    Point(
        "P18c",
        "a producer without a loop, before it sends",
        "stem.adapters.redis.blocking:BlockingRedisBroker._run",
        "before",
        _when(lambda call: call["name"] == "enqueue"),
        "producer",
        1,
    ),
    Point(
        "P18d",
        "a producer without a loop, answer unread",
        "stem.adapters.redis.blocking:BlockingRedisBroker._run",
        "after",
        _when(lambda call: call["name"] == "enqueue"),
        "producer",
        1,
    ),
)
POINTS: Final[Mapping[str, Point]] = {point.name: point for point in _ALL}
"""P1 to P18 of the reliability notes, with letters where this design has more than one place, at which a worker or a
producer dies; P17 are those of a child process."""

_LISTENER: Final = "stem.worker.child:Child._take"
_PERFORM: Final = "stem.worker.child:Child._perform"
_CHILDS: Final = (
    Point("P17", "a child, imported and told its first task", _LISTENER, "before", _of_child("run"), "child", 1),
    Point("P17b", "a child, before the handler", _PERFORM, "before", _run_of_child, "child", 2),
    Point("P17c", "a child, amid the handler", "stem.worker.child:Run.progress", "after", _self_of_child, "child", 2),
    Point("P17d", "a child, the result at hand and unsent", _SENT, "before", _says_done, "child", 2),
    Point("P17e", "a child, the result sent", _SENT, "after", _says_done, "child", 2),
    Point("P17f", "the worker, whose child has just died", _DIED, "before", _job_of_call, "child", 1),
    Point("P17g", "the worker, with a child's result at hand", _DONE, "before", _isolated_job, "child", 2),
)
CHILD_POINTS: Final[Mapping[str, Point]] = {point.name: point for point in _CHILDS}
"""The same about child processes; P17f and P17g are passed by the worker."""


def find(point: Point) -> tuple[type, str, Callable[..., Any]]:
    """Return the class, the method's name and the method of a point.

    Raises:
        LookupError: there is no such function any more.
    """
    module_name, _, path = point.where.partition(":")
    class_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module_name), class_name, None)
    function = vars(owner).get(name) if isinstance(owner, type) else None
    if owner is None or not inspect.isfunction(function):
        raise LookupError(f"crash point {point.name} ({point.what}): there is no {point.where} any more")
    return owner, name, function


def arm(spec: str, crashes: str) -> None:
    """Let this process die at a point: `P5:2` is the second pass of P5.

    Raises:
        LookupError: no such point, or none in the code any more.
    """
    name, _, nth = spec.partition(":")
    point = {**POINTS, **CHILD_POINTS}[name]
    owner, attribute, function = find(point)
    setattr(owner, attribute, _wrapped(function, _Trap(point, int(nth), crashes, inspect.signature(function))))


class _Trap:
    """Counts the passes of a point and kills the process at one of them."""

    def __init__(self, point: Point, nth: int, crashes: str, signature: inspect.Signature) -> None:
        self.point = point
        self._nth = nth
        self._path = crashes
        self._crashes = os.open(crashes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._signature = signature
        self._passed = 0

    def pass_by(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any = None) -> None:
        try:
            ids = self.point.takes({**self._signature.bind(*args, **kwargs).arguments, "result": result})
        except BaseException:  # the code looks different: to go on would look like a point that nobody passes
            traceback.print_exc()
            os._exit(BROKEN)
        if ids is None:
            return
        self._passed += 1
        if self._passed != self._nth:
            return
        if self.point.when == "during":
            asyncio.get_running_loop().call_later(DURING_S, self._die, ids)
        else:
            self._die(ids)

    def _die(self, ids: list[str]) -> None:
        if self.point.scene == "child" and not self._first():
            return
        row = {"point": self.point.name, "pid": os.getpid(), "at_ns": time.monotonic_ns(), "ids": ids}
        os.write(self._crashes, (json.dumps(row) + "\n").encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def _first(self) -> bool:
        """Say whether no other process of this worker has died here: its children are replaced, and set to die too."""
        owner = os.getppid() if in_child() else os.getpid()
        try:
            os.close(os.open(f"{self._path}-{self.point.name}-{owner}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


def in_child() -> bool:
    """Say whether this is a child process of a worker."""
    return CHILD in sys.orig_argv


def _wrapped(function: Callable[..., Any], trap: _Trap) -> Callable[..., Any]:
    before = trap.point.when != "after"

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        if before:
            trap.pass_by(args, kwargs)
        result = await function(*args, **kwargs)
        if not before:
            trap.pass_by(args, kwargs, result)
        return result

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if before:
            trap.pass_by(args, kwargs)
        result = function(*args, **kwargs)
        if not before:
            trap.pass_by(args, kwargs, result)
        return result

    return run_async if inspect.iscoroutinefunction(function) else run


def read_crashes(path: Path) -> list[Crash]:
    """Return what was written by those who died."""
    if not path.exists():
        return []
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    return [Crash(row["point"], row["pid"], row["at_ns"], tuple(row["ids"])) for row in rows]


async def _produce(task_id: str) -> None:
    async with app:
        await app.enqueue("fault.quick", {}, task_id=task_id)


if CRASH_VARIABLE in os.environ and (not in_child() or os.environ[CRASH_VARIABLE].partition(":")[0] in CHILD_POINTS):
    arm(os.environ[CRASH_VARIABLE], os.environ[CRASHES_VARIABLE])

if __name__ == "__main__":
    if os.environ.get(CRASH_VARIABLE, "").startswith(("P18c", "P18d")):
        app.blocking().enqueue("fault.quick", {}, task_id=sys.argv[1])
    else:
        asyncio.run(_produce(sys.argv[1]))
