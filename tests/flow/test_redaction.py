"""What a program names in `redact` is seen in no place but the stored body: one value planted everywhere, and searched.

A real worker process with handlers of all three kinds that put the value into errors, causes, notes and progress; every
command of the command line, the dashboard, the worker's log, the events and the whole keyspace are read.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest
import redis

from stem.adapters.connect import connect_broker
from stem.client import Stem
from stem.control.diagnose import diagnose
from stem.messages.status import TaskState, TaskStatus
from stem.observe.feed import Feed
from stem.observe.rows import TaskLine
from stem.observe.state import ClusterState
from stem_tui.app import StemTUI
from stem_tui.screens.details import TaskScreen
from stem_tui.session import Session
from tests.flow.running import Program, environment, program, run, running
from tests.servers import Server
from tests.tui.still import text_of
from tests.waiting import eventually

SECRET: Final = "hunter2-s3cr3t"
NUMBER: Final = 4111_1111_1111_1111
PLANTED: Final = ("hunter2", "s3cr3t", str(NUMBER))
ARGS: Final = {"user": "ada", "password": SECRET, "card": {"number": NUMBER, "name": "A. L."}}

APP: Final = """
import asyncio
from stem import Stem, TaskOptions

app = Stem.connect()
HIDING = TaskOptions(max_retries=0, redact=["password", "card.number"])


def fail(args):
    try:
        raise KeyError(args["password"])
    except KeyError as cause:
        error = ValueError(f"cannot charge {args['card']} of {args['password']}")
        error.add_note("noted: " + args["password"])
        raise error from cause


@app.task("pay.async", base=HIDING)
async def pay_async(context, user, password, card):
    context.progress({"step": password, password: card["number"]})
    fail({"password": password, "card": card})


@app.task("pay.process", base=HIDING, isolation="process")
def pay_process(context, user, password, card):
    context.progress("with " + password)
    fail({"password": password, "card": card})


class PayThread:
    name = "pay.thread"
    options = HIDING

    def __call__(self, context, args):
        context.progress([args["password"]])
        try:
            fail(args)
        finally:
            args.clear()


app.registry.register(PayThread())


@app.task("pay.again", max_retries=5, redact=["password", "card.number"])
async def pay_again(context, user, password, card):
    try:
        fail({"password": password, "card": card})
    except ValueError:
        context.retry(countdown=600)


@app.task("pay.slow", base=HIDING)
async def pay_slow(context, user, password, card):
    context.progress(f"charging {card['number']} of {password}")
    await asyncio.sleep(60)


