"""Whatever is typed wrong or has gone wrong: one clear line on stderr, the right exit code, no traceback, no secret."""

from __future__ import annotations

import asyncio

import pytest

from stem.adapters.connect import connect_broker
from tests.cli.conftest import Cli, OwnServer
from tests.servers import free_port

HOSTILE = ["\x1b[31mred", "a\u202eb", "a\nb", "\x00", "a" * 300, "[bold]x[/bold]", "ä", "", " ", "x;y", "\udc80"]


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and text[:-1].isprintable()


@pytest.mark.parametrize(
    "argv",
    [
        ["ping", "--timeout", "5"],
        ["ping", "--timeout", ""],
        ["queues", "ls", "--namespace", ""],
        ["queues", "--namespace", " ", "ls"],
        ["--url", "", "queues", "ls"],
        ["ping", "--timeout", "-5s"],
        ["ping", "--timeout", "99999999999999d"],
        ["pause", "--queue", "q", "--for", "soon"],
        ["revoke", "x", "--wait", "1 week"],
        ["shutdown", "--mode", "brutal"],
        ["tasks", "ls", "--state", "sleeping"],
        ["tasks", "ls", "--limit", "0"],
        ["tasks", "ls", "--limit", "many"],
        ["tasks", "ls", "--cursor", "x"],
        ["tasks", "ls", "--state", "queued", "--cursor", "\x1b[31m not a cursor"],
        ["tasks", "show"],
        ["inspect", "everything"],
        ["enqueue"],
        ["enqueue", "mail.send", "novalue"],
        ["enqueue", "mail.send", "=3"],
        ["enqueue", "mail.send", "n=1", "n=2"],
        ["enqueue", "mail.send", "--json-args", "{"],
        ["enqueue", "mail.send", "--json-args", "[1]"],
        ["enqueue", "mail.send", "--json-args", "[" * 100_000],
        ["enqueue", "mail.send", "--json-args", '{"n": NaN}'],
        ["enqueue", "mail.send", "n=123456789012345678901234567890"],
        ["enqueue", "mail.send", "deep=" + "[" * 40 + "]" * 40],
        ["enqueue", "mail.send", "big=" + "x" * 1_100_000],
        ["enqueue", "mail.send", "--priority", "10"],
        ["enqueue", "mail.send", "--eta", "tomorrow"],
        ["enqueue", "mail.send", "--delay", "1s", "--eta", "2030-01-01T00:00:00Z"],
        ["enqueue", "mail.send", "--unique-key", "a b"],
        ["nosuch"],
        ["ping", "--nosuch"],
        ["workers"],
        ["events", "--for", "1s"],
        ["acl", "print", "--user", "nosuch"],
    ],
    ids=lambda argv: " ".join(argv)[:60].encode("ascii", "backslashreplace").decode().replace("\x1b", "ESC"),
)
def test_wrong_usage_ends_with_2_and_one_line(cli: Cli, argv: list[str]) -> None:
    ran = cli(*argv)

    assert ran.code == 2, ran.err
    assert one_line(ran.err), ran.err
    assert ran.out == ""
    assert cli("queues", "ls", "--json").data["items"] == []


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "argv",
    [
        ["ping"],
        ["workers", "show"],
        ["queues", "show"],
        ["queues", "purge", "--yes"],
        ["tasks", "show"],
        ["tasks", "retry"],
        ["why"],
        ["dlq", "replay"],
        ["dlq", "ls", "--queue"],
        ["revoke"],
        ["drain"],
        ["enqueue"],
        ["enqueue", "mail.send", "--queue"],
        ["enqueue", "mail.send", "--id"],
        ["result"],
        ["pause", "--queue"],
        ["pause", "--task"],
        ["pause", "--worker"],
        ["ping", "--namespace"],
    ],
    ids=" ".join,
)
def test_a_hostile_name_is_refused_and_shown_harmlessly(cli: Cli, argv: list[str], text: str) -> None:
    ran = cli(*argv, text)

    assert ran.code in (2, 3), (ran.code, ran.err)
    assert one_line(ran.err), ran.err
    assert cli("queues", "ls", "--json").data["items"] == []


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://host",
        "redis://",
        "redis://host:port",
        "redis://host:99999",
        "redis://user:geheim@host:port/0",
        "redis://:geheim@host/notanumber",
        "postgresql://user:geheim@host/db",
        "redis+sentinel://user:geheim@host",
        "unix://",
        "redis://user:geheim@ho st",
        "redis://user:ge\x1b[31mheim@host/\n",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
