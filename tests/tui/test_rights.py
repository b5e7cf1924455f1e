"""The dashboard as a user of docs/security.md: what he may not is refused by the server, named, and harms nothing."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest
from textual.screen import ModalScreen

from stem.adapters.connect import access_rules, connect_broker
from stem.control.controller import Controller
from stem_tui.actions import ACTIONS, Action
from stem_tui.widgets.dialogs import Confirm, Prompt
from stem_tui.widgets.grid import Grid
from tests.conftest import OwnServer
from tests.servers import Server
from tests.tui.still import text_of
from tests.tui.test_disconnect import phase
from tests.tui.test_live import live_app
from tests.tui.test_on_a_server import Stage
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PASSWORD: Final = "swordfish-77"
CHANGES: Final = [action for action in ACTIONS if action.changes]
RENEWED: Final = re.compile(r"worker:|workers|fleet|wake:|events|watch|stats:|probe|q:work:(meta|bell)")
"""Keys that workers and watchers write all the time."""


class Desk(Stage):
    """A worker under the rights of one, and the dashboard of another user; the server's administrator looks on."""

    def __init__(self, server: Server, namespace: str, role: str) -> None:
        super().__init__(url_of(server, namespace, "worker"), namespace)
        self.server = server
        self.namespace = namespace
        self.user = f"{namespace}-{role}"
        self.own = connect_broker(url_of(server, namespace, role), namespace=namespace)
        self.app = live_app(self.own)
        self.later = self.runs = ""
        self.dead: list[str] = []

    @property
    def text(self) -> str:
        """What is on the screen; the password is not."""
        text = text_of(self.app)
        assert PASSWORD not in text
        return text

    async def fill(self) -> None:
        """Have something in every list: a task that waits, one that runs, two dead letters, a row in the audit."""
        self.later = await self.stem.enqueue("t.quick", {"name": "patience"}, delay=3600)
        self.runs = await self.stem.enqueue("t.wait")
        self.dead = [await self.stem.enqueue("t.fail") for _ in range(2)]
        await self.becomes(self.runs, "running")
        for task_id in self.dead:
            await self.becomes(task_id, "failed")
        boss = connect_broker(url_of(self.server, self.namespace, "operator"), namespace=self.namespace)
        try:
            assert (await Controller(boss, actor="boss").pause("queue", ["other"])).items[0].changed
        finally:
            await boss.close()
        state = self.app.session.state
        await eventually(lambda: "work" in state.queues and state.queues["work"].dead == 2)
        await eventually(lambda: state.failures.groups(self.app.session.now_ms) and self.runs in state.running)

    async def reads(self, *words: str) -> None:
        """Wait until all of these are on the screen."""
        try:
            await eventually(lambda: all(word in self.text for word in words))
        except AssertionError:
            pytest.fail(f"not all of {words} on the screen:\n{self.text}")

    async def lives_on(self) -> None:
        """The dashboard polls, is live, has met no fault, and nothing stands over its screen."""
        feed = self.app.session.feed
        before = feed.polls
        await eventually(lambda: feed.polls > before + 1, what="polls go on")
        await phase(self.app, "LIVE")
        assert self.app.errors == []
        assert not isinstance(self.app.screen, ModalScreen)
        assert "cannot be drawn" not in self.text

    def stands(self) -> dict[str, object]:
        """Return all that stands on the server, as its administrator sees it, without what is renewed all the time."""
        found: dict[str, object] = {}
        with self.server.client() as administrator:
            for key in map(str, administrator.scan_iter(count=1000)):
                tail = key.partition("}:")[2]
                if tail.endswith(":lease"):  # with each beat they are prolonged
                    found[tail] = administrator.execute_command("ZRANGE", key, 0, -1)
                elif not RENEWED.match(tail):
                    found[tail] = administrator.execute_command("DEBUG", "DIGEST-VALUE", key)
        return found

    async def at(self, action: Action) -> str:
        """Put the cursor on a row that this can be done to; return its name."""
        if action.scope in ("queue", "worker"):
            screen, name = ("2", "work") if action.scope == "queue" else ("3", "w-a")
            await self.to(screen, name)
            return name
        if action.scope == "failure":
            await self.press("1")
            grid = self.app.screen.query_one("#failures", Grid)
            grid.focus()
            await eventually(lambda: grid.has_focus and grid.row is not None)
            return "t.fail"
        others = {"task.terminate": ("running", self.runs), "task.discard": ("dead", self.dead[0])}
        tab, task_id = others.get(action.id, ("scheduled", self.later))
        await self.to_task(tab, task_id)
        return "t.quick" if action.pauses else task_id

    async def is_told(self, action: Action) -> str:
        """Press the key of a deed, say yes to what it asks, and return what is said of it in the end."""
        session = self.app.session
        before = session.notice
        await self.press(action.keys[0])
        if action.name == "pause-for":
            await eventually(lambda: isinstance(self.app.screen, Prompt), what=f"{action.id} asks how long")
            await self.press(*"10m", "enter")
        if action.tier:
            await eventually(lambda: isinstance(self.app.screen, Confirm), what=f"{action.id} asks")
            screen = self.app.screen
            assert isinstance(screen, Confirm)
            word = screen.question.word
            await self.press(*(word or "y"), *(["enter"] if word else []))

        def said() -> str:
            notice = session.notice
            words = "" if notice is None or notice is before else "".join(cell.text for cell in notice.cells)
            return words if words.startswith(("✖", "✓", "!")) else ""

        words = await eventually(said, 20, what=f"{action.id} is answered")
        await self.reads(words[:50])
        return words


