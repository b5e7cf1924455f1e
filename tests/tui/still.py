"""The dashboard as the tests run it: on a clock that stands still, over a picture that is set by hand."""

from __future__ import annotations

import asyncio
from typing import Any

from textual.pilot import Pilot

from stem.adapters.memory import InMemoryBroker
from stem.observe.feed import Feed
from stem.observe.state import ClusterState
from stem.testing import FakeClock
from stem_tui.app import StemTUI
from stem_tui.session import Session
from stem_tui.theme import Look
from tests.observe.builders import NOW, fleet


class StillFeed(Feed):
    """A feed that asks nobody; the test says how the link is."""

    async def run(self) -> None:
        await asyncio.Event().wait()


def make_session(state: ClusterState | None = None, broker: Any = None, **fields: Any) -> Session:
    """Return a session whose picture is that of `fleet()`, live, at a fixed moment."""
    clock = FakeClock(wall_ms=NOW)
    state = fleet(clock.monotonic()) if state is None else state
    feed = StillFeed(broker or InMemoryBroker(), state, watcher="test", clock=clock)
    link = feed.connection
    link.phase, link.answered_s, link.answered_ms, link.rtt_ms = "LIVE", clock.monotonic(), NOW, 6.0
    given: dict[str, Any] = {"look": Look(), "namespace": "prod", "url": "redis://10.0.3.7:6379/0", **fields}
    return Session(state=state, feed=feed, clock=clock, **given)


def make_app(session: Session, broker: Any = None) -> StemTUI:
    return StemTUI(session, broker or session.feed.broker, actor="tester", timeout_s=2.0)


def text_of(app: StemTUI) -> str:
    """Return what is on the screen; the one place that looks into Textual for it."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


async def settled(pilot: Pilot[int]) -> StemTUI:
    """Return the app once what is on the screen is what its session holds."""
    app = pilot.app
    assert isinstance(app, StemTUI)
    for _ in range(2):
        await pilot.pause()
        app.draw_now()
    await pilot.pause()
    return app
