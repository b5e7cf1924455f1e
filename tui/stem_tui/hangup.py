"""End with the terminal, or when asked to, and leave the terminal behind as it was found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Final

TERMINATED: Final = 128 + signal.SIGTERM
"""What a shell calls a program that ended by SIGTERM."""
GRACE_S: Final = 5.0


def end_with_terminal() -> None:
    """Do what a hang-up does as soon as the terminal on standard input is gone.

    The kernel sends SIGHUP to the processes that a terminal controls. One that was started in a session of its own (by
    a supervisor, by `setsid`) gets none.
    """
    if os.isatty(0):
        threading.Thread(target=_watch, name="terminal-watch", daemon=True).start()


def _watch() -> None:
    poller = select.poll()
    poller.register(0, 0)  # asked for nothing: told of a hang-up or an error alone
    poller.poll()
    os.kill(os.getpid(), signal.SIGHUP)
    os._exit(128 + signal.SIGHUP)  # under nohup the signal is ignored


def end_when_told(end: Callable[[int], None]) -> None:
    """Call `end` with the exit code once SIGTERM comes; what does not end by that ends by force after a while.

    Without it the terminal would stay as the dashboard had it: another screen, no echo, and reports of every move of
    the mouse. To be called on the event loop that `end` belongs to.
    """
    loop = asyncio.get_running_loop()

    def told(*_: object) -> None:
        # Not the loop's own way to hear of signals: a loop that waits for a terminal that stands still hears nothing.
        timer = threading.Timer(GRACE_S, os._exit, [TERMINATED])
        timer.daemon = True
        timer.start()
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so does the program
            loop.call_soon_threadsafe(end, TERMINATED)

    signal.signal(signal.SIGTERM, told)
