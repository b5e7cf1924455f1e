"""Whether a command is from somebody who may give it: the worker's look before it acts on anything from the log.

Signatures cover what workers do. What stands in the broker beside the log, such as a pause or the mark of a revoked
task, is changed by whoever may write there: that is for the server's access rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from stem.authority import ControlKeys, may
from stem.contracts import Desired, Logged
from stem.errors import SignatureError
from stem.messages.command import Command
from stem.text import clean

REMEMBERED: Final = 2_000
"""Ids of commands that are never acted on twice, where nothing is signed."""
GRACE_MS: Final = 5_000
"""A command may be this much older than its worker, if it came after it: its sender read the time first."""
SKEW_MS: Final = 60_000
"""How far in the future a command may have been issued: after a failover the server's clock may be another one."""


class Refused(Exception):
    """A command that is not carried out; becomes a reply."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Guard:
    """Lets a command through once, and with keys only from those whose role covers it.

    Belongs to the vitals loop.

    Args:
        keys: None takes every command that comes.
    """

    def __init__(self, keys: ControlKeys | None, *, namespace: str, worker_id: str) -> None:
        self._keys = keys
        self._namespace = namespace
        self._worker_id = worker_id
        self._begun_ms = 0
        self._done: OrderedDict[str, int] = OrderedDict()
        self._drained = False

    def begin(self, commands: Iterable[Command], *, now_ms: int) -> None:
        """Take note of what was commanded before this worker was there: it is not for it, now or repeated."""
        self._begun_ms = now_ms
        for command in commands:
            self._remember(command, now_ms)

    def admit(self, logged: Logged, command: Command, *, now_ms: int) -> bool:
        """Say whether to act on a command that is for this worker; False for one to be passed over in silence.

        Args:
            now_ms: the broker's clock.

        Raises:
            Refused: it is not from somebody who may, or not any more. The codes are those of `DISTRUST`.
        """
        if self._keys is None:
            return self._remember(command, now_ms)
        if not logged.signature:
            raise Refused("signature-missing", "this worker obeys signed commands only: give the sender a control key")
        try:
            kid, role = self._keys.verify(self._namespace, logged.command, logged.signature)
        except SignatureError as error:
            raise Refused("signature-invalid", clean(error, 300)) from None
        if not may(role, command.type):
            raise Refused("role-refused", f"the key {kid} is a {role}'s, who may not {clean(command.type, 40)}")
        if command.expires_at_ms <= now_ms or command.issued_at_ms > now_ms + SKEW_MS:
            late_s = (now_ms - command.expires_at_ms) / 1000
            when = f"{late_s:.1f} s ago" if late_s >= 0 else "or lies in the future"
            raise Refused("expired", f"the command's signature was good until {when}: send it again")
        if command.issued_at_ms < self._begun_ms - GRACE_MS:
            raise Refused("replayed", "the command is older than this worker: send it again")
        if not self._remember(command, now_ms):
            raise Refused(
                "replayed", f"the command {clean(command.id, 40)} was given before, under this very signature"
            )
        if command.type in ("drain", "undrain"):
            self._drained = command.type == "drain"
        return True

    def trusted(self, desired: Desired) -> Desired:
        """Return desired state without what a worker shall do only because of a signed command: drain and stop."""
        if self._keys is None:
            return desired
        drained = frozenset([self._worker_id]) if self._drained else frozenset[str]()
        return replace(desired, drained=drained, shutdown={})

    def _remember(self, command: Command, now_ms: int) -> bool:
        """Return False for an id that was there before."""
        if command.id in self._done:
            return False
        self._done[command.id] = command.expires_at_ms
        # A signed one is remembered while it could be sent again; how many those are is up to who has keys.
        while len(self._done) > REMEMBERED and (self._keys is None or next(iter(self._done.values())) <= now_ms):
            self._done.popitem(last=False)
        return True
