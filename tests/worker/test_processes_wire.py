"""What a worker and its children say to each other: what goes in comes out, in whatever pieces; rubbish is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stem import errors
from stem.errors import (
    BrokerRefusedError,
    DecodeError,
    HandlerError,
    InvalidArgumentsError,
    InvalidInputError,
    QueueFull,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    StemError,
    UnknownTaskError,
)
from stem.messages.codec import Fields, pack, unpack
from stem.messages.status import ErrorInfo
from stem.options import TaskOptions
from stem.retry import FixedRetryStrategy
from stem.task import Signature
from stem.worker.wire import (
    Inbox,
    frame,
    heard_failure,
    heard_refusal,
    heard_signature,
    told_failure,
    told_refusal,
    told_signature,
)


def fields(plain: dict[str, object]) -> Fields:
    """Return what the other side reads."""
    return Fields(unpack(pack(plain)), "message")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_messages_survive_any_cut(size: int) -> None:
    stream = b"".join(frame("progress", value=bytes(number)) for number in range(20))
    inbox = Inbox()

    heard = [message for start in range(0, len(stream), size) for message in inbox.feed(stream[start : start + size])]

    assert [message.bytes_("value") for message in heard] == [bytes(number) for number in range(20)]


@pytest.mark.parametrize(
    "rubbish", [b"\xff" * 8, (2).to_bytes(4, "big") + b"\xc1\xc1", (1).to_bytes(4, "big") + b"\x07"]
)
def test_rubbish_is_refused(rubbish: bytes) -> None:
    with pytest.raises(DecodeError):
        list(Inbox().feed(rubbish))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Retry("again", countdown=2.5), Retry),
        (Retry(), Retry),
        (Reject("never"), Reject),
        (SoftTimeLimitExceeded("late"), SoftTimeLimitExceeded),
        (ValueError("bad"), HandlerError),
    ],
)
def test_a_failure_keeps_its_meaning(error: BaseException, kind: type[BaseException]) -> None:
    info = ErrorInfo(type=type(error).__name__, message=str(error), traceback="where")

    heard = heard_failure(fields(told_failure(error, info, retried=False, given_up=True)))

    assert isinstance(heard, kind)
    assert (heard.type, str(heard), heard.traceback) == (type(error).__name__, str(error), "where")
    assert (heard.retried, heard.given_up) == (False, True)
    if isinstance(error, Retry):
        assert isinstance(heard, Retry)
        assert heard.countdown == error.countdown


REFUSALS = [
    QueueFull("full", queue="q", refused=["a", "b"]),
    BrokerRefusedError("no", code="OOM"),
    UnknownTaskError("nobody"),
    InvalidArgumentsError("bad"),
    StemError("something"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refusal_arrives_as_the_same_error(error: StemError) -> None:
    heard = heard_refusal(fields(told_refusal(error)))

    assert type(heard) is type(error)
    assert str(heard) == str(error)
    assert vars(heard) == vars(error)


@pytest.mark.parametrize("name", ["Sequence", "HandlerError", "annotations", "nothing"])
def test_only_errors_of_stem_are_made_of_a_name(name: str) -> None:
    told = told_refusal(StemError("x")) | {"refused": name}

    assert type(heard_refusal(fields(told))) is StemError


def test_every_error_without_fields_of_its_own_can_be_told() -> None:
    plain = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, StemError)]
    for made in plain:
        if made not in (QueueFull, BrokerRefusedError, HandlerError):
            error: Any = made("why")
            assert type(heard_refusal(fields(told_refusal(error)))) is made


SIGNATURES = [
    Signature(name="a"),
    Signature(name="a", args={"n": [1, {"x": None}]}, meta={"k": 1.5}, headers={"h": "v"}, task_id="t-1", priority=9),
    Signature(name="a", delay=1.5, expires=60.0, unique_key="u"),
    Signature(name="a", eta=datetime(2030, 1, 1, tzinfo=UTC), expires=datetime(2031, 1, 1, tzinfo=UTC)),
    Signature(name="a", eta=datetime(2030, 1, 1)),
    Signature(name="a", options=TaskOptions(queue="q", max_retries=2, time_limit=3, isolation="process")),
    Signature(name="a", options=TaskOptions(retry_strategy=FixedRetryStrategy(2.0))),
]


@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
def test_a_request_arrives_as_it_was_made(signature: Signature) -> None:
    heard = heard_signature(told_signature(signature))

    assert repr(heard) == repr(signature)


def test_a_timedelta_arrives_as_its_seconds() -> None:
    heard = heard_signature(told_signature(Signature(name="a", delay=timedelta(minutes=1), expires=timedelta(hours=1))))

    assert (heard.delay, heard.expires) == (60.0, 3600.0)


def test_what_cannot_travel_is_refused_in_the_child() -> None:
    with pytest.raises(InvalidInputError):
        told_signature(Signature(name="a", args={"it": object()}))
    with pytest.raises(InvalidInputError, match="retry_on cannot travel"):
        told_signature(Signature(name="a", options=TaskOptions(retry_on=(ValueError,))))
