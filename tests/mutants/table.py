"""The table of results: as lines for a terminal, as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.mutants.run import Result

BEGIN: Final = "<!-- mutants:begin -->"
END: Final = "<!-- mutants:end -->"


def shown(result: Result) -> str:
    """Return one result as lines of text."""
    mutant = result.mutant
    head = f"{mutant.id:<5} {mutant.bug} ({', '.join(mutant.files)}; {result.seconds:.1f} s)"
    if result.wrong:
        return f"{head}\n      NOT CAUGHT: {result.wrong}"
    lines = [f"      caught by {test}" for test in _without_parameters(result.caught_by)]
    return "\n".join([head, *lines, f"      {result.why[:150]}"])


def markdown(results: Sequence[Result]) -> str:
    """Return the table, and below it why some are planted in another form than the list has them."""
    lines = [
        "| mutant | bug | planted in | caught by |",
        "|---|---|---|---|",
    ]
    for result in results:
        mutant = result.mutant
        star = "" if mutant.how == "as said" else "\\*"
        files = "<br>".join(f"`{_short_file(file)}`" for file in mutant.files)
        tests = "<br>".join(f"`{_short_test(test)}`" for test in _without_parameters(result.caught_by))
        lines.append(f"| {mutant.id}{star} | {_cell(mutant.bug)} | {files} | {tests or '**nobody**'} |")
    notes = [f"- **{one.mutant.id}**: {one.mutant.note}" for one in results if one.mutant.note]
    if notes:
        lines += ["", "\\* Planted is what comes nearest to it in this design:", "", *notes]
    return "\n".join(lines)


def write_into(path: Path, text: str) -> bool:
    """Put `text` between the markers; False if there is no such file or no markers in it."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, found, rest = before.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not found or not closed:
        return False
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
    return True


def _without_parameters(tests: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(test.partition("[")[0] for test in tests))


def _short_file(file: str) -> str:
    return file.removeprefix("stem/")


def _short_test(test: str) -> str:
    file, _, name = test.partition("::")
    return f"{file.removeprefix('tests/').removesuffix('.py')}: {name.rpartition('::')[2]}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
