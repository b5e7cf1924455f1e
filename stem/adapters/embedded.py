"""A real Valkey server on a unix socket, started and shared by the processes of one project.

For trying, developing and testing; it knows nothing of brokers, it only hands out a URL. A user is whoever holds an
`EmbeddedServer`: the first one starts the server, the last one stops it. What a `kill -9` leaves behind is a running
server without users: the next user shares it, and `stemctl embedded stop` ends it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from stem.adapters.embedded_home import EmbeddedStatus as EmbeddedStatus
from stem.adapters.embedded_home import Home, is_held

FOLDER: Final = ".stem"
PROJECT_MARKS: Final = ("pyproject.toml", ".git")
TIMEOUT_S: Final = 30.0


def resolve_folder(start: Path | str | None = None) -> Path:
    """Return the `.stem` folder of the project around `start` (default: the current directory); it may not exist yet.

    The nearest one upwards that this user owns; else beside the nearest `pyproject.toml` or `.git`; else right here.
    Symlinks and other people's folders are not followed: whoever can write above us must not choose our server.
    """
    here = Path(start or Path.cwd()).resolve()
    places = (here, *here.parents)
    for place in places:
        with suppress(OSError):
            found = (place / FOLDER).lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                return place / FOLDER
    for place in places:
        if any((place / mark).exists() for mark in PROJECT_MARKS):
            return place / FOLDER
    return here / FOLDER


class EmbeddedServer:
    """One user's hold on the server of a folder: as long as it is not released, the server is not stopped.

    Safe to release twice and from any thread. A process may have several. A hold that is still there when the
    interpreter ends is released then.

    Attributes:
        url: where the server is: `unix://` and the quoted path of its socket.
        folder: the absolute path of its files.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._pid = os.getpid()
        self._guard = threading.RLock()  # as that of stem.adapters.connect
        self._released = False
        self.url = home.url()
        self.folder = home.path
        atexit.register(self.release)

    @classmethod
    def acquire(cls, folder: Path | str | None = None, *, timeout_s: float = TIMEOUT_S) -> EmbeddedServer:
        """Share the folder's server, starting it if none runs. Blocks: call it in a thread from an event loop.

        Args:
            folder: holds the server's files and is made if missing; default `resolve_folder()`.
            timeout_s: for everything: waiting for others who start or stop it, starting, loading its data.

        Raises:
            ConfigError: no server for this platform, or a folder that cannot be used; says why.
            BrokerUnreachableError: it does not start or does not answer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            home = Home(_chosen(folder), create=True)
            try:
                with home.gate(deadline):
                    if home.stands():
                        home.ensure(deadline)
                        # Only who stops the server takes this exclusively, and only behind the gate.
                        fcntl.flock(home.users, fcntl.LOCK_SH)
                        return cls(home)
            except BaseException:
                home.close()
                raise
            # Somebody deleted or moved the folder while we waited: what we locked is not what others will find.
            home.close()

    def ensure(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Start the server again, on the same socket and data, if it has crashed.

        Raises:
            BrokerUnreachableError: it does not start or does not answer.
        """
        deadline = time.monotonic() + timeout_s
        with self._guard, self._home.gate(deadline):
            self._home.ensure(deadline)

    def release(self) -> None:
        """Give the hold back; the last one to do so stops the server, unless it was started to be kept."""
        with self._guard:
            # A forked child shares the lock with its parent: it has nothing of its own to give back.
            if self._released or os.getpid() != self._pid:
                return
            self._released = True
            atexit.unregister(self.release)
            try:
                with self._home.gate(time.monotonic() + TIMEOUT_S):
                    fcntl.flock(self._home.users, fcntl.LOCK_UN)
                    if not is_held(self._home.users) and self._home.record().get("keep") is not True:
                        self._home.stop()
            finally:
                self._home.close()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @staticmethod
    def start(folder: Path | str | None = None) -> EmbeddedStatus:
        """Start the folder's server, or take the running one, and keep it after its last user, until `stop`.

        Raises:
            ConfigError, BrokerUnreachableError: as `acquire`.
        """
        with EmbeddedServer.acquire(folder) as held, held._home.gate(time.monotonic() + TIMEOUT_S):
            held._home.write_record({**held._home.record(), "keep": True})
        return EmbeddedServer.status(held.folder)

    @staticmethod
    def status(folder: Path | str | None = None) -> EmbeddedStatus:
        """Say what runs there; starts and stops nothing.

        Raises:
            ConfigError: the folder is not one that Stem would use.
        """
        path = _chosen(folder)
        try:
            home = Home(path, create=False)
        except FileNotFoundError:
            return EmbeddedStatus(folder=path, running=False)
        try:
            with home.gate(time.monotonic() + TIMEOUT_S):
                return home.status()
        finally:
            home.close()

    @staticmethod
    def stop(folder: Path | str | None = None, *, force: bool = False) -> Literal["stopped", "not-running", "in-use"]:
        """Stop the folder's server, whatever started it; what it stored stays.

        Args:
            force: also while processes use it; otherwise the answer is `in-use` and nothing happens.

        Raises:
            ConfigError: the folder is not one that Stem would use.
            BrokerUnreachableError: it survived every attempt.
        """
        try:
            home = Home(_chosen(folder), create=False)
        except FileNotFoundError:
            return "not-running"
        try:
            with home.gate(time.monotonic() + TIMEOUT_S):
                running = home.running()
                if running and not force and is_held(home.users):
                    return "in-use"
                home.stop()
                return "stopped" if running else "not-running"
        finally:
            home.close()


def _chosen(folder: Path | str | None) -> Path:
    if folder is None:
        return resolve_folder()
    path = Path(os.path.abspath(folder))
    # Whatever symlinks lead here, everybody must come to the same folder; the folder itself must not be one.
    return path.parent.resolve() / path.name
