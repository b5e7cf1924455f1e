"""Statuses, heartbeats, events, commands and replies: there and back, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stem.errors import BodyTooLargeError, DecodeError, InvalidArgumentsError, InvalidInputError
from stem.messages.codec import pack, unpack
from stem.messages.command import QUESTIONS, Command, Reply
from stem.messages.event import Event, decode_events, encode_events
from stem.messages.heartbeat import MAX_ROWS, Heartbeat, RunningTask
from stem.messages.status import (
    FINAL_STATES,
    MESSAGE_LIMIT,
    TRACEBACK_LIMIT,
    ErrorInfo,
    TaskState,
    TaskStatus,
    TimelineEntry,
)

STATUS = TaskStatus(
    id="t-1",
    task="job",
    queue="q",
    state=TaskState.SUCCEEDED,
    priority=3,
    attempt=1,
    crashes=2,
    token=4,
    worker="w-1",
    enqueued_at_ms=1,
    due_at_ms=2,
    started_at_ms=3,
    finished_at_ms=4,
    expires_at_ms=5,
    result={"pages": [1, b"\xff"]},
    reason="",
    meta={"k": None},
    progress=0.5,
    timeline=(
        TimelineEntry(at_ms=1, event="enqueued"),
        TimelineEntry(at_ms=3, event="started", worker="w-1", attempt=1),
    ),
)
HEARTBEAT = Heartbeat(
    id="host-1-abc",
    name="alpha",
    started_at_ms=1,
    host="host",
    pid=2,
    version="0.1",
    queues=("a", "b"),
    paused=("b",),
    digest="d",
    state="draining",
    concurrency=8,
    in_flight=1,
    running=(RunningTask(id="t-1", task="job", queue="a", attempt=0, token=1, started_at_ms=5, progress={"n": 1}),),
    counters={"succeeded": 7},
    cpu_percent=12.5,
    rss_bytes=1_000,
    loop_age_ms=3,
    zombie_threads=1,
    epoch=9,
    clock_offset_ms=-4,
    rtt_ms=0.25,
    interval_ms=500,
)


def test_a_status_comes_back_as_it_was() -> None:
    failed = replace(STATUS, state=TaskState.FAILED, result=None, error=ErrorInfo(type="E", message="m", traceback="t"))

    assert TaskStatus.decode(STATUS.encode()) == STATUS
    assert TaskStatus.decode(failed.encode()) == failed


def test_four_states_are_final() -> None:
    assert {state for state in TaskState if state.final} == set(FINAL_STATES)
    assert {state.value for state in FINAL_STATES} == {"succeeded", "failed", "revoked", "expired"}
    assert STATUS.succeeded
    assert not replace(STATUS, state=TaskState.FAILED).succeeded


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "lost"),
        ("state", 1),
        ("token", "4"),
        ("attempt", None),
        ("worker", 5),
        ("meta", []),
        ("timeline", [1]),
        ("timeline", [{"at_ms": "x", "event": "e"}]),
        ("error", "text"),
        ("error", {"type": "E"}),
        ("due_at_ms", "soon"),
    ],
)
def test_a_wrong_field_of_a_status_is_refused(field: str, value: object) -> None:
    with pytest.raises(DecodeError, match=r"^status"):
        TaskStatus.decode(pack({**unpack(STATUS.encode()), field: value}))


def test_an_error_is_cut_to_its_limits() -> None:
    """The message keeps its beginning, the traceback its end, where the cause is."""
    error = ErrorInfo(type="T" * 500, message="a" * 5_000, traceback="b" * 20_000 + "end")

    short = ErrorInfo.decode(error.encode())

    assert short.type == "T" * 200
    assert short.message == "a" * MESSAGE_LIMIT
    assert len(short.traceback) == TRACEBACK_LIMIT
    assert short.traceback.endswith("end")


def test_a_heartbeat_comes_back_as_it_was() -> None:
    assert Heartbeat.decode(HEARTBEAT.encode()) == HEARTBEAT


def test_a_heartbeat_shows_at_most_200_tasks() -> None:
    row = HEARTBEAT.running[0]
    crowded = replace(HEARTBEAT, running=tuple(replace(row, id=f"t-{n}") for n in range(MAX_ROWS + 5)))

    assert len(Heartbeat.decode(crowded.encode()).running) == MAX_ROWS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "a b"),
        ("name", "\x1b[31m"),
        ("id", 5),
        ("state", "asleep"),
        ("queues", "a"),
        ("queues", [1]),
        ("counters", {"succeeded": "7"}),
        ("running", [{"id": "t"}]),
        ("pid", "2"),
        ("cpu_percent", "12"),
        ("started_at_ms", None),
    ],
)
def test_a_wrong_field_of_a_heartbeat_is_refused(field: str, value: object) -> None:
    with pytest.raises(DecodeError, match=r"^heartbeat"):
        Heartbeat.decode(pack({**unpack(HEARTBEAT.encode()), field: value}))


def test_events_come_back_in_order() -> None:
    events = [
        Event(kind="task.started", at_ms=1, worker="w", seq=1, task_id="t", task="job", queue="q", attempt=2),
        Event(kind="later.kind", at_ms=2, worker="w", seq=2, detail={"message": "\x1b[31m"}),
    ]

    assert decode_events(encode_events(events)) == events
    assert decode_events(encode_events([])) == []


@pytest.mark.parametrize(
    ("field", "value"), [("kind", 1), ("at_ms", "1"), ("worker", None), ("seq", 1.5), ("detail", [])]
)
def test_a_wrong_field_of_an_event_is_refused(field: str, value: object) -> None:
    row = {**Event(kind="k", at_ms=1, worker="w", seq=1).to_plain(), field: value}

    with pytest.raises(DecodeError, match=r"^event batch"):
        decode_events(pack({"v": 1, "events": [row]}))


def test_a_command_comes_back_as_it_was() -> None:
    command = Command(
        id="c-1", type="revoke", targets=("a*", "w"), args={"ids": ["t"]}, timeout_ms=7, actor="ada", reason="\n"
    )

    assert Command.decode(command.encode()) == command
    assert Command.decode(replace(command, type="from-the-future").encode()).type == "from-the-future"


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "a b"), ("type", 5), ("targets", (1,)), ("timeout_ms", 1.5), ("actor", 1), ("reason", None)],
)
def test_a_command_that_no_worker_could_read_is_not_sent(field: str, value: Any) -> None:
    command = Command(**{"id": "c", "type": "ping", field: value})

    with pytest.raises(InvalidInputError, match=f"command: '{field}'"):
        command.encode()


def test_questions_change_nothing() -> None:
    assert {"ping", "inspect", "stats"} == QUESTIONS


@pytest.mark.parametrize(
    ("field", "value"), [("id", None), ("type", 5), ("targets", "all"), ("args", []), ("timeout_ms", "5"), ("actor", 1)]
)
def test_a_wrong_field_of_a_command_is_refused(field: str, value: object) -> None:
    data = Command(id="c", type="ping").encode()

    with pytest.raises(DecodeError, match=r"^command"):
        Command.decode(pack({**unpack(data), field: value}))


def test_a_reply_comes_back_as_it_was() -> None:
    reply = Reply(
        command_id="c-1",
        worker="w-1",
        name="alpha",
        stage="effect",
        ok=False,
        error_code="failed",
        error_message="why",
        data={"n": 1},
        at_ms=9,
    )

    assert Reply.decode(reply.encode()) == reply


@pytest.mark.parametrize(
    ("field", "value"), [("ok", 1), ("stage", None), ("data", "x"), ("at_ms", "now"), ("worker", b"w")]
)
def test_a_wrong_field_of_a_reply_is_refused(field: str, value: object) -> None:
    data = Reply(command_id="c", worker="w", name="n", stage="applied").encode()

    with pytest.raises(DecodeError, match=r"^reply"):
        Reply.decode(pack({**unpack(data), field: value}))


def test_a_result_that_cannot_travel_is_refused_by_name() -> None:
    unsendable: Any = object()

    with pytest.raises(InvalidArgumentsError, match="the status of task t-1"):
        replace(STATUS, result=unsendable).encode()
    with pytest.raises(BodyTooLargeError, match="the status of task t-1"):
        replace(STATUS, result=b"x" * (4 * 1024 * 1024)).encode()
