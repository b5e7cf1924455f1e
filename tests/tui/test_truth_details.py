"""What Queues, Workers, Tasks and the details of each say is what the server holds: at rest, under load, after faults.

The app runs here over real worker processes; its text, as a person reads it, is compared with what another broker
handle is told. At rest nothing may differ. Under load all of it must have been so at some moment of the last seconds: a
number between the least and the greatest, a list with all that was in it throughout and nothing that never was. Nobody
can judge what comes and goes between two questions: two such moments are let pass; where the questions lie too far
apart a moment does not count, and if most do not the test is skipped, once the rest at its end was compared.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from stem.adapters.connect import connect_broker
from stem.contracts import ListState, QueueRow, Seen
from stem.control.diagnose import diagnose
from stem.messages.envelope import Envelope
from stem.messages.status import FINAL_STATES, TaskState, TaskStatus
from stem.observe.feed import Feed
from stem.observe.state import ClusterState
from stem_tui.app import StemTUI
from stem_tui.session import Session
from stem_tui.widgets.command import CommandLine
from tests.conftest import OwnServer
from tests.faults.fleet import World
from tests.servers import Server
from tests.tui.sampler import PACE_S, word_of
from tests.tui.still import text_of
from tests.tui.test_truth import GAP_S, QUEUES, SLOTS, world_of
from tests.tui.test_typeahead import type_at_once
from tests.waiting import eventually

Tasks = list[tuple[str, str]]  # of each the end of its id, and its name
Fields = dict[str, tuple[Any, Any]]  # by what it is: what the screen says, and what the server holds
Differ = Callable[[str, "Held"], Fields]
SETTLED_S: Final = 8.0  # once the server holds still: until the screen says exactly that, also on a busy machine
WINDOW_S: Final = 2.5  # a screen may be that old: it asks once a second, and of a task its worker, too
MOMENTS: Final = 18
PAGE: Final = 100
ROWS: Final = 30  # of a list that are on the screen at least, if there are as many; the rest when scrolled
TABS: Final[Mapping[ListState, str]] = {"running": "in_flight", "queued": "ready", "scheduled": "delayed",
                                        "retrying": "retrying", "held": "held", "dead": "dead"}  # fmt: skip
COLUMNS: Final = ("RUN", "READY", "DELAY", "RETRY", "HELD", "DEAD")
LOAD: Final[Sequence[tuple[str, Mapping[str, Any]]]] = (
    ("nap", {"seconds": 0.3}), ("nap", {"seconds": 0.8}), ("nap", {"seconds": 0.3, "delay": 1.5}), ("raising", {}),
    ("flaky", {"failures": 1}), ("again", {"countdown": 1.0}))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the server holds; what ended is that of the last hour, and the details are those of the tasks watched."""

    at_s: float
    queues: Mapping[str, QueueRow]
    workers: Mapping[str, Seen]
    tasks: Mapping[tuple[str, ListState], Sequence[TaskStatus]]
    ended: Mapping[tuple[str, str], int]
    details: Mapping[str, tuple[TaskStatus, Mapping[str, Any]]]


def panel(text: str, title: str) -> list[str]:
    """Return the rule and all lines below it up to the next one, of a panel that begins at the left edge."""
    lines = text.split("\n")
    rule = re.compile(rf"─ {title}(?: [\d,–]+(?: of [\d,]+)?)? ─")
    top = next((at for at, line in enumerate(lines) if rule.match(line)), len(lines))
    end = next((at for at in range(top + 1, len(lines)) if lines[at].startswith("─")), len(lines))
    return lines[top:end]


def cell(row: str, head: str, column: str) -> str:
    """Return the word that stands under the head of a column."""
    title = re.search(rf"(?<!\S){column}(?!\S)", head)
    assert title, f"no column {column} in {head!r}"
    words = (each for each in re.finditer(r"\S+", row) if each.start() < title.end() and each.end() > title.start())
    return next((each[0] for each in words), "")


