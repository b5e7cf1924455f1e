"""A small application for tests of the command line."""

from __future__ import annotations

import asyncio

from stem.client import Stem

app = Stem.connect()
not_an_app = 42


@app.task("sample.add")
async def add(a: int, b: int) -> int:
    return a + b


@app.task("sample.nap")
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task("sample.elsewhere", queue="reports")
async def elsewhere() -> None:
    return None


@app.task("sample.leave")
async def leave() -> None:
    """As somebody does who has read how a program uses an application."""
    async with app:
        pass
