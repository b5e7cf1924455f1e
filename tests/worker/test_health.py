"""The health port: what probes and scrapes hear of a worker, and that nobody can hurt it there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stem.adapters.redis import RedisStreamsBroker
from stem.errors import ConfigError
from stem.task import TaskContext
from stem.worker import Worker
from stem.worker.health import MOST_AT_ONCE, Health, HealthPort, Page, listen
from stem.worker.lifecycle import Level
from stem.worker.metrics import MOST_TASKS, NAMES
from tests.conftest import OwnServer
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

HERE: Final = "127.0.0.1"


def port_of(worker: Worker) -> int:
    assert worker._health is not None
    return worker._health.port


async def raw(port: int, request: bytes, *, within_s: float = 5.0) -> bytes:
    """Send bytes and return all that comes back, as far as it comes."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection(HERE, port)
        said = b""
        try:
            with contextlib.suppress(OSError):
                writer.write(request)
                await writer.drain()
                said = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return said


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    said = await raw(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body.decode()


async def quick(context: TaskContext, args: Mapping[str, Any]) -> str:
    return "done"


async def test_a_worker_at_work_is_live_and_ready_and_says_what_it_did(house: House) -> None:
    on_loop(house.registry, "quick", quick)
    worker = await house.worker(health_port=0, config={"health_host": HERE})
    for _ in range(3):
        await house.stem.wait_for(await house.stem.enqueue("quick"), timeout=10)
    port = port_of(worker)

    assert await get(port, "/livez") == (200, "live\n")
    assert await get(port, "/readyz?verbose") == (200, "ready\n")
    assert await get(port, "/readyz", "HEAD") == (200, "")
    assert (await get(port, "/"))[0] == 404
    assert (await get(port, "/livez", "POST"))[0] == 405

    async def counted() -> dict[str, Any] | None:
        status, text = await get(port, "/metrics")
        assert status == 200
        samples = {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        families = {family.name for family in text_string_to_metric_families(text)}
        assert families == {name.removesuffix("_total") for name in NAMES}
        return samples if samples.get(("stem_task_run_seconds_count", "quick")) == 3 else None  # type: ignore[return-value]

    samples = await eventually(counted, what="the runs have been taken over with a heartbeat")
    assert samples is not None
    assert samples["stem_tasks_total", "succeeded"] == 3  # type: ignore[index]
    assert samples["stem_tasks_started_total",] == 3  # type: ignore[index]
    assert samples["stem_task_run_seconds_bucket", "+Inf", "quick"] == 3  # type: ignore[index]
    assert samples["stem_worker_ready",] == samples["stem_broker_up",] == 1  # type: ignore[index]
    assert samples["stem_queue_ready", "default"] == 0  # type: ignore[index]
    assert samples["stem_queue_workers", "default"] == 1  # type: ignore[index]


async def test_tasks_held_for_a_paused_name_are_told(house: House) -> None:
    """They are not ready: without a number of their own a forgotten pause of a name would not be seen."""
    on_loop(house.registry, "quick", quick)
    worker = await house.worker(health_port=0, config={"health_host": HERE})
    await house.controller.pause("task", ["quick"], wait_s=5)
    for _ in range(3):
        await house.stem.enqueue("quick")

    async def held() -> bool:
        _, text = await get(port_of(worker), "/metrics")
        return 'stem_queue_held{queue="default"} 3.0' in text

    await eventually(held, what="the three are held")


async def test_drained_and_paused_workers_are_live_but_not_ready(house: House) -> None:
    worker = await house.worker(health_port=0, config={"health_host": HERE})
    port = port_of(worker)

    await house.controller.drain([worker.name], wait_s=5)
    assert await get(port, "/readyz") == (503, "this worker is draining\n")
    assert (await get(port, "/livez"))[0] == 200
    await house.controller.undrain([worker.name], wait_s=5)
    assert (await get(port, "/readyz"))[0] == 200
    await house.controller.pause("worker", [worker.name], wait_s=5)
    assert await get(port, "/readyz") == (503, "this worker is paused\n")

    await worker.shutdown()
    with pytest.raises(ConnectionRefusedError):
        await get(port, "/livez")


async def test_a_work_loop_that_stands_still_is_not_live_within_five_seconds(memory_house: House) -> None:
    began: list[float] = []
    begun, over = threading.Event(), threading.Event()

    async def blocks(context: TaskContext, args: Mapping[str, Any]) -> None:
        began.append(time.monotonic())
        begun.set()
        over.wait(30)  # blocks the loop, until the last probe is answered

    on_loop(memory_house.registry, "blocks", blocks)
    worker = await memory_house.worker(health_port=0, config={"health_host": HERE})
    port = port_of(worker)
    heard: list[tuple[float, float, int]] = []

    def probe() -> None:
        try:
            begun.wait(10)
            while time.monotonic() < began[0] + 5.5:
                asked = time.monotonic() - began[0]
                status, _ = asyncio.run(get(port, "/livez"))
                heard.append((asked, time.monotonic() - began[0], status))
                time.sleep(0.1)
        finally:
            over.set()

    probing = threading.Thread(target=probe)
    probing.start()
    await memory_house.stem.enqueue("blocks")
    await asyncio.to_thread(probing.join)

    assert {status for _, answered, status in heard if answered < 3.0} == {200}
    assert {status for asked, _, status in heard if asked > 5.0} == {503}
    assert len(heard) > 10
    await eventually(lambda: worker._board.loop_age_s() < 1.0)
    assert (await get(port, "/livez"))[0] == 200


async def test_without_the_broker_it_is_live_and_not_ready(own_server: OwnServer, namespace: str) -> None:
    server = own_server(aof=False)
    house = House(RedisStreamsBroker(server.url, namespace=namespace))
    try:
        worker = await house.worker(health_port=0, config={"health_host": HERE})
        port = port_of(worker)
        assert (await get(port, "/readyz"))[0] == 200

        server.kill9()

        async def unready() -> bool:
            status, said = await get(port, "/readyz")
            return status == 503 and "the broker has confirmed no heartbeat for" in said

        await eventually(unready, what="it is not ready any more")
        for _ in range(10):
            assert (await get(port, "/livez"))[0] == 200
            await asyncio.sleep(0.05)
        status, text = await get(port, "/metrics")
        assert status == 200
        assert "stem_broker_up 0.0" in text
        assert "stem_worker_ready 0.0" in text

        server.start()

        async def ready() -> bool:
            return (await get(port, "/readyz"))[0] == 200

        await eventually(ready, 15, what="it is ready again")
    finally:
        await house.close()


async def test_a_worker_that_never_found_its_broker_is_live(own_server: OwnServer, namespace: str) -> None:
    server = own_server(aof=False)
    server.kill9()
    house = House(RedisStreamsBroker(server.url, namespace=namespace))
    try:
        worker = await house.worker(start=False, health_port=0, config={"health_host": HERE})
        starting = asyncio.create_task(worker.start())
        await eventually(lambda: worker._health is not None and worker._health.port)
        port = port_of(worker)
        await asyncio.sleep(0.3)
        assert (await get(port, "/livez"))[0] == 200
        assert await get(port, "/readyz") == (503, "this worker is starting\n")
        assert "\nstem_worker_loop_age_seconds 0.0\n" in (await get(port, "/metrics"))[1]
        assert worker._vitals._beater.heartbeat("starting").loop_age_ms == worker.stats()["loop_age_ms"] == 0
        worker._vitals.ask(Level.HARD, "the test is over")
        await starting
    finally:
        await house.close()


async def test_a_port_that_is_taken_is_one_clear_error(memory_house: House) -> None:
    with socket.create_server((HERE, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--health-port {port} on {HERE}: .*in use.* choose a free port"):
            await memory_house.worker(health_port=port, config={"health_host": HERE})


async def test_metrics_are_told_with_the_oldest_library_that_the_extra_allows(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions up to 0.22 have no name for the type of the page: it was said that the extra is missing."""
    monkeypatch.delattr("prometheus_client.exposition.CONTENT_TYPE_PLAIN_0_0_4", raising=False)
    worker = await memory_house.worker(health_port=0, config={"health_host": HERE})

    said = await raw(port_of(worker), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    assert said.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


async def asked_at(host: str, port: int) -> bytes:
    async with asyncio.timeout(5.0):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
        return said


@pytest.mark.parametrize(
    ("host", "answers"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
        (None, ["127.0.0.1"]),
        pytest.param("::1", ["::1"], marks=needs_ipv6),
        pytest.param("::", ["::1", "127.0.0.1"], marks=needs_ipv6),
        pytest.param(None, ["::1", "127.0.0.1"], marks=needs_ipv6),
    ],
)
async def test_the_port_is_on_the_address_that_was_said(
    memory_house: House, host: str | None, answers: list[str]
) -> None:
    """A pod of a cluster with IPv6 alone could have no health port."""
    worker = await memory_house.worker(health_port=0, config={"health_host": host})

    for address in answers:
        assert (await asked_at(address, port_of(worker))).startswith(b"HTTP/1.1 200 OK")
    for address in {"127.0.0.1", "::1"} - set(answers) if host else ():
        with pytest.raises(OSError, match=r"Connect call failed|Cannot assign"):
            await asked_at(address, port_of(worker))


async def test_without_ipv6_the_port_is_on_all_addresses_of_the_other(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    worker = await memory_house.worker(health_port=0)

    assert worker._health is not None
    assert worker._health._listener.family is socket.AF_INET
    assert (await get(port_of(worker), "/livez"))[0] == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "fe80::1%nowhere", "a" * 64])
async def test_an_address_of_another_machine_is_no_question_of_the_port(memory_house: House, host: str) -> None:
    with pytest.raises(ConfigError, match=f"on {host}: .*STEM_HEALTH_HOST has to be an address of this machine"):
        await memory_house.worker(health_port=0, config={"health_host": host})


async def test_names_without_end_share_one_label(memory_house: House) -> None:
    async def any_name(context: TaskContext, args: Mapping[str, Any]) -> None:
        return None

    from stem.contracts import Measured

    worker = await memory_house.worker(health_port=0, config={"health_host": HERE})
    metrics = worker._vitals._metrics
    metrics.add(
        Measured(queue="q", task=f"t{n}", count=1, wait_ms=1, run_ms=2, buckets={2: 1}) for n in range(2 * MOST_TASKS)
    )
    _, text = await get(port_of(worker), "/metrics")

    assert text.count('stem_task_run_seconds_count{task="') == MOST_TASKS + 1
    assert f'stem_task_run_seconds_count{{task="other"}} {float(MOST_TASKS)}' in text


async def test_nothing_that_is_sent_to_the_port_hurts_the_worker(memory_house: House) -> None:
    on_loop(memory_house.registry, "quick", quick)
    worker = await memory_house.worker(health_port=0, config={"health_host": HERE})
    port, chance = port_of(worker), random.Random(261124)
    garbage = [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"A" * 100_000,
        b"GET " + b"/" * 8_000 + b" HTTP/1.1\r\n\r\n",
        *(chance.randbytes(chance.randrange(1, 2_000)) + b"\r\n\r\n" for _ in range(200)),
    ]
    answers = await asyncio.gather(*(raw(port, one) for one in garbage), return_exceptions=True)
    assert all(isinstance(one, OSError) or (isinstance(one, bytes) and b" 200 " not in one) for one in answers)

    # Connections that say nothing are let go; meanwhile more than can be served are refused, not queued up.
    silent = [await asyncio.open_connection(HERE, port) for _ in range(2 * MOST_AT_ONCE)]
    await asyncio.sleep(0.2)
    assert await raw(port, b"GET /livez HTTP/1.1\r\n\r\n") == b""
    await eventually(lambda: worker._health is not None and worker._health._busy == 0, what="all were let go")
    for _, writer in silent:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    assert (await get(port, "/livez"))[0] == 200
    assert await memory_house.stem.wait_for(await memory_house.stem.enqueue("quick"), timeout=10)


async def test_requests_under_way_end_with_the_port() -> None:
    """They were left to a loop that was then closed: `Task was destroyed but it is pending`."""
    before, asked, never = asyncio.all_tasks(), asyncio.Event(), asyncio.Event()

    async def metrics() -> Page:
        asked.set()
        await never.wait()
        return Page("200 OK", b"")

    port = HealthPort(listen(HERE, 0))
    await port.open(lambda: Health(0.0), metrics)
    _, silent = await asyncio.open_connection(HERE, port.port)
    scrape = asyncio.create_task(raw(port.port, b"GET /metrics HTTP/1.1\r\n\r\n"))
    await asked.wait()
    await eventually(lambda: port._busy == 2, what="both are under way")

    async with asyncio.timeout(1):
        await port.close()

    assert asyncio.all_tasks() - before <= {scrape}
    with contextlib.suppress(OSError):
        assert await scrape == b""
    silent.close()
    with contextlib.suppress(OSError):
        await silent.wait_closed()
