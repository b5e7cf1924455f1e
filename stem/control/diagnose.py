"""What is the matter with a worker, in one word. Pure; knows heartbeats, no broker."""

from __future__ import annotations

from typing import Final, Literal

from stem.contracts import Seen

WEDGED_AFTER_MS: Final = 2_000
"""A work loop that has not ticked for longer is blocked by a handler."""

Diagnosis = Literal["healthy", "busy", "wedged", "deaf", "lost", "draining", "stopped"]

MEANING: Final[dict[Diagnosis, str]] = {
    "healthy": "beats, answers and has a free slot",
    "busy": "beats and answers; every slot is taken",
    "wedged": "beats and answers pings, but a handler blocks its work loop",
    "deaf": "beats, but does not answer commands",
    "lost": "stopped beating without a goodbye: killed, frozen or cut off",
    "draining": "takes no more work and finishes what it has",
    "stopped": "said goodbye",
}


def diagnose(seen: Seen, *, answered: bool | None = None, issued_at_ms: int = 0) -> Diagnosis:
    """Return the diagnosis of a worker.

    Args:
        answered: whether it answered a command; None if it was not asked.
        issued_at_ms: when that command was issued, by the broker's clock.
    """
    beat = seen.heartbeat
    if seen.stopped:
        return "stopped"
    if seen.lost and not answered:
        return "lost"
    if answered is False:
        # Without a beat since the command the evidence is thin. A beat that is overdue speaks for a dead or frozen
        # process; one that is not due yet leaves only "it did not answer".
        overdue = seen.at_ms <= issued_at_ms and seen.age_ms > beat.interval_ms + beat.interval_ms // 4
        if overdue:
            return "lost"
        # What must wait for the work loop (a revoke, a pause) goes unanswered while a handler blocks it.
        return "wedged" if beat.loop_age_ms > WEDGED_AFTER_MS else "deaf"
    if beat.loop_age_ms > WEDGED_AFTER_MS:
        return "wedged"
    if beat.state in ("draining", "stopping"):
        return "draining"
    if beat.in_flight + beat.zombie_threads >= beat.concurrency:
        return "busy"
    return "healthy"
