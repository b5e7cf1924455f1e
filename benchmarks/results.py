"""The result file of a run: what is in it, how it is read, and whether the targets are met. Pure but for the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import figures
from benchmarks.rows import BY_NAME, Row, Target

SCHEMA: Final = "stem-bench/1"
OWN: Final = ("raw", "stem", "unwatched")


class ResultError(ValueError):
    """A file is not a result of this schema."""


@dataclass(frozen=True)
class Entry:
    """What one contestant reached, one value per round.

    Attributes:
        label: unique in its row: the name, with the variant where it is not the tuned one.
    """

    label: str
    name: str
    variant: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return figures.median(self.values)


@dataclass(frozen=True)
class Verdict:
    """One target: what was asked for and what was reached, in words and as a yes or no."""

    target: str
    reached: str
    met: bool


@dataclass
class Result:
    """One run.

    Attributes:
        rows: by name, in the order of the table.
        left_out: peers that could not be installed, and contestants that failed a row, with the reason.
        measured: who was measured in what, named as in `left_out`; of this run only, the file does not keep it.
        notes: what a row says beside its title, by its name: how many tasks there were.
        curves: of `make bench-scale`: see `scale.py`.
    """

    kind: str
    at: str = ""
    commit: str = ""
    elapsed_s: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set, compare=False)
    rows: dict[str, list[Entry]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)

    def title(self, row: Row) -> str:
        """Return the row's title with what there is to say of it."""
        note = self.notes.get(row.name)
        return f"{row.title} ({note})" if note else row.title

    def add(self, row: str, *, label: str, name: str, variant: str, value: float) -> None:
        """Add one round's value."""
        entries = self.rows.setdefault(row, [])
        for number, each in enumerate(entries):
            if each.label == label:
                entries[number] = Entry(label, name, variant, [*each.values, value])
                return
        entries.append(Entry(label, name, variant, [value]))

    def entry(self, row: str, label: str) -> Entry | None:
        return next((each for each in self.rows.get(row, ()) if each.label == label), None)

    def best_peer(self, row: str) -> Entry | None:
        """Return the best of the others."""
        peers = [each for each in self.rows.get(row, ()) if each.name not in OWN]
        if not peers:
            return None
        choose = max if BY_NAME[row].better == "higher" else min
        return choose(peers, key=lambda each: each.median)

    def verdicts(self, row: Row) -> list[Verdict]:
        """Judge a row against its targets; those that something is missing for are left out."""
        found = (self._verdict(row, target) for target in row.targets)
        return [each for each in found if each is not None]

    def _verdict(self, row: Row, target: Target) -> Verdict | None:
        ours = self.entry(row.name, target.of)
        if ours is None:
            return None
        sign = "≥" if row.better == "higher" else "≤"
        wanted, reached = target.value, ours.median
        text, said = f"{sign} {figures.shown(wanted)}", figures.shown(reached)
        if target.against:
            other = self.best_peer(row.name) if target.against == "best" else self.entry(row.name, target.against)
            share = figures.ratio(reached, other.median) if other else None
            if other is None or share is None:
                return None
            reached, said = share, f"{figures.shown(share)} × {other.label}"
            text = f"{sign} {figures.shown(wanted)} × {'the best peer' if target.against == 'best' else target.against}"
        met = reached >= wanted if row.better == "higher" else reached <= wanted
        return Verdict(text, said, met)


def save(result: Result, path: Path) -> None:
    """Write the result, with the figures that a reader would compute anyway."""
    plain = asdict(result) | {"schema": SCHEMA}
    del plain["measured"]
    plain["rows"] = [
        {
            "name": name,
            "title": result.title(BY_NAME[name]),
            "unit": BY_NAME[name].unit,
            "better": BY_NAME[name].better,
            "entries": [
                {
                    "label": each.label,
                    "name": each.name,
                    "variant": each.variant,
                    "values": [figures.rounded(value) for value in each.values],
                    "median": figures.rounded(each.median),
                    "low": figures.rounded(min(each.values)),
                    "high": figures.rounded(max(each.values)),
                    "stem_ratio": None if (share := _share(result, name, each)) is None else figures.rounded(share),
                }
                for each in entries
            ],
            "targets": [asdict(each) for each in result.verdicts(BY_NAME[name])],
        }
        for name, entries in sorted(result.rows.items(), key=lambda item: list(BY_NAME).index(item[0]))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")


def merged(whole: Result, later: Result, *, parts: Sequence[str]) -> Result:
    """Return a run with some of its parts measured again; it says which, when, and how fast the machine was then.

    What was left out and has been measured since is left out no longer.
    """
    pace = later.machine.get("pace", "").partition(" ")[0]
    when = f"{later.at}, commit `{later.commit}`, pace {pace}, load before {later.machine.get('load before', '?')}"
    return replace(
        whole,
        rows=whole.rows | later.rows,
        left_out={what: why for what, why in whole.left_out.items() if what not in later.measured} | later.left_out,
        versions=whole.versions | later.versions,
        tuned=whole.tuned | later.tuned,
        notes=whole.notes | later.notes,
        machine=whole.machine | {f"{part}, measured again": when for part in parts},
    )


def _share(result: Result, row: str, entry: Entry) -> float | None:
    """Return how many times this entry Stem reached."""
    ours = result.entry(row, "stem")
    return None if ours is None else figures.ratio(ours.median, entry.median)


def load(path: Path) -> Result:
    """Read a result.

    Raises:
        ResultError: it is not one, or not of this schema.
    """
    try:
        plain = json.loads(path.read_text("utf-8"))
        if plain["schema"] != SCHEMA:
            raise ResultError(f"{path} has schema {plain['schema']!r}, not {SCHEMA}: run the benchmark again")
        rows = {
            row["name"]: [
                Entry(each["label"], each["name"], each["variant"], [float(value) for value in each["values"]])
                for each in row["entries"]
            ]
            for row in plain["rows"]
        }
        if unknown := rows.keys() - BY_NAME.keys():
            raise ResultError(f"{path} has rows that are not in the table: {', '.join(sorted(unknown))}")
        if any(not each.values for entries in rows.values() for each in entries):
            raise ResultError(f"{path} has an entry without values")
        fields = ("kind", "at", "commit", "elapsed_s", "machine", "versions", "tuned", "left_out", "notes", "curves")
        return Result(**{name: plain[name] for name in fields}, rows=rows)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ResultError(f"{path} is no benchmark result: {error!r}") from error
