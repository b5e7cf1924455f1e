"""A small application for tests of the command line."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from stem.client import Stem

app = Stem.connect()
not_an_app = 42
HELD: list[AsyncIterator[int]] = []


@app.task("sample.add")
async def add(a: int, b: int) -> int:
    return a + b


@app.task("sample.nap")
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task("sample.block")
async def block(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251


@app.task("sample.aside")
async def aside(seconds: float) -> None:
    await asyncio.to_thread(time.sleep, seconds)


@app.task("sample.beside")
async def beside(seconds: float) -> None:
    threading.Thread(target=time.sleep, args=(seconds,)).start()
    await asyncio.sleep(seconds)


@app.task("sample.generates")
async def generates(seconds: float) -> None:
    HELD.append(_clinging(seconds))
    async for _ in HELD[-1]:
        await asyncio.sleep(seconds)


async def _clinging(seconds: float) -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        await asyncio.sleep(seconds)


@app.task("sample.elsewhere", queue="reports")
async def elsewhere() -> None:
    return None


@app.task("sample.leave")
async def leave() -> None:
    """As somebody does who has read how a program uses an application."""
    async with app:
        pass
