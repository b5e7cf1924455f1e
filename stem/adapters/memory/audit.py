"""Who asked for what, and what came of it: the newest rows, with their outcomes as bytes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from stem.contracts import AuditPage, AuditRow, Change, ChangeItem, ClearPause, RevokeTasks, SetPause, SetShutdown
from stem.errors import InvalidInputError
from stem.messages.audit import AuditOutcome, Deed, said_of
from stem.messages.command import QUESTIONS, Command

KEPT: Final = 10_000
PAGE_LIMIT: Final = 500


class Audit:
    """The newest rows by number, oldest first; the broker's lock guards them."""

    def __init__(self) -> None:
        self._rows: OrderedDict[int, AuditRow] = OrderedDict()
        self._outcomes: dict[int, tuple[int, bytes]] = {}
        self._deeds: OrderedDict[str, int] = OrderedDict()
        self._last = 0

    def command(
        self, command: Command, change: Change | None, items: Sequence[ChangeItem], *, epoch: int, now: int
    ) -> str:
        """Write the row of a command and return its name; a question gets none."""
        if command.type in QUESTIONS:
            return ""
        targets = command.targets if change is None else [item.target for item in items]
        kind, option = _words(change)
        row = AuditRow(
            id="",
            at_ms=now,
            verb=command.type,
            command_id=command.id,
            actor=command.actor,
            reason=command.reason,
            kind=kind,
            option=option,
            targets=tuple(said_of(targets).split()),
            count=len(targets),
            epoch=epoch,
            stored=dict(Counter(item.outcome for item in items)),
        )
        return self._add(row)

    def deed(self, deed: Deed, now: int) -> str:
        """Write the row of a deed, once per id, and return its name."""
        if deed.id not in self._deeds:
            targets = tuple(said_of(deed.targets).split())
            row = AuditRow(
                id="",
                at_ms=now,
                verb=deed.verb,
                command_id=deed.id,
                actor=deed.actor,
                reason=deed.reason,
                kind=deed.kind,
                option=deed.option,
                targets=targets,
                count=max(deed.count, len(deed.targets)),
            )
            self._deeds[deed.id] = int(self._add(row))
            while len(self._deeds) > KEPT:
                self._deeds.popitem(last=False)
        return str(self._deeds[deed.id])

    def _add(self, row: AuditRow) -> str:
        self._last += 1
        self._rows[self._last] = replace(row, id=str(self._last))
        while len(self._rows) > KEPT:
            gone, _ = self._rows.popitem(last=False)
            self._outcomes.pop(gone, None)
        return str(self._last)

    def conclude(self, name: str, outcome: bytes, now: int) -> bool:
        """Keep the first outcome of a row; False if there is no such row."""
        number = _number(name)
        if number not in self._rows:
            return False
        self._outcomes.setdefault(number, (now, outcome))
        return True

    def page(
        self, *, verb: str | None, actor: str | None, target: str | None, cursor: str | None, limit: int
    ) -> AuditPage:
        """Return rows, newest first; see `Census.audit`."""
        before = self._last + 1 if cursor is None else _number(cursor)
        if before < 0:
            raise InvalidInputError(
                f"{(cursor or '')[:40]!a} is not a cursor of this list: take it from the page before"
            )
        limit = max(1, min(limit, PAGE_LIMIT))
        found = []
        for number, row in reversed(self._rows.items()):
            if number < before and row.fits(verb=verb, actor=actor, target=target):
                found.append(row)
                if len(found) > limit:
                    break
        every = verb is None and actor is None and target is None
        return AuditPage(
            items=tuple(self._concluded(row) for row in found[:limit]),
            next=found[limit - 1].id if len(found) > limit else None,
            total=len(self._rows) if every else None,
        )

    def _concluded(self, row: AuditRow) -> AuditRow:
        told = self._outcomes.get(int(row.id))
        return row if told is None else replace(row, outcome=AuditOutcome.decode(told[1]), ended_at_ms=told[0])


def _number(name: str) -> int:
    return int(name) if name.isascii() and name.isdigit() and len(name) < 19 else -1


def _words(change: Change | None) -> tuple[str, str]:
    """Return the kind of a change's targets, and its option."""
    match change:
        case SetPause():
            return change.kind, "" if change.for_ms is None else str(change.for_ms)
        case ClearPause():
            return change.kind, ""
        case RevokeTasks():
            return "", "terminate" if change.terminate else ""
        case SetShutdown():
            return "", change.mode
        case _:
            return "", ""
