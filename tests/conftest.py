"""Fixtures and checks for every test: real servers, fresh namespaces, and nothing left behind."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator

import pytest

from stem import startup
from tests import leaks
from tests.servers import Kind, Server, redis_server_path

OwnServer = Callable[..., Server]

_BEFORE = pytest.StashKey[tuple[set[threading.Thread], dict[int, str], dict[str, object]]]()

_SHARED: list[Server] = []
"""The servers of this session that have been started; their keys are looked at after each test."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, else one process is still at it when the others have nothing left to do.

    Of `-n` processes each is given as many items as the others, in their order, and whoever is done takes from the end
    of what another has: so each begins with its share of the long ones.
    """
    long = [item for item in items if any(item.get_closest_marker(name) for name in ("slow", "timeout"))]
    short = [item for item in items if not any(item.get_closest_marker(name) for name in ("slow", "timeout"))]
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = [item for share in range(shares) for kind in (long, short) for item in _share(kind, share, shares)]


def _share(items: list[pytest.Item], share: int, shares: int) -> list[pytest.Item]:
    return items[share * len(items) // shares : (share + 1) * len(items) // shares]


@pytest.fixture(scope="session", autouse=True)
def _collector_is_ours() -> Iterator[None]:
    """Keep programs that run within this process from changing its collector of cycles, which outlives them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "hurry", lambda: None)
        patch.setattr(startup, "settle", lambda *, for_others: None)
        yield


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """A Valkey without persistence, on a unix socket and a TCP port, shared by all tests of the session."""
    yield from _shared(Server(kind="valkey", tcp=True))


@pytest.fixture(scope="session")
def redis70_server() -> Iterator[Server]:
    """Debian's redis-server, shared by all tests of the session."""
    if redis_server_path() is None:
        pytest.skip("redis-server is not on PATH")
    yield from _shared(Server(kind="redis", tcp=True))


def _shared(server: Server) -> Iterator[Server]:
    try:
        server.start()
        _SHARED.append(server)
        yield server
    finally:
        server.remove()


@pytest.fixture
def valkey_url(valkey_server: Server) -> str:
    return valkey_server.url


@pytest.fixture
def redis70_url(redis70_server: Server) -> str:
    return redis70_server.url


@pytest.fixture
def namespace() -> Iterator[str]:
    """A fresh namespace. Afterwards the shared servers are emptied; keys of an unknown form fail the test."""
    name = f"t{secrets.token_hex(6)}"
    yield name
    complaints = [leaks.clear_keys(server, name) for server in _SHARED if server.running]
    if any(complaints):
        pytest.fail("; ".join(filter(None, complaints)))


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    """Make servers for tests that kill, freeze or restart them: `own_server(kind="valkey", aof=True, tcp=False)`.

    They are started already and keep an append-only file unless told otherwise; they are removed after the test.
    """
    made: list[Server] = []

    def make(*, kind: Kind = "valkey", aof: bool = True, tcp: bool = False, options: tuple[str, ...] = ()) -> Server:
        if kind == "redis" and redis_server_path() is None:
            pytest.skip("redis-server is not on PATH")
        server = Server(kind=kind, aof=aof, tcp=tcp, options=options)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.remove()


# A hook rather than an autouse fixture: it must look after every fixture's teardown, the event loop's included.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[_BEFORE] = (leaks.threads(), leaks.children(), leaks.settings())
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail a test that leaves child processes, threads, or what complains when the collector finds it."""
    yield
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # pytest would do so next; what only a fixture's value holds must be found here
    threads, children, settings = item.stash[_BEFORE]
    complaints = [*leaks.collect(), leaks.left_behind(threads, children), *leaks.changed(settings)]
    complaint = "; ".join(filter(None, complaints))
    if complaint:
        pytest.fail(f"left behind: {complaint}", pytrace=False)
