"""audit ls: who asked for what, and what came of it, for people and for scripts."""

from __future__ import annotations

import redis

from stem.contracts import Outcome
from tests.cli.conftest import Cli, Hire
from tests.cli.work import settle
from tests.servers import Server

ROW = {
    *("id", "at_ms", "verb", "actor", "reason", "kind", "option", "targets", "count", "epoch", "command_id", "stored"),
    "outcome",
}


def test_what_was_commanded_is_listed_with_its_outcome(cli: Cli, hire: Hire) -> None:
    """By whom, on what, why, and who confirmed it."""
    hire("web")
    cli("pause", "--queue", "default", "--for", "10m", "--reason", "deploy")
    cli("drain", "web")

    ran = cli("audit", "ls", "--json")
    table = cli("audit", "ls")

    drain, pause = ran.data["items"]
    assert set(drain) == ROW
    assert (ran.data["next"], ran.data["total"]) == (None, 2)
    assert (pause["verb"], pause["kind"], pause["option"], pause["targets"]) == (
        "pause",
        "queue",
        "600000",
        ["default"],
    )
    assert pause["reason"] == "deploy"
    assert "@" in pause["actor"]
    assert (pause["outcome"]["verdict"], pause["outcome"]["applied"]) == ("applied", 1)
    assert drain["outcome"]["counts"] == {"set": 1}
    assert "pause queue for 600 s" in table.out
    assert "applied; 1 set; 1 of 1 workers" in table.out
    assert "deploy" in table.out


def test_what_needs_no_worker_is_listed_too(cli: Cli, valkey_url: str, namespace: str) -> None:
    """Replays, retries and purges, each with how many, and with the reason given."""
    cli("enqueue", "mail.send")
    (dead,) = settle(valkey_url, namespace, Outcome.DEAD)
    cli("dlq", "replay", "--all", "--yes", "--reason", "fixed")
    cli("queues", "purge", "default", "--yes", "--reason", "a test")
    cli("tasks", "retry", dead)
    cli("enqueue", "mail.send")
    settle(valkey_url, namespace, Outcome.DEAD)
    cli("dlq", "purge", "--queue", "default", "--yes")

    discard, retry, purge, replay = cli("audit", "ls", "--json").data["items"]

    assert [one["verb"] for one in (discard, retry, purge, replay)] == ["discard", "retry", "purge", "replay"]
    assert (replay["targets"], replay["option"], replay["reason"]) == ([dead], "--all", "fixed")
    assert replay["outcome"]["counts"] == {"queued": 1}
    assert (purge["kind"], purge["targets"], purge["outcome"]["counts"]) == ("queue", ["default"], {"purged": 1})
    assert (retry["outcome"]["verdict"], retry["outcome"]["items"][0]["outcome"]) == ("failed", "final")
    assert (discard["option"], discard["outcome"]["counts"]) == ("--queue default", {"discarded": 1})


def test_a_dry_run_and_a_question_are_not_listed(cli: Cli, valkey_url: str, namespace: str) -> None:
    cli("enqueue", "mail.send")
    settle(valkey_url, namespace, Outcome.DEAD)
    for argv in (["dlq", "replay", "--all"], ["dlq", "purge", "--all"], ["queues", "purge", "default"]):
        assert cli(*argv, "--dry-run", "--json").code == 0
    cli("ping")

    ran = cli("audit", "ls")

    assert (ran.code, ran.out) == (0, "")
    assert "nothing was commanded yet" in ran.err


def test_rows_can_be_chosen_and_paged(cli: Cli) -> None:
    cli("enqueue", "mail.send")
    for _ in range(2):
        cli("pause", "--queue", "default")
        cli("resume", "--queue", "default")

    first = cli("audit", "ls", "--limit", "3", "--json").data
    rest = cli("audit", "ls", "--cursor", first["next"], "--json").data

    assert [one["verb"] for one in first["items"] + rest["items"]] == ["resume", "pause", "resume", "pause"]
    assert len(cli("audit", "ls", "--verb", "pause", "--target", "def*", "--actor", "*@*", "--json").data["items"]) == 2
    assert cli("audit", "ls", "--actor", "nobody", "--json").data["items"] == []
    assert cli("audit", "ls", "--cursor", "nonsense").code == 2


def test_a_row_whose_sender_died_says_that_nothing_was_told(cli: Cli, valkey_server: Server, namespace: str) -> None:
    """As after a kill -9 between the command and its answers; other odd rows are passed over or shown cleaned."""
    key = f"{{{namespace}}}:audit"
    odd = "\x1b[31mred\u202e [bold]no markup[/]"
    with redis.Redis.from_url(valkey_server.url) as client:
        client.xadd(
            key, {"id": "c-1", "type": "revoke", "actor": odd, "targets": "t-1", "did": "running:1", "epoch": "7"}
        )
        client.xadd(key, {"id": b"\xff\x00", "type": "pause"})
        client.xadd(key, {"nonsense": "x"})
        entry = client.xadd(key, {"id": "c-2", "type": "drain", "n": "many", "epoch": "x"})
        at = int(entry.split(b"-")[0])
        client.zadd(f"{key}:outcomes", {entry + b"\t1\t\xc1 no outcome": at, b"nonsense": at})

    ran = cli("audit", "ls")

    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3
    assert "not told; stored: 1 running" in ran.out
    assert "[bold]no markup[/]" in ran.out
    assert all(character == "\n" or character.isprintable() for character in ran.out)
    assert [one["outcome"] for one in cli("audit", "ls", "--json").data["items"]] == [None, None]
