"""The metrics of a worker, from the table that `/metrics` itself is written by."""

from __future__ import annotations

from stem.worker.metrics import NAMES
from tests.reference.markdown import code, table


def metrics() -> str:
    """Return one row per metric."""
    return table(["metric", "what it tells"], [[code(name), text] for name, text in NAMES.items()])
