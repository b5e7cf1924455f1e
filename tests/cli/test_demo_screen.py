"""Where `stemctl demo` opens a dashboard."""

from __future__ import annotations

import io
import sys

import pytest

from stem.streams import can_draw


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("redirected", "term", "can"),
    [
        ("", "xterm", True),
        ("", "dumb", False),
        ("stdin", "xterm", False),
        ("stdout", "xterm", False),
        ("stderr", "xterm", False),
    ],
)
def test_a_dashboard_needs_three_streams_and_a_screen(
    redirected: str, term: str, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO() if name == redirected else Screen())
    monkeypatch.setenv("TERM", term)

    assert can_draw() is can
