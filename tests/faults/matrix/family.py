"""What a family of faults is, and the rows of the table it gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from tests.faults.matrix.stage import Stage

Scale = Literal["share", "full"]

MODULES: Final = (
    "kills",
    "crashpoints",
    "poison",
    "children",
    "stops",
    "servers",
    "vanish",
    "disk",
    "failover",
    "rights",
    "wire",
    "control",
    "clocks",
    "crowds",
    "clean",
    "chaos_load",
    "probes",
)
"""The modules of this package that hold families, in the order in which they run."""


@dataclass(kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        injected: what was done, with its count: "400 kills".
        tasks: acknowledged by the broker.
        lost: acknowledged and never ended. doubled: ended more than once.
        extra_starts: beyond the first and those of recorded retries; `unexplained` of them had no fault either.
        recovery_s: the longest time until what a fault interrupted went on; None where nothing was measured.
        violations: what did not hold; empty in a good run.
        note: further figures.
    """

    check: str
    injected: str
    tasks: int = 0
    lost: int = 0
    doubled: int = 0
    extra_starts: int = 0
    unexplained: int = 0
    recovery_s: float | None = None
    violations: list[str] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        return not self.violations and not self.lost and not self.doubled and not self.unexplained


Body = Callable[["Stage"], Awaitable[list[Row]]]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of fault.

    Attributes:
        id: of the matrix in the reliability notes, such as `T-F4`; the same one may have several families (`T-F4b`).
        share_s: the time limit of its share in `make test`, in seconds; generous, a slow machine is no failure.
        full_s: the time limit of the full run.
    """

    id: str
    title: str
    body: Body
    share_s: float
    full_s: float


FAMILIES: Final[dict[str, Family]] = {}


def family(id: str, title: str, *, share_s: float = 60.0, full_s: float = 1_200.0) -> Callable[[Body], Body]:
    """Register a family."""

    def register(body: Body) -> Body:
        if id in FAMILIES:
            raise ValueError(f"two families are called {id}")
        FAMILIES[id] = Family(id, title, body, share_s, full_s)
        return body

    return register


def all_families() -> list[Family]:
    """Import every module of families and return what they registered, in order."""
    for name in MODULES:
        if importlib.util.find_spec(f"tests.faults.matrix.{name}") is not None:
            importlib.import_module(f"tests.faults.matrix.{name}")
    return list(FAMILIES.values())
