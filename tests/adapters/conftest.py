"""An in-memory broker on a clock that stands still."""

from __future__ import annotations

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def broker(clock: FakeClock) -> InMemoryBroker:
    return InMemoryBroker(clock=clock)
