"""What one poll of the broker brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from stem.contracts import FinalRow, ListState, MinuteRow, Pause, QueueRow, Seen, ServerInfo, TaskPage
from stem.record import record


@record
class Snapshot:
    """What one poll brought. None: not asked for, or it failed; the picture of before stays.

    Attributes:
        asked_ms: this machine's clock when the poll began: what changed after it is newer than this snapshot.
        pages: of tasks by state, the first page each.
        refused: what the server would not answer, and why, by the part's name.
    """

    asked_ms: int
    queues: Sequence[QueueRow] | None = None
    workers: Sequence[Seen] | None = None
    pauses: Sequence[Pause] | None = None
    minutes: Sequence[MinuteRow] | None = None
    history: Sequence[FinalRow] | None = None
    pages: Mapping[ListState, TaskPage] = field(default_factory=dict)
    info: ServerInfo | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def refusals(self, before: Mapping[str, str]) -> Mapping[str, str]:
        """Return what is refused now: what is not asked for in every poll stays so until it is answered."""
        seldom = {"history": self.history, "server": self.info}
        kept = {part: before[part] for part, answer in seldom.items() if answer is None and part in before}
        return {**kept, **self.refused}
