"""Waiting for a condition with a deadline: what tests use instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

POLL_S = 0.005


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, *, what: str = "") -> T:
    """Call `predicate` until it returns something true, and return that.

    Args:
        timeout: seconds.
        what: is waited for, for the failure's message.

    Raises:
        AssertionError: it was still false after `timeout`; the message shows the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or _name(predicate)}; last value: {value!r}")
        time.sleep(POLL_S)


@overload
async def eventually(
    predicate: Callable[[], Coroutine[Any, Any, T]], timeout: float = 10.0, *, what: str = ""
) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout: float = 10.0, *, what: str = "") -> T: ...
async def eventually(predicate: Callable[[], Any], timeout: float = 10.0, *, what: str = "") -> Any:
    """Like `wait_until` on an event loop; `predicate` may be a coroutine function.

    Raises:
        AssertionError: it was still false after `timeout`; the message shows the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        outcome = predicate()
        value = await outcome if inspect.isawaitable(outcome) else outcome
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or _name(predicate)}; last value: {value!r}")
        await asyncio.sleep(POLL_S)


def _name(predicate: Callable[..., object]) -> str:
    return getattr(predicate, "__qualname__", repr(predicate))
