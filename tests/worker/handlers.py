"""Handlers made of functions, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from stem.options import NO_OPTIONS, TaskOptions
from stem.registry import SimpleTaskRegistry
from stem.task import TaskContext

Async = Callable[[TaskContext, Mapping[str, Any]], Awaitable[Any]]
Plain = Callable[[TaskContext, Mapping[str, Any]], Any]


class AsyncHandler:
    def __init__(self, name: str, function: Async, options: TaskOptions) -> None:
        self.name = name
        self.options = options
        self._function = function

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> Any:
        return await self._function(context, args)


class PlainHandler:
    def __init__(self, name: str, function: Plain, options: TaskOptions) -> None:
        self.name = name
        self.options = options
        self._function = function

    def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> Any:
        return self._function(context, args)


def on_loop(registry: SimpleTaskRegistry, name: str, function: Async, options: TaskOptions = NO_OPTIONS) -> None:
    """Register an async handler."""
    registry.register(AsyncHandler(name, function, options))


def in_thread(registry: SimpleTaskRegistry, name: str, function: Plain, options: TaskOptions = NO_OPTIONS) -> None:
    """Register a plain handler."""
    registry.register(PlainHandler(name, function, options))
