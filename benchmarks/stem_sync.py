"""SyncStem: the producer for code without an event loop, one enqueue after the other."""

import os
from typing import Any

from benchmarks.peers import driver
from stem.sync import SyncStem


class Peer:
    def open(self) -> None:
        self.stem = SyncStem.connect(os.environ["BENCH_URL"])

    def close(self) -> None:
        self.stem.close()

    def enqueue(self, task: str, n: int) -> Any:
        return self.stem.enqueue(task, {"n": n})

    def enqueue_many(self, task: str, numbers: list[int]) -> None:
        self.stem.enqueue_many([(task, {"n": n}) for n in numbers])

    def result(self, handle: Any) -> None:
        self.stem.wait_for(handle, timeout=30)

    def later(self, task: str, numbers: list[int], at_s: float) -> None:
        raise NotImplementedError("measured with the asyncio client")


if __name__ == "__main__":
    driver.drive(Peer())
