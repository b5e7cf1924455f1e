"""Whose settings a worker of `stem-worker` has: the application's, but for those of one process."""

from __future__ import annotations

import os
from typing import Final

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.adapters.redis import RedisStreamsBroker
from stem.client import Stem
from stem.config import StemConfig, TLSConfig
from stem.errors import ConfigError
from stem.worker import cli
from tests.worker.plain_sample import app
from tests.worker.test_cli import call

KEY: Final = "k:operator:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("STEM_"):
            monkeypatch.delenv(name)


def settings(application: Stem, *args: str) -> StemConfig:
    return cli._settings(application, cli.parser().parse_args(["tests.worker.plain_sample:app", *args]))


def test_what_the_environment_leaves_open_the_application_says() -> None:
    assert settings(app) == app.config


def test_what_is_about_one_process_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STEM_WORKER_QUEUES": "a,b",
        "STEM_WORKER_NAME": "w1",
        "STEM_WORKER_CONCURRENCY": "3",
        "STEM_HEALTH_PORT": "9000",
        "STEM_HEALTH_HOST": "127.0.0.1",
        "STEM_DRAIN_TIMEOUT": "25s",
        "STEM_WEDGED_TIMEOUT": "2m",
        "STEM_RESULT_TTL": "5s",
    }.items():
        monkeypatch.setenv(name, value)

    found = settings(app)

    assert (found.worker_queues, found.worker_name, found.worker_concurrency) == (("a", "b"), "w1", 3)
    assert (found.health_port, found.health_host) == (9000, "127.0.0.1")
    assert (found.drain_timeout_s, found.wedged_timeout_s) == (25.0, 120.0)  # the former is what it is by default
    assert found.result_ttl_s == 77.0


def test_the_command_line_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_WORKER_NAME", "w1")
    monkeypatch.setenv("STEM_HEALTH_PORT", "9000")

    found = settings(app, "--name", "w2", "--health-port", "0")

    assert (found.worker_name, found.health_port) == ("w2", 0)


def test_an_application_of_the_environment_has_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_BROKER_URL", "memory://")
    monkeypatch.setenv("STEM_CONTROL_KEYS", KEY)
    monkeypatch.setenv("STEM_DRAIN_TIMEOUT", "7s")
    application = Stem.connect()

    found = settings(application)

    assert found == application.config == StemConfig.from_environment()


def test_control_keys_that_the_application_does_not_know_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_CONTROL_KEYS", KEY)

    with pytest.raises(ConfigError, match=r"STEM_CONTROL_\* is set.*obey everybody.*Stem\.connect\(\)"):
        settings(app)


def test_a_namespace_that_is_not_the_applications_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker took the tasks of another installation, without a word."""
    with pytest.raises(ConfigError, match=r"--namespace other: .* was made with namespace stem,.*Stem\.connect\(\)"):
        settings(app, "--namespace", "other")

    assert settings(app, "--namespace", "stem") == app.config
    assert settings(app, "--namespace", "other", "--url", "memory://") == app.config  # its own broker, and there


def test_a_broker_named_on_the_command_line_is_used_with_the_applications_settings() -> None:
    """With those of the environment a fleet that beats every 10 s was silent at every beat, and swept nothing."""
    chosen = StemConfig(heartbeat_interval_s=10.0, dead_max=7, tls=TLSConfig(allow_insecure=True))
    own = Stem(InMemoryBroker(), config=chosen)
    args = cli.parser().parse_args(["tests.worker.plain_sample:app", "--url", "rediss://127.0.0.1:6390"])

    broker, _ = cli._connections(own, args, chosen)

    assert isinstance(broker, RedisStreamsBroker)
    assert broker._limits == chosen.limits()
    assert broker._client.address.tls == chosen.tls


@pytest.mark.parametrize("given", ["0s", "1.9s"])
def test_a_work_loop_may_stand_still_for_as_long_as_it_takes_to_be_seen(given: str) -> None:
    """With less, every stall of two seconds ended the worker, and counted a crash for all it had."""
    done = call("tests.worker.plain_sample:app", "--wedged-timeout", given)

    assert done.returncode == 2
    assert "--wedged-timeout" in done.stderr
    assert "at least 2s" in done.stderr


def test_signing_keys_that_the_application_does_not_know_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_SIGNING_KEYS", f"k1:{KEY.rpartition(':')[2]}")

    with pytest.raises(ConfigError, match=r"STEM_SIGNING_\* is set.*run what nobody signed.*Stem\.connect\(\)"):
        settings(app)


def test_a_worker_that_would_obey_everybody_in_spite_of_keys_does_not_start() -> None:
    done = call("tests.worker.plain_sample:app", "--health-port", "0", STEM_CONTROL_KEYS=KEY)

    assert done.returncode == 2
    assert "STEM_CONTROL_*" in done.stderr
    assert done.stderr.count("\n") == 1
    assert KEY.rpartition(":")[2] not in done.stderr
