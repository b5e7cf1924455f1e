"""The program that runs every proof: it shows all, keeps what tells the result, and fails if one part does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.prove.__main__ import PARTS, Part, main, run
from tests.prove.document import DOCUMENT, write


def test_the_last_line_tells_where_no_other_does(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(Part("zen", ("this",), says="there is no such line"))

    assert (result.code, result.lines) == (0, ["Namespaces are one honking great idea -- let's do more of those!"])
    assert "Beautiful is better than ugly." in capsys.readouterr().out


def test_lines_that_tell_the_result_are_kept() -> None:
    result = run(Part("zen", ("this",), says=r"(Now|Errors) "))

    assert result.lines == ["Errors should never pass silently.", "Now is better than never."]
    assert "Errors should never pass silently.<br>Now is better than never." in result.markdown


def test_one_part_that_fails_fails_the_whole_and_the_others_are_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prove"])

    code = main([Part("bad", ("tests.prove.no_such_module",), says="x"), Part("zen", ("this",), says="x")])

    said = capsys.readouterr().out
    assert code == 1
    assert "one honking great idea" in said
    assert said.rstrip().splitlines()[-1].startswith("2 parts, 1 failed: bad;")


def test_all_good_parts_are_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prove", "zen"])

    assert main([Part("bad", ("tests.prove.no_such_module",), says="x"), Part("zen", ("this",), says="x")]) == 0


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_every_part_is_a_program_that_takes_these_options(part: Part) -> None:
    module, *options = part.command
    path = DOCUMENT.parents[1].joinpath(*module.split("."), "__main__.py")

    assert path.is_file()
    assert all(option in path.read_text() for option in options if option.startswith("--"))
    assert not part.writes or "--write" in path.read_text()


def test_results_are_written_into_their_place_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- soak:begin -->\nold\n<!-- soak:end -->\nb\n<!-- runs:begin -->\n<!-- runs:end -->\n")

    write("soak", "new", page)
    write("soak", "newer\n", page)

    assert page.read_text() == (
        "a\n<!-- soak:begin -->\n\nnewer\n\n<!-- soak:end -->\nb\n<!-- runs:begin -->\n<!-- runs:end -->\n"
    )
    with pytest.raises(ValueError, match="no place for mutants"):
        write("mutants", "x", page)


@pytest.mark.parametrize("place", ["matrix", "runs", "soak", "mutants"])
def test_the_document_has_a_place_for_every_result(place: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(DOCUMENT.read_text())

    write(place, "result", page)

    assert page.read_text().count("result") >= 1
