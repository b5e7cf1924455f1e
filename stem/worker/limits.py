"""Time limits of handlers, from their start. Belongs to the work loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import ref

from stem.worker.job import Job, Stop
from stem.worker.plan import Plan
from stem.worker.wheel import Wheel


class Limits:
    """Stops what runs for too long.

    The wheel keeps an entry longer than most jobs live; no body and no result is kept with it.

    Args:
        stop: is asked to stop a job, with the reason.
    """

    def __init__(self, wheel: Wheel, stop: Callable[[Job, Stop], None]) -> None:
        self._wheel = wheel
        self._stop = stop

    def arm(self, job: Job, plan: Plan) -> None:
        """Hold a job that has begun, or waits for a thread, to its limits."""
        if plan.soft_s is not None:
            self._look_in(plan.soft_s, job, Stop.SOFT_LIMIT, plan.soft_s)
        if plan.hard_s is not None:
            self._look_in(plan.hard_s, job, Stop.HARD_LIMIT, plan.hard_s)

    def _look_in(self, seconds: float, job: Job, why: Stop, limit_s: float) -> None:
        weak = ref(job)

        def running() -> bool:
            alive = weak()
            return alive is not None and alive.running

        def look() -> None:
            alive = weak()
            if alive is None:
                return
            # One that waits for a thread does not run yet: how much of its time is left shows when the look comes.
            ran_s = time.monotonic() - alive.started_at if alive.began else 0.0
            if alive.threaded and limit_s - ran_s > 0.001:
                self._look_in(limit_s - ran_s, alive, why, limit_s)
            else:
                self._stop(alive, why)

        self._wheel.after(seconds, running, look)
