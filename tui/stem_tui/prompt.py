"""The command line behind `:`: what a line means, and what could come next. Pure, knows no widget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stem.config import parse_duration
from stem.errors import ConfigError
from stem.record import record
from stem_tui.actions import ACTIONS, Action

SHOWN: Final = 200
"""Candidates at most: the rest is found by typing on."""


class PromptError(ValueError):
    """A line that means nothing here; says what does."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a line asks for; `name` is what it was called by: of a toggle, that says which way it goes."""

    action: Action
    argument: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to go on: the whole line as it would be, and what it means."""

    line: str
    help: str = ""


@record
class Known:
    """What the line can name now.

    Attributes:
        kind: of the row under the cursor, whose actions can be given by name; empty for none.
        words: of each kind of argument (`queue worker task theme filter`) the values there are, clean.
    """

    kind: str = ""
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)


def usable(known: Known) -> list[Action]:
    """Return the actions that can be given by name now: those of the row first, then those that go anywhere."""
    named = [action for action in ACTIONS if action.listed]
    here = [action for action in named if action.scope == known.kind]
    return here + [action for action in named if action.scope in ("command", "app", "list")]


def parse(line: str, known: Known) -> Order | None:
    """Return what the line asks for; None for an empty one.

    Raises:
        PromptError: there is no such command here, or its argument cannot be.
    """
    name, _, argument = line.strip().lstrip(":").strip().partition(" ")
    argument = argument.strip()
    if not name:
        return None
    listed = usable(known)
    action = next((each for each in listed if name in each.names), None)
    if action is None:
        begun = list(dict.fromkeys(each.name for each in listed if each.name.startswith(name)))
        if len(begun) != 1:
            raise PromptError(_unknown(name, begun, known))
        action = next(each for each in listed if each.name == begun[0])
    if argument and not action.takes:
        raise PromptError(f"{action.name} takes nothing more: {argument[:40]} is not understood")
    if not argument and action.needs:
        raise PromptError(f"{action.name} needs {_A[action.takes]}")
    if argument and action.takes == "duration":
        seconds(argument)
    # Half a name that means only one thing means that one.
    return Order(action, argument, name if name in action.names else action.name)


_A: Final = {
    "queue": "the name of a queue", "worker": "the name of a worker", "task": "the id of a task",
    "theme": "a set of colours", "filter": "a filter", "duration": "a time such as 10m", "file": "a file's name",
}  # fmt: skip


def _unknown(name: str, begun: Sequence[str], known: Known) -> str:
    if begun:
        return f"{name}: which one? {', '.join(begun[:6])}"
    elsewhere = sorted({each.scope for each in ACTIONS if name in each.names and each.scope != known.kind})
    if elsewhere:
        return f"{name} is for a {' or a '.join(elsewhere)}: put the cursor on one"
    return f"there is no command {name[:40]}: tab lists them"


def seconds(text: str) -> float:
    """Return the seconds of a duration typed by a person.

    Raises:
        PromptError: it is none, or nothing.
    """
    try:
        found = parse_duration(text, name="it")
    except ConfigError:
        raise PromptError(f"{text[:20]} is no length of time: write 30s, 10m, 2h or 1d") from None
    if found < 1:
        raise PromptError("at least 1s")
    return found


def candidates(line: str, known: Known) -> list[Candidate]:
    """Return how the line could go on, best first: commands by their beginning, then by what is said of them."""
    typed = line.lstrip().lstrip(":").lstrip()
    name, gap, argument = typed.partition(" ")
    listed = usable(known)
    if gap:
        action = next((each for each in listed if name in each.names), None)
        if action is None:
            return []
        return _arguments(action, name, argument.lstrip(), known)
    found: dict[str, Candidate] = {}
    ranks: list[tuple[int, int, Action]] = []
    for place, action in enumerate(listed):
        rank = _rank(action, name.casefold())
        if rank is not None:
            ranks.append((rank, place, action))
    for _, _, action in sorted(ranks, key=lambda each: each[:2]):
        found.setdefault(action.name, Candidate(action.name + (" " if action.needs else ""), _said(action)))
    return list(found.values())


def _rank(action: Action, typed: str) -> int | None:
    if any(each.startswith(typed) for each in action.names):
        return 0
    if typed in action.name or typed in action.label.casefold():
        return 1
    return 2 if typed in action.help.casefold() else None


def _said(action: Action) -> str:
    key = f"{action.shown}  " if action.keys else ""
    return f"{key}{action.help}"


def _arguments(action: Action, name: str, typed: str, known: Known) -> list[Candidate]:
    if not action.takes:
        return []
    before, last = "", typed
    if action.takes == "filter":
        # Of a filter, the last term is being typed.
        before, gap, last = typed.rpartition(" ")
        before += gap
    wanted = last.casefold()
    values = [each for each in known.words.get(action.takes, ()) if wanted in each.casefold()]
    values.sort(key=lambda each: (not each.casefold().startswith(wanted), each))
    return [Candidate(f"{name} {before}{each}") for each in values[:SHOWN]]


def completed(line: str, found: Sequence[Candidate]) -> str:
    """Return the line as far as all candidates that begin with it agree; the first one where they do not."""
    typed = line.lstrip().lstrip(":").lstrip()
    begun = [each.line for each in found if each.line.startswith(typed)]
    if not begun:
        return found[0].line if found else line
    common = begun[0]
    for each in begun[1:]:
        while not each.startswith(common):
            common = common[:-1]
    return common if len(common) > len(typed) else begun[0]
