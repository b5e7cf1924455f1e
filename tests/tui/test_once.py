"""One look without a screen."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Beat, FetchRequest, NewTask
from stem.errors import BrokerRefusedError, BrokerUnreachableError
from stem.messages.envelope import Envelope
from stem_tui import once
from stem_tui.__main__ import main
from stem_tui.app import StemTUI
from stem_tui.theme import Look
from tests.observe.builders import NOW, beat, fleet, seen, snapshot
from tests.waiting import eventually


async def stocked() -> InMemoryBroker:
    broker = InMemoryBroker()
    await broker.presence.beat(Beat(heartbeat=beat()))
    for task_id in ("t-0", "t-1", "t-2"):
        body = Envelope(id=task_id, task="mail.send").encode()
        await broker.enqueue([NewTask(id=task_id, task="mail.send", queue="default", body=body)])
    await broker.exchange("host-1-aa", [], FetchRequest(queues=["default"], count=1))
    return broker


class Gone:
    """A broker that cannot be reached."""

    url, namespace = "redis://h:1/0", "stem"

    @property
    def census(self) -> Any:
        return self

    presence = census

    async def workers(self) -> None:
        raise BrokerUnreachableError("connection refused")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_text_is_as_reviewed(width: int, same_text: Callable[[str, str], None]) -> None:
    lines = once.text(fleet(), NOW, url="redis://h/0", width=width, look=Look("mono"))

    assert max(map(len, lines)) <= width or width == 60
    same_text(f"once-{width}", "\n".join(lines))


@pytest.mark.parametrize("screen", ["queues", "workers", "failures", "tasks"])
def test_one_screen_is_that_part_of_the_whole(screen: str) -> None:
    titles = {"queues": "QUEUES", "workers": "WORKERS", "failures": "FAILURES", "tasks": "LONGEST RUNNING"}
    whole = once.text(fleet(), NOW, url="redis://h/0", width=100, look=Look("mono"))

    lines = once.text(fleet(), NOW, url="redis://h/0", width=100, look=Look("mono"), screen=screen)

    assert lines[0] == whole[0]
    assert set(lines) < set(whole)
    assert [title for title in titles.values() if any(line.startswith(title) for line in lines)] == [titles[screen]]


def test_plain_characters_only_when_asked_for() -> None:
    lines = once.text(fleet(), NOW, url="redis://h/0", width=100, look=Look("mono", ascii=True))

    assert "\n".join(lines).isascii()


async def test_json_says_what_the_broker_holds() -> None:
    out = io.StringIO()

    code = await once.run(await stocked(), format="json", out=out)

    answer = json.loads(out.getvalue())
    assert code == 0
    assert (answer["schema"], answer["ok"]) == ("stem/1", True)
    (queue,) = answer["data"]["queues"]
    assert (queue["name"], queue["ready"], queue["in_flight"]) == ("default", 2, 1)
    assert answer["data"]["totals"] == {"queued": 2, "running": 1, "scheduled": 0, "retrying": 0, "dead": 0}
    assert [worker["name"] for worker in answer["data"]["workers"]] == ["host"]


async def test_jsonl_is_one_line_per_look_and_goes_on_until_it_is_stopped() -> None:
    out = io.StringIO()
    looking = asyncio.create_task(once.run(await stocked(), format="jsonl", watch_s=0.01, out=out))

    await eventually(lambda: out.getvalue().count("\n") >= 3)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)

    assert all(json.loads(line)["ok"] for line in out.getvalue().splitlines())


async def test_a_broker_that_is_not_there_is_exit_69(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    gone: Any = Gone()

    assert await once.run(gone, out=out) == 69
    assert "connection refused" in capsys.readouterr().err
    assert await once.run(gone, format="json", out=out) == 69
    assert json.loads(out.getvalue())["error"]["code"] == "broker-unreachable"


class Refusing(Gone):
    """A server that knows nobody of this name."""

    async def workers(self) -> None:
        raise BrokerRefusedError("the broker at redis://h:1/0 refused: WRONGPASS", code="WRONGPASS")


async def test_a_refusal_is_exit_5_as_of_stemctl(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    refusing: Any = Refusing()

    assert await once.run(refusing, out=out) == 5
    assert "WRONGPASS" in capsys.readouterr().err
    assert await once.run(refusing, format="json", out=out) == 5
    assert json.loads(out.getvalue())["error"]["code"] == "refused"


async def test_what_the_server_does_not_show_is_said_and_no_check_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, out = InMemoryBroker(), io.StringIO()

    async def refuse(*_: object, **__: object) -> None:
        raise BrokerRefusedError("NOPERM \x1b[2J", code="NOPERM")

    for part in ("pauses", "minutes"):
        monkeypatch.setattr(broker.census, part, refuse)

    assert await once.run(broker, out=out) == 0
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("! ")] == [
        f"! the server does not show {part}: NOPERM \\x1b[2J" for part in ("pauses", "statistics")
    ]
    assert await once.run(broker, out=io.StringIO(), check=True) == 1


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run stem-tui with redirections."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{shlex.quote(sys.executable)} -m stem_tui {line}"],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize("to", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_closed_stream_that_is_not_needed_harms_nothing(to: str) -> None:
    ran = shell(f"--url memory://x --once {to}")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "QUEUES 0" in ran.stdout


@pytest.mark.parametrize("to", [">&-", ">/dev/full", "<&- >&-"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_look_that_cannot_be_written_is_one_line_and_exit_1(to: str, form: str) -> None:
    ran = shell(f"--url memory://x --once --format {form} {to}")

    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert ran.stderr.startswith("stem-tui: cannot write the look: ")


@pytest.mark.parametrize("option", ["", "--watch 0.1"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(option: str) -> None:
    ran = shell(f"--url memory://x --once {option} | true")

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_encoding_lacks_are_replaced(encoding: str) -> None:
    ran = shell("--url memory://x --once", PYTHONIOENCODING=encoding)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.isascii()


def test_an_embedded_server_that_does_not_start_is_exit_69(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokerUnreachableError("the embedded server ended at once")

    monkeypatch.setattr("stem_tui.__main__._connect", broken)

    assert main(["--once"]) == 69
    assert capsys.readouterr().err == "stem-tui: the embedded server ended at once\n"


async def test_check_is_exit_1_when_something_is_wrong() -> None:
    broker = InMemoryBroker()
    await broker.enqueue([NewTask(id="t", task="a", queue="q", body=Envelope(id="t", task="a").encode())])

    assert await once.run(broker, out=io.StringIO(), check=True) == 1
    assert await once.run(broker, out=io.StringIO()) == 0


def test_problems_are_named() -> None:
    made = fleet()
    made.queues["default"].consumers = 0
    made.apply(snapshot(workers=[seen("a-1-x", loop_age_ms=9_000), seen("b-1-x", age_ms=60_000)]), 2_000.0)

    found = once.problems(made)

    assert found == [
        "worker a is wedged",
        "worker b is lost",
        "queue default has 12,402 tasks ready and no worker",
        "queue reports has 880 tasks ready and no worker",
    ]


def test_it_does_not_import_textual() -> None:
    program = (
        "import sys; from stem_tui.__main__ import main; code = main(['--url', 'memory://', '--once']);"
        "print(code, 'textual' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.splitlines()[-1] == "0 False"


def test_without_a_terminal_it_prints_one_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "memory://once-plain"]) == 0

    captured = capsys.readouterr()
    assert "QUEUES" in captured.out
    assert "--once" in captured.err


@pytest.mark.parametrize("url", ["nosuch://x", "redis://h:99999", "postgresql://h/db", "\x1b[2J"])
def test_a_url_that_cannot_be_is_exit_2_and_one_clean_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", url, "--once"]) == 2

    error = capsys.readouterr().err
    assert error.startswith("stem-tui: ")
    assert error.count("\n") == 1
    assert error[:-1].isprintable()


def test_no_url_and_nobody_at_a_terminal_is_exit_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEM_BROKER_URL", raising=False)

    assert main(["--once"]) == 2
    assert "STEM_BROKER_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("STEM_TUI_THEME", "pink"), ("STEM_TUI_THEME", "\x1b[2J"), ("STEM_TUI_PRODUCTION", "perhaps")]
)
def test_a_setting_that_cannot_be_is_exit_2_and_names_it(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert main(["--url", "memory://x", "--once"]) == 2

    error = capsys.readouterr().err
    assert error.startswith(f"stem-tui: {name}=")
    assert error[:-1].isprintable()


def test_workers_are_waited_for_as_long_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def run(self: StemTUI, **_: object) -> int:
        assert self.acting._office is not None
        waited.append(self.acting._office.controller._timeout_s)
        return 0

    monkeypatch.setattr(StemTUI, "run_async", run)
    monkeypatch.setattr("stem_tui.__main__.end_with_terminal", lambda: None)
    monkeypatch.setattr("stem_tui.__main__.end_when_told", lambda end: None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("STEM_CONTROL_TIMEOUT", "12s")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)

    assert main(["--url", "memory://x"]) == 0
    assert waited == [12.0]


@pytest.mark.parametrize("arguments", [["--watch", "0"], ["--watch", "x"], ["--hz", "99"], ["--format", "xml"]])
def test_bad_options_are_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage: stem-tui" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--url", "--namespace"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_option_is_not_taken_for_the_default(
    option: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose variable is empty would show another fleet than was meant."""
    monkeypatch.setenv("STEM_BROKER_URL", "memory://x")

    assert main([option, value, "--once"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"stem-tui: {option} is empty: leave it out for the default\n")
