"""The feed over a broker in this process: live, cut off, back again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.clock import SystemClock
from stem.contracts import Beat, FetchRequest, NewTask, Outcome, Settlement
from stem.errors import BrokerRefusedError, BrokerUnreachableError
from stem.messages.envelope import Envelope
from stem.messages.event import Event
from stem.observe import feed as module
from stem.observe.feed import Feed, take
from stem.testing import FakeClock
from tests.observe.builders import beat, state
from tests.waiting import eventually


class Plug:
    """A broker whose plug can be pulled: every call through it fails while it is out."""

    def __init__(self, inner: Any, error: Callable[[], Exception | None]) -> None:
        self._inner = inner
        self._error = error

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in ("presence", "control", "events", "census"):
            return Plug(value, self._error)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            if (error := self._error()) is not None:
                raise error
            return value(*args, **kwargs)

        return call


async def enqueue(broker: Any, *ids: str, queue: str = "default", task: str = "mail.send") -> None:
    await broker.enqueue(
        [NewTask(id=each, task=task, queue=queue, body=Envelope(id=each, task=task).encode()) for each in ids]
    )


@asynccontextmanager
async def fed(broker: Any, **fields: Any) -> AsyncIterator[Feed]:
    feed = Feed(broker, state(), watcher="test", interval_s=0.01, **fields)
    running = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_picture_says_what_the_broker_holds() -> None:
    broker = InMemoryBroker()
    await enqueue(broker, "a", "b", "c")
    await broker.presence.beat(Beat(heartbeat=beat()))
    exchange = await broker.exchange("host-1-aa", [], FetchRequest(queues=["default"], count=1))

    async with fed(broker) as feed:
        await eventually(lambda: feed.state.queues and feed.state.queues["default"].in_flight == 1)
        row = feed.state.queues["default"]

        assert (row.ready, row.in_flight) == (2, 1)
        assert list(feed.state.running) == [exchange.deliveries[0].id]
        assert feed.connection.up


async def test_events_arrive_while_the_lease_is_held_and_it_is_given_back() -> None:
    broker = InMemoryBroker()
    async with fed(broker) as feed:
        await eventually(lambda: feed.connection.up)

        async def heard() -> bool:
            await broker.events.emit([Event(kind="task.started", at_ms=1, worker="w", seq=1, task_id="a", task="t")])
            return "a" in feed.state.running

        await eventually(heard)
        assert (await broker.presence.beat(Beat(heartbeat=beat()))).watched
    assert not (await broker.presence.beat(Beat(heartbeat=beat()))).watched


@pytest.mark.parametrize(("slow_polls", "wait_s"), [({1}, 1.0), ({4}, 1.0), ({1, 2, 3, 4, 5}, 18.0)])
async def test_a_slow_server_is_asked_less_often_but_one_slow_answer_leaves_no_old_picture(
    monkeypatch: pytest.MonkeyPatch, slow_polls: set[int], wait_s: float
) -> None:
    clock, waits = FakeClock(), list[float]()

    def answer() -> None:
        if feed.polls + 1 in slow_polls and not busy:
            busy.append(1)
            clock.advance(2.0)

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        busy.clear()
        if len(waits) == 5:
            raise asyncio.CancelledError

    busy: list[int] = []
    feed = Feed(Plug(InMemoryBroker(), answer), state(), watcher="test", clock=clock, events=False)
    monkeypatch.setattr(feed, "_pause", pause)
    await asyncio.gather(feed.run(), return_exceptions=True)

    assert max(waits) == wait_s
    assert waits[0] == 1.0


async def test_a_broker_that_goes_away_leaves_the_picture_and_comes_back() -> None:
    error: Exception | None = None
    inner = InMemoryBroker()
    await enqueue(inner, "a")
    async with fed(Plug(inner, lambda: error)) as feed:
        await eventually(lambda: feed.connection.up)
        error = BrokerUnreachableError("connection refused \x1b[2J")

        await eventually(lambda: feed.connection.phase == "DOWN")
        assert feed.state.queues["default"].ready == 1
        assert "\x1b" not in feed.connection.error
        assert feed.connection.retry >= 1

        error = None
        await enqueue(inner, "b")
        feed.hurry()
        await eventually(lambda: feed.connection.up)
        assert feed.state.queues["default"].ready == 2
        assert feed.connection.error == ""


async def test_a_broker_that_is_not_there_at_the_start_is_waited_for() -> None:
    error: Exception | None = BrokerUnreachableError("no route")
    async with fed(Plug(InMemoryBroker(), lambda: error)) as feed:
        await eventually(lambda: feed.connection.phase == "DOWN")
        assert feed.connection.answered_s is None

        error = None
        feed.hurry()
        await eventually(lambda: feed.connection.up)


async def test_what_the_server_refuses_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise BrokerRefusedError("no rights for INFO", code="NOPERM")

    broker = InMemoryBroker()
    monkeypatch.setattr(broker.census, "info", refuse)

    snapshot = await take(broker, clock=SystemClock(), info=True)

    assert snapshot.info is None
    assert snapshot.refused == {"server": "no rights for INFO"}
    assert snapshot.queues == []


async def test_what_is_due_and_not_fetched_is_still_listed() -> None:
    """It counts as ready, and stands in the list of its state as before."""
    clock = FakeClock()
    broker = InMemoryBroker(clock=clock)
    body = Envelope(id="due", task="t").encode()
    await broker.enqueue([NewTask(id="due", task="t", queue="default", body=body, delay_ms=1_000)])
    clock.advance(2.0)

    snapshot = await take(broker, clock=clock, pages=["scheduled"])

    (row,) = snapshot.queues or ()
    assert (row.ready, row.delayed) == (1, 0)
    assert [task.id for task in snapshot.pages["scheduled"].items] == ["due"]


async def test_pages_show_some_of_every_queue() -> None:
    """One long queue must not hide the others."""
    broker = InMemoryBroker()
    await enqueue(broker, *(f"a{number}" for number in range(30)), queue="long")
    await enqueue(broker, "b", queue="short")

    snapshot = await take(broker, clock=SystemClock(), pages=["queued"], page=5)

    found = snapshot.pages["queued"]
    assert len(found.items) == 6
    assert found.next is not None
    assert found.total == 31


async def test_dead_letters_and_failures_are_found_after_the_fact() -> None:
    broker = InMemoryBroker()
    await enqueue(broker, "a")
    await broker.presence.beat(Beat(heartbeat=beat()))
    exchange = await broker.exchange("host-1-aa", [], FetchRequest(queues=["default"], count=1))
    token = exchange.deliveries[0].token
    settlement = Settlement(id="a", token=token, outcome=Outcome.DEAD, error_type="KeyError", reason="failed")
    await broker.exchange("host-1-aa", [settlement], None)

    async with fed(broker) as feed:
        feed.pages = {"running", "dead"}
        await eventually(lambda: "a" in feed.state.tasks and feed.state.tasks["a"].state == "dead")

        (group,) = feed.state.failures.groups(feed.state.tasks["a"].finished_ms)
        assert (group.task, group.error) == ("mail.send", "KeyError")


def test_a_live_link_whose_answer_is_overdue_is_stale() -> None:
    clock = FakeClock()
    link = module.Connection(phase="LIVE", answered_s=clock.monotonic())

    assert link.shown(clock.monotonic()) == "LIVE"
    clock.advance(3.5)
    assert link.shown(clock.monotonic()) == "STALE"
    link.pause_s = 5.0  # a slow broker is asked less often: nothing is overdue
    assert link.shown(clock.monotonic()) == "LIVE"


@pytest.mark.parametrize("retry", [0, 3, 20])
async def test_the_wait_between_attempts_is_bounded(retry: int) -> None:
    feed = Feed(InMemoryBroker(), state(), watcher="test")
    feed.connection.retry = retry
    feed.hurry()

    await feed._down(BrokerUnreachableError("gone"))

    wait_s = feed.connection.next_s - feed.connection.since_s
    assert 0 < wait_s <= 2.0


class Asked:
    """A census that notes how much of the past it is asked for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.rows: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in ("minutes", "history"):
            return value

        def call(number: int) -> Any:
            self.rows.append((name, number))
            return value(number)

        return call


