"""How things look: every state is a glyph, a word and a colour; colours go by meaning. Pure, knows no widget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from rich.style import Style


class Cell(NamedTuple):
    """A piece of text and what it means: a name in the palette."""

    text: str
    tone: str = "text"


class Sign(NamedTuple):
    """How a state is shown."""

    glyph: str
    word: str
    tone: str

    @property
    def cell(self) -> Cell:
        return Cell(f"{self.glyph} {self.word}", self.tone)


WORKER: Final = {
    "lost": Sign("✖", "lost", "bad"),
    "wedged": Sign("✖", "wedged", "bad"),
    "deaf": Sign("!", "deaf", "bad"),
    "late": Sign("!", "late", "warn"),
    "draining": Sign("◌", "drain", "warn"),
    "busy": Sign("■", "busy", "ok"),
    "healthy": Sign("✓", "up", "ok"),
    "stopped": Sign("·", "stopped", "dim"),
    "paused": Sign("‖", "paused", "warn"),
    "starting": Sign("◌", "start", "dim"),
}
"""In the order of how much they matter."""

TASK: Final = {
    "queued": Sign("·", "queued", "text"),
    "scheduled": Sign("◷", "scheduled", "text"),
    "running": Sign("▶", "running", "accent"),
    "retrying": Sign("↻", "retrying", "warn"),
    "held": Sign("‖", "held", "warn"),
    "dead": Sign("✗", "dead", "bad"),
    "succeeded": Sign("✓", "ok", "ok"),
    "failed": Sign("✗", "failed", "bad"),
    "revoked": Sign("⊘", "revoked", "dim"),
    "expired": Sign("◌", "expired", "dim"),
}
QUEUE: Final = {
    "paused": Sign("‖", "paused", "warn"),
    "idle": Sign("!", "no worker", "warn"),
    "run": Sign("▶", "run", "ok"),
}
LINK: Final = {
    "CONNECTING": Sign("◌", "CONNECTING", "warn"),
    "LIVE": Sign("●", "LIVE", "ok"),
    "STALE": Sign("!", "STALE", "warn"),
    "DOWN": Sign("✖", "DOWN", "bad"),
    "FATAL": Sign("✖", "FATAL", "bad"),
    "RESYNC": Sign("↻", "RESYNC", "warn"),
}
EVENT: Final = {
    "succeeded": Sign("✓", "", "ok"),
    "failed": Sign("✗", "", "bad"),
    "retried": Sign("↻", "", "warn"),
    "revoked": Sign("⊘", "", "dim"),
    "expired": Sign("◌", "", "dim"),
    "started": Sign("▶", "", "dim"),
    "received": Sign("·", "", "dim"),
    "handed_back": Sign("↩", "", "warn"),
    "progress": Sign("…", "", "dim"),
    "ready": Sign("✓", "", "ok"),
    "recovered": Sign("✓", "", "ok"),
    "resumed": Sign("▶", "", "ok"),
    "paused": Sign("‖", "", "warn"),
    "stopping": Sign("◌", "", "warn"),
    "stopped": Sign("·", "", "dim"),
    "wedged": Sign("✖", "", "bad"),
    "lost": Sign("✖", "", "bad"),
    "missed": Sign("!", "", "warn"),
    "sampled": Sign("!", "", "warn"),
    "crashed": Sign("✖", "", "bad"),
    "reclaimed": Sign("↩", "", "warn"),
}
UNKNOWN: Final = Sign("?", "?", "dim")

TONES: Final = (
    "text", "dim", "faint", "strong", "accent", "ok", "warn", "bad", "rule", "title", "head", "key", "cursor",
    "cursor_off", "stale", "back", "raised",
)  # fmt: skip

PALETTES: Final[dict[str, dict[str, str]]] = {
    "stem-dark": {
        "text": "#c5cdd6", "dim": "#7d8894", "faint": "#4a545f", "strong": "bold #e6ebf0", "accent": "#7ab7ff",
        "ok": "#6fb8d8", "warn": "#e3a857", "bad": "#f4776b", "rule": "#2f3944", "title": "bold #9fc4ec",
        "head": "#67727e", "key": "bold #7ab7ff", "cursor": "on #1f3246", "cursor_off": "on #19222c",
        "stale": "#5c6670", "back": "#0f1419", "raised": "#171e26",
    },
    "stem-light": {
        "text": "#24292f", "dim": "#6a737d", "faint": "#b4bcc4", "strong": "bold #0b0f14", "accent": "#0757b8",
        "ok": "#1f6f9c", "warn": "#9a5b00", "bad": "#c0271d", "rule": "#d3dae1", "title": "bold #0757b8",
        "head": "#7b858f", "key": "bold #0757b8", "cursor": "on #d6e6f8", "cursor_off": "on #e9eef3",
        "stale": "#a0a8b0", "back": "#fbfcfd", "raised": "#eef2f5",
    },
    "stem-deut": {
        "text": "#d2d6da", "dim": "#8a929a", "faint": "#535b63", "strong": "bold #ffffff", "accent": "#56b4e9",
        "ok": "#56b4e9", "warn": "#f0e442", "bad": "bold #e69f00", "rule": "#363e46", "title": "bold #56b4e9",
        "head": "#7a828a", "key": "bold #56b4e9", "cursor": "on #20384a", "cursor_off": "on #1b242c",
        "stale": "#646c74", "back": "#101418", "raised": "#182028",
    },
    "stem-contrast": {
        "text": "#ffffff", "dim": "#d0d0d0", "faint": "#8a8a8a", "strong": "bold #ffffff", "accent": "bold #7fd4ff",
        "ok": "#7fd4ff", "warn": "bold #ffd166", "bad": "bold #ff8080", "rule": "#a0a0a0", "title": "bold #ffffff",
        "head": "#e0e0e0", "key": "bold #ffd166", "cursor": "on #004a8f", "cursor_off": "on #303030",
        "stale": "#a0a0a0", "back": "#000000", "raised": "#141414",
    },
    # The terminal's own colours, for whoever has chosen them with care.
    "ansi": {
        "text": "default", "dim": "bright_black", "faint": "bright_black", "strong": "bold", "accent": "blue",
        "ok": "cyan", "warn": "yellow", "bad": "bold red", "rule": "bright_black", "title": "bold blue",
        "head": "bright_black", "key": "bold blue", "cursor": "reverse", "cursor_off": "underline",
        "stale": "bright_black", "back": "default", "raised": "default",
    },
    # NO_COLOR: weight and reverse only.
    "mono": {
        "text": "", "dim": "dim", "faint": "dim", "strong": "bold", "accent": "bold", "ok": "", "warn": "bold",
        "bad": "bold", "rule": "dim", "title": "bold", "head": "dim", "key": "bold", "cursor": "reverse",
        "cursor_off": "underline", "stale": "dim", "back": "default", "raised": "default",
    },
}  # fmt: skip

# One character for one, so that no column moves.
_ASCII: Final = str.maketrans(
    {
        "✓": "+", "✗": "x", "✖": "X", "■": "#", "◌": "o", "‖": "=", "↻": "~", "⊘": "/", "▶": ">", "●": "*", "◷": "@",
        "↩": "<", "▸": ">", "█": "#", "░": ".", "▌": "|", "─": "-", "│": "|", "…": "~", "·": ".", "–": "-", "×": "x",
        "▲": "^", "▼": "v", "▁": "_", "▂": "_", "▃": ".", "▄": "-", "▅": "-", "▆": "=", "▇": "#", "→": ">", "↵": ">",
        "□": ".", "⏎": ">",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """What this terminal shall get."""

    palette: str = "stem-dark"
    ascii: bool = False

    def style(self, tone: str) -> Style:
        """Return the style of a tone; an unknown one is plain text."""
        return _style(self.palette, tone)

    def text(self, text: str) -> str:
        """Return text as this terminal can show it."""
        if not self.ascii or text.isascii():
            return text
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


@lru_cache(maxsize=256)
def _style(palette: str, tone: str) -> Style:
    tones = PALETTES[palette]
    return Style.parse(tones.get(tone, tones["text"]))


def event_sign(kind: str) -> Sign:
    """Return how a kind of event is shown."""
    return EVENT.get(kind.rpartition(".")[2], UNKNOWN)
