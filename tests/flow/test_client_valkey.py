"""The client on a real server: round trips are counted there, outages are real, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from stem.adapters.redis import RedisResultBackend, RedisStreamsBroker, blocking
from stem.client import Stem
from stem.errors import (
    BrokerError,
    BrokerUnreachableError,
    TaskNotFoundError,
    UnknownOutcomeError,
    WaitTimeoutError,
)
from stem.messages.status import TaskState
from stem.signals import StemSignals
from stem.sync import SyncStem
from tests.conftest import OwnServer
from tests.servers import Server
from tests.waiting import eventually, wait_until


def script_calls(server: Server) -> int:
    """Return how many scripts the server has run."""
    stats = server.command("INFO", "commandstats")
    rows = {name: row for name, row in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval")}
    return sum(int(row["calls"]) for row in rows.values())


async def test_concurrent_enqueues_share_round_trips(valkey_server: Server, namespace: str) -> None:
    broker = await RedisStreamsBroker.connect(valkey_server.url, namespace=namespace)
    async with Stem(broker=broker) as stem:
        await stem.enqueue("t")
        before = script_calls(valkey_server)

        ids = await asyncio.gather(*(stem.enqueue("t", {"n": number}) for number in range(400)))

        assert len(set(ids)) == 400
        assert script_calls(valkey_server) == before + 1
    await broker.close()


async def test_the_samples_of_the_user_connect(valkey_server: Server, namespace: str) -> None:
    url = valkey_server.tcp_url
    broker = await RedisStreamsBroker.connect(url, namespace=namespace)
    backend = await RedisResultBackend.connect(f"{url}/1", namespace=namespace)
    stem = Stem(broker=broker, backend=backend)

    task_id = await stem.enqueue("report.generate", {"reportId": "monthly-2025-10"})

    assert (await stem.status(task_id)).state is TaskState.QUEUED
    await backend.close()
    await broker.close()


async def test_an_application_closes_what_it_opened(valkey_server: Server, namespace: str) -> None:
    app = Stem.connect(valkey_server.url, namespace=namespace)
    await app.enqueue("t")

    await app.close()

    name = f"stem-{namespace}"
    with valkey_server.client() as client:
        wait_until(lambda: all(row["name"] != name for row in client.client_list()), what="connections closed")


@pytest.mark.parametrize("broker_too", [True, False], ids=["broker too", "alone"])
async def test_a_backend_that_was_only_handed_out_is_closed_too(
    valkey_server: Server, namespace: str, broker_too: bool
) -> None:
    app = Stem.connect(valkey_server.url, namespace=namespace, backend=valkey_server.url)
    if broker_too:
        assert await app.broker.statuses(["t"]) == [None]
    assert app.backend is not None
    assert await app.backend.get("t") is None

    await app.close()

    with valkey_server.client() as client:
        wait_until(
            lambda: not [row for row in client.client_list() if row["name"].startswith(f"stem-{namespace}")],
            what="connections closed",
        )
    assert app.backend is not None, "used again, it connects again"


async def test_a_backend_that_was_given_stays_open(valkey_server: Server, namespace: str) -> None:
    given = RedisResultBackend(valkey_server.url, namespace=namespace)
    app = Stem.connect(valkey_server.url, namespace=namespace, backend=given)
    assert app.backend is given
    await given.get("t")

    await app.close()

    with valkey_server.client() as client:
        assert [row for row in client.client_list() if row["name"].startswith(f"stem-{namespace}")]
    await given.close()


def test_each_event_loop_has_connections_of_its_own(valkey_url: str, namespace: str) -> None:
    app = Stem.connect(valkey_url, namespace=namespace)

    async def use() -> str:
        async with app:
            return await app.enqueue("t")

    ids = [asyncio.run(use()) for _ in range(3)]
    threads = [threading.Thread(target=lambda: ids.append(asyncio.run(use()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(set(ids)) == 6


def test_what_was_given_serves_its_first_event_loop_only(valkey_url: str, namespace: str) -> None:
    """Its connections belong to that loop, also after the loop has ended; they stay open, being somebody else's."""
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    backend = RedisResultBackend(valkey_url, namespace=namespace)
    app = Stem(broker=broker, backend=backend)
    first = asyncio.new_event_loop()

    async def use(number: int) -> str:
        task_id = await app.enqueue("t")
        with pytest.raises(TaskNotFoundError):
            await app.status(f"expired-{number}")
        await app.close()
        return task_id

    ids = [first.run_until_complete(use(0))]
    ids += [asyncio.run(use(number)) for number in range(1, 3)]
    thread = threading.Thread(target=lambda: ids.append(asyncio.run(use(3))))
    thread.start()
    thread.join(20)
    ids.append(first.run_until_complete(use(4)))

    assert len(set(ids)) == 5
    assert (app.broker, app.backend) == (broker, backend)
    first.run_until_complete(broker.close())
    first.run_until_complete(backend.close())
    first.close()


