"""Result files, tables, pictures, and that docs/performance.md says what the committed results say."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as program
from benchmarks import contestants, environments, page, plots, results, scale, tables
from benchmarks.bench import Bench
from benchmarks.measure import control, latency
from benchmarks.records import Record
from benchmarks.results import Result, ResultError
from benchmarks.rows import BY_NAME, ROWS


def _result(**stem: float) -> Result:
    """Return a result in which raw reaches 40 000, one peer 2 000 and another 3 000."""
    made = Result("bench", at="2026-01-01 00:00 UTC", commit="abc", machine={"cores": "2"})
    for label, value in {"raw": 40_000.0, "celery": 2_000.0, "huey": 3_000.0, **stem}.items():
        for noise in (0.9, 1.0, 1.2):
            made.add("noop", label=label, name=label.split()[0], variant="", value=value * noise)
    return made


def test_the_median_of_the_rounds_counts() -> None:
    entry = _result().entry("noop", "raw")

    assert entry is not None
    assert entry.median == 40_000
    assert list(entry.values) == [36_000, 40_000, 48_000]


def test_targets_are_judged_against_raw_and_the_best_peer() -> None:
    verdicts = _result(stem=17_000.0).verdicts(BY_NAME["noop"])

    assert [(each.reached, each.met) for each in verdicts] == [
        ("17 000", False),
        ("0.425 × raw", False),
        ("5.67 × huey", False),
    ]
    assert all(each.met for each in _result(stem=18_000.0).verdicts(BY_NAME["noop"]))


def test_where_less_is_better_the_best_peer_is_the_lowest() -> None:
    made = Result("bench")
    for label, value in {"stem": 1.2, "celery": 4.0, "huey": 2.0}.items():
        made.add("result-p50", label=label, name=label, variant="", value=value)

    best = made.best_peer("result-p50")

    assert best is not None
    assert best.label == "huey"
    assert [each.met for each in made.verdicts(BY_NAME["result-p50"])] == [True]


def test_a_row_without_stem_has_no_verdict() -> None:
    assert _result().verdicts(BY_NAME["noop"]) == []


def test_a_result_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = _result(stem=18_000.0)
    made.notes = {"noop": "7 tasks"}
    made.curves = [{"name": "batch", "title": "t", "x_label": "x", "series": {"per s": [[1, 2.0]]}}]

    results.save(made, tmp_path / "r.json")
    read = results.load(tmp_path / "r.json")

    assert read == made
    plain = json.loads((tmp_path / "r.json").read_text())
    stem = next(each for each in plain["rows"][0]["entries"] if each["label"] == "stem")
    assert (stem["median"], stem["low"], stem["high"], stem["stem_ratio"]) == (18_000, 16_200, 21_600, 1)


def test_parts_that_are_measured_again_say_so() -> None:
    whole, later = _result(stem=18_000.0), _result(stem=9_000.0)
    whole.add("rss", label="stem", name="stem", variant="", value=40.0)
    later.at, later.commit = "2026-02-02 00:00 UTC", "def"
    whole.tuned, later.tuned = {"stem": "nothing", "huey": "all"}, {"stem": "something"}
    later.machine = {"load before": "0.10 0.20 0.30", "pace": "0.44 of the tasks of a round on an idle machine"}

    made = results.merged(whole, later, parts=["noop"])

    assert (made.at, made.commit) == ("2026-01-01 00:00 UTC", "abc")
    assert made.rows.keys() == {"noop", "rss"}
    assert made.tuned == {"stem": "something", "huey": "all"}
    assert [each.median for each in made.rows["noop"] if each.label == "stem"] == [9_000]
    again = "2026-02-02 00:00 UTC, commit `def`, pace 0.44, load before 0.10 0.20 0.30"
    assert made.machine == {"cores": "2", "noop, measured again": again}
    assert f"| noop, measured again | {again} |" in tables.circumstances(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": "stem-bench/0"}',
        '{"schema": "stem-bench/1"}',
        '{"schema": "stem-bench/1", "rows": [{"name": "noop", "entries": [{"label": "x"}]}]}',
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)

    with pytest.raises(ResultError):
        results.load(tmp_path / "r.json")


def test_the_tables_say_what_was_missed() -> None:
    made = _result(stem=17_000.0)

    assert tables.summary(made) == "0 of 3 goals are met."
    assert "| ≥ 18 000 | 17 000 | **missed** |" in tables.goals(made)
    assert "| huey | 3 000 (2 700 to 3 600) |" in tables.side_by_side(made, ["noop"])


def test_who_was_left_out_and_is_measured_again_is_left_out_no_longer(tmp_path: Path) -> None:
    whole = _result()
    whole.left_out = {
        "celery": "not there",
        "rq": "not there",
        "huey: noop": "failed",
        "huey: due": "failed",
        "arq": "x",
    }
    there = [each for each in contestants.everybody() if each.label in ("celery", "huey", "arq")]
    again = Bench(Result("bench"), there, 0.0)

    def measure(one: contestants.Contestant) -> dict[str, float]:
        if one.name == "arq":
            raise RuntimeError("failed once more")
        return {"noop": 1.0}

    again.interleave("noop", there, measure)
    made = results.merged(whole, again.result, parts=["noop"])

    assert made.left_out == {"rq": "not there", "huey: due": "failed", "arq": "x", "arq: noop": "failed once more"}
    results.save(again.result, tmp_path / "r.json")
    assert "measured" not in json.loads((tmp_path / "r.json").read_text())


def test_a_row_says_how_many_there_were_beside_its_title_and_its_goal() -> None:
    made = _result(stem=17_000.0)
    made.add("due-p99", label="stem", name="stem", variant="", value=300.0)
    made.notes = {"due-p99": "10 000 tasks, 4 400 of peers"}

    said = "tasks due at one moment, lateness p99 (10 000 tasks, 4 400 of peers)"

    assert f"| {said} (ms) | ≤ 400 | 300 | met |" in tables.goals(made)
    assert f"| {said}, ms |" in tables.side_by_side(made, ["due-p99"])


@pytest.mark.parametrize(("pace", "said"), [(1.0, "10 000 tasks"), (0.44, "10 000 tasks, 4 400 of peers")])
def test_raw_and_stem_get_as_many_as_their_goal_says_whatever_the_pace(
    monkeypatch: pytest.MonkeyPatch, pace: float, said: str
) -> None:
    turn: list[str] = []
    asked: list[tuple[str, int]] = []

    class Round:
        def start(self, *lines: object) -> None: ...

        def produce(self, verb: str, *words: object) -> dict[str, list[float]]:
            if verb == "due":
                asked.append((turn[0], int(str(words[0]))))
            return {"ms": [1.0]}

        def await_runs(self, count: int, **_: float) -> list[Record]:
            return [Record(1, 1, 0, 0, 1_000_000)] * count

    @contextmanager
    def round_of(each: contestants.Contestant, **_: int) -> Iterator[Round]:
        turn[:] = [each.name]
        yield Round()

    there = [each for each in contestants.everybody() if each.name in ("raw", "stem", "huey")]
    monkeypatch.setattr(latency, "round_of", round_of)
    bench = Bench(Result("bench"), there, 0.0, pace=pace)

    latency.due(bench)

    assert {count for name, count in asked if name in ("raw", "stem")} == {200, 10_000}
    assert {count for name, count in asked if name == "huey"} == {200, round(10_000 * pace)}
    assert bench.result.notes == {"due-p99": said}
    assert bench.result.left_out == {}


def test_a_reason_cannot_break_the_page() -> None:
    made = Result("bench", left_out={"huey: noop": "<b>`|\x1b[31m\n[x](javascript:1) " + "x" * 500})

    text = tables.left_out(made)

    assert not set(text.removeprefix("Left out:\n\n- huey: noop: ")) & set("<>`|[]*\x1b\n")
    assert len(text) < 200


def test_bars_are_drawn_by_rank_and_names_are_escaped() -> None:
    made = _result(stem=18_000.0)
    made.add("noop", label="<script>", name="x", variant="", value=1.0)

    tree = ElementTree.fromstring(plots.bars(made))

    texts = [each.text for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in ("raw", "stem", "huey", "celery", "<script>")] == [
        "raw",
        "stem",
        "huey",
        "celery",
        "<script>",
    ]
    widths = [float(each.attrib["width"]) for each in tree.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths == sorted(widths, reverse=True)


def test_lines_stay_within_the_picture() -> None:
    curve = {
        "name": "x",
        "title": "A & B",
        "x_label": "size",
        "series": {"per s": [[1, 0.0], [1000, 5.0]], "flat": [[1, 3.0], [1000, 3.0]]},
    }

    tree = ElementTree.fromstring(plots.lines([curve, curve, curve]))

    width, height = float(tree.attrib["width"]), float(tree.attrib["height"])
    spots = [each.attrib for each in tree.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(spots) == 12
    assert all(0 < float(each["cx"]) < width and 0 < float(each["cy"]) < height for each in spots)


def test_every_peer_takes_part_in_both_ways_and_says_what_was_tuned() -> None:
    for peer in contestants.PEERS:
        there = {each.variant: each for each in contestants.everybody() if each.name == peer}
        assert set(there) == {"default", "tuned"}, peer
        assert there["tuned"].tuned, peer


def test_every_peer_is_installed_by_the_requirements_of_its_environment() -> None:
    for peer, home in contestants.HOME.items():
        text = (contestants.REQUIREMENTS / f"requirements-{home}.txt").read_text("utf-8")
        names = [environments.distribution(each) for each in environments.wanted(text)]
        assert contestants.DISTRIBUTION.get(peer, peer) in names


def test_the_rows_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(ROWS)


@pytest.fixture
def own_sigterm() -> Iterator[None]:
    """The program takes SIGTERM as Ctrl-C; what runs the tests does not."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("own_sigterm")
