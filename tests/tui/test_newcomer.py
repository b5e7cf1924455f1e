"""Somebody who has never seen the dashboard, from `make demo` to five things done, by keys that the screen shows."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

import pytest

from tests.flow.running import program
from tests.tui.terminal import Terminal
from tests.waiting import wait_until

MOST_PRESSES: Final = 40
PATIENCE_S: Final = 60.0
SETTLED_S: Final = 10.0
"""By then a key that was pressed is seen on the screen, also on a busy machine."""
GONE: Final = r"nothing \(any more\)"


class Newcomer:
    """Presses a key only where the screen, or the help that was opened, has said what it does."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._read: list[str] = []
        self.presses = 0

    @property
    def screen(self) -> str:
        return self._terminal.text

    def wait(self, pattern: str) -> re.Match[str]:
        """Look at the screen until it says this."""
        found: re.Match[str] | None = None
        notices: dict[str, None] = {}

        def said() -> bool:
            nonlocal found
            screen = self.screen
            notices.update(dict.fromkeys(line.strip() for line in screen.splitlines()[-2:-1]))
            found = re.search(pattern, screen)
            return found is not None

        try:
            wait_until(said, timeout=PATIENCE_S)
        except AssertionError:
            told = "\n".join([f"after {self.presses} presses it never said {pattern!r}, but:", *notices, self.screen])
            raise AssertionError(told) from None
        assert found is not None
        return found

    def read(self) -> None:
        """Remember what this page says."""
        self._read.append(self.screen)

    def press(self, keys: str, *, shown: str) -> None:
        """Press these keys, which `shown` stands for on the screen or on a page that was read."""
        pattern = r"\s+".join(re.escape(word) for word in shown.split())
        assert any(re.search(pattern, page) for page in (self.screen, *self._read)), f"{shown!r} is not shown anywhere"
        self.presses += 1
        self._terminal.press(keys)

    def type(self, word: str) -> None:
        """Type a word that the screen asks for, a press a letter."""
        assert word in self.screen
        self.presses += len(word)
        self._terminal.press(word)


def close(new: Newcomer) -> None:
    """Close the panel with the answers, where one stands: a worker that has not answered yet is named there."""
    if "esc close" in new.screen:
        new.press("\x1b", shown="esc close")
        # A key right behind esc would be read as one with alt.
        wait_until(lambda: "esc close" not in new.screen, timeout=PATIENCE_S)


def to_the_refused_cards(new: Newcomer) -> None:
    """Move to the failure that stays one: the other kind may succeed meanwhile.

    Either of them may stand first, and they may change places between the look and the press.
    """
    refused = r"▸ ✗ payment\.charge +PermissionError"
    new.wait(r"▸ ✗ payment\.charge +\w+Error")
    for _ in range(3):
        rows = re.findall(r"(.) ✗ payment\.charge +(\w+)Error", new.screen)
        here, there = (row.index(mark) for row, mark in zip(zip(*rows, strict=True), ("▸", "Permission"), strict=True))
        if here == there:
            return
        key, shown = ("j", "j ↓ Down") if here < there else ("k", "k ↑ Up")
        new.press(key, shown=shown)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: re.search(refused, new.screen), timeout=SETTLED_S)
            return
    new.wait(refused)


def to_the_wedged(new: Newcomer) -> None:
    """Move to the worker that is stuck; the one that was killed may come to stand before it at any moment."""
    presses = new.presses
    for _ in range(3):
        new.presses = presses
        new.press("g", shown="g f First")
        if new.wait(r"▸ demo-\d +\S (\w+)")[1] == "lost":
            new.press("j", shown="j ↓ Down")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: re.search(r"▸ demo-\d +✖ wedged", new.screen), timeout=SETTLED_S)
            return
    new.wait(r"▸ demo-\d +✖ wedged")


