"""Makes a virtual environment for peers: `python -m benchmarks.environments sync`. Needs nothing but Python.

What cannot be installed is left out, and `left-out.json` says why; the others are installed without it. The next time
is for what was left out: what is there stays. `.installed` says that all of them are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wanted(text: str) -> list[str]:
    """Return the requirements of a file."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def distribution(requirement: str) -> str:
    """Return the name in a requirement: `celery[redis]>=5` is `celery`."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if found is None:
        raise ValueError(f"{requirement!r} names nothing")
    return found[0].lower()


def main() -> int:
    name = sys.argv[1]
    folder = ROOT / f".venv-bench-{name}"
    requirements = wanted((ROOT / "benchmarks" / "peers" / f"requirements-{name}.txt").read_text("utf-8"))
    done, missing = folder / ".installed", folder / "left-out.json"
    venv.create(folder, with_pip=True, clear=done.exists() or not missing.exists())
    left_out = {}
    if _install(folder, requirements):
        kept: list[str] = []
        for each in requirements:
            if error := _install(folder, [*kept, each]):
                left_out[distribution(each)] = error
                print(f"{each} cannot be installed: {error}", file=sys.stderr)
            else:
                kept.append(each)
    missing.write_text(json.dumps(left_out), "utf-8")
    if not left_out:
        done.touch()
    return 0


def _install(folder: Path, requirements: list[str]) -> str:
    """Install them together; return what went wrong, empty when nothing did."""
    line = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*line, *requirements], capture_output=True, text=True)
    if not done.returncode:
        return ""
    errors = [each for each in done.stderr.splitlines() if each.startswith("ERROR")]
    return (errors[-1] if errors else f"pip ended with {done.returncode}")[:200]


if __name__ == "__main__":
    sys.exit(main())
