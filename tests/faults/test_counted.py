"""The ledger of the clean run finds the one task among many that is not as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.matrix.counted import Counts, count, ended

TASKS = 1_000
GOOD = "".join(f"s {n} 1\nd {n} 1\n" for n in range(TASKS))


def counts(folder: Path, text: str) -> Counts:
    path = folder / "counted"
    path.write_text(text)
    return count(path, TASKS)


def test_a_good_run_is_exact(tmp_path: Path) -> None:
    assert counts(tmp_path, GOOD) == Counts(TASKS)
    assert Counts(TASKS).exact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("s 417 1\nd 417 1\n", ""), Counts(TASKS, never=1, examples=(417,))),
        (GOOD.replace("d 417 1\n", ""), Counts(TASKS, unfinished=1, examples=(417,))),
        (GOOD + "s 417 2\n", Counts(TASKS, extra_starts=1, refenced=1, examples=(417,))),
        (GOOD + "s 417 1\n" * 300, Counts(TASKS, extra_starts=300, examples=(417,))),
        (GOOD + "d 417 1\n", Counts(TASKS, extra_ends=1, examples=(417,))),
        (GOOD + "s 1000 1\n", Counts(TASKS, strangers=1)),
        (GOOD.removesuffix("\n"), Counts(TASKS, strangers=1, unfinished=1, examples=(999,))),
        (GOOD.replace("s 417 1", "s 417 2"), Counts(TASKS, refenced=1)),
    ],
    ids=[
        "lost",
        "not finished",
        "started again",
        "started often",
        "returned twice",
        "stranger",
        "half a line",
        "token",
    ],
)
def test_one_bad_task_is_found(tmp_path: Path, text: str, expected: Counts) -> None:
    found = counts(tmp_path, text)

    assert found == expected
    assert not found.exact


def test_a_line_that_nobody_writes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        counts(tmp_path, GOOD + "x 1 1\n")


def test_ends_are_counted_once_while_the_ledger_grows(tmp_path: Path) -> None:
    path = tmp_path / "counted"
    path.write_text("s 1 1\nd 1 1\ns 2 1\nd 2")

    first, read_to = ended(path, 0)
    path.write_text("s 1 1\nd 1 1\ns 2 1\nd 2 1\n")

    assert (first, ended(path, read_to)[0]) == (1, 1)
