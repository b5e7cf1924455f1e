"""The judge of `doctor`, without a server: what a real one cannot be brought to in a test."""

from __future__ import annotations

from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Examination, Limits, Overdue, Pause, QueueRow, Seen, ServerInfo, Stray
from stem.control.asking import Asker
from stem.control.checkup import examine
from stem.control.doctor import Facts, judge
from stem.testing.case import Hand, enqueue
from tests.control.channel import START_MS, seen

INFO = ServerInfo(kind="valkey", version="9", url="redis://host", namespace="stem", now_ms=START_MS)
SETTINGS = {"appendfsync": "everysec", "client-output-buffer-limit": "normal 0 0 0 pubsub 0 0 0"}


def codes(**fields: Any) -> list[str]:
    values: dict[str, Any] = {
        "version": "0.1.0",
        "info": INFO,
        "limits": Limits(),
        "examination": Examination(settings=SETTINGS),
        "workers": [seen("web")],
    }
    return [finding.code for finding in judge(Facts(**{**values, **fields})).findings]


def test_without_a_problem_there_is_no_finding() -> None:
    assert codes() == []


@pytest.mark.parametrize(
    ("state", "settings", "found"),
    [
        ({"aof_last_write_status": "err"}, {}, ["disk"]),
        ({"rdb_last_bgsave_status": "err"}, {}, ["disk"]),
        ({"connected_slaves": "1"}, {"min-replicas-to-write": "0"}, ["no-min-replicas"]),
        ({"connected_slaves": "1"}, {"min-replicas-to-write": "1"}, []),
        ({"connected_slaves": "x", "role": "?"}, {"client-output-buffer-limit": "pubsub x y"}, []),
        ({}, {"client-output-buffer-limit": "normal 4096 0 0 pubsub 0 0 0"}, ["output-buffer"]),
    ],
)
def test_the_server_is_judged_by_what_it_says(
    state: dict[str, str], settings: dict[str, str], found: list[str]
) -> None:
    assert codes(examination=Examination(state=state, settings=SETTINGS | settings)) == found


def test_errors_come_before_warnings() -> None:
    strays = [Stray(key=f"k-{n}", why="unknown") for n in range(7)]
    examination = Examination(
        strays=strays, complete=False, keys_seen=50, overdue=[Overdue(queue="q", tasks=1, late_ms=10**6)]
    )

    first, second = judge(
        Facts(version="0.1.0", info=INFO, limits=Limits(), examination=examination, workers=[seen("web")])
    ).findings

    assert (first.code, second.code) == ("stuck-leases", "keys-unknown")
    assert "no live worker takes this queue" in first.text
    assert "and 2 more (of the 50 looked at: there may be more)" in second.text


def test_what_is_as_it_should_be_for_a_while_is_no_finding() -> None:
    """A lease that has just run out, a pause of today with an end, tasks whose workers did not say what they know."""
    pauses = [
        Pause(kind="queue", target="a", at_ms=START_MS - 60_000),
        Pause(kind="task", target="b", at_ms=0, until_ms=START_MS + 1),
    ]
    assert (
        codes(
            examination=Examination(settings=SETTINGS, overdue=[Overdue(queue="default", tasks=1, late_ms=5_000)]),
            pauses=pauses,
            waiting={"default": {"mail.send"}},
            queues=[QueueRow(name="default", ready=1, consumers=1)],
        )
        == []
    )


def test_a_worker_that_says_goodbye_meanwhile_is_not_ill() -> None:
    assert (
        codes(workers=[seen("web"), seen("old", state="stopped")], answers={"web-1": "healthy", "old-1": "lost"}) == []
    )


def paused(target: str, **fields: Any) -> Pause:
    return Pause(kind="worker", target=target, **{"at_ms": START_MS - 60_000, **fields})


DRAINS = seen("web", state="draining")


@pytest.mark.parametrize(
    ("workers", "pauses"),
    [
        ([DRAINS], []),
        ([seen("web")], [paused("web")]),
        ([seen("web")], [paused("web-1", until_ms=START_MS + 1)]),
        ([DRAINS, seen("api")], [paused("api")]),
        ([DRAINS, seen("other", queues=("other",)), seen("gone", state="stopped")], []),
    ],
)
def test_due_tasks_whose_takers_all_drain_or_are_paused_are_a_finding(workers: list[Seen], pauses: list[Pause]) -> None:
    row = QueueRow(name="default", ready=500, consumers=len(workers))

    assert codes(workers=workers, pauses=pauses, queues=[row]) == ["idle-takers"]


@pytest.mark.parametrize(
    ("workers", "pauses", "row"),
    [
        ([DRAINS, seen("api")], [], {"ready": 500}),
        ([DRAINS], [], {"delayed": 5, "retrying": 5}),
        ([DRAINS], [], {"ready": 500, "pause": Pause(kind="queue", target="default", at_ms=START_MS)}),
        ([seen("web")], [paused("web", until_ms=START_MS)], {"ready": 500}),
        ([seen("web")], [paused("api")], {"ready": 500}),
    ],
)
def test_takers_that_drain_are_no_finding_where_others_take_or_nothing_is_due(
    workers: list[Seen], pauses: list[Pause], row: dict[str, Any]
) -> None:
    queue = QueueRow(name="default", consumers=len(workers), **row)

    assert codes(workers=workers, pauses=pauses, queues=[queue]) == []


def test_all_that_take_nothing_are_named() -> None:
    facts = Facts(
        version="0.1.0",
        info=INFO,
        limits=Limits(),
        examination=Examination(settings=SETTINGS),
        workers=[DRAINS, seen("api")],
        pauses=[paused("api")],
        queues=[QueueRow(name="default", ready=500, consumers=2)],
    )

    (finding,) = judge(facts).findings

    assert finding.text == "queue default: 500 tasks are due, and all its live workers drain (web) or are paused (api)"


async def test_a_broker_in_memory_can_be_examined() -> None:
    """Nothing is said of files and settings that it has not."""
    broker = InMemoryBroker()
    await enqueue(broker)
    await Hand(broker=broker, id="w-1").beat()

    found = await examine(broker, Asker(broker, timeout_s=0.05), limits=Limits(), version="0")

    assert [finding.code for finding in found.findings] == ["deaf"]
    assert found.durability.startswith("in this process")
