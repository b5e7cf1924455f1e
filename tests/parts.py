"""Small stand-ins that several tests use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Broker, Enqueued, NewTask
from stem.task import ContextPort, Signature


class FakePort(ContextPort):
    """A worker that remembers what its context asked for."""

    def __init__(self) -> None:
        self.progressed: list[object] = []
        self.extended: list[float] = []
        self.sent: list[Signature] = []
        self.is_revoked = False
        self.is_lost = False

    def progress(self, value: object) -> None:
        self.progressed.append(value)

    def extend_lease(self, seconds: float) -> None:
        self.extended.append(seconds)

    def revoked(self) -> bool:
        return self.is_revoked

    def lease_lost(self) -> bool:
        return self.is_lost

    async def enqueue(self, signature: Signature) -> str:
        self.sent.append(signature)
        return "child"

    def enqueue_blocking(self, signature: Signature) -> str:
        self.sent.append(signature)
        return "child"


class CountingBroker:
    """A memory broker that notes each batch it is given, and fails as it is told.

    Attributes:
        batches: the ids of each call of `enqueue`, failed ones too.
        failures: raised by the next calls, one each.
        apply_first: failed calls are applied nevertheless: only their answer is lost.
    """

    def __init__(self, inner: InMemoryBroker | None = None) -> None:
        self.inner = inner or InMemoryBroker()
        self.batches: list[list[str]] = []
        self.failures: list[Exception] = []
        self.apply_first = False
        self.clones = 0
        self.closed = False

    @classmethod
    def typed(cls, broker: CountingBroker) -> Broker:
        """Return it as the contract it implements by delegation."""
        return cast("Broker", broker)

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        self.batches.append([task.id for task in tasks])
        if self.failures:
            failure = self.failures.pop(0)
            if self.apply_first:
                await self.inner.enqueue(tasks)
            raise failure
        return await self.inner.enqueue(tasks)

    def clone(self) -> Broker:
        self.clones += 1
        return self.inner.clone()

    async def close(self) -> None:
        self.closed = True
        await self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
