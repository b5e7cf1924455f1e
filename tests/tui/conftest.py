"""The dashboard without a terminal: a fixed clock, a state set by hand, and text that can be read in a review."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import textual._wait

from stem_tui import app

LOOK_S: Final = 0.005
SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    # The pilot looks three times a key whether the app is at work still, and sleeps before each look.
    monkeypatch.setattr(textual._wait, "SLEEP_GRANULARITY", LOOK_S)
    # What the app freezes nobody collects, and so nobody would hear what a test left; test_work.py asks for it itself.
    monkeypatch.setattr(app, "EVERY_S", 3_600.0)


@pytest.fixture
def same_text(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with the file of this name; `STEM_SNAPSHOTS=write` writes the files anew, to review the diff."""

    def compare(name: str, text: str) -> None:
        path = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("STEM_SNAPSHOTS") == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text + "\n", f"the picture changed: see {path}"

    return compare
