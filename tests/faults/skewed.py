"""The application of the fault tests in a process whose wall clock is wrong, as `FAULTS_CLOCK` says.

Four numbers of seconds: how far it is ahead, how much it gains each second, and a jump, so long after the start.
"""

from __future__ import annotations

import os
import time
from typing import Final

CLOCK_VARIABLE: Final = "FAULTS_CLOCK"

_ahead_s, _gains, _jump_s, _jump_at_s = (float(part) for part in os.environ[CLOCK_VARIABLE].split())
_right_ns = time.time_ns
_began = time.monotonic()


def _wrong_ns() -> int:
    past_s = time.monotonic() - _began
    jump_s = _jump_s if past_s >= _jump_at_s else 0.0
    return _right_ns() + round((_ahead_s + _gains * past_s + jump_s) * 1e9)


def _wrong() -> float:
    return _wrong_ns() / 1e9


time.time_ns = _wrong_ns
time.time = _wrong

from tests.faults.app import app as app  # noqa: E402  # whatever it reads of the clock is wrong already
