"""What a mutant is: a bug to be planted, where, and the tests that must notice it. Pure data and its checks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).resolve().parents[2]

How = Literal["as said", "nearest"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement: `old` stands in `file` exactly `times` times."""

    file: str
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A bug, planted by `edits`, that at least one of `tests` must notice.

    Attributes:
        id: M1 to M26 as in the list of known bugs; with a letter, another form of the same; X: this design's own.
        bug: what is wrong once it is planted.
        how: `as said`: the very bug of the list. `nearest`: this design has no place for that one, and `note` says why;
            planted is what comes closest to it here.
        tests: node ids without their parameters; the narrowest that should notice.
        only: of their parameters, those with this part in their name (`-k`).
    """

    id: str
    bug: str
    edits: Sequence[Edit]
    tests: Sequence[str]
    how: How = "as said"
    note: str = ""
    only: str = ""

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(edit.file for edit in self.edits))


def plant(mutant: Mutant, tree: Path) -> None:
    """Make the edits in this tree.

    Raises:
        ValueError: the mutant is out of date.
    """
    complaints = out_of_date(mutant, tree)
    if complaints:
        raise ValueError("; ".join(complaints))
    for edit in mutant.edits:
        path = tree / edit.file
        path.write_text(path.read_text(encoding="utf-8").replace(edit.old, edit.new), encoding="utf-8")


def unplant(mutant: Mutant, tree: Path, originals: dict[str, str]) -> None:
    """Put back the files of the mutant as they were."""
    for file in mutant.files:
        (tree / file).write_text(originals[file], encoding="utf-8")


def out_of_date(mutant: Mutant, tree: Path = ROOT) -> list[str]:
    """Return what no longer fits the code: the list must be kept true."""
    wrong = []
    for edit in mutant.edits:
        path = tree / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else None
        if text is None:
            wrong.append(f"{mutant.id}: {edit.file} is gone")
        elif text.count(edit.old) != edit.times:
            found = text.count(edit.old)
            wrong.append(f"{mutant.id} is out of date: {found}, not {edit.times}, times in {edit.file}: {edit.old!r}")
        elif edit.old == edit.new:
            wrong.append(f"{mutant.id} changes nothing in {edit.file}")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        path = tree / file
        if not path.is_file():
            wrong.append(f"{mutant.id} names tests of {file}, which is gone")
        elif not _has(path, name.rpartition("::")[2], tree):
            wrong.append(f"{mutant.id} names {test}, which is gone")
    return wrong


def _has(path: Path, name: str, tree: Path) -> bool:
    """Say whether the file, or for the contract's classes the suite it takes, has a test of this name."""
    suites = (tree / "stem/testing").glob("contract*.py") if "tests/contract/" in path.as_posix() else ()
    pattern = re.compile(rf"^ *(async )?def {re.escape(name)}\(", re.MULTILINE)
    return any(pattern.search(one.read_text(encoding="utf-8")) for one in (path, *suites))
