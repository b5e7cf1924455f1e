"""Every error that Stem raises; knows nothing of the rest of the package.

StemError
├─ ConfigError (ValueError)              a setting that does not parse: names it and the accepted form
├─ InvalidInputError (ValueError)        refused before anything was sent
│  ├─ InvalidNameError                   a namespace, queue, worker or task name
│  ├─ InvalidArgumentsError (TypeError)  arguments that the handler does not take, or that cannot travel
│  └─ BodyTooLargeError
├─ UnknownTaskError (LookupError)        the registry has no such task
├─ TaskNotFoundError (LookupError)       the broker has no record of this id
├─ DecodeError (ValueError)              bytes of a message that cannot be read
│  └─ NewerVersionError                  written by a newer Stem: give it back, do not bury it
├─ SignatureError                        unsigned, forged, or signed with an unknown key
├─ BrokerError
│  ├─ BrokerUnreachableError (ConnectionError)   certainly not applied
│  ├─ UnknownOutcomeError (ConnectionError)      sent, but no answer: may or may not be applied
│  ├─ BrokerRefusedError                         the server said no (rights, memory, disk, replica)
│  ├─ QueueFull                                  the queue's length limit is reached
│  └─ TaskConflictError                          this id is taken by another body
├─ WaitTimeoutError (TimeoutError)       the task was not final in time
├─ SoftTimeLimitExceeded                 raised inside a handler that ran past its soft limit
├─ HardTimeLimitExceeded                 recorded for a handler that was ended at its hard limit
├─ WorkerLostError                       recorded for a task whose worker, or child process, vanished
├─ HandlerError                          stands in the worker for what a handler raised in its child process
└─ Retry, Reject                         control flow: what a handler raises to be run again, or never again
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

MAX_DURATION_S: Final = 315_360_000.0
"""Ten years: what is longer is a mistake in the unit."""


class StemError(Exception):
    """The root of everything Stem raises on purpose."""


class ConfigError(StemError, ValueError):
    """A setting that does not parse."""


class InvalidInputError(StemError, ValueError):
    """Input that was refused before anything reached the broker."""


class InvalidNameError(InvalidInputError):
    """A name that does not match the allowed characters and length."""


class InvalidArgumentsError(InvalidInputError, TypeError):
    """Arguments that the handler does not take, or of a type that cannot travel."""


class BodyTooLargeError(InvalidInputError):
    """An encoded envelope or result over the size limit."""


class UnknownTaskError(StemError, LookupError):
    """A task name that the registry does not hold."""


class TaskNotFoundError(StemError, LookupError):
    """A task id that the broker has no record of (never enqueued here, or its record has expired)."""


class DecodeError(StemError, ValueError):
    """Bytes of a message that cannot be read; says of what and why, never shows the bytes."""


class NewerVersionError(DecodeError):
    """A message written by a newer version of Stem than this one."""


class SignatureError(StemError):
    """A message that is unsigned, forged, or signed with a key that is not known here."""


class BrokerError(StemError):
    """Something between this process and the broker."""


class BrokerUnreachableError(BrokerError, ConnectionError):
    """The broker could not be reached; the request was certainly not applied."""


class UnknownOutcomeError(BrokerError, ConnectionError):
    """The request was sent but not answered; it may have been applied. Repeating it with the same id is safe.

    Attributes:
        enqueued: of many tasks that did not all arrive, the ids that the broker took for certain, in order.
    """

    def __init__(self, message: str, *, enqueued: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.enqueued = tuple(enqueued)


class BrokerRefusedError(BrokerError):
    """The server answered with a refusal: rights, memory, disk, or it is a replica. Nothing was applied.

    Where an earlier try of the same call may have been applied, the call raises `UnknownOutcomeError`, from this.

    Attributes:
        code: the first word of the server's error, such as ``OOM``, ``NOPERM``, ``READONLY``, ``MISCONF``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class QueueFull(BrokerError):
    """The queue has reached its length limit; nothing was enqueued for the ids listed.

    Attributes:
        queue: the queue that is full.
        refused: ids that were not enqueued.
    """

    def __init__(self, message: str, *, queue: str, refused: Sequence[str]) -> None:
        super().__init__(message)
        self.queue = queue
        self.refused = tuple(refused)


class TaskConflictError(BrokerError):
    """A task with this id exists and has a different body."""


class WaitTimeoutError(StemError, TimeoutError):
    """The task did not reach a final state in the time allowed; it goes on."""


class SoftTimeLimitExceeded(StemError):
    """Raised inside a handler when its soft time limit has passed, so that it can clean up."""


class HardTimeLimitExceeded(StemError):
    """The error recorded for a task whose handler was ended at its hard time limit."""


class WorkerLostError(StemError):
    """The error recorded for a task whose worker, or whose child process, vanished while it ran."""


class HandlerError(StemError):
    """What a handler raised in its child process, as the worker knows it: the exception itself stayed in the child.

    Attributes:
        type: the name of the exception's class; `traceback` as text.
        retried: the handler's `retry_on` lets it be retried; `given_up`: its `give_up_on` names it.
    """

    def __init__(
        self, message: str, *, type: str, traceback: str = "", retried: bool = True, given_up: bool = False
    ) -> None:
        super().__init__(message)
        self.type = type
        self.traceback = traceback
        self.retried = retried
        self.given_up = given_up


class Retry(StemError):
    """Raise this (or call ``context.retry()``) to run the task again later.

    Attributes:
        countdown: seconds until the next attempt (or a timedelta); None lets the retry policy decide.

    Raises:
        InvalidInputError: `countdown` is no number of seconds from 0 to ten years.
    """

    countdown: float | None = None  # of a subclass too, whose own __init__ does not call this one

    def __init__(
        self, message: str = "retry asked for by the handler", *, countdown: float | timedelta | None = None
    ) -> None:
        super().__init__(message)
        seconds = countdown.total_seconds() if isinstance(countdown, timedelta) else countdown
        number = not isinstance(seconds, bool) and isinstance(seconds, int | float)
        if seconds is not None and not (number and 0 <= seconds <= MAX_DURATION_S):
            raise InvalidInputError(
                f"Retry(countdown={countdown!r:.80}): give seconds or a timedelta, at least 0 and at most ten years"
            )
        self.countdown = seconds


class Reject(StemError):
    """Raise this to make the task a dead letter at once, whatever attempts are left."""
