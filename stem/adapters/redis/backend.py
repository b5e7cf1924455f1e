"""A copy of final statuses on a Redis of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from stem.adapters.redis.address import parse_address
from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.connections import to_the_end
from stem.adapters.redis.keys import Keys
from stem.adapters.redis.reading import reading
from stem.errors import BrokerError, DecodeError
from stem.messages.names import check_name
from stem.messages.status import TaskStatus

if TYPE_CHECKING:
    from stem.config import TLSConfig


class RedisResultBackend:
    """Final statuses by task id. The higher token wins, for equal tokens the first."""

    def __init__(self, url: str, *, namespace: str = "stem", tls: TLSConfig | None = None) -> None:
        address = parse_address(url, tls)
        keys = Keys(check_name("namespace", namespace), address.db)
        self._url = url
        self._namespace = namespace
        self._tls = tls
        self._client = RedisClient(address, keys, client_name=f"stem-{namespace}-results")

    @classmethod
    async def connect(cls, url: str, *, namespace: str = "stem", tls: TLSConfig | None = None) -> Self:
        """Make a backend and prove that its server answers.

        Raises:
            BrokerUnreachableError, BrokerRefusedError: it does not.
        """
        backend = cls(url, namespace=namespace, tls=tls)
        try:
            await backend._client.command("PING")
        except BrokerError:
            await backend.close()
            raise
        return backend

    async def store(self, status: TaskStatus, *, ttl_ms: int) -> bool:
        return bool(await self._client.run("store", status.id, status.token, status.encode(), ttl_ms))

    async def get(self, task_id: str) -> TaskStatus | None:
        data = await self._client.command("HGET", self._client.keys.result(task_id), "s")
        with reading("HGET"):
            try:
                return None if data is None else TaskStatus.decode(data)
            except DecodeError:
                return None

    def clone(self) -> RedisResultBackend:
        return RedisResultBackend(self._url, namespace=self._namespace, tls=self._tls)

    async def close(self) -> None:
        await to_the_end(self._client.close())
