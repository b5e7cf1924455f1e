"""Which handlers are taken, and how they are called."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Any

import pytest

from stem.errors import ConfigError, InvalidArgumentsError, UnknownTaskError
from stem.options import TaskOptions
from stem.registry import SimpleTaskRegistry
from stem.task import Parameters, Publisher, Signature, Task, TaskContext, TaskHandler
from tests.parts import FakePort


class EmailTask(TaskHandler):
    name = "email.send"
    options = TaskOptions(max_retries=2)

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> str:
        return f"to {args['to']}, attempt {context.attempt}"


class PlainTask:
    name = "plain"

    def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> int:
        return len(args)


class NoPublisher(Publisher):
    async def send(self, signature: Signature, *, origin: object = None) -> str:
        raise AssertionError("nothing is sent here")

    def send_blocking(self, signature: Signature, *, origin: object = None) -> str:
        raise AssertionError("nothing is sent here")


def task_of(function: Any, *, name: str = "t", options: TaskOptions | None = None) -> Task[..., Any, ...]:
    return Task(function, name=name, options=options or TaskOptions(), publisher=NoPublisher())


def context() -> TaskContext:
    return TaskContext(FakePort(), id="1", task="t", queue="q", attempt=4)


async def test_a_handler_object_is_called_with_context_and_args() -> None:
    registry = SimpleTaskRegistry()
    registry.register(EmailTask())

    entry = registry.get("email.send")

    assert (entry.kind, entry.takes_context, entry.options.max_retries) == ("async", True, 2)
    assert await entry.call(context(), {"to": "a@b.c"}) == "to a@b.c, attempt 4"


def test_a_plain_handler_is_one_for_a_thread() -> None:
    registry = SimpleTaskRegistry()
    registry.register(PlainTask())

    entry = registry.get("plain")

    assert entry.kind == "thread"
    assert entry.call(context(), {"a": 1, "b": 2}) == 2


def test_a_function_gets_its_arguments_by_name_and_no_context_unless_it_asks() -> None:
    registry = SimpleTaskRegistry()
    registry.register(task_of(lambda a, b=2: (a, b), name="without"))

    def with_context(context: TaskContext, a: int) -> tuple[int, int]:
        return (context.attempt, a)

    registry.register(task_of(with_context, name="with"))

    assert registry.get("without").call(context(), {"a": 1}) == (1, 2)
    assert registry.get("with").call(context(), {"a": 1}) == (4, 1)


async def test_a_partial_of_an_async_function_is_async() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    registry = SimpleTaskRegistry()
    registry.register(task_of(functools.partial(add, b=2)))

    assert registry.get("t").kind == "async"
    assert await registry.get("t").call(context(), {"a": 1}) == 3


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({}, "'a' missing"),
        ({"a": 1, "c": 1}, "'c' unknown"),
        ({"b": 1, "x\x1b": 1}, r"'a' missing; 'x\\x1b' unknown"),
    ],
)
def test_arguments_that_do_not_fit_are_named(args: dict[str, Any], complaint: str) -> None:
    registry = SimpleTaskRegistry()
    registry.register(task_of(lambda a, b=2: None))

    with pytest.raises(InvalidArgumentsError, match=complaint):
        registry.get("t").validate(args)


def test_any_keyword_is_taken_by_kwargs() -> None:
    parameters = Parameters(lambda a, **rest: None, task="t")

    parameters.check("t", {"a": 1, "anything": 2})


def test_an_unknown_name_is_an_error_that_says_what_is_known() -> None:
    registry = SimpleTaskRegistry()
    registry.register(PlainTask())

    with pytest.raises(UnknownTaskError, match=r"'nope\\x1b\[2J'.*known: plain"):
        registry.get("nope\x1b[2J")


def test_a_name_is_registered_once_unless_replaced() -> None:
    registry = SimpleTaskRegistry()
    first = registry.register(PlainTask())
    registry.register(first)

    with pytest.raises(ConfigError, match="plain is registered already"):
        registry.register(PlainTask())
    second = registry.register(PlainTask(), replace=True)

    assert second is registry.get("plain").handler


def test_the_digest_depends_on_the_names_and_not_on_their_order() -> None:
    one, other, third = SimpleTaskRegistry(), SimpleTaskRegistry(), SimpleTaskRegistry()
    for registry, names in ((one, "ab"), (other, "ba"), (third, "abc")):
        for name in names:
            registry.register(task_of(lambda: None, name=name))

    assert one.digest() == other.digest()
    assert one.digest() != third.digest()
    assert third.names() == ["a", "b", "c"]
    assert (len(third), "a" in third, "z" in third) == (3, True, False)


class NoName:
    def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> None: ...


class BadName(NoName):
    name = "no spaces please"


class BadOptions(NoName):
    name = "bad.options"
    options = {"queue": "x"}  # noqa: RUF012 - what somebody might write


class TooFew:
    name = "too.few"

    def __call__(self, args: Mapping[str, Any]) -> None: ...


class Generator:
    name = "generator"

    def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> Any:
        yield 1


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (NoName(), "needs a `name`"),
        (BadName(), "is not a task name"),
        (BadOptions(), "not a TaskOptions"),
        (TooFew(), r"called as \(context, args\)"),
        (EmailTask, r"register an object, EmailTask\(\)"),
        (lambda: None, "needs a `name`"),
        (asyncio.sleep, "needs a `name`"),
    ],
)
def test_what_is_no_handler_is_refused_with_the_reason(handler: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SimpleTaskRegistry().register(handler)


def test_generators_are_refused() -> None:
    def numbers() -> Any:
        yield 1

    with pytest.raises(ConfigError, match="generator"):
        SimpleTaskRegistry().register(task_of(numbers))
    with pytest.raises(ConfigError, match="generator"):
        SimpleTaskRegistry().register(Generator())


@pytest.mark.parametrize("function", [lambda *args: None, eval("lambda a, /: None")])
def test_parameters_without_a_name_are_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match="takes no name"):
        task_of(function)
