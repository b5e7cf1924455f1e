"""The audit as a list: who asked for what, on what, why, and what came of it. Pure, knows no widget."""

from __future__ import annotations

from typing import Final

from stem.contracts import AuditRow
from stem.control.audit import asked, summary, targets_of
from stem.record import record
from stem.text import clean
from stem_tui import figures
from stem_tui.columns import Column, View
from stem_tui.details import Lines, fact, title
from stem_tui.theme import UNKNOWN, Cell, Sign

_VERDICTS: Final = {
    "applied": Sign("✓", "applied", "ok"),
    "nothing": Sign("·", "nothing", "dim"),
    "partly": Sign("!", "partly", "warn"),
    "silent": Sign("!", "silent", "warn"),
    "waited-out": Sign("!", "waited out", "warn"),
    "failed": Sign("✖", "failed", "bad"),
    "": Sign("?", "not told", "dim"),
}


@record
class AuditLine:
    """One row of it; all of its text is clean."""

    key: str
    at_ms: int
    actor: str
    verb: str
    targets: str
    verdict: str
    outcome: str
    reason: str
    ended_ms: int = 0
    items: tuple[str, ...] = ()


def line_of(row: AuditRow) -> AuditLine:
    """Return a row as it is shown."""
    outcome = row.outcome
    items = () if outcome is None else tuple(
        clean("  ".join(part for part in (item.target, item.outcome, item.error) if part), 400)
        for item in outcome.items
    )  # fmt: skip
    return AuditLine(
        key=row.id,
        at_ms=row.at_ms,
        actor=clean(row.actor),
        verb=clean(asked(row), 80),
        targets=clean(targets_of(row), 300),
        verdict="" if outcome is None else outcome.verdict,
        outcome=clean(summary(row), 400),
        reason=clean(row.reason, 300),
        ended_ms=row.ended_at_ms or 0,
        items=items,
    )


def sign(row: AuditLine) -> Sign:
    return _VERDICTS.get(row.verdict, UNKNOWN)


def _when(at_ms: int, now_ms: int) -> str:
    return figures.clock(at_ms) if abs(now_ms - at_ms) < 43_200_000 else figures.date(at_ms)[5:16]


AUDIT: Final[View[AuditLine]] = View(
    kind="audit",
    follows=True,
    title="AUDIT",
    key=lambda row: row.key,
    columns=(
        Column(key="at", title="TIME", width=11, cell=lambda r, now: Cell(_when(r.at_ms, now), "dim"),
               sort=lambda r: r.at_ms, down=True),
        Column(key="who", title="WHO", width=12, grow=1, cell=lambda r, _: Cell(r.actor or "–", "text"),
               sort=lambda r: r.actor or None),
        Column(key="verb", title="WHAT", width=13, grow=1, cell=lambda r, _: Cell(r.verb, "strong"),
               sort=lambda r: r.verb),
        Column(key="on", title="ON", width=10, grow=2, cell=lambda r, _: Cell(r.targets), sort=lambda r: r.targets),
        Column(key="sign", title="OUTCOME", width=12, cell=lambda r, _: sign(r).cell, sort=lambda r: sign(r).word),
        Column(key="outcome", title="", width=14, grow=3, keep=2, cell=lambda r, _: Cell(r.outcome, "dim")),
        Column(key="reason", title="REASON", width=10, grow=2, keep=1, cell=lambda r, _: Cell(r.reason, "dim"),
               sort=lambda r: r.reason or None),
    ),
    fields={
        "name": lambda r, _: r.verb,
        "actor": lambda r, _: r.actor,
        "on": lambda r, _: r.targets,
        "state": lambda r, _: sign(r).word,
        "reason": lambda r, _: r.reason,
        "error": lambda r, _: r.outcome,
        "age": lambda r, now: (now - r.at_ms) / 1000,
    },
)  # fmt: skip


def audit_lines(row: AuditLine, width: int) -> Lines:
    """Return all that is known of one row."""
    shown = sign(row)
    lines: Lines = [
        title(f"AUDIT {row.verb}", width),
        fact("asked", Cell(figures.date(row.at_ms)), Cell(f"  by {row.actor or 'nobody named'}", "strong")),
        fact("on", Cell(row.targets)),
        fact("reason", Cell(row.reason or "–", "text" if row.reason else "faint")),
        fact("outcome", shown.cell, Cell(f"  {row.outcome}", "dim")),
    ]
    if row.ended_ms:
        lines.append(fact("ended", Cell(f"{figures.span(row.ended_ms - row.at_ms)} later", "dim")))
    if row.items:
        lines += [title("TARGETS", width), *([Cell(f"   {item}")] for item in row.items)]
    return lines
