"""ping, inspect, stats, workers: data on stdout, talk on stderr, and exit codes that tell a script enough."""

from __future__ import annotations

import re
import time

from tests.cli.conftest import Cli, Hire
from tests.cli.hands import answers_none
from tests.waiting import wait_until


def test_ping_prints_who_answered(cli: Cli, hire: Hire) -> None:
    hire("web")
    hire("mail")

    ran = cli("ping")

    assert ran.code == 0
    assert sorted(line.split()[0] for line in ran.out.splitlines()[1:]) == ["mail", "web"]
    assert "2 of 2 answered" in ran.err


def test_ping_as_json_has_the_documented_fields(cli: Cli, hire: Hire) -> None:
    hire("web")

    ran = cli("ping", "--json")

    assert set(ran.json) == {"schema", "command", "ok", "data", "warnings"}
    assert (ran.json["schema"], ran.json["command"], ran.json["ok"]) == ("stem/1", "ping", True)
    assert set(ran.data) == {"expected", "replied", "silent", "elapsed_ms", "workers"}
    assert (ran.data["expected"], ran.data["replied"], ran.data["silent"]) == (1, 1, [])
    assert set(ran.data["workers"][0]) == {"id", "name", "rtt_ms", "diagnosis", "error"}


def test_ping_with_nobody_there_ends_at_once_with_3(cli: Cli) -> None:
    started = time.monotonic()

    ran = cli("ping", "--json", "--timeout", "25s")

    assert ran.code == 3
    assert ran.json["ok"] is False
    assert (ran.data["expected"], ran.json["error"]["code"]) == (0, "no-worker")
    assert time.monotonic() - started < 10


def test_a_deaf_worker_is_named_and_the_exit_code_is_4(cli: Cli, hire: Hire) -> None:
    hire("web")
    hire("mute", answer=answers_none)

    ran = cli("ping", "--timeout", "1s", "--json")

    assert ran.code == 4
    (silent,) = ran.data["silent"]
    assert set(silent) == {"id", "name", "diagnosis", "last_heartbeat_ms"}
    assert (silent["id"], silent["name"], silent["diagnosis"]) == ("mute-1", "mute", "deaf")
    assert abs(silent["last_heartbeat_ms"] - time.time() * 1000) < 60_000


def test_a_worker_that_vanished_is_still_named(cli: Cli, hire: Hire) -> None:
    hire("web")
    hire("gone", interval_ms=10).vanish()
    wait_until(lambda: "lost" in cli("workers", "ls").out)

    ran = cli("ping", "--json")

    assert ran.code == 4
    assert [(silent["name"], silent["diagnosis"]) for silent in ran.data["silent"]] == [("gone", "lost")]
    assert (ran.data["expected"], ran.data["replied"]) == (1, 1)


def test_an_unknown_worker_beside_a_known_one_is_not_passed_over(cli: Cli, hire: Hire) -> None:
    hire("web")

    ran = cli("ping", "web", "ghost")

    assert ran.code == 3
    assert "there is no worker ghost" in ran.err
    assert "web" in ran.out


def test_options_count_before_and_after_the_command(cli: Cli, hire: Hire) -> None:
    hire("web")

    assert cli("--json", "workers", "ls").json["command"] == "workers ls"
    assert cli("workers", "--json", "ls").json["command"] == "workers ls"
    assert cli("workers", "ls", "--json").json["command"] == "workers ls"


def test_quiet_keeps_stderr_empty(cli: Cli, hire: Hire) -> None:
    hire("web")

    assert cli("ping", "--quiet").err == ""


def test_inspect_shows_what_each_worker_said(cli: Cli, hire: Hire) -> None:
    hire("web")

    ran = cli("inspect", "registered", "--json")

    assert ran.code == 0
    assert ran.data["what"] == "registered"
    assert ran.data["workers"][0]["data"]["items"][0]["name"] == "mail.send"
    assert "mail.send" in cli("inspect", "registered").out


def test_a_worker_that_does_not_know_the_question_is_a_failure(cli: Cli, hire: Hire) -> None:
    hire("old", answer=lambda command: [("refused", {"message": "this worker runs Stem 0.0.9"})])

    ran = cli("stats", "--json")

    assert (ran.code, ran.data["failed"]) == (1, 1)
    assert ran.data["workers"][0]["error"] == {"code": "unsupported", "message": "this worker runs Stem 0.0.9"}


def test_stats_prints_counters(cli: Cli, hire: Hire) -> None:
    hire("web")

    assert "succeeded: 3" in cli("stats").out


def test_workers_ls_is_the_heartbeat_with_a_diagnosis(cli: Cli, hire: Hire) -> None:
    hire("web", in_flight=4)
    hire("slow", loop_age_ms=9_000)

    ran = cli("workers", "ls", "--json")

    assert set(ran.data) == {"items", "next", "total"}
    assert [(item["name"], item["diagnosis"]) for item in ran.data["items"]] == [("slow", "wedged"), ("web", "busy")]
    assert {"id", "queues", "concurrency", "in_flight", "counters", "epoch", "age_ms"} <= set(ran.data["items"][0])
    assert "wedged" in cli("workers", "ls").out


def test_slots_that_no_task_gets_any_more_are_counted_as_lost(cli: Cli, hire: Hire) -> None:
    """A worker with nothing in flight and nothing free would look idle, and be called busy."""
    hire("web", in_flight=0, zombie_threads=4)
    hire("mail", in_flight=2)

    ran = cli("workers", "ls")

    assert re.search(r"web +busy +0/4, 4 lost ", ran.out)
    assert re.search(r"mail +healthy +2/4 ", ran.out)
    assert re.search(r"slots lost +4, to handlers past their time limit", cli("workers", "show", "web").out)
    assert re.search(r"slots lost +-\n", cli("workers", "show", "mail").out)


def test_workers_show_takes_a_name_or_an_id(cli: Cli, hire: Hire) -> None:
    hire("web")

    assert cli("workers", "show", "web", "--json").data["id"] == "web-1"
    assert cli("workers", "show", "web-1", "--json").data["name"] == "web"
    assert cli("workers", "show", "ghost").code == 3


def test_workers_that_said_goodbye_are_listed_only_when_asked_for(cli: Cli, hire: Hire) -> None:
    hire("web").leave()

    assert cli("workers", "ls", "--json").data["items"] == []
    assert [item["diagnosis"] for item in cli("workers", "ls", "--all", "--json").data["items"]] == ["stopped"]
