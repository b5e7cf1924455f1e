"""One child process as its worker sees it: started, talked to, killed with its whole group, and reaped.

Knows nothing of tasks: messages go in and out, and an end is told once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Final

from stem.errors import DecodeError
from stem.messages.codec import Fields
from stem.text import clean
from stem.worker.wire import Inbox, frame

READ_BYTES: Final = 256 * 1024
SILENT_S: Final = 1.0
STACK_KEPT: Final = 16_000
STACK_TOO_LONG: Final = 1_000_000


class ChildProcess:
    """A child process in a process group of its own. Belongs to the work loop; `kill`, `alive`, `ask_stack` and
    `read_stack` may be called from any thread.

    Must be made on the thread that lives as long as the worker: the kernel ends a child with the thread that made it.

    Args:
        heard: called with each message.
        ended: called once, when the process is gone and reaped.

    Raises:
        OSError: the system gives no more processes, files or memory.
    """

    def __init__(
        self,
        app: str,
        loop: asyncio.AbstractEventLoop,
        *,
        heard: Callable[[ChildProcess, Fields], None],
        ended: Callable[[ChildProcess], None],
    ) -> None:
        self._loop = loop
        self._heard = heard
        self._ended = ended
        self._inbox = Inbox()
        self._unsent = bytearray()
        self._guard = threading.Lock()
        self._reaped = False
        self._life = -1
        self._pidfd = -1
        self.exit_code: int | None = None
        """Once it has ended; negative is a signal."""
        self.complaint = ""
        """Why it was ended from here, when it did not behave."""
        self.started_at = time.monotonic()
        self._stack = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process is reaped
        self._socket, theirs = socket.socketpair()
        life_end, self._life = os.pipe()
        try:
            self._process = self._spawn(app, theirs.fileno(), life_end)
        except BaseException:
            self._close_files()
            raise
        finally:
            theirs.close()
            os.close(life_end)
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._readable)
        self._watch()

    def _spawn(self, app: str, link: int, life_end: int) -> subprocess.Popen[bytes]:
        stack = self._stack.fileno()
        # Both sides write and cut it: always at its end, wherever that is.
        fcntl.fcntl(stack, fcntl.F_SETFL, fcntl.fcntl(stack, fcntl.F_GETFL) | os.O_APPEND)
        fds = (link, life_end, stack)
        command = [sys.executable, "-m", "stem.worker.child", app, ",".join(map(str, fds)), str(os.getpid())]
        # Never a bare fork: this process has threads, connections and locks.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds, process_group=0)

    def __repr__(self) -> str:
        return f"<ChildProcess {self.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    # -------------------------------------------------------------------------------------------------- the work loop

    def send(self, message: bytes) -> None:
        """Send a message; it waits here while the child does not read."""
        if self.exit_code is None:
            waiting = bool(self._unsent)
            self._unsent += message
            if not waiting:
                self._flush()

    def end(self, grace_s: float) -> None:
        """Tell it and its group to end now, and kill them if they have not after the grace."""
        self.send(frame("end"))
        self._signal(signal.SIGTERM)
        self._loop.call_later(grace_s, self.kill)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has ended; whoever waits is told when it is reaped
            self._unsent.clear()
            sent = 0
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._flush)
        else:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        if not self._read():
            self._loop.remove_reader(self._socket)
            self._loop.call_later(SILENT_S, self._gone_silent)  # most often it is ending, and is reaped in a moment

    def _read(self) -> bool:
        """Take what has arrived; False at the end of it."""
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        try:
            for message in self._inbox.feed(data):
                self._heard(self, message)
        except DecodeError as error:
            self._misbehaved(clean(error, 200))
            return False
        return True

    def _gone_silent(self) -> None:
        if self.exit_code is None:
            self._misbehaved("it closed its connection")

    def _misbehaved(self, how: str) -> None:
        self.complaint = self.complaint or how
        self.kill()

    # ------------------------------------------------------------------------------------------------------ its end

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not on this system
            threading.Thread(target=self._wait, name=f"stem-child-{self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._exited)

    def _wait(self) -> None:
        self._process.wait()
        try:
            self._loop.call_soon_threadsafe(self._exited)
        except RuntimeError:
            return  # the loop is closed: nobody is left to be told

    @property
    def over(self) -> bool:
        """It has ended, also where nobody was told of it yet."""
        if self.exit_code is not None:
            return True
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    def _exited(self) -> None:
        if self.exit_code is not None:
            return
        # Before it is reaped its number is its own: what it started in its group goes with it, and nobody else does.
        self.kill()
        with self._guard:
            self._reaped = True
            self.exit_code = self._process.wait()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
        # Its last words may lie there unread: a result that it sent counts.
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        while self._has_more() and self._read():
            pass
        self._close_files(stack=False)
        self._ended(self)
        self._stack.close()

    def _has_more(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _close_files(self, *, stack: bool = True) -> None:
        self._socket.close()
        for fd in (self._life, self._pidfd):
            if fd >= 0:
                os.close(fd)
        if stack:
            self._stack.close()

    # ------------------------------------------------------------------------------------------------------ any thread

    def kill(self) -> None:
        """Kill it and its group now."""
        self._signal(signal.SIGKILL)

    def alive(self) -> bool:
        """Say whether it has not ended."""
        with self._guard:
            return not self._reaped and self._still_runs()

    def ask_stack(self) -> None:
        """Let it write where it is; `read_stack` has it a moment later."""
        with self._guard:
            if not self._reaped and os.fstat(self._stack.fileno()).st_size > STACK_TOO_LONG:
                os.ftruncate(self._stack.fileno(), 0)
        self._signal(signal.SIGUSR1, group=False)

    def stack_size(self) -> int:
        """Return how much it has written, as the place to read from."""
        try:
            return os.fstat(self._stack.fileno()).st_size
        except (OSError, ValueError):
            return 0

    def read_stack(self, since: int = 0) -> str:
        """Return what it wrote about its threads from there on."""
        try:
            size = self.stack_size()
            start = max(since if since <= size else 0, size - STACK_KEPT)
            return os.pread(self._stack.fileno(), STACK_KEPT, start).decode(errors="replace")
        except (OSError, ValueError):
            return ""

    def _still_runs(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        except (AttributeError, ChildProcessError):
            return self._process.returncode is None

    def _signal(self, number: int, *, group: bool = True) -> None:
        with self._guard:
            if self._reaped:
                return
            try:
                if group:
                    os.killpg(self.pid, number)
                else:
                    os.kill(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return  # it is on its way out