def open_the_first(new: Newcomer) -> None:
    """Open the first task that failed: one that is being tried again leaves the list, and may have been alone in it."""
    presses = new.presses
    for _ in range(5):
        new.presses = presses
        new.wait(r"▸ \S+ \w+ +payment\.charge")
        wait_until(lambda: not re.search(GONE, new.screen), timeout=PATIENCE_S)  # what was said of the one before
        new.press("\r", shown="⏎ Open")
        if not re.fullmatch(GONE, new.wait(rf"in charge_payment(?s:.*)PermissionError: order|{GONE}")[0]):
            return
    raise AssertionError(f"five times the list was empty when enter came:\n{new.screen}")


def terminate(new: Newcomer) -> None:
    """Terminate the longest running task; the next one, where that one has ended before it was terminated."""
    presses = new.presses
    for _ in range(5):
        new.presses = presses
        new.press("g", shown="g f First")
        new.wait(r"▸ \S+ +[0-9a-f]{8} demo-\d +\S+ +([2-9]|\d\d)s ")
        wait_until(lambda: not re.search(GONE, new.screen), timeout=PATIENCE_S)  # what was said of the one before
        new.press("\x0b", shown="^K Terminate")
        if new.wait(rf"Terminate task|{GONE}")[0] != "Terminate task":
            continue
        new.type(new.wait(r"[Tt]ype (\w{8})")[1])
        new.press("\r", shown="⏎")
        if new.wait(rf"terminated|{GONE}")[0] == "terminated":
            return
    raise AssertionError(f"five tasks ended before they could be terminated:\n{new.screen}")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_five_things_are_found_and_done_within_forty_presses(tmp_path: Path) -> None:
    """The failing task and its traceback, the stuck worker and its stack; a pause, a terminated task, a replay.

    And the account that the demo gives in the end knows of all that.
    """
    settings = {"TMPDIR": str(tmp_path)}
    with Terminal("demo", columns=160, lines=45, program=[program("stemctl")], settings=settings) as it:
        new = Newcomer(it)
        new.wait(r"payment\.charge\s+PermissionError")
        new.press("?", shown="? Help")
        new.wait("ON A QUEUE")
        new.read()
        new.press("\x1b[6~", shown="pgdn: more")
        new.wait("EVERYWHERE")
        new.read()
        new.press("\x1b", shown="esc: back")

        # What fails stands on the first screen; behind it are its tasks, and their tracebacks.
        new.wait("FAILURES")
        new.press("\t", shown="tab Next panel")
        new.press("\t", shown="tab Next panel")
        to_the_refused_cards(new)
        new.press("\r", shown="⏎ Open")
        open_the_first(new)
        new.press("\x1b", shown="esc: back")
        new.wait(r"─ ALL [\d,]+ listed ─")

        # That one gets a new life, once it is a dead letter: its card stays bad.
        new.wait(r"▸ ✗ (dead|failed) +payment\.charge")
        new.press("R", shown="R Retry")
        new.wait("Retry task")
        new.press("y", shown="(y)")
        new.wait("is queued now")
        close(new)

        # The stuck worker, and where it is stuck.
        new.press("3", shown="3 Workers")
        new.wait(r"demo-\d +✖ wedged")
        to_the_wedged(new)
        new.press("\r", shown="⏎ Open")
        new.wait(r"state +✖ wedged")
        new.press("t", shown="t Stack")
        new.wait(r"in total_report")
        new.press("\x1b", shown="esc: back")
        new.wait("RUNNING HERE")

        # A task that runs is made to stop.
        new.press("1", shown="1 Overview")
        new.wait("LONGEST RUNNING")
        new.press("\t", shown="tab Next panel")
        terminate(new)
        close(new)

        # A queue is paused.
        new.press("2", shown="2 Queues")
        new.wait(r"▸ \S+ +▶ run")
        new.press("P", shown="P Pause")
        queue = new.wait(r"▸ (\S+) +‖ paused")[1]
        new.wait(rf"queue {queue} paused.*confirmed")
        close(new)

        assert new.presses <= MOST_PRESSES

        new.press("\x1b", shown="esc")
        it.press("\x03")
        it.process.wait(100)
        new.wait("Nothing was lost")
    assert list(tmp_path.iterdir()) == []
