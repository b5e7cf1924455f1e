"""Every STEM_* variable: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import pytest

from stem.config import StemConfig, TLSConfig, format_duration, parse_duration, parse_size
from stem.contracts import Limits
from stem.errors import ConfigError
from stem.signing import SigningConfig

KEY = base64.b64encode(bytes(range(32))).decode()

GOOD: list[tuple[str, str, str, Any]] = [
    ("STEM_BROKER_URL", "redis://h:6379/0", "broker_url", "redis://h:6379/0"),
    ("STEM_BROKER_URL", " unix:///run/valkey.sock ", "broker_url", "unix:///run/valkey.sock"),
    ("STEM_BROKER_URL", "embedded://", "broker_url", "embedded://"),
    ("STEM_RESULT_BACKEND_URL", "valkey://h/1", "result_backend_url", "valkey://h/1"),
    ("STEM_NAMESPACE", "prod_1", "namespace", "prod_1"),
    ("STEM_DEFAULT_QUEUE", "main", "default_queue", "main"),
    ("STEM_WORKER_QUEUES", "a, b,a", "worker_queues", ("a", "b")),
    ("STEM_WORKER_NAME", "w-1", "worker_name", "w-1"),
    ("STEM_WORKER_CONCURRENCY", "50", "worker_concurrency", 50),
    ("STEM_WORKER_PROCESSES", "2", "worker_processes", 2),
    ("STEM_HEALTH_PORT", "9000", "health_port", 9000),
    ("STEM_HEALTH_HOST", "127.0.0.1", "health_host", "127.0.0.1"),
    ("STEM_PREFETCH", "0", "prefetch", 0),
    ("STEM_DEFAULT_MAX_RETRIES", "0", "default_max_retries", 0),
    ("STEM_VISIBILITY_TIMEOUT", "500ms", "visibility_timeout_s", 0.5),
    ("STEM_RESULT_TTL", "2h", "result_ttl_s", 7200.0),
    ("STEM_HEARTBEAT_INTERVAL", "1s", "heartbeat_interval_s", 1.0),
    ("STEM_CONTROL_TIMEOUT", "10s", "control_timeout_s", 10.0),
    ("STEM_DRAIN_TIMEOUT", "0s", "drain_timeout_s", 0.0),
    ("STEM_WEDGED_TIMEOUT", "2m", "wedged_timeout_s", 120.0),
    ("STEM_MAX_QUEUE_LENGTH", "1000", "max_queue_length", 1000),
    ("STEM_DEAD_MAX", "5", "dead_max", 5),
    ("STEM_DEAD_TTL", "7d", "dead_ttl_s", 604_800.0),
    ("STEM_MAX_BODY", "64KiB", "max_body", 65_536),
    ("STEM_SIGNING_ALGORITHM", "ED25519", "signing", SigningConfig(algorithm="ed25519")),
    ("STEM_SIGNING_KEYS", f"a:{KEY}", "signing", SigningConfig(keys={"a": bytes(range(32))})),
    ("STEM_SIGNING_ACTIVE_KEY", "a", "signing", SigningConfig(active_key="a")),
    ("STEM_SIGNING_PUBLIC_KEYS", f"p:{KEY}", "signing", SigningConfig(public_keys={"p": bytes(range(32))})),
    ("STEM_SIGNING_PRIVATE_KEYS", f"p:{KEY}", "signing", SigningConfig(private_keys={"p": bytes(range(32))})),
    ("STEM_TLS_CA_CERT", "/ca.pem", "tls", TLSConfig(ca_cert="/ca.pem")),
    ("STEM_TLS_CLIENT_CERT", "/c.pem", "tls", TLSConfig(client_cert="/c.pem")),
    ("STEM_TLS_CLIENT_KEY", "/k.pem", "tls", TLSConfig(client_key="/k.pem")),
    ("STEM_TLS_ALLOW_INSECURE", "Yes", "tls", TLSConfig(allow_insecure=True)),
    ("STEM_SIGNALS_ENABLED", "0", "signals_enabled", False),
    ("STEM_SIGNALS_DISABLED", "task_retry,worker_ready", "signals_disabled", ("task_retry", "worker_ready")),
    ("STEM_LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("STEM_LOG_FORMAT", "json", "log_format", "json"),
]

BAD: list[tuple[str, str]] = [
    *[("STEM_BROKER_URL", url) for url in ("localhost:6379", "http://h", "redis:/h", "redis://h x", "redis://h/\x1b")],
    ("STEM_RESULT_BACKEND_URL", "file:///x"),
    *[("STEM_NAMESPACE", name) for name in ("a b", "a:b", "{a}", "ü", "x" * 65, "*")],
    ("STEM_DEFAULT_QUEUE", "a/b"),
    *[("STEM_WORKER_QUEUES", queues) for queues in ("a,,b", ",a", "a b", "a,b:c")],
    ("STEM_WORKER_NAME", "w 1"),
    *[("STEM_WORKER_CONCURRENCY", number) for number in ("0", "-1", "1.5", "ten", "١", "1e3", "1_000", "9" * 20)],
    ("STEM_WORKER_PROCESSES", "0"),
    ("STEM_HEALTH_HOST", "http://u:hunter2@h"),
    *[("STEM_HEALTH_PORT", port) for port in ("-1", "65536", "http")],
    ("STEM_PREFETCH", "-1"),
    ("STEM_DEFAULT_MAX_RETRIES", "-1"),
    *[("STEM_VISIBILITY_TIMEOUT", text) for text in ("30", "0s", "-5s", "5 s", "5sec", "s", "1h30m", "9999999d", "٣s")],
    ("STEM_RESULT_TTL", "0s"),
    ("STEM_HEARTBEAT_INTERVAL", "1ms"),
    ("STEM_CONTROL_TIMEOUT", "0s"),
    ("STEM_DRAIN_TIMEOUT", "soon"),
    ("STEM_WEDGED_TIMEOUT", "1s"),
    ("STEM_MAX_QUEUE_LENGTH", "0"),
    ("STEM_DEAD_MAX", "none"),
    ("STEM_DEAD_TTL", "30"),
    *[("STEM_MAX_BODY", size) for size in ("1 MiB", "10", "1GiB", "-1", "65MiB", "1.5MiB")],
    *[("STEM_SIGNING_ALGORITHM", name) for name in ("none", "", "rsa")],
    *[("STEM_SIGNING_KEYS", keys) for keys in ("", "  ", "nokey", "a:!!", "a")],
    ("STEM_SIGNING_ACTIVE_KEY", ""),
    ("STEM_SIGNING_PUBLIC_KEYS", ""),
    ("STEM_SIGNING_PRIVATE_KEYS", "x"),
    *[("STEM_TLS_ALLOW_INSECURE", value) for value in ("maybe", "2", "on")],
    ("STEM_SIGNALS_ENABLED", "nope"),
    *[("STEM_SIGNALS_DISABLED", names) for names in ("task_done", "task_retry,", "TASK_RETRY")],
    ("STEM_LOG_LEVEL", "loud"),
    ("STEM_LOG_FORMAT", "xml"),
]


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    config = StemConfig.from_environment({})

    assert StemConfig() == config
    assert (
        config.broker_url,
        config.namespace,
        config.default_queue,
        config.queues,
    ) == (None, "stem", "default", ("default",))
    assert (
        config.default_max_retries,
        config.visibility_timeout_s,
        config.result_ttl_s,
        config.heartbeat_interval_s,
        config.control_timeout_s,
        config.drain_timeout_s,
        config.wedged_timeout_s,
    ) == (3, 30.0, 86_400.0, 2.0, 5.0, 25.0, 60.0)
    assert (
        config.max_queue_length,
        config.dead_max,
        config.dead_ttl_s,
        config.max_body,
    ) == (None, 10_000, 30 * 86_400.0, 1_048_576)
    assert Limits() == config.limits()


@pytest.mark.parametrize(("variable", "value", "field", "expected"), GOOD)
def test_a_good_value_is_read(variable: str, value: str, field: str, expected: Any) -> None:
    config = StemConfig.from_environment({variable: value})

    assert dataclasses.replace(StemConfig(), **{field: expected}) == config


@pytest.mark.parametrize(("variable", "value"), BAD)
def test_a_bad_value_is_an_error_that_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable) as caught:
        StemConfig.from_environment({variable: value})

    message = str(caught.value)
    assert message.isprintable()
    assert any(advice in message for advice in ("use ", "give it", "make one"))


def test_every_variable_is_tried_good_and_bad() -> None:
    free_text = {"STEM_TLS_CA_CERT", "STEM_TLS_CLIENT_CERT", "STEM_TLS_CLIENT_KEY"}

    good, bad = {row[0] for row in GOOD}, {row[0] for row in BAD}

    assert good == bad | free_text
    assert len(good) == 35


@pytest.mark.parametrize("variable", sorted({row[0] for row in GOOD if "SIGNING" not in row[0]}))
def test_an_empty_variable_counts_as_unset(variable: str) -> None:
    assert StemConfig() == StemConfig.from_environment({variable: "  "})


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEM_NAMESPACE", "from-env")

    assert StemConfig.from_environment().namespace == "from-env"


@pytest.mark.parametrize("url", ["redis://:hunter2@h x", "http://user:hunter2@h", "redis:/:hunter2@h", ":hunter2@h:1"])
def test_no_password_shows_in_an_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StemConfig.from_environment({"STEM_BROKER_URL": url})

    assert "hunter2" not in str(caught.value)


def test_no_secret_shows_in_the_repr() -> None:
    config = StemConfig.from_environment(
        {
            "STEM_BROKER_URL": "redis://:hunter2@h/0",
            "STEM_RESULT_BACKEND_URL": "redis://:hunter2@h/1",
            "STEM_SIGNING_KEYS": f"a:{KEY}",
        }
    )

    assert "hunter2" not in repr(config)
    assert r"\x01\x02\x03" not in repr(config)
    assert KEY[:10] not in repr(config)


@pytest.mark.parametrize("value", ["a:" + KEY + "!", KEY, "a:" + KEY[:-1]])
def test_no_key_shows_in_an_error(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StemConfig.from_environment({"STEM_SIGNING_KEYS": value})

    assert KEY[:10] not in str(caught.value)


def test_hostile_values_are_shown_escaped_and_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        StemConfig.from_environment({"STEM_LOG_LEVEL": "\x1b[2J\u202e" + "x" * 10_000})

    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5.0), ("10m", 600.0), ("2h", 7200.0), ("1d", 86_400.0), ("1.5s", 1.5), ("0s", 0.0)],
)
def test_durations_have_one_grammar(text: str, seconds: float) -> None:
    assert seconds == parse_duration(text, name="--for")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "500ms"), (5, "5s"), (90, "90s"), (600, "10m"), (7200, "2h"), (86_400, "1d"), (1.25, "1250ms"), (0, "0s")],
)
def test_durations_are_written_in_their_own_grammar(seconds: float, text: str) -> None:
    assert text == format_duration(seconds)
    assert seconds == parse_duration(text, name="x")


@pytest.mark.parametrize(("text", "size"), [("10", 10), ("1kB", 1000), ("1KiB", 1024), ("2MiB", 2_097_152)])
def test_sizes_have_one_grammar(text: str, size: int) -> None:
    assert size == parse_size(text, name="x")


def test_limits_follow_the_settings() -> None:
    config = StemConfig.from_environment(
        {
            "STEM_MAX_QUEUE_LENGTH": "7",
            "STEM_DEAD_MAX": "8",
            "STEM_DEAD_TTL": "9s",
            "STEM_HEARTBEAT_INTERVAL": "500ms",
        }
    )

    assert Limits(queue_length=7, dead_count=8, dead_ttl_ms=9_000, lost_after_ms=1_500) == config.limits()


SECRET = base64.b64encode(b"very secret, and long enough to be one").decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STEM_CONTROL_KEYS", f"{SECRET}:operator:ops"),
        ("STEM_CONTROL_KEYS", f"{SECRET}:operator:{SECRET}"),
        ("STEM_CONTROL_KEYS", f"k1:{SECRET}:operator"),
        ("STEM_CONTROL_ACTIVE_KEY", f"k1:{SECRET}"),
        ("STEM_SIGNING_ACTIVE_KEY", f"k1:{SECRET}"),
        ("STEM_SIGNING_ACTIVE_KEY", SECRET),
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(name: str, value: str) -> None:
    """Errors go to the journal."""
    with pytest.raises(ConfigError, match=name) as caught:
        StemConfig.from_environment({name: value})

    assert SECRET[:8] not in str(caught.value)
