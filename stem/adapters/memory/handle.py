"""One user's hold on the shared core: what waits through it, so that closing it releases them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stem.adapters.memory.core import Core
from stem.adapters.memory.waiting import Subscription, Waiter


class Handle:
    """Shared by a broker object and its parts. Its state is guarded by the core's lock."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.open = True
        self.subscription: Subscription | None = None
        self._waiters: dict[Waiter, None] = {}
        with core.lock:
            core.handles += 1

    @contextmanager
    def released_by_close(self, waiter: Waiter) -> Iterator[None]:
        """Let `close` wake a waiter while this is open."""
        with self.core.lock:
            self._waiters[waiter] = None
        try:
            yield
        finally:
            with self.core.lock:
                self._waiters.pop(waiter, None)

    def close(self) -> None:
        """Wake whoever waits through this handle, and stop listening."""
        if self.core.forked:
            return
        with self.core.lock:
            if self.open:
                self.open = False
                self.core.handles -= 1
            if self.subscription is not None:
                self.core.subscriptions.pop(self.subscription, None)
                self.subscription = None
            for waiter in self._waiters:
                waiter.fire()
            self._waiters.clear()
