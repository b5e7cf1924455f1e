"""The proxy that fault tests stand on: each fault is shown to happen, and without it traffic flows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import Limits, NewTask
from stem.errors import BrokerUnreachableError, UnknownOutcomeError
from tests.faults.chaos import ChaosProxy
from tests.faults.resp import Cutter, name_of, scripts
from tests.faults.rules import DOWN, UP, Command, Fault, Kind, Loss, Watch, of_kind, of_pid
from tests.servers import Server
from tests.waiting import eventually

QUIET_S = 0.3  # for so long nothing comes where nothing may; what is to arrive has ten seconds
TIMEOUT_S = 2.0  # after which clients give up of which one answer arrives and another does not


@pytest.fixture
async def proxy(valkey_server: Server, tmp_path: Path) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(valkey_server.url, tmp_path / "p", seed=1) as proxy:
        yield proxy


@pytest.fixture
async def tcp_proxy(valkey_server: Server) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(valkey_server.tcp_url, seed=1) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(
    proxy: ChaosProxy, *, timeout_s: float = 10.0, name: str = "one", protocol: int = 2
) -> AsyncIterator[Any]:
    """Connect a plain client; untyped, as its own types are of the blocking and the asyncio client at once."""
    client = redis.asyncio.Redis.from_url(
        proxy.url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        client_name=name,
        driver_info=None,
        protocol=protocol,
        max_connections=1,
    )
    try:
        yield client
    finally:
        await client.aclose()


async def answers(proxy: ChaosProxy) -> bool:
    """Say whether a new connection gets an answer in time."""
    async with connected(proxy) as client:
        try:
            return bool(await client.echo("x") == b"x")
        except redis.exceptions.RedisError:
            return False


# ------------------------------------------------------------------------------------------------------- what it reads


@pytest.mark.parametrize(
    "frame",
    [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n",
        b"PING\r\n",
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"$0\r\n\r\n",
        b"*2\r\n*1\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n",
        b"%1\r\n+a\r\n*1\r\n_\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
        b"~2\r\n#t\r\n,1.5\r\n",
        b"=6\r\ntxt:ab\r\n",
        b"!3\r\nERR\r\n",
        b"|1\r\n+ttl\r\n:3\r\n*1\r\n(123\r\n",
    ],
)
@pytest.mark.parametrize("slices", [1, 2, 3, 1000])
def test_a_stream_is_cut_into_whole_frames_however_it_arrives(frame: bytes, slices: int) -> None:
    cutter, stream = Cutter(), frame * 3
    found: list[bytes] = []
    for at in range(0, len(stream), slices):
        found += cutter.feed(stream[at : at + slices])

    assert found == [frame] * 3
    assert not cutter.lost


def test_what_is_no_protocol_comes_out_as_it_went_in() -> None:
    cutter = Cutter()

    assert b"".join(cutter.feed(b"+OK\r\n*2\r\n?\r\nxyz") + cutter.feed(b"more")) == b"+OK\r\n*2\r\n?\r\nxyzmore"
    assert cutter.lost


def test_every_script_in_the_folder_has_its_name() -> None:
    names = set(scripts().values())

    assert {"enqueue", "exchange", "beat", "issue", "sweep"} <= names
    assert not {"lib", "fetch", "settle"} & names  # only parts of others


async def test_commands_scripts_and_kinds_of_connections_are_told_apart(proxy: ChaosProxy, namespace: str) -> None:
    broker = RedisStreamsBroker(proxy.url, namespace=namespace)
    try:
        await broker.enqueue([NewTask(id="t1", task="x", queue="default", body=b"b")])
        await broker.control.subscribe()
        await broker.idle(["default"], 1.0)
        kinds = {link.kind for link in proxy.links()}
        names = {link.name for link in proxy.links()}
    finally:
        await broker.close()

    assert proxy.seen["enqueue"] == 1 or proxy.seen["enqueue"] == 2  # twice when the server did not know it yet
    assert proxy.seen["BLPOP"] == 1
    assert proxy.seen["CLIENT SETNAME"] >= 1
    assert kinds == {"commands", "bell", "control"}
    assert names == {f"stem-{namespace}"}
    assert name_of(b"*2\r\n$7\r\nEVALSHA\r\n$1\r\nx\r\n") == "EVALSHA"


# ------------------------------------------------------------------------------------------------------------- weather


async def test_latency_delays_each_way_by_itself_and_pipelines_only_once(proxy: ChaosProxy) -> None:
    async with connected(proxy) as client:
        await client.ping()
        for sides, least in ((UP, 0.1), (DOWN, 0.1), (UP + DOWN, 0.2)):
            with proxy.having(Fault(latency_s=0.1, sides=sides)):
                begun = time.monotonic()
                await client.ping()
                assert time.monotonic() - begun >= least

        with proxy.having(Fault(latency_s=0.02, jitter_s=0.02)):
            pipeline = client.pipeline(transaction=False)
            for n in range(200):
                pipeline.echo(str(n))
            begun = time.monotonic()
            assert await pipeline.execute() == [str(n).encode() for n in range(200)]
            assert time.monotonic() - begun < 4.0  # one after the other they would take eight seconds


async def test_slices_of_one_byte_arrive_whole(proxy: ChaosProxy, tcp_proxy: ChaosProxy) -> None:
    for one in (proxy, tcp_proxy):
        rule = Fault(slice_bytes=1)
        one.on(rule)
        async with connected(one) as client:
            assert await client.echo("x" * 3000) == b"x" * 3000
        assert rule.passed > 6000


async def test_bandwidth_is_limited_on_the_side_it_is_put_on(proxy: ChaosProxy) -> None:
    async with connected(proxy) as client:
        await client.ping()
        with proxy.having(Fault(bytes_per_s=20_000, sides=DOWN)):
            begun = time.monotonic()
            await client.echo("x" * 10_000)
            assert time.monotonic() - begun >= 0.45


@pytest.mark.parametrize("side", [UP, DOWN, UP + DOWN])
async def test_a_hole_keeps_the_connection_open_and_passes_nothing_until_it_is_closed(
    proxy: ChaosProxy, side: tuple[str, ...]
) -> None:
    async with connected(proxy) as client, connected(proxy, name="other") as other:
        await client.ping()
        await other.ping()
        hole = Fault(hole=True, where=lambda link: link.name == "one", sides=side)  # type: ignore[arg-type]
        proxy.on(hole)
        waits = asyncio.create_task(client.echo("late"))
        done, _ = await asyncio.wait({waits}, timeout=QUIET_S)

        assert done == set()
        assert await other.echo("x") == b"x"

        proxy.off(hole)
        assert await asyncio.wait_for(waits, 10) == b"late"


async def test_what_a_hole_swallowed_reaches_the_server_after_its_sender_is_gone(
    proxy: ChaosProxy, valkey_server: Server, namespace: str
) -> None:
    key = f"{{{namespace}}}:probe"
    async with connected(proxy, timeout_s=TIMEOUT_S) as client:
        await client.ping()
        with proxy.having(Fault(hole=True)):
            with pytest.raises(redis.exceptions.TimeoutError):
                await client.set(key, "late", px=10_000)
            assert valkey_server.command("GET", key) is None
        await eventually(lambda: valkey_server.command("GET", key) == "late", what="the late command arrived")
    await eventually(lambda: proxy.links() == [], what="the connection is gone")


async def test_messages_of_subscriptions_get_lost_and_nothing_else(proxy: ChaosProxy, valkey_server: Server) -> None:
    for protocol in (2, 3):
        async with connected(proxy, protocol=protocol) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("a", "b")
            assert [(await pubsub.get_message(timeout=10) or {})["type"] for _ in range(2)] == ["subscribe"] * 2
            before = proxy.messages
            with proxy.having(Fault(no_messages=True)):
                valkey_server.command("PUBLISH", "b", "lost")
                await eventually(partial(_more_messages, proxy, before), what="a message got lost")
                await pubsub.ping()
                assert (await pubsub.get_message(timeout=10) or {})["type"] == "pong"
            valkey_server.command("PUBLISH", "b", "heard")
            assert (await pubsub.get_message(timeout=10) or {})["data"] == b"heard"
            assert [link.kind for link in proxy.links()] == ["subscription"]


def _more_messages(proxy: ChaosProxy, than: int) -> bool:
    return proxy.messages > than


# --------------------------------------------------------------------------------------------------------- connections


async def test_connections_are_broken_off_or_closed(proxy: ChaosProxy, tcp_proxy: ChaosProxy) -> None:
    for one in (proxy, tcp_proxy):
        for cut in (one.reset, one.hang_up):
            async with connected(one, name="victim") as victim, connected(one, name="other") as other:
                await victim.ping()
                await other.ping()
                # A blocked read sees how the connection ends.
                waits = asyncio.create_task(victim.blpop("{none}:q:none:bell", 10))
                await eventually(partial(one.links, of_kind("bell")), what="the victim waits")

                assert cut(of_kind("bell")) == 1
                with pytest.raises(redis.exceptions.ConnectionError) as lost:
                    await waits

                reset = one is tcp_proxy and cut == one.reset
                assert ("reset" in str(lost.value).lower()) == reset
                assert await other.echo("x") == b"x"
                assert await victim.echo("again") == b"again"


async def test_new_connections_are_refused_while_old_ones_stand(proxy: ChaosProxy, tcp_proxy: ChaosProxy) -> None:
    for one in (proxy, tcp_proxy):
        async with connected(one) as old:
            await old.ping()
            one.refuse()

            with pytest.raises(redis.exceptions.ConnectionError, match=r"refused|Error 111"):
                async with connected(one) as new:
                    await new.ping()
            assert await old.echo("x") == b"x"

            one.accept()
            assert await answers(one)


async def test_without_a_server_connections_end_at_once(proxy: ChaosProxy, tmp_path: Path) -> None:
    upstream, proxy.upstream = proxy.upstream, f"unix://{tmp_path}/nobody"

    assert not await answers(proxy)

    proxy.upstream = upstream
    assert await answers(proxy)


async def test_a_connection_belongs_to_the_process_that_made_it(proxy: ChaosProxy) -> None:
    async with connected(proxy) as client:
        await client.ping()

        assert len(proxy.links(of_pid(os.getpid()))) == 1
        assert proxy.links(of_pid(1)) == []


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(("then", "error"), [("close", redis.ConnectionError), ("silence", redis.TimeoutError)])
async def test_the_kth_answer_is_lost_after_the_server_did_what_was_asked(
    proxy: ChaosProxy, valkey_server: Server, namespace: str, then: str, error: type[Exception]
) -> None:
    key = f"{{{namespace}}}:epoch"
    loss = Loss("INCRBY", nth={3}, then=then)  # type: ignore[arg-type]
    proxy.on(loss)
    async with connected(proxy, timeout_s=TIMEOUT_S) as client:
        assert [await client.incr(key) for _ in range(2)] == [1, 2]
        with pytest.raises(error):
            await client.incr(key)
        assert valkey_server.command("GET", key) == "3"
        assert await client.incr(key) == 4

    assert (loss.seen, loss.lost, proxy.lost) == (4, 1, {"INCRBY": 1})


async def test_answers_before_a_lost_one_in_a_pipeline_still_arrive(proxy: ChaosProxy) -> None:
    proxy.on(Loss("ECHO", nth={3}))
    reader, writer = await asyncio.open_unix_connection(proxy.url.removeprefix("unix://"))
    writer.write(b"".join(b"ECHO %d\r\n" % n for n in range(5)))

    assert await asyncio.wait_for(reader.read(), 10) == b"$1\r\n0\r\n$1\r\n1\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_share_of_the_answers_is_lost_and_the_seed_says_which(valkey_server: Server, tmp_path: Path) -> None:
    async def outcomes(seed: int) -> str:
        found = ""
        async with ChaosProxy(valkey_server.url, tmp_path / "p", seed=seed) as proxy, connected(proxy) as client:
            proxy.on(Loss("ECHO", share=0.3))
            for _ in range(60):
                try:
                    await client.echo("x")
                    found += "x"
                except redis.exceptions.ConnectionError:
                    found += "-"
            assert proxy.lost["ECHO"] == found.count("-")
        return found

    first = await outcomes(1)

    assert 5 <= first.count("-") <= 35
    assert await outcomes(1) == first
    assert await outcomes(2) != first


async def test_refusals_do_not_count_as_answers_that_may_be_lost(proxy: ChaosProxy, namespace: str) -> None:
    broker = RedisStreamsBroker(proxy.url, namespace=namespace, limits=Limits())
    proxy.on(Loss("enqueue", nth={1}))
    new = [NewTask(id="t1", task="x", queue="default", body=b"b")]
    try:
        # The first answer may be NOSCRIPT: then nothing was done, and it is passed on.
        with pytest.raises(UnknownOutcomeError):
            await broker.enqueue(new)
        assert [one.outcome for one in await broker.enqueue(new)] == ["exists"]
    finally:
        await broker.close()

    assert proxy.lost == {"enqueue": 1}


# ---------------------------------------------------------------------------------------------------------- corruption


@pytest.mark.parametrize(("side", "seen"), [(UP, b"ab?d"), (DOWN, b"ab?d")])
async def test_one_byte_is_changed_on_its_way(proxy: ChaosProxy, side: tuple[str, ...], seen: bytes) -> None:
    async with connected(proxy) as client:
        await client.ping()
        # *2 $4 ECHO $4 ab.d: 4 + 4 + 6 + 4 + 3; the answer is $4 ab.d: 4 + 3
        rule = Fault(corrupt_at=21 if side == UP else 7, sides=side)  # type: ignore[arg-type]
        with proxy.having(rule):
            answer = await client.execute_command("ECHO", "abcd")

        assert answer[:2] + b"?" + answer[3:] == seen
        assert answer[2:3] != b"c"
        assert [b"abcd" in one for one in rule.spoilt] == [True]
        assert proxy.corrupted == 1
        assert await client.echo("abcd") == b"abcd"


async def test_about_one_byte_in_so_many_is_changed(proxy: ChaosProxy) -> None:
    sent = Random(1).randbytes(50_000)
    async with connected(proxy) as client:
        await client.ping()
        rule = Fault(corrupt_every=1000, sides=DOWN)
        with proxy.having(rule), contextlib.suppress(redis.exceptions.RedisError):
            answer = await client.echo(sent)
            assert sum(a != b for a, b in zip(answer, sent, strict=True)) >= 25

    assert 25 <= proxy.corrupted <= 100
    assert await answers(proxy)


# ------------------------------------------------------------------------------------------------------------ watchers


async def test_a_watcher_stands_exactly_before_and_after_a_command(
    proxy: ChaosProxy, valkey_server: Server, namespace: str
) -> None:
    key = f"{{{namespace}}}:epoch"
    seen: list[tuple[str, int, str, str | None, bool]] = []
    here = threading.current_thread()

    def look(when: str) -> object:
        async def called(k: int, command: Command) -> None:
            await asyncio.sleep(0)
            seen.append((when, k, command.name, valkey_server.command("GET", key), threading.current_thread() is here))

        return called

    proxy.on(Watch("INCRBY", before=look("before"), after=look("after")))  # type: ignore[arg-type]
    async with connected(proxy) as client:
        await client.incr(key)
        await client.ping()
        await client.incr(key)

    assert seen == [
        ("before", 1, "INCRBY", None, True),
        ("after", 1, "INCRBY", "1", True),
        ("before", 2, "INCRBY", "1", True),
        ("after", 2, "INCRBY", "2", True),
    ]


@pytest.mark.parametrize(("when", "done"), [("before", "1"), ("after", "2")])
async def test_a_watcher_may_cut_the_connection_there(
    proxy: ChaosProxy, valkey_server: Server, namespace: str, when: str, done: str
) -> None:
    key = f"{{{namespace}}}:epoch"

    async def second(k: int, command: Command) -> bool:
        return k != 2

    proxy.on(Watch("INCRBY", **{when: second}))  # type: ignore[arg-type]
    async with connected(proxy) as client:
        await client.incr(key)
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.incr(key)
        assert valkey_server.command("GET", key) == done
        assert await client.incr(key) == int(done) + 1


# ---------------------------------------------------------------------------------------------------------------- ends


async def test_a_test_that_blocks_its_loop_delays_nothing(proxy: ChaosProxy) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(proxy.url.removeprefix("unix://"))
        for n in range(3):
            sock.sendall(b"ECHO %d\r\n" % n)
            assert sock.recv(100) == b"$1\r\n%d\r\n" % n  # blocking is the point


async def test_closing_leaves_nothing_behind_whatever_is_under_way(
    valkey_server: Server, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    async with contextlib.AsyncExitStack() as clients:
        async with ChaosProxy(valkey_server.url, tmp_path / "p") as proxy:
            waits = []
            for kind, rule in (
                ("hole", Fault(hole=True, where=lambda link: link.name == "hole")),
                ("late", Fault(latency_s=60, where=lambda link: link.name == "late")),
                ("stuck", Watch("ECHO", before=_never, where=lambda link: link.name == "stuck")),
                ("bell", None),
            ):
                client = await clients.enter_async_context(connected(proxy, name=kind))
                await client.ping()
                if rule is not None:
                    proxy.on(rule)
                waits.append(asyncio.create_task(client.blpop("x", 60) if kind == "bell" else client.echo("x")))
            await eventually(lambda: proxy.seen["ECHO"] == 3 and proxy.seen["BLPOP"] == 1, what="all are under way")
        results = await asyncio.gather(*waits, return_exceptions=True)

    assert [type(one) for one in results] == [redis.exceptions.ConnectionError] * 4
    assert not (tmp_path / "p").exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "chaos-proxy"]
    gc.collect()
    assert list(recwarn) == []


async def _never(k: int, command: Command) -> None:
    await asyncio.sleep(60)


async def test_a_broker_behind_it_gives_errors_with_names(proxy: ChaosProxy, namespace: str) -> None:
    """What Stem makes of each fault is another test's claim; here only that it is a fault of the right kind."""
    kind: Kind = "commands"
    broker = RedisStreamsBroker(proxy.url, namespace=namespace)
    try:
        await broker.statuses(["t1"])
        proxy.refuse()
        assert proxy.reset(of_kind(kind)) == 1
        await eventually(lambda: proxy.links() == [], what="the connection is gone")
        with pytest.raises((UnknownOutcomeError, BrokerUnreachableError)):
            await broker.statuses(["t1"])  # which of them depends on whether the end has been heard of already
        with pytest.raises(BrokerUnreachableError):
            await broker.statuses(["t1"])
        proxy.accept()
        assert await broker.statuses(["t1"]) == [None]
    finally:
        await broker.close()