def url_of(server: Server, namespace: str, role: str) -> str:
    return f"redis://{namespace}-{role}:{PASSWORD}@127.0.0.1:{server.port}"


def allow(server: Server, namespace: str, role: str, rule: str) -> None:
    """Give this user the rights of a rule, whoever it was written for, instead of those that it has."""
    words = rule.split()
    server.command("ACL", "SETUSER", f"{namespace}-{role}", *words[3:], f">{PASSWORD}")


@asynccontextmanager
async def desk(own_server: OwnServer, namespace: str, role: str, **rules: str) -> AsyncIterator[Desk]:
    """Run a worker, and the dashboard as the user of this role; `rules` of further users, or other ones."""
    server = own_server(aof=False, tcp=True)
    for name, rule in {**access_rules(namespace), **rules}.items():
        allow(server, namespace, name, rule)
    made = Desk(server, namespace, role)
    async with AsyncExitStack() as closing:
        for each in (made.broker, made.own, made.stem):
            closing.push_async_callback(each.close)
        await made.start("w-a")
        closing.push_async_callback(made.workers["w-a"].shutdown, "hard")
        made.pilot = await closing.enter_async_context(made.app.run_test(size=(120, 36)))
        yield made


def without(namespace: str, *parts: str) -> str:
    """Return the rule of a viewer who may not read these keys, but all others that there are here."""
    prefix, rule = f"%R~{{{namespace}}}:", access_rules(namespace)["viewer"]
    known = [
        "task:*", "q:*", "queues", "workers", "worker:*", "fleet", "redact", "result:*", "desired:*", "events", "watch",
        "epoch", "fence", "stats:*", "history", "audit", "audit:outcomes", "schema", "control:log", "reply:*",
    ]  # fmt: skip
    assert f"{prefix}*" in rule
    assert set(parts) < set(known)
    return rule.replace(f"{prefix}*", " ".join(prefix + each for each in known if each not in parts))


async def once(server: Server, namespace: str, *more: str) -> str:
    """Return what `stem-tui --once` prints as viewer; it has to end well."""
    where, pipe = ("--url", url_of(server, namespace, "viewer"), "--namespace", namespace), asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "stem_tui", "--once", *where, *more)
    program = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, errors = (each.decode() for each in await program.communicate())
    assert program.returncode == 0, errors
    assert errors == ""
    assert PASSWORD not in out
    return out


async def test_a_viewer_sees_every_screen_and_all_details(own_server: OwnServer, namespace: str) -> None:
    """But what workers have to be asked for, since asking is writing: that is named in its place."""
    async with desk(own_server, namespace, "viewer") as it:
        # What happens between the first look and the moment from which the worker tells of it stands in no event.
        await eventually(lambda: it.workers["w-a"]._board.watched)
        await it.fill()
        shown: dict[str, tuple[str, ...]] = {
            "1": ("QUEUES 1", "✗ 2 dead", "w-a", "KeyError", "t.wait", "task.failed"),
            "2": ("QUEUES 1", "1 in flight", "QUEUE work", "BY TASK"),
            "3": ("WORKERS 1", "1 up", "w-a"),
            "4": ("RUNNING 1", "scheduled 1", "dead 2", it.runs[-8:]),
            "5": ("EVENTS", "worker.ready", "task.failed"),
            "6": ("AUDIT 1", "boss", "pause queue", "other", "applied"),
        }
        for key, words in shown.items():
            await it.press(key)
            await it.reads(*words)
            assert "✖" not in it.text
            await it.lives_on()

        await it.to("2", "work")
        await it.press("enter")
        await it.reads("RUNNING 1–1 of 1", it.runs[-8:])
        await it.press(*"lllll")
        await it.reads("DEAD 1–2 of 2", it.dead[0][-8:], it.dead[1][-8:])
        await it.lives_on()

        await it.to("3", "w-a")
        await it.press("enter")
        await it.reads("RUNNING HERE 1", "1 of 2 in use", it.runs[-8:], "worker.ready")
        await eventually(lambda: re.search(rf"pools +the broker at redis://{it.user}@\S+ refused", it.text))
        await it.press("t")
        await eventually(lambda: re.search(rf"(?m)^ +the broker at redis://{it.user}@\S+ refused", it.text))
        await it.lives_on()

        for tab, task_id, words in (
            ("running", it.runs, ("TASK t.wait", "it has been on w-a", "ARGUMENTS", "TIMELINE")),
            ("dead", it.dead[0], ("TASK t.fail", "KeyError: 'customer_id'", "Traceback", "TIMELINE")),
        ):
            await it.to_task(tab, task_id)
            await it.press("enter")
            await it.reads(task_id, *words)
            await it.lives_on()


