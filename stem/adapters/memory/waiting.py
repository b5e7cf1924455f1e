"""How a waiter in one event loop or thread is woken by another one: no polling, nothing lost to a closed loop.

Everything here but the waiting itself is called with the core's lock held.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Protocol


class Waiter(Protocol):
    """Somebody who waits, once."""

    @property
    def fired(self) -> bool: ...

    def fire(self) -> bool:
        """Wake it, from any thread; False if nobody can be woken there any more."""


class LoopWaiter:
    """Waits in the running event loop."""

    __slots__ = ("_future", "_loop", "fired")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self.fired = False

    def fire(self) -> bool:
        if not self.fired:
            try:
                self._loop.call_soon_threadsafe(self._resolve)
            except RuntimeError:
                return False  # its loop was closed without the waiter being taken away
            self.fired = True
        return True

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Return when fired, or after `timeout_s`."""
        if timeout_s > 0:
            await asyncio.wait((self._future,), timeout=timeout_s)
        else:
            await asyncio.sleep(0)


class ThreadWaiter:
    """Waits in a thread without an event loop."""

    __slots__ = ("_event", "fired")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.fired = False

    def fire(self) -> bool:
        self.fired = True
        self._event.set()
        return True

    def wait(self, timeout_s: float) -> None:
        """Return when fired, or after `timeout_s`."""
        self._event.wait(max(0.0, timeout_s))


class WaitList:
    """Waiters by what they wait for; `fire_all` wakes every one of them."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[str, dict[Waiter, None]] = {}

    def add(self, topic: str, waiter: Waiter) -> None:
        self._waiters.setdefault(topic, {})[waiter] = None

    def discard(self, topic: str, waiter: Waiter) -> None:
        waiters = self._waiters.get(topic)
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiters[topic]

    def fire_all(self, topic: str) -> None:
        for waiter in self._waiters.pop(topic, ()):
            waiter.fire()


class Bells:
    """One bell per queue: a ring wakes one idle worker, or is kept (at most one) for the next that asks."""

    __slots__ = ("_rung", "_waiters")

    def __init__(self) -> None:
        self._rung: set[str] = set()
        # The longest waiting is woken first, so the workers of a fleet take turns.
        self._waiters: dict[str, dict[Waiter, None]] = {}

    def ring(self, queue: str) -> None:
        waiters = self._waiters.get(queue)
        while waiters:
            waiter = next(iter(waiters))
            del waiters[waiter]
            # One that was fired for another queue is about to look here too, but may be full by then: pass on.
            if not waiter.fired and waiter.fire():
                return
        self._rung.add(queue)

    def take(self, queues: Sequence[str]) -> bool:
        """Take a kept ring of one of these queues."""
        for queue in queues:
            if queue in self._rung:
                self._rung.discard(queue)
                return True
        return False

    def add(self, queues: Sequence[str], waiter: Waiter) -> None:
        for queue in queues:
            self._waiters.setdefault(queue, {})[waiter] = None

    def discard(self, queues: Sequence[str], waiter: Waiter) -> None:
        for queue in queues:
            waiters = self._waiters.get(queue)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._waiters[queue]


class Subscription:
    """One handle's ear for wake-ups of the control channel. A wake-up that nobody waits for is kept for the next."""

    __slots__ = ("_pending", "_waiters")

    def __init__(self) -> None:
        self._pending = False
        self._waiters: dict[Waiter, None] = {}

    def ring(self) -> None:
        woken = [waiter.fire() for waiter in self._waiters]
        self._waiters.clear()
        self._pending = self._pending or not any(woken)

    def take(self) -> bool:
        pending, self._pending = self._pending, False
        return pending

    def add(self, waiter: Waiter) -> None:
        self._waiters[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)
