"""The environments of the peers: what could not be installed is tried again, and what is there stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import environments
from tests.flow.running import ROOT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that wants one and two; `python -m venv` only makes the folder, or empties it."""

    def create(folder: Path, *, with_pip: bool, clear: bool) -> None:
        if clear:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)

    requirements = tmp_path / "benchmarks" / "peers" / "requirements-x.txt"
    requirements.parent.mkdir(parents=True)
    requirements.write_text("one>=1\ntwo>=2\n")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr("venv.create", create)
    monkeypatch.setattr("sys.argv", ["environments", "x"])
    return tmp_path / ".venv-bench-x"


def test_what_was_left_out_is_tried_again_beside_what_is_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"two>=2"}

    def install(folder: Path, requirements: list[str]) -> str:
        if lacking & set(requirements):
            return "ERROR: no network"
        for each in requirements:
            (folder / each).touch()
        return ""

    monkeypatch.setattr(environments, "_install", install)

    assert environments.main() == 0
    assert json.loads((place / "left-out.json").read_text()) == {"two": "ERROR: no network"}
    assert not (place / ".installed").exists()

    lacking.add("one>=1")  # the network has gone altogether
    environments.main()
    assert (place / "one>=1").exists()

    lacking.clear()
    environments.main()
    assert json.loads((place / "left-out.json").read_text()) == {}
    assert (place / ".installed").exists()

    (place / "of before").touch()
    environments.main()
    assert not (place / "of before").exists(), "what asks for a whole environment gets a new one"


def test_make_takes_no_environment_for_done_that_does_not_say_so(tmp_path: Path) -> None:
    wanted = tmp_path / "benchmarks" / "peers" / "requirements-x.txt"
    wanted.parent.mkdir(parents=True)
    wanted.touch()
    (tmp_path / ".venv-bench-x").mkdir()
    line = ["make", "-f", str(ROOT / "Makefile"), "PYTHON=true", ".venv-bench-x/.installed"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, check=True, timeout=20)

    assert not (tmp_path / ".venv-bench-x" / ".installed").exists()
