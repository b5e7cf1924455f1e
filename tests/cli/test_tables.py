"""Tables on a terminal: what is printed to be used is whole, however narrow it is; the rest says where it was cut."""

from __future__ import annotations

import os
import re
import sys
from typing import Final

import pytest

from stem.contracts import Outcome
from stem.messages.status import ErrorInfo
from stemctl.output import fitted
from tests.cli.conftest import Cli
from tests.cli.work import settle
from tests.flow.running import at_terminal

LONG: Final = "reports-of-the-last-month-for-everybody"


@pytest.fixture
def environment(cli: Cli, valkey_url: str, namespace: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("STEM_", "COV", "COLUMNS"))}
    return {**env, "STEM_BROKER_URL": valkey_url, "STEM_NAMESPACE": namespace}


def printed(environment: dict[str, str], columns: int, *argv: str) -> list[str]:
    """Return the lines that stemctl prints on a terminal of this width, without colours."""
    with at_terminal([sys.executable, "-m", "stemctl", *argv], env=environment, columns=columns) as terminal:
        assert terminal.wait() == 0
        return re.sub(r"\x1b\[[0-9;]*m", "", terminal.seen).splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_an_id_is_whole_and_the_error_gives_way(
    cli: Cli, environment: dict[str, str], valkey_url: str, namespace: str, columns: int
) -> None:
    task_id = cli("enqueue", LONG, "--queue", "mail", "--json").data["id"]
    settle(valkey_url, namespace, Outcome.DEAD, queue="mail", error=ErrorInfo(type="KeyError", message="x" * 100))

    head, row = printed(environment, columns, "tasks", "ls", "--state", "failed")

    assert row.split()[0] == task_id
    assert head.split() == ["ID", "TASK", "QUEUE", "STATE", "PRIO", "ATTEMPT", "WORKER", "TIME", "ERROR"]
    assert re.search(r" failed +0 +\d+ +\S+ +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", row)
    assert row.rstrip().endswith("…")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_queues_name_and_numbers_are_whole(cli: Cli, environment: dict[str, str], columns: int) -> None:
    cli("enqueue", "mail.send", "--queue", LONG, "--priority", "1")

    head, row = printed(environment, columns, "queues", "ls")

    assert head.split()[:3] == ["QUEUE", "READY", "DELAYED"]
    assert row.split()[:7] == [LONG, "1", "0", "0", "0", "0", "0"]


@pytest.mark.parametrize(
    ("room", "widths"),
    [(100, [36, 20, 9]), (65, [36, 20, 9]), (60, [36, 15, 9]), (52, [36, 8, 8]), (40, [36, 4, 5])],
)
def test_the_widest_give_way_first_and_none_below_its_least(room: int, widths: list[int]) -> None:
    assert fitted([36, 20, 9], [36, 4, 5], room) == widths