def amount(said: str) -> int:
    """Return a number that is written with commas; nothing is -1."""
    return int(said.replace(",", "")) if re.fullmatch(r"[\d,]+", said) else -1


def rows(text: str, title: str) -> dict[str, tuple[str, str, str]]:
    """Return of each row of a list with states the word of its state, the row and the heads, by name."""
    lines, found = panel(text, title), dict[str, tuple[str, str, str]]()
    for row in lines[2:]:
        if state := re.match(r"\S ((?:no )?[a-z]+)", row[lines[1].index("STATE") :]):
            found[cell(row, lines[1], "NAME")] = state[1], row, lines[1]
    return found


def listed(text: str, title: str) -> Tasks:
    lines = panel(text, title)
    shown = ((cell(row, lines[1], "ID"), cell(row, lines[1], "TASK")) for row in lines[2:])
    return [each for each in shown if re.fullmatch(r"[0-9a-f]{8}", each[0])]


def short(statuses: Iterable[TaskStatus]) -> Tasks:
    return [(status.id[-8:], status.task) for status in statuses]


def tabs(text: str) -> tuple[str, dict[str, int]]:
    """Return the tab that is open, and the number beside each; none is 0."""
    line = next((line for line in text.split("\n") if line.endswith("← →")), "")
    found = re.findall(r"([A-Za-z]+)(?: ([\d,]+))?", line.replace("/h", ""))
    chosen = next((name.lower() for name, _ in found if name.isupper()), "")
    return chosen, {name.lower(): amount(said or "0") for name, said in found}


def fact(text: str, label: str, pattern: str = "(.*)") -> str:
    """Return what the groups of a pattern find in what stands beside a label."""
    line = re.search(rf"^   {label:<12}(.*)$", text, re.MULTILINE)
    found = re.search(pattern, line[1]) if line else None
    return "|".join(group or "" for group in found.groups()).strip() if found else ""


def value(text: str, title: str) -> Any:
    shown = "\n".join(panel(text, title)[1:]).strip()
    return json.loads(shown) if shown not in ("", "–") else None


def state_of(row: QueueRow) -> str:
    idle = not row.consumers and (row.ready or row.delayed or row.retrying)
    return "paused" if row.pause is not None else "no worker" if idle else "run"


def queues(text: str, held: Held) -> Fields:
    shown = rows(text, "QUEUES")
    found: Fields = {"names": (sorted(shown), sorted(held.queues))}
    for name, (state, row, head) in shown.items():
        if name in held.queues:
            for column, field in zip(COLUMNS, TABS.values(), strict=True):
                found[f"{name} {column}"] = amount(cell(row, head, column)), getattr(held.queues[name], field)
            found[f"{name} state"] = state, state_of(held.queues[name])
    return found


def tabs_of(text: str, held: Held, names: Collection[str], tab: str) -> Fields:
    """Compare what stands beside the tabs with the sums over these queues."""
    chosen, said = tabs(text)
    wanted: dict[str, int] = {tab: sum(getattr(held.queues[each], at) for each in names) for tab, at in TABS.items()}
    wanted |= {outcome: sum(held.ended.get((name, outcome), 0) for name in names) for outcome in FINAL_STATES}
    return {"open": (chosen, tab)} | {f"tab {each}": (said.get(each), count) for each, count in wanted.items()}


def queue(text: str, held: Held, *, name: str, tab: ListState, page: int = 0) -> Fields:
    every, said = short(held.tasks[name, tab]), listed(text, tab.upper())
    here = every[page * PAGE : (page + 1) * PAGE]
    span = f"{page * PAGE + 1:,}–{page * PAGE + len(here):,} of {len(every):,}" if here else "0"
    seen = here[: max(ROWS, len(said))]
    found: Fields = {
        "state": (fact(text, "state", r"^\S ((?:no )?[a-z]+)"), state_of(held.queues[name])),
        "tasks": (frozenset(said), frozenset(seen)),
        # The order of what runs is that of the leases, which every beat renews.
        "order": (said if tab != "running" else [], seen if tab != "running" else []),
        "order, place": (re.findall(r"^─ [A-Z]+ (.*?) ─", "".join(panel(text, tab.upper())[:1])), [span]),
    }
    return found | tabs_of(text, held, [name], tab)


