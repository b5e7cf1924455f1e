"""From the end of a run to its settlement: pure rules, no I/O."""

from __future__ import annotations

import inspect
import math
import re
import traceback
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from stem.contracts import Delivery, Outcome, Settlement
from stem.errors import (
    ConfigError,
    DecodeError,
    HandlerError,
    NewerVersionError,
    Reject,
    Retry,
    SignatureError,
    SoftTimeLimitExceeded,
    StemError,
)
from stem.messages.codec import pack
from stem.messages.status import ErrorInfo
from stem.redaction import NO_VEIL, Veil
from stem.worker.plan import Plan

NONE: Final = b"\xc0"
"""None as MessagePack: what most tasks return."""
LONGEST_GIVE_BACK_MS: Final = 30_000
GIVE_UP_AFTER_MS: Final = 3_600_000
MAX_DELAY_MS: Final = 315_360_000_000

_OWN_FRAMES: Final = str(Path(__file__).parent.parent)
_NOT_A_NAME: Final = re.compile(r"[^\x21-\x7e]")


def success(delivery: Delivery, plan: Plan, result: object) -> Settlement:
    """Return the settlement of a run that returned `result`; dead, if that cannot be stored."""
    try:
        packed = NONE if result is None else pack(result, what=f"the result of task {delivery.task}")
    except StemError as error:
        # The work was done and would be done again by a retry, to the same end.
        return dead(delivery, plan.ttl_ms, unstorable(result, error, task=delivery.task), reason="failed")
    return Settlement(
        id=delivery.id, token=delivery.token, outcome=Outcome.SUCCEEDED, result=packed, ttl_ms=plan.ttl_ms
    )


def unstorable(result: object, error: StemError, *, task: str) -> StemError:
    """Return why `result` cannot be stored, where encoding it ended in `error`.

    A coroutine is told as what it is: only the call shows that a plain wrapper hides an `async def`, or does not, and
    runs it itself.
    """
    if not inspect.iscoroutine(result):
        return error
    result.close()
    told = ConfigError(
        f"task {task} returned a coroutine, of which nothing has run: a decorator hides that its function is "
        "`async def`. Make the wrapper `async def` too, and await the function in it"
    )
    told.__cause__ = error
    return told


def failure(delivery: Delivery, plan: Plan, error: BaseException, veil: Veil = NO_VEIL) -> Settlement:
    """Return the settlement of a run that raised `error`: a retry while the policy allows one, else a dead letter."""
    if isinstance(error, Reject):
        return dead(delivery, plan.ttl_ms, error, reason="rejected", veil=veil)
    asked = isinstance(error, Retry)
    if isinstance(error, HandlerError):  # looked at where its class is
        retried_kind, given_up_kind = asked or error.retried, error.given_up and not asked
    else:
        retried_kind = asked or plan.retry_on is None or isinstance(error, plan.retry_on)
        given_up_kind = not asked and isinstance(error, plan.give_up_on)
    if delivery.attempt >= plan.max_retries or not retried_kind or given_up_kind:
        return dead(delivery, plan.ttl_ms, error, reason="failed", max_retries=plan.max_retries, veil=veil)
    delay_s = error.countdown if isinstance(error, Retry) and error.countdown is not None else None
    if delay_s is None:
        try:
            delay_s = float(plan.retry.delay_s(delivery.attempt))
            if not math.isfinite(delay_s):
                raise ValueError(f"it said {delay_s} s")
        except Exception as broken:  # somebody's own policy: its failure must not cost the task its retry
            delay_s = 1.0
            error.add_note(f"the retry strategy failed, so the delay is one second: {broken!r}")
    return Settlement(
        id=delivery.id,
        token=delivery.token,
        outcome=Outcome.RETRY,
        error=replace(describe(error, veil), max_retries=plan.max_retries).encode(),
        error_type=type_name(error),
        delay_ms=min(MAX_DELAY_MS, max(0, round(delay_s * 1000))),
        ttl_ms=plan.ttl_ms,
    )


def unjudged(error: Exception) -> StemError:
    """Return what a run failed with whose end could not be judged: the application's own code raised `error` there.

    That may be the code that says what `error` is, or what has to be hidden of it: it is told by its class alone.
    """
    return StemError(f"how the task ended cannot be recorded: {type_name(error)} was raised while that was looked at")


