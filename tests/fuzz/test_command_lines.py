"""Whatever is typed, and whatever stands on the server: a documented exit code, no traceback, no raw bytes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import unicodedata
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.messages.event import Event, encode_events
from stem.messages.heartbeat import Heartbeat, RunningTask
from stem.worker import cli as worker_cli
from stem.worker import logs
from stem.worker.lifecycle import WEDGED_EXIT
from stemctl import exits
from stemctl.main import MODULES, main
from tests.conftest import OwnServer
from tests.fuzz.corpus import nasty_strings
from tests.fuzz.sizes import TIMEOUT_S, random_for, reported, size
from tests.fuzz.test_keyspace import P, fill, spoil_keys, spoil_member, spoil_record
from tests.fuzz.test_settings import SECRET, URLS, changed
from tests.fuzz.test_stored import Stored
from tests.servers import Server

pytestmark = pytest.mark.timeout(TIMEOUT_S)

CODES: Final = frozenset(
    (
        exits.OK,
        exits.FAILED,
        exits.USAGE,
        exits.NOTHING,
        exits.SILENT,
        exits.REFUSED,
        exits.UNREACHABLE,
        exits.WAITED_OUT,
    )
)
# Those that wait for ever, start something, or run somebody's code.
LEFT_OUT: Final = frozenset(("demo", "worker", "embedded"))
WORDS: Final = (
    *(name for name in MODULES if name not in LEFT_OUT),
    *("ls", "show", "purge", "replay", "discard", "retry", "active", "registered", "queues", "config", "stack"),
    *("--json", "--queue", "--state", "--limit", "--cursor", "--task", "--worker", "--wait", "--timeout", "--for"),
    *("--reason", "--mode", "--priority", "--delay", "--eta", "--id", "--json-args", "--unique-key", "--yes", "--all"),
    *("--help", "--url", "--namespace", "--debug", "--quiet", "-q", "a", "n=1", "1s", "100ms", "5", "queued", "dead"),
)
RAW: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def server(own_server: OwnServer) -> Server:
    return own_server(aof=False)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: Server) -> Cli:
    for name in ("STEM_NAMESPACE", "STEM_SIGNING_KEYS", "STEM_RESULT_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEM_BROKER_URL", server.url)
    monkeypatch.setenv("STEM_CONTROL_TIMEOUT", "30ms")

    def run(*argv: str) -> Ran:
        capsys.readouterr()
        code = main(list(argv))
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def check(ran: Ran, argv: object) -> None:
    """Assert what holds for every end of every command."""
    said = f"{argv!a}: {ran!a}"[:3_000]
    assert ran.code in CODES, said
    assert "Traceback" not in ran.err or "--debug" in str(argv), said
    assert '"internal"' not in ran.out, said
    assert re.search(r"unexpected \w+: ", ran.err) is None, said
    for text in (ran.out, ran.err):
        assert RAW.search(text) is None, said
        assert not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Co") and each != "\n" for each in text), said


def test_any_command_line_ends_with_a_documented_code(cli: Cli) -> None:
    random = random_for("command lines")
    with reported("command lines") as counted:
        for _ in range(size(400)):
            argv = [random.choice(WORDS[: len(MODULES)])] if random.random() < 0.9 else []
            for _ in range(random.randrange(6)):
                argv.append(random.choice(WORDS) if random.random() < 0.6 else random.choice(nasty_strings()))
            if LEFT_OUT & set(argv) or "--follow" in argv or any("embedded" in word.lower() for word in argv):
                continue
            ran = cli(*argv)
            counted.add(ran.code == 0)
            check(ran, argv)
            if "--json" in argv and ran.out and "--help" not in argv and "events" not in argv:
                assert isinstance(json.loads(ran.out), dict), f"{argv!a}: {ran.out[:500]!a}"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\u202eb", "a\nb\x07"])
def test_a_traceback_that_was_asked_for_is_harmless_too(cli: Cli, text: str) -> None:
    ran = cli("health", text, "--debug")

    check(ran, ["--debug"])
    assert "CommandError" in ran.err


def refuse(*_: object, **__: object) -> NoReturn:
    raise socket.gaierror("no such host")


def test_any_url_on_a_command_line_ends_with_a_documented_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    random = random_for("urls on a command line")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with reported("urls on a command line") as counted:
        for text in (*nasty_strings(), *(changed(random, random.choice(URLS)) for _ in range(size(300, 5_000)))):
            # Stem's own server would be started, and what is in memory is another one for each command.
            if text.strip().lower().startswith(("embedded", "memory")) or not text.strip():
                continue
            argv = ["queues", "ls"]
            if random.random() < 0.5 and able(text):
                monkeypatch.setenv("STEM_BROKER_URL", text)
            else:
                argv.append(f"--url={text}")
            ran = cli(*argv)
            counted.add(0)
            check(ran, argv)
            assert ran.code in (exits.USAGE, exits.UNREACHABLE, exits.REFUSED), f"{text!a}: {ran!a}"
            if f":{SECRET}@" in text:
                assert SECRET not in ran.out + ran.err


def able(text: str) -> bool:
    """Say whether an operating system can hand a text over, as an argument or in the environment."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


OPTIONS: Final = tuple(word for word in worker_cli.parser().format_help().split() if word.startswith("--"))


