"""What a worker is made with, and what it refuses to be made with."""

from __future__ import annotations

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.config import StemConfig
from stem.errors import InvalidInputError
from stem.registry import SimpleTaskRegistry
from stem.worker import Worker


def test_one_text_is_no_list_of_queues() -> None:
    broker, registry = InMemoryBroker(), SimpleTaskRegistry()

    with pytest.raises(InvalidInputError, match="queues: 'abc' is one text: give a list, such as \\['abc'\\]"):
        Worker(broker=broker, registry=registry, queues="abc")
    with pytest.raises(InvalidInputError, match="give a list"):
        Worker(broker=broker, registry=registry, config=StemConfig(worker_queues="abc"))  # type: ignore[arg-type]

    assert Worker(broker=broker, registry=registry, queues=["abc"]).queues == ("abc",)
