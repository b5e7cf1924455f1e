"""The server goes away and comes back: the picture stays, grey and dated, nothing is sent, what was missed is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis
from textual.pilot import Pilot

from stem.adapters.connect import connect_broker
from stem.contracts import Broker, NewTask
from stem.messages.event import Event
from stem_tui.app import StemTUI
from stem_tui.widgets.dialogs import Confirm
from stem_tui.widgets.grid import Grid
from tests.conftest import OwnServer
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import Fault
from tests.servers import Server
from tests.tui.still import text_of
from tests.tui.test_live import live_app
from tests.waiting import eventually

SIZE = (120, 40)


@asynccontextmanager
async def watching(url: str, namespace: str) -> AsyncIterator[tuple[StemTUI, Pilot[int]]]:
    """Run the dashboard over this server until the block ends; nothing in it may have gone wrong."""
    broker = connect_broker(url, namespace=namespace)
    app = live_app(broker)
    try:
        async with app.run_test(size=SIZE) as pilot:
            yield app, pilot
            assert app.errors == []
    finally:
        await broker.close()


async def enqueue(url: str, namespace: str, *ids: str) -> None:
    broker = connect_broker(url, namespace=namespace)
    try:
        await broker.enqueue([NewTask(id=each, task="a", queue="mail", body=b"b") for each in ids])
    finally:
        await broker.close()


async def phase(app: StemTUI, *wanted: str) -> None:
    """Wait until line 1 says one of these."""
    await eventually(lambda: any(f" {word}" in text_of(app).splitlines()[0] for word in wanted), 15, what=str(wanted))


def tones(app: StemTUI) -> set[str | None]:
    """Return the colours of the rows of the queues."""
    grid = app.screen.query_one("#queues", Grid)
    texts = [segment for segment in grid.render_line(2) if segment.text.strip()]
    return {segment.style.color.name if segment.style and segment.style.color else None for segment in texts}


async def kept_and_dead(app: StemTUI, pilot: Pilot[int]) -> None:
    """Check what holds while there is no answer: the picture of before, grey, as of then, and nothing can be sent."""
    header = text_of(app).splitlines()[0]
    assert "as of" in header
    assert "mail" in text_of(app)
    assert tones(app) == {app.session.look.style("stale").color.name}  # type: ignore[union-attr]
    moment = app.session.now_ms
    stack = len(app.screen_stack)
    await pilot.press("P")
    await eventually(lambda: "not connected, nothing was sent" in text_of(app))
    assert len(app.screen_stack) == stack
    assert app.session.now_ms == moment


async def test_a_server_that_is_killed_leaves_the_picture_and_comes_back(own_server: OwnServer, namespace: str) -> None:
    server = own_server(aof=True)
    await enqueue(server.url, namespace, "a", "b")
    async with watching(server.url, namespace) as (app, pilot):
        await eventually(lambda: "2 ready" in text_of(app))
        server.kill9()
        await phase(app, "DOWN")
        await kept_and_dead(app, pilot)
        assert "retry" in text_of(app).splitlines()[0]

        server.start()
        await phase(app, "LIVE")
        await enqueue(server.url, namespace, "c")
        await eventually(lambda: "3 ready" in text_of(app))
        assert tones(app) != {app.session.look.style("stale").color.name}  # type: ignore[union-attr]
        await eventually(lambda: "gap: events missed" in text_of(app))
        await pilot.press("escape")
        await eventually(lambda: "gap" not in text_of(app).splitlines()[-2])


async def test_a_network_that_swallows_everything_is_noticed_and_left_again(
    valkey_server: Server, namespace: str, tmp_path: Path
) -> None:
    await enqueue(valkey_server.url, namespace, "a", "b")
    async with ChaosProxy(valkey_server.url, tmp_path / "p") as proxy, watching(proxy.url, namespace) as (app, pilot):
        await eventually(lambda: "2 ready" in text_of(app))
        with proxy.having(Fault(hole=True)):
            await phase(app, "STALE", "DOWN")
            await phase(app, "DOWN")
            await kept_and_dead(app, pilot)
        await phase(app, "LIVE")
        await enqueue(valkey_server.url, namespace, "c")
        await eventually(lambda: "3 ready" in text_of(app))


async def test_after_a_failover_it_follows_the_replica(own_server: OwnServer, namespace: str) -> None:
    primary, replica = own_server(tcp=True), own_server(tcp=True)
    await enqueue(primary.url, namespace, "a", "b")
    replica.command("REPLICAOF", "127.0.0.1", primary.port)
    await eventually(lambda: replica.command("INFO", "replication")["master_link_status"] == "up")
    assert primary.command("WAIT", 1, 10_000) == 1
    address = primary.folder / "now"
    address.symlink_to(primary.socket)
    async with watching(f"unix://{address}", namespace) as (app, pilot):
        await eventually(lambda: "2 ready" in text_of(app))
        primary.kill9()
        await phase(app, "DOWN")
        await kept_and_dead(app, pilot)
        replica.command("REPLICAOF", "NO", "ONE")
        address.unlink()
        address.symlink_to(replica.socket)

        await phase(app, "LIVE")
        await enqueue(replica.url, namespace, "c")
        await eventually(lambda: "3 ready" in text_of(app))


async def test_a_changed_password_is_fatal_until_it_is_changed_back(own_server: OwnServer, namespace: str) -> None:
    server = own_server(tcp=True)
    await enqueue(server.url, namespace, "a", "b")
    async with watching(server.url, namespace) as (app, pilot):
        await eventually(lambda: "2 ready" in text_of(app))
        with server.client() as client:
            client.config_set("requirepass", "another")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await phase(app, "FATAL")
        await eventually(lambda: "Check user, password and rights" in text_of(app))
        await kept_and_dead(app, pilot)

        with redis.Redis(unix_socket_path=str(server.socket), password="another") as owner:
            owner.config_set("requirepass", "")
        await phase(app, "LIVE")


async def test_without_a_server_the_same_screen_opens_empty_and_fills_by_itself(namespace: str) -> None:
    server = Server(kind="valkey")
    try:
        async with watching(server.url, namespace) as (app, _):
            await phase(app, "DOWN")
            assert "QUEUES" in text_of(app)
            assert "This screen fills by itself" in text_of(app)
            assert not isinstance(app.screen, Confirm)

            server.start()
            await phase(app, "LIVE")
            await enqueue(server.url, namespace, "a")
            await eventually(lambda: "1 ready" in text_of(app))
    finally:
        server.remove()


async def test_what_was_missed_is_told_in_events(valkey_url: str, namespace: str) -> None:
    """Each worker numbers its events, so what did not arrive can be counted."""
    emitter = connect_broker(valkey_url, namespace=namespace)

    async def emit(broker: Broker, number: int) -> None:
        event = Event(kind="task.started", at_ms=0, worker="w-1", seq=number, task_id=f"t{number}", task="a", queue="q")
        await broker.events.emit([event])

    try:
        async with watching(valkey_url, namespace) as (app, pilot):

            async def heard(number: int) -> bool:
                """Emit until the dashboard watches and has it; until then events go nowhere."""
                await emit(emitter, number)
                return any(each.task_id == f"t{number}" for each in app.session.state.events)

            await eventually(lambda: heard(1))
            now_ms = app.session.now_ms
            late = Event(kind="task.started", at_ms=now_ms, worker="w-1", seq=41_205, task_id="t9", task="a", queue="q")
            await emitter.events.emit([late])

            await eventually(lambda: "gap 41,203 events" in text_of(app))
            await pilot.press("escape")
            await eventually(lambda: "gap 41,203" not in text_of(app))
    finally:
        await emitter.close()


async def test_a_server_that_comes_and_goes_ends_nothing(own_server: OwnServer, namespace: str) -> None:
    server, times = own_server(aof=True), 3
    async with watching(server.url, namespace) as (app, _):
        for number in range(times):
            await phase(app, "LIVE")
            server.kill9()
            await phase(app, "DOWN")
            server.start()
            await enqueue(server.url, namespace, f"t{number}")
        await phase(app, "LIVE")
        await eventually(lambda: f"{times} ready" in text_of(app))
        assert app.session.state.gaps >= times
