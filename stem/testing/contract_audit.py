"""The contract of the audit (who asked for what, and what came of it) and of looking behind the scenes."""

from __future__ import annotations

import pytest

from stem.contracts import AuditRow, ClearPause, RevokeTasks, SetDrain, SetPause, SetShutdown
from stem.errors import InvalidInputError
from stem.messages.audit import AuditItem, AuditOutcome, Deed
from stem.testing.case import QUEUE, BrokerCase, Hand, Operator, enqueue, make_dead, new_task, now_ms

DONE = AuditOutcome(
    verdict="partly",
    counts={"set": 2, "refused": 1},
    expected=3,
    applied=1,
    failed=1,
    silent=("w-3",),
    items=(AuditItem(target="b", outcome="refused", error="no"), AuditItem(target="a", outcome="set")),
)


class BrokerContractAudit:
    """Rows are written with what they tell of, and read newest first."""

    async def test_a_command_leaves_a_row(self, broker_case: BrokerCase) -> None:
        """Who, what, on what, why and when, and what the step itself did; nothing yet of what came of it."""
        boss = Operator(broker=broker_case.broker)
        await enqueue(broker_case.broker, task_id="waits")
        before = await now_ms(broker_case.broker)
        issued = await boss.issue(
            "revoke", RevokeTasks(ids=["waits", "other"], terminate=True), id="c-1", actor="ada@host", reason="a test"
        )

        (row,) = (await broker_case.broker.census.audit()).items

        assert before - 1 <= row.at_ms <= issued.now_ms + 1
        assert row == AuditRow(
            id=issued.audit,
            at_ms=row.at_ms,
            verb="revoke",
            command_id="c-1",
            actor="ada@host",
            reason="a test",
            option="terminate",
            targets=("waits", "other"),
            count=2,
            epoch=issued.epoch,
            stored={"revoked": 1, "stored": 1},
        )

    async def test_each_kind_of_command_says_what_it_asked(self, broker_case: BrokerCase) -> None:
        """Kind and length of a pause, the mode of a shutdown; newest first."""
        boss = Operator(broker=broker_case.broker)
        await Hand(broker=broker_case.broker, id="w-1").beat()
        await boss.issue("pause", SetPause(kind="queue", targets=["a", "b"], for_ms=60_000))
        await boss.issue("resume", ClearPause(kind="queue", targets=["a"]))
        await boss.issue("drain", SetDrain(workers=["w-1"]))
        await boss.issue("shutdown", SetShutdown(workers=["w-1"], mode="soft"))

        rows = (await broker_case.broker.census.audit()).items

        assert [(row.verb, row.kind, row.option, tuple(row.targets)) for row in rows] == [
            ("shutdown", "", "soft", ("w-1",)),
            ("drain", "", "", ("w-1",)),
            ("resume", "queue", "", ("a",)),
            ("pause", "queue", "60000", ("a", "b")),
        ]

    async def test_questions_leave_no_row(self, broker_case: BrokerCase) -> None:
        """They change nothing."""
        boss = Operator(broker=broker_case.broker)

        issued = [await boss.issue(kind) for kind in ("ping", "inspect", "stats")]

        assert [one.audit for one in issued] == ["", "", ""]
        page = await broker_case.broker.census.audit()
        assert (list(page.items), page.next, page.total) == ([], None, 0)

    async def test_a_repeated_command_leaves_one_row(self, broker_case: BrokerCase) -> None:
        """And its sender learns the name of that one, which it needs to say how it ended."""
        control, command = broker_case.broker.control, Operator(broker=broker_case.broker).command("pause", id="c-1")
        change = SetPause(kind="queue", targets=["a"])
        first = await control.issue(command, change)

        again = await broker_case.lose_reply(lambda: control.issue(command, change))

        assert first.audit
        assert again.audit == first.audit
        assert [row.id for row in (await broker_case.broker.census.audit()).items] == [first.audit]

    async def test_the_outcome_is_told_afterwards(self, broker_case: BrokerCase) -> None:
        """And read as it was told, failed items first, with its time; the first one told stays."""
        boss, control = Operator(broker=broker_case.broker), broker_case.broker.control
        issued = await boss.issue("pause", SetPause(kind="queue", targets=["a", "b"]))
        await boss.issue("drain", SetDrain(workers=["w-1"]))
        await broker_case.advance(0.02)

        assert await broker_case.lose_reply(lambda: control.conclude(issued.audit, DONE)) is True
        assert await control.conclude(issued.audit, AuditOutcome(verdict="applied")) is True

        drained, paused = (await broker_case.broker.census.audit()).items
        assert (drained.outcome, drained.ended_at_ms) == (None, None)
        assert paused.outcome == DONE
        assert paused.ended_at_ms is not None
        assert paused.ended_at_ms > issued.now_ms

    @pytest.mark.parametrize("name", ["", "nonsense", "9" * 400, "1-1", "17", "\x00\xff", "-1"])
    async def test_an_outcome_of_nothing_is_not_kept(self, broker_case: BrokerCase, name: str) -> None:
        """A row that left, or a name made up."""
        assert await broker_case.broker.control.conclude(name, DONE) is False
        assert list((await broker_case.broker.census.audit()).items) == []

    async def test_a_deed_is_recorded_before_it_is_done(self, broker_case: BrokerCase) -> None:
        """Once per id, with how its targets were chosen and how many there are."""
        deed = Deed(
            id="d-1",
            verb="replay",
            actor="ada",
            reason="fixed",
            kind="task",
            option="of a",
            targets=["t-1"],
            count=9,
        )

        name = await broker_case.lose_reply(lambda: broker_case.broker.control.record(deed))
        assert await broker_case.broker.control.conclude(name, AuditOutcome(verdict="applied", counts={"queued": 9}))

        (row,) = (await broker_case.broker.census.audit()).items
        assert (row.id, row.verb, row.command_id, row.actor, row.reason) == (name, "replay", "d-1", "ada", "fixed")
        assert (row.kind, row.option, tuple(row.targets), row.count, row.epoch) == ("task", "of a", ("t-1",), 9, 0)
        assert row.outcome is not None
        assert row.outcome.counts == {"queued": 9}

    async def test_a_long_list_of_targets_is_cut_between_names(self, broker_case: BrokerCase) -> None:
        """What is kept of a row is bounded; how many there were stays known."""
        ids = [new_task().id for _ in range(400)]
        await Operator(broker=broker_case.broker).issue("revoke", RevokeTasks(ids=ids))

        (row,) = (await broker_case.broker.census.audit()).items

        assert 5 < len(row.targets) < 40
        assert list(row.targets) == ids[: len(row.targets)]
        assert (row.count, row.stored) == (400, {"stored": 400})

    async def test_the_audit_goes_on_page_by_page(self, broker_case: BrokerCase) -> None:
        """Following the cursor gives every row once, newest first, also when rows are added meanwhile."""
        boss = Operator(broker=broker_case.broker)
        epochs = [(await boss.issue("pause", SetPause(kind="queue", targets=[f"q-{n}"]))).epoch for n in range(7)]
        found: list[int] = []
        cursor: str | None = None
        for _ in range(4):
            page = await broker_case.broker.census.audit(cursor=cursor, limit=2)
            assert len(page.items) <= 2
            found += [row.epoch for row in page.items]
            await boss.issue("resume", ClearPause(kind="queue", targets=["q-0"]))
            cursor = page.next
        assert cursor is None
        assert found == epochs[::-1]

    async def test_the_audit_can_be_asked_for_some_rows(self, broker_case: BrokerCase) -> None:
        """By verb, by who asked, by target; the last two also as globs; with paging."""
        boss, census = Operator(broker=broker_case.broker), broker_case.broker.census
        for n, actor in enumerate(("ada@a", "bob@b", "ada@c")):
            await boss.issue("pause", SetPause(kind="queue", targets=[f"q-{n}", "both"]), actor=actor)
            await boss.issue("drain", SetDrain(workers=[f"w-{n}"]), actor=actor)

        assert [row.actor for row in (await census.audit(verb="drain")).items] == ["ada@c", "bob@b", "ada@a"]
        assert [row.verb for row in (await census.audit(actor="bob@b")).items] == ["drain", "pause"]
        assert [row.actor for row in (await census.audit(target="q-1")).items] == ["bob@b"]
        assert len((await census.audit(target="q-*", actor="ada@*")).items) == 2
        assert list((await census.audit(verb="pause", actor="ada")).items) == []
        first = await census.audit(target="both", limit=2)
        second = await census.audit(target="both", limit=2, cursor=first.next)
        assert [row.actor for row in (*first.items, *second.items)] == ["ada@c", "bob@b", "ada@a"]
        assert (first.total, second.next) == (None, None)

    @pytest.mark.parametrize("cursor", ["", "nonsense", "9" * 400, "1:2", "\x00\xff", "-1"])
    async def test_a_cursor_from_elsewhere_is_refused_by_the_audit(self, broker_case: BrokerCase, cursor: str) -> None:
        """By name, not by a wrong page or a crash."""
        await Operator(broker=broker_case.broker).issue("pause", SetPause(kind="queue", targets=["a"]))

        with pytest.raises(InvalidInputError):
            await broker_case.broker.census.audit(cursor=cursor)


