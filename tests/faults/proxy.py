"""A proxy that stands between a worker and its server and loses every pub/sub message."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Final, Self

MESSAGE: Final = b"*3\r\n$7\r\nmessage\r\n"


class DroppingProxy:
    """Passes everything on, in both directions, but for the messages of subscriptions.

    Replies of other kinds are not looked into: the head of a message is looked for only at the start of what a
    connection that has subscribed receives, where nothing but whole frames arrives.

    Attributes:
        dropped: how many messages were lost here.
    """

    def __init__(self, upstream: Path, path: Path) -> None:
        self._upstream = upstream
        self._path = path
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.dropped = 0

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(str(self._upstream))
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, up_writer, drop=False))
                both.create_task(self._pump(up_reader, writer, drop=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._pumps.discard(task)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drop: bool) -> None:
        rest = b""
        try:
            while data := await reader.read(65536):
                if drop:
                    data, rest = self._without_messages(rest + data)
                writer.write(data)
                await writer.drain()
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    def _without_messages(self, data: bytes) -> tuple[bytes, bytes]:
        """Return `data` without the messages at its start, and the beginning of a message that is not all there."""
        while data.startswith(MESSAGE):
            frame = data.split(b"\r\n", 7)
            if len(frame) < 8:  # *3 $7 message $n channel $n payload, and what follows
                return b"", data
            self.dropped += 1
            data = frame[7]
        return data, b""