def workers(text: str, held: Held) -> Fields:
    shown = rows(text, "WORKERS")
    found: Fields = {"names": (sorted(shown), sorted(held.workers))}
    for name, (state, row, head) in shown.items():
        if name in held.workers:
            seen, beat = held.workers[name], held.workers[name].heartbeat
            in_use, slots = "".join(re.findall(r" ([\d–]+/\d+) ", row)).partition("/")[::2]
            found[f"{name} state"] = state, word_of(seen)
            found[f"{name} in use"] = amount(in_use), -1 if seen.lost else beat.in_flight
            found[f"{name} slots"] = amount(slots), beat.concurrency
            found[f"{name} DONE"] = amount(cell(row, head, "DONE")), beat.counters["succeeded"]
    return found


def worker(text: str, held: Held, *, name: str) -> Fields:
    """Compare; what a lost one had at its last beat nobody has any more."""
    seen, beat = held.workers[name], held.workers[name].heartbeat
    in_use, slots = fact(text, "slots", r"([\d–]+) of (\d+) in use").partition("|")[::2]
    counted = re.findall(r"([a-z][a-z ]*?) ([\d,]+)", fact(text, "counters"))
    said = {word.replace(" ", "_"): amount(count) for word, count in counted}
    counters = {word: (said.get(word, 0), beat.counters.get(word, 0)) for word in said.keys() | beat.counters.keys()}
    every = [(tab, each) for (_, tab), found in held.tasks.items() for each in found]
    here = [each for tab, each in every if tab == "running" and each.worker == beat.id]
    return counters | {
        "state": (fact(text, "state", r"^\S ([a-z]+)"), word_of(seen)),
        "in use": (amount(in_use), -1 if seen.lost else beat.in_flight),
        "slots": (amount(slots), beat.concurrency),
        "tasks": (frozenset(listed(text, "RUNNING HERE")), frozenset(short(here))),
    }  # fmt: skip


def tasks(text: str, held: Held, *, tab: ListState) -> Fields:
    wanted, said = {each for name in held.queues for each in short(held.tasks[name, tab])}, listed(text, tab.upper())
    cut = ROWS <= len(said) < len(wanted)
    found: Fields = {"tasks": (frozenset(said), frozenset(wanted & set(said) if cut else wanted))}
    return found | tabs_of(text, held, held.queues, tab) | {"one row a task": (len(said), len(set(said)))}


