"""What a worker and a child process say to each other: MessagePack maps, each after its length in four bytes.

worker to child                             child to worker
hello     paths, names, logging; once       ready     it has imported the application; `broken`: it cannot
run       one task                          done, failed   the task's end
soft      raise the soft limit's exception  progress, extend   what the handler says
revoked, lost   the task is                 ask       enqueue this for me
answer    to an `ask`
stop      end, nothing more comes           end       end now, whatever runs

Pure data; knows neither sockets nor processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from stem import errors
from stem.errors import (
    BrokerRefusedError,
    DecodeError,
    HandlerError,
    QueueFull,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    StemError,
)
from stem.messages.codec import Fields, pack, unpack
from stem.messages.status import ErrorInfo
from stem.task import Signature, TaskOptions

MAX_FRAME: Final = 65 * 1024 * 1024
"""The largest body that a configuration allows, and some words around it."""
_LENGTH: Final = 4


def frame(kind: str, **fields: object) -> bytes:
    """Return one message.

    Raises:
        InvalidInputError: a field cannot travel.
    """
    packed = pack({"kind": kind, **fields}, what=f"what a {kind!r} message carries", limit=MAX_FRAME)
    return len(packed).to_bytes(_LENGTH, "big") + packed


class Inbox:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Fields]:
        """Add what has arrived and yield the messages that are whole.

        Raises:
            DecodeError: this is not what the other side would say.
        """
        self._bytes += data
        while len(self._bytes) >= _LENGTH:
            size = int.from_bytes(self._bytes[:_LENGTH], "big")
            if size > MAX_FRAME:
                raise DecodeError(f"a message of {size} bytes, the limit is {MAX_FRAME}")
            if len(self._bytes) < _LENGTH + size:
                return
            packed = bytes(self._bytes[_LENGTH : _LENGTH + size])
            del self._bytes[: _LENGTH + size]
            yield Fields(unpack(packed, what="message of a child process", limit=MAX_FRAME), "message")


# -------------------------------------------------------------------------------------------------------------- errors


class ChildRetry(HandlerError, Retry):
    """The handler asked to be run again."""


class ChildReject(HandlerError, Reject):
    """The handler asked not to be run again."""


class ChildSoftLimit(HandlerError, SoftTimeLimitExceeded):
    """The handler let the exception of its soft limit through."""


_CLASSES: Final = {"retry": ChildRetry, "reject": ChildReject, "soft": ChildSoftLimit, "error": HandlerError}


def told_failure(error: BaseException, info: ErrorInfo, *, retried: bool, given_up: bool) -> dict[str, object]:
    """Return what `heard_failure` reads: the end of a handler that raised `error`, described as `info`."""
    match error:
        case Retry():
            flow = "retry"
        case Reject():
            flow = "reject"
        case SoftTimeLimitExceeded():
            flow = "soft"
        case _:
            flow = "error"
    return {
        "flow": flow,
        "error": info.encode(),
        "countdown": error.countdown if isinstance(error, Retry) else None,
        "retried": retried,
        "given_up": given_up,
    }


def heard_failure(fields: Fields) -> HandlerError:
    """Return the exception that stands for one in the child.

    Raises:
        DecodeError: it cannot be read.
    """
    made = _CLASSES.get(fields.text("flow"))
    if made is None:
        raise DecodeError("message: 'flow' is unknown")
    info = ErrorInfo.decode(fields.bytes_("error"))
    error = made(
        info.message,
        type=info.type,
        traceback=info.traceback,
        retried=fields.boolean("retried"),
        given_up=fields.boolean("given_up"),
    )
    if isinstance(error, ChildRetry):
        error.countdown = fields.optional_number("countdown")
    return error


def told_refusal(error: StemError) -> dict[str, object]:
    """Return why an `ask` was refused, for `heard_refusal`."""
    return {
        "refused": type(error).__name__,
        "message": str(error),
        "queue": getattr(error, "queue", ""),
        "ids": list(getattr(error, "refused", ())),
        "code": getattr(error, "code", ""),
    }


def heard_refusal(fields: Fields) -> StemError:
    """Return the same error again, of the same class."""
    made: Any = getattr(errors, fields.text("refused"), None)
    message = fields.text("message")
    if made is QueueFull:
        return QueueFull(message, queue=fields.text("queue"), refused=fields.texts("ids"))
    if made is BrokerRefusedError:
        return BrokerRefusedError(message, code=fields.text("code"))
    if isinstance(made, type) and issubclass(made, StemError) and not issubclass(made, HandlerError):
        return made(message)
    return StemError(message)


# ----------------------------------------------------------------------------------------------------------- signature


def told_signature(signature: Signature) -> bytes:
    """Return a request to enqueue as bytes.

    Raises:
        InvalidInputError: something in it cannot travel.
    """
    expires, eta = signature.expires, signature.eta
    plain = {
        "name": signature.name,
        "args": signature.args if isinstance(signature.args, dict) else dict(signature.args),
        "options": signature.options.travelling(),
        "meta": _plain(signature.meta),
        "headers": _plain(signature.headers),
        "delay": _seconds(signature.delay),
        "eta": eta.isoformat() if isinstance(eta, datetime) else eta,
        "expires": None if isinstance(expires, datetime) else _seconds(expires),
        "expires_at": expires.isoformat() if isinstance(expires, datetime) else None,
        "priority": signature.priority,
        "unique_key": signature.unique_key,
        "task_id": signature.task_id,
    }
    return pack(plain, what=f"the request for task {ascii(signature.name)[:200]}", limit=MAX_FRAME)


def heard_signature(data: bytes) -> Signature:
    """Read such a request. What a producer checks is left to it.

    Raises:
        DecodeError: it cannot be read.
    """
    fields = Fields(unpack(data, what="request", limit=MAX_FRAME), "request")
    expires_at = _moment(fields.optional_text("expires_at"))
    return Signature(
        name=fields.any("name"),
        args=fields.mapping("args"),
        options=TaskOptions.from_travelled(fields.mapping("options")),
        meta=fields.any("meta"),
        headers=fields.any("headers"),
        delay=fields.any("delay"),
        eta=_moment(fields.optional_text("eta")),
        expires=fields.any("expires") if expires_at is None else expires_at,
        priority=fields.any("priority"),
        unique_key=fields.any("unique_key"),
        task_id=fields.any("task_id"),
    )


def _plain(value: Mapping[str, Any] | None) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise DecodeError("request: not a time") from error
