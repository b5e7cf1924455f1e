"""A pytest plugin for runs in a copy of the tree: proves that the copy is what runs, and writes down each failure.

Loaded by `-p tests.mutants.guard`; `STEM_MUTANT_TREE` is the copy, `STEM_MUTANT_REPORT` the file to write to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stem

TREE = "STEM_MUTANT_TREE"
REPORT = "STEM_MUTANT_REPORT"


def pytest_configure(config: pytest.Config) -> None:
    """Stop the run if it, or a process that it starts, would import the code of another tree."""
    tree = Path(os.environ[TREE]).resolve()
    there = subprocess.run(
        [sys.executable, "-c", "import stem; print(stem.__file__)"], cwd="/", capture_output=True, text=True, check=True
    )
    for imported in (stem.__file__, there.stdout.strip()):
        if not Path(imported).resolve().is_relative_to(tree):
            raise pytest.UsageError(f"{imported} would be tested, not the copy in {tree}")
    for module, line in (("tests.mutants.guard", __file__), ("tests", sys.modules["tests"].__path__[0])):
        if not Path(line).resolve().is_relative_to(tree):
            raise pytest.UsageError(f"{module} comes from {line}, not from the copy in {tree}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.passed or report.skipped:
        line = {"test": report.nodeid, "when": report.when, "outcome": report.outcome}
    else:
        crash = getattr(report.longrepr, "reprcrash", None)
        shown = str(crash.message) if crash is not None else str(report.longrepr)
        line = {
            "test": report.nodeid,
            "when": report.when,
            "outcome": "failed",
            "why": shown,
            "text": str(report.longrepr),
        }
    with open(os.environ[REPORT], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
