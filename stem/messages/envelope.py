"""The envelope: one request to run a task, written once by its producer and never changed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stem.errors import DecodeError
from stem.messages.codec import MAX_BODY, VERSION, Fields, pack, unpack
from stem.messages.names import is_name

_PLAIN: Final = frozenset({"v", "id", "task", "args", "produced_at"})
"""What most bodies hold, and nothing else."""


def new_task_id() -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7): unique, and ordered by the millisecond it was made in."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(slots=True, kw_only=True)
class Envelope:
    """The body of a task. Nobody changes one; not frozen, because that trebles the time it takes to make it.

    Attributes:
        options: only what the producer set (`queue priority max_retries lease_ms soft_ms hard_ms result_ttl_ms
            retry_base_ms retry_max_ms isolation unique_key redact`); the rest comes from the handler, then the
            configuration.
        delay_ms, eta_ms: when it is due: after this delay, or at this Unix time; at most one is set.
        expires_in_ms, expires_ms: when it is too late to start it; at most one is set.
        produced_at_ms: the producer's clock; informational.
        root, parent: ids of the task that started the chain, and of the one that enqueued this one.
    """

    id: str
    task: str
    args: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    delay_ms: int | None = None
    eta_ms: int | None = None
    expires_in_ms: int | None = None
    expires_ms: int | None = None
    produced_at_ms: int = 0
    root: str | None = None
    parent: str | None = None

    def encode(self, *, limit: int = MAX_BODY) -> bytes:
        """Return the body bytes: what is signed, stored and handed to the worker.

        Raises:
            InvalidArgumentsError, BodyTooLargeError: see `codec.pack`.
        """
        body: dict[str, Any] = {"v": VERSION, "id": self.id, "task": self.task, "args": self.args}
        if self.headers:
            body["headers"] = self.headers
        if self.meta:
            body["meta"] = self.meta
        if self.options:
            body["options"] = self.options
        for key, value in (
            ("delay_ms", self.delay_ms),
            ("eta_ms", self.eta_ms),
            ("expires_in_ms", self.expires_in_ms),
            ("expires_ms", self.expires_ms),
            ("root", self.root),
            ("parent", self.parent),
        ):
            if value is not None:
                body[key] = value
        body["produced_at"] = self.produced_at_ms
        return pack(body, what=f"the body of task {self.task}", limit=limit)

    @classmethod
    def decode(cls, body: bytes, *, limit: int = MAX_BODY) -> Envelope:
        """Read body bytes.

        Raises:
            NewerVersionError: written by a newer Stem.
            DecodeError: anything else that is wrong with them.
        """
        fields = Fields.of(body, "envelope", limit=limit)
        task_id, task = fields.text("id"), fields.text("task")
        if not is_name("task id", task_id):
            raise DecodeError("envelope: 'id' is not a task id")
        if not is_name("task", task):
            raise DecodeError("envelope: 'task' is not a task name")
        if fields.hold_only(_PLAIN):
            return cls(
                id=task_id, task=task, args=fields.mapping("args"), produced_at_ms=fields.integer("produced_at", 0)
            )
        headers = fields.mapping("headers")
        if not all(isinstance(value, str) for value in headers.values()):
            raise DecodeError("envelope: 'headers' is not a map of texts")
        return cls(
            id=task_id,
            task=task,
            args=fields.mapping("args"),
            headers=headers,
            meta=fields.mapping("meta"),
            options=fields.mapping("options"),
            delay_ms=fields.optional_integer("delay_ms"),
            eta_ms=fields.optional_integer("eta_ms"),
            expires_in_ms=fields.optional_integer("expires_in_ms"),
            expires_ms=fields.optional_integer("expires_ms"),
            produced_at_ms=fields.integer("produced_at", 0),
            root=fields.optional_text("root"),
            parent=fields.optional_text("parent"),
        )


def asked(body: bytes) -> bytes:
    """Return what a body asks for, whoever asks: without its lineage, where the id is the caller's (time 0)."""
    try:
        fields = unpack(body, limit=len(body))
    except DecodeError:
        return body
    if not isinstance(fields, dict) or fields.get("produced_at") != 0:
        return body
    return pack({key: fields[key] for key in fields if key not in ("root", "parent")}, limit=len(body))
