"""Commands to workers and their replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from stem.errors import DecodeError, InvalidInputError
from stem.messages.codec import VERSION, Fields, pack
from stem.messages.names import is_name
from stem.record import record

QUESTIONS: Final = frozenset({"ping", "inspect", "stats"})
"""Commands that change nothing: not answered past their deadline, never replayed."""

STAGES: Final = ("accepted", "applied", "effect")

DISTRUST: Final = frozenset({"signature-missing", "signature-invalid", "role-refused", "expired", "replayed"})
"""Codes of refusals that say: not from you, or not any more."""


@record
class Command:
    """What an operator asks of workers.

    Attributes:
        id: unique per request (1 to 64 of A-Z a-z 0-9 _ . -); a repeated one is not applied twice.
        type: `ping inspect stats revoke pause resume drain undrain shutdown`, or one this version does not know.
        targets: worker ids, names or globs (`fnmatch`); empty means all.
        args: of the command itself; a ping carries a `nonce` that its replies echo.
        timeout_ms: how long its sender waits. The broker stamps the time of issue beside it in the log, so that no
            clock but the broker's decides when a question is too old to answer.
        issued_at_ms, expires_at_ms: of a signed one: from when to when the signature is good, by the broker's clock.
        signature: of what `encode` returns, as `ControlKeys` made it; beside it in the log, never part of it.
    """

    id: str
    type: str
    targets: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout_ms: int = 5_000
    actor: str = ""
    reason: str = ""
    issued_at_ms: int = 0
    expires_at_ms: int = 0
    signature: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes that travel.

        Raises:
            InvalidInputError: no worker could read them, and its sender would hear of success.
        """
        body = {
            "v": VERSION,
            "id": self.id,
            "type": self.type,
            "targets": list(self.targets),
            "args": dict(self.args),
            "timeout_ms": self.timeout_ms,
            "actor": self.actor,
            "reason": self.reason,
        }
        if self.expires_at_ms:
            body |= {"issued_at_ms": self.issued_at_ms, "expires_at_ms": self.expires_at_ms}
        data = pack(body, what="command")
        try:
            Command.decode(data)
        except DecodeError as error:
            raise InvalidInputError(f"this cannot be sent: {error}") from error
        return data

    @classmethod
    def decode(cls, data: bytes) -> Command:
        """Read a command.

        Raises:
            DecodeError: wrong types, or an ill-formed id: it becomes part of a key, and of log lines.
        """
        fields = Fields.of(data, "command")
        command_id = fields.text("id")
        if not is_name("task id", command_id):
            raise DecodeError("command: 'id' is not a command id")
        return cls(
            id=command_id,
            type=fields.text("type"),
            targets=tuple(fields.texts("targets")),
            args=fields.mapping("args"),
            timeout_ms=fields.integer("timeout_ms"),
            actor=fields.text("actor", ""),
            reason=fields.text("reason", ""),
            issued_at_ms=fields.integer("issued_at_ms", 0),
            expires_at_ms=fields.integer("expires_at_ms", 0),
        )


def revoke_args(ids: Sequence[str], *, terminate: bool) -> dict[str, Any]:
    """Return the args of a revoke; `InvalidInputError` where workers would refuse them."""
    if not isinstance(terminate, bool):
        raise InvalidInputError(f"terminate={ascii(terminate)[:80]}: give True or False")
    return {"ids": list(ids), "terminate": terminate}


def checked_reason(reason: str | None) -> str:
    """Return why somebody commands something, none as ""; `InvalidInputError` where it is no text."""
    if reason is not None and not isinstance(reason, str):
        raise InvalidInputError(f"reason={ascii(reason)[:80]}: give text")
    return reason or ""


@record
class Reply:
    """One worker's answer to one command, at one stage.

    Attributes:
        worker: the worker's id; `name` its stable name.
        stage: `accepted`, `applied` or `effect`; see `STAGES` for the order.
        error_code: of a refusal: `unsupported invalid failed busy`, or one of `DISTRUST`.
        at_ms: the broker's clock, estimated by the worker.
    """

    command_id: str
    worker: str
    name: str
    stage: str
    ok: bool = True
    error_code: str = ""
    error_message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    at_ms: int = 0

    def encode(self) -> bytes:
        return pack(
            {
                "v": VERSION,
                "command_id": self.command_id,
                "worker": self.worker,
                "name": self.name,
                "stage": self.stage,
                "ok": self.ok,
                "error_code": self.error_code,
                "error_message": self.error_message,
                "data": dict(self.data),
                "at_ms": self.at_ms,
            },
            what="reply",
        )

    @classmethod
    def decode(cls, data: bytes) -> Reply:
        fields = Fields.of(data, "reply")
        return cls(
            command_id=fields.text("command_id"),
            worker=fields.text("worker"),
            name=fields.text("name"),
            stage=fields.text("stage"),
            ok=fields.boolean("ok", True),
            error_code=fields.text("error_code", ""),
            error_message=fields.text("error_message", ""),
            data=fields.mapping("data"),
            at_ms=fields.integer("at_ms", 0),
        )
