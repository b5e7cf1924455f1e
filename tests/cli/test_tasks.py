"""enqueue, result, tasks, why, queues, dlq, events, health: what the broker holds, told to people and to scripts."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from stem.adapters.connect import connect_broker
from stem.adapters.redis.broker import RedisStreamsBroker
from stem.contracts import ListState, NewTask, Outcome
from stem.messages.envelope import new_task_id
from stem.messages.status import ErrorInfo, TaskState
from stemctl.commands.tasks import STATES
from stemctl.exits import CHECKS, ENDS
from tests.cli.conftest import Cli, Hire
from tests.cli.work import settle

Settle = Callable[..., list[str]]

BOOM = ErrorInfo(
    type="ValueError", message="no \x1b[31msuch\u202e address", traceback="Traceback:\n  line 1\nValueError"
)


@pytest.fixture
def work(valkey_url: str, namespace: str) -> Settle:
    def run(outcome: Outcome | None, **options: Any) -> list[str]:
        return settle(valkey_url, namespace, outcome, **options)

    return run


def enqueue(cli: Cli, *argv: str) -> str:
    ran = cli("enqueue", "mail.send", *argv, "--quiet")
    assert ran.code == 0, ran.err
    return ran.out.strip()


def visible(text: str) -> bool:
    """Say whether nothing in it could steer a terminal."""
    return all(character == "\n" or character.isprintable() for character in text)


# ------------------------------------------------------------------------------------------------- enqueue and result


def test_arguments_are_json_where_they_parse_and_text_elsewhere(cli: Cli) -> None:
    pairs = ["n=3", "on=true", 'x="3"', "to=a@b.c", "list=[1,2]", "none=null", "nan=NaN", "empty=", "eq=a=b"]

    task_id = enqueue(cli, *pairs)

    args = cli("tasks", "show", task_id, "--json").data["envelope"]["args"]
    assert args == {
        "n": 3,
        "on": True,
        "x": "3",
        "to": "a@b.c",
        "list": [1, 2],
        "none": None,
        "nan": "NaN",
        "empty": "",
        "eq": "a=b",
    }


def test_all_options_of_an_enqueue_arrive(cli: Cli) -> None:
    options = ["--queue", "mail", "--priority", "7", "--delay", "1h", "--expires", "2h", "--id", "mine"]

    ran = cli("enqueue", "mail.send", "--json-args", '{"n": 1}', "m=2", *options, "--unique-key", "k", "--json")

    assert (ran.code, ran.data["id"], ran.data["state"], ran.data["queue"]) == (0, "mine", "scheduled", "mail")
    shown = cli("tasks", "show", "mine", "--json").data
    assert (shown["priority"], shown["envelope"]["args"]) == (7, {"n": 1, "m": 2})
    assert shown["expires_at_ms"] - shown["due_at_ms"] == pytest.approx(3_600_000, abs=1_000)


def test_an_enqueue_that_nobody_will_run_works_and_warns(cli: Cli, hire: Hire) -> None:
    nobody = cli("enqueue", "mail.send")
    hire("web")
    known, unknown, elsewhere = (
        cli("enqueue", "mail.send"),
        cli("enqueue", "no.such"),
        cli("enqueue", "a", "--queue", "b"),
    )

    assert [ran.code for ran in (nobody, known, unknown, elsewhere)] == [0, 0, 0, 0]
    assert "no live worker is there" in nobody.err
    assert known.err == ""
    assert "no live worker of queue default registers no.such" in unknown.err
    assert "no live worker takes queue b" in elsewhere.err


def test_a_dry_run_of_an_enqueue_checks_and_sends_nothing(cli: Cli) -> None:
    ran = cli("enqueue", "mail.send", "n=1", "--dry-run", "--json")

    assert (ran.code, ran.data["dry_run"], ran.data["state"]) == (0, True, None)
    assert cli("queues", "ls", "--json").data["items"] == []
    assert cli("enqueue", "mail.send", "--priority", "10", "--dry-run").code == 2


def test_a_result_is_printed_as_it_is(cli: Cli, work: Settle) -> None:
    first = enqueue(cli)
    work(Outcome.SUCCEEDED, result={"pages": 3})
    second = enqueue(cli)
    work(Outcome.SUCCEEDED, result="two\nlines\x1b[2J")

    assert (cli("result", first).code, cli("result", first).out) == (0, '{"pages": 3}\n')
    assert cli("result", second).out == "two\nlines\\x1b[2J\n"
    assert cli("result", first, "--wait", "5s", "--json").data["result"] == {"pages": 3}


@pytest.mark.parametrize(
    ("result", "printed"),
    [
        ("x" * 300_000, "x" * 300_000),
        ("ä" * 150_000 + "\n\x1b", "ä" * 150_000 + "\n" + r"\x1b"),
        (["y" * 200_000], '["' + "y" * 200_000 + '"]'),
    ],
    ids=["text", "lines", "list"],
)
def test_a_long_result_is_printed_whole(cli: Cli, work: Settle, result: object, printed: str) -> None:
    task_id = enqueue(cli)
    work(Outcome.SUCCEEDED, result=result)

    ran = cli("result", task_id)

    assert ran.code == 0
    assert ran.out == printed + "\n"


def test_the_result_of_a_failed_task_fails(cli: Cli, work: Settle) -> None:
    task_id = enqueue(cli)
    work(Outcome.DEAD, error=BOOM)

    ran = cli("result", task_id)

    assert ran.code == 1
    assert "Traceback" in ran.out
    assert "ValueError" in ran.err
    assert visible(ran.out + ran.err)


def test_a_result_that_does_not_come_in_time_ends_with_124(cli: Cli) -> None:
    task_id = enqueue(cli)

    assert cli("result", task_id).code == 124
    assert cli("result", task_id, "--wait", "200ms").code == 124
    assert cli("result", "nosuch").code == 3


# --------------------------------------------------------------------------------------------------- tasks and queues


def test_tasks_ls_pages_through_a_state(cli: Cli) -> None:
    ids = {enqueue(cli) for _ in range(5)}

    first = cli("tasks", "ls", "--state", "queued", "--queue", "default", "--limit", "3", "--json").data
    rest = cli(
        "tasks", "ls", "--state", "queued", "--queue", "default", "--limit", "3", "--cursor", first["next"], "--json"
    ).data

    assert set(first) == {"items", "next", "total"}
    assert ids == {task["id"] for task in first["items"] + rest["items"]}
    assert rest["next"] is None


def test_tasks_ls_tells_the_results_as_json(cli: Cli, work: Settle) -> None:
    """Listings of the broker leave them out."""
    task_id = enqueue(cli)
    work(Outcome.SUCCEEDED, result={"sum": 5})

    (item,) = cli("tasks", "ls", "--state", "succeeded", "--json").data["items"]

    assert (item["id"], item["result"]) == (task_id, {"sum": 5})


def test_tasks_ls_without_a_state_shows_all_unfinished(cli: Cli, work: Settle) -> None:
    running = enqueue(cli)
    work(None)
    ended = enqueue(cli, "--queue", "other")
    work(Outcome.SUCCEEDED, queue="other")
    waiting, later = enqueue(cli), enqueue(cli, "--delay", "1h")

    found = {task["id"]: task["state"] for task in cli("tasks", "ls", "--json").data["items"]}

    assert found == {running: "running", waiting: "queued", later: "scheduled"}
    assert ended not in found


def test_tasks_show_has_timeline_and_envelope(cli: Cli, work: Settle) -> None:
    task_id = enqueue(cli, "to=a@b.c")
    work(Outcome.DEAD, error=BOOM)

    ran = cli("tasks", "show", task_id)
    data = cli("tasks", "show", task_id, "--json").data

    assert ran.code == 0
    assert {"timeline", "envelope", "state", "error"} <= set(data)
    assert {"at_ms", "event", "worker", "attempt", "detail"} == set(data["timeline"][0])
    assert "Traceback:" in ran.out
    assert visible(ran.out)


def test_tasks_retry_runs_waiting_ones_now_and_dead_ones_again(cli: Cli, work: Settle) -> None:
    dead = enqueue(cli)
    work(Outcome.DEAD, error=BOOM)
    later, done = enqueue(cli, "--delay", "1h"), enqueue(cli, "--queue", "other")
    work(Outcome.SUCCEEDED, queue="other")

    assert [item["outcome"] for item in cli("tasks", "retry", dead, later, "--dry-run", "--json").data["items"]] == [
        "queued",
        "queued",
    ]
    ran = cli("tasks", "retry", dead, later, "--json")

    assert (ran.code, ran.data["applied"]) == (0, 2)
    assert cli("queues", "show", "default", "--json").data["ready"] == 2
    assert (cli("tasks", "retry", done).code, cli("tasks", "retry", "nosuch").code) == (1, 3)


def test_queues_items_have_the_documented_fields(cli: Cli) -> None:
    enqueue(cli)

    (item,) = cli("queues", "ls", "--json").data["items"]

    fields = {"name", "ready", "delayed", "in_flight", "dead", "oldest_ms", "paused", "consumers", "enqueued_total"}
    assert fields <= set(item)
    assert (item["name"], item["ready"], item["paused"]) == ("default", 1, False)


def test_a_purge_asks_first_and_leaves_what_runs(cli: Cli, work: Settle) -> None:
    running = enqueue(cli)
    work(None)
    waiting = enqueue(cli)

    assert cli("queues", "purge", "default").code == 5
    assert cli("queues", "purge", "default", "--dry-run", "--json").data == {
        "queue": "default",
        "purged": 1,
        "dry_run": True,
    }
    ran = cli("queues", "purge", "default", "--yes", "--json")

    assert (ran.code, ran.data["purged"]) == (0, 1)
    states = [cli("tasks", "show", one, "--json").data["state"] for one in (running, waiting)]
    assert states == ["running", "revoked"]


@pytest.fixture
def crowd(cli: Cli, work: Settle, valkey_url: str, namespace: str) -> list[str]:
    """Run more tasks than the broker lists at once, and let one wait; return all ids."""
    ids = [f"r-{n:03}" for n in range(600)]

    async def put() -> None:
        broker = connect_broker(valkey_url, namespace=namespace)
        try:
            await broker.enqueue([NewTask(id=one, task="mail.send", queue="default", body=b"\x80") for one in ids])
        finally:
            await broker.close()

    asyncio.run(put())
    while work(None):
        pass
    return [*ids, enqueue(cli, "--delay", "1h")]


def test_a_long_list_goes_on_behind_a_page_of_the_broker(cli: Cli, crowd: list[str]) -> None:
    ran = cli("tasks", "ls", "--limit", "1000", "--json")
    running = cli("tasks", "ls", "--state", "running", "--limit", "550", "--json").data
    rest = cli("tasks", "ls", "--state", "running", "--cursor", running["next"], "--json").data

    assert sorted(crowd) == sorted(task["id"] for task in ran.data["items"])
    assert (ran.json["warnings"], ran.err) == ([], "")
    assert len(running["items"]) == 550
    assert sorted(crowd[:-1]) == sorted(task["id"] for task in running["items"] + rest["items"])


def test_a_list_that_is_cut_says_so_to_programs_too(cli: Cli, crowd: list[str]) -> None:
    for limit in ("50", "600"):
        ran = cli("tasks", "ls", "--limit", limit, "--json")

        assert len(ran.data["items"]) == int(limit)
        assert ran.json["warnings"] == [f"there may be more than these {limit}: use --limit, or --state and --cursor"]


def test_a_table_of_outcomes_that_is_cut_says_so(cli: Cli) -> None:
    ran = cli("tasks", "retry", *(f"none-{n}" for n in range(1_001)))

    assert ran.code == 3
    assert "these are the first 1000 of 1001: --json has all" in ran.err


# ------------------------------------------------------------------------------------------------------- dead letters


def test_dead_letters_are_listed_shown_and_replayed(cli: Cli, work: Settle) -> None:
    task_id, other = enqueue(cli), enqueue(cli)
    work(Outcome.DEAD, error=BOOM)

    listed = cli("dlq", "ls", "--queue", "default", "--json").data
    shown = cli("dlq", "show", task_id)
    ran = cli("dlq", "replay", task_id, "--json")

    assert {task_id, other} == {task["id"] for task in listed["items"]}
    assert shown.code == 0
    assert visible(shown.out + cli("dlq", "ls").out)
    assert (ran.code, ran.data["items"][0]["outcome"]) == (0, "queued")
    assert cli("tasks", "show", task_id, "--json").data["state"] == "queued"
    assert cli("dlq", "show", task_id).code == 3


def test_a_dead_letter_whose_unique_key_is_held_is_not_replayed(cli: Cli, work: Settle) -> None:
    """The answer says so, and fails."""
    task_id = cli("enqueue", "mail.send", "--unique-key", "k", "--json").data["id"]
    work(Outcome.DEAD, error=BOOM)
    cli("enqueue", "mail.send", "--unique-key", "k")

    ran = cli("dlq", "replay", task_id, "--json")

    (item,) = ran.data["items"]
    assert (ran.code, item["outcome"], item["changed"]) == (1, "duplicate", False)
    assert "unique key" in item["error"]


def test_replaying_many_asks_with_samples(cli: Cli, work: Settle) -> None:
    ids = {enqueue(cli) for _ in range(3)}
    work(Outcome.DEAD, error=BOOM)

    asked = cli("dlq", "replay", "--all")
    ran = cli("dlq", "replay", "--all", "--yes", "--json")

    assert asked.code == 5
    assert "replay 3 dead letters" in asked.err
    assert ids == {item["target"] for item in ran.data["items"]}
    assert cli("dlq", "replay", "--all", "--yes").code == 3


def test_dead_letters_are_chosen_by_task_name(cli: Cli, work: Settle) -> None:
    kept = enqueue(cli)
    assert cli("enqueue", "other.task").code == 0
    work(Outcome.DEAD, error=BOOM)

    assert cli("dlq", "purge", "--task", "other.task", "--yes", "--json").data["applied"] == 1

    assert [task["id"] for task in cli("dlq", "ls", "--json").data["items"]] == [kept]


def test_purged_dead_letters_are_gone(cli: Cli, work: Settle) -> None:
    task_id = enqueue(cli)
    work(Outcome.DEAD, error=BOOM)

    assert cli("dlq", "purge", task_id, "--dry-run", "--json").data["items"][0]["changed"] is False
    assert cli("dlq", "purge", task_id, "--json").data["items"][0]["outcome"] == "discarded"

    assert cli("dlq", "ls", "--json").data["items"] == []


def test_a_dead_letter_is_removed_once(cli: Cli, work: Settle) -> None:
    """Its record is there for a minute more, and says that it failed: whoever comes second removes nothing."""
    task_id = enqueue(cli)
    work(Outcome.DEAD, error=BOOM)

    first, second = (cli("dlq", "purge", task_id, "--json").data for _ in range(2))

    assert [first["items"][0]["outcome"], second["items"][0]["outcome"]] == ["discarded", "not-dead"]


def test_a_purge_removes_no_more_than_was_agreed_to(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, valkey_url: str, namespace: str
) -> None:
    """A producer may be quicker than what removes."""
    for _ in range(3):
        enqueue(cli)
    purge = RedisStreamsBroker.purge

    async def meanwhile(self: RedisStreamsBroker, queue: str, what: Any, *, limit: int = 500) -> int:
        await self.enqueue([NewTask(id=new_task_id(), task="late", queue=queue, body=b"\x80")])
        return await purge(self, queue, what, limit=limit)

    monkeypatch.setattr(RedisStreamsBroker, "purge", meanwhile)

    ran = cli("queues", "purge", "default", "--yes", "--json")

    assert (ran.code, ran.data["purged"]) == (0, 3)
    assert cli("queues", "show", "default", "--json").data["ready"] == 1


@pytest.mark.parametrize("argv", [[], ["x", "--all"], ["x", "--task", "t"]])
def test_which_dead_letters_must_be_said_and_only_once(cli: Cli, argv: list[str]) -> None:
    assert cli("dlq", "replay", *argv, "--yes").code == 2


# ---------------------------------------------------------------------------------------------- why, events and health


def test_why_of_an_unknown_id_ends_with_3(cli: Cli) -> None:
    ran = cli("why", "nosuch", "--json")

    assert (ran.code, ran.data["state"]) == (3, None)
    assert [cause["code"] for cause in ran.data["causes"]] == ["unknown-id"]


def test_why_names_what_stands_in_the_way(cli: Cli, hire: Hire) -> None:
    task_id = enqueue(cli)
    cli("pause", "--queue", "default", "--reason", "deploy")

    ran = cli("why", task_id, "--json")

    assert set(ran.data) == {"state", "verdict", "causes"}
    assert [cause["code"] for cause in ran.data["causes"]] == ["queue-paused", "no-worker"]
    assert "because: deploy" in ran.data["verdict"]
    assert all(set(cause) == {"code", "text", "fix"} for cause in ran.data["causes"])


def test_why_asks_the_workers_what_they_register(cli: Cli, hire: Hire) -> None:
    hire("web")
    known = enqueue(cli)
    unknown = cli("enqueue", "no.such", "--quiet").out.strip()

    assert [cause["code"] for cause in cli("why", unknown, "--json").data["causes"]][:1] == ["unregistered"]
    assert cli("why", known, "--json").data["causes"][0]["code"] == "next"


def test_events_without_follow_are_the_last_that_ended(cli: Cli, work: Settle) -> None:
    task_id = enqueue(cli)
    work(Outcome.SUCCEEDED)

    ran = cli("events", "--json")

    assert [("task.succeeded", task_id)] == [(item["kind"], item["task_id"]) for item in ran.data["items"]]
    assert task_id in cli("events").out


def test_following_events_prints_one_json_object_a_line(cli: Cli, valkey_url: str, namespace: str) -> None:
    ran = cli("events", "--follow", "--for", "200ms", "--json")

    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if not isinstance(json.loads(line), dict)] == []


@pytest.mark.parametrize(("stood_still_s", "said"), [(5.0, ""), (40.0, "nobody watched for 30 s")])
def test_following_says_when_nobody_watched(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, stood_still_s: float, said: str
) -> None:
    """After Ctrl-Z or a sleep of the machine the lease has ended, and workers told nothing meanwhile."""
    times = itertools.chain([100.0], itertools.repeat(100.0 + stood_still_s))
    monkeypatch.setattr("stemctl.commands.events.boottime_s", lambda: next(times))

    ran = cli("events", "--follow", "--for", "200ms", "--quiet")

    assert ran.code == 0
    assert ran.err == (f"warning: events may have been missed: {said}\n" if said else "")


def test_health_wants_a_worker(cli: Cli, hire: Hire) -> None:
    without = cli("health", "--json")
    hire("web")
    ran = cli("health", "--json")

    assert (without.code, without.json["error"]["code"]) == (1, "unhealthy-workers")
    assert (ran.code, ran.data["reachable"], ran.data["writable"], ran.data["workers"]) == (0, True, True, 1)
    assert ran.data["policy"] == "noeviction"


def test_every_check_of_health_has_a_documented_code(cli: Cli) -> None:
    checks = [check["name"] for check in cli("health", "--json").data["checks"]]

    assert (tuple(checks), ENDS) == (
        CHECKS,
        tuple(s.value for s in TaskState if s.final and s is not TaskState.SUCCEEDED),
    )


def test_every_state_that_can_be_listed_is_offered() -> None:
    assert set(STATES) == set(get_args(ListState))
