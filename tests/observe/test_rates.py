"""Rates and percentiles out of totals."""

from __future__ import annotations

import dataclasses

import pytest

from stem.observe.rates import MINUTES_KEPT, Meter, MinuteBook, percentile_ms
from tests.observe.builders import NOW, measured, minute


def test_a_rate_is_the_growth_over_the_last_seconds() -> None:
    meter = Meter()

    for second, total in enumerate((100, 110, 130, 160)):
        meter.read(total, float(second))

    assert meter.rate(over_s=2.0) == pytest.approx(25.0)
    assert meter.series(10) == pytest.approx([10.0, 20.0, 30.0])


def test_one_reading_is_no_rate() -> None:
    meter = Meter()
    meter.read(5, 1.0)

    assert meter.rate() == 0.0
    assert meter.series(10) == []


def test_what_happened_in_a_gap_is_spread_over_it() -> None:
    meter = Meter()

    meter.read(0, 0.0)
    meter.read(40, 4.0)

    assert meter.series(10) == pytest.approx([10.0] * 4)


def test_a_total_that_shrinks_begins_a_new_count() -> None:
    meter = Meter()
    meter.read(1_000, 0.0)
    meter.read(1_010, 1.0)

    meter.read(3, 2.0)
    meter.read(5, 3.0)

    assert meter.rate(over_s=10.0) == pytest.approx(2.0)


def test_readings_that_do_not_advance_in_time_are_left_out() -> None:
    meter = Meter()
    meter.read(1, 1.0)

    meter.read(9, 1.0)

    assert meter.rate() == 0.0


def succeeded(book: MinuteBook, points: int = MINUTES_KEPT) -> list[int]:
    """Return how many succeeded in each minute, oldest first."""
    return [flow.count("succeeded") for flow in book.each_minute(points)]


def test_totals_count_what_came_after_the_book_was_opened() -> None:
    book = MinuteBook()

    book.update([minute({"succeeded": 500}), minute({"succeeded": 7}, back=1)])
    book.update([minute({"succeeded": 520, "failed": 1})])

    assert book.total("succeeded") == 20
    assert book.total("succeeded", "default") == 20
    assert book.total("failed") == 1
    assert book.total("failed", "other") == 0


def test_an_hour_is_kept_and_quiet_minutes_are_zero() -> None:
    book = MinuteBook()

    book.update([minute({"succeeded": 5}, back=70), minute({"succeeded": 3}, back=2), minute({"succeeded": 1})])

    assert succeeded(book) == [3, 0, 1]


def test_percentiles_come_from_the_buckets() -> None:
    buckets = {0: 50, 4: 40, 10: 10}

    assert percentile_ms(buckets, 0.5) == pytest.approx(1.0)
    assert percentile_ms(buckets, 0.9) == pytest.approx(16.0)
    assert 512 <= (percentile_ms(buckets, 0.99) or 0) <= 1024
    assert percentile_ms({}, 0.5) is None


def test_buckets_of_the_last_minutes_are_added_up() -> None:
    book = MinuteBook()

    book.update([minute({}, measured=measured({3: 1})), minute({}, back=1, measured=measured({3: 2, 5: 1}))])
    book.update([minute({}, back=9, measured=measured({7: 100}))])

    assert book.flow(2).buckets == {3: 3, 5: 1}
    assert book.flow(queue="other").buckets == {}
    assert book.flow(2).mean_wait_ms == pytest.approx(200 / 4)
    assert book.flow(queue="other").mean_wait_ms is None


def test_recent_minutes_are_counted_exactly() -> None:
    book = MinuteBook()

    book.update([minute({"failed": 3}), minute({"failed": 4}, back=4), minute({"failed": 100}, back=6)])

    assert book.recent("failed", NOW, 300_000) == 7


def test_a_minute_that_grows_changes_what_was_worked_out() -> None:
    book = MinuteBook()
    book.update([minute({"succeeded": 5}), minute({"succeeded": 1}, back=1)])
    assert book.flow().count("succeeded") == 6

    book.update([minute({"succeeded": 9})])

    assert book.flow().count("succeeded") == 10
    assert succeeded(book) == [1, 9]
    assert [flow.count("succeeded") for flow in book.by_task()] == [10]
    assert book.flow(queue="default").count("succeeded") == 10


def test_the_hour_ends_now_also_when_nothing_happens() -> None:
    book = MinuteBook()
    book.update([minute({"succeeded": 5})], NOW)

    book.update([], NOW + 120_000)
    assert succeeded(book, 4) == [0, 5, 0, 0]

    book.update([], NOW + 3_600_000)
    assert succeeded(book) == []


def test_what_takes_most_time_comes_first_of_the_names() -> None:
    book = MinuteBook()
    slow = dataclasses.replace(minute({"succeeded": 1}, measured=measured({11: 1})), task="slow")
    book.update([minute({"succeeded": 50}), slow, dataclasses.replace(slow, queue="other", task="elsewhere")])

    assert [flow.name for flow in book.by_task(queue="default")] == ["slow", "mail.send"]


def test_a_seeded_meter_has_a_rate_with_its_first_reading() -> None:
    meter = Meter()
    meter.seed([(40.0, -600.0), (70.0, -300.0)])

    meter.read(0, 100.0)

    assert meter.rate() == pytest.approx(10.0)
    assert meter.series(60) == pytest.approx([10.0] * 60)

    meter.seed([(0.0, -1e9)])
    assert meter.rate() == pytest.approx(10.0)


def test_what_was_before_the_window_does_not_weigh_on_the_rate() -> None:
    meter = Meter()
    meter.seed([(0.0, 0.0)])
    for second in (60.0, 61.0, 62.0):
        meter.read(60 * second - 3_600 + 600, second)

    assert meter.rate() == pytest.approx((60 + 60 + 10) / 3)


@pytest.mark.parametrize("minutes", [1, 30, 61, 1_000])
def test_a_clock_that_is_set_back_counts_nothing_twice(minutes: int) -> None:
    """Minutes of what is the future now stayed the newest, so that new ones were forgotten and counted again."""
    book = MinuteBook()
    book.update([minute({"succeeded": 5}), minute({"failed": 2})], NOW)
    before = NOW - minutes * 60_000

    for count in (100, 110, 120):
        book.update([minute({"succeeded": count}, back=minutes)], before)

    assert book.total("succeeded") == 120
    assert book.flow().count("succeeded", "failed") == 120
    assert [flow.count("succeeded") for flow in book.by_task()] == [120]
    assert succeeded(book)[-1] == 120
    assert book.recent("failed", before, 300_000) == 0


def test_a_minute_that_comes_again_adds_only_what_is_new_in_it() -> None:
    book = MinuteBook()
    book.update([minute({"succeeded": 500})], NOW)
    book.update([], NOW - 60_000)

    book.update([minute({"succeeded": 503})], NOW)

    assert book.total("succeeded") == 3


def test_quiet_minutes_are_forgotten_after_an_hour_as_others_are() -> None:
    """A dashboard is open for days."""
    book = MinuteBook()

    for number in range(300):
        book.update([minute({"succeeded": 1}, back=-number)] if number % 7 == 0 else [], NOW + number * 60_000)
        assert len(book.each_minute()) == MINUTES_KEPT

    assert len(book._flows) <= MINUTES_KEPT
