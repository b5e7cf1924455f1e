"""Running programs the way a person does, and reading what they print."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
_LOGIN: Final = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"


def program(name: str) -> str:
    """Return the path of an installed program, such as `stemctl`."""
    return str(BIN / name)


def environment(**settings: str) -> dict[str, str]:
    """Return an environment without the caller's STEM_* settings, with these, and with this Python's programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", **settings}


def run(
    command: Sequence[str], *, env: Mapping[str, str], folder: Path = ROOT, timeout: float = 25
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )


class Program:
    """A program that runs on; its stdout and stderr can be read while it does."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._err.read_text(errors="replace")

    def await_output(self, text: str, *, timeout: float = 15) -> None:
        """Return when it has printed `text`.

        Raises:
            AssertionError: it has not in time, or the program ended before.
        """
        self._await(lambda: text in self.output, text, timeout)

    def await_error(self, text: str, *, timeout: float = 15) -> None:
        """Return when it has written `text` to stderr; otherwise as `await_output`."""
        self._await(lambda: text in self.errors, text, timeout)

    def _await(self, there: Callable[[], bool], text: str, timeout: float) -> None:
        def happened() -> bool:
            if there():
                return True
            assert self.alive, f"ended with {self._process.returncode}: {self.output}{self.errors}"
            return False

        wait_until(happened, timeout, what=f"{text!r} to be written")

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = 20) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(number)
        return self.ended(timeout=timeout)

    def ended(self, *, timeout: float = 20) -> int:
        """Wait for its end and return the exit code."""
        return self._process.wait(timeout)


@contextmanager
def running(command: Sequence[str], *, env: Mapping[str, str], folder: Path = ROOT) -> Iterator[Program]:
    """Start a program, and kill it at the end if it still runs."""
    with tempfile.TemporaryDirectory(prefix="stem-run-") as logs:
        out, err = Path(logs, "out"), Path(logs, "err")
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=to_out, stderr=to_err
            )
        try:
            yield Program(process, out, err)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


class Terminal:
    """A program that runs at a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self._process = process
        self._fd = fd
        self._seen = b""

    @property
    def seen(self) -> str:
        """Everything it wrote so far, escape sequences included."""
        return self._seen.decode(errors="replace")

    def read(self, timeout_s: float) -> bool:
        """Read what is there; False if nothing came in time, or the program has closed its end."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return False
        try:
            chunk = os.read(self._fd, 65_536)
        except OSError:  # Linux says EIO when the other end is closed
            return False
        self._seen += chunk
        return bool(chunk)

    def await_text(self, text: str, *, timeout: float = 20) -> None:
        """Return when it has written `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} was not written: {self.seen[-3000:]!r}"
            if not self.read(0.1):
                assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.seen[-3000:]!r}"

    def await_quiet(self, *, timeout: float = 20) -> None:
        """Return when it has written something and then nothing for 0.3 s."""
        deadline = time.monotonic() + timeout
        while self.read(0.3) or not self._seen:
            assert time.monotonic() < deadline, f"it never rests: {self.seen[-3000:]!r}"

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait(self, timeout: float = 20) -> int:
        """Return its exit code; reads on meanwhile, so that it is not held up by a full terminal."""
        deadline = time.monotonic() + timeout
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen[-3000:]!r}"
            self.read(0.05)
        while self.read(0.0):
            pass
        return self._process.returncode


@contextmanager
def at_terminal(
    command: Sequence[str], *, env: Mapping[str, str], folder: Path = ROOT, columns: int = 120
) -> Iterator[Terminal]:
    """Start a program at a terminal, and kill it at the end if it still runs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {**env, "TERM": "xterm-256color"}
    # The terminal must be the program's own, or Ctrl-C is only a character.
    own = [sys.executable, "-I", "-S", "-c", _LOGIN, *command]
    process = subprocess.Popen(own, cwd=folder, env=settings, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
