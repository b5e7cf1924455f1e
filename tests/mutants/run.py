"""Plants mutants in copies of the tree and runs their tests there. Never touches the tree itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tests.mutants.guard import REPORT, TREE
from tests.mutants.mutant import ROOT, Mutant, plant, unplant

LONGEST_RUN_S: Final = 300.0
NO_CATCH: Final = re.compile(
    r"Error compiling script|SyntaxError|IndentationError|ImportError|ModuleNotFoundError|NameError"
    r"|nonexistent global variable|attempt to (call|index|perform|concatenate|compare)"
)
"""A mutant that does not even run is caught by anything: it proves nothing about the tests."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One test that failed, in one phase; `why` is the first line of what was raised, `text` the whole."""

    test: str
    when: str
    why: str
    text: str


@dataclass(slots=True)
class Run:
    """What one run of pytest did."""

    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    output: str = ""
    code: int = 0


@dataclass(slots=True)
class Result:
    """How a mutant fared; `wrong` says why it does not count as caught, '' when it was caught."""

    mutant: Mutant
    caught_by: list[str]
    why: str
    wrong: str
    seconds: float


class Trees:
    """Copies of the work tree, tracked and new files alike, as they are now."""

    def __init__(self, count: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="stem-mutants-"))
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        files = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
        first = self.home / "0"
        for name in files:
            target = first / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        self.all = [first]
        for number in range(1, count):
            self.all.append(self.home / str(number))
            shutil.copytree(first, self.all[-1])

    def close(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def trees(count: int) -> Iterator[Trees]:
    made = Trees(count)
    try:
        yield made
    finally:
        made.close()


def run_tests(tree: Path, tests: Sequence[str], *, only: str = "") -> Run:
    """Run these tests of a copy, with the code of that copy."""
    report = tree / "report.jsonl"
    report.unlink(missing_ok=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith("STEM_")}
    env |= {
        "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tui'}",
        # A file that is changed within one second and keeps its size would be taken from the cache.
        "PYTHONDONTWRITEBYTECODE": "1",
        TREE: str(tree),
        REPORT: str(report),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.guard", "-p", "no:cacheprovider"]
    command += ["-p", "no:randomly", f"--basetemp={tree / 'basetemp'}", *(["-k", only] if only else []), *tests]
    # Its own session: whatever a test may leave behind when it had to be killed ends with it.
    process = subprocess.Popen(
        command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    run = Run()
    try:
        run.output = process.communicate(timeout=LONGEST_RUN_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        run.output = process.communicate()[0].decode(errors="replace") + f"\nkilled after {LONGEST_RUN_S} s"
    run.code = process.returncode
    _read(report, run)
    return run


def _read(report: Path, run: Run) -> None:
    for text in report.read_text(encoding="utf-8").splitlines() if report.is_file() else ():
        line = json.loads(text)
        if line["outcome"] == "failed":
            run.failures.append(
                Failure(line["test"], line["when"], line["why"].strip().partition("\n")[0], line["text"])
            )
        elif line["outcome"] == "skipped":
            run.skipped.add(line["test"])
        elif line["when"] == "call":
            run.passed.add(line["test"])
    run.passed -= {failure.test for failure in run.failures}


def baseline(homes: Trees, mutants: Sequence[Mutant]) -> list[str]:
    """Run every named test on the code as it is; return what is wrong with that."""
    groups: dict[str, dict[str, None]] = {}
    for mutant in mutants:
        groups.setdefault(mutant.only, {}).update(dict.fromkeys(mutant.tests))
    jobs: list[tuple[list[str], str]] = []
    for only, tests in groups.items():
        names, share = list(tests), max(1, -(-len(tests) // len(homes.all)))
        jobs += [(names[at : at + share], only) for at in range(0, len(names), share)]
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in homes.all:
        free.put(tree)

    def one(job: tuple[list[str], str]) -> list[str]:
        tree = free.get()
        try:
            run = run_tests(tree, job[0], only=job[1])
        finally:
            free.put(tree)
        wrong = [f"{failure.test} fails without a mutant: {failure.why}" for failure in run.failures]
        if not wrong:
            wrong = [f"{test} is not run here: nothing of it passed" for test in job[0] if not _passed(test, run)]
        return wrong if run.code == 0 or wrong else [f"pytest ended with {run.code}:\n{run.output[-3000:]}"]

    with ThreadPoolExecutor(len(homes.all)) as pool:
        return [line for lines in pool.map(one, jobs) for line in lines]


def _passed(test: str, run: Run) -> bool:
    return any(one == test or one.startswith(f"{test}[") for one in run.passed)


def try_all(homes: Trees, mutants: Sequence[Mutant], told: Callable[[Result], None]) -> list[Result]:
    """Plant each mutant by itself; `told` hears of each as it is done."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in homes.all:
        free.put(tree)
    guard = threading.Lock()

    def one(mutant: Mutant) -> Result:
        tree = free.get()
        try:
            result = _try(mutant, tree)
        finally:
            free.put(tree)
        with guard:
            told(result)
        return result

    with ThreadPoolExecutor(len(homes.all)) as pool:
        return list(pool.map(one, mutants))


def _try(mutant: Mutant, tree: Path) -> Result:
    began = time.monotonic()
    originals = {file: (tree / file).read_text(encoding="utf-8") for file in mutant.files}
    plant(mutant, tree)
    try:
        run = run_tests(tree, mutant.tests, only=mutant.only)
    finally:
        unplant(mutant, tree, originals)
    wrong = judge(run)
    caught_by = list(dict.fromkeys(failure.test for failure in run.failures))
    why = run.failures[0].why if run.failures else ""
    return Result(mutant, caught_by, why, wrong, time.monotonic() - began)


def judge(run: Run) -> str:
    """Return why a run does not count as having caught its mutant; '' when it does."""
    if not run.failures:
        if run.code == 0:
            return "SURVIVED: every named test passed"
        return f"no test ran (pytest ended with {run.code}):\n{run.output[-2000:]}"
    for failure in run.failures:
        found = NO_CATCH.search(failure.text)
        if found:
            return f"it does not run at all ({found[0]}):\n{failure.text[-2000:]}"
    if all(failure.when == "setup" for failure in run.failures):
        return f"only the set-up failed:\n{run.failures[0].text[-2000:]}"
    return ""
