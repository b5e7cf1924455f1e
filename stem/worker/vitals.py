"""The thread that keeps a worker alive to the outside: it beats, renews leases, answers the control channel, sweeps,
watches the work loop and drives the stop, on an event loop and connections of its own.

Whatever a handler does to the work loop, this goes on; only what holds the GIL can stop it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, Final

from stem.authority import ControlKeys
from stem.contracts import Broker
from stem.control.guard import Guard
from stem.control.responder import Responder
from stem.errors import BrokerError, BrokerRefusedError, InvalidInputError, StemError
from stem.registry import TaskRegistry
from stem.worker.beat import Beater
from stem.worker.board import Board
from stem.worker.health import Health, HealthPort
from stem.worker.identity import Identity
from stem.worker.job import Job
from stem.worker.lifecycle import (
    REFUSED_EXIT,
    RESCUE_S,
    TASKS_LEFT,
    WEDGED_EXIT,
    Level,
    Lifecycle,
    rescue,
    write_stacks,
)
from stem.worker.loops import end_all, happens, insist, keep_alive
from stem.worker.metrics import Metrics
from stem.worker.outage import RIGHTS, Outages
from stem.worker.plan import redactions
from stem.worker.steering import Steering, WorkOrders
from stem.worker.watchdog import Watchdog

log = logging.getLogger("stem.worker")

LONGEST_SWEEP_S: Final = 4.0
SHORTEST_SWEEP_S: Final = 0.5
SWEEPERS: Final = 10
"""A fleet of more sweeps as often as so many would: hundreds need not all look for what short leases free."""
RECONCILE_EVERY_SWEEPS: Final = 12
WAKE_S: Final = 5.0
GOODBYE_S: Final = 2.0
HOPELESS_GOODBYE_S: Final = 0.5
ACKNOWLEDGE_S: Final = 2.0
ENDING_S: Final = 15.0
"""More than the work loop may take from there to its end: copies, child processes, callbacks of `worker_shutdown`."""


class Vitals:
    """The vitals thread of one worker. Built and started on the work loop; everything else happens in the thread.

    Args:
        broker: the worker's; a clone of it is used here.
        announce_stop: called in the thread with each level of stopping.
        owns_process: the process may be ended from here when the work loop does not follow.
        control_keys: of those whose commands are obeyed; None obeys everybody.
        health: answers probes and scrapes, if there is one.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        board: Board,
        identity: Identity,
        registry: TaskRegistry,
        config: Mapping[str, Any],
        work: WorkOrders,
        interval_s: float,
        lease_s: float,
        soft_timeout_s: float,
        drain_timeout_s: float,
        wedged_timeout_s: float,
        owns_process: bool,
        announce_stop: Callable[[Level, str], None],
        finished: Callable[[int], None],
        outages: Outages,
        control_keys: ControlKeys | None,
        health: HealthPort | None,
    ) -> None:
        self._shared_broker = broker
        self._control_keys = control_keys
        self._health = health
        self._board = board
        self._identity = identity
        self._registry = registry
        self._config = config
        self._work = work
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._soft_timeout_s = soft_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._wedged_timeout_s = wedged_timeout_s
        self._owns_process = owns_process
        self._announce_stop = announce_stop
        self._finished = finished
        self._outages = outages
        self._ready: Future[bool] = Future()
        self._thread = threading.Thread(target=self._main, name="stem-vitals", daemon=True)
        self._acknowledged = threading.Event()
        self._over = threading.Event()
        # Reentrant: a signal handler may interrupt the main thread while it holds it.
        self._guard = threading.RLock()
        self._early: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._built = False
        self._ended = False
        self._begun = False
        self._hopeless = False
        self._missing = False

    # ------------------------------------------------------------------------------------------------------ any thread

    def start(self) -> Future[bool]:
        """Start the thread; the future is True once the worker is registered, False if it was stopped before.

        It raises `BrokerRefusedError` if the broker does not let this worker in.
        """
        # From now on nobody can cancel it: whoever stops waiting leaves the thread its own end.
        self._ready.set_running_or_notify_cancel()
        try:
            self._thread.start()
        except RuntimeError:  # the system gives none: nobody else frees the port
            if self._health is not None:
                self._health.release()
            raise
        return self._ready

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Run `function` in the vitals thread soon; nothing happens once the worker is gone."""
        with self._guard:
            loop = self._loop
            if self._ended:
                return
            if loop is None:
                # A signal may come before the thread is ready for it; it must not be lost.
                self._early.append(functools.partial(function, *args))
                return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(function, *args)

    def ask(self, level: Level, why: str) -> None:
        self.call(lambda: self._lifecycle.ask(level, why))

    def fail(self, why: str, *, level: Level = Level.HARD) -> None:
        self.call(lambda: self._lifecycle.fail(why, level=level))

    def shut_out(self, error: BrokerRefusedError) -> None:
        """The broker does not let this worker in any more."""
        self.call(lambda: self._lifecycle.fail(str(error), exit_code=REFUSED_EXIT))

    def signalled(self, number: int) -> None:
        self.call(lambda: self._lifecycle.signalled(number))

    def poke(self) -> None:
        """Beat soon."""
        self.call(lambda: self._beater.poke())

    def catch_up(self) -> None:
        """Read the control log now."""
        self.call(lambda: self._behind.set())

    def reconcile_soon(self) -> None:
        """The broker has lost something: look for tasks that stand in no queue with the next sweep."""
        self._missing = True

    def emptied(self) -> None:
        """Nothing is in flight any more."""
        self.call(self._on_empty)

    def begun(self) -> None:
        """The worker takes work now."""
        self._begun = True
        self.poke()

    def acknowledge(self) -> None:
        """The work loop knows that the worker is gone."""
        self._acknowledged.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread: the work loop is done with everything else."""
        self._over.set()
        if self._thread.ident is not None:  # or the system gave none
            self._thread.join(timeout_s)

    def state(self) -> str:
        """Return the worker's state, as heartbeats say it."""
        if not self._built:
            return "starting"
        level = self._lifecycle.level
        if level >= Level.SOFT:
            return "stopping"
        if level is Level.WARM or self._board.draining:
            return "draining"
        return "running" if self._begun else "starting"

    # ------------------------------------------------------------------------------------------------------ the thread

    def _main(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(loop))
        except BaseException as error:
            # Reported where somebody waits; a thread that dies in silence would leave a worker nobody hears of.
            log.exception("vitals.died")
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                self._finished(WEDGED_EXIT)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _build(self, broker: Broker) -> None:
        board, work = self._board, self._work
        self._behind = asyncio.Event()
        self._seen = asyncio.Event()
        self._lifecycle = Lifecycle(
            board=board,
            worker_id=self._identity.id,
            soft_timeout_s=self._soft_timeout_s,
            drain_timeout_s=self._drain_timeout_s,
            announce=self._stopping,
            stop_handlers=work.stop_all,
            hand_back_waiting=work.hand_back_unbegun,
            kill_children=work.kill_children,
            under_way=lambda: work.busy_before(work.serial),
            wedged=lambda: self._watchdog.wedged(),
        )
        self._steering = Steering(
            identity=self._identity,
            board=board,
            registry=self._registry,
            config=self._config,
            work=work,
            lifecycle=self._lifecycle,
            beater=lambda: self._beater,
            state=self.state,
        )
        self._beater = Beater(
            broker=broker,
            board=board,
            identity=self._identity,
            digest=self._registry.digest(),
            redacted=redactions(self._registry),
            interval_s=self._interval_s,
            state=self.state,
            lose=self._lose,
            revoked=self._steering.told_revoked,
            behind=self._behind.set,
            watched=self._seen.set,
            refresh=self._steering.refresh,
            outages=self._outages,
            count=lambda measured: self._metrics.add(measured),
        )
        self._metrics = Metrics(
            broker=broker,
            beat=lambda: self._beater.heartbeat(self.state()),
            queues=board.queues,
            counters=board.counters,
            ready=lambda: not self._unready(),
            beat_age_s=self._beater.age_s,
        )
        guard = Guard(self._control_keys, namespace=broker.namespace, worker_id=self._identity.id)
        self._responder = Responder(broker.control, self._steering, guard)
        self._watchdog = Watchdog(
            board=board,
            wedged_timeout_s=self._wedged_timeout_s,
            beat_soon=self._beater.poke,
            stop=work.stop,
            give_up=self._give_up,
            loop_closed=lambda: work.loop.is_closed(),
            abandoned=lambda: self._lifecycle.ask(Level.HARD, "the application closed its event loop"),
        )

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        broker = self._broker = self._shared_broker.clone()
        self._build(broker)
        with self._guard:
            self._built = True
            self._loop = loop
            early, self._early = self._early, []
        for function in early:
            function()
        tasks: list[asyncio.Task[None]] = []
        code = 0
        try:
            if self._health is not None:
                await self._health.open(self._healthy, self._metrics.page)
            if not await self._register(broker):
                self._ready.set_result(False)
            else:
                for name, body in (
                    ("heartbeat", self._beater.run),
                    ("control", self._hear),
                    ("catch-up", self._catch_up),
                    ("sweep", self._sweep),
                    ("watchdog", self._watchdog.run),
                    ("events", self._flush_events),
                ):
                    tasks.append(loop.create_task(self._alive(name, body), name=f"stem {name}"))
                self._ready.set_result(True)
                code = await self._lifecycle.run(broker)
                await self._leave(broker, code)
        except BrokerRefusedError as error:
            self._ready.set_exception(error)
            return
        finally:
            with self._guard:
                self._loop, self._ended = None, True
            await end_all(tasks)
            if self._health is not None:
                await self._health.close()
            await broker.close()
        self._finished(code)
        if self._owns_process and tasks:
            self._see_it_end(code)

    def _healthy(self) -> Health:
        return Health(self._board.loop_age_s(), self._unready())

    def _unready(self) -> tuple[str, ...]:
        state = self.state()
        why = [] if state == "running" else [f"this worker is {state}"]
        if self._board.paused_self:
            why.append("this worker is paused")
        if state != "starting" and self._beater.away:
            why.append(f"the broker has confirmed no heartbeat for {self._beater.age_s():.1f} s")
        return tuple(why)

    async def _alive(self, name: str, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await keep_alive(name, body, hopeless=lambda which: self._lifecycle.fail(f"the {which} loop keeps dying"))

    async def _register(self, broker: Broker) -> bool:
        """Subscribe, take over desired state and beat, for ever if need be; False if stopped meanwhile."""
        outage = self._outages.of("start")
        while not self._lifecycle.asked.is_set():
            try:
                await broker.control.subscribe()
                await self._responder.begin()
                await self._beater.beat()
                outage.over()
                return True
            except BrokerRefusedError as error:
                if error.code in RIGHTS:
                    raise
                delay_s = outage.failed(error)
            except BrokerError as error:
                delay_s = outage.failed(error)
            await happens(self._lifecycle.asked, delay_s)
        return False

    async def _hear(self) -> None:
        """Listen for wake-ups; after a break, listen first and read then, so that nothing falls in between."""
        control, outage = self._broker.control, self._outages.of("control")
        listening = True
        while True:
            try:
                if not listening:
                    await control.subscribe()
                    listening = True
                    await self._responder.catch_up()
                    outage.over()
                woken = await control.wake(WAKE_S)
                if woken is None or (woken.question is not None and self._responder.answer(woken.question)):
                    continue
                epoch = self._responder.epoch
                await self._responder.catch_up()
                if self._responder.epoch == epoch:
                    self._beater.poke()  # not a command: somebody begins to watch
            except BrokerError as error:
                listening = False
                await asyncio.sleep(outage.failed(error))

    async def _catch_up(self) -> None:
        outage = self._outages.of("control log")
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._responder.catch_up()
                outage.over()
            except BrokerError as error:
                self._behind.set()
                await asyncio.sleep(outage.failed(error))

    async def _sweep(self) -> None:
        """Give back what lost workers held, and look for deliveries of our own that we never saw."""
        cursor, outage, turn = "0", self._outages.of("sweep"), 0
        # Where leases are short, what they free shall not wait for long either; and one look at once, because a worker
        # often starts because another one has died.
        alone_s = max(SHORTEST_SWEEP_S, self._lease_s / 2)
        wait_s = SHORTEST_SWEEP_S
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
            wait_s = min(LONGEST_SWEEP_S, alone_s * max(1.0, self._board.fleet / SWEEPERS))
            try:
                swept = await self._broker.sweep(self._board.queues, worker=self._identity.id)
                if swept.requeued or swept.buried:
                    log.info("tasks.reclaimed", extra={"requeued": swept.requeued, "buried": swept.buried})
                if swept.more:  # somebody lost many: they do not wait for the next turn, a part at a time
                    wait_s = 0.0
                    continue
                turn += 1
                if cursor != "0" or turn % RECONCILE_EVERY_SWEEPS == 0 or self._missing:
                    self._missing = False
                    cursor, repaired = await self._broker.reconcile(cursor)
                    if repaired:
                        log.warning("tasks.repaired", extra={"count": repaired})
                outage.over()
            except BrokerError as error:
                await asyncio.sleep(outage.failed(error))
            self._work.adopt_soon()

    async def _flush_events(self) -> None:
        while True:
            if not self._board.watched and not self._board.events:
                self._seen.clear()
                await self._seen.wait()
            await asyncio.sleep(self._board.flush_every_s)
            while events := self._board.take_events():
                try:
                    await self._broker.events.emit(events)
                except StemError:
                    break  # the heartbeat tells of an outage; events of that time are dropped, and too large ones

    # ------------------------------------------------------------------------------------------------------------ stop

    def _lose(self, job: Job) -> None:
        job.lost = True
        self._work.lose(job)

    def _on_empty(self) -> None:
        self._lifecycle.emptied()
        self._steering.emptied()

    def _stopping(self, level: Level, why: str) -> None:
        self._work.look_again()
        self._beater.poke()
        self._announce_stop(level, why)

    async def _leave(self, broker: Broker, code: int) -> None:
        """Say goodbye: to whoever waits for it, with a last heartbeat, and to the queues."""
        self._board.watched = False
        # What could not be handed back says that the broker is away: one more word is tried, and not for long.
        within_s = HOPELESS_GOODBYE_S if code == TASKS_LEFT else GOODBYE_S
        try:
            async with asyncio.timeout(within_s):
                while events := self._board.take_events():
                    with contextlib.suppress(InvalidInputError):  # too much at once: no reason to go without a word
                        await broker.events.emit(events)
                await self._beater.beat(last=True)
        except (StemError, TimeoutError) as error:
            log.warning("worker.no_goodbye", extra={"error": f"{type(error).__name__}: {error}"})
            self._steering.say_goodbye(code)
            await self._responder.close(0)
            return  # the broker forgets it by itself
        self._steering.say_goodbye(code)
        await self._responder.close(GOODBYE_S)
        try:
            async with asyncio.timeout(GOODBYE_S):
                await insist(lambda: broker.leave(self._identity.id, self._board.queues))
        except (BrokerError, TimeoutError):
            return  # the broker forgets it by itself

    async def _give_up(self, age_s: float) -> None:
        """The work loop has stood still for too long: write the stacks, let others have the tasks, end the process."""
        write_stacks(self._work.loop, self._work.child_stacks)
        log.critical(
            "worker.wedged_for_too_long",
            extra={"loop_age_ms": round(age_s * 1000), "in_flight": len(self._board.jobs), "exit_code": WEDGED_EXIT},
        )
        self._board.stopping = True
        await self._work.kill_children()
        await rescue(self._broker, self._board, self._identity.id, crashed=lambda job: True, timeout_s=RESCUE_S)
        self._lifecycle.fail("the work loop is wedged")

    def _see_it_end(self, code: int) -> None:
        """End the process if the work loop does not: it may be blocked for good."""
        if not (self._acknowledged.wait(ACKNOWLEDGE_S) and self._over.wait(ENDING_S)):
            for handler in logging.getLogger().handlers + log.handlers:
                with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                    handler.flush()
            os._exit(code)
