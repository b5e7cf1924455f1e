"""revoke, pause, resume, drain, undrain, shutdown: what is stored, who confirmed it, and how that is told."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli, Hire
from tests.cli.hands import answers_none

FIELDS = {"epoch", "expected", "applied", "failed", "silent", "items", "elapsed_ms", "dry_run"}
ITEM = {"target", "worker", "stage", "changed", "outcome", "error"}


def enqueue(cli: Cli, *argv: str) -> str:
    ran = cli("enqueue", "mail.send", *argv, "--quiet")
    assert ran.code == 0, ran.err
    return ran.out.strip()


def test_a_pause_is_confirmed_and_shown_with_its_reason(cli: Cli, hire: Hire) -> None:
    hire("web")

    ran = cli("pause", "--queue", "default", "--for", "10m", "--reason", "deploy", "--json")

    assert ran.code == 0
    assert set(ran.data) == FIELDS
    assert set(ran.data["items"][0]) == ITEM
    assert (ran.data["expected"], ran.data["applied"], ran.data["failed"]) == (1, 1, 0)
    assert ran.data["items"][0]["changed"] is True


def test_pausing_a_paused_queue_is_a_success_without_a_change(cli: Cli, hire: Hire) -> None:
    hire("web")

    codes = [cli("pause", "--queue", "default", "--json") for _ in range(2)]

    assert [(ran.code, ran.data["items"][0]["changed"]) for ran in codes] == [(0, True), (0, False)]


def test_resuming_ends_the_pause(cli: Cli, hire: Hire) -> None:
    hire("web")
    enqueue(cli)
    cli("pause", "--queue", "default", "--reason", "deploy")
    assert cli("queues", "show", "default", "--json").data["pause"]["reason"] == "deploy"

    ran = cli("resume", "--queue", "default")

    assert ran.code == 0
    assert cli("queues", "show", "default", "--json").data["paused"] is False


def test_a_queue_that_nobody_knows_cannot_be_paused_by_a_slip(cli: Cli) -> None:
    ran = cli("pause", "--queue", "defualt")

    assert ran.code == 3
    assert ran.out == ""
    assert cli("queues", "ls", "--json").data["items"] == []


def test_a_task_name_that_nobody_registers_is_paused_with_a_warning(cli: Cli, hire: Hire) -> None:
    hire("web")

    slip, known = cli("pause", "--task", "mail.sned", "--json"), cli("pause", "--task", "mail.send", "--json")

    assert (slip.code, slip.json["warnings"]) == (0, ["no live worker registers task mail.sned: is it spelt so?"])
    assert "warning: no live worker registers task mail.sned" in slip.err
    assert (known.code, known.json["warnings"]) == (0, [])


@pytest.mark.parametrize("argv", [[], ["--queue", "a", "--task", "b"], ["--queue", "a", "--worker", "b"]])
def test_a_pause_needs_exactly_one_kind_of_target(cli: Cli, argv: list[str]) -> None:
    assert cli("pause", *argv).code == 2


def test_a_deaf_worker_leaves_the_pause_stored_and_the_exit_code_4(cli: Cli, hire: Hire) -> None:
    hire("mute", answer=answers_none)

    ran = cli("pause", "--queue", "default", "--timeout", "500ms", "--json")

    assert ran.code == 4
    assert [silent["diagnosis"] for silent in ran.data["silent"]] == ["deaf"]
    assert ran.data["items"][0]["stage"] == "accepted"


def test_a_waiting_task_is_revoked_with_no_worker_online(cli: Cli) -> None:
    task_id = enqueue(cli)

    ran = cli("revoke", task_id, "--json")

    assert (ran.code, ran.data["items"][0]["outcome"], ran.data["items"][0]["stage"]) == (0, "revoked", "effect")
    assert cli("tasks", "show", task_id, "--json").data["state"] == "revoked"
    assert cli("revoke", task_id, "--json").data["items"][0]["changed"] is False


def test_revoking_an_unknown_id_is_stored_warned_about_and_ends_with_3(cli: Cli) -> None:
    ran = cli("revoke", "nosuch", "--json")

    assert (ran.code, ran.data["items"][0]["outcome"]) == (3, "stored")
    assert len(ran.json["warnings"]) == 1
    assert "warning: nosuch" in ran.err


def test_the_effect_was_not_reached_in_time_ends_with_124(cli: Cli, hire: Hire) -> None:
    hire("web", answer=lambda command: [("applied", {})])

    ran = cli("drain", "web", "--wait", "300ms", "--json")

    assert (ran.code, ran.json["error"]["code"]) == (124, "wait-ran-out")
    assert ran.data["items"][0]["stage"] == "applied"


def test_a_drained_worker_is_named_and_confirmed(cli: Cli, hire: Hire) -> None:
    worker = hire("web")

    ran = cli("drain", "web", "--wait", "5s", "--json")

    assert (ran.code, ran.data["items"][0]["stage"], ran.data["items"][0]["worker"]) == (0, "effect", worker.id)
    assert cli("undrain", "web").code == 0
    assert [command.type for command in worker.heard] == ["drain", "undrain"]


def test_stopping_everybody_without_a_terminal_needs_yes(cli: Cli, hire: Hire) -> None:
    worker = hire("web")

    ran = cli("shutdown", "--json")

    assert (ran.code, ran.json["error"]["code"]) == (5, "needs-yes")
    assert "stop all 1 workers" in ran.json["error"]["message"]
    assert worker.heard == []


def test_everybody_by_a_glob_is_everybody(cli: Cli, hire: Hire) -> None:
    hire("web")

    assert cli("shutdown", "w*").code == 5


def test_one_of_several_is_stopped_without_asking(cli: Cli, hire: Hire) -> None:
    hire("web")
    hire("mail")

    ran = cli("shutdown", "mail", "--wait", "5s", "--json")

    assert (ran.code, ran.data["items"][0]["stage"]) == (0, "effect")
    assert [worker["name"] for worker in cli("workers", "ls", "--json").data["items"]] == ["web"]


def test_stopping_everybody_with_yes_waits_for_the_goodbyes(cli: Cli, hire: Hire) -> None:
    hire("web")
    hire("mail")

    ran = cli("shutdown", "--yes", "--wait", "5s", "--mode", "soft", "--json")

    assert (ran.code, ran.data["expected"], ran.data["applied"]) == (0, 2, 2)


def test_an_unknown_worker_cannot_be_steered(cli: Cli) -> None:
    assert [cli(verb, "ghost", "--yes").code for verb in ("drain", "undrain", "shutdown")] == [3, 3, 3]
    assert cli("pause", "--worker", "ghost").code == 3


@pytest.mark.parametrize(
    "argv",
    [
        ["pause", "--queue", "default"],
        ["resume", "--queue", "default"],
        ["pause", "--task", "mail.send"],
        ["pause", "--worker", "web"],
        ["drain", "web"],
        ["undrain", "web"],
        ["shutdown"],
    ],
)
def test_a_dry_run_tells_what_would_happen_and_sends_nothing(cli: Cli, hire: Hire, argv: list[str]) -> None:
    worker = hire("web")

    ran = cli(*argv, "--dry-run", "--json")

    assert (ran.code, ran.data["dry_run"], ran.data["expected"]) == (0, True, 1)
    assert worker.heard == []


def test_a_dry_run_of_a_revoke_leaves_the_task_alone(cli: Cli) -> None:
    task_id = enqueue(cli)

    assert cli("revoke", task_id, "--dry-run", "--json").data["items"][0]["outcome"] == "revoked"
    assert cli("tasks", "show", task_id, "--json").data["state"] == "queued"
