"""From a request to what is sent: all checks, merged options, body and signature. Pure: no I/O, no loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from stem.config import StemConfig
from stem.contracts import Enqueued, NewTask
from stem.errors import (
    MAX_DURATION_S,
    BrokerError,
    InvalidArgumentsError,
    InvalidInputError,
    QueueFull,
    TaskConflictError,
)
from stem.messages.codec import in_order
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.names import check_name
from stem.options import NO_OPTIONS, UNSET, Duration, TaskOptions, given, shown, to_seconds
from stem.registry import TaskRegistry
from stem.signals import AfterTaskPublish, BeforeTaskPublish
from stem.signing import PayloadSigner
from stem.task import Origin, Signature


class Producer:
    """Makes what is sent. One per `Stem`; any thread may use it once the registry is filled."""

    __slots__ = ("_default_queue", "_max_body", "_namespace", "_registry", "_signer")

    def __init__(
        self, *, registry: TaskRegistry, signer: PayloadSigner | None, config: StemConfig, namespace: str
    ) -> None:
        self._registry = registry
        self._signer = signer
        self._default_queue = config.default_queue
        self._max_body = config.max_body
        self._namespace = namespace

    def prepare(self, request: Signature, origin: Origin | None = None) -> NewTask:
        """Return the task to send for this request.

        Args:
            origin: the running task that asks for it; becomes its parent.

        Raises:
            UnknownTaskError: the registry has tasks, and none of this name.
            InvalidInputError: anything else that is wrong with it; nothing was sent.
        """
        name, args, options = request.name, request.args, request.options
        if request.priority is not None:
            options = TaskOptions(priority=request.priority).over(options)
        base = self._checked(name, args)
        travelling = options.travelling()
        if base.redact is not UNSET:
            travelling["redact"] = sorted({*base.redact, *travelling.get("redact", ())})
        if request.unique_key is not None:
            travelling["unique_key"] = check_name("unique key", request.unique_key)
        headers = {} if request.headers is None else _headers(request.headers)
        meta = {} if request.meta is None else _plain_map("meta", request.meta)
        args = args if type(args) is dict else dict(args)
        if request.task_id is not None:
            # The same call made again is the same task, whatever the order in which it names things.
            args, headers, meta = in_order(args), in_order(headers), in_order(meta)
        delay_ms, eta_ms = _due(request.delay, request.eta)
        expires_in_ms, expires_ms = _expiry(request.expires)
        task_id = new_task_id() if request.task_id is None else check_name("task id", request.task_id)
        queue = given(options.queue, given(base.queue, self._default_queue))
        body = Envelope(
            id=task_id,
            task=name,
            args=args,
            headers=headers,
            meta=meta,
            options=travelling,
            delay_ms=delay_ms,
            eta_ms=eta_ms,
            expires_in_ms=expires_in_ms,
            expires_ms=expires_ms,
            # With an id of the caller's the body tells no moment: the same call made again is the same task.
            produced_at_ms=time.time_ns() // 1_000_000 if request.task_id is None else 0,
            root=None if origin is None else origin.root or origin.id,
            parent=None if origin is None else origin.id,
        ).encode(limit=self._max_body)
        signer = self._signer
        return NewTask(
            id=task_id,
            task=name,
            queue=queue,
            body=body,
            signature=b"" if signer is None else signer.sign("task", self._namespace, queue, body),
            priority=given(options.priority, given(base.priority, 0)),
            delay_ms=delay_ms,
            eta_ms=eta_ms,
            expires_in_ms=expires_in_ms,
            expires_ms=expires_ms,
            lease_ms=travelling.get("lease_ms"),
            unique_key=request.unique_key,
        )

    def _checked(self, name: str, args: Mapping[str, Any]) -> TaskOptions:
        """Check name and arguments and return the handler's options, nothing where the registry is empty."""
        check_name("task", name)
        if not isinstance(args, Mapping):
            raise InvalidArgumentsError(f"the args of {name} are a {type(args).__name__}: give a mapping of names")
        if not len(self._registry):
            return NO_OPTIONS
        registered = self._registry.get(name)
        registered.validate(args)
        return registered.options