def test_any_command_line_of_a_worker_ends_with_a_documented_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to where it would start to work: what it imports, reads and refuses before."""
    random = random_for("command lines of a worker")

    def in_loop(work: Coroutine[Any, Any, int]) -> int:
        work.close()
        return 0

    monkeypatch.setattr(worker_cli, "_in_loop", in_loop)
    monkeypatch.setattr(logs, "install", lambda **_: None)
    words = (*OPTIONS, "tests.worker.sample:app", "tests.worker.sample:not_an_app", "tests.nothing", "1", "1s", "json")
    with reported("command lines of a worker") as counted:
        for _ in range(size(500)):
            monkeypatch.setenv("STEM_BROKER_URL", "redis://127.0.0.1:1")
            monkeypatch.setenv("STEM_NAMESPACE", "stem")
            argv = ["tests.worker.sample:app"] if random.random() < 0.7 else []
            for _ in range(random.randrange(6)):
                argv.append(random.choice(words) if random.random() < 0.6 else random.choice(nasty_strings()))
            if not all(able(word) for word in argv):
                continue
            try:
                code: object = worker_cli.main(argv)
            except SystemExit as end:
                code = end.code
            said = capsys.readouterr()
            counted.add(code == 0)
            assert code in (0, worker_cli.EXIT_USAGE, worker_cli.EXIT_UNAVAILABLE), f"{argv!a}: {code}"
            assert "Traceback" not in said.err or "--debug" in argv, f"{argv!a}: {said.err!a}"
            for text in (said.out, said.err):
                assert RAW.search(text) is None, f"{argv!a}: {text!a}"


def test_a_traceback_of_an_application_that_does_not_load_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spoilt_app.py").write_text(r"raise RuntimeError('\x1b[2J a\u202eb')", encoding="ascii")
    monkeypatch.syspath_prepend(tmp_path)

    code = worker_cli.main(["spoilt_app:app", "--debug"])
    said = capsys.readouterr().err

    assert code == WEDGED_EXIT
    assert "Traceback" in said
    assert r"RuntimeError: \x1b[2J a\u202eb" in said
    assert RAW.search(said) is None


QUESTIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("queues", "ls"),
    ("queues", "show", "q"),
    *(("tasks", "ls", "--state", state) for state in ("queued", "running", "scheduled", "retrying", "dead", "failed")),
    ("workers", "ls"),
    ("workers", "show", "w1"),
    ("dlq", "ls"),
    ("health",),
    ("ping",),
    ("stats",),
    ("inspect", "active"),
)


def hostile_beat(text: str) -> bytes:
    """Return a heartbeat whose every free text is `text`."""
    task = RunningTask(
        id=text,
        task=text,
        queue=text,
        attempt=2**63,
        token=-1,
        started_at_ms=2**63,
        progress={text: text},
        isolation=text,
    )
    beat = Heartbeat(
        id="w1",
        name="w1",
        started_at_ms=-(2**63),
        host=text,
        pid=2**63,
        version=text,
        queues=(text, "q"),
        paused=(text,),
        digest=text,
        running=(task,),
        in_flight=2**40,
        counters={text: 2**63, "succeeded": -1},
        rss_bytes=2**63,
        loop_age_ms=2**63,
        clock_offset_ms=2**62,
        interval_ms=2**62,
        rtt_ms=1e300,
        cpu_percent=-1e300,
    )
    return beat.encode()


async def prepare(server: Server, stored: Stored) -> tuple[list[str], list[str]]:
    """Fill the server with tasks and spoil them; return their ids and what was done."""
    random = stored.random
    with server.client() as client:
        client.flushdb()
        broker = RedisStreamsBroker(server.url)
        ids = await fill(broker)
        await broker.close()
        done = [spoil_record(client, stored, one) for one in ids]
        done += [spoil_member(client, stored, ids) for _ in range(2)]
        done += [spoil_keys(client, stored) for _ in range(random.choice((0, 1)))]
        text = random.choice(
            [text for text in nasty_strings() if not any("\ud800" <= each <= "\udfff" for each in text)]
        )
        if client.type(f"{P}workers") in ("none", "zset"):
            client.zadd(f"{P}workers", {"w1": int(client.time()[0]) * 1000})
        client.delete(f"{P}worker:w1")
        client.hset(f"{P}worker:w1", mapping={"h": hostile_beat(text), "n": text, "s": "running"})
        event = Event(
            kind=text, at_ms=2**63, worker=text, seq=-1, task_id=text, task=text, queue=text, detail={text: text}
        )
        if client.type(f"{P}events") in ("none", "stream"):
            client.xadd(f"{P}events", {"b": encode_events([event])})
    return ids, done


def test_any_state_of_the_server_is_shown_harmlessly(cli: Cli, server: Server) -> None:
    stored = Stored(random_for("shown"))
    with reported("stemctl on spoilt servers") as counted:
        for _ in range(size(12, 100)):
            ids, done = asyncio.run(prepare(server, stored))
            one = stored.random.choice(ids)
            for words in (*QUESTIONS, ("tasks", "show", one), ("why", one), ("result", one)):
                argv = [*words, *stored.random.choice(((), ("--json",)))]
                ran = cli(*argv)
                counted.add(ran.code == 0)
                check(ran, [argv, done])


def test_the_raw_characters_looked_for_are_those_that_terminals_obey() -> None:
    """The check above is worth what it finds: every control character of the corpus must be one of them."""
    obeyed: list[Any] = [each for text in nasty_strings() for each in text if each in "\x1b\x07\x9b\x9d\u202e\x00\x85"]

    assert len(set(obeyed)) == 7
    assert all(RAW.search(each) for each in obeyed)
