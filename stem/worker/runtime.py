"""The worker: wires its parts, starts and stops them in a readable order.

the work loop (the caller's)        the vitals thread
intake -> dispatch -> executor      beat, control, sweep, watchdog, stop machine
   ^                     |
   +----- finisher <-----+
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from stem.authority import ControlKeys
from stem.client import Stem
from stem.config import StemConfig
from stem.contracts import Broker, ResultBackend, ServerInfo
from stem.errors import BrokerError, ConfigError
from stem.messages.names import check_list, check_name
from stem.registry import TaskRegistry
from stem.retry import ExponentialJitterRetryStrategy, RetryStrategy
from stem.signals import StemSignals, WorkerInit, WorkerReady, WorkerShutdown, WorkerStopping
from stem.signing import PayloadSigner
from stem.worker import banner, isolation, logs
from stem.worker.board import Board
from stem.worker.dispatch import Dispatcher
from stem.worker.executor.processes import ProcessExecutor
from stem.worker.executor.threads import ThreadExecutor
from stem.worker.expiry import Expiry
from stem.worker.finisher import Finisher
from stem.worker.health import HealthPort, listen
from stem.worker.identity import new_identity
from stem.worker.intake import LANES, Intake
from stem.worker.lifecycle import Level, WorkerLifecycleConfig, signals_to, write_stacks
from stem.worker.loops import end_all, keep_alive
from stem.worker.orders import Orders
from stem.worker.outage import Outages
from stem.worker.plan import Defaults, Planner
from stem.worker.reading import Reader
from stem.worker.steering import LEVELS
from stem.worker.vitals import Vitals
from stem.worker.wheel import Wheel

log = logging.getLogger("stem.worker")

OUT_OF_SLOTS: Final = "every slot, or every thread, is taken by a handler that did not end when it was to"

TICK_S: Final = 0.2
COPIES_S: Final = 3.0
SHUTDOWN_S: Final = 5.0
"""For so long callbacks of `worker_shutdown` are waited for; no signal ends the process then."""


class Worker:
    """Takes tasks from queues and runs their handlers.

    Use it embedded (`await worker.start()` … `await worker.shutdown()`), or as a process of its own (`await
    worker.run()`, which is what `stem-worker` does). A worker object is started once, and belongs to the event loop
    that starts it: that one is the work loop, on which `async` handlers run.

    Args:
        broker: stays the caller's to close.
        backend: gets a copy of final statuses, after the broker has recorded them.
        queue, queues: what it takes from; by default as configured.
        concurrency: tasks at once; by default 10 per core for `async` handlers, one per core (at least 4) for a
            registry of plain functions alone.
        retry_strategy: where neither producer nor handler says one.
        name: stable over restarts; by default the host's name.
        app: where the application is, as `package.module:attribute`: child processes import it. Needed by tasks with
            `isolation="process"` alone; `stem-worker` gives its own.
        health_port: answers `/livez`, `/readyz` and `/metrics` there; by default as configured.

    Raises:
        ConfigError, InvalidInputError: an argument that cannot be.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        registry: TaskRegistry,
        backend: ResultBackend | None = None,
        queue: str | None = None,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        retry_strategy: RetryStrategy | None = None,
        lifecycle: WorkerLifecycleConfig | None = None,
        name: str | None = None,
        signer: PayloadSigner | None = None,
        config: StemConfig | None = None,
        app: str | None = None,
        health_port: int | None = None,
    ) -> None:
        self._config = config or StemConfig()
        self._health_port = self._config.health_port if health_port is None else health_port
        self._health: HealthPort | None = None
        self._broker = broker
        self._registry = registry
        self._backend = backend
        self._signer = signer
        control_keys = ControlKeys.maybe(self._config.control)
        self._control_keys = None if control_keys is None else control_keys.for_worker()
        self._app = app
        self._lifecycle = lifecycle or WorkerLifecycleConfig()
        self._retry = retry_strategy or ExponentialJitterRetryStrategy()
        self._identity: Final = new_identity(name or self._config.worker_name)
        slots, self._threads_size, self._processes_size = isolation.sizes(
            registry, self._config.worker_concurrency if concurrency is None else concurrency
        )
        self._board: Final = Board(queues=_queues(queue, queues, self._config), concurrency=slots)
        self._board.worker_id = self._identity.id
        self._drain_timeout_s = _first(self._lifecycle.drain_timeout, self._config.drain_timeout_s)
        self._wedged_timeout_s = _first(self._lifecycle.wedged_timeout, self._config.wedged_timeout_s)
        self._signals = ExitStack()
        self._running: list[asyncio.Task[None]] = []
        self._stopped: asyncio.Future[int] | None = None
        self._client: Stem | None = None
        self._started = False
        self._server: ServerInfo | None = None
        logs.spell_out()
        self.started_well = False
        """It has registered and begun to take work."""

    def __repr__(self) -> str:
        return f"<Worker {self.name} ({self.id}) of {', '.join(self._board.queues)}>"

    @property
    def id(self) -> str:
        """Unique per start."""
        return self._identity.id

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def queues(self) -> tuple[str, ...]:
        return self._board.queues

    @property
    def concurrency(self) -> int:
        return self._board.concurrency

    def stats(self) -> dict[str, Any]:
        """Return counters and gauges of this moment; from any thread."""
        board = self._board
        return {
            "state": self._vitals.state() if self._started else "starting",
            "in_flight": len(board.jobs),
            "concurrency": board.concurrency,
            "counters": dict(board.counters),
            "zombie_threads": board.zombies,
            "loop_age_ms": round(board.loop_age_s() * 1000),
            "epoch": board.epoch,
        }

    def banner(self) -> list[str]:
        """Return lines that say who and where this worker is, for people."""
        return banner.lines(
            version=self._identity.version,
            worker_id=self.id,
            name=self.name,
            info=self._server,
            url=self._broker.url,
            namespace=self._broker.namespace,
            registry=self._registry,
            queues=self.queues,
            concurrency=self.concurrency,
            threads=self._threads_size,
        )

    # ---------------------------------------------------------------------------------------------------- start, stop

    async def start(self) -> None:
        """Connect, register and begin to take work; returns once the worker is ready.

        While the broker is away this waits (and logs so, once); it returns early if the worker is stopped meanwhile.

        Raises:
            BrokerRefusedError: the broker does not let this worker in.
            ConfigError: the health port is taken, it was started before, signal handlers are wanted outside of the main
                thread, or a task wants a child process, which could not import the application.
        """
        if self._started:
            raise ConfigError("this worker was started before: make a new Worker for a new start")
        isolation.check(self._registry, self._app, self._lifecycle)
        if self._lifecycle.install_signal_handlers and threading.current_thread() is not threading.main_thread():
            raise ConfigError("install_signal_handlers=True: only the main thread can, start the worker there")
        if self._health_port is not None:
            self._health = HealthPort(listen(self._config.health_host or "", self._health_port))
        self._started = True
        self._emit(StemSignals.worker_init, WorkerInit(worker=self.id, worker_name=self.name))
        self._build()
        self._install_signals()
        try:
            if not await asyncio.wrap_future(self._vitals.start()):
                return
            # The watchdog looks from now on: what the work loop waits for here may take as long as a command may take.
            self._keep("tick", self._tick)
            await self._look_at_server()
            if self._board.stopping:
                return
            self._begin()
        except BaseException as error:
            self._vitals.ask(Level.HARD, "the start failed")
            self._vitals.acknowledge()
            if isinstance(error, Exception) and self._stopped is not None and not self._stopped.done():
                self._stopped.set_result(1)  # the thread may have ended, and tell nobody
            try:
                await self._clear()
            finally:
                self._let_go()
            raise
        log.info(
            "worker.ready",
            extra={"worker_id": self.id, "queues": ",".join(self.queues), "concurrency": self.concurrency},
        )
        event = WorkerReady(
            worker=self.id,
            worker_name=self.name,
            queues=self.queues,
            tasks=tuple(self._registry.names()),
            concurrency=self.concurrency,
        )
        self._emit(StemSignals.worker_ready, event)

    async def shutdown(self, mode: str = "warm") -> int:
        """Stop (`warm`, `soft` or `hard`) and return the exit code: 0 if every task was settled or handed back.

        Raises:
            ConfigError: another mode.
        """
        if mode not in LEVELS:
            raise ConfigError(f"{mode!r} is no way to stop: use {', '.join(LEVELS)}")
        if not self._started or self._stopped is None:
            return 0
        if not self._stopped.done():
            self._vitals.ask(LEVELS[mode], f"worker.shutdown({mode!r})")
        return await asyncio.shield(self._stopped)

    async def run(self) -> int:
        """Start, work until stopped, and return the exit code."""
        await self.start()
        return await self.wait()

    async def wait(self) -> int:
        """Return the exit code once the worker has stopped."""
        if self._stopped is None:
            return 0
        return await asyncio.shield(self._stopped)

    # -------------------------------------------------------------------------------------------------------- private

    def _build(self) -> None:
        loop = asyncio.get_running_loop()
        board, identity, config = self._board, self._identity, self._config
        self._stopped = loop.create_future()
        self._wheel = Wheel(loop)
        self._threads = ThreadExecutor(loop, self._threads_size)
        self._processes = ProcessExecutor(
            loop,
            self._processes_size,
            app=self._app,
            hello=isolation.hello(identity.id, identity.name),
            max_tasks=self._lifecycle.max_tasks_per_child,
            max_memory=self._lifecycle.max_memory_per_child,
        )
        self._finisher = Finisher(board, self._backend, worker_id=identity.id)
        defaults = Defaults(
            retry=self._retry,
            max_retries=config.default_max_retries,
            lease_ms=round(config.visibility_timeout_s * 1000),
            result_ttl_ms=round(config.result_ttl_s * 1000),
        )
        planner = Planner(self._registry, defaults)
        reader = self._reader(planner)
        self._dispatcher = Dispatcher(
            board=board,
            reader=reader,
            finisher=self._finisher,
            threads=self._threads,
            processes=self._processes,
            wheel=self._wheel,
            worker_id=identity.id,
            worker_name=identity.name,
            client=self._producer,
            changed=lambda: self._intake.changed(),
            look_again=lambda: self._intake.look_again(),
            poke_vitals=lambda: self._vitals.poke(),
            out_of_slots=lambda: self._vitals.fail(OUT_OF_SLOTS, level=Level.WARM),
            owns_process=self._lifecycle.install_signal_handlers,
            # At its end a program cancels all tasks at once, also those that keep us going.
            ending=lambda: board.stopping or any(task.cancelling() for task in self._running),
        )
        # After three beats that were refused, others take this worker for lost.
        outages = Outages(
            patience_s=3 * config.heartbeat_interval_s, hopeless=lambda error: self._vitals.shut_out(error)
        )
        self._intake = Intake(
            broker=self._broker,
            board=board,
            dispatcher=self._dispatcher,
            finisher=self._finisher,
            expiry=Expiry(board, reader, worker_id=identity.id, worker_name=identity.name),
            worker_id=identity.id,
            lease_ms=defaults.lease_ms,
            leases=planner.leases(),
            catch_up=lambda: self._vitals.catch_up(),
            missing=lambda: self._vitals.reconcile_soon(),
            outages=outages,
        )
        self._vitals = Vitals(
            broker=self._broker,
            board=board,
            identity=identity,
            registry=self._registry,
            config=self._shown_config(),
            work=Orders(loop, self._dispatcher, self._intake, board, self._threads, self._processes),
            interval_s=config.heartbeat_interval_s,
            lease_s=min([defaults.lease_ms, *planner.leases().values()]) / 1000,
            soft_timeout_s=self._lifecycle.soft_timeout,
            drain_timeout_s=self._drain_timeout_s,
            wedged_timeout_s=self._wedged_timeout_s,
            owns_process=self._lifecycle.install_signal_handlers,
            announce_stop=self._announce_stop,
            finished=self._finished,
            outages=outages,
            control_keys=self._control_keys,
            health=self._health,
        )
        board.on_empty = self._on_empty

    def _reader(self, planner: Planner) -> Reader:
        return Reader(
            planner,
            signer=self._signer,
            namespace=self._broker.namespace,
            isolates=self._processes.usable,
            max_body=self._config.max_body,
        )

    async def _look_at_server(self) -> None:
        """Warn of what will hurt."""
        with contextlib.suppress(BrokerError):  # not worth a failed start; the heartbeat tells of outages
            self._server = await self._broker.census.info()
        for warning in banner.warnings(
            self._server, self._registry, self.queues, default_queue=self._config.default_queue
        ):
            log.warning("worker.warning", extra={"hint": warning})

    def _begin(self) -> None:
        """Start the loops of the work side."""
        for number in range(1, LANES + 1):
            self._keep(f"lane {number}", self._intake.lane)
        self._keep("listener", self._intake.listen)
        if self._finisher.copier is not None:
            self._keep("copier", self._finisher.copier.run)
        self._vitals.begun()
        self.started_well = True

    def _keep(self, name: str, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop of the work side until the worker stops."""
        alive = keep_alive(name, body, hopeless=lambda which: self._vitals.fail(f"the {which} loop keeps dying"))
        self._running.append(asyncio.get_running_loop().create_task(alive, name=f"stem {name}"))

    async def _tick(self) -> None:
        while True:
            self._board.ticked_at = time.monotonic()
            await asyncio.sleep(TICK_S)

    def _on_empty(self) -> None:
        if self._board.stopping or self._board.draining:
            self._vitals.emptied()

    def _install_signals(self) -> None:
        if not self._lifecycle.install_signal_handlers:
            return
        loop = asyncio.get_running_loop()

        def react(number: int) -> None:
            # In the main thread, between two bytecodes of whatever runs there: pass it on, and nothing else.
            if number == signal.SIGUSR1:
                self._vitals.call(write_stacks, loop, self._processes.stacks)
            else:
                self._vitals.signalled(number)

        self._signals.enter_context(signals_to(react))

    def _producer(self) -> Stem:
        if self._client is None:
            self._client = Stem(self._broker, self._registry, signer=self._signer, config=self._config)
        return self._client

    def _announce_stop(self, level: Level, why: str) -> None:
        """Tell whoever listens; called in the vitals thread, heard on the work loop."""
        if StemSignals.worker_stopping.wanted:
            event = WorkerStopping(worker=self.id, worker_name=self.name, mode=level.word)
            self._on_work_loop(self._emit, StemSignals.worker_stopping, event)

    def _finished(self, code: int) -> None:
        """The vitals thread is done; called in it."""
        self._on_work_loop(self._end, code)

    def _on_work_loop(self, function: Callable[..., Any], *args: Any) -> None:
        assert self._stopped is not None
        try:
            self._stopped.get_loop().call_soon_threadsafe(function, *args)
        except RuntimeError:  # the application closed its loop without stopping the worker
            log.warning("worker.loop_closed")

    def _end(self, code: int) -> None:
        self._vitals.acknowledge()
        # Not one of `_running`: a start that is cancelled in this moment ends those, and this has to say how it ended.
        self._ending = asyncio.get_running_loop().create_task(self._finish(code), name="stem end")

    async def _finish(self, code: int) -> None:
        try:
            if self._finisher.copier is not None:
                await self._finisher.copier.flush(COPIES_S)
            await self._clear()
            log.info("worker.stopped", extra={"worker_id": self.id, "exit_code": code})
            # A task of its own: it may not heed a cancellation either.
            said = asyncio.create_task(self._say_shutdown(code), name="stem shutdown")
            await asyncio.wait([said], timeout=SHUTDOWN_S)
            if not said.done():
                hint = f"of worker_shutdown: not done after {SHUTDOWN_S:g} s"
                log.error("worker.callback_left", extra={"hint": hint})
                said.cancel()
        finally:
            self._let_go()
            assert self._stopped is not None
            if not self._stopped.done():
                self._stopped.set_result(code)

    async def _say_shutdown(self, code: int) -> None:
        event = WorkerShutdown(worker=self.id, worker_name=self.name, exit_code=code)
        await StemSignals.worker_shutdown.emit(event, self)

    async def _clear(self) -> None:
        self._intake.close()
        await end_all(self._running)
        self._threads.close()
        await self._processes.close()
        self._wheel.close()
        if self._client is not None:
            await self._client.close()

    def _let_go(self) -> None:
        self._vitals.join(1.0)
        self._signals.close()

    def _emit(self, moment: Any, event: object) -> None:
        if moment.wanted:
            moment.emit_nowait(event, self)

    def _shown_config(self) -> Mapping[str, Any]:
        """Return what `inspect config` answers; no secrets in it."""
        config = self._config
        return {
            "broker": self._broker.url,
            "namespace": self._broker.namespace,
            "queues": list(self.queues),
            "concurrency": self.concurrency,
            "threads": self._threads_size,
            "processes": self._processes_size,
            "max_tasks_per_child": self._lifecycle.max_tasks_per_child,
            "max_memory_per_child": self._lifecycle.max_memory_per_child,
            "visibility_timeout_s": config.visibility_timeout_s,
            "heartbeat_interval_s": config.heartbeat_interval_s,
            "drain_timeout_s": self._drain_timeout_s,
            "soft_timeout_s": self._lifecycle.soft_timeout,
            "wedged_timeout_s": self._wedged_timeout_s,
            "default_max_retries": config.default_max_retries,
            "result_ttl_s": config.result_ttl_s,
            "max_body": config.max_body,
            "retry_strategy": repr(self._retry),
            "result_backend": None if self._backend is None else type(self._backend).__name__,
            "signed": self._signer is not None,
            "obeys": None if self._control_keys is None else list(self._control_keys.obeyed),
        }


def _queues(queue: str | None, queues: Sequence[str] | None, config: StemConfig) -> tuple[str, ...]:
    if queue is not None and queues is not None:
        raise ConfigError("give `queue` or `queues`, not both")
    chosen = (queue,) if queue is not None else check_list("queues", config.queues if queues is None else queues)
    if not chosen:
        raise ConfigError("a worker needs at least one queue")
    return tuple(dict.fromkeys(check_name("queue", name) for name in chosen))


def _first(value: float | None, default: float) -> float:
    return default if value is None else value
