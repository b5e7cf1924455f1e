"""A producer of eight threads that forks while they enqueue, as a preloading server does: python -m tests.flow.forking

Prints `parent ID` or `child ID` for each id it was given. Nothing is closed: it is left to the end of the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

from stem import SyncStem

THREADS = 8
CHILDREN = 3
EACH = 10


def produce(stem: SyncStem, name: str, stop: threading.Event | None) -> None:
    done = 0
    while done < EACH or (stop is not None and not stop.is_set()):
        task_id = stem.enqueue("forked", {"by": name})
        os.write(1, f"{name} {task_id}\n".encode())  # one write, so that lines of several processes stay whole
        done += 1
        if stop is not None:
            stop.wait(0.001)  # at a fork some connections are in use and some are idle, which the child must not take


def produce_in_threads(stem: SyncStem, name: str, stop: threading.Event | None = None) -> list[threading.Thread]:
    threads = [threading.Thread(target=produce, args=(stem, name, stop)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    return threads


def main() -> int:
    warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: forking with threads is what is tried here
    stem = SyncStem.connect(sys.argv[1], namespace=sys.argv[2])
    stem.enqueue("forked", {"by": "first"})
    stop = threading.Event()
    threads = produce_in_threads(stem, "parent", stop)
    children = []
    for _ in range(CHILDREN):
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # one that hangs outlives nobody
            for thread in produce_in_threads(stem, "child"):
                thread.join()
            return 0
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads:
        thread.join()
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
