"""Every mutant there is."""

from __future__ import annotations

from typing import Final

from tests.mutants.known import KNOWN
from tests.mutants.own import OWN

MUTANTS: Final = (*KNOWN, *OWN)
