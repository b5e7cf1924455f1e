"""The memory adapter keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stem.adapters.memory import InMemoryResultBackend
from stem.testing.contract import BrokerCase, BrokerContract, ResultBackendContract
from tests.contract.cases import MemoryCase, closing


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    async def broker_case(self) -> AsyncIterator[BrokerCase]:
        async with closing(MemoryCase) as case:
            yield case


class TestMemoryResults(ResultBackendContract):
    @pytest.fixture
    async def result_backend(self) -> AsyncIterator[InMemoryResultBackend]:
        backend = InMemoryResultBackend()
        yield backend
        await backend.close()
