"""The key-leak checker: every key has a known form, a time to live or a reason to have none, and an owner."""

from __future__ import annotations

import re
from typing import Any, Final

import redis.asyncio

from stem.adapters.redis.address import parse_address
from stem.contracts import Broker
from stem.messages.status import TaskState
from tests.leaks import KNOWN_KEYS

LASTING: Final = re.compile(
    r"\{[^}]+\}:(?:q:[^:]+:(?:p[0-9]|meta|bell|dead)|queues|workers|fleet|epoch|fence|schema|history|audit(?::outcomes)?|watch"
    r"|control:log|events|desired:(?:pause|drain|shutdown))"
)
"""Kept without a time to live, because they are the queue itself, what operators asked for, or bounded by length."""


async def strays(url: str, namespace: str, broker: Broker) -> list[str]:
    """Return a complaint for each kind of key that is out of place. Call it when every task has ended."""
    address = parse_address(url)
    client = redis.asyncio.Redis(
        **({"unix_socket_path": address.path} if address.path else {"host": address.host, "port": address.port}),
        db=address.db,
        decode_responses=True,
        encoding_errors="backslashreplace",
    )
    async with client:
        return await _look(client, "{" + namespace + "}:", broker)


async def _look(client: Any, prefix: str, broker: Broker) -> list[str]:
    complaints: list[str] = []
    keys = sorted([key async for key in client.scan_iter(match=prefix.replace("{", "\\{") + "*", count=1000)])
    unknown = [key for key in keys if KNOWN_KEYS.fullmatch(key) is None]
    if unknown:
        complaints.append(f"keys of an unknown form: {unknown[:5]}")
    rest = [key for key in keys if LASTING.fullmatch(key) is None]
    for first in range(0, len(rest), 1000):
        pipe = client.pipeline(transaction=False)
        chunk = rest[first : first + 1000]
        for key in chunk:
            pipe.pttl(key)
        forever = [key for key, ttl in zip(chunk, await pipe.execute(), strict=True) if ttl == -1]
        complaints += await _without_reason(forever, prefix, broker)
    complaints += await _consumers(client, prefix, keys, broker)
    for key in keys:
        if key.endswith(":bell") and await client.llen(key) > 1:
            complaints.append(f"{key} has more than one token")
    return complaints[:10]


async def _without_reason(forever: list[str], prefix: str, broker: Broker) -> list[str]:
    """A record lasts while its task has not ended, or is kept as a dead letter; nothing else lasts."""
    tasks = [key.removeprefix(f"{prefix}task:") for key in forever if key.startswith(f"{prefix}task:")]
    others = [key for key in forever if not key.startswith(f"{prefix}task:")]
    complaints = [f"{key} has no time to live and no reason for that" for key in others]
    ended = [
        status.id
        for status in await broker.statuses(tasks, timeline=False)
        if status is not None and status.state.final and status.state is not TaskState.FAILED
    ]
    if ended:
        complaints.append(f"records of ended tasks without a time to live: {ended[:5]}")
    return complaints


async def _consumers(client: Any, prefix: str, keys: list[str], broker: Broker) -> list[str]:
    """A consumer belongs to a worker that lives, or that was heard of within the hour and holds nothing."""
    known = {seen.heartbeat.id for seen in await broker.presence.workers()}
    complaints = []
    for key in keys:
        if re.fullmatch(re.escape(prefix) + r"q:[^:]+:p[0-9]", key) is None:
            continue
        if await client.xlen(key):
            complaints.append(f"{key} has {await client.xlen(key)} entries left")
        for group in await client.xinfo_groups(key):
            if group["pending"]:
                complaints.append(f"{key} has {group['pending']} entries pending")
            for consumer in await client.xinfo_consumers(key, group["name"]):
                if consumer["name"] not in known:
                    complaints.append(f"{key}: consumer {consumer['name']} belongs to nobody")
    return complaints
