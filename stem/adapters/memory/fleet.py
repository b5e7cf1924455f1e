"""The heartbeats of the workers, as bytes, with what the broker itself must know of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stem.contracts import Seen
from stem.errors import DecodeError
from stem.messages.heartbeat import Heartbeat

KEPT_MS: Final = 3_600_000
REDACTED_NAMES: Final = 10_000
REDACTED_CHARACTERS: Final = 20_000


@dataclass(slots=True)
class _Member:
    name: str
    state: str
    queues: tuple[str, ...]
    heartbeat: bytes
    at_ms: int


class Fleet:
    """Who beat within the last hour, and whether the beats of all of them had a gap."""

    def __init__(self, lost_after_ms: int) -> None:
        self._lost_after_ms = lost_after_ms
        # In the order of the last beat, so that the oldest are let go of without looking at the others.
        self._members: dict[str, _Member] = {}
        self._last_ms: int | None = None
        self._resumed_ms: int | None = None
        self.redacted: dict[str, tuple[str, ...]] = {}
        """By task name, arguments that nobody is shown."""

    def beat(self, heartbeat: Heartbeat, now: int) -> None:
        """Store a heartbeat.

        A gap in the whole fleet's beats means that the broker was away: nobody could renew a lease, so for two beats
        nobody is robbed of one.
        """
        member = _Member(heartbeat.name, heartbeat.state, heartbeat.queues, heartbeat.encode(), now)
        if self._last_ms is not None and now - self._last_ms > self._lost_after_ms:
            self._resumed_ms = now
        self._last_ms = now
        before = self._members.pop(heartbeat.id, None)
        if before is not None and before.state == "stopped":
            # The goodbye is the last word: a beat that was under way when it was said does not bring the worker back.
            member = before
        self._members[heartbeat.id] = member
        self._forget(now)

    def redact(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Add to what is hidden of each task name."""
        for task, paths in wanted.items():
            if task not in self.redacted and len(self.redacted) >= REDACTED_NAMES:
                continue
            kept = self.redacted.get(task, ())
            for path in paths:
                if path not in kept and sum(map(len, kept)) + len(kept) + len(path) <= REDACTED_CHARACTERS:
                    kept = (*kept, path)
            self.redacted[task] = kept

    def outage(self, now: int) -> bool:
        """Say whether the whole fleet is silent, or was until less than two beats ago."""
        if self._last_ms is not None and now - self._last_ms > self._lost_after_ms:
            return True
        return self._resumed_ms is not None and 0 <= now - self._resumed_ms < self._lost_after_ms * 2 // 3

    def alive(self, worker: str, now: int) -> bool:
        """Say whether a worker beats, and has not said goodbye."""
        member = self._members.get(worker)
        return member is not None and self._lives(member, now)

    def name(self, worker: str) -> str:
        """Return the stable name of a worker id, "" when it never beat."""
        member = self._members.get(worker)
        return member.name if member is not None else ""

    def knows(self, worker: str) -> bool:
        return worker in self._members

    def consumers(self, now: int) -> dict[str, int]:
        """Return how many live workers take from each queue."""
        counts: dict[str, int] = {}
        for member in self._members.values():
            if self._lives(member, now):
                for queue in set(member.queues):
                    counts[queue] = counts.get(queue, 0) + 1
        return counts

    def seen(self, now: int) -> list[Seen]:
        """Return everybody of the last hour, by name then start; a heartbeat that cannot be read is left out."""
        self._forget(now)
        rows = []
        for member in self._members.values():
            try:
                heartbeat = Heartbeat.decode(member.heartbeat)
            except DecodeError:
                continue
            rows.append(Seen(heartbeat=heartbeat, at_ms=member.at_ms, age_ms=max(0, now - member.at_ms)))
        return sorted(rows, key=lambda row: (row.heartbeat.name, row.heartbeat.started_at_ms, row.heartbeat.id))

    def _lives(self, member: _Member, now: int) -> bool:
        return member.state != "stopped" and now - member.at_ms <= self._lost_after_ms

    def _forget(self, now: int) -> None:
        while self._members:
            oldest = next(iter(self._members))
            if now - self._members[oldest].at_ms <= KEPT_MS:
                break
            del self._members[oldest]
