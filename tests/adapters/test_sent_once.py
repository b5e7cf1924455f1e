"""The client library repeats nothing by itself: a call whose reply is lost is sent once, and its caller decides."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import Outcome
from stem.errors import UnknownOutcomeError
from stem.testing.case import Hand, new_task
from tests.servers import Server


class Deaf:
    """A server's double: passes everything on, and cuts the connection instead of answering a script.

    Attributes:
        scripts: how many calls of a script have arrived.
    """

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._pumps: set[asyncio.Task[None]] = set()
        self.cutting = False
        self.scripts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._upstream))
        back = asyncio.ensure_future(self._pass_on(up_reader, writer))
        try:
            while data := await reader.read(65_536):
                self.scripts += data.count(b"EVALSHA") if self.cutting else 0
                up_writer.write(data)
                if self.cutting and b"EVALSHA" in data:
                    break
        finally:
            back.cancel()  # before it gets a turn to pass the answer on
            await asyncio.wait({back})
            up_writer.close()
            writer.close()
            self._pumps.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    async def close(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@pytest.fixture
async def deaf(valkey_server: Server, tmp_path: Path) -> AsyncIterator[Deaf]:
    made = Deaf(Path(valkey_server.url.removeprefix("unix://").partition("?")[0]))
    server = await asyncio.start_unix_server(made.serve, tmp_path / "s")
    yield made
    server.close()
    await made.close()


@pytest.fixture
async def broker(deaf: Deaf, tmp_path: Path, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(f"unix://{tmp_path / 's'}", namespace=namespace)
    yield made
    await made.close()


CALLS: dict[str, Callable[[RedisStreamsBroker], Awaitable[object]]] = {
    "enqueue": lambda broker: broker.enqueue([new_task("t")]),
    "exchange": lambda broker: Hand(broker=broker, id="w").fetch(),
    "beat": lambda broker: Hand(broker=broker, id="w").beat(),
    "adopt": lambda broker: broker.adopt("w", ["default"], []),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_whose_reply_was_lost_is_not_repeated_behind_its_callers_back(
    broker: RedisStreamsBroker, deaf: Deaf, call: Callable[[RedisStreamsBroker], Awaitable[object]]
) -> None:
    await call(broker)  # connected, and its script is known to the server
    deaf.cutting = True

    with pytest.raises(UnknownOutcomeError):
        await call(broker)

    assert deaf.scripts == 1


async def test_a_lost_reply_to_a_settlement_is_told_as_unknown_and_sent_again_it_is_already(
    broker: RedisStreamsBroker, deaf: Deaf
) -> None:
    hand = Hand(broker=broker, id="w")
    await broker.enqueue([new_task("t")])
    delivery = await hand.take()
    deaf.cutting = True
    with pytest.raises(UnknownOutcomeError):
        await hand.end(delivery, Outcome.SUCCEEDED)
    deaf.cutting = False

    async def again() -> str:
        return await hand.end(delivery, Outcome.SUCCEEDED)

    assert await asyncio.wait_for(again(), 10) in ("already", "applied")


def test_the_blocking_handle_repeats_nothing_either(valkey_server: Server, namespace: str, tmp_path: Path) -> None:
    """It runs in a thread without a loop; the double runs in one of its own."""
    began, end = threading.Event(), threading.Event()
    double = Deaf(Path(valkey_server.url.removeprefix("unix://").partition("?")[0]))

    async def serving() -> None:
        server = await asyncio.start_unix_server(double.serve, tmp_path / "s")
        began.set()
        await asyncio.to_thread(end.wait, 20)
        server.close()
        await double.close()

    thread = threading.Thread(target=lambda: asyncio.run(serving()))
    thread.start()
    assert began.wait(10)
    handle = RedisStreamsBroker(f"unix://{tmp_path / 's'}", namespace=namespace).blocking()
    try:
        handle.enqueue([new_task("t")])
        double.cutting = True
        with pytest.raises(UnknownOutcomeError):
            handle.enqueue([new_task("t")])
    finally:
        handle.close()
        end.set()
        thread.join(10)

    assert double.scripts == 1
