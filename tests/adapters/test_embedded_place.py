"""Where the embedded server's folder is: nearest upwards, else at the project's mark, else here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stem.adapters.embedded import resolve_folder


def test_the_nearest_folder_upwards_is_taken_even_above_a_project(tmp_path: Path) -> None:
    (tmp_path / ".stem").mkdir()
    inner = tmp_path / "project" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text("")

    assert resolve_folder(inner) == tmp_path / ".stem"


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git"])
def test_else_it_stands_beside_the_projects_mark(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).write_text("")
    (tmp_path / "a" / "b").mkdir(parents=True)

    assert resolve_folder(tmp_path / "a" / "b") == tmp_path / ".stem"


def test_else_it_stands_right_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert resolve_folder() == tmp_path.resolve() / ".stem"


def test_symlinks_and_other_peoples_folders_are_passed_by(tmp_path: Path) -> None:
    (tmp_path / ".stem").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".stem").symlink_to(tmp_path)
    if os.geteuid() == 0:
        (tmp_path / "a" / "b" / ".stem").mkdir()
        os.chown(tmp_path / "a" / "b" / ".stem", 65_534, 65_534)

    assert resolve_folder(tmp_path / "a" / "b") == tmp_path / ".stem"
