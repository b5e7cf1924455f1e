"""Fixtures of the fault tests: a world on the shared Valkey, and worlds on servers that a test may kill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.faults.fleet import World

Worlds = Callable[..., World]

TIMEOUT_S = 90.0
"""For a test that has no mark of its own: on a loaded machine a worker alone may take as long as `READY_S`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture
async def worlds(namespace: str, tmp_path: Path) -> AsyncIterator[Worlds]:
    """Make worlds: `worlds(url, beat_s=0.4, STEM_WEDGED_TIMEOUT="2s")`; everything ends with the test."""
    made: list[World] = []

    def make(url: str, *, beat_s: float = 0.4, **env: str) -> World:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(World(url=url, namespace=namespace, folder=folder, beat_s=beat_s, **env))
        return made[-1]

    yield make
    for world in made:
        await world.close()


@pytest.fixture
async def world(worlds: Worlds, valkey_url: str) -> World:
    return worlds(valkey_url)
