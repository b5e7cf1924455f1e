"""What a soak reads: the resources of worker processes from /proc, and those of the server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.servers import Server

RECORD: Final = re.compile(r"\{[^}]+\}:task:.*")
SOON_MS: Final = 120_000


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One look at a process. `rss_bytes` is what it holds in memory, `anon_bytes` the part that is no file's."""

    at_s: float
    rss_bytes: int
    anon_bytes: int
    fds: int
    threads: int


@dataclass(frozen=True, slots=True)
class ServerSample:
    """One look at the server.

    Attributes:
        lasting: keys without a time to live.
        kept: records of tasks that will be there in two minutes too.
    """

    keys: int
    connections: int
    consumers: int
    memory_bytes: int
    lasting: frozenset[str] = frozenset()
    kept: int = 0


def look_at_process(pid: int, at_s: float) -> ProcessSample:
    """Read /proc.

    Raises:
        OSError: the process is gone.
    """
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    status = {name: rest.split() for name, _, rest in lines}
    return ProcessSample(
        at_s=at_s,
        rss_bytes=int(status["VmRSS"][0]) * 1024,
        anon_bytes=int(status["RssAnon"][0]) * 1024,
        fds=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"][0]),
    )


def look_at_server(server: Server, namespace: str, *, keys: bool = False) -> ServerSample:
    """Ask the server; `keys` lists all of them, which takes a while."""
    prefix = "{" + namespace + "}:"
    with server.client() as client:
        plain: Any = client
        names = [str(name) for name in plain.scan_iter(count=1000)] if keys else []
        pipe = plain.pipeline(transaction=False)
        for name in names:
            pipe.pttl(name)
        ttls: dict[str, int] = dict(zip(names, pipe.execute(), strict=True))
        consumers = 0
        for priority in range(10):
            for queue in plain.smembers(f"{prefix}queues"):
                stream = f"{prefix}q:{queue}:p{priority}"
                if plain.exists(stream):
                    consumers += sum(len(plain.xinfo_consumers(stream, g["name"])) for g in plain.xinfo_groups(stream))
        return ServerSample(
            keys=plain.dbsize(),
            connections=len(plain.client_list()) - 1,
            consumers=consumers,
            memory_bytes=plain.info("memory")["used_memory"],
            lasting=frozenset(name for name, ttl in ttls.items() if ttl == -1),
            kept=sum(RECORD.fullmatch(name) is not None and (ttl == -1 or ttl > SOON_MS) for name, ttl in ttls.items()),
        )
