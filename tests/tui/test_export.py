"""Rows as files: whole, harmless in a spreadsheet and a shell, and never over something that is there."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stem.observe.failures import FailureBook
from stem.observe.rows import EventLine, QueueLine, TaskLine, WorkerLine
from stem_tui import export
from tests.observe.builders import NOW

HOSTILE = "\x1b]0;owned\x07[/red]\u202e\ud800\n"


def test_a_file_name_is_safe_whatever_the_names_are() -> None:
    name = export.file_name("../prod $(x)", "DEAD\x1b[2J of\nmail", NOW)

    assert re.fullmatch(r"stem-[a-z0-9_.-]+-20251009T085320Z\.csv", name)
    assert ".." not in name.removesuffix(".csv").replace("...", "")
    assert "/" not in name


def test_csv_has_a_column_for_all_that_is_known(tmp_path: Path) -> None:
    row = TaskLine("t-1", "t-1", "mail.send", "default", "dead", error="ValueError", message="a,b")

    target = export.write(str(tmp_path / "x.csv"), [row])

    (found,) = csv.DictReader(io.StringIO(target.read_text()))
    assert (found["id"], found["task"], found["queue"], found["state"]) == ("t-1", "mail.send", "default", "dead")
    assert (found["error"], found["message"]) == ("ValueError", "a,b")
    assert "key" not in found
    assert target.stat().st_mode & 0o777 == 0o600


def test_json_lines_are_one_object_each(tmp_path: Path) -> None:
    rows = [WorkerLine("w-1-1", "w-1", queues=("a", "b"), counters={"succeeded": 3}), QueueLine("q", "q", ready=4)]

    text = export.write(str(tmp_path / "x.jsonl"), rows).read_text()

    worker, queue = (json.loads(line) for line in text.splitlines())
    assert (worker["name"], worker["queues"], worker["counters"]) == ("w-1", ["a", "b"], {"succeeded": 3})
    assert worker["id"] == "w-1-1"
    assert (queue["name"], queue["ready"]) == ("q", 4)


def test_failures_are_written_with_their_counts() -> None:
    book = FailureBook()
    for number, ago_ms in enumerate((1_000, 2_000, 20 * 60_000)):
        book.add(task="job", error="ValueError", task_id=f"t-{number}", attempt=0, at_ms=NOW - ago_ms)

    (found,) = csv.DictReader(io.StringIO(export.text(book.groups(NOW), "csv", NOW)))

    assert (found["task"], found["count_5m"], found["count_1h"]) == ("job", "2", "3")


@pytest.mark.parametrize("form", export.FORMATS)
def test_nothing_in_a_file_steers_a_terminal(form: str) -> None:
    rows = [TaskLine(HOSTILE, HOSTILE, HOSTILE, HOSTILE), EventLine(HOSTILE, 1, HOSTILE, HOSTILE)]

    text = export.text(rows, form)

    assert all(line.isprintable() for line in text.split("\n"))
    text.encode()


@pytest.mark.parametrize("name", ["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)"])
def test_a_spreadsheet_runs_nothing(name: str) -> None:
    text = export.text([TaskLine("t", "t", name)], "csv")

    (found,) = csv.DictReader(io.StringIO(text))
    assert found["task"] == f"'{name}"


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    there = tmp_path / "x.csv"
    there.write_text("mine")
    link = tmp_path / "y.csv"
    link.symlink_to(there)

    for path in (there, link):
        with pytest.raises(export.ExportError, match="is there already"):
            export.write(str(path), [])

    assert there.read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x.txt", r"ends with \.csv or \.jsonl"),
        ("no/such/x.csv", "cannot be written"),
        ("x\0.csv", "cannot be written"),
        ("~nosuchuser/x.csv", "^~nosuchuser/x.csv cannot be written"),
    ],
)
def test_a_file_that_cannot_be_says_why(path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(export.ExportError, match=said):
        export.write(path, [])


@pytest.mark.parametrize("rows", [3, 30_000])
def test_a_disk_that_fills_up_leaves_no_file_that_looks_whole(rows: int, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(export.ExportError, match=r"x\.csv cannot be written"):
            export.write(str(target), [QueueLine("q", "q")] * rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)

    assert not target.exists()


def test_rows_that_cannot_be_written_leave_no_file(tmp_path: Path) -> None:
    def rows() -> Iterator[QueueLine]:
        yield QueueLine("q", "q")
        raise RuntimeError("changed while it was read")

    with pytest.raises(RuntimeError):
        export.write(str(tmp_path / "x.csv"), rows())

    assert list(tmp_path.iterdir()) == []
