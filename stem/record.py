"""Values that pass between the rooms of Stem: plain fields, equal when they are equal, changed by nobody.

A frozen dataclass would refuse a change while the program runs, and pays for that at each start (five methods are
compiled for each class) and for each value (`object.__setattr__` once a field: more than twice the time). Here the type
checker refuses it. What a user's code is given stays a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(made: type[T]) -> type[T]:
    """Make a class one of values, with slots and arguments by keyword only."""
    return _finish(dataclass(slots=True, kw_only=True, eq=False, repr=False, match_args=False)(made))


def _finish(made: type[T]) -> type[T]:
    names = [each.name for each in fields(made)]  # type: ignore[arg-type] # it is a dataclass
    values = attrgetter(*names) if names else _nothing

    def equal(self: Any, other: object) -> bool:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    for name, method in (("__eq__", equal), ("__hash__", hashed), ("__repr__", _shown)):
        setattr(made, name, method)
    return made


def _nothing(_: object) -> tuple[()]:
    return ()


def _shown(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({shown})"
