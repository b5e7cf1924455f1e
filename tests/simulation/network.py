"""Between the simulated processes and the one in-memory broker: requests and replies that take time, get lost, come
too late, or meet a server that is away.

A request, once sent, belongs to the server: it is applied even if whoever sent it has given up or died meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, cast

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Broker, WakeUp
from stem.errors import BrokerUnreachableError, UnknownOutcomeError
from tests.simulation.loop import Process, SimLoop

PATIENCE_S: Final = 5.0
"""How long a client waits for an answer."""
BLOCKING: Final = {"idle": 2.0, "wait": 5.0, "control.wake": 5.0, "control.replies": 5.0}
"""Calls that the server answers late by their nature, and how late at most."""


@dataclass(slots=True, kw_only=True)
class Weather:
    """How likely each call is to meet what. Probabilities; delays in seconds.

    Attributes:
        lost_reply: applied, but the caller gets `UnknownOutcomeError`. lost_request: not applied, and he gets the same.
        refused: certainly not applied. slow: delayed by up to `slowest_s`, either way.
        false_wake: a wake-up without a reason.
    """

    lost_reply: float = 0.0
    lost_request: float = 0.0
    refused: float = 0.0
    slow: float = 0.0
    false_wake: float = 0.0
    usual_s: float = 0.002
    slowest_s: float = 0.0


@dataclass(slots=True)
class _Call:
    process: Process
    what: str
    args: tuple[Any, ...]
    make: Callable[[], Coroutine[Any, Any, Any]]
    future: asyncio.Future[Any]
    deadline: float
    reply_s: float
    lost: bool


Tap = Callable[[Process, str, tuple[Any, ...], Any], None]
Harm = Callable[[str, Process | None, float, float], None]


class Network:
    """Every call of every process goes through here.

    Args:
        tap: told of each call right after the server applied it, with its answer.
        harm: told of each fault: what, whose, from when, until when.
    """

    def __init__(self, loop: SimLoop, rng: random.Random, weather: Weather, *, tap: Tap, harm: Harm) -> None:
        self._loop = loop
        self._rng = rng
        self.weather = weather
        self._tap = tap
        self._harm = harm
        self.server = Process("server")
        self._context = self.server.lane("loop").context()
        self._away_until = 0.0
        self._refuses = False
        self._cut: dict[Process, float] = {}
        self.closed = False

    def outage(self, seconds: float, *, refuses: bool) -> None:
        """Take the server away: connections are refused, or stay open and nothing answers."""
        self._away_until, self._refuses = self._loop.now + seconds, refuses
        self._harm("refusing" if refuses else "hanging", None, self._loop.now, self._away_until + 2 * PATIENCE_S)

    def cut_off(self, process: Process, seconds: float) -> None:
        """Let no packet of one process through; connections stay open."""
        self._cut[process] = self._loop.now + seconds
        self._harm("cut off", process, self._loop.now, self._loop.now + seconds + 2 * PATIENCE_S)

    def heal(self) -> None:
        """Let everything through from now on."""
        self._away_until = 0.0
        self._cut.clear()
        self.weather = Weather()

    def call(
        self, process: Process, what: str, args: tuple[Any, ...], make: Callable[[], Coroutine[Any, Any, Any]]
    ) -> asyncio.Future[Any]:
        """Send a request; the future brings the answer or one of the contract's errors."""
        loop, rng, weather = self._loop, self._rng, self.weather
        future: asyncio.Future[Any] = loop.create_future()
        now = loop.now
        dice = rng.random()
        quick = weather.usual_s * (0.2 + rng.random())
        if self.closed or (self._refuses and now < self._away_until) or dice < weather.refused:
            self._harm("refused", process, now, now + 1.0)
            self._at(now + quick, self._fail, future, BrokerUnreachableError("refused, in the simulation"))
            return future
        dice -= weather.refused
        deadline = now + PATIENCE_S + BLOCKING.get(what, 0.0)
        if self._cut.get(process, 0.0) > now or dice < weather.lost_request:
            self._give_up(process, future, now + quick, deadline, "request lost")
            return future
        dice -= weather.lost_request
        lost = dice < weather.lost_reply
        dice -= weather.lost_reply
        request_s = quick
        reply_s = weather.usual_s * (0.2 + rng.random())
        if not lost and dice < weather.slow:
            delay_s = weather.slowest_s * rng.random()
            self._harm("slow", process, now, now + delay_s + PATIENCE_S)
            if rng.random() < 0.5:
                request_s += delay_s
            else:
                reply_s += delay_s
        elif weather.false_wake and what in ("idle", "control.wake") and rng.random() < weather.false_wake:
            self._at(now + quick, self._answer, future, True if what == "idle" else WakeUp())
            return future
        call = _Call(process, what, args, make, future, deadline, reply_s, lost)
        if now + request_s > deadline:
            self._give_up(process, future, deadline, deadline, "request late")
        self._at(now + request_s, self._arrive, call)
        return future

    def _arrive(self, call: _Call) -> None:
        now = self._loop.now
        until = max(self._away_until, self._cut.get(call.process, 0.0))
        if now < until:
            if until > call.deadline:
                self._give_up(call.process, call.future, now, call.deadline, "no answer")
            if not self._refuses or self._cut.get(call.process, 0.0) > now:
                # It lies in a socket's buffer, and is read when the server goes on.
                self._at(until + 0.001 + 0.01 * self._rng.random(), self._arrive, call)
            else:
                self._give_up(call.process, call.future, now, call.deadline, "connection reset")
            return
        if call.process.dead and self._rng.random() < 0.5:
            return  # it had not left the process yet
        if call.what in BLOCKING:
            task = self._loop.create_task(call.make(), context=self._context)
            task.add_done_callback(lambda done: self._applied_late(call, done), context=self._context)
            return
        try:
            answer = _drive(call.make())
        except Exception as error:
            self._at(now + call.reply_s, self._fail, call.future, error)
            return
        self._applied(call, answer)

    def _applied_late(self, call: _Call, done: asyncio.Task[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._fail(call.future, error)
        else:
            self._applied(call, done.result())

    def _applied(self, call: _Call, answer: Any) -> None:
        now = self._loop.now
        self._tap(call.process, call.what, call.args, answer)
        if call.lost or self._cut.get(call.process, 0.0) > now:
            self._give_up(call.process, call.future, now + call.reply_s, call.deadline, "reply lost")
        elif now + call.reply_s > call.deadline:
            self._give_up(call.process, call.future, call.deadline, call.deadline, "reply late")
        else:
            self._at(now + call.reply_s, self._answer, call.future, answer)

    def _give_up(self, process: Process, future: asyncio.Future[Any], earliest: float, latest: float, why: str) -> None:
        """Have the caller learn, some time until his patience ends, that nobody knows."""
        at = latest if self._rng.random() < 0.5 else earliest + (latest - earliest) * self._rng.random() * 0.2
        self._harm(why, process, self._loop.now, at + 1.0)
        self._at(max(at, self._loop.now), self._fail, future, UnknownOutcomeError(f"{why}, in the simulation"))

    def _at(self, when: float, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_at(when, function, *args, context=self._context)

    @staticmethod
    def _answer(future: asyncio.Future[Any], answer: Any) -> None:
        if not future.done():
            future.set_result(answer)

    @staticmethod
    def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing but its turn."""
    while True:
        try:
            waits_for = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        assert waits_for is None, f"{coroutine!r} waits for {waits_for!r}"


class _Remote:
    """The methods of one part of the broker, as calls over the network."""

    def __init__(self, target: object, prefix: str, network: Network, process: Process) -> None:
        self._target = target
        self._prefix = prefix
        self._network = network
        self._process = process

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method, what = getattr(self._target, name), self._prefix + name

        async def remote(*args: Any, **named: Any) -> Any:
            return await self._network.call(self._process, what, args, lambda: method(*args, **named))

        self.__dict__[name] = remote
        return remote


class SimBroker(_Remote):
    """One process's handle on the broker. Implements `stem.contracts.Broker` but for `blocking()`."""

    def __init__(self, inner: InMemoryBroker, network: Network, process: Process) -> None:
        super().__init__(inner, "", network, process)
        self._inner = inner
        self.namespace = inner.namespace
        self.url = "simulated://"
        self.presence = _Remote(inner.presence, "presence.", network, process)
        self.control = _Remote(inner.control, "control.", network, process)
        self.events = _Remote(inner.events, "events.", network, process)
        self.census = _Remote(inner.census, "census.", network, process)

    @classmethod
    def typed(cls, inner: InMemoryBroker, network: Network, process: Process) -> Broker:
        """Return it as the contract it implements by delegation."""
        return cast("Broker", cls(inner, network, process))

    def clone(self) -> SimBroker:
        return SimBroker(self._inner.clone(), self._network, self._process)

    async def close(self) -> None:
        await self._inner.close()
