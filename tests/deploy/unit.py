"""deploy/stem-worker@.service as systemd reads it: which process it makes, how it stops it, when it starts it again."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stem.config import parse_duration
from tests.flow.running import BIN, ROOT
from tests.waiting import wait_until

UNIT: Final = ROOT / "deploy" / "stem-worker@.service"
SAMPLE: Final = ROOT / "deploy" / "stem-worker.env"
_CONFINED: Final = Path(__file__).with_name("confined.py")
_CLEAN: Final = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE})
"""Signals that systemd takes for a clean end."""


class Unit:
    """The unit file, instantiated, with its folders below `root` and the programs of this environment in its venv."""

    def __init__(self, instance: str, root: Path, *, bin_folder: Path = BIN) -> None:
        self.instance = instance
        self.root = root
        self._settings: dict[str, list[str]] = defaultdict(list)
        specifiers = {"%i": instance, "%l": socket.gethostname().partition(".")[0], "%%": "%"}
        for line in UNIT.read_text().splitlines():
            if line and line[0] not in "#;[":
                name, _, value = line.partition("=")
                value = re.sub(r"%.", lambda found: specifiers[found[0]], value)
                for folder in ("/opt/stem", "/etc/stem"):
                    value = value.replace(folder, f"{root}{folder}")
                self._settings[name].append(value)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.environment_file.parent.mkdir(parents=True, exist_ok=True)
        venv = Path(self.command_words[0]).parents[1]
        venv.mkdir(exist_ok=True)
        if not (venv / "bin").exists():
            (venv / "bin").symlink_to(bin_folder)
        self.state_folder = root / "var/lib" / self.one("StateDirectory")
        self.state_folder.mkdir(parents=True, exist_ok=True)

    def one(self, name: str) -> str:
        (value,) = self._settings[name]
        return value

    def all(self, name: str) -> list[str]:
        return self._settings[name]

    @property
    def folder(self) -> Path:
        return Path(self.one("WorkingDirectory"))

    @property
    def environment_file(self) -> Path:
        return Path(self.one("EnvironmentFile"))

    @property
    def command_words(self) -> list[str]:
        return self.one("ExecStart").split()

    @property
    def stop_s(self) -> float:
        return parse_duration(self.one("TimeoutStopSec"), name="TimeoutStopSec")

    def environment(self) -> dict[str, str]:
        """Return the environment of its process: nothing of the caller's."""
        user = self.one("User")
        base = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        base |= {"HOME": f"/home/{user}", "USER": user, "LOGNAME": user, "SHELL": "/bin/sh"}
        base |= {"STATE_DIRECTORY": str(self.state_folder)}
        own = dict(line.split("=", 1) for line in self.all("Environment"))
        return base | own | read_environment_file(self.environment_file)

    def command(self) -> list[str]:
        """Return the command line: `${NAME}` is one word, `$NAME` is split at white space and may vanish."""
        environment, words = self.environment(), []
        for word in self.command_words:
            if re.fullmatch(r"\$\w+", word):
                words += shlex.split(environment.get(word[1:], ""))
            else:
                words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], ""), word))
        return words

    def starts_again(self, code: int) -> bool:
        """Say whether systemd would start it again after it ended by itself with this exit code or signal."""
        assert self.one("Restart") == "on-failure", "this reads only on-failure"
        if code < 0:
            return signal.Signals(-code) not in _CLEAN
        return code != 0 and str(code) not in self.one("RestartPreventExitStatus").split()


def read_environment_file(path: Path) -> dict[str, str]:
    """Read a file of simple `NAME=value` lines; quotes and continuations, which systemd also knows, are not used."""
    found = {}
    for line in path.read_text().splitlines():
        if line.strip() and line[0] not in "#;":
            name, separator, value = line.partition("=")
            assert separator, line
            assert re.fullmatch(r"\w+", name), line
            assert not set(value) & set("\"'\\"), f"{line}: systemd reads this in ways of its own"
            found[name] = value.strip()
    return found


@dataclass(frozen=True)
class Ended:
    """How a stop went: exit code (negative for a signal), whether SIGKILL was needed, and who was left over."""

    code: int
    killed: bool
    left: tuple[int, ...]


class Service:
    """A running instance. Its session stands for its control group."""

    def __init__(self, unit: Unit, process: subprocess.Popen[bytes], log: Path) -> None:
        self._unit = unit
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def await_log(self, text: str, *, timeout: float = 20) -> None:
        def written() -> bool:
            assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.log}"
            return text in self.log

        wait_until(written, timeout, what=f"{text!r} in the log")

    def ended(self, *, timeout: float = 20) -> int:
        """Wait until it ends by itself; returns the exit code."""
        return self._process.wait(timeout)

    def stop(self, *, meanwhile: Callable[[], object] | None = None, within_s: float | None = None) -> Ended:
        """Do what `systemctl stop` does with KillMode=mixed; the time is TimeoutStopSec unless told otherwise.

        `meanwhile` is called once the worker says that it stops.
        """
        assert self._unit.one("KillMode") == "mixed", "this stops as mixed does"
        self._process.send_signal(signal.Signals[self._unit.one("KillSignal")])
        if meanwhile is not None:
            self.await_log("worker.stopping")
            meanwhile()
        killed = False
        try:
            self._process.wait(self._unit.stop_s if within_s is None else within_s)
        except subprocess.TimeoutExpired:
            killed = True
            self._process.kill()
        code = self._process.wait()
        left = tuple(processes_of(self.pid))
        self.clear()
        return Ended(code, killed, left)

    def clear(self) -> None:
        """Kill what is left of it."""
        for pid in processes_of(self.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()


def processes_of(session: int) -> Iterator[int]:
    """Return the processes of a session that have not ended."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                yield int(entry.name)


@contextmanager
def started(unit: Unit, *, confinement: str | None = None) -> Iterator[Service]:
    """Start an instance as the unit says, with nothing of this process's environment.

    Args:
        confinement: what `confined.py` is to do before it becomes the worker.
    """
    command: Sequence[str] = unit.command()
    environment: Mapping[str, str] = unit.environment()
    if confinement is not None:
        command = [sys.executable, "-I", str(_CONFINED), confinement, *command]
    with tempfile.TemporaryDirectory(prefix="stem-unit-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as to_log:
            process = subprocess.Popen(
                command,
                cwd=unit.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=to_log,
                stderr=to_log,
                start_new_session=True,
            )
        service = Service(unit, process, log)
        try:
            yield service
        finally:
            if process.poll() is None:
                process.kill()
            service.clear()
