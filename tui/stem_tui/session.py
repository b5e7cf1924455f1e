"""What the screens share: the state, its feed, how to draw, and what was last said. No widget here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stem.clock import BoottimeClock, Clock
from stem.observe.feed import Connection, Feed, Phase
from stem.observe.state import ClusterState
from stem_tui.commands import Where
from stem_tui.deeds import Receipt
from stem_tui.plans import Plan
from stem_tui.theme import Cell, Look

NOTICE_S = 8.0
UNDO_S = 5.0


@dataclass(slots=True)
class Notice:
    """One line of news at the bottom, until `until_s` (monotonic)."""

    cells: Sequence[Cell]
    until_s: float


@dataclass(slots=True)
class Session:
    """One run of the dashboard. Belongs to its event loop.

    Attributes:
        url, namespace: of the broker, for people, without secrets.
        reach: how a command gets there, where that is not by `url`: it has no password.
        gap_seen_ms: up to where missed events were taken note of; those are not mentioned any more.
        frozen_ms: when the picture was frozen, by the broker's clock; None while it is live.
        hz: how often it is drawn at most.
        production: people live on what this broker carries: every change asks one step more.
        history: lines of the command line.
    """

    state: ClusterState
    feed: Feed
    url: str
    namespace: str
    look: Look = field(default_factory=Look)
    read_only: bool = False
    production: bool = False
    clock: Clock = field(default_factory=BoottimeClock)
    hz: float = 10.0
    frozen_ms: int | None = None
    gap_seen_ms: int = 0
    notice: Notice | None = None
    receipt: Receipt | None = None
    undo: tuple[Plan, float] | None = None
    reach: Where | None = None
    history: list[str] = field(default_factory=list)

    @property
    def link(self) -> Connection:
        return self.feed.connection

    @property
    def phase(self) -> Phase:
        return self.link.shown(self.clock.monotonic())

    @property
    def stale(self) -> bool:
        """The picture is not of now: it is shown grey."""
        return self.phase != "LIVE"

    @property
    def now_ms(self) -> int:
        """Return the broker's time that ages are counted to; it stands still while frozen or cut off."""
        return self.broker_ms if self.frozen_ms is None else self.frozen_ms

    @property
    def broker_ms(self) -> int:
        """Return the broker's time, also behind a frozen picture; it stands still while cut off."""
        wall_ms = self.clock.wall_ms()
        if self.phase != "LIVE" and self.link.answered_ms:
            wall_ms = self.link.answered_ms
        return wall_ms + self.state.offset_ms

    @property
    def writes(self) -> bool:
        """Say whether something may be sent now."""
        return not self.read_only and self.phase in ("LIVE", "STALE")

    def dismiss_gap(self) -> bool:
        """Take note of the events that were missed; False if none are to be mentioned."""
        shown = self.state.incomplete(self.now_ms) and self.state.gap_ms > self.gap_seen_ms
        self.gap_seen_ms = self.state.gap_ms
        return shown

    @property
    def locked(self) -> str:
        """Return why nothing may be sent now, and what to do about it."""
        if not self.read_only:
            return "not connected"
        return "read-only in production, start with --write" if self.production else "started with --read-only"

    @property
    def where(self) -> Where:
        """Return how a command reaches the same broker."""
        return self.reach or Where(self.url, self.namespace)

    def say(self, *cells: Cell, seconds: float = NOTICE_S) -> None:
        self.notice = Notice(cells, self.clock.monotonic() + seconds)
