"""dramatiq on Redis: eight threads. Tuned: a deep prefetch, no middleware but retries and results."""

import time
from typing import Any, ClassVar

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers import driver, stopwatch

broker = RedisBroker(url=driver.URL, middleware=[Retries()] if driver.TUNED else None)
if driver.RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=driver.URL), result_ttl=driver.KEEP_S * 1000))
dramatiq.set_broker(broker)
options = {"store_results": True} if driver.RESULTS else {}


@dramatiq.actor(**options)
def noop(n: int) -> int:
    stopwatch.tick()
    return n


@dramatiq.actor(**options)
def nap(n: int) -> int:
    time.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


@dramatiq.actor(**options)
def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


class Peer:
    tasks: ClassVar = {"noop": noop, "nap": nap, "mark": mark}

    def open(self) -> None: ...

    def close(self) -> None:
        broker.close()

    def enqueue(self, task: str, n: int) -> Any:
        return self.tasks[task].send(n)

    def enqueue_many(self, task: str, numbers: list[int]) -> None:
        for n in numbers:
            self.tasks[task].send(n)

    def result(self, handle: Any) -> None:
        handle.get_result(block=True, timeout=30_000)

    def later(self, task: str, numbers: list[int], at_s: float) -> None:
        for n in numbers:
            self.tasks[task].send_with_options(args=(n,), delay=max(0, round((at_s - time.time()) * 1000)))


if __name__ == "__main__":
    driver.drive(Peer())
