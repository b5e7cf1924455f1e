"""A private server for one round: the Valkey of the wheel or Debian's redis-server, append-only file on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from tests.servers import Kind
from tests.servers import Server as Process

# Append-only file with `everysec`, as in production; not rewritten meanwhile: whose round would pay for it is chance.
OPTIONS = ("--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0", "--loglevel", "warning")


@dataclass(frozen=True)
class Usage:
    """What a server did since it started."""

    cpu_s: float
    commands: int
    bytes_in: int
    bytes_out: int
    memory_bytes: int

    def since(self, before: Usage) -> Usage:
        return Usage(
            self.cpu_s - before.cpu_s,
            self.commands - before.commands,
            self.bytes_in - before.bytes_in,
            self.bytes_out - before.bytes_out,
            self.memory_bytes - before.memory_bytes,
        )


class Server:
    """One running server; `url` is TCP on the loopback, because not every queue takes a unix socket."""

    def __init__(self, process: Process) -> None:
        self.url = process.tcp_url
        self.client: Any = redis.Redis(unix_socket_path=str(process.socket), decode_responses=True)

    def usage(self) -> Usage:
        found = self.client.info("everything")
        return Usage(
            found["used_cpu_user"] + found["used_cpu_sys"],
            sum(self.commands().values()),
            found["total_net_input_bytes"],
            found["total_net_output_bytes"],
            found["used_memory"],
        )

    def commands(self) -> dict[str, int]:
        """Return how often each command was called, those inside scripts included."""
        return {name.removeprefix("cmdstat_"): each["calls"] for name, each in self.client.info("commandstats").items()}


@contextmanager
def running(kind: Kind = "valkey") -> Iterator[Server]:
    """Run a server of one's own and remove it with all its data; it dies with this process, however that ends."""
    process = Process(kind=kind, aof=True, tcp=True, options=OPTIONS)
    try:
        server = Server(process.start())
        yield server
        server.client.close()
    finally:
        process.remove()
