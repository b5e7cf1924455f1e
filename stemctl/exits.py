"""Exit codes, and which error ends with which. Knows the errors and the controller's answers; prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stem import errors
from stem.messages.command import DISTRUST

if TYPE_CHECKING:  # only for annotations: the controller is not needed to end a program
    from stem.control.answer import Answers, CommandResult, PingResult

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOTHING: Final = 3
SILENT: Final = 4
REFUSED: Final = 5
UNREACHABLE: Final = 69
WAITED_OUT: Final = 124
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a command did not end well.

    Attributes:
        code: a stable word for programs.
        message: what was tried and went wrong; may hold untrusted text.
        hint: what to do next.
        task_id: the task that this is about, where nothing else tells a program.
    """

    exit: int
    code: str
    message: str
    hint: str = ""
    task_id: str = ""


class CommandError(errors.StemError):
    """Ends a command with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def usage(message: str, hint: str = "") -> CommandError:
    """Return the error for input that cannot be meant."""
    return CommandError(Problem(USAGE, "usage", message, hint))


def not_found(what: str, name: object, hint: str = "") -> CommandError:
    """Return the error for a queue, task or worker that is not known."""
    return CommandError(Problem(NOTHING, f"unknown-{what}", f"there is no {what} {name}", hint))


def unhealthy(check: str, message: str, hint: str) -> Problem:
    """Return the problem of a check of `health` that found something; one of `CHECKS`."""
    return Problem(FAILED, f"unhealthy-{check}", message, hint)


CHECKS: Final = ("reachable", "writable", "policy", "workers", "loops")
"""What `health` looks at, in this order."""

ENDS: Final = ("failed", "revoked", "expired")
"""States in which a task has ended and has no result."""

# The first that fits counts, so special ones stand before their parents.
_KNOWN: Final[tuple[tuple[type[BaseException], int, str, str], ...]] = (
    (errors.ConfigError, USAGE, "config", ""),
    (errors.InvalidInputError, USAGE, "invalid-input", ""),
    (errors.UnknownTaskError, NOTHING, "unknown-task", ""),
    (errors.TaskNotFoundError, NOTHING, "unknown-task", "see `stemctl tasks ls` for the ids there are"),
    (errors.WaitTimeoutError, WAITED_OUT, "wait-ran-out", "the task goes on; `stemctl why ID` says what holds it"),
    (errors.SignatureError, REFUSED, "signature", "check STEM_SIGNING_KEYS and STEM_SIGNING_ACTIVE_KEY"),
    (errors.QueueFull, REFUSED, "queue-full", "wait for workers to catch up, or raise STEM_MAX_QUEUE_LENGTH"),
    (errors.TaskConflictError, FAILED, "task-conflict", "use another --id"),
    (
        errors.UnknownOutcomeError,
        UNREACHABLE,
        "unknown-outcome",
        "it may have been applied: look at `stemctl audit ls` before you run it again",
    ),
    (errors.BrokerUnreachableError, UNREACHABLE, "broker-unreachable", "the URL is that of --url or STEM_BROKER_URL"),
    (errors.DecodeError, FAILED, "unreadable", "it was written by another program or a newer Stem"),
    (errors.StemError, FAILED, "failed", ""),
)

_DISTRUST: Final = {
    "signature-missing": "give the key these workers know: STEM_CONTROL_KEYS or STEM_CONTROL_PRIVATE_KEYS",
    "signature-invalid": "check STEM_CONTROL_KEYS and STEM_CONTROL_ACTIVE_KEY here, STEM_CONTROL_* at the workers",
    "role-refused": "use the key of an operator: STEM_CONTROL_ACTIVE_KEY",
}

_REFUSALS: Final = {
    "WRONGPASS": "the user name or password in the URL is wrong",
    "NOAUTH": "the server wants a password: put it into the URL, redis://:PASSWORD@host",
    "NOPERM": "this user may not do that: see the server's ACL",
    "READONLY": "this server is a replica: use the address of the primary",
    "OOM": "the server's memory is full: raise maxmemory, or purge what is not needed",
    "SCHEMA": "`python -m pip install --upgrade stem-workers`; nothing was read or changed",
    "MISCONF": "the server cannot write its files: look at its log and its disk",
}


_PERHAPS: Final = ": it may or may not have been done"
"""What an error says of a request without an answer, whatever was asked."""


def problem_of(error: BaseException, *, changing: bool = True) -> Problem:
    """Return what to say about an error, and the exit code.

    Args:
        changing: the command might have changed something before the error came.
    """
    if isinstance(error, CommandError):
        return error.problem
    if isinstance(error, errors.UnknownOutcomeError) and not changing:
        message = str(error).replace(_PERHAPS, "")
        return Problem(UNREACHABLE, "unknown-outcome", message, "nothing was changed; see whether the server is well")
    if isinstance(error, errors.BrokerRefusedError):
        return Problem(REFUSED, "refused", str(error), _REFUSALS.get(error.code, ""))
    for kind, exit_code, code, hint in _KNOWN:
        if isinstance(error, kind):
            return Problem(exit_code, code, str(error), hint)
    return Problem(
        FAILED, "internal", f"unexpected {type(error).__name__}: {error}", "run it again with --debug for the traceback"
    )


def of_answers(result: PingResult | Answers) -> Problem | None:
    """Return what is wrong with the answers to a question, None if everybody answered."""
    refused = [worker for worker in result.workers if not worker.ok]
    if refused:
        names = ", ".join(worker.name for worker in refused[:5])
        distrust = next((worker.error_code for worker in refused if worker.error_code in DISTRUST), "")
        if distrust:
            return _distrusted(distrust, f"{len(refused)} workers said no: {names}")
        return Problem(FAILED, "failed", f"{len(refused)} workers said no: {names}", "see `error` of each")
    if result.silent:
        return _silent(result)
    if result.unmatched:
        return _unmatched("worker", result.unmatched)
    if not result.expected:
        return Problem(NOTHING, "no-worker", "no worker is there", "start one: stem-worker mypkg.tasks:app")
    return None


def of_command(result: CommandResult, what: str) -> Problem | None:
    """Return what is wrong with a command's outcome, None if all was applied.

    Args:
        what: its targets: `task`, `queue`, `worker`.
    """
    failed = [item for item in result.items if item.error]
    if failed:
        first = failed[0]
        distrust = next((code for item in failed if (code := item.error.partition(":")[0]) in DISTRUST), "")
        if distrust:
            return _distrusted(distrust, f"{len(failed)} refused, the first is {first.target}: {first.error}")
        return Problem(FAILED, "failed", f"{len(failed)} failed, the first is {first.target}: {first.error}")
    if result.waited_out:
        return Problem(
            WAITED_OUT,
            "wait-ran-out",
            f"stored, but after {result.elapsed_ms / 1000:.1f} s only {result.applied} of {result.expected} workers "
            "had reached the effect",
            "it goes on by itself; wait longer, or look at `stemctl workers ls`",
        )
    if result.silent:
        return _silent(result)
    if result.unmatched:
        return _unmatched(what, result.unmatched)
    if not result.items:
        return Problem(NOTHING, "no-worker", "no worker is there", "nothing was changed")
    return None


def _distrusted(code: str, message: str) -> Problem:
    return Problem(REFUSED, code, message, _DISTRUST.get(code, "send the command again"))


def _silent(result: PingResult | Answers | CommandResult) -> Problem:
    names = ", ".join(f"{silent.name} ({silent.diagnosis})" for silent in result.silent[:5])
    more = f" and {len(result.silent) - 5} more" if len(result.silent) > 5 else ""
    return Problem(SILENT, "silent", f"no answer from {names}{more}", "see `stemctl workers ls` for each one's state")


def _unmatched(what: str, names: object) -> Problem:
    shown = ", ".join(names) if isinstance(names, tuple | list) else str(names)
    place = {"worker": "stemctl workers ls", "task": "stemctl tasks ls", "queue": "stemctl queues ls"}[what]
    return Problem(NOTHING, f"unknown-{what}", f"there is no {what} {shown}", f"see `{place}`")
