"""The dashboard inside tmux: a terminal that others wrote, with a size that changes and keys that it passes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stem import Stem, TaskOptions
from tests.servers import Server
from tests.tui.terminal import ROOT
from tests.waiting import eventually

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Tmux:
    """A server of tmux with one window. Its socket is in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "tmux"

    def do(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    @property
    def text(self) -> str:
        return self.do("capture-pane", "-p")

    @property
    def raw(self) -> str:
        """The screen with the colours that it has."""
        return self.do("capture-pane", "-p", "-e")

    def press(self, *keys: str) -> None:
        self.do("send-keys", *keys)

    async def says(self, pattern: str) -> None:
        try:
            await eventually(lambda: re.search(pattern, self.text), 20)
        except AssertionError:
            raise AssertionError(f"it does not say {pattern!r}:\n{self.text}") from None

    @property
    def over(self) -> bool:
        return self.do("display-message", "-p", "#{pane_dead}").strip() == "1"


@contextmanager
def tmux(folder: Path, *arguments: str, columns: int, lines: int, **settings: str) -> Iterator[Tmux]:
    made = Tmux(folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEM_", "TMUX", "NO_COLOR"))}
    variables = [f"{name}={value}" for name, value in {"TEXTUAL_ANIMATIONS": "none", **settings}.items()]
    command = ["env", *variables, sys.executable, "-m", "stem_tui", *arguments]
    size = ["-x", str(columns), "-y", str(lines)]
    start = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null", "new-session", "-d", *size]
    keep = [";", "set-option", "remain-on-exit", "on"]
    locale = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    subprocess.run([*start, *command, *keep], check=True, cwd=ROOT, env={**kept, **locale}, timeout=20)
    try:
        yield made
    finally:
        made.do("kill-server")


async def enqueued(server: Server, namespace: str, count: int) -> None:
    async with Stem.connect(server.url, namespace=namespace) as stem:
        for _ in range(count):
            await stem.enqueue("mail.send", options=TaskOptions(queue="mail"))


@needs_tmux
@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_in_tmux_it_draws_takes_keys_and_follows_the_size(
    valkey_server: Server, namespace: str, tmp_path: Path
) -> None:
    await enqueued(valkey_server, namespace, 3)
    arguments = ("--url", valkey_server.url, "--namespace", namespace)
    with tmux(tmp_path, *arguments, columns=160, lines=45) as it:
        await it.says(r"mail +\S no worker +3\b")
        assert "● LIVE" in it.text
        assert "\x1b[38;2;" in it.raw or "\x1b[38;5;" in it.raw, "it has colours"

        it.press("2")
        await it.says("QUEUE mail")
        it.press("P")
        await it.says(r"mail +‖ paused")
        it.press("u")
        await it.says(r"mail +\S no worker")

        it.press("4")
        await it.says("RUNNING 0")
        it.press("Right")
        await it.says(r"▸ mail\.send")
        it.press("Down", "Enter")
        await it.says("TASK mail.send")
        it.press("Escape")
        await it.says(r"QUEUED 3")
        it.press("/")
        it.do("send-keys", "-l", "name:nothing")
        await it.says("0 of 3")
        it.press("Escape")
        await it.says(r"▸ mail\.send")

        for columns, lines in ((60, 16), (300, 100), (40, 10), (80, 24)):
            it.do("resize-window", "-x", str(columns), "-y", str(lines))
            await it.says("terminal too small" if columns < 60 else "QUEUED")
            assert max(map(len, it.text.splitlines())) <= columns

        it.press("q")  # one step back
        await it.says("WORKERS")
        it.press("q")
        await eventually(lambda: it.over, 20, what="it has ended")


@needs_tmux
@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_in_tmux_without_colours_and_with_plain_characters(
    valkey_server: Server, namespace: str, tmp_path: Path
) -> None:
    await enqueued(valkey_server, namespace, 1)
    arguments = ("--url", valkey_server.url, "--namespace", namespace, "--ascii")
    with tmux(tmp_path, *arguments, columns=100, lines=30, NO_COLOR="1") as it:
        await it.says(r"mail +\S no worker +1\b")

        assert it.text.isascii()
        assert not re.search(r"\x1b\[[0-9;]*[34][0-8]", re.sub(r"\x1b\[[0-9;]*(39|49)m", "", it.raw)), ascii(it.raw)
        it.press("q")
        await eventually(lambda: it.over, 20, what="it has ended")
