"""Who is there: heartbeats stored and leases renewed, in one script."""

from __future__ import annotations

from collections.abc import Mapping

from stem.adapters.redis.calls import CHUNK, beat_args, by_name, half_way, seen_of
from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.reading import reading, whole
from stem.adapters.redis.record import text
from stem.contracts import Beat, BeatAnswer, Limits, Seen
from stem.errors import BrokerError
from stem.messages.heartbeat import Heartbeat

_AT_A_TIME = 50
"""Heartbeats read before others on the loop have their turn."""


class RedisPresence:
    """Heartbeats of one namespace."""

    def __init__(self, client: RedisClient, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._decoded: dict[bytes, Heartbeat] = {}

    async def beat(self, beat: Beat) -> BeatAnswer:
        lost: list[str] = []
        revoked: list[str] = []
        first, reply, known = 0, None, True
        while reply is None or first < len(beat.leases):
            args = beat_args(beat, self._limits, leases=slice(first, first + CHUNK), first=first == 0)
            try:
                reply = await self._client.run("beat", *args)
            except BrokerError as error:
                if not first:
                    raise
                raise half_way("beat", error) from error
            with reading("beat"):
                lost += (task_id.decode() for task_id in reply[3])
                revoked += (task_id.decode() for task_id in reply[4])
                known = known and whole(reply[5]) == 1
            first += CHUNK
        with reading("beat"):
            now_ms, epoch, watched = (whole(value) for value in reply[:3])
            return BeatAnswer(
                now_ms=now_ms,
                epoch=epoch,
                watched=watched > 0,
                lost=lost,
                revoked=revoked,
                known=known,
                fleet=whole(reply[6]),
            )

    async def workers(self) -> list[Seen]:
        keys = self._client.keys
        time, listed = await self._client.commands([("TIME",), ("ZRANGE", keys.workers, 0, -1, "WITHSCORES")])
        with reading("ZRANGE"):
            now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
            ids, times = listed[::2], listed[1::2]
        seen: list[Seen] = []
        before, self._decoded = self._decoded, {}
        for first in range(0, len(ids), _AT_A_TIME):
            some = slice(first, first + _AT_A_TIME)
            asked = [("HGET", keys.worker(text(worker)), "h") for worker in ids[some]]
            beats = await self._client.commands(asked, each=True)
            with reading("HGET"):
                rows = zip(ids[some], times[some], beats, strict=True)
                flat = [value for row in rows if row[2] is not None for value in row]
                seen += seen_of(flat, now_ms, decode=lambda data: self._decode(data, before))
        return sorted(seen, key=by_name)

    def _decode(self, data: bytes, before: Mapping[bytes, Heartbeat]) -> Heartbeat:
        """Read a heartbeat, unless it was there the last time: who looks every second sees each of them twice."""
        beat = self._decoded[data] = before.get(data) or Heartbeat.decode(data)
        return beat
