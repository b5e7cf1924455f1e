"""The supervisor with small programs in the place of workers: who is started again, when, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from stem.errors import ConfigError
from stem.worker import cli
from stem.worker.supervisor import commands_of
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
RUN: Final = """
import ctypes, logging, os, sys
logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")
if sys.platform == "linux":  # orphans come to this process, as they do to process 1 of a container
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
from stem.worker import supervisor
supervisor.LAST_WORDS_S = 3.0
supervisor.LIVED_S = float(os.environ.get("LIVED_S", supervisor.LIVED_S))
supervisor.BEGUN_S = float(os.environ.get("BEGUN_S", supervisor.BEGUN_S))
sys.exit(supervisor.Supervisor([[sys.executable, "-c", program] for program in sys.argv[1:]]).run())
"""
NOTE: Final = "import os, sys, time, signal\nprint(os.getpid(), flush=True)\n"
WAITS: Final = NOTE + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\ntime.sleep(60)"


@contextmanager
def supervised(tmp_path: Path, *programs: str, **extra: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a supervisor; what its children print, and it logs, goes to a file."""
    path = tmp_path / "said"
    with path.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *programs],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=ROOT,
            env={**os.environ, **extra},
        )
    try:
        yield process, path
    finally:
        process.kill()
        process.wait()
        for pid in pids(path):  # these programs know of no pipe
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines() if line.isdecimal()]


def test_a_process_that_dies_is_started_again_ever_later_and_the_others_live_on(tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS, NOTE + "os.kill(os.getpid(), 9)") as (process, path):
        began = time.monotonic()
        wait_until(lambda: path.read_text().count("supervisor.process_died") == 4, what="it has died four times")
        took_s = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

    assert took_s >= 0.2 + 0.4 + 0.8
    assert len(pids(path)) == 5 + (len(pids(path)) > 5)
    assert path.read_text().count("supervisor.process_started") == len(pids(path))


@pytest.mark.parametrize("code", [2, 78])
def test_what_a_new_start_cannot_mend_ends_all(tmp_path: Path, code: int) -> None:
    # Not before the other one has begun: else that would not be counted.
    both = f"while sum(map(str.isdecimal, open({str(tmp_path / 'said')!r}).read().split())) < 2: time.sleep(0.01)\n"
    with supervised(tmp_path, WAITS, NOTE + both + f"sys.exit({code})") as (process, path):
        assert process.wait(10) == code

    assert len(pids(path)) == 2


def test_a_start_that_fails_where_one_has_lived_before_costs_the_others_nothing(tmp_path: Path) -> None:
    """What the start needs may be away for a moment, or be replaced: the others were stopped, and all was down."""
    began = str(tmp_path / "began")
    program = f"""
with open({began!r}, "a") as note: note.write("x")
turn = len(open({began!r}).read())
if turn == 1: time.sleep(0.3); os.kill(os.getpid(), 9)
if turn == 2: sys.exit(2)
"""
    with supervised(tmp_path, WAITS, NOTE + program + WAITS, LIVED_S="0.3") as (process, path):
        wait_until(lambda: path.read_text().count("supervisor.process_started") == 4, what="it is tried once more")
        wait_until(lambda: len(set(pids(path))) == 4, what="it is there")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

    assert path.read_text().count("supervisor.process_died") == 2
    assert "supervisor.process_failed" not in path.read_text()


def test_who_was_told_to_stop_is_not_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, NOTE, NOTE + "sys.exit(1)", BEGUN_S="0") as (process, path):
        assert process.wait(10) == 1

    assert len(pids(path)) == 2


def test_a_python_that_cannot_begin_is_started_again(tmp_path: Path) -> None:
    """It ends with 1, as who was told to stop and left tasks does: modules are missing while a package is replaced."""
    with supervised(tmp_path, NOTE + "raise ImportError('not there for the moment')") as (process, path):
        wait_until(lambda: len(set(pids(path))) >= 2, what="it is started again")
        process.send_signal(signal.SIGTERM)
        process.wait(10)

    assert "supervisor.process_died" in path.read_text()


def test_signals_are_passed_on_once_and_the_third_kills_in_the_end(tmp_path: Path) -> None:
    deaf = (
        NOTE
        + "def heard(number, _): print('got', int(number), flush=True)\n"
        + "for one in (2, 3, signal.SIGUSR1, 15): signal.signal(one, heard)\n"
        + "print('up', flush=True)\nwhile True: time.sleep(1)"
    )
    with supervised(tmp_path, deaf) as (process, path):
        wait_until(lambda: "up" in path.read_text().splitlines(), what="it is up")
        (pid,) = pids(path)
        assert os.getpgid(pid) == pid, "Ctrl-C of a terminal must not reach it directly"
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            before = path.read_text().count("got")
            process.send_signal(number)
            wait_until(lambda before=before: path.read_text().count("got") > before, what="it was passed on")  # type: ignore[misc]
        assert [line for line in path.read_text().splitlines() if line.startswith("got")] == [
            f"got {signal.SIGUSR1:d}",
            "got 15",
            "got 15",
            "got 2",
        ]
        assert process.wait(20) == 1, "killed: what it held is left to its lease"
        assert "supervisor.process_killed" in path.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_who_has_not_begun_when_it_is_told_to_stop_has_left_nothing(tmp_path: Path, number: int) -> None:
    """A worker listens from its first lines on; a stop in the moment before it ended with 1, as if tasks were left."""
    with supervised(tmp_path, NOTE + "time.sleep(60)") as (process, path):
        wait_until(lambda: pids(path), what="it is there")
        process.send_signal(number)
        assert process.wait(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux do orphans come to anybody but process 1")
def test_orphans_are_reaped(tmp_path: Path) -> None:
    """As process 1 it inherits what its children's children leave behind."""
    leaves_orphans = NOTE + "\nfor _ in range(5):\n    if os.fork() == 0: time.sleep(0.2); os._exit(0)\ntime.sleep(60)"
    with supervised(tmp_path, leaves_orphans) as (process, path):
        wait_until(lambda: pids(path), what="it has begun")
        os.kill(pids(path)[0], signal.SIGKILL)
        wait_until(lambda: len(pids(path)) >= 2, what="it was started again")
        time.sleep(0.5)

        def zombies() -> list[str]:
            found = []
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = stat.read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[0] == "Z" and int(fields[1]) == process.pid:
                    found.append(stat.parent.name)
            return found

        wait_until(lambda: not zombies(), what="nobody is left unburied")


def test_every_worker_has_a_name_and_a_port_of_its_own() -> None:
    first, second = commands_of(["m:app", "--processes", "2"], 2, name="web", health_port=9000)

    assert first[1:] == [
        *("-m", "stem.worker.cli", "m:app", "--processes", "2"),
        *("--processes", "1", "--name", "web-1", "--health-port", "9000"),
    ]
    assert second[-3:] == ["web-2", "--health-port", "9001"]


def test_an_application_behind_two_dashes_is_the_last_word_of_every_worker() -> None:
    """What was given to each stood behind them, as a second application: all ended with 2."""
    (command,) = commands_of(["-c", "3", "--", "m:app"], 1, name="web", health_port=9000)

    args = cli.parser().parse_args(command[3:])

    assert (args.app, args.concurrency, args.processes, args.name, args.health_port) == ("m:app", 3, 1, "web-1", 9000)


@pytest.mark.parametrize("count", [0, 513])
def test_a_number_that_cannot_be_meant_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="1 to 512"):
        commands_of(["app"], count, name="w")