async def test_a_viewer_sees_a_waiting_task_without_the_workers_word(own_server: OwnServer, namespace: str) -> None:
    async with desk(own_server, namespace, "viewer") as it:
        await it.fill()
        await it.to_task("scheduled", it.later)
        await it.press("enter")
        await it.reads("WHY", "it is scheduled for")
        await it.lives_on()
        await it.reads("TASK t.quick", "queue       work  priority 0", "ARGUMENTS", "patience", "TIMELINE", "ENVELOPE")


@pytest.mark.parametrize("scope", sorted({action.scope for action in CHANGES}))
async def test_every_deed_of_a_viewer_is_refused(own_server: OwnServer, namespace: str, scope: str) -> None:
    """By the server, which is as it was; and the dashboard says so and goes on."""
    async with desk(own_server, namespace, "viewer") as it:
        await it.fill()
        stood = it.stands()
        assert {"desired:pause", "audit", f"task:{it.later}", "q:work:dead", "q:work:delayed"} <= stood.keys()
        for action in (each for each in CHANGES if each.scope == scope):
            name = await it.at(action)
            words = await it.is_told(action)
            assert re.match(rf"✖ [a-z0-9 ]+{re.escape(name)}( for 10m)?: .*\brefused\b", words), words
            assert words.isprintable()
            assert it.user in it.text
            receipt = it.app.session.receipt
            assert receipt is None or receipt.verdict == "failed"
            assert it.stands() == stood, action.id
            await it.leave()
            await it.lives_on()
        assert (await it.status(it.runs), it.ran) == ("running", [])
        worker = it.app.session.state.workers[it.workers["w-a"].id]
        assert (worker.state, worker.paused_here) == ("running", False)
        # It was the server that refused, and nobody else was refused anything.
        assert {entry["username"] for entry in it.server.command("ACL", "LOG")} == {it.user}


async def test_a_refusal_can_be_read_on_a_screen_of_120_columns(own_server: OwnServer, namespace: str) -> None:
    """That it was refused; and that nothing was done, or that this is not sure."""
    async with desk(own_server, namespace, "viewer") as it:
        await it.fill()
        for deed in ("queue.pause", "task.terminate"):
            action = next(each for each in CHANGES if each.id == deed)
            await it.at(action)
            await it.is_told(action)
            assert "refused" in it.text
            assert re.search(r"nothing was|look whether it was applied", it.text), it.text


async def test_a_viewer_may_take_one_look(own_server: OwnServer, namespace: str) -> None:
    async with desk(own_server, namespace, "viewer") as it:
        await it.fill()
        # The worker says what it holds with each beat: one of the moment when two tasks ran says that it is full.
        worker = it.app.session.state.workers[it.workers["w-a"].id]
        await eventually(lambda: (worker.counters["failed"], worker.in_flight) == (2, 1))
        text = await once(it.server, namespace)
        data = json.loads(await once(it.server, namespace, "--format", "json"))

    for words in ("QUEUES 1", "✗ 2 dead", "WORKERS 1  1 up", "KeyError: 'customer_id'", "LONGEST RUNNING  1 running"):
        assert words in text
    assert (data["ok"], data["data"]["refused"]) == (True, {})
    assert [(row["name"], row["delayed"], row["dead"]) for row in data["data"]["queues"]] == [("work", 1, 2)]
    assert [(row["name"], row["diagnosis"]) for row in data["data"]["workers"]] == [("w-a", "healthy")]
    assert [row["id"] for row in data["data"]["running"]] == [it.runs]


