"""How a worker's process begins and ends, whatever its application does meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stem.client import Stem
from tests.waiting import eventually
from tests.worker.test_cli import Process

IN_TIME_S = 8.0
"""Far less than what a handler would sleep for."""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    made: list[Process] = []
    yield made
    for process in made:
        process.close()


@pytest.mark.parametrize("name", ["sample.aside", "sample.beside", "sample.generates"])
async def test_what_a_handler_leaves_behind_does_not_keep_the_process(
    valkey_url: str, namespace: str, tmp_path: Path, processes: list[Process], name: str
) -> None:
    """A call in one of asyncio's threads, a thread of its own, a generator: the interpreter would wait for each."""
    quick = ("--drain-timeout", "0s", "--soft-timeout", "1s", "--log-format", "json")
    process = Process(tmp_path, "--url", valkey_url, "--namespace", namespace, *quick)
    processes.append(process)
    await process.ready()
    async with Stem.connect(valkey_url, namespace=namespace) as stem:
        task_id = await stem.enqueue(name, {"seconds": 60})

        async def running() -> bool:
            return (await stem.status(task_id)).state.value == "running"

        await eventually(running, what="the handler")
        process.process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.process.poll() is not None, IN_TIME_S, what="the end of the process")
        status = await stem.status(task_id)

    assert process.process.returncode == 0, process.log()
    assert status.state.value == "queued"
    assert "worker.stopped" in process.log()
    assert "Traceback" not in process.log()