def test_clones_of_what_was_given_are_closed_with_their_loop(valkey_server: Server, namespace: str) -> None:
    broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
    backend = RedisResultBackend(valkey_server.url, namespace=namespace)
    app = Stem(broker=broker, backend=backend)
    first = asyncio.new_event_loop()

    def open_connections() -> list[str]:
        with valkey_server.client() as client:
            names = [str(row["name"]) for row in client.client_list()]
        return sorted(name for name in names if name.startswith(f"stem-{namespace}"))

    async def use() -> list[str]:
        with pytest.raises(TaskNotFoundError):
            await app.status("expired")
        used = open_connections()
        await app.close()
        left = [f"stem-{namespace}", f"stem-{namespace}-results"]
        await eventually(lambda: open_connections() == left, what="the clones' connections are closed")
        return used

    assert len(first.run_until_complete(use())) == 2
    assert len(asyncio.run(use())) == 4
    first.run_until_complete(broker.close())
    first.run_until_complete(backend.close())
    first.close()


async def test_a_restart_of_the_server_is_waited_out(own_server: OwnServer) -> None:
    server = own_server(aof=True)
    async with Stem.connect(server.url) as app:
        first = await app.enqueue("t")
        server.kill9()
        sending = asyncio.create_task(app.enqueue("t"))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.start)

        second = await sending

        assert [(await app.status(each)).state for each in (first, second)] == [TaskState.QUEUED] * 2


async def test_nothing_acknowledged_is_lost_or_doubled_by_a_kill_under_load(own_server: OwnServer) -> None:
    server = own_server(aof=True, options=("--appendfsync", "always"))
    acknowledged: list[str] = []
    async with Stem.connect(server.url) as app:
        stop = asyncio.Event()

        async def produce(producer: int) -> None:
            number = 0
            while not stop.is_set():
                task_id = f"p{producer}-{number}"
                with contextlib.suppress(BrokerUnreachableError, UnknownOutcomeError):
                    acknowledged.append(await app.enqueue("t", {"n": number}, task_id=task_id))
                number += 1

        producers = [asyncio.create_task(produce(producer)) for producer in range(8)]
        for goal in (200, 400, 600):
            await asyncio.to_thread(wait_until, lambda goal=goal: len(acknowledged) >= goal)
            await asyncio.to_thread(server.kill9)
            await asyncio.to_thread(server.start)
        stop.set()
        await asyncio.gather(*producers)

        statuses = await app.broker.statuses(acknowledged, timeline=False)
        row = (await app.broker.census.queues(["default"]))[0]

        assert all(status is not None and status.state is TaskState.QUEUED for status in statuses)
        assert len(set(acknowledged)) == len(acknowledged) == row.ready == row.enqueued_total


async def test_no_server_is_an_error_that_names_the_place_and_no_secret() -> None:
    app = Stem.connect("redis://:hunter2@127.0.0.1:1/0", patience=1.0)

    with pytest.raises(BrokerUnreachableError, match=r"not enqueued.*127\.0\.0\.1:1.*STEM_BROKER_URL") as caught:
        await app.enqueue("t")

    assert "hunter2" not in str(caught.value)
    await app.close()


