"""Answers that get lost: whether a thing was done is said truly, and a task that may be enqueued keeps its id."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Hire, Ran
from tests.cli.hands import answers_none
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import Command, Loss, Watch
from tests.servers import Server
from tests.waiting import wait_until

SOON_TIRED = """
import sys
from stem.adapters.redis import client
client.REPLY_TIMEOUT_S = 2.0
from stemctl.main import main
sys.exit(main())
"""
"""stemctl that waits for an answer for two seconds, not for seven: interrupted, it still waits for what it has sent."""


@pytest.fixture
def proxy(valkey_server: Server, tmp_path: Path) -> Iterator[ChaosProxy]:
    proxy = ChaosProxy(valkey_server.url, tmp_path / "p")
    proxy.open()
    yield proxy
    proxy.close()


def losing(proxy: ChaosProxy, cli: Cli, lost: str | tuple[str, ...], *argv: str) -> Ran:
    """Run a command that gets no answer to what is named."""
    with proxy.having(Loss(lost, share=1.0)):
        return cli(*argv, "--url", proxy.url, "--timeout", "2s")


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


@pytest.mark.parametrize(
    "argv",
    [
        ["drain", "a"],
        ["shutdown", "a"],
        ["pause", "--queue", "a"],
        ["pause", "--task", "a"],
        ["resume", "--worker", "a"],
        ["revoke", "x", "--dry-run"],
    ],
)
def test_a_command_that_needs_a_look_first_is_not_sent_without_one(
    proxy: ChaosProxy, cli: Cli, argv: list[str]
) -> None:
    """The server hangs, for longer than the command was given: it ended with the client library's time-out."""
    with proxy.having(Loss((), share=1.0, then="silence")):
        ran = cli(*argv, "--json", "--url", proxy.url, "--timeout", "300ms")

    error = ran.json["error"]
    assert (ran.code, error["code"]) == (69, "broker-unreachable")
    assert "did not answer in time: nothing was sent" in error["message"]


def test_a_change_without_an_answer_may_have_been_made(proxy: ChaosProxy, cli: Cli) -> None:
    ran = losing(proxy, cli, "issue", "revoke", "x")

    assert ran.code == 69
    assert "it may have been applied: look at `stemctl audit ls`" in ran.err


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_an_enqueue_that_is_interrupted_names_its_task_too(
    proxy: ChaosProxy, cli: Cli, namespace: str, form: list[str]
) -> None:
    with proxy.having(Loss("enqueue", share=1.0, then="silence")):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SOON_TIRED,
                "enqueue",
                "mail.send",
                "--url",
                proxy.url,
                "--namespace",
                namespace,
                *form,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: proxy.lost["enqueue"] > 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    (found,) = cli("tasks", "ls", "--state", "queued", "--json").data["items"]
    assert process.returncode == 130
    assert f"--id {found['id']}" in err
    assert out == "" if not form else json.loads(out)["error"]["task_id"] == found["id"]


def test_a_change_that_is_stored_when_the_server_leaves_is_an_unknown_outcome(
    proxy: ChaosProxy, cli: Cli, hire: Hire
) -> None:
    hire("slow", answer=answers_none)

    async def cut_off(k: int, command: Command) -> None:
        await asyncio.to_thread(proxy.refuse)

    with proxy.having(Watch("issue", after=cut_off)):
        ran = cli("pause", "--queue", "default", "--json", "--url", proxy.url, "--timeout", "2s")

    error = ran.json["error"]
    assert (ran.code, error["code"]) == (69, "unknown-outcome")
    assert error["message"].startswith("pause is stored (epoch ")
    assert "stemctl audit ls" in error["hint"]


def test_a_retry_of_many_that_breaks_says_how_many_were_done(proxy: ChaosProxy, cli: Cli) -> None:
    done = cli("enqueue", "mail.send", "--delay", "1h").out.strip()
    ids = [done, *(f"none-{n}" for n in range(700))]

    with proxy.having(Loss("revive", nth=range(2, 100))):
        ran = cli("tasks", "retry", *ids, "--json", "--url", proxy.url, "--timeout", "2s")

    error = ran.json["error"]
    assert (ran.code, error["code"]) == (69, "unknown-outcome")
    assert error["message"].startswith("retry broke off after 1 queued, 499 unknown: ")
