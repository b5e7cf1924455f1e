"""Somebody who has only Python follows docs/getting-started.md to the letter, and ends with a service.

A new home, an empty environment, a virtual environment of his own, the wheel of this tree. What the wheel needs comes
from this environment: no network is used. He sits at a terminal, so without a URL Stem brings its own server.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import OwnServer
from tests.deploy.unit import SAMPLE, Unit, read_environment_file, started
from tests.flow.running import ROOT, Terminal, at_terminal, run
from tests.flow.test_readme import TASK_ID, Block, blocks
from tests.waiting import wait_until

PAGE: Final = "docs/getting-started.md"
SLOW_S: Final = 90.0
"""For one command: on a machine with more to do, starting Python alone takes a while."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    done = run([*pip, *offline, "--wheel-dir", str(folder), str(ROOT)], env=os.environ, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Newcomer:
    """Types the page's commands at terminals in one folder."""

    def __init__(self, home: Path, wheels: Path, stack: ExitStack) -> None:
        self.folder = home / "shop"
        self.folder.mkdir(parents=True)
        self._stack = stack
        self._active = ""
        self._last_id = ""
        python = Path(sys.base_prefix, "bin")
        self.env = {"HOME": str(home), "PATH": f"{python}:/usr/bin:/bin", "LANG": "C.UTF-8"}
        # Where pip finds what is elsewhere brought by the network.
        self.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
        self.worker: Terminal | None = None

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    def follow(self, block: Block) -> None:
        match block.kind, block.directive:
            case "python", "file":
                (self.folder / block.words.strip()).write_text(block.text)
            case "sh", "background":
                assert self.worker is None
                self.worker = self._stack.enter_context(self._terminal(block.text.strip()))
                self.worker.await_text("concurrency", timeout=SLOW_S)  # the last line of its banner
                self.await_ping()
            case "sh", _:
                for line in block.text.splitlines():
                    self.type(line)
            case _:
                pytest.fail(f"a newcomer does not know what to do with this:\n{block.text}")

    def type(self, line: str, *, code: int = 0) -> str:
        """Run one line at a terminal; returns what it printed."""
        if line.startswith(". "):
            self._active = f"{line.partition('#')[0].strip()} && "
            return ""
        if "ID" in line.partition("#")[0].split():
            assert self._last_id, f"no task id was printed before: {line}"
            line = re.sub(r"\bID\b", self._last_id, line)
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.env[name] = value
            return ""
        with self._terminal(line) as terminal:
            ended = terminal.wait(SLOW_S)
            assert ended == code, f"{line}\n=> {ended}\n{terminal.seen}"
            said = terminal.seen
        if "-m venv" in line:
            self._lend_libraries()
        if found := TASK_ID.search(said):
            self._last_id = found[0]
        return said

    def await_ping(self) -> None:
        def answers() -> bool:
            with self._terminal("stemctl ping") as terminal:
                return terminal.wait(SLOW_S) == 0

        wait_until(answers, SLOW_S, what="the worker answers a ping")

    def _terminal(self, line: str) -> AbstractContextManager[Terminal]:
        return at_terminal(["bash", "-c", f"{self._active}exec {line}"], env=self.env, folder=self.folder)

    def _lend_libraries(self) -> None:
        """Let the new environment see what the wheel needs, and nothing of this tree."""
        lent = self.folder.parent / "lent"
        lent.mkdir()
        for kind in ("purelib", "platlib"):
            for entry in Path(sysconfig.get_path(kind)).iterdir():
                own = entry.name.startswith(("stem", "_stem", "__editable__", "pip")) or entry.suffix == ".pth"
                if not own and not (lent / entry.name).exists():
                    (lent / entry.name).symlink_to(entry)
        (site,) = self.venv.glob("lib/python3*/site-packages")
        (site / "lent.pth").write_text(f"{lent}\n")


@pytest.fixture
def newcomer(tmp_path: Path, wheels: Path) -> Iterator[Newcomer]:
    with ExitStack() as stack:
        yield Newcomer(tmp_path / "home", wheels, stack)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_newcomer_gets_from_nothing_to_a_service(newcomer: Newcomer, tmp_path: Path, own_server: OwnServer) -> None:
    page = list(blocks(PAGE))
    install, *steps, own = page
    assert "pip install" in install.text
    assert own.text.startswith("export STEM_BROKER_URL=")

    # Installing, the tasks, a worker, and enqueueing: with the server that Stem brings.
    newcomer.follow(install)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"stem-worker {version}" in newcomer.type("stem-worker --version")
    assert str(newcomer.venv) in newcomer.type("python -c 'import stem; print(stem.__file__)'")
    for block in steps:
        newcomer.follow(block)
    newcomer.type("stemctl embedded status")
    assert newcomer.worker is not None
    newcomer.worker.type("\x03")  # Ctrl-C stops it, as the page says
    assert newcomer.worker.wait(SLOW_S) == 0, newcomer.worker.seen
    newcomer.type("stemctl embedded status", code=3)

    # A server of his own, and the worker as a service.
    server = own_server(tcp=True, options=("--maxmemory-policy", "noeviction"))
    newcomer.type(own.text.strip().replace("localhost:6379", f"127.0.0.1:{server.port}"))
    unit = Unit("shop", tmp_path / "root", bin_folder=newcomer.venv / "bin")
    (unit.folder / "tasks.py").write_text((newcomer.folder / "tasks.py").read_text())
    sample = read_environment_file(SAMPLE) | {"STEM_BROKER_URL": server.tcp_url, "STEM_HEALTH_PORT": "0"}
    unit.environment_file.write_text("".join(f"{name}={value}\n" for name, value in sample.items()))
    with started(unit) as service:
        service.await_log("worker.ready", timeout=SLOW_S)
        assert "shop-" in newcomer.type("stemctl ping")
        newcomer.type("stemctl enqueue image.resize path=a.jpg")
        newcomer.type("stemctl result ID --wait 30s")

        ended = service.stop()

    assert (ended.code, ended.killed, ended.left) == (0, False, ())
