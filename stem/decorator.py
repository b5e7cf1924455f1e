"""How a function becomes a registered task: its name, its options, and the types that survive the decoration."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from stem.errors import ConfigError, InvalidNameError
from stem.messages.names import check_name
from stem.options import TaskOptions
from stem.registry import TaskRegistry
from stem.task import Publisher, Task, TaskContext

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator:
    """What `@app.task("name")` returns; turns a function into a registered `Task`."""

    __slots__ = ("_name", "_options", "_publisher", "_registry")

    def __init__(self, registry: TaskRegistry, publisher: Publisher, name: str | None, options: TaskOptions) -> None:
        self._registry = registry
        self._publisher = publisher
        self._name = name
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[TaskContext, P], R]
    ) -> Task[P, R, Concatenate[TaskContext, P]]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R, P]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        name = _derived_name(function) if self._name is None else self._name
        return self._registry.register(Task(function, name=name, options=self._options, publisher=self._publisher))


def _derived_name(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "")
    if module == "__main__":
        # A file that is run and the same file imported by a worker must agree on the name.
        main = sys.modules["__main__"]
        spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None:
            module = spec.name.removesuffix(".__main__")
        elif path is not None:
            module = os.path.splitext(os.path.basename(path))[0]
    name = f"{module}.{getattr(function, '__qualname__', '<no name>')}"
    try:
        return check_name("task", name)
    except InvalidNameError as error:
        raise ConfigError(f'{name!r} cannot be a task name: give one, such as @app.task("report.build")') from error
