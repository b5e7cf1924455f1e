"""Waiting without polling: for a task to be final (pub/sub), and for work to come (the bell)."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from typing import Final

import redis

from stem.adapters.redis.client import RedisClient, translate
from stem.adapters.redis.connections import ClosedError, Pool, ask, to_the_end
from stem.adapters.redis.reading import MISREAD
from stem.adapters.redis.subscription import Subscription
from stem.errors import StemError, UnknownOutcomeError

BELL_BLOCK_S: Final = 4
RELEASED_WITHIN_S: Final = 3.0
"""After a bell's time-out: a connection on which the read does not end by then is one that carries nothing."""
SUBSCRIBED_WITHIN_S: Final = 3.0
QUIET_S: Final = 5.0


class _Sleeper:
    """The connection of one wait, and the list whose token releases it."""

    def __init__(self, client: RedisClient) -> None:
        self.pool: Pool = client.lone_pool()
        self.wake = uuid.uuid4().hex

    async def close(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            await to_the_end(self.pool.aclose())


class Bell:
    """Sleeps until a queue's bell rings. Each wait of those at the same time has a connection of its own.

    The time-out is kept here, not by the server: an idle server looks at the time-outs of blocked clients only every
    100 ms, and a task due in 30 ms is to start in 30 ms. When the time is up the read is released by a token on a list
    of its own: left alone it would take one meant for a worker that is really idle; cancelled, it would cost a
    connection. Not by CLIENT UNBLOCK: Redis 7.0 dies when that meets a client which CLIENT PAUSE WRITE holds back.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._sleepers: set[_Sleeper] = set()
        self._free: list[_Sleeper] = []

    async def wait(self, bells: Sequence[str], timeout_s: float) -> None:
        if not bells:
            await asyncio.sleep(timeout_s)
            return
        sleeper = self._free.pop() if self._free else _Sleeper(self._client)
        self._sleepers.add(sleeper)
        try:
            await self._sleep(sleeper, bells, timeout_s)
        except BaseException as error:
            # Whatever went wrong, the connection behind it is another one next time.
            self._sleepers.discard(sleeper)
            await sleeper.close()
            if isinstance(error, (redis.RedisError, OSError, *MISREAD)) and not isinstance(error, StemError):
                raise translate(error, what="BLPOP", address=self._client.address) from error
            raise
        if sleeper in self._sleepers:  # else it was closed meanwhile
            self._free.append(sleeper)

    async def _sleep(self, sleeper: _Sleeper, bells: Sequence[str], timeout_s: float) -> None:
        lists = [*bells, self._client.keys.wake(sleeper.wake)]
        read = asyncio.ensure_future(ask(sleeper.pool, "BLPOP", *lists, BELL_BLOCK_S))
        read.add_done_callback(_look_at)
        try:
            done, _ = await asyncio.wait({read}, timeout=timeout_s)
            if not done:
                await self._client.run("wake", sleeper.wake)
                done, _ = await asyncio.wait({read}, timeout=RELEASED_WITHIN_S)
            if not done:
                raise UnknownOutcomeError(
                    f"the broker at {self._client.address} did not release BLPOP in {RELEASED_WITHIN_S:g} s: its "
                    "connection carries nothing"
                )
            await read
        finally:
            if not read.done():
                read.cancel()
                await asyncio.wait({read})

    async def close(self) -> None:
        """Close the connections, also those of waits that are under way."""
        sleepers, self._sleepers, self._free = self._sleepers, set(), []
        for sleeper in sleepers:
            await sleeper.close()


def _look_at(read: asyncio.Future[object]) -> None:
    """Retrieve an error, or asyncio logs it: of two cancellations, or beside another error, nobody else does."""
    if not read.cancelled():
        read.exception()


class Waits:
    """Turns "this task is final" messages into events. One subscription, opened by the first wait."""

    def __init__(self, client: RedisClient) -> None:
        self.client_id = uuid.uuid4().hex
        self._client = client
        self._told: dict[str, list[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    def told_of(self, task_id: str, *, within_s: float) -> _Told:
        return _Told(self, task_id, min(within_s, SUBSCRIBED_WITHIN_S))

    async def add(self, task_id: str, within_s: float) -> asyncio.Event:
        told = asyncio.Event()
        self._told.setdefault(task_id, []).append(told)
        if self._listener is None or self._listener.done():
            self._subscribed.clear()
            self._listener = asyncio.create_task(self._listen(), name="stem-waits")
        # Before the wish is stored the subscription must stand, or the answer could come before it.
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._subscribed.wait()
        except BaseException:
            self.remove(task_id, told)  # cancelled: who waits never gets to say that it does not any more
            raise
        return told

    def remove(self, task_id: str, told: asyncio.Event) -> None:
        waiting = self._told.get(task_id, [])
        if told in waiting:
            waiting.remove(told)
        if not waiting:
            self._told.pop(task_id, None)

    async def _listen(self) -> None:
        """Keep the subscription up while anybody waits; end it when nobody did for a while."""
        quiet = 0
        while quiet < 6:
            subscription = Subscription(self._client, self._client.keys.done_channel(self.client_id))
            try:
                await subscription.open()
                self._subscribed.set()
                while quiet < 6:
                    message = await subscription.message(QUIET_S)
                    if message is not None:
                        for told in self._told.get(message.decode("utf-8", "replace"), ()):
                            told.set()
                    quiet = 0 if self._told else quiet + (message is None)
                self._subscribed.clear()  # who comes while it closes waits for the next one
            except ClosedError:
                self._subscribed.set()
                return
            except (redis.RedisError, OSError, *MISREAD):
                # Whoever waits looks again by itself; meanwhile this comes back.
                self._subscribed.set()
                quiet = 0 if self._told else quiet + 1
                await asyncio.sleep(0.5)
            finally:
                await subscription.close()
            if self._told:
                quiet = 0  # somebody came meanwhile, and counts on this listener

    async def close(self) -> None:
        """End the subscription; whoever waits looks again at once, and finds the broker closed."""
        for told in (each for waiting in self._told.values() for each in waiting):
            told.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            # Once: a second cancellation would end the closing of its connection half way.
            listener.cancel()
            await asyncio.wait({listener})


class _Told:
    """One wait's event, registered while the block runs."""

    def __init__(self, waits: Waits, task_id: str, within_s: float) -> None:
        self._waits = waits
        self._task_id = task_id
        self._within_s = within_s
        self._event: asyncio.Event | None = None

    async def __aenter__(self) -> asyncio.Event:
        self._event = await self._waits.add(self._task_id, self._within_s)
        return self._event

    async def __aexit__(self, *_: object) -> None:
        if self._event is not None:
            self._waits.remove(self._task_id, self._event)
