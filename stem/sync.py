"""The producer for code without an event loop: the same methods as `Stem`, blocking. No loop and no thread in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from stem.config import StemConfig
from stem.contracts import BlockingBroker, ChangeItem, Enqueued, NewTask
from stem.errors import BrokerError, ConfigError, UnknownOutcomeError
from stem.messages.names import check_name
from stem.messages.status import TaskStatus
from stem.options import NO_OPTIONS, Duration, TaskOptions, to_seconds
from stem.outbox import PATIENCE_S, batches, gave_up, in_part, passing, pause_s, refused
from stem.producer import Producer, accept, accept_all, after_event, after_events, as_signatures, before_event
from stem.registry import SimpleTaskRegistry, TaskRegistry
from stem.signals import StemSignals
from stem.signing import PayloadSigner
from stem.task import CURRENT, Origin, Signature
from stem.waiting import Waiting, not_found, revoke_command


class SyncStem:
    """What `Stem` is, for scripts, threads and frameworks without a loop.

    Safe to use from several threads, and in processes forked from the one that made it: each opens connections of its
    own. Memory is not shared with a fork: `InMemoryBroker` refuses there. On a running event loop each call raises
    `RuntimeError`, because it would hold up everything on that loop.

    Args:
        broker: `InMemoryBroker().blocking()`, `RedisStreamsBroker(url).blocking()` and so on; it stays its maker's to
            close, unless `SyncStem.connect` made it.
        registry, signer, config, patience: as for `Stem`.
    """

    def __init__(
        self,
        broker: BlockingBroker,
        *,
        registry: TaskRegistry | None = None,
        signer: PayloadSigner | None = None,
        config: StemConfig | None = None,
        patience: Duration = PATIENCE_S,
    ) -> None:
        if not hasattr(broker, "cancel"):
            raise ConfigError(f"SyncStem needs a blocking broker: {type(broker).__name__}(…).blocking()")
        self.broker = broker
        self.registry: TaskRegistry = SimpleTaskRegistry() if registry is None else registry
        self.config = StemConfig() if config is None else config
        self._patience_s = to_seconds("patience", patience, least=0)
        self._producer = Producer(registry=self.registry, signer=signer, config=self.config, namespace=broker.namespace)

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        namespace: str | None = None,
        registry: TaskRegistry | None = None,
        signer: PayloadSigner | None = None,
        config: StemConfig | None = None,
        patience: Duration = PATIENCE_S,
    ) -> Self:
        """Return a client of the broker at `url`, else `STEM_BROKER_URL`, else (at a terminal) the embedded server.

        Raises:
            ConfigError: no URL, or a URL or variable that is not accepted.
        """
        from stem.adapters import connect as adapters  # adapters are loaded by those who connect, not by all producers

        chosen = StemConfig.from_environment() if config is None else config
        StemSignals.configure(enabled=chosen.signals_enabled, disabled=chosen.signals_disabled)
        broker = adapters.connect_blocking(
            adapters.resolve_url(chosen.broker_url if url is None else url, interactive=adapters.interactive()),
            namespace=chosen.namespace if namespace is None else check_name("namespace", namespace),
            limits=chosen.limits(),
            tls=chosen.tls,
        )
        return cls(
            broker,
            registry=registry,
            signer=signer or PayloadSigner.maybe(chosen.signing),
            config=chosen,
            patience=patience,
        )

    def enqueue(
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
        """Enqueue a task and return its id, once the broker has it; see `Stem.enqueue`."""
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
        return self.send(request)

    def send(self, signature: Signature, *, origin: Origin | None = None) -> str:
        """Enqueue a request that was made before; see `Stem.send`."""
        _refuse_loop("enqueue")
        task = self._producer.prepare(signature, CURRENT.get() if origin is None else origin)
        if StemSignals.before_task_publish.wanted:
            StemSignals.before_task_publish.emit_nowait(before_event(task, signature), self)
        answer = self._send([task])[0]
        task_id = accept(task, answer)
        if StemSignals.after_task_publish.wanted:
            StemSignals.after_task_publish.emit_nowait(after_event(task, signature, task_id, answer.outcome), self)
        return task_id

    def enqueue_many(self, requests: Iterable[Signature | tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Enqueue many in one round trip per 500 (or MiB of bodies) and return their ids; see `Stem.enqueue_many`.

        The first batch that fails ends it. If others were taken before, that is an `UnknownOutcomeError`, whose
        `enqueued` has their ids.
        """
        _refuse_loop("enqueue_many")
        signatures = as_signatures(requests)
        origin = CURRENT.get()
        tasks = [self._producer.prepare(each, origin) for each in signatures]
        if StemSignals.before_task_publish.wanted:
            for task, signature in zip(tasks, signatures, strict=True):
                StemSignals.before_task_publish.emit_nowait(before_event(task, signature), self)
        answers: list[Enqueued | None] = []
        failure: BrokerError | None = None
        try:
            for batch in batches(tasks):
                answers += self._send(batch)
        except BrokerError as error:  # the batches behind it are not sent: each would wait as long
            answers += [None] * (len(tasks) - len(answers))
            failure = in_part(tasks, answers, [error])
        if StemSignals.after_task_publish.wanted:
            for event in after_events(tasks, signatures, answers):
                StemSignals.after_task_publish.emit_nowait(event, self)
        return accept_all(tasks, answers, failure)

    def status(self, task_id: str) -> TaskStatus:
        """Return what the broker knows of a task.

        Raises:
            TaskNotFoundError: it has no record of it.
        """
        _refuse_loop("status")
        status = self.broker.statuses([check_name("task id", task_id)])[0]
        if status is None:
            raise not_found(task_id)
        return status

    def wait_for(self, task_id: str, timeout: Duration | None = None) -> TaskStatus:
        """Return a task's status once it is final; see `Stem.wait_for`."""
        _refuse_loop("wait_for")
        check_name("task id", task_id)
        waiting = Waiting(task_id, timeout, self._patience_s)
        while True:
            try:
                status = self.broker.wait(task_id, waiting.slice_s(), limit_s=waiting.limit_s())
            except BrokerError as error:
                time.sleep(waiting.failed(error))
                continue
            if status is None:
                raise not_found(task_id)
            if status.state.final:
                return status
            time.sleep(waiting.not_yet(status))

    def cancel(self, task_id: str, *, terminate: bool = False, reason: str | None = "") -> ChangeItem:
        """Revoke a task; see `Stem.cancel`."""
        _refuse_loop("cancel")
        return self.broker.cancel(task_id, revoke_command(task_id, terminate=terminate, reason=reason))

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self.broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SyncStem {self.broker.url}, namespace {self.broker.namespace}, {len(self.registry)} tasks>"

    def _send(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        """Send one batch, again with the same ids while the broker is away, until patience runs out."""
        deadline = time.monotonic() + self._patience_s
        failures, unknown = 0, False
        while True:
            try:
                return self.broker.enqueue(tasks)
            except BrokerError as error:
                if not passing(error):
                    failure = refused(tasks, error, unknown=unknown)
                    raise failure from (error if failure is not error else error.__cause__)
                failures += 1
                unknown = unknown or isinstance(error, UnknownOutcomeError)
                if time.monotonic() >= deadline:
                    raise gave_up(tasks, error, unknown=unknown, after_s=self._patience_s) from error
            time.sleep(pause_s(failures))


def _refuse_loop(what: str) -> None:
    """Raise where the call would hold up an event loop: everything else on it would wait for the broker too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"SyncStem.{what} would block the event loop that runs here: use `await Stem.{what}(...)`, or "
        f"`await asyncio.to_thread(sync.{what}, ...)`"
    )
