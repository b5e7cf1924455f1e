"""The test servers themselves: they start, freeze, survive, and die with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.conftest import OwnServer
from tests.servers import Server
from tests.waiting import eventually, wait_until


def test_a_server_keeps_its_data_over_a_kill(own_server: OwnServer) -> None:
    server = own_server()
    server.command("SET", "k", "v")

    server.kill9()
    server.start()

    assert server.command("GET", "k") == "v"


def test_a_frozen_server_answers_again_after_sigcont(own_server: OwnServer) -> None:
    server = own_server(aof=False)

    server.sigstop()
    with server.client(timeout_s=0.1) as client, pytest.raises(redis.TimeoutError):
        client.ping()
    server.sigcont()

    assert server.command("PING")


def test_the_session_server_listens_on_tcp_too(valkey_server: Server) -> None:
    with redis.Redis.from_url(valkey_server.tcp_url) as client:
        assert client.ping()


def test_debians_redis_is_version_7_0(redis70_server: Server) -> None:
    with redis70_server.client() as client:
        info = client.info("server")

    assert "valkey_version" not in info, "what calls itself redis-server is a Valkey"
    if not info["redis_version"].startswith("7.0."):
        pytest.skip(f"the redis-server on PATH is {info['redis_version']}: nothing is tested on Redis 7.0")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent, and has /proc")
def test_a_server_dies_when_its_parent_is_killed() -> None:
    """SIGKILL of pytest leaves no server behind."""
    script = "from tests.servers import Server; s = Server().start(); print(s.pid, s.folder, flush=True); input()"
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)

    wait_until(lambda: not _alive(int(pid)), what="the server ended")
    for path in Path(folder).iterdir():
        path.unlink()
    Path(folder).rmdir()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_wait_until_fails_after_its_deadline() -> None:
    with pytest.raises(AssertionError, match="not within"):
        wait_until(lambda: 0, timeout=0.01)


async def test_eventually_takes_a_coroutine_function() -> None:
    rounds = iter([0, 0, 7])

    async def predicate() -> int:
        return next(rounds)

    assert await eventually(predicate) == 7
