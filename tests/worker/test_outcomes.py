"""From a handler's end to the task's state."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.contracts import NewTask
from stem.errors import Reject
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.status import TaskState, TaskStatus
from stem.options import TaskOptions
from stem.registry import SimpleTaskRegistry
from stem.retry import ExponentialJitterRetryStrategy
from stem.signals import StemSignals
from stem.signing import PayloadSigner
from stem.task import TaskContext
from stem.worker import WorkerLifecycleConfig, verdict
from stem.worker.board import Board
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


async def run(house: House, name: str, args: Mapping[str, Any] | None = None, **how: Any) -> TaskStatus:
    return await house.stem.wait_for(await house.stem.enqueue(name, args or {}, **how), timeout=10)


async def test_a_result_is_stored(house: House) -> None:
    async def double(context: TaskContext, args: Mapping[str, Any]) -> int:
        return int(args["n"]) * 2

    on_loop(house.registry, "double", double)
    await house.worker()

    status = await run(house, "double", {"n": 21})

    assert (status.state, status.result, status.attempt, status.token) == (TaskState.SUCCEEDED, 42, 0, 1)


async def test_a_plain_function_runs_in_a_thread(house: House) -> None:
    def where(context: TaskContext, args: Mapping[str, Any]) -> str:
        return threading.current_thread().name

    in_thread(house.registry, "where", where)
    await house.worker()

    assert "stem-handler" in str((await run(house, "where")).result)


async def test_a_failure_is_retried_with_the_attempt_growing(house: House) -> None:
    async def flaky(context: TaskContext, args: Mapping[str, Any]) -> int:
        if context.attempt < 2:
            raise ValueError(f"attempt {context.attempt}")
        return context.attempt

    on_loop(house.registry, "flaky", flaky, TaskOptions(max_retries=2))
    await house.worker()

    status = await run(house, "flaky")

    assert (status.state, status.result, status.attempt, status.token) == (TaskState.SUCCEEDED, 2, 2, 3)


async def test_the_last_failure_becomes_a_dead_letter_with_its_traceback(house: House) -> None:
    async def broken(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise ValueError("no \x1b[31m way")

    on_loop(house.registry, "broken", broken, TaskOptions(max_retries=1))
    worker = await house.worker()

    status = await run(house, "broken")

    assert (status.state, status.attempt, status.reason) == (TaskState.FAILED, 1, "failed")
    assert status.error is not None
    assert (status.error.type, status.error.message) == ("ValueError", "no \x1b[31m way")
    assert "test_outcomes.py" in status.error.traceback
    assert "dispatch.py" not in status.error.traceback
    assert worker.stats()["counters"] | {"retried": 1, "failed": 1} == worker.stats()["counters"]


async def test_what_the_producer_sets_wins_over_the_handler(house: House) -> None:
    async def broken(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise ValueError(str(context.max_retries))

    on_loop(house.registry, "broken", broken, TaskOptions(max_retries=5))
    await house.worker()

    status = await run(house, "broken", options=TaskOptions(max_retries=0))

    assert (status.state, status.attempt) == (TaskState.FAILED, 0)
    assert status.error is not None
    assert status.error.message == "0"


@pytest.mark.parametrize(
    ("error", "options", "attempts"),
    [
        (Reject("never"), TaskOptions(max_retries=3), 1),
        (KeyError("x"), TaskOptions(max_retries=3, give_up_on=(LookupError,)), 1),
        (KeyError("x"), TaskOptions(max_retries=3, retry_on=(ConnectionError,)), 1),
        (ConnectionResetError("x"), TaskOptions(max_retries=1, retry_on=(ConnectionError,)), 2),
        (SystemExit(3), TaskOptions(max_retries=1), 2),
        (asyncio.CancelledError(), TaskOptions(max_retries=1), 2),
    ],
)
async def test_which_errors_are_retried(
    memory_house: House, error: BaseException, options: TaskOptions, attempts: int
) -> None:
    starts = []

    async def failing(context: TaskContext, args: Mapping[str, Any]) -> None:
        starts.append(context.attempt)
        raise error

    on_loop(memory_house.registry, "failing", failing, options)
    await memory_house.worker()

    status = await run(memory_house, "failing")

    assert status.state is TaskState.FAILED
    assert starts == list(range(attempts))


async def test_a_handler_asks_for_its_own_retry(house: House) -> None:
    async def again(context: TaskContext, args: Mapping[str, Any]) -> str:
        if context.attempt == 0:
            context.retry(countdown=0.05)
        return "second"

    on_loop(house.registry, "again", again)
    await house.worker()

    assert (await run(house, "again")).result == "second"


async def test_retries_are_signalled_with_the_time_of_the_next_run(memory_house: House) -> None:
    seen = []
    StemSignals.on_task_retry(lambda event, context: seen.append((event.next_retry_at, event.delay_s, context.attempt)))

    async def flaky(context: TaskContext, args: Mapping[str, Any]) -> None:
        if context.attempt < 2:
            raise OSError

    on_loop(memory_house.registry, "flaky", flaky)
    await memory_house.worker(retry_strategy=ExponentialJitterRetryStrategy(base=0.02, max=1))

    await run(memory_house, "flaky")

    assert [attempt for _, _, attempt in seen] == [0, 1]
    assert all(at.tzinfo is not None and 0 < delay_s <= 0.04 for at, delay_s, _ in seen)


async def test_signals_come_in_the_order_of_a_tasks_life(memory_house: House) -> None:
    seen: list[str] = []

    async def prerun(event: object, context: object) -> None:
        seen.append("prerun")

    StemSignals.on_task_received(lambda event, context: seen.append("received"))
    StemSignals.on_task_prerun(prerun)
    StemSignals.on_task_postrun(lambda event, context: seen.append(f"postrun {event.outcome}"))
    StemSignals.on_task_succeeded(lambda event, context: seen.append(f"succeeded {event.result}"))

    def plain(context: TaskContext, args: Mapping[str, Any]) -> str:
        seen.append("run")
        return "r"

    in_thread(memory_house.registry, "plain", plain)
    await memory_house.worker()

    await run(memory_house, "plain")
    await eventually(lambda: len(seen) == 5)

    assert seen == ["received", "prerun", "run", "postrun succeeded", "succeeded r"]


async def test_a_result_that_cannot_travel_buries_the_task_at_once(memory_house: House) -> None:
    async def bad(context: TaskContext, args: Mapping[str, Any]) -> object:
        return object()

    on_loop(memory_house.registry, "bad", bad)
    await memory_house.worker()

    status = await run(memory_house, "bad")

    assert (status.state, status.attempt) == (TaskState.FAILED, 0)
    assert status.error is not None
    assert status.error.type == "InvalidArgumentsError"


async def test_a_coroutine_that_a_plain_wrapper_returns_is_told_as_what_it_is(memory_house: House) -> None:
    """And one that the wrapper runs itself has run."""

    async def handler(context: TaskContext) -> int:
        return 5

    @functools.wraps(handler)
    def hiding(context: TaskContext) -> object:
        return handler(context)

    @functools.wraps(handler)
    def running(context: TaskContext) -> object:
        return asyncio.run(handler(context))

    app = Stem(InMemoryBroker(), memory_house.registry)
    app.task("hiding", max_retries=5)(hiding)
    app.task("running")(running)
    await memory_house.worker()

    hidden, ran = await run(memory_house, "hiding"), await run(memory_house, "running")

    assert (hidden.state, hidden.attempt, ran.result) == (TaskState.FAILED, 0, 5)
    assert hidden.error is not None
    assert hidden.error.type == "ConfigError"
    assert "Make the wrapper `async def` too" in hidden.error.message


async def test_an_error_that_cannot_be_shown_is_still_recorded(memory_house: House) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def nasty(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise Nasty

    async def surrogate(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise ValueError("\ud800")

    on_loop(memory_house.registry, "nasty", nasty, TaskOptions(max_retries=0))
    on_loop(memory_house.registry, "surrogate", surrogate, TaskOptions(max_retries=0))
    await memory_house.worker()

    first, second = await run(memory_house, "nasty"), await run(memory_house, "surrogate")

    assert first.error is not None
    assert second.error is not None
    assert "no message" in first.error.message
    assert second.error.message == r"\ud800"


async def test_an_unknown_name_is_given_back_and_runs_where_it_is_known(house: House) -> None:
    producer = House(house.broker)
    await house.worker(registry=SimpleTaskRegistry())
    task_id = await producer.stem.enqueue("late.known")
    await eventually(lambda: house.workers[0].stats()["counters"]["handed_back"])

    async def known(context: TaskContext, args: Mapping[str, Any]) -> str:
        return "ran"

    on_loop(house.registry, "late.known", known)
    await house.workers[0].shutdown()
    await house.worker()

    status = await house.stem.wait_for(task_id, timeout=10)
    assert (status.result, status.attempt) == ("ran", 0)


async def test_a_clock_that_was_set_forward_buries_no_unknown_name(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its next heartbeat the worker believes its own clock."""
    real = Board.now_ms
    monkeypatch.setattr(Board, "now_ms", lambda board: real(board) + 2 * verdict.GIVE_UP_AFTER_MS)
    worker = await memory_house.worker(registry=SimpleTaskRegistry())

    task_id = await House(memory_house.broker).stem.enqueue("late.known")
    await eventually(lambda: worker.stats()["counters"]["handed_back"] + worker.stats()["counters"]["failed"] >= 2)

    assert (await memory_house.stem.status(task_id)).state is TaskState.SCHEDULED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xc1garbage", "malformed"),
        (b"", "malformed"),
        (Envelope(id="another-id", task="echo").encode(), "malformed"),
    ],
)
async def test_a_body_that_cannot_be_read_is_buried(house: House, body: bytes, reason: str) -> None:
    async def echo(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise AssertionError("it must not run")

    on_loop(house.registry, "echo", echo)
    task_id = new_task_id()
    await house.broker.enqueue([NewTask(id=task_id, task="echo", queue="default", body=body)])
    await house.worker()

    status = await house.broker.wait(task_id, 10)

    assert status is not None
    assert (status.state, status.reason) == (TaskState.FAILED, reason)


async def test_arguments_the_handler_does_not_take_bury_the_task(memory_house: House) -> None:
    @memory_house.stem.task("add")
    async def add(a: int, b: int) -> int:
        return a + b

    task_id = new_task_id()
    body = Envelope(id=task_id, task="add", args={"a": 1, "c": 2}).encode()
    await memory_house.broker.enqueue([NewTask(id=task_id, task="add", queue="default", body=body)])
    await memory_house.worker()

    status = await memory_house.broker.wait(task_id, 10)

    assert status is not None
    assert status.error is not None
    assert (status.state, status.error.type) == (TaskState.FAILED, "InvalidArgumentsError")


async def test_unsigned_and_forged_tasks_never_run(house: House) -> None:
    ran = []

    async def pay(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.append(args["n"])

    on_loop(house.registry, "pay", pay)
    signer = PayloadSigner({"k1": b"x" * 32}, active="k1")
    other = PayloadSigner({"k1": b"y" * 32}, active="k1")
    await house.worker(signer=signer)
    tasks = []
    for number, signed_by in enumerate((signer, other, None)):
        task_id = new_task_id()
        body = Envelope(id=task_id, task="pay", args={"n": number}).encode()
        signature = b"" if signed_by is None else signed_by.sign("task", house.broker.namespace, "default", body)
        tasks.append(NewTask(id=task_id, task="pay", queue="default", body=body, signature=signature))
    await house.broker.enqueue(tasks)

    ends = [await house.broker.wait(task.id, 10) for task in tasks]

    assert [end.reason for end in ends if end is not None] == ["", "signature-invalid", "signature-invalid"]
    assert ran == [0]


async def test_children_know_their_parent(house: House) -> None:
    async def parent(context: TaskContext, args: Mapping[str, Any]) -> str:
        return await context.enqueue("child")

    def threaded_parent(context: TaskContext, args: Mapping[str, Any]) -> str:
        return context.enqueue_blocking("child")

    async def child(context: TaskContext, args: Mapping[str, Any]) -> list[Any]:
        return [context.parent, context.root]

    on_loop(house.registry, "parent", parent)
    in_thread(house.registry, "threaded", threaded_parent)
    on_loop(house.registry, "child", child)
    await house.worker()

    for name in ("parent", "threaded"):
        begun = await run(house, name)
        assert (await house.stem.wait_for(begun.result, timeout=10)).result == [begun.id, begun.id]


async def test_a_handler_may_send_again_what_was_sent_from_outside(house: House) -> None:
    async def sender(context: TaskContext, args: Mapping[str, Any]) -> str:
        return await context.enqueue("child", {"n": 1}, task_id="mine")

    def threaded_sender(context: TaskContext, args: Mapping[str, Any]) -> str:
        return context.enqueue_blocking("child", {"n": 1}, task_id="mine")

    async def child(context: TaskContext, args: Mapping[str, Any]) -> None:
        pass

    on_loop(house.registry, "sender", sender)
    in_thread(house.registry, "threaded", threaded_sender)
    on_loop(house.registry, "child", child)
    await house.worker()

    await house.stem.enqueue("child", {"n": 1}, task_id="mine")

    assert [(await run(house, name)).result for name in ("sender", "threaded")] == ["mine", "mine"]


async def test_progress_reaches_the_record(house: House) -> None:
    go = asyncio.Event()

    async def slow(context: TaskContext, args: Mapping[str, Any]) -> None:
        context.progress({"done": 1})
        await go.wait()

    on_loop(house.registry, "slow", slow)
    await house.worker()
    task_id = await house.stem.enqueue("slow")

    async def shown() -> bool:
        return bool((await house.stem.status(task_id)).progress == {"done": 1})

    await eventually(shown)
    go.set()
    await house.stem.wait_for(task_id, timeout=10)


async def test_a_backend_of_its_own_gets_a_copy(memory_house: House) -> None:
    from stem.adapters.memory import InMemoryResultBackend

    async def echo(context: TaskContext, args: Mapping[str, Any]) -> str:
        return "copied"

    on_loop(memory_house.registry, "echo", echo)
    backend = InMemoryResultBackend()
    worker = await memory_house.worker(backend=backend)
    status = await run(memory_house, "echo")
    await worker.shutdown()

    copy = await backend.get(status.id)

    assert copy is not None
    assert (copy.state, copy.result, copy.token) == (TaskState.SUCCEEDED, "copied", 1)


async def test_a_burst_over_several_queues_runs_completely_and_once(house: House) -> None:
    starts: list[int] = []

    async def count(context: TaskContext, args: Mapping[str, Any]) -> None:
        starts.append(args["n"])
        await asyncio.sleep(0)

    on_loop(house.registry, "count", count)
    for number in range(600):
        await house.stem.enqueue("count", {"n": number}, options=TaskOptions(queue=f"q{number % 3}"))
    first = await house.worker(queues=["q0", "q1", "q2"], concurrency=20)
    second = await house.worker(queues=["q0", "q1", "q2"], concurrency=7, clone=True)

    await eventually(lambda: len(starts) >= 600)
    await first.shutdown()
    await second.shutdown()

    assert sorted(starts) == list(range(600))
    assert first.stats()["counters"]["succeeded"] + second.stats()["counters"]["succeeded"] == 600


@pytest.mark.parametrize("where", ["thread", "loop"])
async def test_an_interrupt_that_a_handler_raises_is_its_failure(house: House, where: str) -> None:
    def interrupted(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    async def interrupted_on_loop(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    if where == "thread":
        in_thread(house.registry, "interrupted", interrupted, TaskOptions(max_retries=1))
        worker = await house.worker()
    else:
        on_loop(house.registry, "interrupted", interrupted_on_loop, TaskOptions(max_retries=1))
        worker = await house.worker(lifecycle=WorkerLifecycleConfig(install_signal_handlers=True))

    status = await run(house, "interrupted")
    await worker.shutdown()  # within the test: what it found of SIGINT is the handler of this run of the loop

    assert (status.state, status.attempt, status.token) == (TaskState.FAILED, 1, 2)
    assert status.error is not None
    assert status.error.type == "KeyboardInterrupt"


async def test_a_handler_that_cancels_itself_has_failed(house: House) -> None:
    async def gives_up(context: TaskContext, args: Mapping[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    on_loop(house.registry, "gives_up", gives_up, TaskOptions(max_retries=1))
    await house.worker()

    status = await run(house, "gives_up")

    assert (status.state, status.attempt, status.token) == (TaskState.FAILED, 1, 2)
    assert status.error is not None
    assert status.error.type == "CancelledError"