def test_a_malformed_url_ends_with_2_and_shows_no_secret(offline: Cli, url: str, json_: list[str]) -> None:
    ran = offline("ping", "--url", url, *json_)

    assert ran.code in (2, 69), ran.err
    assert ran.code == 2 or url == "redis://", ran.err
    assert one_line(ran.err), ran.err
    assert "geheim" not in ran.err + ran.out
    assert not json_ or ran.json["ok"] is False


def test_no_url_and_no_terminal_says_what_to_set(offline: Cli) -> None:
    ran = offline("ping", "--json")

    assert (ran.code, ran.json["error"]["code"]) == (2, "config")
    assert "STEM_BROKER_URL" in ran.err


@pytest.mark.parametrize(
    "argv", [["ping"], ["health"], ["queues", "ls"], ["enqueue", "a"], ["revoke", "x"], ["events", "--follow"]]
)
def test_a_server_that_is_down_ends_with_69(offline: Cli, argv: list[str]) -> None:
    ran = offline(*argv, "--url", f"redis://:geheim@127.0.0.1:{free_port()}", "--json")

    assert (ran.code, ran.json["error"]["code"]) == (69, "broker-unreachable")
    assert one_line(ran.err)
    assert "geheim" not in ran.err + ran.out


def test_a_wrong_password_is_named_and_not_shown(offline: Cli, own_server: OwnServer) -> None:
    server = own_server(aof=False, tcp=True)
    server.command("CONFIG", "SET", "requirepass", "richtig")

    wrong = offline("ping", "--url", server.tcp_url.replace("//", "//:geheim@"))
    none = offline("ping", "--url", server.tcp_url)
    right = offline("ping", "--url", server.tcp_url.replace("//", "//:richtig@"))

    assert (wrong.code, none.code, right.code) == (5, 5, 3)
    assert "geheim" not in wrong.err
    assert one_line(wrong.err)
    assert "the user name or password in the URL is wrong" in wrong.err
    assert "the server wants a password" in none.err


def test_debug_shows_the_traceback_without_the_secret(offline: Cli) -> None:
    ran = offline("ping", "--url", f"redis://:geheim@127.0.0.1:{free_port()}", "--debug")

    assert "Traceback" in ran.err
    assert "geheim" not in ran.err


def test_a_setting_that_does_not_parse_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_CONTROL_TIMEOUT", "5 seconds")

    ran = cli("ping")

    assert ran.code == 2
    assert "STEM_CONTROL_TIMEOUT" in ran.err


def test_a_full_queue_is_a_refusal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_MAX_QUEUE_LENGTH", "1")

    assert [cli("enqueue", "a").code, cli("enqueue", "a").code] == [0, 5]


def test_a_task_that_another_program_wrote_badly_is_shown_all_the_same(
    cli: Cli, valkey_url: str, namespace: str
) -> None:
    from stem.contracts import NewTask

    async def enqueue() -> None:
        broker = connect_broker(valkey_url, namespace=namespace)
        await broker.enqueue([NewTask(id="bad", task="mail.send", queue="default", body=b"\xff\x00not a body")])
        await broker.close()

    asyncio.run(enqueue())

    ran = cli("tasks", "show", "bad", "--json")

    assert ran.code == 0
    assert "error" in ran.data["envelope"]
    assert cli("tasks", "show", "bad").code == 0
