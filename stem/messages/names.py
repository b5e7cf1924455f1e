"""The rules for names and ids, checked where they enter and where they are read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from stem.errors import InvalidInputError, InvalidNameError

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TASK_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")
TASK_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Kind = Literal["namespace", "queue", "worker", "task", "task id", "unique key"]

_FORMS: Final[dict[Kind, tuple[re.Pattern[str], str]]] = {
    "namespace": (NAME, "1 to 64 of A-Z a-z 0-9 _ . -"),
    "queue": (NAME, "1 to 64 of A-Z a-z 0-9 _ . -"),
    "worker": (NAME, "1 to 64 of A-Z a-z 0-9 _ . -"),
    "task": (TASK_NAME, "1 to 200 of A-Z a-z 0-9 _ . : / -"),
    "task id": (TASK_ID, "1 to 64 of A-Z a-z 0-9 _ . -"),
    "unique key": (TASK_NAME, "1 to 200 of A-Z a-z 0-9 _ . : / -"),
}


def is_name(kind: Kind, value: object) -> bool:
    """Say whether `value` is a well-formed name of this kind."""
    return isinstance(value, str) and _FORMS[kind][0].fullmatch(value) is not None


def check_name(kind: Kind, value: object) -> str:
    """Return `value` if it is a well-formed name of this kind.

    Raises:
        InvalidNameError: it is not; the message shows it shortened and escaped, and the accepted form.
    """
    if isinstance(value, str) and _FORMS[kind][0].fullmatch(value) is not None:
        return value
    shown = ascii(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    raise InvalidNameError(f"{shown} is not a {kind} name: use {_FORMS[kind][1]}")


def check_list(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return `names`, if it is not one text, which would be taken for a list of its characters: `*` means everybody.

    Raises:
        InvalidInputError: it is; names `what` was to be given.
    """
    if isinstance(names, str | bytes):
        raise InvalidInputError(f"{what}: {ascii(names)[:80]} is one text: give a list, such as [{ascii(names)[:80]}]")
    return tuple(names)
