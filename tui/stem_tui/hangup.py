"""End with the terminal: one that is gone by another way than a hang-up signal would be drawn for for ever."""

from __future__ import annotations

import os
import select
import signal
import threading


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
