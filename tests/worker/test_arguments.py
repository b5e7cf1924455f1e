"""What a worker is made with, and what it refuses to be made with."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.config import StemConfig
from stem.errors import ConfigError, InvalidInputError
from stem.registry import SimpleTaskRegistry
from stem.worker import Worker, WorkerLifecycleConfig


def test_one_text_is_no_list_of_queues() -> None:
    broker, registry = InMemoryBroker(), SimpleTaskRegistry()

    with pytest.raises(InvalidInputError, match="queues: 'abc' is one text: give a list, such as \\['abc'\\]"):
        Worker(broker=broker, registry=registry, queues="abc")
    with pytest.raises(InvalidInputError, match="give a list"):
        Worker(broker=broker, registry=registry, config=StemConfig(worker_queues="abc"))  # type: ignore[arg-type]

    assert Worker(broker=broker, registry=registry, queues=["abc"]).queues == ("abc",)


TIMES = ("soft_timeout", "drain_timeout", "wedged_timeout")


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["5s", math.nan, math.inf, -1, -0.001, True, timedelta(seconds=-1), b"5", [5]])
def test_a_time_of_its_life_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}="):
        WorkerLifecycleConfig(**{name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("value", "seconds"), [(timedelta(milliseconds=1500), 1.5), (0, 0.0), (2.5, 2.5)])
def test_a_time_of_its_life_is_kept_in_seconds(name: str, value: Any, seconds: float) -> None:
    kept = getattr(WorkerLifecycleConfig(**{name: value}), name)

    assert (kept, type(kept)) == (seconds, float)


def test_no_soft_timeout_is_no_time_and_of_the_others_what_is_configured() -> None:
    with pytest.raises(ConfigError, match="soft_timeout=None"):
        WorkerLifecycleConfig(soft_timeout=None)  # type: ignore[arg-type]

    assert (WorkerLifecycleConfig().drain_timeout, WorkerLifecycleConfig().wedged_timeout) == (None, None)