@app.task("pay.well", base=HIDING)
async def pay_well(user, password, card):
    return {"receipt": f"for {password}"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secretive.py").write_text(APP)
    return tmp_path


@pytest.fixture
def env(valkey_url: str, namespace: str, folder: Path) -> dict[str, str]:
    return environment(
        STEM_BROKER_URL=valkey_url, STEM_NAMESPACE=namespace, PYTHONPATH=str(folder), STEM_HEARTBEAT_INTERVAL="300ms"
    )


@pytest.fixture
def worker(env: dict[str, str], folder: Path) -> Iterator[Program]:
    with running([program("stem-worker"), "secretive:app", "--name", "till"], env=env, folder=folder) as started:
        started.await_error("worker.ready", timeout=60)
        yield started


def leaks(text: str) -> list[str]:
    """Return the lines in which something of the planted value stands."""
    return [line for line in text.splitlines() if any(part in line for part in PLANTED)]


def stored(server: Server, namespace: str, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return everything under the namespace but the bodies of tasks, as text by key (and field)."""
    found: dict[str, str] = {}
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        for key in client.scan_iter(match=f"{{{namespace}}}*", count=1000):
            name = key.decode()
            match client.type(key).decode():
                case "hash":
                    rows = cast(dict[bytes, bytes], client.hgetall(key))
                    for field, value in rows.items():
                        place = f"{name} {field.decode(errors='replace')}"
                        if not (":task:" in name and field == b"b"):
                            found[place] = value.decode(errors="replace")
                case "string":
                    found[name] = cast(bytes, client.get(key)).decode(errors="replace")
                case "list":
                    found[name] = repr(client.lrange(key, 0, -1))
                case "set":
                    found[name] = repr(client.smembers(key))
                case "zset":
                    found[name] = repr(client.zrange(key, 0, -1, withscores=True))
                case "stream":
                    found[name] = repr(client.xrange(key))
    return {place: text for place, text in found.items() if place not in without}


async def ended(stem: Stem, task_id: str, *states: TaskState) -> TaskStatus:
    async def there() -> TaskStatus | None:
        status = await stem.status(task_id)
        return status if status.state in states else None

    return cast(TaskStatus, await eventually(there, 15, what=f"{task_id} to be {states}"))


@pytest.mark.timeout(180)  # some fifty commands and a dashboard, on whatever machine
async def test_a_redacted_value_is_seen_nowhere_but_in_the_body(
    worker: Program, env: dict[str, str], folder: Path, valkey_server: Server, namespace: str
) -> None:
    broker = connect_broker(env["STEM_BROKER_URL"], namespace=namespace)
    stem = Stem(broker)  # knows no task, so nothing of `redact` travels: readers learn it from the worker
    try:
        await broker.events.watch("test", for_ms=180_000)
        cursor = await broker.events.tail()
        with running([program("stemctl"), "events", "--follow", "--for", "150s"], env=env, folder=folder) as following:
            following.await_error("following")
            ids = {name: await stem.enqueue(name, ARGS) for name in ("pay.slow", "pay.again", "pay.well")}
            for name in ("pay.async", "pay.thread", "pay.process"):
                ids[name] = await stem.enqueue(name, ARGS)
                status = await ended(stem, ids[name], TaskState.FAILED)
                assert status.error is not None
                assert status.error.message == "cannot charge {'number': ***, 'name': 'A. L.'} of ***"
                assert "noted: ***" in status.error.traceback
                assert "KeyError: '***'" in status.error.traceback
                following.await_output("cannot charge")
            await ended(stem, ids["pay.again"], TaskState.RETRYING)
            well = await ended(stem, ids["pay.well"], TaskState.SUCCEEDED)
            assert well.result == {"receipt": f"for {SECRET}"}  # the program's own data, and stored as it is
            slow = await ended(stem, ids["pay.slow"], TaskState.RUNNING)

            async def told() -> bool:
                beats = [seen.heartbeat for seen in await broker.presence.workers()]
                return [row.progress for beat in beats for row in beat.running] == ["charging *** of ***"]

            await eventually(told)
            batch = await broker.events.read(cursor, timeout_s=2.0)
            assert batch.events
            assert "charging *** of ***" in repr(batch.events)
            assert leaks(repr(batch.events)) == []
            said = _all_commands(env, folder, ids)
            shown = await _dashboard(env, namespace, ids)
            everywhere = stored(valkey_server, namespace, without=frozenset({f"{{{namespace}}}:task:{well.id} re"}))
            assert slow.id in repr(everywhere)
            assert [(place, text) for place, text in everywhere.items() if leaks(text)] == []
            assert leaks(following.output + following.errors) == []
        assert leaks(said) == []
        assert said.count('"password": "***"') >= 7
        assert '"name": "A. L."' in said  # what stands beside it is shown
        assert leaks(shown) == []
        assert shown.count("***") > 10
        assert worker.stop(signal.SIGQUIT) == 0
        assert "cannot charge" in worker.errors
        assert leaks(worker.errors + worker.output) == []
    finally:
        await stem.close()
        await broker.close()


async def test_names_are_known_before_the_first_worker_and_after_the_last(
    env: dict[str, str], folder: Path, valkey_server: Server, namespace: str
) -> None:
    """Before: where the program that enqueues knows the handler. After: also when the heartbeats are forgotten."""
    enqueue = (
        "import asyncio, json, sys, secretive\n"
        "print(asyncio.run(secretive.app.enqueue('pay.async', json.loads(sys.argv[1]))))"
    )
    known = run([sys.executable, "-c", enqueue, json.dumps(ARGS)], env=env, folder=folder).stdout.strip()
    by_name = [program("stemctl"), "enqueue", "pay.async", "--json-args", json.dumps(ARGS), "--quiet"]
    unknown = run(by_name, env=env, folder=folder).stdout.strip()

    def show(task_id: str) -> str:
        ran = run([program("stemctl"), "tasks", "show", task_id], env=env, folder=folder)
        assert "A. L." in ran.stdout, ran.stderr
        return ran.stdout

    assert leaks(show(known)) == []
    assert leaks(show(unknown)) != []  # nobody has said that it is to be hidden
    with running([program("stem-worker"), "secretive:app", "--queue", "other"], env=env, folder=folder) as started:
        started.await_error("worker.ready", timeout=60)
        assert leaks(show(unknown)) == []
        assert started.stop() == 0
    for key in valkey_server.command("KEYS", f"{{{namespace}}}:worker*"):
        valkey_server.command("DEL", key)

    assert leaks(show(unknown)) == []
    assert leaks(show(known)) == []


def _all_commands(env: dict[str, str], folder: Path, ids: dict[str, str]) -> str:
    """Return what every command that may speak of a task says, for people and for programs."""
    each: list[list[str]] = []
    for task_id in ids.values():
        each += [["tasks", "show", task_id], ["why", task_id], ["result", task_id], ["dlq", "show", task_id]]
    each += [
        ["tasks", "ls"],
        ["dlq", "ls"],
        ["events"],
        ["audit", "ls"],
        ["workers", "ls"],
        ["workers", "show", "till"],
    ]
    each += [["tasks", "ls", "--state", state] for state in ("running", "retrying", "succeeded", "failed")]
    each += [["inspect", what] for what in ("active", "reserved", "registered", "config", "stack")]
    each += [["stats"], ["acl", "print"]]
    request = ["enqueue", "pay.well", "--json-args", json.dumps(ARGS)]
    each += [[*request, "--dry-run"], [*request, "--delay", "1h"]]
    spoken = ("show", "result", "ls", "active", "enqueue", "events")
    commands = [*each, *([*command, "--json"] for command in each if set(command) & set(spoken))]
    script = (
        "import io, sys, json\nfrom stemctl.main import main\n"
        "for argv in json.loads(sys.argv[1]):\n    print('$', argv[0]); main(argv); sys.stdout.flush()\n"
    )
    ran = run([sys.executable, "-c", script, json.dumps(commands)], env=env, folder=folder, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


async def _dashboard(env: dict[str, str], namespace: str, ids: dict[str, str]) -> str:
    """Return what the dashboard's lists and its page of each task show."""
    broker = connect_broker(env["STEM_BROKER_URL"], namespace=namespace)
    state = ClusterState(diagnose)
    feed = Feed(broker, state, watcher="screen", interval_s=0.05)
    app = StemTUI(Session(state=state, feed=feed, url=broker.url, namespace=namespace, hz=5), broker)
    seen: list[str] = []
    try:
        async with app.run_test(size=(160, 80)) as pilot:
            await eventually(lambda: "till" in text_of(app), 40)
            for key in ("1", "2", "3", "4", "5"):
                await pilot.press(key)
                seen.append(text_of(app))
            for name, task_id in ids.items():
                app.push_screen(TaskScreen(app.session, TaskLine(key=task_id, id=task_id, task=name)))
                await eventually(lambda: "ARGUMENTS" in text_of(app), 40)
                seen.append(text_of(app))
                await pilot.press("escape")
            assert not app.errors
    finally:
        await broker.close()
    return "\n".join(seen)
