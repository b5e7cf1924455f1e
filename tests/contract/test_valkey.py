"""The Redis adapter keeps the contract on the Valkey that ships with Stem."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stem.adapters.redis.backend import RedisResultBackend
from stem.testing.contract import BrokerCase, BrokerContract, ResultBackendContract
from tests.contract.cases import RedisCase, closing
from tests.servers import Server


class TestValkeyBroker(BrokerContract):
    @pytest.fixture
    async def broker_case(self, valkey_server: Server, namespace: str) -> AsyncIterator[BrokerCase]:
        async with closing(lambda: RedisCase(valkey_server, namespace)) as case:
            yield case


class TestValkeyResults(ResultBackendContract):
    @pytest.fixture
    async def result_backend(self, valkey_url: str, namespace: str) -> AsyncIterator[RedisResultBackend]:
        backend = RedisResultBackend(valkey_url, namespace=namespace)
        yield backend
        await backend.close()
