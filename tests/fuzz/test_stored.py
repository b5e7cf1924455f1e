"""Whatever stands in the server's keys, reading it gives typed values: one spoilt field spoils one field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from stem.adapters.redis import calls, census, record
from stem.contracts import Delivery, FinalRow, Pause, Seen
from stem.errors import InvalidInputError
from stem.messages.status import TaskStatus
from tests.fuzz.corpus import nasty_bytes, nasty_strings
from tests.fuzz.mutate import EDGES, SMALL, Mutator
from tests.fuzz.sizes import TIMEOUT_S, random_for, reported, size
from tests.fuzz.test_messages import samples
from tests.messages.fixtures.record import plain

pytestmark = pytest.mark.timeout(TIMEOUT_S)

STATES: Final = (b"queued", b"scheduled", b"running", b"retrying", b"succeeded", b"failed", b"revoked", b"expired")
TEXTS: Final = tuple(text.encode("utf-8", "surrogatepass") for text in nasty_strings())


class Stored(Mutator):
    """Makes what may stand in a hash, a list or a sorted set."""

    def field(self) -> bytes | None:
        """Return what a field may hold: None for a missing one."""
        random = self.random
        match random.randrange(8):
            case 0:
                return None
            case 1:
                return str(random.choice(EDGES)).encode()
            case 2:
                return random.choice(SMALL)
            case 3:
                return random.choice(STATES)
            case 4:
                return self.lines()
            case 5:
                return self.bytes_(random.choice(samples(random.choice(("envelope", "error", "heartbeat")))))
            case _:
                return random.choice(TEXTS)

    def lines(self) -> bytes:
        """Return lines of tab-joined pieces, as timelines, pauses and the history have them."""
        random = self.random
        rows = []
        for _ in range(random.choice((1, 1, 3))):
            pieces = [
                random.choice((str(random.choice(EDGES)).encode(), random.choice(TEXTS), random.choice(STATES), b"0"))
                for _ in range(random.choice((1, 4, 5, 5, 10, 10, 12)))
            ]
            rows.append(b"\t".join(pieces))
        return b"\n".join(rows) + random.choice((b"", b"\n"))


def shown(value: Any) -> None:
    """Do with a value what programs do: show it."""
    json.dumps(plain(value)).encode()


def test_a_record_of_any_fields_is_a_status_or_none() -> None:
    stored = Stored(random_for("records"))
    with reported("records") as counted:
        for _ in range(size(10_000)):
            values = [stored.field() for _ in record.FIELDS]
            values[record.FIELDS.index("st")] = stored.random.choice(STATES)
            status = record.status_of("t-1", values, timeline=True)
            counted.add(1)
            assert isinstance(status, TaskStatus)
            shown(status)
            json.dumps(status.to_plain(), default=repr)


def test_any_row_of_a_delivery_is_a_delivery() -> None:
    """It is the worker that says what is wrong with one; here it must not take its whole batch with it."""
    stored = Stored(random_for("deliveries"))
    good: list[Any] = [b"t-1", b"a", b"1", b"default", b"body", b"5", b"0", b"30000", b"1", b"", 0, 0, 0, 2]
    with reported("deliveries") as counted:
        for _ in range(size(10_000)):
            row = good[: stored.random.choice((9, 13, 14))]
            for _ in range(stored.random.choice((1, 1, 2, 14))):
                row[stored.random.randrange(len(row))] = stored.random.choice(
                    (stored.field(), stored.random.choice(EDGES))
                )
            delivery = record.delivery_of(row, 7)
            counted.add(1)
            assert isinstance(delivery, Delivery)
            assert isinstance(delivery.body, bytes)
            assert isinstance(delivery.signature, bytes)
            shown(delivery)


@pytest.mark.parametrize(
    ("name", "read", "kind"),
    [
        ("history", lambda data: [record.final_row_of(data)], FinalRow),
        ("pauses", lambda data: record.pauses_of([b"queue:q", data, data, data, b"worker:" + data, data]), Pause),
        ("beats", lambda data: calls.seen_of([b"w", b"1", data, b"w", data[:20] or b"0", data], 5), Seen),
    ],
)
def test_any_row_is_read_or_left_out(name: str, read: Callable[[bytes], list[Any]], kind: type) -> None:
    stored = Stored(random_for(name))
    with reported(name) as counted:
        for data in (*TEXTS, *nasty_bytes().values()):
            read(data[:100_000])
        for _ in range(size(5_000)):
            rows = [row for row in read(stored.field() or b"") if row is not None]
            counted.add(bool(rows))
            assert all(isinstance(row, kind) for row in rows)
            for row in rows:
                shown(row)


def test_any_counts_of_a_minute_are_read_or_left_out() -> None:
    stored = Stored(random_for("minutes"))
    with reported("minutes") as counted:
        for _ in range(size(5_000)):
            flat: list[bytes] = []
            for _ in range(stored.random.randrange(6)):
                parts = [stored.random.choice((b"q", b"t", b"n", b"h5", b"", *TEXTS)) for _ in range(3)]
                flat += (b"|".join(parts), stored.field() or b"")
            for row in census._minute_rows(5, flat):
                shown(row)
                shown(row.measured)
            counted.add(1)


def test_any_cursor_is_taken_or_refused() -> None:
    for text in (
        *nasty_strings(),
        "0:0",
        "0:5,1:3",
        "7:1,",
        "1:2:3-4",
        "1:2:\u00b2-1",
        "\u00b2:1",
        "0:9:-",
        "9" * 11,
        "0:9:1-2-3",
    ):
        for read in (census._offset, lambda cursor: census._places(cursor, 2), census._triple):
            refused = raised_by(read, text)
            assert refused is None or isinstance(refused, InvalidInputError)
            assert str(refused).isprintable()
            assert len(str(refused)) < 500


def raised_by(read: Callable[[str], object], text: str) -> Exception | None:
    try:
        read(text)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    "digits", ["\u00b2", "\u0663", "--5", "1_0", "+1", " 1", "9" * 5_000, "nan", "inf", "1e400", ""]
)
def test_what_only_looks_like_a_number_spoils_its_own_field_alone(digits: str) -> None:
    """`str.isdigit` holds for a superscript two, which `int` refuses; and `int` takes what no script ever writes."""
    data = digits.encode()
    values: dict[str, Any] = {"n": b"a", "q": b"q", "st": b"failed", "a": data, "at": data, "f1": b"7", "tl": b""}
    values["tl"] = b"%b\tstarted\tw\t0\t\n5\tretried\tw\t%b\t\n6\tstarted\tw\t1\t\n" % (data, data)

    status = record.status_of("t", [values.get(name) for name in record.FIELDS], timeline=True)
    delivery = record.delivery_of(
        [b"t", b"a", data, b"q", None, data, data, data, data, None, data, data, data, data], 7
    )
    pauses = record.pauses_of([b"queue:a", data + b"\t0\tme\t", b"queue:b", b"1\t0\tme\t"])
    seen = calls.seen_of([b"w", data, samples("heartbeat")[0]], 5)
    rows = census._minute_rows(5, [b"q|t|h" + data, b"1", b"q|t|n", b"2", b"q|t|", b"3"])

    assert status is not None
    assert (status.attempt, status.enqueued_at_ms, status.finished_at_ms) == (0, None, 7)
    assert [entry.event for entry in status.timeline] == ["started", "failed"]
    assert (delivery.token, delivery.body, delivery.signature) == (0, b"", b"")
    assert [pause.target for pause in pauses] == ["b"]
    assert len(seen) <= 1
    assert [row.measured.buckets if row.measured else None for row in rows] == [{}]


def test_a_bucket_that_no_run_time_can_have_is_left_out() -> None:
    (row,) = census._minute_rows(5, [b"q|t|h3", b"1", b"q|t|h99999", b"1", b"q|t|h-1", b"1", b"q|t|n", b"2"])

    assert row.measured is not None
    assert row.measured.buckets == {3: 1}
