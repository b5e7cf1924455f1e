"""rq. Default: a fork for each job. Tuned: SimpleWorker, which forks none, and JSON instead of pickle."""

import datetime
import time
from typing import Any

import redis
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

from benchmarks.peers import driver, stopwatch

TTL_S = driver.KEEP_S if driver.RESULTS else 0


def noop(n: int) -> int:
    stopwatch.tick()
    return n


def nap(n: int) -> int:
    time.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


class Peer:
    def open(self) -> None:
        serializer = JSONSerializer if driver.TUNED else DefaultSerializer
        self.queue = Queue(connection=redis.Redis.from_url(driver.URL), serializer=serializer)

    def close(self) -> None:
        self.queue.connection.close()

    def enqueue(self, task: str, n: int) -> Any:
        return self.queue.enqueue(f"benchmarks.peers.rq_peer.{task}", n, result_ttl=TTL_S)

    def enqueue_many(self, task: str, numbers: list[int]) -> None:
        name = f"benchmarks.peers.rq_peer.{task}"
        self.queue.enqueue_many([Queue.prepare_data(name, args=(n,), result_ttl=TTL_S) for n in numbers])

    def result(self, handle: Any) -> None:
        if handle.latest_result(timeout=30) is None:
            raise TimeoutError

    def later(self, task: str, numbers: list[int], at_s: float) -> None:
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        for n in numbers:
            self.queue.enqueue_at(at, f"benchmarks.peers.rq_peer.{task}", n, result_ttl=TTL_S)


if __name__ == "__main__":
    driver.drive(Peer())
