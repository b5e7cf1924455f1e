"""The far end of a pseudo terminal: reads all the time, as a terminal does, and knows when which byte arrived."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from typing import Final

COLUMNS: Final = 160
LINES: Final = 45
_SYNC_ASKED: Final = b"\x1b[?2026$p"
_SYNC_YES: Final = b"\x1b[?2026;2$y"


class Terminal:
    """Runs a command in a terminal of 160x45. Use it in a `with`."""

    def __init__(self, command: Sequence[str], **env: str) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEM_", "SSH_", "NO_COLOR"))}
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONUTF8": "1", **env},
            start_new_session=True,
        )
        os.close(follower)
        self.arrivals: list[tuple[int, float]] = []
        """How many bytes had arrived in all, and when."""
        self._recent = b""
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._thread.join(10)
        os.close(self._leader)

    def press(self, keys: str) -> float:
        """Press keys; return when."""
        at_s = time.monotonic()
        os.write(self._leader, keys.encode())
        return at_s

    def forget(self) -> None:
        """From now on `saw` means what comes after this."""
        with self._changed:
            self._recent = b""

    def saw(self, words: str, timeout_s: float = 20.0) -> float:
        """Wait until these words have been written since `forget`; return when they had.

        Raises:
            RuntimeError: not in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: words.encode() in self._recent, timeout_s):
                raise RuntimeError(f"{words!r} was not drawn within {timeout_s:g} s: {self._recent[-500:]!r}")
            return self.arrivals[-1][1]

    def when(self, size: int) -> float | None:
        """Return when so many bytes had arrived in all; None if they have not."""
        return next((at_s for arrived, at_s in self.arrivals if arrived >= size), None)

    def _read(self) -> None:
        total = 0
        while not self._ended.is_set():
            ready, _, _ = select.select([self._leader], [], [], 0.1)
            if not ready:
                continue
            try:
                got = os.read(self._leader, 65_536)
            except OSError:
                return
            if _SYNC_ASKED in got:
                os.write(self._leader, _SYNC_YES)
            total += len(got)
            with self._changed:
                self.arrivals.append((total, time.monotonic()))
                self._recent = (self._recent + got)[-200_000:]
                self._changed.notify_all()
