"""`python -m tests.model --examples 500 --steps 50`: random sequences of calls, against each adapter and a small model.

The same seed and figures play the same sequences. A violation prints the shortest sequence of calls that shows it.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

from tests.model.play import ADAPTERS, Report, missing, play

SEED: Final = 20


def main() -> int:
    """Return 1 if an adapter and the model disagreed."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--adapter", choices=ADAPTERS, action="append", help="this one only; may be repeated")
    parser.add_argument("--examples", type=int, default=500, help="sequences per adapter")
    parser.add_argument("--steps", type=int, default=50, help="calls per sequence")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--no-shrink", action="store_true", help="show the first violation, however long it is")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes to play the adapters in")
    options = parser.parse_args()
    for adapter in options.adapter or ADAPTERS:
        if reason := missing(adapter):
            _say(f"{adapter}: left out, {reason}")
    adapters = [adapter for adapter in options.adapter or ADAPTERS if not missing(adapter)]
    failed = 0
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        size, shrink = (options.examples, options.steps, options.seed), not options.no_shrink
        played = [pool.submit(play, name, *size, shrink=shrink) for name in adapters]
        for adapter, future in zip(adapters, played, strict=True):
            report: Report = future.result()
            failed += report.violations
            _say(report.summary)
            if report.violations:
                _say(
                    f"{report.trace}\nagain: python -m tests.model --adapter {adapter} --seed {options.seed} "
                    f"--examples {options.examples} --steps {options.steps}"
                )
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
