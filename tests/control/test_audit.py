"""What the controller tells the audit: how each command ended, and what was done without one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.contracts import AuditRow, ChangeItem
from stem.control.audit import asked, recorded, summary, targets_of
from stem.control.controller import Controller
from stem.control.dead import AT_A_TIME, discard
from stem.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.testing.case import enqueue, make_dead
from tests.control.channel import ScriptedBroker, seen


def controller(broker: ScriptedBroker) -> Controller:
    return Controller(broker.as_broker, timeout_s=1.0, clock=broker)


async def test_the_outcome_names_who_refused_and_who_was_silent() -> None:
    broker = ScriptedBroker([seen("a"), seen("b"), seen("c")])
    broker.answer(0.01, "a")
    broker.answer(0.01, "b", "accepted", ok=False, code="role-refused")

    await controller(broker).pause("queue", ["default"])

    ((audit, outcome),) = broker.concluded
    assert audit == "row-1"
    assert (outcome.verdict, outcome.expected, outcome.applied, outcome.failed) == ("partly", 3, 1, 1)
    assert (tuple(outcome.silent), dict(outcome.counts)) == (("c",), {"set": 1, "refused": 1})
    assert [item.error for item in outcome.items if item.error] == ["role-refused: why"]


@pytest.mark.parametrize(("wait_s", "verdict"), [(None, "applied"), (1.0, "waited-out")])
async def test_an_effect_that_was_not_seen_is_told(wait_s: float | None, verdict: str) -> None:
    broker = ScriptedBroker([seen("a")])
    broker.answer(0.01, "a", "applied")

    await controller(broker).drain(["a"], wait_s=wait_s)

    assert [outcome.verdict for _, outcome in broker.concluded] == [verdict]


async def test_a_question_tells_nothing() -> None:
    broker = ScriptedBroker([seen("a")])
    broker.answer(0.01, "a")

    await controller(broker).ping()

    assert broker.concluded == []


async def test_an_audit_that_takes_no_outcome_is_a_warning() -> None:
    """The command itself was given: its result stands."""
    broker = ScriptedBroker([], items=[ChangeItem(target="t-1", outcome="revoked", changed=True)])
    broker.conclude_error = BrokerUnreachableError("gone")

    result = await controller(broker).revoke(["t-1"])

    assert [item.outcome for item in result.items] == ["revoked"]
    assert list(result.warnings) == ["the outcome is not in the audit: gone"]


async def test_a_deed_is_told_with_what_became_of_each() -> None:
    broker = InMemoryBroker()
    await make_dead(broker, task_id="dead")
    await enqueue(broker, task_id="waits")
    boss = Controller(broker, actor="ada")

    async with boss.recorded("replay", ["dead", "waits", "none"], reason="fixed") as tally:
        (row,) = (await broker.census.audit()).items
        assert row.outcome is None, "it is written before it is done"
        tally.add_all(await broker.replay(["dead", "waits", "none"]))

    (row,) = (await broker.census.audit()).items
    assert (row.verb, row.actor, row.reason, tuple(row.targets)) == (
        "replay",
        "ada",
        "fixed",
        ("dead", "waits", "none"),
    )
    assert row.outcome is not None
    assert (row.outcome.verdict, row.outcome.counts) == ("partly", {"queued": 1, "not-dead": 1, "unknown": 1})
    assert {item.target for item in row.outcome.items if item.error} == {"waits", "none"}


@pytest.mark.parametrize("error", [BrokerUnreachableError("gone"), BrokerRefusedError("gone", code="OOM")])
async def test_a_deed_that_breaks_says_how_far_it_came(error: BrokerError) -> None:
    """The error of its last part says that nothing was done, which is true of that part only."""
    broker = InMemoryBroker()

    async def purge() -> None:
        async with recorded(broker, "purge", ["a"], kind="queue") as tally:
            tally.add("purged", 500)
            raise error

    with pytest.raises(UnknownOutcomeError, match=r"^purge broke off after 500 purged: gone$"):
        await purge()

    (row,) = (await broker.census.audit()).items
    assert row.outcome is not None
    assert (row.outcome.verdict, row.outcome.counts) == ("partly", {"purged": 500})


async def test_a_deed_that_breaks_at_its_start_is_told_plainly() -> None:
    async def replay() -> None:
        async with recorded(InMemoryBroker(), "replay", ["a", "b"]) as tally:
            tally.add("not-dead", 1)
            raise BrokerUnreachableError("gone")

    with pytest.raises(BrokerUnreachableError, match=r"^gone$"):
        await replay()


@pytest.mark.parametrize("error", [BrokerUnreachableError("gone"), BrokerRefusedError("gone", code="OOM")])
async def test_dead_letters_removed_before_and_beside_one_that_could_not_be_are_told(
    monkeypatch: pytest.MonkeyPatch, error: BrokerError
) -> None:
    broker = InMemoryBroker()
    ids = [f"t-{number}" for number in range(AT_A_TIME + 4)]
    for task_id in ids:
        await make_dead(broker, task_id=task_id)
    remove = broker.discard

    async def refusing(queue: str, task_ids: Sequence[str]) -> int:
        if ids[AT_A_TIME + 1] in task_ids:
            raise error
        return await remove(queue, task_ids)

    monkeypatch.setattr(broker, "discard", refusing)

    async def purge() -> None:
        async with recorded(broker, "discard", ids) as tally:
            async for part in discard(broker, ids):
                tally.add_all(part)

    done = AT_A_TIME + 3
    with pytest.raises(UnknownOutcomeError, match=rf"^discard broke off after {done} discarded: gone$"):
        await purge()

    (row,) = (await broker.census.audit()).items
    assert row.outcome is not None
    assert (row.outcome.verdict, row.outcome.counts) == ("partly", {"discarded": done})
    assert [status.id for status in (await broker.census.tasks("dead")).items] == [ids[AT_A_TIME + 1]]


async def test_a_dead_letter_named_twice_is_removed_once_and_no_more_than_a_few_go_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = InMemoryBroker()
    ids = [f"t-{number}" for number in range(3 * AT_A_TIME)]
    for task_id in ids:
        await make_dead(broker, task_id=task_id)
    await enqueue(broker, task_id="waits")
    remove, under_way, most = broker.discard, 0, 0

    async def counting(queue: str, task_ids: Sequence[str]) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await remove(queue, task_ids)

    monkeypatch.setattr(broker, "discard", counting)
    outcomes: dict[str, str] = {}
    async for part in discard(broker, [*ids, "waits", "none", ids[0]]):
        outcomes |= part

    assert outcomes == dict.fromkeys(ids, "discarded") | {"waits": "not-dead", "none": "unknown"}
    assert most == AT_A_TIME


async def test_many_failures_are_kept_before_what_went_well() -> None:
    """Of a thousand ids the few items kept are those that somebody has to look at."""
    broker = InMemoryBroker()
    async with recorded(broker, "retry", ["many"]) as tally:
        tally.add_all({f"good-{n}": "queued" for n in range(990)} | {f"bad-{n}": "unknown" for n in range(10)})

    (row,) = (await broker.census.audit()).items
    assert row.outcome is not None
    assert row.outcome.counts == {"queued": 990, "unknown": 10}
    assert [item.target for item in row.outcome.items][:10] == [f"bad-{n}" for n in range(10)]
    assert len(row.outcome.items) == 20


def test_a_row_is_told_in_a_few_words() -> None:
    row = AuditRow(id="1", at_ms=1, verb="pause", kind="queue", option="600000", targets=("a", "b", "c", "d"), count=9)

    assert asked(row) == "pause queue for 600 s"
    assert targets_of(row) == "a, b, c and 6 more"
    assert summary(row) == "not told"
    assert summary(AuditRow(id="1", at_ms=1, verb="revoke", stored={"revoked": 2})) == "not told; stored: 2 revoked"
    assert targets_of(AuditRow(id="1", at_ms=1, verb="shutdown")) == "all"
