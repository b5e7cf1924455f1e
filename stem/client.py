"""The producer's front door: `Stem` enqueues, waits, looks and cancels on event loops. Knows contracts, no adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

from stem.config import StemConfig, check_url
from stem.contracts import Broker, ChangeItem, NewTask, ResultBackend, RevokeTasks
from stem.decorator import TaskDecorator
from stem.errors import BrokerError, BrokerUnreachableError
from stem.lanes import Lane, Lanes
from stem.messages.names import check_name
from stem.messages.status import TaskStatus
from stem.options import NO_OPTIONS, Duration, OptionsDict, TaskOptions, to_seconds
from stem.outbox import BATCH, PATIENCE_S
from stem.producer import Producer, accept, accept_all, after_event, after_events, as_signatures, before_event
from stem.registry import SimpleTaskRegistry, TaskRegistry
from stem.signals import StemSignals
from stem.signing import PayloadSigner
from stem.task import CURRENT, Origin, Signature, Task, TaskContext
from stem.waiting import Waiting, not_found, revoke_command

if TYPE_CHECKING:
    from typing import Unpack

    from stem.sync import SyncStem

P = ParamSpec("P")
R = TypeVar("R")


class Stem:
    """An application's hold on its tasks. Make one and keep it; it may be used on several event loops and threads.

    The broker and the result backend given serve the first event loop that uses them; each further loop gets clones
    with connections of its own. Concurrent `enqueue` calls of a loop share round trips.

    Args:
        registry: with tasks in it, names and arguments are checked before anything is sent; empty (the default), tasks
            are enqueued by name.
        backend: asked for the status of tasks whose record has expired in the broker.
        signer: signs every task.
        config: default queue, size limit and so on; by default nothing is read from the environment.
        patience: how long an enqueue is repeated, with the same id, while the broker is away.
    """

    config: StemConfig
    registry: TaskRegistry
    signer: PayloadSigner | None
    namespace: str
    _lanes: Lanes
    _patience_s: float

    def __init__(
        self,
        broker: Broker,
        registry: TaskRegistry | None = None,
        backend: ResultBackend | None = None,
        signer: PayloadSigner | None = None,
        config: StemConfig | None = None,
        *,
        patience: Duration = PATIENCE_S,
    ) -> None:
        patience_s = to_seconds("patience", patience, least=0)
        make_backend = None if backend is None else lambda: backend
        lanes = Lanes(lambda: broker, make_backend, owned=False, patience_s=patience_s)
        self._setup(lanes, broker.namespace, registry, signer, config or StemConfig(), patience_s)

    def _setup(
        self,
        lanes: Lanes,
        namespace: str,
        registry: TaskRegistry | None,
        signer: PayloadSigner | None,
        config: StemConfig,
        patience_s: float,
    ) -> None:
        self.registry = SimpleTaskRegistry() if registry is None else registry
        self.config = config
        self.signer = signer
        self.namespace = namespace
        self._lanes = lanes
        self._patience_s = patience_s
        self._producer = Producer(registry=self.registry, signer=signer, config=config, namespace=namespace)
        self._guard = threading.Lock()
        self._sync: SyncStem | None = None

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        namespace: str | None = None,
        registry: TaskRegistry | None = None,
        backend: ResultBackend | str | None = None,
        signer: PayloadSigner | None = None,
        config: StemConfig | None = None,
        patience: Duration = PATIENCE_S,
    ) -> Self:
        """Return an application that connects when it is first used, so it can be made while a module is imported.

        The client library of the broker is imported now: later it would hold up the event loop that uses it first.

        Args:
            url: of the broker; else `STEM_BROKER_URL`; else, at a terminal, the embedded server.
            backend: a result backend or its URL; else `STEM_RESULT_BACKEND_URL`; else none but the broker's records.
            signer: else as `STEM_SIGNING_KEYS` say.
            config: else the environment's.
            patience: as for `Stem`.

        Raises:
            ConfigError: a URL or variable that is not accepted. That no URL is set is said at the first use.
        """
        from stem.adapters import connect as adapters  # adapters are loaded by those who connect, not by all producers

        patience_s = to_seconds("patience", patience, least=0)
        chosen = StemConfig.from_environment() if config is None else config
        StemSignals.configure(enabled=chosen.signals_enabled, disabled=chosen.signals_disabled)
        if url is not None:
            check_url(url, name="url")
        target = chosen.broker_url if url is None else url
        if target is not None:
            adapters.load(target)
        space = chosen.namespace if namespace is None else check_name("namespace", namespace)

        def make_broker() -> Broker:
            resolved = adapters.resolve_url(target, interactive=adapters.interactive())
            return adapters.connect_broker(resolved, namespace=space, limits=chosen.limits(), tls=chosen.tls)

        results = chosen.result_backend_url if backend is None else backend

        def make_backend(given: ResultBackend | str) -> ResultBackend:
            if isinstance(given, str):
                return adapters.connect_backend(given, namespace=space, tls=chosen.tls)
            return given

        # Starting a server takes a moment, and is not done on the loop.
        slow = target is None or target.startswith("embedded:")
        lanes = Lanes(
            make_broker,
            None if results is None else partial(make_backend, results),
            owned=True,
            backend_owned=isinstance(results, str),
            slow=slow,
            patience_s=patience_s,
        )
        stem = cls.__new__(cls)
        stem._setup(lanes, space, registry, signer or PayloadSigner.maybe(chosen.signing), chosen, patience_s)
        return stem

    # ------------------------------------------------------------------------------------------------------- enqueue

    async def enqueue(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        options: TaskOptions | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        delay: Duration | None = None,
        eta: datetime | None = None,
        expires: Duration | datetime | None = None,
        priority: int | None = None,
        unique_key: str | None = None,
        task_id: str | None = None,
    ) -> str:
        """Enqueue a task and return its id, once the broker has it.

        Args:
            args: by name; plain data: None, bool, int, float, str, bytes, list, dict.
            options: only what is set here travels; the rest the handler decides.
            delay, eta: not before; expires: not after (then it is never started).
            unique_key: while a task of this name with this key is not final, its id is returned and nothing enqueued;
                one that still waits when its expiry has passed holds the key no more.
            task_id: of your own choice: enqueueing the same again is safe for as long as its record is kept.

        Raises:
            UnknownTaskError, InvalidInputError: refused before anything was sent.
            QueueFull, TaskConflictError, BrokerRefusedError: the broker did not take it.
            BrokerUnreachableError: not enqueued. UnknownOutcomeError: may be enqueued; repeat it with its id.
        """
        request = Signature(
            name=name,
            args={} if args is None else args,
            options=NO_OPTIONS if options is None else options,
            meta=meta,
            headers=headers,
            delay=delay,
            eta=eta,
            expires=expires,
            priority=priority,
            unique_key=unique_key,
            task_id=task_id,
        )
        return await self.send(request)

    async def send(self, signature: Signature, *, origin: Origin | None = None) -> str:
        """Enqueue a request that was made before; see `enqueue`.

        Args:
            origin: the running task that asks for it; by default the one that runs here, if any.
        """
        task = self._producer.prepare(signature, CURRENT.get() if origin is None else origin)
        if StemSignals.before_task_publish.wanted:
            await StemSignals.before_task_publish.emit(before_event(task, signature), self)
        # Not before a callback was waited for: this application may have been closed meanwhile, and is used on.
        lane = self._lanes.latest() or await self._lanes.open()
        answer = await lane.outbox.send(task)
        task_id = accept(task, answer)
        if StemSignals.after_task_publish.wanted:
            await StemSignals.after_task_publish.emit(after_event(task, signature, task_id, answer.outcome), self)
        return task_id

    async def enqueue_many(self, requests: Iterable[Signature | tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Enqueue many, in order, in one round trip per 500 (or MiB of bodies); returns their ids.

        Args:
            requests: made by `task.signature(...)`, or pairs of name and args.

        Raises:
            UnknownTaskError, InvalidInputError: one of them is wrong; none was sent.
            QueueFull: `refused` names those that were not enqueued; the others are.
            TaskConflictError: an id is taken; the others are enqueued.
            BrokerRefusedError, BrokerUnreachableError: none is enqueued.
            UnknownOutcomeError: some are or may be enqueued; `enqueued` has the ids that are for certain. Repeating it
                all is safe where each request has a `task_id` of its own.
        """
        signatures = as_signatures(requests)
        origin = CURRENT.get()
        tasks: list[NewTask] = []
        for each in signatures:
            # Thousands take a second to make: whoever shares the loop goes on meanwhile.
            if tasks and len(tasks) % BATCH == 0:
                await asyncio.sleep(0)
            tasks.append(self._producer.prepare(each, origin))
        if StemSignals.before_task_publish.wanted:
            for task, signature in zip(tasks, signatures, strict=True):
                await StemSignals.before_task_publish.emit(before_event(task, signature), self)
        lane = await self._lanes.open()
        answers, failure = await lane.outbox.send_many(tasks)
        if StemSignals.after_task_publish.wanted:
            for event in after_events(tasks, signatures, answers):
                await StemSignals.after_task_publish.emit(event, self)
        return accept_all(tasks, answers, failure)

    # ---------------------------------------------------------------------------------------------------------- look

    async def status(self, task_id: str) -> TaskStatus:
        """Return what is known of a task.

        Raises:
            TaskNotFoundError: neither the broker nor the result backend knows it.
        """
        check_name("task id", task_id)
        lane = await self._lanes.open()
        status = (await lane.broker.statuses([task_id]))[0]
        return await self._kept(lane, task_id) if status is None else status

    async def wait_for(self, task_id: str, timeout: Duration | None = None) -> TaskStatus:
        """Return a task's status once it is final; pushed by the broker, not polled.

        Args:
            timeout: how long at most; None waits for ever. Cancelling the wait leaves the task alone.

        Raises:
            WaitTimeoutError: it was not final in time (it goes on), or neither broker nor result backend could tell.
            TaskNotFoundError: neither the broker nor the result backend knows it.
            BrokerUnreachableError, UnknownOutcomeError: one of them was away for the whole patience (5 s).
        """
        check_name("task id", task_id)
        waiting = Waiting(task_id, timeout, self._patience_s)
        while True:
            lane = await self._lanes.open()  # another one where this application was closed meanwhile, and is used on
            asked = lane.broker.url
            try:
                async with asyncio.timeout(waiting.limit_s()):
                    status = await lane.broker.wait(task_id, waiting.slice_s())
                    if status is None:
                        asked = "the result backend"
                        return await self._kept(lane, task_id)
            except (BrokerError, TimeoutError) as error:
                silent = BrokerUnreachableError(f"{asked} does not answer")
                await asyncio.sleep(waiting.failed(error if isinstance(error, BrokerError) else silent))
                continue
            if status.state.final:
                return status
            await asyncio.sleep(waiting.not_yet(status))

    async def cancel(self, task_id: str, *, terminate: bool = False, reason: str | None = "") -> ChangeItem:
        """Revoke a task: it never starts (again), also when it is unknown yet.

        Args:
            terminate: end it too if it runs.

        Returns:
            What that did: `revoked`, `running` (its worker is told), `stored`, `already` or `final`.

        Raises:
            InvalidInputError: refused before anything was sent.
        """
        command = revoke_command(task_id, terminate=terminate, reason=reason)
        lane = await self._lanes.open()
        issued = await lane.broker.control.issue(command, RevokeTasks(ids=[task_id], terminate=terminate))
        return issued.items[0]

    async def _kept(self, lane: Lane, task_id: str) -> TaskStatus:
        status = None if lane.backend is None else await lane.backend.get(task_id)
        if status is None:
            raise not_found(task_id)
        return status

    # --------------------------------------------------------------------------------------------------------- tasks

    @overload
    def task(
        self, function: Callable[Concatenate[TaskContext, P], R], /
    ) -> Task[P, R, Concatenate[TaskContext, P]]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, P]: ...
    @overload
    def task(
        self, name: str | None = None, /, *, base: TaskOptions | None = None, **options: Unpack[OptionsDict]
    ) -> TaskDecorator: ...
    def task(self, name: Any = None, /, *, base: TaskOptions | None = None, **options: Unpack[OptionsDict]) -> Any:
        """Make a task of a function and register it: ``@app.task("report.build", max_retries=5)``.

        Called directly the function is still the function; `.enqueue(...)` sends it. A first parameter named `context`
        (or annotated `TaskContext`) is given by the worker and is not part of the task's arguments.

        Args:
            name: of the task; by default `module.function`.
            base: options that several tasks share; those given by name win.
        """
        chosen = TaskOptions(**options).over(NO_OPTIONS if base is None else base)
        if callable(name):
            return TaskDecorator(self.registry, self, None, chosen)(name)
        if name is not None:
            check_name("task", name)
        return TaskDecorator(self.registry, self, name, chosen)

    # ------------------------------------------------------------------------------------------------------ blocking

    def blocking(self) -> SyncStem:
        """Return the same application for code without an event loop, on a connection of its own; made once."""
        from stem.sync import SyncStem  # imports the shared parts of this module

        broker = self.broker
        with self._guard:
            if self._sync is None:
                self._sync = SyncStem(
                    broker.blocking(),
                    registry=self.registry,
                    signer=self.signer,
                    config=self.config,
                    patience=self._patience_s,
                )
            return self._sync

    def send_blocking(self, signature: Signature, *, origin: Origin | None = None) -> str:
        """Do what `send` does from code without an event loop."""
        return self.blocking().send(signature, origin=origin)

    # ----------------------------------------------------------------------------------------------------- life time

    @property
    def broker(self) -> Broker:
        """The broker handle of the first event loop; made now if this application was not used before.

        Raises:
            ConfigError: no URL is set, or it is not accepted.
        """
        return self._lanes.root

    @property
    def backend(self) -> ResultBackend | None:
        """The result backend of the first event loop, None if there is none."""
        return self._lanes.root_backend

    async def close(self) -> None:
        """Send what waits to be sent, then close what this application opened itself on this event loop.

        A broker or backend that was given stays open: it is its maker's to close. An application made by `connect`
        connects again if it is used again.
        """
        with self._guard:
            sync, self._sync = self._sync, None
        if sync is not None:
            sync.close()
        await self._lanes.close()

    async def __aenter__(self) -> Self:
        await self._lanes.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Stem {self._lanes.where}, namespace {self.namespace}, {len(self.registry)} tasks>"
