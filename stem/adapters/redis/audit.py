"""Reading the audit: a stream of rows, and the outcomes told later in a sorted set by their row's time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from stem.adapters.redis.client import Arg, RedisClient
from stem.adapters.redis.reading import reading
from stem.adapters.redis.record import number, text
from stem.contracts import AuditPage, AuditRow
from stem.errors import DecodeError, InvalidInputError
from stem.messages.audit import AuditOutcome
from stem.messages.names import is_name

_CHUNK: Final = 500
_ENTRY: Final = re.compile(r"([0-9]{1,15})-[0-9]{1,15}")
_COUNT: Final = re.compile(r"([a-z_-]{1,40}):([0-9]{1,9})")
_SAME_TIME: Final = 100
"""Outcomes of rows of one millisecond that are looked through for one row's."""


def is_row(name: str) -> bool:
    """Say whether this has the form of a row's name."""
    return _ENTRY.fullmatch(name) is not None


async def read(
    client: RedisClient, *, verb: str | None, actor: str | None, target: str | None, cursor: str | None, limit: int
) -> AuditPage:
    """Return a page of the audit; see `stem.contracts.Census.audit`."""
    if cursor is not None and not is_row(cursor):
        raise InvalidInputError(f"{cursor[:40]!a} is not a cursor of this listing: use `next` of the page before")
    limit = max(1, min(limit, _CHUNK))
    every = verb is None and actor is None and target is None
    rows: list[AuditRow] = []
    before, more = cursor, True
    # The stream is capped, so this ends. One row more than asked for tells whether there is a next page.
    while more and len(rows) <= limit:
        wanted = limit + 1 - len(rows) if every else _CHUNK
        entries = await client.command(
            "XREVRANGE", client.keys.audit, "+" if before is None else f"({before}", "-", "COUNT", wanted
        )
        with reading("XREVRANGE"):
            more = len(entries) == wanted
            for entry, fields in entries:
                before = text(entry)
                row = row_of(before, fields)
                if row is not None and row.fits(verb=verb, actor=actor, target=target):
                    rows.append(row)
    total = await client.command("XLEN", client.keys.audit) if every else None
    following = rows[limit - 1].id if len(rows) > limit else None
    with reading("XLEN"):
        return AuditPage(items=await _concluded(client, rows[:limit]), next=following, total=number(total))


async def _concluded(client: RedisClient, rows: Sequence[AuditRow]) -> list[AuditRow]:
    """Return the rows with their outcomes, where one was told and can be read."""
    at: list[list[Arg]] = [
        ["ZRANGE", client.keys.audit_outcomes, row.at_ms, row.at_ms, "BYSCORE", "LIMIT", 0, _SAME_TIME] for row in rows
    ]
    found = await client.commands(at, each=True)
    return [with_outcome(row, told or ()) for row, told in zip(rows, found, strict=True)]


def row_of(entry: str, fields: Any) -> AuditRow | None:
    """Build a row from a stream's entry; None where it makes no sense."""
    form = _ENTRY.fullmatch(entry)
    if form is None or not isinstance(fields, list):
        return None
    named = {text(name): text(value) for name, value in zip(fields[::2], fields[1::2], strict=False)}
    verb, targets = named.get("type", ""), named.get("targets", "").split()
    if not is_name("task id", verb) or not is_name("task id", named.get("id")):
        return None
    return AuditRow(
        id=entry,
        at_ms=int(form[1]),
        verb=verb,
        command_id=named["id"],
        actor=named.get("actor", ""),
        reason=named.get("reason", ""),
        kind=named.get("kind", ""),
        option=named.get("option", ""),
        targets=tuple(targets),
        count=max(len(targets), number(named.get("n", "")) or 0),
        epoch=number(named.get("epoch", "")) or 0,
        stored={word: int(count) for word, count in _COUNT.findall(named.get("did", ""))},
    )


def with_outcome(row: AuditRow, told: Sequence[bytes]) -> AuditRow:
    """Return a row with its outcome, if one of these is its own and can be read."""
    for data in told:
        name, _, rest = data.partition(b"\t")
        at, _, outcome = rest.partition(b"\t")
        if name == row.id.encode():
            try:
                return replace(row, outcome=AuditOutcome.decode(outcome), ended_at_ms=number(at))
            except DecodeError:
                continue
    return row
