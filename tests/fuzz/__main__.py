"""The long form: `python -m tests.fuzz` tries everything at full size, and prints one line for each kind.

Two parts at a time, as processes of their own. Exit code 1 if anything failed; its output follows then. The seed is
printed; `STEM_FUZZ_SEED` sets it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
FIRST: Final = ("test_live_worker.py", "test_command_lines.py")
"""The longest ones, each on its own; the others follow as one."""


def parts() -> list[list[str]]:
    rest = sorted(path.name for path in FOLDER.glob("test_*.py") if path.name not in FIRST)
    return [*([name] for name in FIRST), rest]


def run(names: list[str], seed: str) -> tuple[int, list[str]]:
    """Try some files, printing their lines as they come; return the exit code and all output."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", *(str(FOLDER / name) for name in names)]
    env = os.environ | {"STEM_FUZZ": "full", "STEM_FUZZ_SEED": seed, "PYTHONUNBUFFERED": "1"}
    said = []
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith("fuzz: "):
                sys.stdout.write(line)
                sys.stdout.flush()
    return process.returncode, said


def main() -> int:
    seed = os.environ.get("STEM_FUZZ_SEED") or str(secrets.randbits(32))
    sys.stdout.write(f"fuzz: seed {seed}: STEM_FUZZ_SEED={seed} python -m tests.fuzz\n")
    sys.stdout.flush()
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda names: run(names, seed), parts()))
    for code, said in results:
        if code:
            sys.stdout.write("".join(line for line in said if not line.startswith("fuzz: ")))
    failed = any(code for code, _ in results)
    sys.stdout.write(f"fuzz: {'FAILED' if failed else 'passed'} in {time.monotonic() - began:.0f} s, seed {seed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