async def test_what_may_not_be_read_is_named_and_costs_the_rest_nothing(own_server: OwnServer, namespace: str) -> None:
    rule = without(namespace, "stats:*", "history", "audit")
    async with desk(own_server, namespace, "viewer", viewer=rule) as it:
        await it.press("2")
        task_id = await it.stem.enqueue("t.wait")
        await it.becomes(task_id, "running")
        await it.reads("the server does not show history, statistics: ", "QUEUES 1", "1 in flight")
        await it.press("3")
        await it.reads("WORKERS 1", "w-a")
        await it.press("6")
        await it.reads("✖ the broker at", "refused")
        await it.press("4")
        await it.reads("RUNNING 1", task_id[-8:])
        await it.lives_on()
        data = json.loads(await once(it.server, namespace, "--format", "json"))["data"]
    assert set(data["refused"]) == {"statistics", "history"}
    assert [(row["name"], row["in_flight"]) for row in data["queues"]] == [("work", 1)]


async def test_what_is_asked_for_seldom_stays_named(own_server: OwnServer, namespace: str) -> None:
    """The history is polled every third second: what was refused then is still so in the polls between."""
    async with desk(own_server, namespace, "viewer", viewer=without(namespace, "history")) as it:
        await it.reads("the server does not show history: ")
        await it.lives_on()
        assert "the server does not show history: " in it.text


async def test_an_operators_deeds_are_done_and_confirmed(own_server: OwnServer, namespace: str) -> None:
    async with desk(own_server, namespace, "operator") as it:
        await it.fill()
        stood = it.stands()

        async def done(deed: str) -> str:
            await it.do(deed)
            receipt = it.app.session.receipt
            assert receipt is not None
            assert receipt.verdict == "ok"
            await it.leave()
            await it.reads(receipt.headline)
            return receipt.headline

        await it.to("2", "work")
        assert await done("queue.pause") == "queue work paused · 1 worker confirmed"
        assert ("queue", "work", False) in await it.pauses()
        assert it.stands() != stood
        await it.reads("‖ paused")
        assert await done("queue.pause") == "queue work resumed · 1 worker confirmed"
        assert ("queue", "work", False) not in await it.pauses()

        await it.to_task("scheduled", it.later)
        assert await done("task.revoke") == f"task {it.later} revoked"
        await it.becomes(it.later, "revoked")
        await it.to_task("running", it.runs)
        assert await done("task.terminate") == f"task {it.runs} terminated · 1 worker confirmed"
        await it.becomes(it.runs, "revoked")

        it.cured = True
        await it.to_task("dead", it.dead[0])
        assert await done("task.retry") == f"task {it.dead[0]} queued again"
        await it.becomes(it.dead[0], "succeeded")
        await it.to("2", "work")
        await eventually(lambda: it.app.session.state.queues["work"].dead == 1)
        assert await done("queue.replay") == "1 dead letter of queue work queued again"
        await it.becomes(it.dead[1], "succeeded")

        await it.lives_on()
        rows = (await it.own.census.audit()).items
        verbs = ["replay", "retry", "revoke", "revoke", "resume", "pause", "pause"]
        assert [(row.verb, row.outcome and row.outcome.verdict) for row in rows] == [(v, "applied") for v in verbs]
        await it.press("6")
        await it.reads("AUDIT 7", "boss", "replay", "terminate")
        assert it.server.command("ACL", "LOG") == []


async def test_a_user_without_rights_is_fatal_until_they_are_given(own_server: OwnServer, namespace: str) -> None:
    rule = access_rules(namespace)["viewer"]
    keyless = " ".join(word for word in rule.split() if "~" not in word)
    async with desk(own_server, namespace, "nobody", nobody=keyless) as it:
        await phase(it.app, "FATAL")
        await eventually(lambda: re.search(rf"✖ the broker at redis://{it.user}@\S+ refused .*", it.text))
        assert "permission" in it.app.session.link.error
        await it.reads("No answer from", "This screen fills by itself")
        assert it.app.session.feed.polls == 0

        allow(it.server, namespace, "nobody", rule)
        await phase(it.app, "LIVE")
        await it.fill()
        await it.reads("QUEUES 1", "w-a", "1 in flight")
        await it.lives_on()

        allow(it.server, namespace, "nobody", keyless)
        await phase(it.app, "FATAL")
        await it.reads("as of", "refused", "QUEUES 1", "1 in flight")
        await it.press("2")
        stood = it.stands()
        await it.press("P")
        await it.reads("not connected, nothing was sent")
        assert it.stands() == stood

        allow(it.server, namespace, "nobody", rule)
        await phase(it.app, "LIVE")
        await it.lives_on()