async def test_a_wait_goes_on_when_another_task_leaves_the_application(valkey_url: str, namespace: str) -> None:
    """As in a web application whose requests each say `async with app`."""
    async with Stem.connect(valkey_url, namespace=namespace) as app:
        task_id = await app.enqueue("t")
        waits = asyncio.create_task(app.wait_for(task_id, timeout=20))
        for _ in range(3):
            await asyncio.sleep(0.05)
            async with app:
                pass
        assert not waits.done()

        await app.cancel(task_id)

        assert (await waits).state is TaskState.REVOKED


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_a_task_is_enqueued_although_another_one_leaves_the_application_meanwhile(
    valkey_url: str, namespace: str, many: bool
) -> None:
    left = asyncio.Event()

    async def before(event: object, sender: object) -> None:
        await left.wait()

    async with Stem.connect(valkey_url, namespace=namespace, patience=10) as app:
        await app.enqueue("other")
        connection = StemSignals.on_before_task_publish(before, task="t")
        try:
            asks: asyncio.Task[object] = asyncio.create_task(
                app.enqueue_many([("t", {})]) if many else app.enqueue("t")
            )
            await asyncio.sleep(0.05)
            async with app:
                pass
            left.set()

            assert await asks
        finally:
            connection.disconnect()


FROZEN = pytest.mark.parametrize("connected", [True, False], ids=["connected", "to connect"])


@FROZEN
@pytest.mark.parametrize("transport", ["unix", "tcp"])
async def test_a_wait_on_a_frozen_server_keeps_its_time(own_server: OwnServer, transport: str, connected: bool) -> None:
    server = own_server(tcp=True, aof=False)
    async with Stem.connect(server.url if transport == "unix" else server.tcp_url) as app:
        task_id = await app.enqueue("t") if connected else "mine"
        server.sigstop()
        began = time.monotonic()

        with pytest.raises(WaitTimeoutError, match="could not be asked") as caught:
            await app.wait_for(task_id, timeout=0.5)

        assert 0.5 <= time.monotonic() - began < 4
        assert isinstance(caught.value.__cause__, BrokerError)
        server.sigcont()
        with pytest.raises(WaitTimeoutError, match="still queued"):
            await app.wait_for(await app.enqueue("t"), timeout=0.5)


@FROZEN
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_a_blocking_wait_on_a_frozen_server_keeps_its_time(
    own_server: OwnServer, transport: str, connected: bool
) -> None:
    server = own_server(tcp=True, aof=False)
    with SyncStem.connect(server.url if transport == "unix" else server.tcp_url) as sync:
        task_id = sync.enqueue("t") if connected else "mine"
        server.sigstop()
        began = time.monotonic()

        with pytest.raises(WaitTimeoutError, match="could not be asked") as caught:
            sync.wait_for(task_id, timeout=0.5)

        assert 0.5 <= time.monotonic() - began < 4
        assert isinstance(caught.value.__cause__, BrokerError)
        server.sigcont()
        with pytest.raises(WaitTimeoutError, match="still queued"):
            sync.wait_for(sync.enqueue("t"), timeout=0.5)


def test_a_long_blocking_wait_notices_a_frozen_server_no_later(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "REPLY_TIMEOUT_S", 0.2)
    server = own_server(aof=False)
    with SyncStem.connect(server.url, patience=0.1) as sync:
        task_id = sync.enqueue("t")
        server.sigstop()

        with pytest.raises(UnknownOutcomeError, match="did not answer in time"):
            sync.wait_for(task_id, timeout=20)
        server.sigcont()


def test_the_blocking_client_waits_out_a_restart_too(own_server: OwnServer) -> None:
    server = own_server(aof=True)
    with SyncStem.connect(server.url) as sync:
        sync.enqueue("t")
        server.kill9()
        starting = threading.Thread(target=server.start)
        starting.start()

        task_id = sync.enqueue("t")

        starting.join(20)
        assert sync.status(task_id).state is TaskState.QUEUED
