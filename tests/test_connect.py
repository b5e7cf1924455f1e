"""From a URL to an adapter, and what happens when there is no URL."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from stem.adapters import connect
from stem.adapters.memory import InMemoryBroker, InMemoryResultBackend
from stem.adapters.redis import RedisResultBackend, RedisStreamsBroker
from stem.client import Stem
from stem.config import StemConfig, TLSConfig
from stem.contracts import Limits
from stem.errors import ConfigError, InvalidNameError
from stem.sync import SyncStem


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(connect, "_told", False)
    for name in ("STEM_BROKER_URL", "STEM_RESULT_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)
    yield
    connect._memory.clear()
    connect._memory_results.clear()


def test_the_url_given_comes_before_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    env = {"STEM_BROKER_URL": "redis://from-env"}

    assert connect.resolve_url("redis://given", interactive=False, env=env) == "redis://given"
    assert connect.resolve_url(None, interactive=False, env=env) == "redis://from-env"
    assert connect.resolve_url("  ", interactive=True, env=env) == "redis://from-env"
    assert capsys.readouterr().err == ""


def test_a_person_at_a_terminal_gets_the_embedded_server_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert connect.resolve_url(None, interactive=True, env={}) == "embedded://"
    assert connect.resolve_url(None, interactive=True, env={"STEM_BROKER_URL": " "}) == "embedded://"

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("embedded server") == 1


def test_nobody_at_a_terminal_gets_an_error_that_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"set STEM_BROKER_URL.*redis://localhost:6379"):
        connect.resolve_url(None, interactive=False, env={})


@pytest.mark.parametrize("url", ["localhost", "http://h", "redis:h", "://"])
def test_a_url_of_another_form_is_refused_wherever_it_comes_from(url: str) -> None:
    with pytest.raises(ConfigError, match="url="):
        connect.resolve_url(url, interactive=True)
    with pytest.raises(ConfigError, match="STEM_BROKER_URL="):
        connect.resolve_url(None, interactive=True, env={"STEM_BROKER_URL": url})


@pytest.mark.parametrize(
    ("stdin", "stderr", "expected"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_interactive_means_stdin_and_stderr_are_terminals(
    stdin: bool, stderr: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        def __init__(self, terminal: bool) -> None:
            super().__init__()
            self.terminal = terminal

        def isatty(self) -> bool:
            return self.terminal

    monkeypatch.setattr(sys, "stdin", Stream(stdin))
    monkeypatch.setattr(sys, "stderr", Stream(stderr))
    assert connect.interactive() is expected
    monkeypatch.setattr(sys, "stdin", None)
    assert connect.interactive() is False


def test_memory_is_one_broker_per_process_and_name_and_namespace() -> None:
    async def count(url: str, namespace: str) -> int:
        broker = connect.connect_broker(url, namespace=namespace)
        return sum(row.ready for row in await broker.census.queues())

    async def main() -> list[int]:
        app = Stem(broker=connect.connect_broker("memory://", namespace="a"))
        await app.enqueue("t")
        places = [("memory://", "a"), ("memory:///", "a"), ("memory://", "b"), ("memory://other", "a")]
        return [await count(*place) for place in places]

    assert asyncio.run(main()) == [1, 1, 0, 0]
    assert connect.connect_backend("memory://x") is connect.connect_backend("memory://x")
    assert isinstance(connect.connect_backend("memory://x"), InMemoryResultBackend)


@pytest.mark.parametrize("url", ["redis://h:1/2", "valkey://h", "unix:///tmp/s", "REDIS://h"])
def test_redis_urls_give_a_broker_that_is_not_connected_yet(url: str) -> None:
    broker = connect.connect_broker(url, namespace="ns", limits=Limits(queue_length=5))

    assert isinstance(broker, RedisStreamsBroker)
    assert broker.namespace == "ns"
    assert isinstance(connect.connect_backend(url), RedisResultBackend)
    connect.connect_blocking(url).close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rediss://:hunter2@h?ssl_cert_reqs=none", "'ssl_cert_reqs' is not known"),
        ("postgresql://u:hunter2@h/db", "Postgres adapter does not exist yet"),
        ("redis+sentinel://:hunter2@h", "Sentinel is not supported yet"),
        ("redis+cluster://:hunter2@h", "Cluster is not supported yet"),
        ("redis+other://:hunter2@h", "no such adapter"),
        ("redis://:hunter2@h:port", "port"),
        ("redis://:hunter2@h/x", "database"),
        ("memory://u@h", "use memory://"),
        ("memory://?a=b", "use memory://"),
        ("embedded://host/folder", "use embedded://"),
    ],
)
def test_what_does_not_exist_is_refused_by_name_and_without_its_password(url: str, reason: str) -> None:
    makers: list[Any] = [connect.connect_broker, connect.connect_blocking]
    if not url.startswith("memory"):
        makers.append(connect.connect_backend)
    for make in makers:
        with pytest.raises(ConfigError, match=reason) as caught:
            make(url)
        assert "hunter2" not in str(caught.value)


def test_tls_settings_are_not_silently_ignored() -> None:
    with pytest.raises(ConfigError, match=r"STEM_TLS_\*"):
        connect.connect_broker("redis://h", tls=TLSConfig(ca_cert="/ca.pem"))
    assert connect.connect_broker("memory://", tls=TLSConfig())


def test_an_ill_formed_namespace_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        connect.connect_broker("memory://", namespace="a b")


def test_no_url_for_results_means_no_backend() -> None:
    assert Stem.connect("memory://").backend is None


# --------------------------------------------------------------------------------------------------------- Stem.connect


async def test_an_application_is_made_at_import_and_connects_on_first_use() -> None:
    app = Stem.connect("memory://app", namespace="ns")
    assert "not connected" in repr(app)

    @app.task("t")
    def task(a: int) -> None: ...

    task_id = await task.enqueue(1)

    assert isinstance(app.broker, InMemoryBroker)
    assert "memory://" in repr(app)
    assert (await Stem.connect("memory://app", namespace="ns").status(task_id)).task == "t"
    await app.close()
    assert (await app.status(task_id)).id == task_id, "used again, it connects again"
    await app.close()


async def test_the_environment_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_BROKER_URL", "memory://env")
    monkeypatch.setenv("STEM_NAMESPACE", "from-env")
    monkeypatch.setenv("STEM_DEFAULT_QUEUE", "main")
    monkeypatch.setenv("STEM_RESULT_BACKEND_URL", "memory://results")
    monkeypatch.setenv("STEM_SIGNING_KEYS", "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")

    async with Stem.connect() as app:
        status = await app.status(await app.enqueue("t"))

    assert (app.namespace, status.queue) == ("from-env", "main")
    assert app.signer is not None
    assert app.backend is connect.connect_backend("memory://results", namespace="from-env")


async def test_a_missing_url_is_said_at_the_first_use_and_not_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "interactive", lambda: False)
    app = Stem.connect()

    with pytest.raises(ConfigError, match="set STEM_BROKER_URL"):
        await app.enqueue("t")
    with pytest.raises(ConfigError, match="set STEM_BROKER_URL"):
        SyncStem.connect()


@pytest.mark.parametrize("url", ["localhost:6379", "http://h", ""])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="url="):
        Stem.connect(url)


def test_a_bad_variable_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_MAX_BODY", "lots")

    with pytest.raises(ConfigError, match="STEM_MAX_BODY"):
        Stem.connect("memory://")


async def test_what_was_given_is_taken_as_it_is() -> None:
    backend = InMemoryResultBackend()
    config = StemConfig(default_queue="mine")

    async with Stem.connect("memory://given", backend=backend, config=config) as app:
        status = await app.status(await app.enqueue("t"))

        assert status.queue == "mine"
        assert app.backend is backend


async def test_the_embedded_server_is_started_at_the_first_use_and_shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("e") / ".stem"
    url = f"embedded://{folder}"
    app = Stem.connect(url)
    assert not folder.exists()
    try:
        async with app:
            task_id = await app.enqueue("t")
        with SyncStem.connect(url) as sync:
            assert await asyncio.to_thread(sync.status, task_id)
    finally:
        await asyncio.to_thread(connect.release_embedded)
