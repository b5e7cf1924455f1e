"""Writes results into docs/performance.md and its pictures: `python -m benchmarks.page` after either run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks import plots, results, tables
from benchmarks.results import Result
from tests.prove import document

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "performance.md"
BENCH: Final = ROOT / "benchmarks" / "results" / "bench.json"
SCALE: Final = ROOT / "benchmarks" / "results" / "scale.json"
PICTURES: Final = ROOT / "docs" / "pictures"
UNMEASURED: Final = "No run on a quiet machine has been kept yet: `make bench` and `make bench-scale` fill this in."


CURVES: Final = ("batch", "concurrency", "payload", "backlog", "processes", "queues", "workers")


def read() -> tuple[Result, Result]:
    """Return both results; an empty one for what was never measured."""
    bench, scale = (results.load(path) if path.exists() else Result(path.stem) for path in (BENCH, SCALE))
    return bench, scale


def places(bench: Result, scale: Result) -> dict[str, str]:
    """Return what stands at each place of the page."""
    made: dict[str, str] = {}
    if bench.rows:
        made |= _of_bench(bench)
    else:
        made |= dict.fromkeys(("bench-goals", "bench-run", "bench-tuned", "bench-rest"), UNMEASURED)
        made |= {f"bench-{number}": UNMEASURED for number, _ in enumerate(tables.SIDE_BY_SIDE, start=1)}
    found = {curve["name"]: tables.curve(curve["series"], curve["x_label"]) for curve in scale.curves}
    made |= {f"scale-{name}": found.get(name, UNMEASURED) for name in CURVES}
    return made | {"scale-run": tables.circumstances(scale) if scale.curves else UNMEASURED}


def _of_bench(bench: Result) -> dict[str, str]:
    made = {
        "bench-goals": f"{tables.summary(bench)}\n\n{tables.goals(bench)}",
        "bench-run": f"{tables.circumstances(bench)}\n\n{tables.left_out(bench)}",
        "bench-tuned": tables.tuned(bench),
        "bench-rest": tables.rest(bench),
    }
    for number, names in enumerate(tables.SIDE_BY_SIDE, start=1):
        made[f"bench-{number}"] = tables.side_by_side(bench, names)
    return made


def pictures(bench: Result, scale: Result) -> dict[str, str]:
    """Return the pictures by file name."""
    return {"bench.svg": plots.bars(bench), "scale.svg": plots.lines(scale.curves)}


def filled(text: str, bench: Result, scale: Result) -> str:
    """Return the page's text with every result in its place.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for place, made in places(bench, scale).items():
        text = document.filled(place, made, text, name=PAGE.name)
    return text


def write() -> None:
    """Rewrite the page and its pictures from the two result files; from one where the other was never made."""
    bench, scale = read()
    PAGE.write_text(filled(PAGE.read_text("utf-8"), bench, scale), "utf-8")
    for name, picture in pictures(bench, scale).items():
        (PICTURES / name).write_text(picture, "utf-8")


def summary(result: Result) -> str:
    return f"{tables.goals(result)}\n\n{tables.summary(result)}"


if __name__ == "__main__":
    write()
