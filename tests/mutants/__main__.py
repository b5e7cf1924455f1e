"""`python -m tests.mutants [M1 M4 ...] [--jobs 2]`: plant known bugs one at a time and show which test catches each.

Works in a copy of the tree. Ends with 1 when a mutant survives, is out of date, or does not run.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.listing import MUTANTS
from tests.mutants.mutant import ROOT, Mutant, out_of_date
from tests.mutants.run import Result, baseline, trees, try_all
from tests.mutants.table import markdown, shown, write_into


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("ids", nargs="*", help="which mutants, e.g. M1 M4 X3 (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree to work in at once")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown at the end")
    parser.add_argument("--write", action="store_true", help="put it between the markers of docs/reliability.md")
    options = parser.parse_args()
    chosen = _chosen(options.ids)
    if options.list:
        for mutant in chosen:
            _say(f"{mutant.id:<5} {mutant.bug} [{mutant.how}]")
        return 0
    stale = [line for mutant in chosen for line in out_of_date(mutant)]
    if stale:
        _say("\n".join(stale))
        return 1
    began = time.monotonic()
    with trees(max(1, min(options.jobs, len(chosen)))) as homes:
        unfit = baseline(homes, chosen)
        if unfit:
            _say("\n".join(unfit))
            return 1
        _say(f"The tests that are named pass without a mutant ({time.monotonic() - began:.0f} s).")
        results = try_all(homes, chosen, lambda result: _say(shown(result)))
    _say(_summary(results, time.monotonic() - began))
    text = markdown(results)
    if options.markdown:
        _say(text)
    if options.write and (len(chosen) < len(MUTANTS) or any(result.wrong for result in results)):
        _say("nothing was written: the table is of all mutants, each of them caught")
        return 1
    if options.write and not write_into(ROOT / "docs/reliability.md", text):
        _say("nothing was written: docs/reliability.md has no place for the table")
        return 1
    return 1 if any(result.wrong for result in results) else 0


def _chosen(ids: list[str]) -> list[Mutant]:
    """Return the mutants asked for; M6 means M6b as well."""
    if not ids:
        return list(MUTANTS)
    chosen = [mutant for mutant in MUTANTS if mutant.id in ids or mutant.id.rstrip("abc") in ids]
    unknown = [one for one in ids if not any(one in (mutant.id, mutant.id.rstrip("abc")) for mutant in chosen)]
    if unknown:
        sys.exit(f"no such mutant: {', '.join(unknown)}")
    return chosen


def _summary(results: list[Result], seconds: float) -> str:
    caught = sum(not result.wrong for result in results)
    return f"{len(results)} mutants, {caught} caught, {len(results) - caught} not; {seconds:.0f} s"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
