"""Who is there: heartbeats stored and leases renewed, in one script."""

from __future__ import annotations

from stem.adapters.redis.calls import CHUNK, beat_args, seen_of
from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.reading import reading, whole
from stem.adapters.redis.record import text
from stem.contracts import Beat, BeatAnswer, Limits, Seen


class RedisPresence:
    """Heartbeats of one namespace."""

    def __init__(self, client: RedisClient, limits: Limits) -> None:
        self._client = client
        self._limits = limits

    async def beat(self, beat: Beat) -> BeatAnswer:
        lost: list[str] = []
        revoked: list[str] = []
        first, reply, known = 0, None, True
        while reply is None or first < len(beat.leases):
            args = beat_args(beat, self._limits, leases=slice(first, first + CHUNK), first=first == 0)
            reply = await self._client.run("beat", *args)
            with reading("beat"):
                lost += (task_id.decode() for task_id in reply[3])
                revoked += (task_id.decode() for task_id in reply[4])
                known = known and whole(reply[5]) == 1
            first += CHUNK
        with reading("beat"):
            now_ms, epoch, watched = (whole(value) for value in reply[:3])
            return BeatAnswer(now_ms=now_ms, epoch=epoch, watched=watched > 0, lost=lost, revoked=revoked, known=known)

    async def workers(self) -> list[Seen]:
        keys = self._client.keys
        time, listed = await self._client.commands([("TIME",), ("ZRANGE", keys.workers, 0, -1, "WITHSCORES")])
        with reading("ZRANGE"):
            now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
            ids, times = listed[::2], listed[1::2]
        beats = await self._client.commands([("HGET", keys.worker(text(worker)), "h") for worker in ids], each=True)
        with reading("HGET"):
            flat = [value for row in zip(ids, times, beats, strict=True) if row[2] is not None for value in row]
            return seen_of(flat, now_ms)