def dead(
    delivery: Delivery,
    ttl_ms: int,
    error: BaseException,
    *,
    reason: str,
    max_retries: int | None = None,
    veil: Veil = NO_VEIL,
) -> Settlement:
    return Settlement(
        id=delivery.id,
        token=delivery.token,
        outcome=Outcome.DEAD,
        error=replace(describe(error, veil), max_retries=max_retries).encode(),
        error_type=type_name(error),
        reason=reason,
        ttl_ms=ttl_ms,
    )


def unreadable(delivery: Delivery, error: StemError) -> Settlement:
    """Return the settlement of a delivery that cannot run here: forged, malformed, too new, or of unknown name."""
    wrong = isinstance(error, SignatureError | DecodeError) and not isinstance(error, NewerVersionError)
    if wrong and delivery.give_backs == 0:
        # It may have changed on its way to us: what is stored reads well the next time, and does not if it is wrong.
        return Settlement(
            id=delivery.id, token=delivery.token, outcome=Outcome.GIVE_BACK, reason="read once more", unknown=True
        )
    if isinstance(error, SignatureError):
        return dead(delivery, 86_400_000, error, reason="signature-invalid")
    if isinstance(error, DecodeError) and not isinstance(error, NewerVersionError):
        return dead(delivery, 86_400_000, error, reason="malformed")
    # Both times are the broker's: a clock of our own that was just set forward would bury what others can run.
    if delivery.first_give_back_ms and delivery.started_at_ms - delivery.first_give_back_ms >= GIVE_UP_AFTER_MS:
        return dead(delivery, 86_400_000, error, reason="unregistered")
    reason = "unknown task"
    if isinstance(error, NewerVersionError):
        reason = "newer version"
    elif isinstance(error, ConfigError):
        reason = "no child processes here"
    return Settlement(
        id=delivery.id,
        token=delivery.token,
        outcome=Outcome.GIVE_BACK,
        reason=reason,
        delay_ms=min(1000 * 2 ** min(delivery.give_backs, 10), LONGEST_GIVE_BACK_MS),
        unknown=True,
    )


def hand_back(delivery: Delivery, *, reason: str, delay_ms: int = 0) -> Settlement:
    return Settlement(id=delivery.id, token=delivery.token, outcome=Outcome.GIVE_BACK, reason=reason, delay_ms=delay_ms)


def crashed(delivery: Delivery, error: BaseException, veil: Veil = NO_VEIL) -> Settlement:
    return Settlement(
        id=delivery.id,
        token=delivery.token,
        outcome=Outcome.CRASHED,
        error=describe(error, veil).encode(),
        error_type=type_name(error),
    )


def revoked(delivery: Delivery, ttl_ms: int) -> Settlement:
    return Settlement(id=delivery.id, token=delivery.token, outcome=Outcome.REVOKED, ttl_ms=ttl_ms)


def type_name(error: BaseException) -> str:
    """Return the type's name as the broker wants it: printable ASCII, at most 100 characters."""
    if isinstance(error, HandlerError):
        return _NOT_A_NAME.sub("?", error.type)[:100]
    if isinstance(error, SoftTimeLimitExceeded):
        return SoftTimeLimitExceeded.__name__  # whichever way it was raised in the handler
    return _NOT_A_NAME.sub("?", type(error).__name__)[:100]


def describe(error: BaseException, veil: Veil = NO_VEIL) -> ErrorInfo:
    """Return `error` as data, without what `veil` hides. Survives exceptions whose message or traceback cannot be made.

    Hidden before it is cut to its limits: of a value cut in two nothing would be found.
    """
    if isinstance(error, HandlerError):
        return ErrorInfo(type=type_name(error), message=veil.text(error), traceback=veil.text(error.traceback))
    try:
        message = str(error)
    except Exception as broken:
        message = f"<no message: its __str__ raised {type(broken).__name__}>"
    try:
        trace = "".join(traceback.format_exception(type(error), error, _handlers_own(error)))
    except Exception as broken:
        trace = f"<no traceback: {type(broken).__name__}>"
    return ErrorInfo(type=type_name(error), message=_utf8(veil.text(message)), traceback=_utf8(veil.text(trace)))


def without_frames(error: StemError) -> StemError:
    """Return `error` with nothing of the calls that led to it, nor of those behind its causes."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _handlers_own(error: BaseException) -> TracebackType | None:
    """Return the traceback without the frames of Stem that lead to the handler."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
        trace = trace.tb_next
    return trace if trace is not None else error.__traceback__


def _utf8(text: str) -> str:
    """Return `text` without lone surrogates, which MessagePack cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode()
