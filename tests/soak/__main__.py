"""`python -m tests.soak --minutes 10`: load, control and faults for so long, and nothing may grow that must not.

It ends with one line, and with 1 if something did not hold: then ledger, logs and server data are kept. The ledger is
read at once in the end, which takes about 2 kB of memory for each task: an hour is 4 GB.
"""

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

from tests.faults.matrix.family import Family, Row
from tests.faults.matrix.stage import Stage
from tests.prove.document import write
from tests.soak.report import LIMIT_MB_H, complaints, markdown, summary
from tests.soak.run import Soak, Soaked


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--per-second", type=float, default=500.0, help="tasks enqueued, if the machine can")
    parser.add_argument("--limit", type=float, default=LIMIT_MB_H, help="MB an hour that a worker may grow by")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--keep", type=Path, help="folder for what is kept if it fails; a temporary one if not said")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="stem-soak-"))
    print(f"seed {options.seed}; what fails is kept in {folder}", flush=True)
    soaked, wrong = asyncio.run(
        play(
            seconds=options.minutes * 60,
            per_s=options.per_second,
            seed=options.seed,
            folder=folder,
            limit_mb_h=options.limit,
        )
    )
    text = markdown(soaked)
    print(text)
    if options.write:
        said = (
            f"`make soak` ({options.minutes:g} minutes) on {time.strftime('%Y-%m-%d')}, seed {options.seed}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}:"
        )
        write("soak", f"{said} {text}")
    print("".join(f"\n{one}" for one in wrong))
    print(summary(soaked, options.seed, wrong))
    return 1 if wrong else 0


async def play(*, seconds: float, per_s: float, seed: int, folder: Path, limit_mb_h: float) -> tuple[Soaked, list[str]]:
    """Run one soak in a folder of its own; return what was measured, and what does not hold."""

    async def nobody(stage: Stage) -> list[Row]:
        return []

    family = Family("soak", "soak", nobody, seconds, seconds)
    stage = Stage(family, "full", seed, folder)
    wrong = ["it did not come to its end"]
    try:
        soak = Soak(stage, seconds=seconds, per_s=per_s)
        soaked = await soak.play()
        wrong = complaints(soaked, limit_mb_h)
    finally:
        await stage.close(keep=bool(wrong))
    return soaked, wrong


if __name__ == "__main__":
    sys.exit(main())
