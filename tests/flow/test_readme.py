"""Every command and every Python sample of README.md and docs/ is run, in order, as a reader would.

A comment before a block says what is special about it:

    <!-- test: file NAME -->         the sample is a file of this name
    <!-- test: run -->               the sample is a program that ends with exit code 0
    <!-- test: background -->        the command runs on until the page ends (a worker, until it answers a ping);
                                     lines after the first: `<!-- test: background NAME` and the text of that file
    <!-- test: pty KEYS -->          the command needs a terminal; KEYS are typed, and it must end with exit code 0
    <!-- test: before COMMAND -->    this command is run before those of the block
    <!-- test: exit N WHY -->        the command ends with exit code N
    <!-- test: skip WHY -->          the block is not run

A shell block without one: each line must end with exit code 0. `ID` stands for the last task id printed. `make` is only
asked what it would do (this runs under `make test`).
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import OwnServer
from tests.flow.running import ROOT, at_terminal, environment, run, running
from tests.waiting import wait_until

ELSEWHERE: Final = {"docs/runbook.md": "test_runbook.py"}
"""Pages whose commands need more than one working system, and who runs them."""
PAGES: Final = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
BLOCK: Final = re.compile(
    r"(?:^<!-- test: (?P<note>.*?)-->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
TASK_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the directive before it with its words."""

    kind: str
    text: str
    directive: str
    words: str


def blocks(page: str) -> Iterator[Block]:
    for found in BLOCK.finditer((ROOT / page).read_text()):
        directive, _, words = (found["note"] or "").strip().partition(" ")
        yield Block(found["kind"], found["text"], directive, words)


class Reader:
    """Somebody who tries everything on one page, in a folder of his own."""

    def __init__(self, folder: Path, env: dict[str, str], programs: ExitStack) -> None:
        self._folder = folder
        self._env = env
        self._programs = programs
        self._last_id = ""

    def follow(self, block: Block) -> None:
        match block.kind, block.directive:
            case _, "skip":
                assert block.words, "say why"
            case "python", "file":
                (self._folder / block.words.strip()).write_text(block.text)
                compile(block.text, block.words, "exec")
            case "python", "run":
                done = run([sys.executable, "-c", block.text], env=self._env, folder=self._folder)
                assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
            case "sh", "background":
                self._start(block)
            case "sh", "pty":
                self._at_terminal(block.text.split(), block.words.strip())
            case "sh", "" | "exit" | "before":
                if block.directive == "before":
                    self._command(block.words, 0)
                for line in block.text.splitlines():
                    self._command(line, int(block.words.split()[0]) if block.directive == "exit" else 0)
            case _:
                pytest.fail(f"do not know how to test this {block.kind or 'plain'} block:\n{block.text}")

    def _start(self, block: Block) -> None:
        name, _, text = block.words.partition("\n")
        if name.strip():
            (self._folder / name.strip()).write_text(text)
        program = self._programs.enter_context(running(block.text.split(), env=self._env, folder=self._folder))

        def answers() -> bool:
            assert program.alive, program.errors
            return run(["stemctl", "ping"], env=self._env, folder=self._folder).returncode == 0

        wait_until(answers, 20, what=f"{block.text.strip()} answers a ping")

    def _command(self, line: str, expected: int) -> None:
        if line.startswith("make "):
            line = f"make --dry-run -C {shlex.quote(str(ROOT))} {line.partition('#')[0][5:]}"
        elif "ID" in line.partition("#")[0].split():
            assert self._last_id, f"no task id was printed before: {line}"
            line = re.sub(r"\bID\b", self._last_id, line)
        done = run(["bash", "-c", line], env=self._env, folder=self._folder)
        assert done.returncode == expected, f"{line}\n=> {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, f"{line}\n{done.stderr}"
        if found := TASK_ID.search(done.stdout):
            self._last_id = found[0]

    def _at_terminal(self, command: list[str], keys: str) -> None:
        """Run a program at a terminal, type `keys` once it has drawn itself, and see it end well."""
        with at_terminal(command, env=self._env, folder=self._folder) as terminal:
            terminal.await_quiet()
            terminal.type(keys)

            assert terminal.wait() == 0, terminal.seen[-3000:]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_everything_on_the_page_works(page: str, tmp_path: Path, own_server: OwnServer) -> None:
    server = own_server(aof=True, options=("--maxmemory-policy", "noeviction"))
    env = environment(STEM_BROKER_URL=server.url)

    with ExitStack() as programs:
        reader = Reader(tmp_path, env, programs)
        for block in blocks(page):
            reader.follow(block)


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_somewhere(page: str) -> None:
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        path, _, anchor = target.partition("#")
        assert (here / path).exists(), target
        headings = re.findall(r"^#+ (.+)$", (here / path).read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    """Return the anchor that a heading has where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_fenced_block_is_one_that_is_read(page: str) -> None:
    """A block in a list, with `~~~`, or with words after its language would be passed over unseen."""
    text = (ROOT / page).read_text()
    fences = re.findall(r"^[ \t>*-]*(?:```|~~~)", text, re.MULTILINE)

    assert len(fences) == 2 * len(list(blocks(page)))


def test_every_page_stands_on_the_index() -> None:
    linked = set(re.findall(r"\]\((\S+\.md)\)", (ROOT / "docs/index.md").read_text()))
    there = {Path(page).name for page in PAGES if page.startswith("docs/")} - {"index.md"}

    assert linked == there, "give each page its line in docs/index.md"


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_pages_run_elsewhere_have_their_test(page: str, test: str) -> None:
    assert Path(page).name in (Path(__file__).parent / test).read_text()
    assert {block.kind for block in blocks(page)} <= {"sh", "text"}


def test_the_package_is_called_as_the_readme_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(
        re.findall(r"pip install (?:--upgrade )?([\w-]+)", "".join((ROOT / page).read_text() for page in PAGES))
    )

    assert named == {project["name"]}
