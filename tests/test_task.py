"""Options, contexts, and what `@app.task` makes of a function."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any, ForwardRef

import pytest

from stem.client import Stem
from stem.errors import ConfigError, DecodeError, InvalidArgumentsError, InvalidInputError, InvalidNameError, Retry
from stem.options import NO_OPTIONS, UNSET, TaskOptions, given, seconds
from stem.retry import ExponentialJitterRetryStrategy, FixedRetryStrategy
from stem.task import Parameters, Signature, Task, TaskContext
from stem.task import TaskContext as Ctx
from tests.parts import CountingBroker, FakePort

# ------------------------------------------------------------------------------------------------------------- options


def test_every_option_is_unset_at_first() -> None:
    assert repr(TaskOptions()) == "TaskOptions()"
    assert TaskOptions().travelling() == {}
    assert TaskOptions() == NO_OPTIONS


def test_durations_are_seconds_whatever_they_were_given_as() -> None:
    options = TaskOptions(visibility_timeout=timedelta(seconds=30), time_limit=2, soft_time_limit=0.5)

    assert (options.visibility_timeout, options.time_limit, options.soft_time_limit) == (30.0, 2.0, 0.5)
    assert seconds(options.visibility_timeout, None) == 30.0
    assert seconds(options.result_ttl, None) is None
    assert given(options.priority, 7) == 7
    assert given(TaskOptions(priority=0).priority, 7) == 0


@pytest.mark.parametrize(
    ("field", "value", "form"),
    [
        *[("priority", value, "whole number from 0 to 9") for value in (-1, 10, 1.0, True, "5", None)],
        *[("max_retries", value, "whole number from 0") for value in (-1, 2.5, False, "3")],
        *[("visibility_timeout", value, "seconds or a timedelta") for value in (0, -1, "30s", None, True)],
        *[("soft_time_limit", value, "seconds or a timedelta") for value in (0, timedelta(0), float("nan"))],
        *[("time_limit", value, "at most ten years") for value in (float("inf"), 10**10, timedelta(days=4000))],
        ("result_ttl", timedelta(seconds=-1), "at least 1 ms"),
        ("isolation", "thread", '"process"'),
        ("retry_strategy", 5, "delay_s"),
        ("retry_on", "ValueError", "exception classes"),
        ("retry_on", (int,), "exception classes"),
        ("give_up_on", ValueError(), "exception classes"),
    ],
)
def test_a_wrong_option_is_refused_with_its_name_and_the_accepted_form(field: str, value: Any, form: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{field}=.*{form}"):
        TaskOptions(**{field: value})


@pytest.mark.parametrize("queue", ["", "a b", "x}:y", "ü", 5, None, "\x1b"])
def test_a_queue_with_another_name_is_refused(queue: Any) -> None:
    with pytest.raises(InvalidNameError, match="is not a queue name"):
        TaskOptions(queue=queue)


def test_a_soft_limit_that_never_comes_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="soft_time_limit=5 is not shorter than time_limit=5"):
        TaskOptions(soft_time_limit=5, time_limit=5)


def test_limits_are_compared_as_they_travel() -> None:
    """In whole milliseconds; a soft limit that arrived as long as the hard one would bury the task."""
    with pytest.raises(InvalidInputError, match="soft_time_limit=1 is not shorter than time_limit=1"):
        TaskOptions(soft_time_limit=1.0001, time_limit=1.0004)
    close = TaskOptions(soft_time_limit=1.0004, time_limit=1.0006)

    assert TaskOptions.from_travelled(close.travelling()) == close
    crossed = TaskOptions(soft_time_limit=1.0001).over(TaskOptions(time_limit=1.0004))
    assert TaskOptions.from_travelled(crossed.travelling()) == TaskOptions(soft_time_limit=1)


def test_what_is_set_wins_and_the_rest_stays() -> None:
    handler = TaskOptions(queue="slow", max_retries=5, retry_on=(OSError,))

    merged = TaskOptions(queue="reports").over(handler)

    assert merged == TaskOptions(queue="reports", max_retries=5, retry_on=(OSError,))
    assert NO_OPTIONS.over(handler) is handler
    assert TaskOptions().over(handler) is handler
    assert handler.over(NO_OPTIONS) is handler


def test_limits_of_two_authors_that_cross_leave_the_winner_standing() -> None:
    handler = TaskOptions(soft_time_limit=50, time_limit=60)

    assert TaskOptions(time_limit=10).over(handler) == TaskOptions(time_limit=10)
    assert TaskOptions(soft_time_limit=100).over(handler) == TaskOptions(soft_time_limit=100)
    assert TaskOptions(time_limit=70).over(handler) == TaskOptions(soft_time_limit=50, time_limit=70)


def test_options_travel_there_and_back() -> None:
    options = TaskOptions(
        queue="q",
        priority=9,
        max_retries=0,
        visibility_timeout=30,
        soft_time_limit=0.25,
        time_limit=60,
        result_ttl=timedelta(days=1),
        isolation="process",
    )

    travelled = options.travelling()

    assert travelled == {
        "queue": "q",
        "priority": 9,
        "max_retries": 0,
        "lease_ms": 30_000,
        "soft_ms": 250,
        "hard_ms": 60_000,
        "result_ttl_ms": 86_400_000,
        "isolation": "process",
    }
    assert TaskOptions.from_travelled(travelled) == options
    assert TaskOptions.from_travelled({"unique_key": "x", "from_the_future": [1]}) == NO_OPTIONS


def test_retry_strategies_of_the_house_travel() -> None:
    exponential = TaskOptions(retry_strategy=ExponentialJitterRetryStrategy(base=0.2, max=1)).travelling()
    fixed = TaskOptions(retry_strategy=FixedRetryStrategy(5)).travelling()

    assert exponential == {"retry_base_ms": 200, "retry_max_ms": 1000}
    assert fixed == {"retry_fixed_ms": 5000}
    back = TaskOptions.from_travelled(exponential).retry_strategy
    assert isinstance(back, ExponentialJitterRetryStrategy)
    assert (back.base_s, back.max_s) == (0.2, 1.0)
    again = TaskOptions.from_travelled(fixed).retry_strategy
    assert isinstance(again, FixedRetryStrategy)
    assert again.seconds == 5.0


class OwnStrategy:
    def delay_s(self, attempt: int) -> float:
        return 1.0


@pytest.mark.parametrize(
    "options",
    [TaskOptions(retry_on=(OSError,)), TaskOptions(give_up_on=OSError), TaskOptions(retry_strategy=OwnStrategy())],  # type: ignore[arg-type]  # one class alone is taken
)
def test_what_cannot_travel_says_where_it_belongs(options: TaskOptions) -> None:
    with pytest.raises(InvalidInputError, match="set it in the handler's options"):
        options.travelling()


@pytest.mark.parametrize(
    "travelled",
    [
        {"queue": 5},
        {"queue": "a b"},
        {"priority": 99},
        {"priority": "1"},
        {"max_retries": -1},
        {"lease_ms": 0},
        {"lease_ms": 1.5},
        {"lease_ms": True},
        {"hard_ms": "x"},
        {"soft_ms": 10, "hard_ms": 5},
        {"result_ttl_ms": 10**18},
        {"isolation": "subinterpreter"},
        {"retry_base_ms": -1},
        {"retry_base_ms": 10, "retry_max_ms": 1},
        {"retry_fixed_ms": None},
    ],
)
def test_travelled_options_that_are_wrong_are_a_decode_error(travelled: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match="envelope: options"):
        TaskOptions.from_travelled(travelled)


# ------------------------------------------------------------------------------------------------------------- context


def context(port: FakePort) -> TaskContext:
    return TaskContext(port, id="1", task="t", queue="q", attempt=1, max_retries=3, root="r", worker="w")


def test_a_context_hands_on_to_its_worker() -> None:
    port = FakePort()
    task = context(port)

    task.progress({"done": 5})
    task.extend_lease(timedelta(minutes=2))
    port.is_revoked = port.is_lost = True

    assert port.progressed == [{"done": 5}]
    assert port.extended == [120.0]
    assert (task.is_revoked, task.lease_lost) == (True, True)
    assert (task.headers, task.meta, task.parent) == ({}, {}, None)


def test_signs_of_life_are_noted() -> None:
    task = context(FakePort())
    assert task.last_heartbeat_s == 0.0

    task.heartbeat()
    first = task.last_heartbeat_s
    task.progress(1)

    assert 0 < first <= task.last_heartbeat_s


@pytest.mark.parametrize(("countdown", "expected"), [(None, None), (0, 0.0), (timedelta(seconds=2), 2.0)])
def test_retry_leaves_the_handler(countdown: Any, expected: float | None) -> None:
    with pytest.raises(Retry) as caught:
        context(FakePort()).retry(countdown)

    assert caught.value.countdown == expected


def test_a_retry_in_the_past_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="countdown="):
        context(FakePort()).retry(-1)


async def test_a_context_enqueues_with_everything_that_was_said() -> None:
    port = FakePort()
    task = context(port)

    assert await task.enqueue("child", {"a": 1}, delay=5, unique_key="k", headers={"h": "1"}) == "child"
    assert task.enqueue_blocking("child", options=TaskOptions(queue="q2")) == "child"

    first, second = port.sent
    assert (first.name, first.args, first.delay, first.unique_key, first.headers) == (
        "child",
        {"a": 1},
        5,
        "k",
        {"h": "1"},
    )
    assert (second.args, second.options) == ({}, TaskOptions(queue="q2"))


# ---------------------------------------------------------------------------------------------------------------- task


@pytest.fixture
def app() -> Stem:
    return Stem(broker=CountingBroker.typed(CountingBroker()))


def test_a_decorated_function_is_still_the_function(app: Stem) -> None:
    @app.task("math.add", max_retries=5)
    def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    assert add(2, b=3) == 5
    assert (add.name, add.options, add.__doc__, add.__name__) == ("math.add", TaskOptions(max_retries=5), "Add.", "add")
    assert app.registry.names() == ["math.add"]
    assert repr(add) == "<Task math.add>"


async def test_a_decorated_coroutine_function_is_still_one(app: Stem) -> None:
    @app.task("report.build")
    async def build(context: TaskContext, report_id: str) -> str:
        return f"{context.task}:{report_id}"

    assert await build(context(FakePort()), "x") == "t:x"


def test_what_others_hung_on_the_function_leaves_the_task_its_own(app: Stem) -> None:
    def build(report_id: str) -> str:
        return report_id

    for name in ("name", "options", "function", "parameters", "_plain"):
        setattr(build, name, "theirs")
    task = app.task("report.build", max_retries=5)(build)

    assert (task.name, task.options, task.function) == ("report.build", TaskOptions(max_retries=5), build)
    assert task.signature("x") == Signature(name="report.build", args={"report_id": "x"})
    assert task("x") == "x"


async def test_a_task_decorated_again_is_another_task_of_the_same_function(app: Stem) -> None:
    other_broker = CountingBroker()
    other = Stem(broker=CountingBroker.typed(other_broker))

    @app.task("first", max_retries=5)
    async def first(context: TaskContext, report_id: str) -> str:
        return f"{context.task}:{report_id}"

    second = other.task("second", queue="slow")(first)
    third = app.task("third")(first)

    assert (first.name, second.name, third.name) == ("first", "second", "third")
    assert (first.options.max_retries, second.options, third.options) == (5, TaskOptions(queue="slow"), TaskOptions())
    assert second.function is first.function
    assert (app.registry.names(), other.registry.names()) == (["first", "third"], ["second"])
    for registry, name in ((other.registry, "second"), (app.registry, "third")):
        assert (registry.get(name).kind, registry.get(name).takes_context) == ("async", True)
    assert await second.enqueue("x") == other_broker.batches[0][0]
    assert await second(context(FakePort()), "x") == "t:x"


def module_level(a: int) -> int:
    return a


def test_the_name_comes_from_module_and_function_where_none_is_given(app: Stem) -> None:
    task = app.task(module_level)

    assert task.name == "tests.test_task.module_level"


def test_a_derived_name_that_cannot_be_one_asks_for_one(app: Stem) -> None:
    with pytest.raises(ConfigError, match=r"<locals>.*give one, such as @app.task"):

        @app.task()
        def inner() -> None: ...


@pytest.mark.parametrize("name", ["a b", "", "x" * 201, "\x1b", "ü"])
def test_a_bad_name_is_refused_at_once(app: Stem, name: str) -> None:
    with pytest.raises(InvalidNameError):
        app.task(name)


def test_shared_options_are_a_base(app: Stem) -> None:
    shared = TaskOptions(queue="slow", max_retries=1)

    @app.task("one", base=shared, max_retries=9)
    def one() -> None: ...

    assert one.options == TaskOptions(queue="slow", max_retries=9)


def test_positional_arguments_get_their_names(app: Stem) -> None:
    @app.task("report.build")
    async def build(context: TaskContext, report_id: str, pages: int = 10, *, draft: bool = False) -> None: ...

    assert build.signature("x", 3).args == {"report_id": "x", "pages": 3}
    assert build.signature("x", draft=True).args == {"report_id": "x", "draft": True}


def test_calls_that_do_not_fit_are_refused_before_anything_is_sent(app: Stem) -> None:
    @app.task("report.build")
    async def build(context: TaskContext, report_id: str, pages: int = 10) -> None: ...

    wrong: Any = build
    with pytest.raises(InvalidArgumentsError, match="'report_id' missing"):
        wrong.signature()
    with pytest.raises(InvalidArgumentsError, match=r"2 positional arguments .*, 3 were given"):
        wrong.signature(1, 2, 3)
    with pytest.raises(InvalidArgumentsError, match="'report_id' is given twice"):
        wrong.signature("x", report_id="y")
    with pytest.raises(InvalidArgumentsError, match="'page' unknown"):
        wrong.signature("x", page=3)


def test_the_contexts_name_is_no_argument_where_any_keyword_is_taken(app: Stem) -> None:
    @app.task("open")
    def takes_any(context: TaskContext, **rest: int) -> None: ...

    @app.task("by-place")
    def by_place(context: TaskContext, /, **rest: int) -> None: ...

    called: Any = takes_any
    placed: Any = by_place
    with pytest.raises(InvalidArgumentsError, match="'context' is the worker's to give"):
        called.signature(context=1, other=2)
    with pytest.raises(InvalidArgumentsError, match="'context' is the worker's to give"):
        app.registry.get("open").validate({"context": 1})
    assert called.signature(other=2).args == {"other": 2}
    assert placed.signature(context=1).args == {"context": 1}


def test_a_variant_carries_how_it_is_enqueued(app: Stem) -> None:
    @app.task("t", queue="own")
    def task(a: int) -> None: ...

    signature = task.with_options(
        TaskOptions(max_retries=1), queue="other", delay=5, unique_key="k", priority=3, meta={"m": 1}, task_id="id-1"
    ).signature(1)

    assert signature.options == TaskOptions(queue="other", max_retries=1)
    assert (signature.name, signature.args, signature.delay, signature.unique_key) == ("t", {"a": 1}, 5, "k")
    assert (signature.priority, signature.meta, signature.task_id) == (3, {"m": 1}, "id-1")
    assert task.signature(1).delay is None


def by_annotation(job: TaskContext, a: int) -> None: ...
def by_alias(job: Ctx, a: int) -> None: ...
def by_name(context, a):  # type: ignore[no-untyped-def]  # what untyped programs write
    ...


def by_forward_reference(job: Any, a: int) -> None: ...
def by_name_only_checked(context: Any, a: int) -> None: ...


# As Python 3.14 gives what is imported for type checkers alone.
by_forward_reference.__annotations__["job"] = ForwardRef("stem.TaskContext")
by_name_only_checked.__annotations__["context"] = ForwardRef("Any")


def optional(job: TaskContext | None, a: int) -> None: ...
def not_a_context(context: str, a: int) -> None: ...
def second_place(a: int, context: TaskContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes", "names"),
    [
        (by_annotation, True, ("a",)),
        (by_alias, True, ("a",)),
        (by_name, True, ("a",)),
        (by_forward_reference, True, ("a",)),
        (by_name_only_checked, True, ("a",)),
        (optional, True, ("a",)),
        (not_a_context, False, ("context", "a")),
        (second_place, False, ("a", "context")),
    ],
)
def test_the_context_is_the_first_parameter_named_or_annotated_so(
    function: Any, takes: bool, names: tuple[str, ...]
) -> None:
    parameters = Parameters(function, task="t")

    assert (parameters.takes_context, parameters.names) == (takes, names)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated when the function is made")
def test_annotations_may_name_what_only_type_checkers_import(app: Stem) -> None:
    source = """
def build(job: TaskContext, invoice: Invoice) -> Receipt: ...

class Handler:
    name = "handler"
    def __call__(self, context: TaskContext, args: Arguments) -> Receipt: ...
"""
    home: dict[str, Any] = {}
    exec(compile(source, "tasks.py", "exec", dont_inherit=True), home)

    task: Any = app.task("build")(home["build"])
    app.registry.register(home["Handler"]())

    assert (task.parameters.takes_context, task.parameters.names) == (True, ("invoice",))


def test_types_of_a_task_are_known_to_the_type_checker(app: Stem) -> None:
    @app.task("typed")
    async def typed(context: TaskContext, report_id: str, pages: int = 10) -> int:
        return pages

    bare = app.task(module_level)

    # mypy reports an unused ignore: these lines are the test.
    with pytest.raises(InvalidArgumentsError):
        typed.signature("x", page=3)  # type: ignore[call-arg]
    typed.signature(5)  # type: ignore[arg-type]
    bare.signature("x")  # type: ignore[arg-type]
    result: int = bare(1)
    assert result == 1
    assert isinstance(typed, Task)
    assert UNSET is not None
