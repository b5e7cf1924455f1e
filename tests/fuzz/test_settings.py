"""Whatever a setting, a duration or a URL says: a value or `ConfigError`, one printable line that tells no secret."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final

import pytest

from stem.adapters.connect import connect_backend, connect_blocking, connect_broker, resolve_url
from stem.adapters.redis.address import Address, parse_address
from stem.authority import ControlKeys
from stem.config import StemConfig, check_url, format_duration, parse_duration, parse_size
from stem.errors import ConfigError, DecodeError, InvalidInputError
from stem.keyring import parse_keys
from stem.options import TaskOptions
from stem.signing import PayloadSigner
from stem.text import clean, safe_url
from tests.fuzz.corpus import nasty_strings
from tests.fuzz.mutate import Mutator
from tests.fuzz.sizes import TIMEOUT_S, random_for, reported, size

pytestmark = pytest.mark.timeout(TIMEOUT_S)

SECRET: Final = "geheim42"
GOOD: Final = {
    "STEM_BROKER_URL": f"redis://user:{SECRET}@host:6379/0",
    "STEM_RESULT_BACKEND_URL": "unix:///run/s?db=3",
    "STEM_NAMESPACE": "stem",
    "STEM_DEFAULT_QUEUE": "default",
    "STEM_WORKER_QUEUES": "a,b",
    "STEM_WORKER_NAME": "w",
    "STEM_WORKER_CONCURRENCY": "8",
    "STEM_WORKER_PROCESSES": "1",
    "STEM_HEALTH_PORT": "9000",
    "STEM_HEALTH_HOST": "127.0.0.1",
    "STEM_PREFETCH": "0",
    "STEM_DEFAULT_MAX_RETRIES": "3",
    "STEM_VISIBILITY_TIMEOUT": "30s",
    "STEM_RESULT_TTL": "1d",
    "STEM_HEARTBEAT_INTERVAL": "500ms",
    "STEM_CONTROL_TIMEOUT": "5s",
    "STEM_DRAIN_TIMEOUT": "25s",
    "STEM_WEDGED_TIMEOUT": "1m",
    "STEM_MAX_QUEUE_LENGTH": "100",
    "STEM_DEAD_MAX": "100",
    "STEM_DEAD_TTL": "30d",
    "STEM_MAX_BODY": "1MiB",
    "STEM_SIGNING_ALGORITHM": "hmac-sha256",
    "STEM_SIGNING_KEYS": "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "STEM_SIGNING_ACTIVE_KEY": "k",
    "STEM_SIGNING_PUBLIC_KEYS": "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "STEM_SIGNING_PRIVATE_KEYS": "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "STEM_CONTROL_KEYS": "k:operator:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "STEM_CONTROL_PUBLIC_KEYS": "p:viewer:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "STEM_CONTROL_PRIVATE_KEYS": "p:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "STEM_CONTROL_ACTIVE_KEY": "k",
    "STEM_TLS_ALLOW_INSECURE": "false",
    "STEM_SIGNALS_ENABLED": "true",
    "STEM_SIGNALS_DISABLED": "task_failed",
    "STEM_LOG_LEVEL": "info",
    "STEM_LOG_FORMAT": "json",
}


def changed(random: Random, text: str) -> str:
    """Return a text with something done to it."""
    nasty = random.choice(nasty_strings())
    if random.random() < 0.4:
        return nasty
    at = random.randrange(len(text) + 1)
    match random.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + nasty + text[at:]
        case 2:
            return text[:at] + chr(random.choice((0, 27, 0x85, 0x202E, 0x660, 0xFF11, 0xD800, 0x10FFFF))) + text[at:]
        case 3:
            return text * random.choice((2, 50))
        case _:
            return text[:at] + text[at + 1 :]


def harmless(text: str) -> bool:
    """Say whether a terminal would show this text and do nothing else."""
    return clean(text, 10 * len(text) + 1) == text


def refused_or(what: Callable[[], Any], *refusals: type[Exception], secret: str = SECRET) -> Any:
    """Return what a call gives, None where it refuses as it should."""
    try:
        return what()
    except refusals as error:
        said = str(error)
        assert harmless(said), f"not printable: {said!a}"
        assert len(said) < 1_500, f"{len(said)} characters: {said[:200]}"
        assert secret not in said, said
        return None


def test_any_environment_is_a_configuration_or_a_config_error() -> None:
    random = random_for("environment")
    with reported("environments") as counted:
        for _ in range(size(5_000)):
            names = random.sample(list(GOOD), random.choice((1, 1, 1, 3, len(GOOD))))
            env = {name: changed(random, GOOD[name]) for name in names}
            placed = all(SECRET not in text or f":{SECRET}@" in text for text in env.values())
            read = partial(StemConfig.from_environment, env)
            config = refused_or(read, ConfigError, secret=SECRET if placed else "\0")
            counted.add(config is not None)
            if config is None:
                continue
            assert SECRET not in repr(config)
            config.limits()
            refused_or(lambda config=config: PayloadSigner.maybe(config.signing), ConfigError)  # type: ignore[misc]
            refused_or(lambda config=config: ControlKeys.maybe(config.control), ConfigError)  # type: ignore[misc]


@pytest.mark.parametrize("name", [name for name in GOOD if not name.endswith("_URL") and "_TLS_C" not in name])
def test_a_url_that_went_into_the_wrong_variable_shows_no_password(name: str) -> None:
    said = ""
    try:
        StemConfig.from_environment({name: f"redis://user:{SECRET}@host:6379/0"})
    except ConfigError as error:
        said = str(error)

    # The id of a key may be of any form until the key is used.
    assert name in said or name.endswith("_ACTIVE_KEY")
    assert SECRET not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis:////user:{SECRET}@host:6379/0", "redis:////user:***@host:6379/0"),
        (f"redis:///:{SECRET}@host", "redis:///:***@host"),
        (f"redis://:a@h/0?x=redis://user:{SECRET}@host", "redis://:***@h/0?x=redis://user:***@host"),
        (f"unix:///x?next=redis://user:{SECRET}@host", "unix:///x?next=redis:***@host"),
        ("unix:///run/a:b/s.sock", "unix:///run/a:b/s.sock"),
        ("unix:///run/a@b/s.sock?db=1", "unix:///run/a@b/s.sock?db=1"),
    ],
)
def test_a_password_in_an_odd_place_is_masked(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_any_duration_and_size_is_a_number_or_a_config_error() -> None:
    random = random_for("durations")
    with reported("durations") as counted:
        for text in (
            *nasty_strings(),
            *(changed(random, random.choice(("1.5s", "10m", "3650d"))) for _ in range(size(5_000))),
        ):
            seconds = refused_or(lambda text=text: parse_duration(text, name="X"), ConfigError)  # type: ignore[misc]
            count = refused_or(lambda text=text: parse_size(text, name="X"), ConfigError)  # type: ignore[misc]
            counted.add(seconds is not None)
            if seconds is not None:
                assert math.isfinite(seconds)
                assert 0 <= seconds <= 3_650 * 86_400
                assert abs(parse_duration(format_duration(seconds), name="X") - seconds) <= 0.0006
            assert count is None or 0 <= count < 10**19


URLS: Final = (
    f"redis://user:{SECRET}@host:6379/0",
    f"valkey://:{SECRET}@[::1]:6379/15?db=3",
    "unix:///run/stem/s.sock?db=3",
    "memory://name",
    f"rediss://user:{SECRET}@host",
    f"postgresql://user:{SECRET}@host/db",
)


def test_any_url_is_an_address_or_a_config_error() -> None:
    random = random_for("urls")
    with reported("urls") as counted:
        for text in (*nasty_strings(), *(changed(random, random.choice(URLS)) for _ in range(size(10_000)))):
            # What stands in no password's place any more cannot be told from a host or a path.
            tried = partial(refused_or, secret=SECRET if f":{SECRET}@" in text else "\0")
            assert harmless(safe_url(text))
            address = tried(lambda text=text: parse_address(text), ConfigError)  # type: ignore[misc]
            counted.add(address is not None)
            if address is not None:
                assert isinstance(address, Address)
                assert clean(str(address), 10**6) is not None
                assert 0 < address.port < 65_536
            tried(lambda text=text: check_url(text, name="X"), ConfigError)  # type: ignore[misc]
            tried(lambda text=text: resolve_url(text, interactive=False, env={}), ConfigError)  # type: ignore[misc]
            env = {"STEM_BROKER_URL": text} if text.strip() else {"STEM_BROKER_URL": "memory://"}
            tried(lambda env=env: resolve_url(None, interactive=False, env=env), ConfigError)  # type: ignore[misc]
            if not text.strip().lower().startswith("embedded") and text.strip():
                tried(lambda text=text: connect_broker(text), ConfigError)  # type: ignore[misc]
                tried(lambda text=text: connect_backend(text), ConfigError)  # type: ignore[misc]
                blocking = tried(lambda text=text: connect_blocking(text), ConfigError)  # type: ignore[misc]
                if blocking is not None:
                    blocking.close()


@pytest.mark.parametrize(
    "url", ["memory://[", "memory://[::1", "embedded://[x", "embedded://host", "embedded://[::1]x/a"]
)
def test_a_url_that_does_not_parse_is_a_config_error(url: str) -> None:
    for connect in (connect_broker, connect_blocking, connect_backend):
        with pytest.raises(ConfigError):
            connect(url)


@pytest.mark.parametrize(
    "url", [f"redis://u:a?{SECRET}@host", f"redis://?:{SECRET}@host:1/0", f"redis://h?x:{SECRET}@h=1"]
)
def test_what_is_taken_for_an_option_but_belongs_to_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(url)

    assert SECRET not in str(refused.value)


def test_any_key_ring_is_keys_or_a_config_error_that_shows_none() -> None:
    random = random_for("keys")
    good = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,new:HBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw="
    with reported("key rings") as counted:
        for _ in range(size(5_000)):
            text = changed(random, good)
            keys = None
            try:
                keys = parse_keys("STEM_SIGNING_KEYS", text)
            except ConfigError as error:
                said = str(error)
            else:
                signer = refused_or(lambda keys=keys: PayloadSigner(keys, active=next(iter(keys))), ConfigError)  # type: ignore[misc]
                said = repr(signer)
            counted.add(keys is not None)
            assert harmless(said)
            assert "AAECAwQFBgc" not in said
            assert "HBwcHBwcHBw" not in said


def test_any_options_of_an_envelope_are_options_or_a_decode_error() -> None:
    mutator = Mutator(random_for("options"))
    good = {
        "queue": "q",
        "priority": 5,
        "max_retries": 3,
        "lease_ms": 1_000,
        "soft_ms": 1_000,
        "hard_ms": 2_000,
        "result_ttl_ms": 3_000,
        "retry_base_ms": 10,
        "retry_max_ms": 100,
        "retry_fixed_ms": 5,
        "isolation": "process",
        "unique_key": "u",
    }
    with reported("options") as counted:
        for _ in range(size(10_000)):
            options = mutator.structure(dict(good))
            if not isinstance(options, dict):
                continue
            found = refused_or(lambda options=options: TaskOptions.from_travelled(options), DecodeError, secret="\0")  # type: ignore[misc]
            counted.add(found is not None)
            if found is not None:
                refused_or(found.travelling, InvalidInputError)
