"""Background tasks for Python whose workers can be seen and steered live."""

# Layout: what is below is the public API; everything else may change without notice.
#
#   client.py   Stem: enqueue, wait_for, cancel           sync.py      the same for code without an event loop
#   task.py     handlers, context, @app.task              options.py   TaskOptions
#   registry.py retry.py signals.py config.py             errors.py    every error, drawn as a tree
#   signing.py  signatures of tasks     authority.py  who may steer workers     keyring.py  single keys
#   producer.py a request -> what is sent                 outbox.py    group commit      lanes.py  a handle per loop
#   messages/   what travels                              contracts.py what an adapter promises
#   record.py   values    startup.py  quick starts    text.py clock.py  what a terminal may see, and time
#   adapters/   memory, redis, embedded, connect (URL -> adapter)
#   worker/     runs tasks        control/  steers workers        observe/  watches them
#
# Names are loaded when they are first used (PEP 562): a program that only enqueues loads neither the worker nor
# adapters that it does not use, and nobody pays for Typer, Rich or Textual.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stem.adapters.memory import InMemoryBroker as InMemoryBroker
    from stem.adapters.memory import InMemoryResultBackend as InMemoryResultBackend
    from stem.adapters.redis import RedisResultBackend as RedisResultBackend
    from stem.adapters.redis import RedisStreamsBroker as RedisStreamsBroker
    from stem.client import Stem as Stem
    from stem.config import StemConfig as StemConfig
    from stem.config import TLSConfig as TLSConfig
    from stem.errors import BodyTooLargeError as BodyTooLargeError
    from stem.errors import BrokerError as BrokerError
    from stem.errors import BrokerRefusedError as BrokerRefusedError
    from stem.errors import BrokerUnreachableError as BrokerUnreachableError
    from stem.errors import ConfigError as ConfigError
    from stem.errors import DecodeError as DecodeError
    from stem.errors import HandlerError as HandlerError
    from stem.errors import HardTimeLimitExceeded as HardTimeLimitExceeded
    from stem.errors import InvalidArgumentsError as InvalidArgumentsError
    from stem.errors import InvalidInputError as InvalidInputError
    from stem.errors import InvalidNameError as InvalidNameError
    from stem.errors import NewerVersionError as NewerVersionError
    from stem.errors import QueueFull as QueueFull
    from stem.errors import Reject as Reject
    from stem.errors import Retry as Retry
    from stem.errors import SignatureError as SignatureError
    from stem.errors import SoftTimeLimitExceeded as SoftTimeLimitExceeded
    from stem.errors import StemError as StemError
    from stem.errors import TaskConflictError as TaskConflictError
    from stem.errors import TaskNotFoundError as TaskNotFoundError
    from stem.errors import UnknownOutcomeError as UnknownOutcomeError
    from stem.errors import UnknownTaskError as UnknownTaskError
    from stem.errors import WaitTimeoutError as WaitTimeoutError
    from stem.errors import WorkerLostError as WorkerLostError
    from stem.messages.status import ErrorInfo as ErrorInfo
    from stem.messages.status import TaskState as TaskState
    from stem.messages.status import TaskStatus as TaskStatus
    from stem.options import UNSET as UNSET
    from stem.options import TaskOptions as TaskOptions
    from stem.registry import SimpleTaskRegistry as SimpleTaskRegistry
    from stem.registry import TaskRegistry as TaskRegistry
    from stem.retry import ExponentialJitterRetryStrategy as ExponentialJitterRetryStrategy
    from stem.retry import FixedRetryStrategy as FixedRetryStrategy
    from stem.retry import RetryStrategy as RetryStrategy
    from stem.signals import StemSignals as StemSignals
    from stem.signing import PayloadSigner as PayloadSigner
    from stem.signing import SigningConfig as SigningConfig
    from stem.sync import SyncStem as SyncStem
    from stem.task import Signature as Signature
    from stem.task import Task as Task
    from stem.task import TaskContext as TaskContext
    from stem.task import TaskHandler as TaskHandler
    from stem.worker.lifecycle import WorkerLifecycleConfig as WorkerLifecycleConfig
    from stem.worker.runtime import Worker as Worker

# fmt: off
_HOME = {
    "stem.adapters.memory": ("InMemoryBroker", "InMemoryResultBackend"),
    "stem.adapters.redis": ("RedisResultBackend", "RedisStreamsBroker"),
    "stem.client": ("Stem",),
    "stem.config": ("StemConfig", "TLSConfig"),
    "stem.errors": (
        "BodyTooLargeError", "BrokerError", "BrokerRefusedError", "BrokerUnreachableError", "ConfigError",
        "DecodeError", "HandlerError", "HardTimeLimitExceeded", "InvalidArgumentsError", "InvalidInputError",
        "InvalidNameError", "NewerVersionError", "QueueFull", "Reject", "Retry", "SignatureError",
        "SoftTimeLimitExceeded", "StemError",
        "TaskConflictError", "TaskNotFoundError", "UnknownOutcomeError", "UnknownTaskError", "WaitTimeoutError",
        "WorkerLostError",
    ),
    "stem.messages.status": ("ErrorInfo", "TaskState", "TaskStatus"),
    "stem.options": ("TaskOptions", "UNSET"),
    "stem.registry": ("SimpleTaskRegistry", "TaskRegistry"),
    "stem.retry": ("ExponentialJitterRetryStrategy", "FixedRetryStrategy", "RetryStrategy"),
    "stem.signals": ("StemSignals",),
    "stem.signing": ("PayloadSigner", "SigningConfig"),
    "stem.sync": ("SyncStem",),
    "stem.task": ("Signature", "Task", "TaskContext", "TaskHandler"),
    "stem.worker.lifecycle": ("WorkerLifecycleConfig",),
    "stem.worker.runtime": ("Worker",),
}
# fmt: on
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "__version__",
    *sorted(_MODULE_OF),
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'stem' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
