"""`python -m tests.faults`: play the fault matrix and print its table; `--write` puts it into the docs."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.faults.fleet import ROOT
from tests.faults.matrix.family import Family, Row, Scale, all_families
from tests.faults.matrix.stage import perform

DOCUMENT: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- matrix:begin -->"
END: Final = "<!-- matrix:end -->"
HEAD: Final = (
    "| check | injected | tasks | lost | ended twice | extra starts (unexplained) | longest recovery | more | held |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("only", nargs="*", help="families to play, such as T-F4; all if none is named")
    parser.add_argument("--scale", choices=["share", "full"], default="full")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--keep", type=Path, help="folder for what failed; a temporary one if not said")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument("--list", action="store_true", help="name the families and end")
    options = parser.parse_args()
    families = all_families()
    if options.list:
        for one in families:
            print(f"{one.id:8} {one.title}")
        return 0
    unknown = set(options.only) - {one.id for one in families}
    if unknown:
        parser.error(f"no family is called {', '.join(sorted(unknown))}; --list names them")
    chosen = [one for one in families if not options.only or one.id in options.only]
    keep = options.keep or Path(tempfile.mkdtemp(prefix="stem-faults-"))
    print(
        f"seed {options.seed}, scale {options.scale}, {len(chosen)} families; what fails is kept in {keep}", flush=True
    )
    began = time.monotonic()
    rows = _play(chosen, options.scale, options.seed, keep)
    failed = [row for row in rows if not row.held]
    print(f"\n{HEAD}")
    print("\n".join(line(row) for row in rows))
    print(f"\n{len(rows)} checks, {len(failed)} failed, {(time.monotonic() - began) / 60:.1f} min, seed {options.seed}")
    for row in failed:
        print(f"\n{row.check}:\n  " + "\n  ".join(row.violations))
    if options.write and not options.only:
        _write(rows, options.seed, (time.monotonic() - began) / 60)
    if not failed and options.keep is None:
        keep.rmdir()
    return 1 if failed else 0


def _play(families: list[Family], scale: Scale, seed: int, keep: Path) -> list[Row]:
    rows: list[Row] = []
    for one in families:
        began = time.monotonic()
        found = asyncio.run(perform(one, scale=scale, seed=seed, folder=keep))
        rows += found
        good = all(row.held for row in found)
        print(f"{'held  ' if good else 'FAILED'} {one.id:8} {time.monotonic() - began:6.1f} s  {one.title}", flush=True)
        for row in found:
            if not row.held:
                print("       " + "\n       ".join(row.violations), flush=True)
    return rows


def line(row: Row) -> str:
    """Return a row of the Markdown table."""
    recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f} s"
    cells = [row.check, row.injected, f"{row.tasks:,}".replace(",", " "), str(row.lost), str(row.doubled)]
    cells += [f"{row.extra_starts} ({row.unexplained})", recovery, row.note, "yes" if row.held else "NO"]
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _write(rows: list[Row], seed: int, minutes: float) -> None:
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    said = (
        f"`make faults` on {time.strftime('%Y-%m-%d')}, seed {seed}, {minutes:.0f} minutes, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}:"
    )
    table = "\n".join([HEAD, *(line(row) for row in rows)])
    DOCUMENT.write_text(f"{before}{BEGIN}\n{said}\n\n{table}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