@pytest.mark.parametrize(
    ("away_s", "asked"),
    [(4.0, [("minutes", 2), ("history", 300)]), (600.0, [("minutes", 12), ("history", 10_000)])],
)
async def test_after_a_sleep_of_the_machine_the_past_is_read_again(
    monkeypatch: pytest.MonkeyPatch, away_s: float, asked: list[tuple[str, int]]
) -> None:
    broker, clock = InMemoryBroker(), FakeClock()
    census = Asked(broker.census)
    monkeypatch.setattr(broker, "census", census)
    feed = Feed(broker, state(), watcher="test", clock=clock)
    await feed.poll()
    census.rows.clear()

    clock.advance(away_s)
    await feed.poll()

    assert census.rows == asked


async def test_a_slow_broker_is_not_asked_for_everything_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause that the feed chose itself is no gap, however long: its watch is renewed meanwhile."""
    broker, clock = InMemoryBroker(), FakeClock()
    census = Asked(broker.census)
    monkeypatch.setattr(broker, "census", census)
    feed = Feed(broker, state(), watcher="test", clock=clock)
    await feed.poll()
    feed.connection.pause_s = 30.0
    census.rows.clear()

    for away_s in (31.0, 44.0, 46.0):
        clock.advance(away_s)
        await feed.poll()

    assert [number for name, number in census.rows if name == "history"] == [300, 300, 10_000]


@pytest.mark.parametrize(("away_s", "gaps"), [(10.0, 0), (16.0, 1)])
async def test_a_watch_that_lapsed_is_a_gap(away_s: float, gaps: int) -> None:
    clock, renewed = FakeClock(), list[str]()
    broker = InMemoryBroker()
    watch = broker.events.watch

    async def noted(watcher: str, *, for_ms: int) -> None:
        renewed.append(watcher)
        await watch(watcher, for_ms=for_ms)

    broker.events.watch = noted  # type: ignore[method-assign]  # to see when it is renewed
    async with fed(broker, clock=clock) as feed:
        await eventually(lambda: renewed and feed.connection.up)

        clock.advance(away_s)
        await eventually(lambda: len(renewed) == 2)
        # What it has to say of the gap it says before it reads on.
        await broker.events.emit([Event(kind="task.started", at_ms=1, worker="w", seq=1, task_id="a", task="t")])
        await eventually(lambda: [line for line in feed.state.events if line.task_id == "a"])

        assert feed.state.gaps == gaps


async def test_it_measures_with_a_clock_that_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stem.clock.boottime_s", lambda: 86_400.0)
    feed = Feed(InMemoryBroker(), state(), watcher="test", events=False)

    await feed.poll()

    assert feed.connection.answered_s == 86_400.0


async def test_what_came_while_the_machine_slept_is_no_spike() -> None:
    broker, clock = InMemoryBroker(), FakeClock()
    feed = Feed(broker, state(), watcher="test", clock=clock)
    await enqueue(broker, "first")
    await feed.poll()
    clock.advance(1.0)
    await feed.poll()
    await enqueue(broker, *(f"t{number}" for number in range(60)))

    clock.advance(600.0)
    await feed.poll()

    assert feed.state.came.rate() == pytest.approx(0.1)


@pytest.mark.parametrize(("answers_before", "gaps"), [(0, 0), (1, 1)])
async def test_a_server_that_started_after_the_dashboard_took_no_events_along(
    answers_before: int, gaps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was seen yet, nothing was missed; after an answer, another life of the server is a gap."""
    polls, poll = list[Feed](), Feed.poll

    async def down_once(feed: Feed) -> None:
        polls.append(feed)
        if len(polls) == answers_before + 1:
            raise BrokerUnreachableError("connection refused")
        await poll(feed)

    monkeypatch.setattr(Feed, "poll", down_once)
    async with fed(InMemoryBroker(), events=False) as feed:
        await eventually(lambda: len(polls) > answers_before + 2 and feed.connection.up)

        assert feed.state.gaps == gaps
