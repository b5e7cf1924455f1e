"""The stemctl command that does the same: exact, quoted, and none where a name could be anything."""

from __future__ import annotations

import asyncio
import shlex

import pytest

from stem.config import StemConfig
from stem_tui.__main__ import _connect
from stem_tui.actions import ACTIONS, BY_ID
from stem_tui.commands import MOST_IDS, Where, command, look

WHERE = Where("redis://10.0.3.7:6379/0", "prod")
HEAD = "stemctl --url redis://10.0.3.7:6379/0 --namespace prod "


@pytest.mark.parametrize(
    ("action", "targets", "more", "expected"),
    [
        ("queue.pause", ["mail", "etl"], {"way": "pause"}, "pause --queue mail --queue etl"),
        ("queue.pause_for", ["mail"], {"way": "pause", "for_s": 600.0}, "pause --queue mail --for 10m"),
        ("queue.pause", ["mail"], {"way": "resume"}, "resume --queue mail"),
        ("worker.pause", ["w-1"], {"way": "pause"}, "pause --worker w-1"),
        ("task.pause", ["mail.send"], {"way": "pause"}, "pause --task mail.send"),
        ("failure.pause", ["mail:send/x"], {"way": "pause"}, "pause --task mail:send/x"),
        ("worker.drain", ["w-1", "w-2"], {"way": "drain"}, "drain w-1 w-2"),
        ("worker.drain", ["w-1"], {"way": "undrain"}, "undrain w-1"),
        ("worker.stop", ["w-1"], {}, "shutdown --mode warm w-1"),
        ("worker.soft", ["w-1"], {}, "shutdown --mode soft w-1"),
        ("worker.kill", ["-w"], {}, "shutdown --mode hard -- -w"),
        ("task.revoke", ["t-1", "t-2"], {}, "revoke t-1 t-2"),
        ("task.terminate", ["t-1"], {}, "revoke --terminate t-1"),
        ("task.retry", ["t-1"], {}, "tasks retry t-1"),
        ("task.discard", ["t-1"], {}, "dlq purge t-1"),
        ("queue.replay", ["mail"], {}, "dlq replay --queue mail"),
        ("queue.discard", ["mail"], {}, "dlq purge --queue mail"),
    ],
)
def test_an_action_and_its_command(action: str, targets: list[str], more: dict[str, object], expected: str) -> None:
    assert command(BY_ID[action], targets, where=WHERE, **more) == HEAD + expected  # type: ignore[arg-type] # of the table


def test_every_change_has_a_command() -> None:
    for action in ACTIONS:
        if action.changes:
            assert command(action, ["x"], way="pause" if action.pauses else "", where=WHERE), action.id


def test_several_queues_are_several_commands() -> None:
    assert command(BY_ID["queue.purge"], ["a", "b"]) == "stemctl queues purge a && stemctl queues purge b"


def test_many_ids_are_as_many_commands_as_the_broker_takes_steps() -> None:
    made = command(BY_ID["task.revoke"], [f"t-{number}" for number in range(1_100)])

    assert made is not None
    parts = made.split(" && ")
    assert [len(shlex.split(part)) - 2 for part in parts] == [500, 500, 100]
    assert command(BY_ID["task.revoke"], ["t"] * (MOST_IDS + 1)) is None


@pytest.mark.parametrize("name", ["$(reboot)", "a b", "x;y", "\x1b[2J", "\nrm -rf ~\n", "`id`", ""])
def test_what_is_no_name_gets_no_command(name: str) -> None:
    """A server may hold anything under any name; pasted into a shell it would be run."""
    for action in ACTIONS:
        if action.changes:
            assert command(action, ["fine", name], way="pause" if action.pauses else "") is None
    assert look("task", name) is None


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        (None, "redis://:s3cret@10.0.3.7:6379/0", ""),
        (None, "redis://ops:s3cret@10.0.3.7:6379/0", ""),
        ("redis://ops:s3cret@10.0.3.7:6379/0", None, "--url redis://ops:PASSWORD@10.0.3.7:6379/0 "),
        (None, "redis://10.0.3.7:6379/0", "--url redis://10.0.3.7:6379/0 "),
        (None, "redis://[::1]:6379/2", "--url 'redis://[::1]:6379/2' "),
        (None, "unix:///run/a%20b.sock", "--url unix:///run/a%20b.sock "),
    ],
)
def test_a_command_reaches_the_same_broker_and_tells_no_password(
    given: str | None, environment: str | None, said: str
) -> None:
    """It is left to the environment where it came from there; whoever gave it by hand has to fill it in."""
    variables = {} if environment is None else {"STEM_BROKER_URL": environment}

    broker, where = _connect(given, "prod", StemConfig.from_environment(variables))

    assert command(BY_ID["queue.purge"], ["a"], where=where) == f"stemctl {said}--namespace prod queues purge a"
    asyncio.run(broker.close())


def test_a_row_has_a_command_that_shows_it() -> None:
    assert look("task", "t-1", WHERE) == HEAD + "tasks show t-1"
    assert look("queue", "mail") == "stemctl queues show mail"
    assert look("worker", "-w") == "stemctl workers show -- -w"
    assert look("failure", "x") is None
