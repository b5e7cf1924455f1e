"""Time without the broker, as one worker sees it: how long each loop waits between attempts, and what is said of it.

A worker has several loops that talk to the broker. Each notices an outage by itself and comes back by itself, but
people are told of it once: when the first loop fails, and when none does any more.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from stem.errors import BrokerRefusedError
from stem.text import clean

log = logging.getLogger("stem.worker")

LONGEST_DELAY_S: Final = 3.0
"""Between two attempts: whoever waits for the worker after an outage waits for this at most."""
SAID_EVERY_S: Final = 10.0
"""A connection that breaks again and again is one piece of news, not one each time."""
RIGHTS: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "SCHEMA"})
"""Refusals that waiting does not heal: a person has to change something."""


class Outages:
    """What the loops of one worker know of its broker. Any thread may use it.

    Args:
        patience_s: how long a loop may be refused for lack of rights: they may be given back in a moment.
        hopeless: called, once, with the refusal that outlasted it.
    """

    def __init__(
        self, *, patience_s: float = 6.0, hopeless: Callable[[BrokerRefusedError], None] = lambda error: None
    ) -> None:
        self._patience_s = patience_s
        self._hopeless = hopeless
        self._guard = threading.Lock()
        self._failing: set[str] = set()
        self._told: set[str] = set()
        self._said = False
        self._said_at = -SAID_EVERY_S
        self._unsaid = 0
        self._since = 0.0
        self._given_up = False

    def of(self, what: str) -> Outage:
        """Return the outage of the loop `what`, not failing; a loop that is started again starts with a new one."""
        self.back(what)
        return Outage(what, self)

    def away(self, what: str, error: BaseException) -> None:
        """A loop failed, for the first time or once more.

        Said once per outage and reason, and of one that begins soon after the last was said only once it lasts. `times`
        counts the outages since then.
        """
        kind = error.code if isinstance(error, BrokerRefusedError) else ""
        now = time.monotonic()
        with self._guard:
            if not self._failing:
                self._since = now
                self._told.clear()
                self._said = False
                self._unsaid += 1
            self._failing.add(what)
            soon = now - self._said_at < SAID_EVERY_S and not self._said and kind not in RIGHTS
            news = kind not in self._told and not soon
            extra: dict[str, object] = {"what": what, "error": f"{type(error).__name__}: {clean(error, 300)}"}
            if news:
                if self._unsaid > 1:
                    extra["times"] = self._unsaid
                self._told.add(kind)
                self._said, self._said_at, self._unsaid = True, now, 0
        level = logging.DEBUG if not news else logging.ERROR if kind in RIGHTS else logging.WARNING
        log.log(level, "broker.away", extra=extra)

    def back(self, what: str) -> None:
        """A loop that failed has succeeded."""
        with self._guard:
            if what not in self._failing:
                return
            self._failing.remove(what)
            if self._failing:
                return
            away_s = time.monotonic() - self._since
            said = self._said
        log.log(logging.INFO if said else logging.DEBUG, "broker.back", extra={"away_s": round(away_s, 1)})

    def refused(self, error: BrokerRefusedError, for_s: float) -> None:
        """A loop has been refused for lack of rights, again and again for so long."""
        with self._guard:
            if for_s < self._patience_s or self._given_up:
                return
            self._given_up = True
        self._hopeless(error)


class Outage:
    """One stretch of time without the broker, as one loop sees it. Belongs to that loop."""

    __slots__ = ("_all", "_failures", "_refused_since", "_what", "refused")

    def __init__(self, what: str, outages: Outages) -> None:
        self._what = what
        self._all = outages
        self._failures = 0
        self._refused_since: float | None = None
        self.refused = False
        """The last attempt was answered, with a refusal: that another one succeeds says nothing of this one."""

    @property
    def on(self) -> bool:
        return self._failures > 0

    def failed(self, error: BaseException) -> float:
        """Note a failed attempt; return the seconds to wait before the next (0.1 to 3 s, with jitter)."""
        self._all.away(self._what, error)
        self._failures += 1
        self.refused = isinstance(error, BrokerRefusedError)
        if not isinstance(error, BrokerRefusedError) or error.code not in RIGHTS:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = time.monotonic()
        else:
            self._all.refused(error, time.monotonic() - self._refused_since)
        return min(LONGEST_DELAY_S, 0.1 * float(2 ** min(self._failures - 1, 6))) * random.uniform(0.5, 1.0)

    def over(self) -> None:
        """Note a success."""
        if self._failures:
            self._failures = 0
            self._refused_since = None
            self.refused = False
            self._all.back(self._what)
