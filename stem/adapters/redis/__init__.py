"""The broker on Redis Streams: any Redis from 7.0, or Valkey. The only place that imports redis."""

from stem.adapters.redis.backend import RedisResultBackend
from stem.adapters.redis.broker import RedisStreamsBroker

__all__ = ["RedisResultBackend", "RedisStreamsBroker"]
