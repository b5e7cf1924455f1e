"""The Redis adapter keeps the contract on Debian's Redis 7.0, the oldest server it supports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stem.adapters.redis.backend import RedisResultBackend
from stem.testing.contract import BrokerCase, BrokerContract, ResultBackendContract
from tests.contract.cases import RedisCase, closing
from tests.servers import Server

pytestmark = pytest.mark.debian_redis


class TestRedis70Broker(BrokerContract):
    @pytest.fixture
    async def broker_case(self, redis70_server: Server, namespace: str) -> AsyncIterator[BrokerCase]:
        async with closing(lambda: RedisCase(redis70_server, namespace)) as case:
            yield case


class TestRedis70Results(ResultBackendContract):
    @pytest.fixture
    async def result_backend(self, redis70_url: str, namespace: str) -> AsyncIterator[RedisResultBackend]:
        backend = RedisResultBackend(redis70_url, namespace=namespace)
        yield backend
        await backend.close()
