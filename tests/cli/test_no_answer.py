"""Answers that get lost: whether a thing was done is said truly, and a task that may be enqueued keeps its id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Ran
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import Loss
from tests.servers import Server


@pytest.fixture
def proxy(valkey_server: Server, tmp_path: Path) -> Iterator[ChaosProxy]:
    proxy = ChaosProxy(valkey_server.url, tmp_path / "p")
    proxy.open()
    yield proxy
    proxy.close()


def losing(proxy: ChaosProxy, cli: Cli, lost: str | tuple[str, ...], *argv: str) -> Ran:
    """Run a command that gets no answer to what is named."""
    with proxy.having(Loss(lost, share=1.0)):
        return cli(*argv, "--url", proxy.url, "--timeout", "1s")


def test_a_task_that_may_be_enqueued_is_named_and_can_be_sent_again_once(proxy: ChaosProxy, cli: Cli) -> None:
    ran = losing(proxy, cli, "enqueue", "enqueue", "mail.send", "n=3", "--delay", "1h", "--json")

    error = ran.json["error"]
    task_id = error["task_id"]
    assert (ran.code, error["code"]) == (69, "unknown-outcome")
    assert task_id in error["message"]
    assert f"--id {task_id}" in error["hint"]
    assert f"stemctl why {task_id}" in ran.err
    again = cli("enqueue", "mail.send", "n=3", "--delay", "1h", "--id", task_id)
    assert (again.code, again.out.strip()) == (0, task_id)
    (queue,) = (cli("queues", "ls", "--json")).data["items"]
    assert (queue["delayed"], queue["enqueued_total"]) == (1, 1)


def test_a_task_that_is_enqueued_is_named_also_when_no_more_is_heard(proxy: ChaosProxy, cli: Cli) -> None:
    ran = losing(proxy, cli, "HMGET", "enqueue", "mail.send")

    assert (ran.code, len(ran.out.split())) == (0, 1)
    assert "cannot be read" in ran.err
    assert (cli("why", ran.out.strip())).code == 0


@pytest.mark.parametrize("argv", [["workers", "ls"], ["why", "x"], ["queues", "ls"], ["revoke", "x", "--dry-run"]])
def test_a_look_without_an_answer_has_changed_nothing(proxy: ChaosProxy, cli: Cli, argv: list[str]) -> None:
    ran = losing(proxy, cli, (), *argv)

    assert ran.code == 69, ran.err
    assert "may" not in ran.err
    assert "nothing was changed" in ran.err


def test_a_change_without_an_answer_may_have_been_made(proxy: ChaosProxy, cli: Cli) -> None:
    ran = losing(proxy, cli, "issue", "revoke", "x")

    assert ran.code == 69
    assert "it may have been applied: look at `stemctl audit ls`" in ran.err
