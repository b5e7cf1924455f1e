"""`python -m tests.prove`: the whole proof, part after part, and what each of them says at the end (`make faults`).

Ends with 1 if a part did; the others are run all the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.fleet import ROOT
from tests.prove.document import write


@dataclass(frozen=True, slots=True)
class Part:
    """A program of this repository that proves something.

    Attributes:
        says: the lines of its stdout that tell what came of it; where none matches, its last line.
        writes: it has a place of its own in the document, and takes `--write` itself.
    """

    name: str
    command: Sequence[str]
    says: str
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    part: Part
    code: int
    lines: Sequence[str]
    seconds: float

    @property
    def markdown(self) -> str:
        said = "<br>".join(self.lines).replace("|", "/")
        good = "yes" if self.code == 0 else "NO"
        return f"| `python -m {' '.join(self.part.command)}` | {said} | {self.seconds / 60:.1f} min | {good} |"


PARTS: Final = (
    Part("matrix", ("tests.faults",), says=r"\d+ checks, ", writes=True),
    Part("model", ("tests.model", "--examples", "500", "--steps", "50"), says=r"\w+: (\d+ examples|left out)"),
    Part("simulation", ("tests.simulation", "--seeds", "2000"), says=r"\d+ seeds, "),
    Part(
        "fuzz",
        ("tests.fuzz",),
        says=r"fuzz: (envelope, mutated|tasks into|commands and wake|command lines  |passed|FAILED)",
    ),
)


def main(parts: Sequence[Part] = PARTS) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("only", nargs="*", help=f"parts to run, of {', '.join(part.name for part in parts)}")
    parser.add_argument("--write", action="store_true", help="put the results into docs/reliability.md")
    options = parser.parse_args()
    unknown = set(options.only) - {part.name for part in parts}
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    began = time.monotonic()
    chosen = [part for part in parts if not options.only or part.name in options.only]
    results = [run(part, write=options.write) for part in chosen]
    text = table(results)
    print(f"\n{text}")
    if options.write and not options.only:
        said = (
            f"`make faults` on {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, {(time.monotonic() - began) / 60:.0f} minutes in all:"
        )
        write("runs", f"{said}\n\n{text}")
    failed = [result.part.name for result in results if result.code]
    minutes = (time.monotonic() - began) / 60
    print(f"\n{len(results)} parts, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}; {minutes:.0f} min")
    return 1 if failed else 0


def run(part: Part, *, write: bool = False) -> Result:
    """Run a part, show all that it says, and return what came of it."""
    command = [sys.executable, "-m", *part.command, *(["--write"] if write and part.writes else [])]
    print(f"== {part.name}: python -m {' '.join(command[2:])}", flush=True)
    began = time.monotonic()
    last, said = "", []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
            if re.match(part.says, line):
                said.append(line.strip())
        code = process.wait()
    return Result(part, code, said or [last], time.monotonic() - began)


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown."""
    return "\n".join(["| run | result | took | held |", "|---|---|---|---|", *(one.markdown for one in results)])


if __name__ == "__main__":
    sys.exit(main())
