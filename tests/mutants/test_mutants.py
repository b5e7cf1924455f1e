"""The list of mutants is complete and fits the code of today; what counts as caught is what a test noticed.

The mutants themselves are planted by `make mutants`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.guard import REPORT, TREE
from tests.mutants.listing import MUTANTS
from tests.mutants.mutant import ROOT, Edit, Mutant, out_of_date, plant, unplant
from tests.mutants.run import Failure, Result, Run, judge
from tests.mutants.table import BEGIN, END, markdown, write_into


def test_every_known_bug_is_on_the_list() -> None:
    ids = Counter(mutant.id for mutant in MUTANTS)

    assert [one for one, count in ids.items() if count > 1] == []
    assert [f"M{number}" for number in range(1, 27) if f"M{number}" not in ids] == []
    assert sum(one.startswith("X") for one in ids) >= 10
    assert [one for one in ids if re.fullmatch(r"[MX]\d{1,2}[a-c]?", one) is None] == []


def test_every_mutant_fits_the_code_of_today() -> None:
    """Its old text is there as often as it says, and its tests have not been renamed."""
    assert [line for mutant in MUTANTS for line in out_of_date(mutant)] == []


def test_what_is_planted_in_another_form_says_why() -> None:
    assert [mutant.id for mutant in MUTANTS if (mutant.how == "nearest") != bool(mutant.note)] == []
    assert [mutant.id for mutant in MUTANTS if not mutant.edits or not mutant.tests] == []


def made(**set_: object) -> Mutant:
    fields = {"id": "X1", "bug": "b", "edits": [Edit("a.txt", "good", "bad")], "tests": ["test_a.py::test_it"]} | set_
    return Mutant(**fields)  # type: ignore[arg-type] # of a dict


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "test_a.py").write_text("def test_it() -> None: ...\n")
    return tmp_path


def test_planting_changes_the_file_and_unplanting_puts_it_back(tree: Path) -> None:
    plant(made(), tree)
    assert (tree / "a.txt").read_text() == "bad"

    unplant(made(), tree, {"a.txt": "good"})
    assert (tree / "a.txt").read_text() == "good"


@pytest.mark.parametrize(
    ("set_", "says"),
    [
        ({"edits": [Edit("a.txt", "better", "bad")]}, "0, not 1, times"),
        ({"edits": [Edit("a.txt", "o", "0")]}, "2, not 1, times"),
        ({"edits": [Edit("b.txt", "good", "bad")]}, "b.txt is gone"),
        ({"edits": [Edit("a.txt", "good", "good")]}, "changes nothing"),
        ({"tests": ["test_b.py::test_it"]}, "test_b.py, which is gone"),
        ({"tests": ["test_a.py::test_that"]}, "test_that, which is gone"),
    ],
)
def test_a_mutant_that_is_out_of_date_is_refused(tree: Path, set_: dict[str, object], says: str) -> None:
    mutant = made(**set_)

    assert [line for line in out_of_date(mutant, tree) if says in line]
    with pytest.raises(ValueError, match=re.escape(says)):
        plant(mutant, tree)


def test_only_what_a_test_noticed_counts_as_caught() -> None:
    noticed = Failure("t", "call", "assert 1 == 2", "...")

    assert judge(Run(failures=[noticed], code=1)) == ""
    assert "SURVIVED" in judge(Run(passed={"t"}))
    assert "no test ran" in judge(Run(code=4))
    assert "does not run at all" in judge(Run(failures=[Failure("t", "call", "", "NameError: x")], code=1))
    assert "does not run at all" in judge(Run(failures=[Failure("t", "call", "", "Error compiling script")], code=1))
    assert "set-up" in judge(Run(failures=[Failure("t", "setup", "assert 1 == 2", "...")], code=1))


def test_the_table_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    text = markdown([Result(made(note="so", how="nearest"), ["tests/test_a.py::C::test_it[1]"], "", "", 1.0)])

    assert write_into(page, text)
    assert page.read_text() == f"before\n{BEGIN}\n\n{text}\n\n{END}\nafter\n"
    assert "| X1\\* | b | `a.txt` | `test_a: test_it` |" in text
    assert not write_into(tmp_path / "missing.md", text)


def test_a_run_that_would_test_another_tree_is_stopped(tmp_path: Path) -> None:
    """A mutant in a copy that nobody imports would survive every test."""
    env = os.environ | {TREE: str(tmp_path), REPORT: str(tmp_path / "report")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.guard", "tests/test_text.py"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not the copy in" in ran.stderr
