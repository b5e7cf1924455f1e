"""`SyncStem` in servers that fork and thread, and where it does not belong: on an event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.sync import SyncStem
from tests.flow import forking
from tests.flow.running import environment, run
from tests.servers import Server

_IN_A_FORK = """
import os, signal, sys, threading
from stem import InMemoryBroker, SyncStem
stem = SyncStem(InMemoryBroker().blocking())
stem.enqueue("t")
held = threading.Event()
def hold():
    with stem.broker._core.lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(15)  # one that hangs outlives nobody
    try:
        stem.enqueue("t")
    except Exception as error:
        print(type(error).__name__, error)
    stem.close()
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_eight_threads_and_three_forks_of_them_enqueue_each_task_once(valkey_server: Server, namespace: str) -> None:
    """Forked in the middle of round trips: no answer reaches the wrong process, no lock is left held, none hangs."""
    command = [sys.executable, "-m", "tests.flow.forking", valkey_server.url, namespace]

    done = run(command, env=environment())

    assert (done.returncode, done.stderr) == (0, "")
    said = [line.split() for line in done.stdout.splitlines()]
    by_children = [task_id for who, task_id in said if who == "child"]
    ids = [task_id for _, task_id in said]
    assert len(by_children) == forking.CHILDREN * forking.THREADS * forking.EACH
    assert len(set(ids)) == len(ids)
    assert valkey_server.command("XLEN", f"{{{namespace}}}:q:default:p0") == len(ids) + 1


def test_a_fork_of_a_broker_in_memory_is_told_that_nobody_would_see_its_tasks() -> None:
    done = run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", _IN_A_FORK], env=environment())

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ConfigError this process was forked"), done.stdout
    assert "STEM_BROKER_URL" in done.stdout


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("enqueue", lambda sync: sync.enqueue("t")),
        ("enqueue_many", lambda sync: sync.enqueue_many([("t", {})])),
        ("status", lambda sync: sync.status("x")),
        ("wait_for", lambda sync: sync.wait_for("x")),
        ("cancel", lambda sync: sync.cancel("x")),
    ],
)
async def test_on_a_running_loop_each_call_says_what_to_use(name: str, call: Callable[[SyncStem], Any]) -> None:
    sync = SyncStem(InMemoryBroker().blocking())

    with pytest.raises(RuntimeError, match=rf"SyncStem\.{name} would block .*await Stem\.{name}\("):
        call(sync)
    assert await asyncio.to_thread(sync.enqueue, "t")
