"""Which broker handle serves which event loop. A handle belongs to one loop; an application may be used on several."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from stem.contracts import Broker, ResultBackend
from stem.outbox import Outbox


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


class Lanes:
    """The lanes of one application. Any thread may ask; a lane is used on its own loop only.

    Args:
        owned: the broker was made here, so it is closed here; `backend_owned` likewise.
        slow: making the broker may block (it starts a server), so it is not done on the loop.
    """

    def __init__(
        self,
        make_broker: Callable[[], Broker],
        make_backend: Callable[[], ResultBackend | None],
        *,
        owned: bool,
        backend_owned: bool = False,
        slow: bool = False,
        patience_s: float,
    ) -> None:
        self._make_broker = make_broker
        self._make_backend = make_backend
        self._owned = owned
        self._backend_owned = backend_owned
        self._slow = slow
        self._patience_s = patience_s
        self._guard = threading.Lock()
        self._root: Broker | None = None
        self._root_taken = False
        self._root_backend: ResultBackend | None = None
        self._lanes: dict[asyncio.AbstractEventLoop, Lane] = {}
        self._latest: Lane | None = None

    @property
    def root(self) -> Broker:
        """The handle for the first loop that asks; made now if nobody asked before."""
        with self._guard:
            return self._made()

    @property
    def root_backend(self) -> ResultBackend | None:
        """The result backend of the first loop that asks, if there is one; made now if nobody asked before."""
        with self._guard:
            return self._made_backend()

    def new_backend(self) -> ResultBackend | None:
        """Return a handle that no lane has, which the caller closes; the one that was given, where one was."""
        return self._make_backend()

    @property
    def where(self) -> str:
        """Where the broker is, for people; makes nothing."""
        return "not connected" if self._root is None else self._root.url

    def latest(self) -> Lane | None:
        """Return the running loop's lane if it was the last one used: the quick way."""
        lane = self._latest
        return lane if lane is not None and lane.loop is asyncio.get_running_loop() else None

    async def open(self) -> Lane:
        """Return the running loop's lane; made if there is none."""
        loop = asyncio.get_running_loop()
        if self._slow and self._root is None:
            await asyncio.to_thread(lambda: self.root)
        with self._guard:
            lane = self._lanes.get(loop)
            if lane is None:
                lane = self._lanes[loop] = self._new(loop)
            self._latest = lane
            return lane

    async def close(self) -> None:
        """Send what waits on this loop's lane, then close what was made here for it."""
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            await self._close_bare_root()
            return
        await lane.outbox.flush()
        lane.outbox.close()
        with self._guard:
            if self._lanes.pop(loop, None) is None:
                return
            if self._latest is lane:
                self._latest = None
            is_root = lane.broker is self._root
            if is_root:
                self._root_taken = False
                if self._owned:
                    self._root = None
                if self._backend_owned:
                    self._root_backend = None
        if self._owned or not is_root:
            await lane.broker.close()
        if self._backend_owned and lane.backend is not None:
            await lane.backend.close()

    async def _close_bare_root(self) -> None:
        """Close what was handed out (`Stem.broker`, `Stem.backend`) but never became anybody's lane."""
        with self._guard:
            if self._root_taken:
                return
            root, backend = self._root if self._owned else None, self._root_backend if self._backend_owned else None
            if root is not None:
                self._root = None
            if backend is not None:
                self._root_backend = None
        if root is not None:
            await root.close()
        if backend is not None:
            await backend.close()

    def _made(self) -> Broker:
        if self._root is None:
            self._root = self._make_broker()
        return self._root

    def _made_backend(self) -> ResultBackend | None:
        if self._root_backend is None:
            self._root_backend = self._make_backend()
        return self._root_backend

    def _new(self, loop: asyncio.AbstractEventLoop) -> Lane:
        # A loop that was closed took its connections with it; nothing can be awaited on it any more.
        for gone in [each for each in self._lanes if each.is_closed()]:
            del self._lanes[gone]
        root = self._made()
        if not self._root_taken:
            self._root_taken = True
            return Lane(loop, root, self._made_backend(), patience_s=self._patience_s)
        return Lane(loop, root.clone(), self._make_backend(), patience_s=self._patience_s)
