"""Which tasks there are: name to handler, exactly, by a dictionary. Nothing is ever imported because of a name."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeVar

from stem.callables import signature_of
from stem.errors import ConfigError, InvalidNameError, UnknownTaskError
from stem.messages.names import check_name
from stem.task import NO_OPTIONS, Parameters, Task, TaskContext, TaskOptions

H = TypeVar("H")

Kind = Literal["async", "thread"]


class Registered:
    """A handler as the registry holds it, ready to be called.

    Attributes:
        kind: `async`: its call returns a coroutine and belongs on the work loop; `thread`: it blocks.
        takes_context: it is called with the context first.
        waits: what a worker has learned of it; see `AioExecutor`.
    """

    __slots__ = ("_function", "_parameters", "handler", "kind", "name", "options", "takes_context", "waits")

    def __init__(
        self,
        *,
        name: str,
        options: TaskOptions,
        handler: object,
        function: Callable[..., Any],
        parameters: Parameters | None,
    ) -> None:
        self.name: Final = name
        self.options: Final = options
        self.handler: Final = handler
        self.kind: Final[Kind] = "async" if _is_async(function) else "thread"
        self.takes_context: Final = parameters is None or parameters.takes_context
        self.waits = 0
        self._function = function
        self._parameters = parameters

    def __repr__(self) -> str:
        return f"<Registered {self.name} ({self.kind})>"

    def validate(self, args: Mapping[str, Any]) -> None:
        """Check that the handler can be called with `args`: names only, not types.

        Raises:
            InvalidArgumentsError: an argument is missing or unknown.
        """
        if self._parameters is not None:
            self._parameters.check(self.name, args)

    def call(self, context: TaskContext, args: Mapping[str, Any]) -> Any:
        """Call the handler; returns a coroutine for `async`, the result for `thread`."""
        if self._parameters is None:
            return self._function(context, args)
        if self.takes_context:
            return self._function(context, **args)
        return self._function(**args)


class TaskRegistry(Protocol):
    """What producers and workers ask of a registry."""

    def register(self, handler: H) -> H:
        """Add a handler or task and return it."""

    def get(self, name: str) -> Registered:
        """Return the handler of this name.

        Raises:
            UnknownTaskError: there is none.
        """

    def names(self) -> list[str]:
        """Return the names, sorted."""

    def digest(self) -> str:
        """Return a short hash of the sorted names, so that two deployments can be told apart."""

    def __len__(self) -> int: ...

    def __contains__(self, name: object) -> bool: ...


class SimpleTaskRegistry:
    """A registry in a dictionary. Fill it while the program starts; afterwards any thread may read it."""

    def __init__(self) -> None:
        self._tasks: dict[str, Registered] = {}
        self._digest: str | None = None

    def register(self, handler: H, *, replace: bool = False) -> H:
        """Add a handler object (`name` and a call) or a task made by `@app.task`; returns it.

        Raises:
            ConfigError: it is no handler, or its name is taken.
        """
        entry = _read(handler)
        if entry.name in self._tasks and not replace and self._tasks[entry.name].handler is not handler:
            raise ConfigError(
                f"a task named {entry.name} is registered already: choose another name, or say replace=True"
            )
        self._tasks[entry.name] = entry
        self._digest = None
        return handler

    def get(self, name: str) -> Registered:
        entry = self._tasks.get(name)
        if entry is None:
            known = ", ".join(self.names()[:10]) or "none"
            raise UnknownTaskError(f"no task named {ascii(name)[:210]} is registered here; known: {known}")
        return entry

    def names(self) -> list[str]:
        return sorted(self._tasks)

    def digest(self) -> str:
        if self._digest is None:
            self._digest = hashlib.sha256("\n".join(self.names()).encode()).hexdigest()[:12]
        return self._digest

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __repr__(self) -> str:
        return f"<SimpleTaskRegistry of {len(self._tasks)} tasks>"


def _read(handler: object) -> Registered:
    if isinstance(handler, Task):
        entry = Registered(
            name=handler.name,
            options=handler.options,
            handler=handler,
            function=handler.function,
            parameters=handler.parameters,
        )
    else:
        if isinstance(handler, type):
            raise ConfigError(f"{handler.__name__} is a class: register an object, {handler.__name__}()")
        name = getattr(handler, "name", None)
        if name is None or not callable(handler):
            raise ConfigError(
                f"{type(handler).__name__} is no task handler: it needs a `name` and `__call__(context, args)`; "
                "a plain function is registered with @app.task"
            )
        options = getattr(handler, "options", NO_OPTIONS)
        if not isinstance(options, TaskOptions):
            raise ConfigError(f"task {ascii(name)[:210]}: `options` is a {type(options).__name__}, not a TaskOptions")
        try:
            check_name("task", name)
        except InvalidNameError as error:
            raise ConfigError(str(error)) from error
        _check_handler_call(name, handler)
        entry = Registered(name=name, options=options, handler=handler, function=handler, parameters=None)
    return entry


def _check_handler_call(name: str, handler: Callable[..., Any]) -> None:
    try:
        signature_of(handler).bind(None, {})
    except ValueError:
        return  # a call written in C tells nothing of its parameters
    except TypeError as error:
        raise ConfigError(f"task {name}: a handler is called as (context, args): {error}") from error


def _is_async(function: Callable[..., Any]) -> bool:
    # An object's call is a method of its type; a function's type has one too, written in C, which answers no.
    method = getattr(type(function), "__call__", None)  # noqa: B004 - the method itself is asked for
    for each in (function, method):
        if inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each):
            raise ConfigError(f"{function!r} is a generator: a task returns its result, it does not yield")
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method)