def runs(status: TaskStatus, names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return of each run when it began, on which worker, and how it ended."""
    found: list[tuple[str, str, str]] = []
    for entry in status.timeline:
        if entry.event == "started":
            found.append((time.strftime("%H:%M:%S", time.gmtime(entry.at_ms // 1000)), names[entry.worker], "running"))
        elif found and found[-1][2] == "running":
            found[-1] = (*found[-1][:2], entry.event.replace("_", " "))
    return found


def task(text: str, held: Held, *, task_id: str) -> Fields:
    status, args = held.details[task_id]
    names = {seen.heartbeat.id: name for name, seen in held.workers.items()}
    head, error = "\n".join(panel(text, f"TASK {status.task}")), status.error
    ran = re.findall(r"^ +\d+  (\S+)  (\S+) +waited .*ran .* \S ([a-z][a-z ]*?)(?:  .*)?$",
                     "\n".join(panel(text, "RUNS")), re.MULTILINE)  # fmt: skip
    shown = "".join(panel(text, "ERROR" if status.state.final else "LAST ERROR")[1:2]).strip()
    tries = r"^(\d+)(?: of (\d+))?(?:  comes next)?  starts (\d+)(?:  workers lost under it (\d+))?"
    allowed = "" if error is None or error.max_retries is None else error.max_retries + 1
    word = "ok" if status.succeeded else status.state.value
    return {
        "state": (fact(head, "state", r"^\S ([a-z]+)(?:  (.*))?"), f"{word}|{status.reason}"),
        "id": (fact(head, "id"), task_id),
        "queue": (fact(head, "queue"), f"{status.queue}  priority {status.priority}"),
        "worker": (fact(head, "worker"), names[status.worker] if status.worker else "–"),
        "tries": (fact(head, "try", tries), f"{status.attempt + 1}|{allowed}|{status.token}|{status.crashes or ''}"),
        "runs": (ran, runs(status, names)),
        "starts": (len(ran), status.token),
        "error": (shown, "" if error is None else f"{error.type}: {error.message}"),
        "result": (value(text, "RESULT"), status.result),
        "arguments": (value(text, "ARGUMENTS"), dict(args)),
    }  # fmt: skip


def wrong(differ: Differ, text: str, looks: Iterable[Held]) -> list[str]:
    """Return what the screen says that was so at none of these looks at the server; a single one is met exactly."""
    found = [differ(text, look) for look in looks]
    return [f"{what}: said is {said!r}, held is {held[-1]!r} (the last of {len(held)})"
            for what, (said, _) in found[-1].items()
            if not so(what, said, held := [each[what][1] for each in found if what in each])]  # fmt: skip


def so(what: str, shown: Any, held: Sequence[Any]) -> bool:
    if shown in held or len(held) == 1:
        return shown in held
    if isinstance(shown, frozenset):
        return frozenset.intersection(*held) <= shown <= frozenset.union(*held)
    return what.startswith("order") or (isinstance(shown, int) and min(held) <= shown <= max(held))


class Stage:
    """The dashboard over a world, somebody at its keys, and somebody who asks the server the same."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.truth = world.broker
        self.broker = connect_broker(world.url, namespace=world.namespace)
        self.watched: list[str] = []
        state = ClusterState(diagnose)
        session = Session(
            state=state, feed=Feed(self.broker, state, watcher="test"), url=self.broker.url, namespace=world.namespace
        )
        self.app = StemTUI(session, self.broker, actor="tester")
        self.pilot: Pilot[int]

    async def held(self) -> Held:
        census, at_s = self.truth.census, time.monotonic()
        queues = {row.name: row for row in await census.queues()}
        tasks, ended = dict[tuple[str, ListState], Sequence[TaskStatus]](), Counter[tuple[str, str]]()
        for name, state in ((name, state) for name in queues for state in TABS):
            tasks[name, state] = (await census.tasks(state, queue=name, limit=500)).items
        for row in await census.minutes(60):
            ended.update({(row.queue, outcome): count for outcome, count in row.counts.items()})
        details = dict[str, tuple[TaskStatus, Mapping[str, Any]]]()
        for status in filter(None, await self.truth.statuses(self.watched)):
            body = await self.truth.body(status.id)
            details[status.id] = status, Envelope.decode(body[0]).args if body else {}
        workers = {seen.heartbeat.name: seen for seen in await self.truth.presence.workers()}
        return Held(at_s=at_s, queues=queues, workers=workers, tasks=tasks, ended=ended, details=details)

    async def says(self, differ: Differ, held: Held | None = None) -> None:
        """Wait until the screen says exactly what the server holds, or held."""
        until_s = time.monotonic() + SETTLED_S
        while differing := wrong(differ, text := text_of(self.app), [held or await self.held()]):
            assert time.monotonic() < until_s, "\n".join([*differing, text])
            await asyncio.sleep(PACE_S)
        assert self.app.errors == []

    async def open(self, kind: str, name: str = "") -> None:
        """Open the details of a queue, worker or task, or the screen of a key."""
        self.watched = [name] if kind == "task" else []
        if name:
            await self._command(f"{kind} {name}")
        else:
            type_at_once(self.app, kind)
        titles = {"2": "─ QUEUES ", "3": "─ WORKERS ", "4": "  all ", "task": f"   id          {name}"}
        shown = "\n" + titles.get(kind, f"─ {kind.upper()} {name} ")
        until_s = time.monotonic() + SETTLED_S
        while shown not in text_of(self.app):
            assert time.monotonic() < until_s, f"{kind} {name} is not open\n{text_of(self.app)}"
            await asyncio.sleep(PACE_S)

    async def _command(self, line: str) -> None:
        """Give a command line that somebody pasted: key by key an id takes a second."""
        type_at_once(self.app, ":")
        await eventually(lambda: isinstance(self.app.focused, Input) and isinstance(self.app.screen, CommandLine))
        self.app.screen.query_one(Input).value = line
        type_at_once(self.app, "\n")

    async def to_tab(self, tab: str) -> None:
        while tabs(text_of(self.app))[0] != tab:
            await self.pilot.press("right")

    async def tour(self, *task_ids: str) -> None:
        """Look at every screen; each says what the server holds."""
        await self.open("2")
        await self.says(queues)
        for name in (held := await self.held()).queues:
            await self.open("queue", name)
            for tab in TABS:
                await self.to_tab(tab)
                await self.says(partial(queue, name=name, tab=tab))
                if len(held.tasks[name, tab]) > PAGE:
                    await self.pilot.press("n")
                    await self.says(partial(queue, name=name, tab=tab, page=1))
        await self.open("3")
        await self.says(workers)
        for name in held.workers:
            await self.open("worker", name)
            await self.says(partial(worker, name=name))
        await self.open("4")
        for tab in TABS:
            await self.to_tab(tab)
            await self.says(partial(tasks, tab=tab))
        for task_id in task_ids:
            await self.open("task", task_id)
            await self.says(partial(task, task_id=task_id))
            await self.pilot.press("escape")

    async def anywhere(self, number: int, chance: random.Random) -> Differ:
        """Go to a screen, each in its turn; the details of a task are of one that is retried."""
        kind = ("2", "3", "4", "queue", "worker", "task")[number % 6]
        name, tab, who = chance.choice(QUEUES), chance.choice(list(TABS)), chance.choice(("w1", "w2"))
        task_id = await self.world.enqueue("again", countdown=1.5)
        await self.open(kind, {"queue": name, "worker": who, "task": task_id}.get(kind, ""))
        await self.to_tab(tab if kind in ("4", "queue") else "")
        found: dict[str, Differ] = {"2": queues, "3": workers, "4": partial(tasks, tab=tab)}
        found |= {"queue": partial(queue, name=name, tab=tab), "worker": partial(worker, name=who)}
        return found.get(kind, partial(task, task_id=task_id))


@asynccontextmanager
async def stage(server: Server, namespace: str, folder: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as closing:
        made = Stage(await closing.enter_async_context(world_of(server, namespace, folder)))
        closing.push_async_callback(made.broker.close)
        made.pilot = await closing.enter_async_context(made.app.run_test(size=(200, 75)))
        yield made


async def stock(world: World) -> list[str]:
    """Have something in every column and tab; return a task of each kind."""
    some = world.enqueue_some
    await world.controller.pause("queue", ["mail"], reason="a look at the screens")
    await world.controller.pause("task", ["fault.polite_thread"])
    ended = [*await some(3, "quick"), *await some(2, "flaky", failures=2), *await some(3, "raising")]
    waits = await some(3, "quick", queue="mail", n=7, delay=3_600)
    retries, held = await some(3, "again", countdown=600), await some(2, "polite_thread", seconds=0.5)
    runs, queued = await some(5, "nap", seconds=600), await some(130, "quick", queue="mail")
    await world.controller.revoke([waits[0]], reason="nobody wants it")
    await world.all_final(ended)
    await world.started(*runs)
    await world.ledger.wait_for("retry", retries)
    return [ended[0], ended[3], ended[5], *waits[:2], retries[0], held[0], runs[0], queued[0]]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_at_rest_and_after_the_server_was_killed(own_server: OwnServer, namespace: str, tmp_path: Path) -> None:
    server = own_server(aof=True)
    async with stage(server, namespace, tmp_path) as it:
        await it.world.workers("w1", "w2", queues=QUEUES, concurrency=SLOTS)
        kinds = await stock(it.world)
        await it.tour(*kinds)
        before = await it.held()
        found = {name: [getattr(row, each) for each in TABS.values()] for name, row in before.queues.items()}
        assert found == {"default": [5, 0, 0, 3, 2, 3], "mail": [0, 130, 2, 0, 0, 0]}
        await it.open("queue", "default")
        await it.to_tab("dead")
        await it.says(dead := partial(queue, name="default", tab="dead"))
        server.kill9()
        await eventually(lambda: "✖ DOWN" in text_of(it.app))
        await it.says(dead, before)
        for key, differ in (("2", queues), ("3", workers)):
            await it.open(key)
            await it.says(differ, before)
        server.start()
        await eventually(lambda: "● LIVE" in text_of(it.app))
        await it.tour(*kinds)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_under_load_and_after_a_worker_was_killed(valkey_server: Server, namespace: str, tmp_path: Path) -> None:
    chance, looks = random.Random(), deque[Held](maxlen=200)
    judged, doubts = 0, list[str]()
    async with stage(valkey_server, namespace, tmp_path) as it:
        world = it.world
        victim = await world.worker("w1", queues=QUEUES, concurrency=SLOTS)
        moved = [await world.enqueue(name, seconds=600) for name in ("nap", "nap_first")]
        await world.started(*moved)
        await world.worker("w2", queues=QUEUES, concurrency=SLOTS)

        async def watch() -> None:
            while True:
                looks.append(await it.held())
                await asyncio.sleep(PACE_S)

        async def produce() -> None:
            while True:
                name, options = chance.choice(LOAD)
                await world.enqueue(name, queue=chance.choice(QUEUES), **options)
                await asyncio.sleep(chance.uniform(0.05, 0.2))

        async with asyncio.TaskGroup() as group:
            both = [group.create_task(watch()), group.create_task(produce())]
            await eventually(lambda: looks and len(looks[-1].queues) == len(QUEUES))
            for moment in range(MOMENTS):
                if moment == MOMENTS // 2:
                    victim.kill9()
                differ = await it.anywhere(moment, chance)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                await eventually(lambda: "\n   asking …" not in text_of(it.app), what="the screen has its answer")
                text, at_s = text_of(it.app), time.monotonic()
                await eventually(partial(lambda at_s: looks[-1].at_s > at_s, at_s), what="the server was asked")
                seen = [each for each in looks if each.at_s > at_s - WINDOW_S and it.watched == list(each.details)]
                if max((after.at_s - before.at_s for before, after in pairwise(seen)), default=GAP_S) < GAP_S:
                    judged += 1
                    if differing := wrong(differ, text, seen):
                        doubts.append("\n".join([f"moment {moment}", *differing, text]))
            for each in both:
                each.cancel()
        assert len(doubts) <= 2, "\n".join(doubts)
        await world.ledger.wait_for("start", moved, count=2)
        await world.reaches(moved[1], TaskState.SUCCEEDED)
        await it.tour(*moved)
        found = await it.truth.statuses(moved)
        assert [each and (each.crashes, each.token) for each in found] == [(1, 2)] * 2
    if judged < MOMENTS // 3:
        pytest.skip(f"this machine is too busy: only {judged} of {MOMENTS} moments could be judged")
