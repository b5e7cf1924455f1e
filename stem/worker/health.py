"""`--health-port`: a worker's own answer to probes and scrapes, over HTTP, from its vitals thread.

Whatever the handlers do, the thread answers: `/livez` says whether the work loop moves and asks nobody, so that an
outage of the broker restarts no worker; `/readyz` says whether the worker takes work; `/metrics` counts. Three fixed
paths and GET or HEAD: it is not worth a web framework, and reads no more of a request than its first line needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from stem.errors import ConfigError
from stem.worker.loops import end_all

log = logging.getLogger("stem.worker.health")

STUCK_S: Final = 4.0
"""A work loop that has not moved for so long is not alive: seen by a probe within 5 s."""
LONGEST_REQUEST: Final = 8_192
REQUEST_S: Final = 2.0
MOST_AT_ONCE: Final = 64
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker says of itself at one moment.

    Attributes:
        loop_age_s: for how long the work loop has stood still.
        unready: why it takes no work now; empty when it does.
    """

    loop_age_s: float
    unready: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        return self.loop_age_s < STUCK_S


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: status line without the version, type and body."""

    status: str
    body: bytes
    type: str = TEXT


def listen(host: str, port: int) -> socket.socket:
    """Take the port, before anything else of the worker starts; without a host on all addresses, of both families.

    Raises:
        ConfigError: it is taken, or may not be, or the host is none of this machine.
    """
    both = socket.has_dualstack_ipv6()
    try:
        family, address = _address(host or ("::" if both else "0.0.0.0"))
        return socket.create_server(
            (address[0], port, *address[2:]),
            family=family,
            backlog=MOST_AT_ONCE,
            dualstack_ipv6=both and family is socket.AF_INET6,
        )
    except (OSError, OverflowError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        hint = "choose a free port, or stop what has it"
        if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            hint = "STEM_HEALTH_HOST has to be an address of this machine"
        raise ConfigError(f"--health-port {port} on {host or 'all addresses'}: {why}: {hint}") from None


def _address(host: str) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Return family and address of `host`; of IPv4 where a name has both, as a probe of `127.0.0.1` expects."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return min(((family, address) for family, _, _, _, address in found), key=lambda each: each[0] != socket.AF_INET)


class HealthPort:
    """Serves one socket, on the loop that opens it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._busy = 0
        self._open: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    async def open(self, health: Callable[[], Health], metrics: Callable[[], Awaitable[Page]]) -> None:
        """Begin to answer; `metrics` returns the page of `/metrics`."""
        self._health = health
        self._metrics = metrics
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=LONGEST_REQUEST)

    async def close(self) -> None:
        """Free the port; answers under way are cut off."""
        if self._server is not None:
            self._server.close()
        self.release()
        await asyncio.sleep(0)  # who came a moment ago
        await end_all(list(self._open))

    def release(self) -> None:
        """Free the port, if nothing was ever opened there."""
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self._busy += 1
        try:
            if self._busy <= MOST_AT_ONCE:
                async with asyncio.timeout(REQUEST_S):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            pass  # who asks like that gets no answer; there is nothing to learn from it
        except asyncio.CancelledError:
            writer.transport.abort()  # the worker ends
        except Exception:
            log.exception("health.failed")
        finally:
            self._busy -= 1
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
            self._open.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        page = await self._page(method, path)
        lines = [
            f"HTTP/1.1 {page.status}",
            f"Content-Type: {page.type}",
            f"Content-Length: {len(page.body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if page.status.startswith("405"):
            lines.append("Allow: GET, HEAD")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        if method != b"HEAD":
            writer.write(page.body)
        await writer.drain()

    async def _page(self, method: bytes, path: bytes) -> Page:
        if method not in (b"GET", b"HEAD"):
            return Page("405 Method Not Allowed", b"use GET or HEAD\n")
        if path == b"/livez":
            health = self._health()
            if health.live:
                return Page("200 OK", b"live\n")
            said = f"the work loop has stood still for {health.loop_age_s:.1f} s\n"
            return Page("503 Service Unavailable", said.encode())
        if path == b"/readyz":
            unready = self._health().unready
            if not unready:
                return Page("200 OK", b"ready\n")
            return Page("503 Service Unavailable", ("".join(f"{why}\n" for why in unready)).encode())
        if path == b"/metrics":
            return await self._metrics()
        return Page("404 Not Found", b"there are /livez, /readyz and /metrics\n")
