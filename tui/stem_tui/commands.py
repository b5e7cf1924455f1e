"""The stemctl command that does what an action does, to copy and to read before a yes. Pure; runs nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stem.config import format_duration
from stem.errors import InvalidNameError
from stem.messages.names import Kind, check_name
from stem_tui.actions import Action

BATCH: Final = 500
"""Ids of one command: what stemctl, and the broker, take at once."""
MOST_IDS: Final = 2_000
"""More make no command line that anybody would want to paste."""
_NAMES: Final[dict[str, Kind]] = {"queue": "queue", "worker": "worker", "task": "task id", "failure": "task"}
_MODES: Final = {"worker.stop": "warm", "worker.soft": "soft", "worker.kill": "hard"}
_TASKS: Final = {
    "task.revoke": ["revoke"],
    "task.terminate": ["revoke", "--terminate"],
    "task.retry": ["tasks", "retry"],
    "task.discard": ["dlq", "purge"],
}
_DEAD: Final = {"queue.replay": "replay", "queue.discard": "purge"}


@dataclass(frozen=True, slots=True)
class Where:
    """The way to the same broker; without a URL the environment has to say it."""

    url: str = ""
    namespace: str = ""

    def words(self) -> list[str]:
        words = ["stemctl"]
        if self.url:
            words += ["--url", self.url]
        return [*words, "--namespace", self.namespace] if self.namespace else words


def command(
    action: Action, targets: Sequence[str], *, way: str = "", for_s: float | None = None, where: Where | None = None
) -> str | None:
    """Return one line for a shell; None where a name cannot be written in a command, or there are too many of them.

    Args:
        targets: names or ids, as the action takes them.
        way: of a toggle: which way it goes.
        for_s: of a pause: how long.
    """
    try:
        parts = _parts(action, targets, way, for_s)
    except InvalidNameError:
        # What does not look like a name did not come from Stem; pasted into a shell it might do anything.
        return None
    head = (where or Where()).words()
    return " && ".join(shlex.join([*head, *part]) for part in parts) or None


def look(kind: str, target: str, where: Where | None = None) -> str | None:
    """Return the command that shows a queue, worker or task."""
    if kind not in ("queue", "worker", "task"):
        return None
    try:
        name = check_name(_NAMES[kind], target)
    except InvalidNameError:
        return None
    return shlex.join([*(where or Where()).words(), f"{kind}s", "show", *_positional([name])])


def _parts(action: Action, targets: Sequence[str], way: str, for_s: float | None) -> list[list[str]]:
    if action.pauses:
        kind = "task" if action.scope == "failure" else action.scope
        words = [way or "pause"]
        for target in targets:
            words += [f"--{kind}", check_name("task" if kind == "task" else _NAMES[kind], target)]
        return [[*words, "--for", format_duration(for_s)] if for_s is not None and words[0] == "pause" else words]
    names = [check_name(_NAMES[action.scope], target) for target in targets]
    match action.id:
        case "worker.drain":
            return [[way or "drain", *_positional(names)]]
        case "worker.stop" | "worker.soft" | "worker.kill":
            return [["shutdown", "--mode", _MODES[action.id], *_positional(names)]]
        case "queue.purge":
            return [["queues", "purge", *_positional([name])] for name in names]
        case "queue.replay" | "queue.discard":
            return [["dlq", _DEAD[action.id], "--queue", name] for name in names]
    if action.id in _TASKS and len(names) <= MOST_IDS:
        batches = [names[at : at + BATCH] for at in range(0, len(names), BATCH)]
        return [[*_TASKS[action.id], *_positional(batch)] for batch in batches]
    return []


def _positional(names: Sequence[str]) -> list[str]:
    """Return names so that none is taken for an option."""
    return ["--", *names] if any(name.startswith("-") for name in names) else list(names)
