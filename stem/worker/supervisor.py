"""`--processes N`: one small process that starts workers, starts those again that die, passes signals on, and reaps.

It talks to no broker and imports no application, so there is little in it that can break. Each worker is a process of
its own that was started anew (nothing is forked after threads began), in a process group of its own, so that Ctrl-C
reaches it through here and once. The workers hold one end of a pipe: it closes with this process, however that ends,
and they stop warm. It may be process 1 of a container: it waits for everything that ends, known or adopted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from stem.errors import ConfigError
from stem.worker.lifecycle import REFUSED_EXIT, STOPPING, TASKS_LEFT, stopping_here

log = logging.getLogger("stem.worker.supervisor")

MOST: Final = 512
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0
LIVED_S: Final = 60.0
"""A worker that lived so long has shown that it can: its next death counts as the first."""
BEGUN_S: Final = 5.0
"""Python itself ends with 1 too, where it cannot begin: a module of the worker's is missing while it is upgraded."""
LAST_WORDS_S: Final = 10.0
"""What stops hard has this long before it is killed."""
LIFE_VARIABLE: Final = "_STEM_LIFE_FD"
PASSED_ON: Final = (*STOPPING, signal.SIGUSR1)
USAGE_EXIT: Final = 2
_FOR_GOOD: Final = frozenset({USAGE_EXIT, REFUSED_EXIT})
"""A new start changes nothing about these: the command line, the configuration, the rights at the broker."""
_NOT_BEGUN: Final = frozenset({-signal.SIGTERM, -signal.SIGINT, -signal.SIGQUIT, 128 + signal.SIGINT})
"""So ends who is told to stop before it listens, which is before it takes any task."""
_WORST: Final = (REFUSED_EXIT, USAGE_EXIT)


@dataclass(slots=True)
class _Slot:
    """A place for one worker. `pid` 0 means that none runs there; `due` is when the next one is to start; `proven` that
    one has lived there for long.
    """

    number: int
    pid: int = 0
    due: float | None = 0.0
    began: float = 0.0
    deaths: int = 0
    proven: bool = False
    ended: int | None = None
    command: list[str] = field(default_factory=list)


