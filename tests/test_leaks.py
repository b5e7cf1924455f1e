"""The check after each test: what it leaves behind, and be it for the collector to find, is blamed on itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks
from tests.servers import Server

ROOT = Path(__file__).resolve().parent.parent
LEAVERS = """
import gc
import signal
import socket

import pytest


class Unclosed:
    def __init__(self):
        self.me = self
        self.socket = socket.socket()


async def left_alone():
    pass


def test_first_closes_what_it_opened():
    with socket.socket():
        pass


def test_second_leaves_a_socket_in_a_cycle():
    Unclosed()


def test_third_is_clean():
    gc.collect()


@pytest.fixture
def opened():
    return Unclosed()


def test_fourth_has_a_fixture_that_leaves_one(opened):
    assert opened.socket.fileno() >= 0


def test_fifth_is_clean():
    gc.unfreeze()
    gc.collect()


def test_sixth_leaves_a_handler_and_a_threshold():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.set_threshold(100_000)


def test_last_leaves_a_coroutine_that_nobody_awaits():
    left = [left_alone()]
    left.append(left)
"""


def test_what_is_left_behind_is_blamed_on_the_test_that_left_it(tmp_path: Path) -> None:
    path = tmp_path / "test_leavers.py"
    path.write_text(LEAVERS)
    line = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    line += ["-p", "tests.conftest", "-p", "no:randomly", "-p", "no:cacheprovider", "-q", str(path)]

    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=25)

    what = r"unclosed <socket|coroutine .* never awaited|the collector's threshold is 100000"
    left = re.findall(rf"ERROR at teardown of (\w+) _+\nleft behind: .*({what})", done.stdout)
    assert left == [
        ("test_second_leaves_a_socket_in_a_cycle", "unclosed <socket"),
        ("test_fourth_has_a_fixture_that_leaves_one", "unclosed <socket"),
        ("test_sixth_leaves_a_handler_and_a_threshold", "the collector's threshold is 100000"),
        ("test_last_leaves_a_coroutine_that_nobody_awaits", "coroutine 'left_alone' was never awaited"),
    ], done.stdout + done.stderr
    assert "the handler of SIGTERM is <Handlers.SIG_IGN: 1>, it was <Handlers.SIG_DFL: 0>" in done.stdout
    assert "7 passed, 4 errors" in done.stdout


@pytest.mark.parametrize("database", [0, 1])
def test_keys_are_cleared_from_every_database(valkey_server: Server, database: int) -> None:
    with valkey_server.client(database=database) as client:
        client.mset({"{t}:task:a": "known", "stranger": "unknown"})

        complaint = leaks.clear_keys(valkey_server, "t")

        assert complaint == "keys of an unknown form were left in t: stranger"
        assert client.dbsize() == 0
    assert leaks.clear_keys(valkey_server, "t") == ""
