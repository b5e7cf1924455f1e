"""Servers that are there and take nothing: too few replicas, too many connections."""

from __future__ import annotations

import asyncio

import pytest

from stem import Stem
from stem.errors import BrokerRefusedError, BrokerUnreachableError
from tests.conftest import OwnServer
from tests.flow.running import environment, run
from tests.servers import Server


@pytest.fixture
def alone(own_server: OwnServer) -> Server:
    """It wants a replica before it takes a write, and has none."""
    return own_server(options=("--min-replicas-to-write", "1"))


async def test_an_enqueue_without_the_replicas_that_are_asked_for_is_refused_and_says_so(alone: Server) -> None:
    async with Stem.connect(alone.url, patience=1) as stem:
        with pytest.raises(BrokerRefusedError, match=r"not enqueued, .* NOREPLICAS .* too few replicas") as refused:
            await stem.enqueue("mail.send")

    assert refused.value.code == "NOREPLICAS"


async def test_an_enqueue_waits_for_the_replica_to_come_back(alone: Server) -> None:
    async with Stem.connect(alone.url, patience=20) as stem:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stem.enqueue("mail.send", task_id="first"), 0.3)
        enqueued = asyncio.ensure_future(stem.enqueue("mail.send", task_id="second"))
        alone.command("CONFIG", "SET", "min-replicas-to-write", "0")  # as if it were

        assert await enqueued == "second"


@pytest.mark.parametrize("line", ["enqueue mail.send --timeout 1s", "pause --queue mail --yes", "ping"])
def test_stemctl_says_what_is_missing_and_that_it_was_refused(alone: Server, line: str) -> None:
    ran = run(["stemctl", *line.split()], env=environment(STEM_BROKER_URL=alone.url))

    assert (ran.returncode, ran.stdout) == (5, ""), ran.stderr
    assert "NOREPLICAS" in ran.stderr
    assert "too few replicas" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.fixture
def crowded(own_server: OwnServer) -> Server:
    """It takes one connection, and somebody has it."""
    return own_server(aof=False, tcp=True, options=("--maxclients", "1"))


async def test_a_server_without_a_connection_to_spare_has_enqueued_nothing(crowded: Server) -> None:
    with crowded.client() as other:
        other.ping()

        async with Stem.connect(crowded.tcp_url, patience=1) as stem:
            with pytest.raises(BrokerUnreachableError, match=r"not enqueued.* takes no more connections.*maxclients"):
                await stem.enqueue("mail.send")


@pytest.mark.parametrize("line", ["enqueue mail.send --timeout 1s", "pause --queue mail --yes", "ping"])
def test_stemctl_says_that_there_is_no_connection_to_spare(crowded: Server, line: str) -> None:
    with crowded.client() as other:
        other.ping()

        ran = run(["stemctl", *line.split()], env=environment(STEM_BROKER_URL=crowded.tcp_url))

    assert (ran.returncode, ran.stdout) == (69, ""), ran.stderr
    assert "takes no more connections" in ran.stderr
    assert "may have been" not in ran.stderr
    assert ran.stderr.count("\n") == 1