class BrokerContractExamine:
    """What is found behind the scenes."""

    async def test_nothing_is_found_where_all_is_well(self, broker_case: BrokerCase) -> None:
        """With tasks waiting, running, dead and done, workers, commands and their outcomes."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await hand.beat()
        await make_dead(broker)
        await hand.catch_up()
        for key in ("a", "b"):
            await enqueue(broker, unique_key=key)
        first, _ = await hand.fetch()
        await hand.end(first)
        await enqueue(broker, delay_ms=60_000)
        await Hand(broker=broker, id="undertaker").beat()
        issued = await Operator(broker=broker).issue("pause", SetPause(kind="queue", targets=["other"]))
        await broker.control.conclude(issued.audit, DONE)

        found = await broker.census.examine()

        assert (list(found.strays), list(found.leftovers), list(found.overdue)) == ([], [], [])
        assert (found.complete, dict(found.refused)) == (True, {})

    async def test_a_lease_that_ran_out_is_found(self, broker_case: BrokerCase) -> None:
        """As long as nobody sweeps; one that still runs is not."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await hand.beat()
        for task_id, lease_ms in (("short", 20), ("long", 60_000)):
            await enqueue(broker_case.broker, task_id=task_id, lease_ms=lease_ms)
        await hand.fetch()
        await broker_case.advance(0.1)

        (found,) = (await broker_case.broker.census.examine()).overdue

        assert (found.queue, found.tasks) == (QUEUE, 1)
        assert found.late_ms >= 70
