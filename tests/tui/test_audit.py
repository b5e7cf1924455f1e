"""The Audit screen says who commanded what, and shows no text as anything but text."""

from __future__ import annotations

import pytest

from stem.contracts import AuditRow
from stem.control.controller import Controller
from stem.messages.audit import AuditItem, AuditOutcome
from stem_tui import reader
from stem_tui.audit import AUDIT, audit_lines, line_of
from tests.observe.builders import NOW
from tests.tui.still import text_of
from tests.tui.test_deeds import app_over, stocked
from tests.waiting import eventually

HOSTILE = "\x1b]0;owned\x07\u202e[/red]\n"


def test_a_row_says_who_what_and_how_it_ended() -> None:
    line = line_of(
        AuditRow(
            id="1-0", at_ms=NOW, verb="pause", kind="queue", option="600000", actor="ana@bastion", reason="month",
            targets=["reports"], count=1, ended_at_ms=NOW + 40,
            outcome=AuditOutcome(verdict="applied", counts={"set": 1}, expected=2, applied=2),
        )
    )  # fmt: skip

    text = " ".join(column.cell(line, NOW).text for column in AUDIT.columns)

    assert "ana@bastion pause queue for 600 s reports ✓ applied" in text
    assert "2 of 2 workers" in text
    assert text.endswith("month")


def test_without_an_outcome_nobody_said_how_it_ended() -> None:
    line = line_of(AuditRow(id="1-0", at_ms=NOW, verb="shutdown", option="hard"))

    assert "? not told" in " ".join(column.cell(line, NOW).text for column in AUDIT.columns)
    assert "all" in line.targets


def test_no_field_of_a_row_can_move_a_cursor() -> None:
    outcome = AuditOutcome(
        verdict="failed", counts={HOSTILE: 1}, silent=[HOSTILE], items=[AuditItem(target=HOSTILE, error=HOSTILE)]
    )
    line = line_of(
        AuditRow(id="1-0", at_ms=NOW, verb=HOSTILE, kind=HOSTILE, option=HOSTILE, actor=HOSTILE, reason=HOSTILE,
                 targets=[HOSTILE], count=1, outcome=outcome)
    )  # fmt: skip

    cells = [column.cell(line, NOW) for column in AUDIT.columns]
    cells += [cell for cells in audit_lines(line, 80) for cell in cells]

    assert all(cell.text.isprintable() for cell in cells)


async def test_a_longer_audit_says_that_not_all_of_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "0 of 3" would say that nobody called so ever commanded anything."""
    monkeypatch.setattr(reader, "AUDIT_ROWS", 3)
    broker, made = await stocked("t-1")
    boss = Controller(broker, actor="ana")
    for number in range(5):
        await boss.pause("queue", [f"q-{number}"])
    app = app_over(broker, made)
    async with app.run_test(size=(160, 30)) as pilot:
        await app.switch_mode("audit")
        await eventually(lambda: "3 of 5" in text_of(app))

        assert "older ones: stemctl audit ls" in text_of(app)
        await pilot.press("slash", *"bob", "enter")
        await eventually(lambda: "/bob  0 of 3 listed" in text_of(app))
