"""What a test may not leave behind: child processes, threads, unclosed connections, keys that nobody knows."""

from __future__ import annotations

import gc
import re
import reprlib
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from tests.servers import LIVE, Server

GRACE_S: Final = 3.0
"""How long threads and children have to end by themselves after a test."""

KNOWN_KEYS: Final = re.compile(
    r"""\{[A-Za-z0-9_.-]{1,64}\}:(?:
        (?:task|result|worker|request|reply|wake):[A-Za-z0-9_.-]{1,64}
      | q:[A-Za-z0-9_.-]{1,64}:(?:p[0-9]|delayed|retry|lease|dead|held|meta|bell)
      | unique:[0-9]+:[A-Za-z0-9_.:/-]+
      | desired:(?:pause|drain|shutdown)
      | stats:[0-9]+
      | queues | workers | fleet | redact | epoch | fence | control:log | events | watch | history | audit | probe
      | schema
      | audit:outcomes
    )""",
    re.VERBOSE,
)


def children() -> dict[int, str]:
    """Return the child processes of this one (pid -> command line), without the test servers and the dead.

    Empty where there is no /proc.
    """
    found: dict[int, str] = {}
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(text) for text in task.read_text().split()]
        except OSError:  # the thread ended meanwhile
            continue
        for pid in pids:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            # An empty command line is a zombie: ended, only not waited for yet.
            if pid not in LIVE and line and "resource_tracker" not in line:
                found[pid] = line
    return found


def threads() -> set[threading.Thread]:
    """Return the threads that keep a process alive, without this one."""
    return {
        thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.current_thread()
    }


def settings() -> dict[str, object]:
    """Return what programs set for their whole process, by name: those that run within a test leave it as it was."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    handlers: dict[str, object] = {f"the handler of {number.name}": signal.getsignal(number) for number in numbers}
    return {"the collector's threshold": gc.get_threshold()[0], **handlers}


def changed(before: dict[str, object]) -> list[str]:
    """Say which settings are others now."""
    now = settings()
    return [f"{name} is {now[name]!r}, it was {value!r}" for name, value in before.items() if now[name] != value]


def left_behind(threads_before: set[threading.Thread], children_before: dict[int, str]) -> str:
    """Say which threads and child processes are there that were not before; empty when there are none in time."""
    deadline = time.monotonic() + GRACE_S
    while True:
        new_threads = threads() - threads_before
        new_children = {pid: line for pid, line in children().items() if pid not in children_before}
        if not new_threads and not new_children:
            return ""
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    named = [f"thread {thread.name}" for thread in new_threads]
    named += [f"process {pid}: {line}" for pid, line in new_children.items()]
    return "; ".join(named)


def collect() -> list[str]:
    """Collect what a test left to the collector, and return what complained on its way.

    What is still in use is frozen, which makes this cheap: the next collection looks only at what the next test made.
    """
    complaints: list[str] = []

    def hear(unraisable: sys.UnraisableHookArgs) -> None:
        what = unraisable.err_msg or "Exception ignored in"
        error = f"{unraisable.exc_type.__name__}: {unraisable.exc_value}"
        complaints.append(f"{what} {reprlib.repr(unraisable.object)}: {error}")

    # pytest has asked its own hook for what this test left by now: what it hears next, it says of the next test.
    before, sys.unraisablehook = sys.unraisablehook, hear
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before
    gc.freeze()
    return complaints


def clear_keys(server: Server, namespace: str) -> str:
    """Delete the keys of a namespace and return a complaint about keys it does not know, empty if there is none.

    Keys of other namespaces are deleted as well (a test may use several), in all databases; only their form is checked.
    """
    with server.client() as client:
        databases = [int(str(name).removeprefix("db")) for name in client.info("keyspace")]
    keys: list[str] = []
    for database in databases:
        with server.client(database=database) as client:
            there = [str(key) for key in client.scan_iter(count=1000)]
            if there:
                client.unlink(*there)
            keys += there
    unknown = sorted(key for key in keys if KNOWN_KEYS.fullmatch(key) is None)
    return f"keys of an unknown form were left in {namespace}: {', '.join(unknown[:10])}" if unknown else ""
