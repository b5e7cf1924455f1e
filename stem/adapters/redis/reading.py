"""Replies of a form that no script of ours gives: another server, or something in between, answered."""

from __future__ import annotations

from typing import Final

from stem.errors import StemError, UnknownOutcomeError
from stem.text import clean

MISREAD: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What code raises that was given something else than it was written for."""


def whole(value: object) -> int:
    """Return what a script gave as a number.

    Raises:
        TypeError: it is anything else: let through here, it would stop whoever counts with it.
    """
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} in the place of a number")
    return value


def raw(value: object) -> bytes:
    """Return what a script gave as bytes.

    Raises:
        TypeError: it is anything else.
    """
    if type(value) is not bytes:
        raise TypeError(f"{type(value).__name__} in the place of bytes")
    return value


class reading:  # reads as a word: `with reading("sweep"):`
    """Make a block that takes a reply apart raise `UnknownOutcomeError` where it stumbles: it may have been done.

    Only such code belongs into the block: a mistake of ours in there looks like one of the server's, but for the cause.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MISREAD) and not isinstance(error, StemError):
            raise UnknownOutcomeError(
                f"the answer to {self._what} has not the form that Stem's scripts give it ({type(error).__name__}: "
                f"{clean(error, 200)}): it may or may not have been done. Is the URL that of a Redis or Valkey server, "
                "with nothing in between that changes replies?"
            ) from error
