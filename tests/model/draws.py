"""What the rules draw."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from stem.contracts import NewTask, Outcome
from stem.messages.envelope import Envelope
from tests.model.comparison import NAMES, QUEUES, TARGETS, WORKERS

queues = st.sampled_from(QUEUES)
orders = st.sampled_from([("alpha",), ("beta",), ("alpha", "beta"), ("beta", "alpha")])
workers = st.sampled_from(WORKERS)
targets = st.sampled_from([(kind, target) for kind, named in TARGETS.items() for target in named])
places = st.sampled_from(range(8))
"""Which of several things, counted from the newest."""


def make_task(
    task_id: str, *, task: str = "mail", queue: str = "alpha", version: int = 1, unique: bool = False, **set_: Any
) -> NewTask:
    """Return a task whose body tells versions of the same id apart."""
    body = Envelope(id=task_id, task=task, args={"version": version}).encode()
    return NewTask(id=task_id, task=task, queue=queue, body=body, unique_key="k" if unique else None, **set_)


kinds = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(NAMES),
        "queue": queues,
        "unique": st.just(True),
        "priority": st.sampled_from([0, 5, 9]),
        "delay_ms": st.sampled_from([0, 500, 5_000]),
        "expires_in_ms": st.sampled_from([800, 10_000]),
        "lease_ms": st.just(3_000),
    },
)

ends = st.fixed_dictionaries(
    {"outcome": st.sampled_from(Outcome)}, optional={"delay_ms": st.just(700), "unknown": st.just(True)}
)
several_ends = st.lists(ends, min_size=1, max_size=4)
deliveries = st.tuples(st.sampled_from(["running", "old", "any"]), places)