class Supervisor:
    """Runs N workers until told to stop. Main thread only; `run` returns the exit code.

    A worker that ends by itself with 0 or 1 was told to (`stemctl shutdown`): it is not started again, and when all of
    them have ended so, this ends too. With 1 in its first five seconds it has not even begun: that is a death. One that
    ends with 2 or 78 takes the others with it, because they would fare alike; not with 2 where one has lived for a
    minute before, which says that the call is right and something else is not, for the moment. Any other end is a
    death: the worker is started again after 0.2 s, then ever later, up to 30 s.

    Args:
        commands: the command line of each worker.
    """

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._slots = [_Slot(number, command=list(command)) for number, command in enumerate(commands, start=1)]
        self._stops = 0
        self._hard_at: float | None = None
        self._exit = 0

    def run(self, *, ending: Callable[[], None] = lambda: None) -> int:
        """Run them, and return the exit code. `ending` may put other handlers for signals in place before ours go."""
        reading, writing = os.pipe()
        os.set_inheritable(reading, True)
        environment = {**os.environ, "STEM_WORKER_PROCESSES": "1", LIFE_VARIABLE: str(reading)}
        log.info("supervisor.started", extra={"processes": len(self._slots), "pid": os.getpid()})
        try:
            with _signals() as signals, selectors.DefaultSelector() as selector:
                selector.register(signals, selectors.EVENT_READ)
                while not self._over():
                    self._start_due(environment)
                    if selector.select(self._pause_s()):
                        for number in signals.recv(4096):
                            self._signalled(number)
                    self._reap()
                    self._kill_late()
                ending()
        finally:
            # Whatever happened: the other end of this is how the workers know.
            os.close(writing)
            os.close(reading)
        log.info("supervisor.stopped", extra={"exit_code": self._exit})
        return self._exit

    # --------------------------------------------------------------------------------------------------------- private

    @property
    def _stopping(self) -> bool:
        return self._stops > 0

    def _over(self) -> bool:
        return all(slot.pid == 0 and (slot.due is None or self._stopping) for slot in self._slots)

    def _pause_s(self) -> float | None:
        times = [slot.due for slot in self._slots if slot.due is not None and not slot.pid and not self._stopping]
        if self._hard_at is not None:
            times.append(self._hard_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _start_due(self, environment: Mapping[str, str]) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.pid or slot.due is None or slot.due > now or self._stopping:
                continue
            try:
                # A process group of its own; signals as they are by default, whatever this process does with them.
                slot.pid = os.posix_spawn(
                    slot.command[0],
                    slot.command,
                    environment,
                    setpgroup=0,
                    setsigdef=[*PASSED_ON, signal.SIGCHLD, signal.SIGPIPE],
                    setsigmask=[],
                )
            except OSError as error:  # no memory, or no process more, at this moment
                log.error("supervisor.not_started", extra={"slot": slot.number, "error": str(error)})
                self._again(slot)
                continue
            slot.began, slot.due = now, None
            log.info("supervisor.process_started", extra={"slot": slot.number, "pid": slot.pid})

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGHUP:  # the terminal is gone
            number = signal.SIGTERM
        if number in STOPPING:
            self._stops += 2 if number == signal.SIGINT and not self._stops else 1
            if number == signal.SIGQUIT or self._stops >= 3:
                self._hard_at = self._hard_at or time.monotonic() + LAST_WORDS_S
            log.info("supervisor.stopping", extra={"signal": signal.Signals(number).name})
        self._send(number)

    def _send(self, number: int) -> None:
        for slot in self._slots:
            if slot.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.pid, number)

    def _kill_late(self) -> None:
        if self._hard_at is not None and time.monotonic() >= self._hard_at:
            self._hard_at = None
            for slot in self._slots:
                if slot.pid:
                    log.warning("supervisor.process_killed", extra={"slot": slot.number, "pid": slot.pid})
            self._send(signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in self._slots:
                if slot.pid == pid:
                    self._ended(slot, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: _Slot, code: int) -> None:
        lived_s = time.monotonic() - slot.began
        pid, slot.pid, slot.ended = slot.pid, 0, code
        facts: dict[str, Any] = {"slot": slot.number, "pid": pid, "lived_s": round(lived_s, 1), "exit": _shown(code)}
        if self._stopping or code == 0 or (code == TASKS_LEFT and lived_s >= BEGUN_S):
            log.info("supervisor.process_ended", extra=facts)
            if code not in _NOT_BEGUN:
                self._exit = _worse(self._exit, code if code >= 0 else TASKS_LEFT)
            return
        slot.proven = slot.proven or lived_s >= LIVED_S
        if code in _FOR_GOOD and not (code == USAGE_EXIT and slot.proven):
            log.error("supervisor.process_failed", extra=facts | {"hint": "a new start would change nothing"})
            self._exit = _worse(self._exit, code)
            self._stops = 1
            self._send(signal.SIGTERM)
            return
        slot.deaths = 0 if lived_s >= LIVED_S else slot.deaths
        log.warning("supervisor.process_died", extra=facts | {"again_in_s": self._again(slot)})

    def _again(self, slot: _Slot) -> float:
        """Plan the next start of a slot; return in how many seconds."""
        pause_s: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**slot.deaths)
        slot.deaths = min(slot.deaths + 1, 10)
        slot.due = time.monotonic() + pause_s
        return pause_s


def _worse(one: int, other: int) -> int:
    """Return the exit code that says more: what needs a person first, then any failure, then 0."""
    return next((code for code in _WORST if code in (one, other)), one or other)


def _shown(code: int) -> str:
    if code >= 0:
        return str(code)
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Give a socket that a byte comes through for each signal; `select` ends with it, so that none is slept through."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    numbers = (*stopping_here(), signal.SIGUSR1, signal.SIGCHLD)
    before = {number: signal.signal(number, _nothing) for number in numbers}
    before_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            if signal.getsignal(number) is _nothing:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        ours.close()
        theirs.close()


def _nothing(number: int, frame: object) -> None:
    """A handler there must be, or no byte is written."""


def commands_of(argv: Sequence[str], count: int, *, name: str, health_port: int | None = None) -> list[list[str]]:
    """Return the command line of each of `count` workers: that of the supervisor, and what is different for each.

    Args:
        name: of the group; the workers are called `name-1` and so on, and so again when they are started again.
        health_port: of the first worker; the others have those behind it.

    Raises:
        ConfigError: a count that nobody means; it is refused before that many are written down.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"{count} processes: give 1 to {MOST}")
    end = argv.index("--") if "--" in argv else len(argv)  # behind it stands no option
    base = [sys.executable, "-m", "stem.worker.cli", *argv[:end], "--processes", "1"]
    commands = []
    for number in range(1, count + 1):
        port = [] if health_port is None else ["--health-port", str(health_port and health_port + number - 1)]
        commands.append([*base, "--name", f"{name}-{number}", *port, *argv[end:]])
    return commands


def follow_life() -> None:
    """In a worker that a supervisor started: stop warm as soon as it is gone, however it went."""
    text = os.environ.pop(LIFE_VARIABLE, "")
    if not text.isdecimal():
        return
    reading = int(text)
    os.set_inheritable(reading, False)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(reading, 1):
                pass
        log.warning("supervisor.gone", extra={"hint": "stopping, as after SIGTERM"})
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stem-life", daemon=True).start()
