"""Wheels of two commits, installed side by side; the libraries they need are those of this environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

PREVIOUS: Final = "471226b2bb9db79292d5cafc726444ced4be6016"
"""The commit that counts as the version before this one, until there are releases."""


def install(commit: str, folder: Path) -> Path:
    """Build the wheel of a commit and install it into a folder of its own; returns what PYTHONPATH must name.

    Raises:
        RuntimeError: the commit is not there, or its wheel cannot be built (pip loads the build backend for it).
    """
    source, wheels, target = folder / "source", folder / "wheels", folder / "installed"
    source.mkdir(parents=True)
    archive = folder / "source.tar"
    _run("git", "-C", str(ROOT), "archive", "--output", str(archive), commit)
    _run("tar", "-xf", str(archive), "-C", str(source))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(source))
    _run(*pip, "install", "--no-deps", "--target", str(target), str(next(wheels.glob("*.whl"))))
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}".strip())
