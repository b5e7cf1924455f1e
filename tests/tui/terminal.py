"""A terminal with stem-tui in it: a pseudo terminal whose far end is an emulator, and what its screen says.

A picture is read by the words on it (titles of panels, heads of columns), never by fixed places.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyte

ROOT: Final = Path(__file__).resolve().parents[2]
COUNTS: Final = ("READY", "RUN", "DELAY", "RETRY", "DEAD")
Worker = tuple[str, int | None, int]
"""The word of its state, slots taken (None where the screen has a dash: nobody knows), and slots there are."""
_LEFT_OUT: Final = ("STEM_", "SSH_", "NO_COLOR", "COLUMNS", "LINES")
"""Settings of the caller that would change the picture, such as the size of his own terminal."""
_SYNC_ASKED: Final = b"\x1b[?2026$p"
_SYNC_YES: Final = b"\x1b[?2026;2$y"
_FRAME: Final = b"\x1b[?2026h"
_FRAME_END: Final = b"\x1b[?2026l"
_STATE: Final = re.compile(r"^(\S) ([a-z]+(?: worker)?)")
_NOTE: Final = re.compile(r"([\d,]+) (ready|in flight|retrying|paused|dead|up|late|wedged|lost|running)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the Overview says at one moment.

    Attributes:
        at_s: when it was read, by the monotonic clock.
        queues: per queue and column of `COUNTS` the number.
        states: per queue the word of its state: `run`, `paused`, `no worker`.
        running: the shortened ids of the tasks that run, longest first, as many as there is room for.
        notes: per panel's title the numbers in its rule, by their words.
    """

    at_s: float
    text: str
    link: str
    queues: Mapping[str, Mapping[str, int]]
    states: Mapping[str, str]
    workers: Mapping[str, Worker]
    running: tuple[str, ...]
    notes: Mapping[str, Mapping[str, int]]


class Terminal:
    """Runs stem-tui in a pseudo terminal, and reads along on a thread of its own. Use it in a `with`.

    Args:
        program: what to run instead of stem-tui.
        settings: environment variables beside the caller's.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 160,
        lines: int = 45,
        program: Sequence[str] = (sys.executable, "-m", "stem_tui"),
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._feeding = threading.Lock()
        self._shown: list[str] | None = None
        """The screen's lines as they were asked for last, None once something came since."""
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**kept, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none", "PYTHONUTF8": "1", **settings},
            cwd=ROOT,
            start_new_session=True,
        )
        os.close(follower)
        self._ended = threading.Event()
        self._reads = threading.Event()
        self._reads.set()
        self._reader = threading.Thread(target=self._read, name="terminal")
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # a program that has started others ends them
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._ended.set()
        self._reader.join(10)
        os.close(self._leader)

    def press(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def stall(self) -> None:
        """Read no more, as a terminal does after ctrl-s, or one at the far end of a dead line."""
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()

    def picture(self) -> Picture:
        """Return what an Overview says now."""
        return read(self._lines(), time.monotonic())

    @property
    def text(self) -> str:
        """The screen, whichever it is."""
        return "\n".join(line.rstrip() for line in self._lines())

    def _lines(self) -> list[str]:
        """Return the screen's lines; never half a frame."""
        with self._feeding:
            if self._shown is None:
                self._shown = list(self._screen.display)
            return self._shown

    def _read(self) -> None:
        held = b""
        while not self._ended.is_set():
            if not self._reads.wait(0.1):
                continue
            ready, _, _ = select.select([self._leader], [], [], 0.1)
            if not ready:
                continue
            try:
                got = os.read(self._leader, 65_536)
            except OSError:  # the program has closed the terminal
                return
            # Told that frames can be marked, the program marks where each begins and ends. One that has only begun
            # is kept back: a terminal that is slower than its program would hardly ever be between two of them.
            if _SYNC_ASKED in got:
                os.write(self._leader, _SYNC_YES)
            got = held + got
            begun = got.find(_FRAME, got.rfind(_FRAME_END) + 1)
            if begun < 0:
                begun = len(got) - _begins(got)
            got, held = got[:begun], got[begun:]
            if got:
                with self._feeding:
                    self._stream.feed(got)
                    self._shown = None


def _begins(got: bytes) -> int:
    """Return how many of the last bytes may be the begin of a mark that was cut in two."""
    return next((size for size in range(len(_FRAME) - 1, 0, -1) if got.endswith(_FRAME[:size])), 0)


def read(lines: list[str], at_s: float) -> Picture:
    """Return what the lines of an Overview say."""
    panels = {title: _panel(lines, title) for title in ("QUEUES", "WORKERS", "LONGEST RUNNING")}
    queues, states, workers = dict[str, dict[str, int]](), dict[str, str](), dict[str, Worker]()
    if len(panels["QUEUES"]) > 2:
        head = panels["QUEUES"][1]
        for row in panels["QUEUES"][2:]:
            if state := _STATE.match(row[_start(head, "STATE") :]):
                name = _left(row, head, "NAME", "STATE")
                states[name] = state[2]
                queues[name] = {column: _number(row, head, column) for column in COUNTS}
    if len(panels["WORKERS"]) > 2:
        head = panels["WORKERS"][1]
        for row in panels["WORKERS"][2:]:
            state = _STATE.match(row[_start(head, "STATE") :])
            slots = re.search(r"(\d+|–)/(\d+)", row[_start(head, "SLOTS") :])
            if state and slots:
                workers[_left(row, head, "NAME", "STATE")] = (
                    state[2],
                    None if slots[1] == "–" else int(slots[1]),
                    int(slots[2]),
                )
    running = list[str]()
    if len(panels["LONGEST RUNNING"]) > 2:
        head = panels["LONGEST RUNNING"][1]
        shown = (_left(row, head, "ID", "WORKER") for row in panels["LONGEST RUNNING"][2:])
        running = [each for each in shown if re.fullmatch(r"[0-9a-f]{8}", each)]
    link = re.search(r"\b(CONNECTING|LIVE|STALE|DOWN|RESYNC)\b", lines[0])
    notes = {title: _note(panel[0]) for title, panel in panels.items() if panel}
    return Picture(
        at_s=at_s,
        text="\n".join(line.rstrip() for line in lines),
        link=link[1] if link else "",
        queues=queues,
        states=states,
        workers=workers,
        running=tuple(running),
        notes=notes,
    )


def _panel(lines: list[str], title: str) -> list[str]:
    """Return the rule, the heads and the rows of one panel, cut out of what stands beside it."""
    for top, line in enumerate(lines):
        found = re.search(rf"─ {title}(?: [\d,]+)? ─+(?: [^─]+ ─)?(?=\s|$)", line)
        if found:
            left, right = found.span()
            cut = [each[left:right] for each in lines[top:]]
            ends = (at for at, each in enumerate(cut[1:], 1) if each.startswith("─"))
            return cut[: next(ends, len(cut))]
    return []


def _start(head: str, column: str) -> int:
    found = re.search(rf"(?<!\S){column}(?!\S)", head)
    assert found, f"no column {column} in {head!r}"
    return found.start()


def _left(row: str, head: str, column: str, following: str) -> str:
    return row[_start(head, column) : _start(head, following)].strip()


def _number(row: str, head: str, column: str) -> int:
    """Return the number that ends under the last letter of its column's head."""
    found = re.search(r"([\d,]+)$", row[: _start(head, column) + len(column)])
    assert found, f"no number under {column} in {row!r}"
    return int(found[1].replace(",", ""))


def _note(rule: str) -> dict[str, int]:
    return {word: int(number.replace(",", "")) for number, word in _NOTE.findall(rule)}
