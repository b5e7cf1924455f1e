"""celery on Redis. Default: one prefork child. Tuned: the solo pool (gevent for waiting tasks), large prefetch."""

import datetime
import time
from typing import Any, ClassVar

from celery import Celery

from benchmarks.peers import driver, stopwatch

app = Celery("celery_peer", broker=driver.URL, backend=driver.URL if driver.RESULTS else None)
app.conf.task_ignore_result = not driver.RESULTS
app.conf.result_expires = driver.KEEP_S
if driver.TUNED:
    app.conf.worker_prefetch_multiplier = 100
    app.conf.worker_disable_rate_limits = True


@app.task(name="noop")
def noop(n: int) -> int:
    stopwatch.tick()
    return n


@app.task(name="nap")
def nap(n: int) -> int:
    time.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


@app.task(name="mark")
def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


class Peer:
    tasks: ClassVar = {"noop": noop, "nap": nap, "mark": mark}

    def open(self) -> None:
        self.pool = app.producer_pool
        self.producer = self.pool.acquire(block=True)

    def close(self) -> None:
        self.producer.release()

    def enqueue(self, task: str, n: int) -> Any:
        return self.tasks[task].apply_async((n,), producer=self.producer)

    def enqueue_many(self, task: str, numbers: list[int]) -> None:
        for n in numbers:
            self.tasks[task].apply_async((n,), producer=self.producer)

    def result(self, handle: Any) -> None:
        handle.get(timeout=30)

    def later(self, task: str, numbers: list[int], at_s: float) -> None:
        eta = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        for n in numbers:
            self.tasks[task].apply_async((n,), producer=self.producer, eta=eta)


if __name__ == "__main__":
    driver.drive(Peer())
