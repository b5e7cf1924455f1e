"""What both clients, asyncio and blocking, share about a task that was sent: waiting for its end, revoking it."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from stem.errors import BrokerError, TaskNotFoundError, UnknownOutcomeError, WaitTimeoutError
from stem.messages.command import Command, checked_reason, revoke_args
from stem.messages.envelope import new_task_id
from stem.messages.names import check_name
from stem.messages.status import TaskStatus
from stem.options import Duration, to_seconds
from stem.outbox import passing, pause_s

SLICE_S: Final = 5.0
"""The longest single wait for a task's end: a wake-up that got lost costs no more than this."""
_GRACE_S: Final = 0.5
"""How long past the deadline the last answer may take."""


class Waiting:
    """The bookkeeping of one `wait_for`: slices, deadline and patience. Pure but for the monotonic clock."""

    __slots__ = ("_away_since", "_began", "_deadline", "_failures", "_patience_s", "_task_id", "_timeout_s")

    def __init__(self, task_id: str, timeout: Duration | None, patience_s: float) -> None:
        self._task_id = task_id
        self._timeout_s = None if timeout is None else to_seconds("timeout", timeout, least=0)
        self._deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        self._patience_s = patience_s
        self._failures = 0
        self._away_since = 0.0
        self._began = 0.0

    def slice_s(self) -> float:
        """Return how long to wait this time."""
        self._began = time.monotonic()
        return SLICE_S if self._deadline is None else max(0.0, min(SLICE_S, self._deadline - self._began))

    def limit_s(self) -> float | None:
        """Return how long a broker may take to answer at most, that wait included; None without a deadline."""
        return None if self._deadline is None else max(0.05, self._deadline + _GRACE_S - time.monotonic())

    def not_yet(self, status: TaskStatus) -> float:
        """Return the pause before the next slice; raises `WaitTimeoutError` when there is none."""
        self._failures = 0
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            raise WaitTimeoutError(
                f"task {self._task_id} ({status.task}) is still {status.state.value} after {self._timeout_s:g} s; it "
                f"goes on: wait again, or ask `stemctl why {self._task_id}`"
            )
        # A broker that answers "not yet" before its time (its handle is being closed) must not be asked in a hot loop.
        return 0.0 if now - self._began >= 0.05 else 0.05

    def failed(self, error: BrokerError) -> float:
        """Return the pause before asking again.

        Raises:
            WaitTimeoutError: there is no time left for it.
            BrokerError: `error`, when asking again is of no use (any more).
        """
        now = time.monotonic()
        if not self._failures:
            # It was well while the slice was waited out; who gave no answer may have been away since it was asked.
            self._away_since = self._began if isinstance(error, UnknownOutcomeError) else now
        self._failures += 1
        if not passing(error):
            raise error
        if self._deadline is not None and now >= self._deadline:
            raise WaitTimeoutError(
                f"the state of task {self._task_id} could not be asked for within {self._timeout_s:g} s: {error}"
            ) from error
        if now - self._away_since >= self._patience_s:
            raise error
        return pause_s(self._failures)


def revoke_command(task_id: str, *, terminate: bool, reason: str | None) -> Command:
    """Return the command that revokes one task; `InvalidInputError` where something of it is none."""
    check_name("task id", task_id)
    return Command(
        id=new_task_id(),
        type="revoke",
        args=revoke_args([task_id], terminate=terminate),
        actor=f"client@{socket.gethostname()}:{os.getpid()}",
        reason=checked_reason(reason),
    )


def not_found(task_id: str) -> TaskNotFoundError:
    return TaskNotFoundError(
        f"no task {task_id} is known: it was never enqueued in this namespace, or its record has expired"
    )
