"""Which broker handle serves which event loop. A handle belongs to one loop; an application may be used on several."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from stem.contracts import Broker, ResultBackend
from stem.outbox import Outbox

H = TypeVar("H", Broker, ResultBackend)


class Lane:
    """What an application has on one event loop."""

    __slots__ = ("backend", "broker", "loop", "outbox")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        broker: Broker,
        backend: ResultBackend | None,
        *,
        patience_s: float,
    ) -> None:
        self.loop = loop
        self.broker = broker
        self.backend = backend
        self.outbox = Outbox(broker, patience_s=patience_s)


class _Root(Generic[H]):
    """The first handle of its kind. It serves the first loop that wants one; every other loop gets a clone of it.

    One that was given stays with that loop also when its lane is closed: it is open still, with connections that no
    other loop can use.
    """

    def __init__(self, make: Callable[[], H], *, owned: bool) -> None:
        self.handle: H | None = None
        self._make: Callable[[], H] = make
        self._owned = owned
        self._loop: asyncio.AbstractEventLoop | None = None

    def made(self) -> H:
        if self.handle is None:
            self.handle = self._make()
        return self.handle

    def serve(self, loop: asyncio.AbstractEventLoop) -> H:
        """Return the handle for a new lane on `loop`."""
        root = self.made()
        if self._loop is None:
            self._loop = loop
        return root if self._loop is loop else root.clone()

    def let_go(self, handle: H) -> H | None:
        """Take the handle of a lane that ends; return it if it is to be closed."""
        if handle is not self.handle:
            return handle
        if not self._owned:
            return None
        self.handle = self._loop = None
        return handle

    def let_go_bare(self) -> H | None:
        """Return the handle if it is to be closed and never became anybody's lane."""
        if self.handle is None or self._loop is not None:
            return None
        return self.let_go(self.handle)


class Lanes:
    """The lanes of one application. Any thread may ask; a lane is used on its own loop only.

    Args:
        make_backend: None where there is no result backend.
        owned: the broker was made here, so it is closed here; `backend_owned` likewise.
        slow: making the broker may block (it starts a server), so it is not done on the loop.
    """

    def __init__(
        self,
        make_broker: Callable[[], Broker],
        make_backend: Callable[[], ResultBackend] | None,
        *,
        owned: bool,
        backend_owned: bool = False,
        slow: bool = False,
        patience_s: float,
    ) -> None:
        self._broker = _Root(make_broker, owned=owned)
        self._backend = None if make_backend is None else _Root(make_backend, owned=backend_owned)
        self._slow = slow
        self._patience_s = patience_s
        self._guard = threading.Lock()
        self._lanes: dict[asyncio.AbstractEventLoop, Lane] = {}
        self._latest: Lane | None = None

    @property
    def root(self) -> Broker:
        """The handle for the first loop that asks; made now if nobody asked before."""
        with self._guard:
            return self._broker.made()

    @property
    def root_backend(self) -> ResultBackend | None:
        """The result backend of the first loop that asks, if there is one; made now if nobody asked before."""
        with self._guard:
            return None if self._backend is None else self._backend.made()

    @property
    def where(self) -> str:
        """Where the broker is, for people; makes nothing."""
        root = self._broker.handle
        return "not connected" if root is None else root.url

    def latest(self) -> Lane | None:
        """Return the running loop's lane if it was the last one used: the quick way."""
        lane = self._latest
        return lane if lane is not None and lane.loop is asyncio.get_running_loop() else None

    async def open(self) -> Lane:
        """Return the running loop's lane; made if there is none."""
        loop = asyncio.get_running_loop()
        if self._slow and self._broker.handle is None:
            await asyncio.to_thread(lambda: self.root)
        with self._guard:
            lane = self._lanes.get(loop)
            if lane is None:
                lane = self._lanes[loop] = self._new(loop)
            self._latest = lane
            return lane

    async def close(self) -> None:
        """Send what waits on this loop's lane, then close what was made here for it, also when cancelled.

        The lane is taken away first: what is sent from now on goes by another one, and is not waited for.
        """
        with self._guard:
            lane = self._lanes.pop(asyncio.get_running_loop(), None)
            if lane is None:
                # What was handed out (`Stem.broker`, `Stem.backend`) but never became anybody's lane.
                broker = self._broker.let_go_bare()
                backend = None if self._backend is None else self._backend.let_go_bare()
            else:
                if self._latest is lane:
                    self._latest = None
                broker = self._broker.let_go(lane.broker)
                backend = None if self._backend is None or lane.backend is None else self._backend.let_go(lane.backend)
        try:
            if lane is not None:
                await lane.outbox.flush()
                lane.outbox.close()
        finally:
            try:
                if broker is not None:
                    await broker.close()
            finally:
                if backend is not None:
                    await backend.close()

    def _new(self, loop: asyncio.AbstractEventLoop) -> Lane:
        # A loop that was closed took its connections with it; nothing can be awaited on it any more.
        for gone in [each for each in self._lanes if each.is_closed()]:
            del self._lanes[gone]
        backend = None if self._backend is None else self._backend.serve(loop)
        return Lane(loop, self._broker.serve(loop), backend, patience_s=self._patience_s)
