"""One worker process of the demo: `stem-worker`, but it also ends when the demo that started it is gone.

The demo holds the other end of this process's standard input, and that end closes however the demo ends, also by
`kill -9`.
"""

from __future__ import annotations

import os
import signal
import threading


def _end_with_parent() -> None:
    # The descriptor itself, unbuffered: a buffered reader would be locked by this thread when the interpreter ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run a worker with the arguments of `stem-worker`."""
    from stem.worker.cli import main as work  # imported here: the watch over the parent begins first

    raise SystemExit(work())


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    main()
