"""Every mutant there is, in the order of their ids."""

from __future__ import annotations

import re
from typing import Final

from tests.mutants.known import KNOWN
from tests.mutants.mutant import Mutant
from tests.mutants.own import OWN


def _place(mutant: Mutant) -> tuple[str, int, str]:
    letter, number, form = re.fullmatch(r"([A-Z])(\d+)([a-z]?)", mutant.id).groups()  # type: ignore[union-attr]
    return letter, int(number), form


MUTANTS: Final = tuple(sorted((*KNOWN, *OWN), key=_place))
