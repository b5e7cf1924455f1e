"""Raw, blocking: one XADD after the other on redis-py's blocking client. The yardstick of `SyncStem`."""

from typing import Any

import redis

from benchmarks.peers import driver


class Peer:
    def open(self) -> None:
        self.connection: Any = redis.Redis.from_url(driver.URL, protocol=2)
        self.body = b"x" * 100

    def close(self) -> None:
        self.connection.close()

    def enqueue(self, task: str, n: int) -> Any:
        return self.connection.xadd("raw", {"t": task, "n": n, "b": self.body})

    def enqueue_many(self, task: str, numbers: list[int]) -> None:
        pipeline = self.connection.pipeline(transaction=False)
        for n in numbers:
            pipeline.xadd("raw", {"t": task, "n": n, "b": self.body})
        pipeline.execute()

    def result(self, handle: Any) -> None:
        raise NotImplementedError("measured with the asyncio client")

    def later(self, task: str, numbers: list[int], at_s: float) -> None:
        raise NotImplementedError("measured with the asyncio client")


if __name__ == "__main__":
    driver.drive(Peer())
