"""The audit: who asked for what, and what came of it. Pure data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final, Literal, get_args

from stem.errors import DecodeError
from stem.messages.codec import VERSION, Fields, pack
from stem.record import record

ITEMS_KEPT: Final = 20
"""Of one outcome: the failed ones first. The counts are of all."""
SILENT_KEPT: Final = 20
SAID_CHARS: Final = 500
"""Of the names of the targets together; how many there were in all is kept beside them."""
_ERROR_CHARS: Final = 200

Verdict = Literal["applied", "partly", "failed", "silent", "waited-out", "nothing"]
_VERDICTS: Final[frozenset[str]] = frozenset(get_args(Verdict))


@record
class AuditItem:
    """What became of one target; `error` says why it failed, empty if it did not."""

    target: str
    outcome: str = ""
    error: str = ""


@record
class AuditOutcome:
    """What came of a command, as the one who gave it saw it.

    Attributes:
        verdict: `applied` (all of it), `partly` (some targets failed), `failed` (every target did), `silent` (workers
            did not answer in time), `waited-out` (the effect was waited for and not seen), `nothing` (nothing there).
        counts: how many targets ended how, by the outcome's word.
        expected: workers that had to answer; `applied` of them did as told, `failed` said no, `silent` are the names of
            those that gave no answer.
        items: the first targets, failed ones before the others.
    """

    verdict: Verdict
    counts: Mapping[str, int] = field(default_factory=dict)
    expected: int = 0
    applied: int = 0
    failed: int = 0
    silent: Sequence[str] = ()
    items: Sequence[AuditItem] = ()

    def encode(self) -> bytes:
        failed_first = sorted(self.items, key=lambda item: not item.error)
        return pack(
            {
                "v": VERSION,
                "verdict": self.verdict,
                "counts": dict(self.counts),
                "expected": self.expected,
                "applied": self.applied,
                "failed": self.failed,
                "silent": list(self.silent[:SILENT_KEPT]),
                "items": [[item.target, item.outcome, item.error[:_ERROR_CHARS]] for item in failed_first[:ITEMS_KEPT]],
            },
            what="audit outcome",
        )

    @classmethod
    def decode(cls, data: bytes) -> AuditOutcome:
        """Read an outcome.

        Raises:
            DecodeError: wrong types, or a verdict that there is not.
        """
        fields = Fields.of(data, "audit outcome")
        verdict = fields.text("verdict")
        if verdict not in _VERDICTS:
            raise DecodeError("audit outcome: 'verdict' is none that is known")
        counts = fields.mapping("counts")
        if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts.values()):
            raise DecodeError("audit outcome: 'counts' holds what is no number")
        return cls(
            verdict=verdict,  # type: ignore[arg-type] # one of its words, as was checked
            counts=dict(counts),
            expected=fields.integer("expected", 0),
            applied=fields.integer("applied", 0),
            failed=fields.integer("failed", 0),
            silent=tuple(fields.texts("silent")),
            items=tuple(_item(value) for value in _list(fields.any("items"))),
        )


def _list(value: object) -> list[object]:
    if not isinstance(value, list | None):
        raise DecodeError("audit outcome: 'items' is not a list")
    return value or []


def _item(value: object) -> AuditItem:
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, str) for part in value):
        raise DecodeError("audit outcome: an item is not three texts")
    return AuditItem(target=value[0], outcome=value[1], error=value[2])


@record
class Deed:
    """What somebody is about to do to tasks without a command to workers.

    Attributes:
        id: unique per request (the form of a task id); a repeated one is recorded once.
        verb: `purge`, `discard` (dead letters), `replay`, `retry`.
        kind: `queue` where the targets are queues, else they are ids of tasks.
        option: how they were chosen, in words.
        count: of the targets in all, where `targets` names only the first.
    """

    id: str
    verb: str
    actor: str = ""
    reason: str = ""
    kind: str = ""
    option: str = ""
    targets: Sequence[str] = ()
    count: int = 0


def said_of(targets: Sequence[str]) -> str:
    """Return the first names that fit into a row, with spaces between; none is cut."""
    kept: list[str] = []
    length = -1
    for target in targets:
        length += len(target) + 1
        if length > SAID_CHARS:
            break
        kept.append(target)
    return " ".join(kept)
