"""What the shell completes after TAB: names that the broker knows, asked for with a short timeout. Silent on errors."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:  # only for annotations: completion of options loads nothing of Stem
    from stem.contracts import Broker

TIMEOUT_S: Final = 1.0
_SAFE: Final = re.compile(r"[\w.:/@-]+", re.ASCII)
"""What every name of Stem is made of. Others are somebody's mischief: shells put them on the line as they are."""


def workers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names and ids of workers that are there."""

    async def names(broker: Broker) -> list[str]:
        seen = [worker for worker in await broker.presence.workers() if not worker.stopped]
        return [worker.heartbeat.name for worker in seen] + [worker.heartbeat.id for worker in seen]

    return _ask(ctx, names, incomplete)


def queues(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the known queues."""

    async def names(broker: Broker) -> list[str]:
        return [row.name for row in await broker.census.queues()]

    return _ask(ctx, names, incomplete)


def tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of tasks that ran or came in lately, or run now."""

    async def names(broker: Broker) -> list[str]:
        found = {row.task for row in await broker.census.minutes(60) if row.task != "~other"}
        found |= {task.task for worker in await broker.presence.workers() for task in worker.heartbeat.running}
        return sorted(found)

    return _ask(ctx, names, incomplete)


def task_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return ids of running, waiting and dead tasks, some of each."""

    async def ids(broker: Broker) -> list[str]:
        found = []
        for state in ("running", "queued", "retrying", "scheduled", "dead"):
            page = await broker.census.tasks(state, limit=20)
            found += [task.id for task in page.items]
        return found

    return _ask(ctx, ids, incomplete)


def inspections(incomplete: str) -> list[str]:
    """Return what can be inspected."""
    from stem.control.asking import INSPECT

    return [what for what in INSPECT if what.startswith(incomplete)]


def _ask(ctx: typer.Context, what: Callable[[Broker], Awaitable[list[str]]], incomplete: str) -> list[str]:
    import asyncio  # here, with these: completing an option needs no broker

    from stem.adapters.connect import connect_broker, resolve_url
    from stem.config import StemConfig

    def option(name: str) -> str | None:
        level: Any = ctx  # its parents are contexts of Typer's own Click
        while level is not None:
            if level.params.get(name):
                return str(level.params[name])
            level = level.parent
        return None

    async def ask() -> list[str]:
        config = StemConfig.from_environment()
        url = resolve_url(option("url"), interactive=False)
        if url.startswith("embedded:"):
            return []  # a TAB must not start a server
        broker = connect_broker(url, namespace=option("namespace") or config.namespace, tls=config.tls)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await what(broker)
        finally:
            await broker.close()

    try:
        found = asyncio.run(ask())
    except Exception:  # nobody can read an error in the middle of a line being typed
        return []
    return [name for name in dict.fromkeys(found) if name.startswith(incomplete) and _SAFE.fullmatch(name)][:200]