def test_a_run_measures_raw_and_stem_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with few tasks: server, producers, workers, stopwatch, result file."""
    out = tmp_path / "r.json"
    line = ["benchmarks", "--only", "noop", "--peers", "", "--rounds", "1", "--scale", "0.005", "--out", str(out)]
    monkeypatch.setattr("sys.argv", line)

    assert program.main() == 0

    found = results.load(out)
    assert found.left_out == {}
    assert [each.label for each in found.rows["noop"]] == ["raw", "stem", "stem (default)"]
    assert all(each.median > 0 for entries in found.rows.values() for each in entries)
    assert {"worker-cpu", "server-cpu", "commands", "queued-bytes"} <= set(found.rows)


def test_the_page_says_what_the_results_say() -> None:
    bench, curves = page.read()

    text = page.PAGE.read_text("utf-8")

    assert text == page.filled(text, bench, curves), "run `python -m benchmarks.page`"
    for name, picture in page.pictures(bench, curves).items():
        assert (page.PICTURES / name).read_text("utf-8") == picture, name


def test_results_that_are_kept_are_whole() -> None:
    """Every row but that of Debian's Redis, which may not be installed; every curve; or none at all."""
    bench, curves = page.read()

    assert not bench.rows or set(BY_NAME) - set(bench.rows) <= {"redis70"}
    assert [each["name"] for each in curves.curves] in ([], list(page.CURVES))


def test_the_page_has_a_place_for_every_curve() -> None:
    assert tuple(scale.CURVES) == page.CURVES


def test_the_ping_of_celery_when_told_the_count_is_an_entry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Round:
        env: ClassVar[dict[str, str]] = {}

        def start(self, *lines: object) -> None: ...

    def run(line: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(line, 0, '{"told": [9.0, 7.0, 8.0], "untold": [1010.0]}', "")

    monkeypatch.setattr(control, "round_of", lambda _: nullcontext(Round()))
    monkeypatch.setattr(control, "_fleets", lambda *_: {"ping-5": 4.0})
    monkeypatch.setattr("subprocess.run", run)
    bench = Bench(Result("bench"), [each for each in contestants.everybody() if each.name in ("stem", "celery")], 0.0)

    control.ping(bench)

    assert bench.result.left_out == {}
    line = "| `ping`, 5 idle workers, ms | stem 4; celery (told the count) 8; celery 1 010 |"
    assert line in tables.rest(bench.result)
