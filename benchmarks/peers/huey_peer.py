"""huey on Redis. Default: one thread. Tuned: 100 greenlets; results are pushed to who waits, not polled for."""

import datetime
import time
from typing import Any, ClassVar

import redis
from huey import RedisHuey

from benchmarks.peers import driver, stopwatch

# Each greenlet holds a connection, and another one while it waits for the next task.
pool = redis.ConnectionPool.from_url(driver.URL, max_connections=500)
huey = RedisHuey("bench", connection_pool=pool, results=driver.RESULTS, notify_result=driver.TUNED)


@huey.task(name="noop")
def noop(n: int) -> int:
    stopwatch.tick()
    return n


@huey.task(name="nap")
def nap(n: int) -> int:
    time.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


@huey.task(name="mark")
def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


class Peer:
    tasks: ClassVar = {"noop": noop, "nap": nap, "mark": mark}

    def open(self) -> None: ...

    def close(self) -> None:
        huey.storage.conn.close()

    def enqueue(self, task: str, n: int) -> Any:
        return self.tasks[task](n)

    def enqueue_many(self, task: str, numbers: list[int]) -> None:
        for n in numbers:
            self.tasks[task](n)

    def result(self, handle: Any) -> None:
        handle.get(blocking=True, timeout=30)

    def later(self, task: str, numbers: list[int], at_s: float) -> None:
        eta = datetime.datetime.fromtimestamp(at_s)
        for n in numbers:
            self.tasks[task].schedule(args=(n,), eta=eta)


if __name__ == "__main__":
    # A task's name begins with its module's, so that must not be `__main__`.
    from benchmarks.peers import huey_peer

    driver.drive(huey_peer.Peer())
