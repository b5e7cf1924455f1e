"""celery: one worker process (solo pool), results stored in Redis."""

import os
import sys

from celery import Celery

from benchmarks.peers.stopwatch import tick

app = Celery("celery_peer", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
app.conf.worker_prefetch_multiplier = 100
app.conf.broker_connection_retry_on_startup = True


@app.task(name="noop")
def noop(n: int) -> int:
    tick()
    return n


if __name__ == "__main__":
    with app.pool.acquire(block=True):
        for n in range(int(sys.argv[1])):
            noop.delay(n)
