"""`stemctl embedded`: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem.adapters.embedded import EmbeddedServer
from tests.flow.running import program


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A folder with a project in it; what runs there afterwards is ended."""
    (tmp_path / "pyproject.toml").write_text("")
    yield tmp_path
    EmbeddedServer.stop(tmp_path / ".stem", force=True)


def stemctl(project: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [program("stemctl"), "embedded", *words, "--json"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, json.loads(done.stdout)


def test_start_status_stop(project: Path) -> None:
    code, answer = stemctl(project, "start")
    started = answer["data"]
    assert (code, answer["command"], started["running"], started["kept"]) == (0, "embedded start", True, True)
    assert started["folder"] == str(project / ".stem")

    code, answer = stemctl(project, "status")
    assert (code, answer["data"]["pid"], answer["data"]["in_use"]) == (0, started["pid"], False)

    code, answer = stemctl(project, "stop")
    assert (code, answer["data"]["outcome"]) == (0, "stopped")
    code, answer = stemctl(project, "stop")
    assert (code, answer["data"]["outcome"]) == (0, "not-running")


def test_status_of_nothing_is_exit_3_with_what_to_do(project: Path) -> None:
    code, answer = stemctl(project, "status")

    assert code == 3
    assert answer["data"]["running"] is False
    assert "stemctl embedded start" in answer["error"]["hint"]
    assert not (project / ".stem").exists()


def test_stop_of_a_used_server_needs_yes_off_a_terminal(project: Path) -> None:
    with EmbeddedServer.acquire(project / ".stem"):
        code, answer = stemctl(project, "stop")
        assert (code, answer["error"]["code"], answer["error"]["hint"]) == (5, "in-use", "add --yes")

        code, answer = stemctl(project, "stop", "--dry-run")
        assert (code, answer["data"]["outcome"]) == (0, "would-stop")
        assert EmbeddedServer.status(project / ".stem").running

        code, answer = stemctl(project, "stop", "--yes")
        assert (code, answer["data"]["outcome"]) == (0, "stopped")


@pytest.mark.parametrize(("word", "code"), [("n", 5), ("y", 0)])
def test_stop_of_a_used_server_asks_at_a_terminal(project: Path, word: str, code: int) -> None:
    ours, theirs = pty.openpty()
    with EmbeddedServer.acquire(project / ".stem"):
        command = [program("stemctl"), "embedded", "stop"]
        process = subprocess.Popen(command, cwd=project, stdin=theirs, stdout=theirs, stderr=theirs)
        os.write(ours, f"{word}\n".encode())

        assert process.wait(20) == code
        assert EmbeddedServer.status(project / ".stem").running is (word == "n")
    os.close(ours)
    os.close(theirs)


def test_a_folder_that_cannot_be_used_is_one_clear_line(project: Path) -> None:
    (project / ".stem").symlink_to(project / "elsewhere")

    code, answer = stemctl(project, "start")

    assert (code, answer["ok"]) == (2, False)
    assert "it is a symlink" in answer["error"]["message"]
    (project / ".stem").unlink()
