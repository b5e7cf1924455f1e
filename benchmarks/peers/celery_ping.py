"""`ping` of celery's control channel: how long one call takes, told how many answers to wait for, and not told."""

import json
import sys
import time

from benchmarks.peers.celery_peer import app


def main() -> None:
    workers, times = int(sys.argv[1]), int(sys.argv[2])
    deadline = time.monotonic() + 60
    while len(app.control.ping(timeout=1.0)) < workers and time.monotonic() < deadline:
        pass
    told, untold = [], []
    for _ in range(times):
        begin = time.perf_counter()
        answers = app.control.ping(timeout=1.0, limit=workers)
        told.append((time.perf_counter() - begin) * 1000)
        assert len(answers) == workers
    for _ in range(3):
        begin = time.perf_counter()
        app.control.ping(timeout=1.0)
        untold.append((time.perf_counter() - begin) * 1000)
    print(json.dumps({"told": told, "untold": untold}))


if __name__ == "__main__":
    main()
