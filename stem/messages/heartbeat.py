"""What a worker says of itself every two seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from stem.errors import DecodeError
from stem.messages.codec import VERSION, Fields, pack
from stem.messages.names import is_name

STATES: Final = ("starting", "running", "draining", "stopping", "stopped")
MAX_ROWS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """One task in flight on a worker. `started_at_ms` is the broker's clock.

    Attributes:
        limit_ms: how long it may run: its time limit, else its soft one; 0 without any.
    """

    id: str
    task: str
    queue: str
    attempt: int
    token: int
    started_at_ms: int
    progress: Any = None
    isolation: str = "async"
    limit_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The state of one worker process.

    Attributes:
        id: unique per start (`host-pid-random`); `name` is stable.
        queues: what it takes from, in order; `paused` are those of them it knows to be paused.
        digest: of the sorted registered task names, so that two deployments can be told apart.
        state: one of `starting running draining stopping stopped`; `stopped` is the goodbye.
        in_flight: how many; `running` has up to 200 of them.
        counters: since start: `started succeeded failed retried revoked expired lost handed_back`.
        cpu_percent: of one core, over the last beat.
        loop_age_ms: since the work loop last ticked; over 2 000 it is wedged.
        zombie_threads: handlers that were given up and have not ended, each of which takes a slot; `async` ones too.
        epoch: of the desired state that it has applied.
        clock_offset_ms: the broker's clock minus this machine's.
        rtt_ms: of the last beat to the broker.
    """

    id: str
    name: str
    started_at_ms: int
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    paused: tuple[str, ...] = ()
    digest: str = ""
    state: str = "running"
    concurrency: int = 1
    in_flight: int = 0
    running: tuple[RunningTask, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    loop_age_ms: int = 0
    zombie_threads: int = 0
    epoch: int = 0
    clock_offset_ms: int = 0
    rtt_ms: float = 0.0
    interval_ms: int = 2_000

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    def encode(self) -> bytes:
        return pack({"v": VERSION, **self.to_plain()}, what="heartbeat")

    @classmethod
    def decode(cls, data: bytes) -> Heartbeat:
        """Read a heartbeat.

        Raises:
            DecodeError: wrong types, an ill-formed worker id, or a state that does not exist.
        """
        fields = Fields.of(data, "heartbeat")
        worker_id, name, state = fields.text("id"), fields.text("name"), fields.text("state", "running")
        if not is_name("worker", worker_id) or not is_name("worker", name):
            raise DecodeError("heartbeat: 'id' or 'name' is not a worker name")
        if state not in STATES:
            raise DecodeError("heartbeat: 'state' is not a worker state")
        counters = fields.mapping("counters")
        if not all(isinstance(value, int) for value in counters.values()):
            raise DecodeError("heartbeat: 'counters' is not a map of integers")
        return cls(
            id=worker_id,
            name=name,
            started_at_ms=fields.integer("started_at_ms"),
            host=fields.text("host"),
            pid=fields.integer("pid"),
            version=fields.text("version"),
            queues=tuple(fields.texts("queues")),
            paused=tuple(fields.texts("paused")),
            digest=fields.text("digest", ""),
            state=state,
            concurrency=fields.integer("concurrency", 1),
            in_flight=fields.integer("in_flight", 0),
            running=tuple(
                RunningTask(
                    id=row.text("id"),
                    task=row.text("task"),
                    queue=row.text("queue"),
                    attempt=row.integer("attempt"),
                    token=row.integer("token"),
                    started_at_ms=row.integer("started_at_ms"),
                    progress=row.any("progress"),
                    isolation=row.text("isolation", "async"),
                    limit_ms=row.integer("limit_ms", 0),
                )
                for row in fields.maps("running")[:MAX_ROWS]
            ),
            counters=counters,
            cpu_percent=float(fields.number("cpu_percent", 0.0)),
            rss_bytes=fields.integer("rss_bytes", 0),
            loop_age_ms=fields.integer("loop_age_ms", 0),
            zombie_threads=fields.integer("zombie_threads", 0),
            epoch=fields.integer("epoch", 0),
            clock_offset_ms=fields.integer("clock_offset_ms", 0),
            rtt_ms=float(fields.number("rtt_ms", 0.0)),
            interval_ms=fields.integer("interval_ms", 2_000),
        )
