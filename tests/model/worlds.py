"""The empty broker of each run, on a clock of its own: a fake one for the memory adapter, and for a real server one
that its scripts are made to read in place of the server's.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from stem.adapters.memory import InMemoryBroker
from stem.adapters.memory.record import Place
from stem.adapters.redis import client
from stem.adapters.redis.broker import RedisStreamsBroker
from stem.contracts import Broker, Limits
from stem.testing import FakeClock
from tests.contract.invariants import broken_in
from tests.leaks import KNOWN_KEYS
from tests.model.model import LIMIT, LOST_MS
from tests.servers import Server

LIMITS: Final = Limits(queue_length=LIMIT, lost_after_ms=LOST_MS)
START_MS: Final = 1_750_000_000_000
_NUMBERS: Final = itertools.count(1)

FOR_EVER: Final = re.compile(
    r"\{[^}]+\}:(?:q:[^:]+:(?:p[0-9]|meta|bell)|queues|workers|fleet|redact|epoch|fence|control:log|history|audit(?::outcomes)?|schema"
    r"|desired:pause)"
)
"""Keys without an end of their own that may stand when no task is left: bounded in number or in length."""


class World(Protocol):
    """What a run stands on."""

    broker: Broker

    def now_ms(self) -> int: ...

    async def advance(self, milliseconds: int) -> None: ...

    async def broken(self) -> list[str]:
        """Return what the adapter keeps though every task is final and no dead letter is left, in words."""

    async def close(self) -> None: ...


class MemoryWorld:
    """The memory adapter."""

    def __init__(self) -> None:
        self._clock = FakeClock(wall_ms=START_MS)
        self._memory = InMemoryBroker(clock=self._clock, limits=LIMITS)
        self.broker: Broker = self._memory

    def now_ms(self) -> int:
        return self._clock.wall_ms()

    async def advance(self, milliseconds: int) -> None:
        self._clock.advance(milliseconds / 1_000)

    async def broken(self) -> list[str]:
        core = self._memory._core
        stands = Counter(
            task_id
            for line in core.lines.values()
            for place in Place
            if place is not Place.NOWHERE
            for _, task_id in line.after(place, None)
        )
        wrong = [f"{task_id} stands somewhere" for task_id in stands]
        wrong += [f"the record of {one.id} is kept for ever" for one in core.records.values() if one.gone_ms is None]
        wrong += [f"{key} is held by {holder}" for key, holder in core.unique.items()]
        return wrong + [f"{worker} owns {', '.join(ids)}" for worker, ids in core.owned.items()]

    async def close(self) -> None:
        await self.broker.close()


class ServerWorld:
    """The Redis adapter in a fresh namespace; see `virtual_clock`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._namespace = f"model-{next(_NUMBERS)}"
        self._clock_key = f"{{{self._namespace}}}:clock"
        self._now_ms = START_MS
        self._redis = server.client()
        self.broker: Broker = RedisStreamsBroker(server.url, namespace=self._namespace, limits=LIMITS)
        self._tell()

    def now_ms(self) -> int:
        return self._now_ms

    async def advance(self, milliseconds: int) -> None:
        self._now_ms += milliseconds
        self._tell()

    def _tell(self) -> None:
        seconds, milliseconds = divmod(self._now_ms, 1_000)
        self._redis.hset(self._clock_key, mapping={"s": seconds, "us": milliseconds * 1_000})

    async def broken(self) -> list[str]:
        wrong = broken_in(self._server, self._namespace)
        for key in self._keys():
            if KNOWN_KEYS.fullmatch(key) is None:
                wrong.append(f"nobody knows the key {key}")
            elif self._redis.pttl(key) == -1 and FOR_EVER.fullmatch(key) is None:
                wrong.append(f"{key} stands for ever")
            elif re.search(r":p[0-9]$", key) and self._redis.xlen(key):
                wrong.append(f"{key} still has entries")
        return wrong

    def _keys(self) -> list[str]:
        found = self._redis.scan_iter(match=f"[{{]{self._namespace}}}:*", count=1_000)
        return [str(key) for key in found if key != self._clock_key]

    async def close(self) -> None:
        await self.broker.close()
        self._redis.unlink(self._clock_key, *self._keys())
        self._redis.close()


@contextmanager
def virtual_clock() -> Iterator[None]:
    """Have every script read its time from the namespace's key `clock`, while this is open."""
    asks, reads = "redis.call('TIME')", "redis.call('HMGET', KEYS[1] .. 'clock', 's', 'us')"
    real = client.Script.__init__

    def changed(self: client.Script, name: str) -> None:
        real(self, name)
        assert asks in self.text
        self.text = self.text.replace(asks, reads)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    client.script.cache_clear()
    client.Script.__init__ = changed  # type: ignore[method-assign]
    try:
        yield
    finally:
        client.Script.__init__ = real  # type: ignore[method-assign]
        client.script.cache_clear()
