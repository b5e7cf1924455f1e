"""Which rows of the audit a name finds."""

from __future__ import annotations

import pytest

from stem.contracts import AuditRow


@pytest.mark.parametrize(
    ("targets", "count", "option", "found"),
    [
        (["t-1"], 1, "", False),
        (["t-1", "mail"], 2, "", True),
        (["t-1"], 200, "", True),
        (["t-1"], 1, "--queue mail", True),
        (["t-1"], 1, "--queue web --task mail", True),
        (["t-1"], 1, "mail", False),
    ],
)
def test_a_name_finds_what_may_have_named_it(targets: list[str], count: int, option: str, found: bool) -> None:
    """A row names only its first targets, and of what was chosen by queue or task it tells how."""
    row = AuditRow(id="1", at_ms=1, verb="replay", targets=targets, count=count, option=option)

    assert row.fits(verb=None, actor=None, target="mail") is found
