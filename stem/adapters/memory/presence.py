"""Who is there."""

from __future__ import annotations

from stem.adapters.memory import recovery
from stem.adapters.memory.handle import Handle
from stem.contracts import Beat, BeatAnswer, Seen
from stem.messages.status import TaskState


class InMemoryPresence:
    """See `stem.contracts.Presence`."""

    def __init__(self, handle: Handle) -> None:
        self._core = handle.core

    async def beat(self, beat: Beat) -> BeatAnswer:
        core, worker = self._core, beat.heartbeat.id
        with core.step() as now:
            known = core.fleet.knows(worker)
            core.fleet.beat(beat.heartbeat, now)
            if beat.heartbeat.state == "stopped":
                core.desired.forget(worker)
            lost, revoked = [], []
            for lease in beat.leases:
                record = recovery.renew(core, worker, lease, now)
                if record is None:
                    lost.append(lease.id)
                elif record.revoking:
                    revoked.append(lease.id)
            for task_id, progress in beat.progress.items():
                record = core.record(task_id, now)
                if record is not None and record.state is TaskState.RUNNING and record.owner == worker:
                    record.progress = progress
            core.fleet.redact(beat.redacted)
            core.stats.measure(now, beat.measured)
            return BeatAnswer(
                now_ms=now,
                epoch=core.log.epoch,
                lost=tuple(lost),
                revoked=tuple(revoked),
                watched=core.batches.watched(now),
                known=known,
                fleet=sum(seen.age_ms <= 10_000 for seen in core.fleet.seen(now)),
            )

    async def workers(self) -> list[Seen]:
        with self._core.step() as now:
            return self._core.fleet.seen(now)
