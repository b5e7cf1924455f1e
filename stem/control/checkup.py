"""Reading what `stem.control.doctor` judges: from the broker, and from the workers themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from stem.contracts import Broker, Limits, ListState, Pause, QueueRow, Seen
from stem.control.asking import Asker
from stem.control.doctor import Diagnosis, Facts, judge
from stem.control.target import live
from stem.control.why import registered_names
from stem.errors import BrokerRefusedError
from stem.text import clean

QUEUES: Final = 20
"""Queues whose heads are looked at."""
HEAD: Final = 200
"""Tasks at the head of each that are looked at for their names."""

WAITING: Final[tuple[ListState, ...]] = ("queued", "scheduled", "retrying")


async def examine(broker: Broker, asker: Asker, *, limits: Limits, version: str) -> Diagnosis:
    """Look at the server, its keys, the workers and the queues, and say what is wrong.

    Args:
        asker: asks the live workers; a short timeout will do.
        limits: those that producers and workers are configured with.
        version: of the program that asks.

    Raises:
        BrokerError: the broker is away, or refuses what everybody needs.
    """
    return judge(await gather(broker, asker, limits=limits, version=version))


async def gather(broker: Broker, asker: Asker, *, limits: Limits, version: str) -> Facts:
    """Read the facts; bounded work, whatever the backlog."""
    census = broker.census
    info = await census.info()
    examination = await census.examine()
    unread: dict[str, str] = {}
    queues: Sequence[QueueRow] = ()
    pauses: Sequence[Pause] = ()
    try:
        queues = await census.queues()
        pauses = await census.pauses()
    except BrokerRefusedError as error:
        # A replica counts nothing: its scripts are taken for writes.
        unread["queues"] = unread["pauses"] = clean(str(error), 300)
    answers: dict[str, str] | None = None
    registered: dict[str, Collection[str]] = {}
    try:
        ping = await asker.ping()
        answers = {pong.id: pong.diagnosis for pong in ping.workers} | {one.id: one.diagnosis for one in ping.silent}
        for answer in (await asker.inspect("registered")).workers if ping.replied else ():
            if answer.ok:
                registered[answer.id] = registered_names(answer.data)
    except BrokerRefusedError as error:
        # A viewer of the server may look, but ask nobody.
        unread["answers"] = unread["names"] = clean(str(error), 300)
    workers = await broker.presence.workers()
    return Facts(
        version=version,
        info=info,
        limits=limits,
        examination=examination,
        workers=workers,
        queues=queues,
        pauses=pauses,
        answers=answers,
        registered=registered,
        waiting=await _waiting(broker, queues, workers) if registered else {},
        unread=unread,
    )


async def _waiting(broker: Broker, queues: Sequence[QueueRow], workers: Sequence[Seen]) -> dict[str, frozenset[str]]:
    """Return the names of the tasks at the heads of queues that somebody takes."""
    taken = {queue for seen in live(workers) for queue in seen.heartbeat.queues}
    found: dict[str, frozenset[str]] = {}
    for row in [row for row in queues if row.ready + row.retrying + row.delayed and row.name in taken][:QUEUES]:
        names: set[str] = set()
        for state in WAITING:
            page = await broker.census.tasks(state, queue=row.name, limit=HEAD)
            names |= {task.task for task in page.items}
        found[row.name] = frozenset(names)
    return found
