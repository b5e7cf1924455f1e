"""Events: a stream of batches that lives for a minute and is read by cursor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from stem.adapters.redis.client import LONGEST_BLOCK_S, RedisClient
from stem.adapters.redis.reading import reading
from stem.clock import boottime_s
from stem.contracts import EventBatch
from stem.errors import BodyTooLargeError, BrokerRefusedError, DecodeError, InvalidInputError
from stem.messages.event import Event, decode_events, encode_events

_BATCHES = 20
_AT_A_TIME = 200
"""Events decoded before others on the loop have their turn: some milliseconds' worth."""
_SURE_S = 30.0
"""A cursor that was handed out so recently points at what is still kept; the sleep of this machine counts."""


class RedisEvents:
    """The event log of one namespace."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._handed_out = ("", 0.0)

    async def emit(self, events: Sequence[Event]) -> None:
        if not events:
            return
        try:
            batch = encode_events(events)
        except BodyTooLargeError:
            # Cut in two; a single event that is too large is dropped.
            half = len(events) // 2
            if half:
                await self.emit(events[:half])
                await self.emit(events[half:])
            return
        try:
            await self._client.run("emit", batch)
        except BrokerRefusedError as error:
            if error.code != "OOM":
                raise

    async def watch(self, watcher: str, *, for_ms: int) -> None:
        await self._client.run("watch", watcher, max(1, for_ms))

    async def unwatch(self, watcher: str) -> None:
        await self._client.run("watch", watcher, 0)

    async def tail(self) -> str:
        newest = await self._client.command("XREVRANGE", self._client.keys.events, "+", "-", "COUNT", 1)
        with reading("XREVRANGE"):
            return newest[0][0].decode() if newest else "0-0"

    async def read(self, cursor: str, *, timeout_s: float) -> EventBatch:
        at = _time_of(cursor)
        key = self._client.keys.events
        missed = False
        last, handed_out_s = self._handed_out
        if at and (cursor != last or boottime_s() - handed_out_s > _SURE_S):
            now, oldest = await self._client.commands([("TIME",), ("XRANGE", key, "-", "+", "COUNT", 1)])
            with reading("XRANGE"):
                missed = int(now[0]) * 1000 - at > 60_000 and bool(oldest) and _time_of(oldest[0][0].decode()) > at
        wait_ms = int(min(max(timeout_s, 0.001), LONGEST_BLOCK_S) * 1000)
        reply = await self._client.block("XREAD", "COUNT", _BATCHES, "BLOCK", max(1, wait_ms), "STREAMS", key, cursor)
        events: list[Event] = []
        turn = _AT_A_TIME
        with reading("XREAD"):
            for entry, fields in reply[0][1] if reply else ():
                cursor = entry.decode()
                with contextlib.suppress(DecodeError):  # one bad batch hides no other
                    events += decode_events(fields[1])
                if len(events) > turn:
                    turn = len(events) + _AT_A_TIME
                    await asyncio.sleep(0)
        self._handed_out = (cursor, boottime_s())
        return EventBatch(events=events, cursor=cursor, missed=missed)


def _time_of(cursor: str) -> int:
    time, dash, number = cursor.partition("-")
    if not (dash and time.isdigit() and number.isdigit()):
        raise InvalidInputError(f"{cursor[:40]!r} is not an event cursor: use the one that tail() or read() returned")
    return int(time)