def accept(task: NewTask, answer: Enqueued) -> str:
    """Return the id of the task that stands for `task` now.

    Raises:
        QueueFull, TaskConflictError: it was not enqueued.
    """
    if answer.outcome == "full":
        raise QueueFull(
            f"queue {task.queue} is full, task {task.task} was not enqueued: try again later, add workers, or raise "
            "STEM_MAX_QUEUE_LENGTH",
            queue=task.queue,
            refused=[task.id],
        )
    if answer.outcome == "conflict":
        raise TaskConflictError(f"task id {task.id} is taken by a task with another body: use another task_id")
    return answer.id


def as_signatures(requests: Iterable[Signature | tuple[str, Mapping[str, Any]]]) -> list[Signature]:
    """Return requests of both forms as signatures."""
    return [each if isinstance(each, Signature) else Signature(name=each[0], args=each[1]) for each in requests]


def accept_all(tasks: Sequence[NewTask], answers: Sequence[Enqueued | None], failure: BrokerError | None) -> list[str]:
    """Return the ids of the tasks that stand for these now.

    Raises:
        BrokerError: `failure`, where some have no answer.
        QueueFull, TaskConflictError: some were not enqueued; the others are.
    """
    if failure is not None:
        raise failure
    pairs = [(task, answer) for task, answer in zip(tasks, answers, strict=True) if answer is not None]
    refuse_full([task for task, answer in pairs if answer.outcome == "full"], len(tasks))
    return [accept(task, answer) for task, answer in pairs]


def after_events(
    tasks: Sequence[NewTask], signatures: Sequence[Signature], answers: Sequence[Enqueued | None]
) -> Iterator[AfterTaskPublish]:
    """Yield what `after_task_publish` tells: of those that were enqueued, in order."""
    for task, signature, answer in zip(tasks, signatures, answers, strict=True):
        if answer is not None and answer.taken:
            yield after_event(task, signature, answer.id, answer.outcome)


def refuse_full(refused: list[NewTask], total: int) -> None:
    """Raise `QueueFull` if any task of a batch was refused."""
    if refused:
        raise QueueFull(
            f"queue {refused[0].queue} is full: {len(refused)} of {total} tasks were not enqueued (`refused` has their "
            "ids): try those again later, add workers, or raise STEM_MAX_QUEUE_LENGTH",
            queue=refused[0].queue,
            refused=[task.id for task in refused],
        )


def before_event(task: NewTask, signature: Signature) -> BeforeTaskPublish:
    return BeforeTaskPublish(
        id=task.id,
        task=task.task,
        queue=task.queue,
        args=signature.args,
        headers=signature.headers or {},
        meta=signature.meta or {},
        priority=task.priority,
    )


def after_event(task: NewTask, signature: Signature, task_id: str, outcome: str) -> AfterTaskPublish:
    return AfterTaskPublish(
        id=task_id,
        requested_id=task.id,
        task=task.task,
        queue=task.queue,
        outcome=outcome,
        headers=signature.headers or {},
        meta=signature.meta or {},
    )


def _due(delay: Duration | None, eta: datetime | None) -> tuple[int | None, int | None]:
    if delay is None and eta is None:
        return None, None
    if delay is not None:
        if eta is not None:
            raise InvalidInputError("delay and eta are both given: give one")
        return round(to_seconds("delay", delay, least=0) * 1000), None
    return None, _moment("eta", eta)


def _expiry(expires: Duration | datetime | None) -> tuple[int | None, int | None]:
    if expires is None:
        return None, None
    if isinstance(expires, datetime):
        return None, _moment("expires", expires)
    return round(to_seconds("expires", expires) * 1000), None


_LATEST_MS: Final = 4_102_444_800_000 + round(MAX_DURATION_S * 1000)


def _moment(name: str, value: object) -> int:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidInputError(f"{name}={shown(value)}: give an aware datetime, such as datetime.now(UTC)")
    moment = round(value.timestamp() * 1000)
    if moment > _LATEST_MS:
        raise InvalidInputError(f"{name}={shown(value)}: that is too far away")
    return max(0, moment)


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(headers, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in headers.items()
    ):
        raise InvalidInputError(f"headers={shown(headers)}: give a mapping of text to text")
    return dict(headers)


def _plain_map(name: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name}={shown(value)}: give a mapping")
    return dict(value)
