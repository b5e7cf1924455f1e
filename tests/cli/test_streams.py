"""Streams that are closed or full: what was done is done, and why nothing is to be read is one line on stderr."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from stem.contracts import Outcome
from stem.messages.status import ErrorInfo
from tests.cli.conftest import Cli, Hire
from tests.cli.work import settle

STEMCTL = f"{shlex.quote(sys.executable)} -m stemctl"


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(valkey_url: str, namespace: str, request: pytest.FixtureRequest) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("STEM_", "COV"))}
    return {**env, "STEM_BROKER_URL": valkey_url, "STEM_NAMESPACE": namespace, "PYTHONUNBUFFERED": request.param}


def shell(line: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run stemctl with redirections; stdin is empty where `line` says nothing of it."""
    return subprocess.run(
        ["bash", "-c", f"{STEMCTL} {line}"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize("to", [">&-", ">/dev/full"])
@pytest.mark.parametrize("form", ["", "--json"], ids=["text", "json"])
def test_a_change_is_made_and_its_lost_answer_is_one_line(
    environment: dict[str, str], cli: Cli, hire: Hire, to: str, form: str
) -> None:
    worker = hire("web")

    ran = shell(f"pause --quiet --queue default {form} {to}", environment)

    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "stemctl: cannot write the answer: " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr
    assert [command.type for command in worker.heard] == ["pause"]


@pytest.mark.parametrize("line", ["queues ls >/dev/full", "queues ls >&-", "--help >/dev/full", "acl print >&-"])
def test_a_look_that_cannot_be_shown_is_one_line(environment: dict[str, str], cli: Cli, line: str) -> None:
    cli("enqueue", "mail.send")

    ran = shell(line, environment)

    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert "stemctl: cannot write the answer: " in ran.stderr


@pytest.mark.parametrize("to", [">&-", ">/dev/full"])
def test_an_error_that_cannot_be_written_as_json_is_said_all_the_same(environment: dict[str, str], to: str) -> None:
    ran = shell(f"queues show nosuch --json {to}", environment)

    assert ran.returncode == 1
    assert "there is no queue nosuch" in ran.stderr
    assert "cannot write the answer" in ran.stderr
    assert ran.stderr.count("\n") == 2


@pytest.mark.parametrize("environment", [""], indirect=True)
@pytest.mark.parametrize("line", ["queues purge default <&-", "shutdown <&-", "shutdown <&- >&-"])
def test_with_a_closed_stdin_there_is_nobody_to_ask(
    environment: dict[str, str], cli: Cli, hire: Hire, line: str
) -> None:
    cli("enqueue", "mail.send")
    worker = hire("web")

    ran = shell(line, environment)

    assert (ran.returncode, worker.heard) == (5, [])
    assert ran.stderr.count("\n") == 1
    assert "add --yes" in ran.stderr


@pytest.mark.parametrize("environment", [""], indirect=True)
def test_arguments_from_a_closed_stdin_are_wrong_usage(environment: dict[str, str]) -> None:
    ran = shell("enqueue mail.send --json-args - <&-", environment)

    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "stdin" in ran.stderr


@pytest.mark.parametrize(
    "extra",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "C"],
)
@pytest.mark.parametrize("environment", [""], indirect=True)
def test_what_the_encoding_lacks_is_escaped(
    environment: dict[str, str], cli: Cli, valkey_url: str, namespace: str, extra: dict[str, str]
) -> None:
    error = ErrorInfo(type="ValueError", message="☃" * 200, traceback="Traceback ☃…")
    task_id = cli("enqueue", "mail.send", 'to="☃ …"').out.strip()
    settle(valkey_url, namespace, Outcome.DEAD, error=error)

    for line in (f"result {task_id}", f"tasks show {task_id}", "dlq ls"):
        ran = shell(line, {**environment, **extra})

        assert ran.returncode == (1 if line.startswith("result") else 0), ran.stderr
        assert r"\u2603" in ran.stdout + ran.stderr
        assert "..." in ran.stdout
        assert "\\u2026" not in ran.stdout
        assert "internal" not in ran.stderr


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full"])
def test_without_stderr_the_exit_code_tells(environment: dict[str, str], to: str) -> None:
    assert shell(f"queues show nosuch {to}", environment).returncode == 3
    ran = shell(f"queues ls --json {to}", environment)
    assert (ran.returncode, ran.stdout[:1]) == (0, "{")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("revoke nosuch --json", 3, "there is no task nosuch"),
        ("queues show nosuch --json", 3, "there is no queue nosuch"),
        ("tasks retry nosuch", 3, "there is no task nosuch"),
        ("tasks ls --state nosuch --json", 2, "is not a state"),
        ("shutdown --json", 5, "add --yes"),
        ("nosuch --json", 2, "nosuch"),
    ],
)
def test_a_reader_that_leaves_hides_no_problem(
    environment: dict[str, str], hire: Hire, line: str, code: int, said: str
) -> None:
    hire("web")

    ran = shell(f"{line} | true; exit ${{PIPESTATUS[0]}}", environment)

    assert ran.returncode == code, ran.stderr
    assert said in ran.stderr
    assert ran.stderr.count("stemctl: ") == 1
