"""Every setting of Stem, read once from `STEM_*` variables. The only module that knows their names and their grammar.

Durations are `500ms 5s 10m 2h 1d`, sizes `512KiB 1MiB` or bytes, lists are parted by commas, booleans are
`true/1/yes` and `false/0/no`. A variable that is set but empty counts as unset, except those for signing: a secret that
failed to arrive must not switch signing off. Whatever does not parse is a `ConfigError`, never a silent default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar, cast

from stem.authority import ControlConfig, parse_role_keys
from stem.contracts import Limits
from stem.errors import ConfigError, InvalidNameError
from stem.keyring import Algorithm, parse_key_id, parse_keys
from stem.messages.codec import MAX_BODY
from stem.messages.names import Kind, check_name
from stem.signing import SigningConfig
from stem.text import clean, safe_url

T = TypeVar("T")

LogFormat = Literal["console", "json"]

SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys", "unix", "memory", "embedded", "postgresql")
URL_FORM: Final = "redis://[user:password@]host[:port][/db], valkey://…, unix:///path, memory:// or embedded://"
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)", re.ASCII)
_DURATION_FORM: Final = "a number and a unit, such as 500ms 5s 10m 2h 1d"
_SIZES: Final = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}
_SIZE: Final = re.compile(r"(\d{1,12})([A-Za-z]{0,3})", re.ASCII)
_LONGEST_S: Final = 3_650 * 86_400.0
_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no"})


def parse_duration(text: str, *, name: str, least: float = 0.0) -> float:
    """Return the seconds that `text` means.

    Raises:
        ConfigError: it has another form, is under `least` or longer than ten years; names `name`.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise _wrong(name, text, _DURATION_FORM)
    seconds = float(match[1]) * _UNITS_S[match[2]]
    if seconds > _LONGEST_S:
        raise _wrong(name, text, "at most ten years (3650d)")
    if seconds < least:
        raise _wrong(name, text, f"at least {format_duration(least)}")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration in the grammar of `parse_duration`, in the largest unit that is exact to the millisecond."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def parse_size(text: str, *, name: str) -> int:
    """Return the bytes that `text` means.

    Raises:
        ConfigError: it has another form; names `name`.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _SIZES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise _wrong(name, text, "bytes, or a number with kB, MB, KiB or MiB, such as 1MiB")
    return int(match[1]) * factor


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSConfig:
    """Files for TLS (PEM), and the switch that skips verification."""

    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    allow_insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StemConfig:
    """All settings; the defaults are those of an empty environment.

    Attributes:
        broker_url, result_backend_url: None for "not said". Never shown with its password.
        worker_queues: empty means the default queue alone.
        worker_concurrency: None lets the worker choose by its cores.
        health_port: None for none; 0 takes a free one. `health_host` None means every address.
        max_queue_length: None for no limit.
        max_body: bytes of one encoded task.
        log_format: None means `console` on a terminal and `json` elsewhere.
    """

    broker_url: str | None = field(default=None, repr=False)
    result_backend_url: str | None = field(default=None, repr=False)
    namespace: str = "stem"
    default_queue: str = "default"
    worker_queues: tuple[str, ...] = ()
    worker_name: str | None = None
    worker_concurrency: int | None = None
    worker_processes: int = 1
    health_port: int | None = None
    health_host: str | None = None
    prefetch: int = 0
    default_max_retries: int = 3
    visibility_timeout_s: float = 30.0
    result_ttl_s: float = 86_400.0
    heartbeat_interval_s: float = 2.0
    control_timeout_s: float = 5.0
    drain_timeout_s: float = 25.0
    wedged_timeout_s: float = 60.0
    max_queue_length: int | None = None
    dead_max: int = 10_000
    dead_ttl_s: float = 30 * 86_400.0
    max_body: int = MAX_BODY
    signing: SigningConfig = field(default_factory=SigningConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    tls: TLSConfig = field(default_factory=TLSConfig)
    signals_enabled: bool = True
    signals_disabled: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: LogFormat | None = None

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that a worker takes from."""
        return self.worker_queues or (self.default_queue,)

    def limits(self) -> Limits:
        """Return the bounds that an adapter is made with."""
        return Limits(
            queue_length=self.max_queue_length,
            dead_count=self.dead_max,
            dead_ttl_ms=round(self.dead_ttl_s * 1000),
            lost_after_ms=round(self.heartbeat_interval_s * 3000),
        )

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> StemConfig:
        """Read `STEM_*` from `env` (default: this process's environment).

        Raises:
            ConfigError: names the variable, its value (secrets masked) and the accepted form.
        """
        read = _Reader(os.environ if env is None else env)
        return cls(
            broker_url=read.url("STEM_BROKER_URL"),
            result_backend_url=read.url("STEM_RESULT_BACKEND_URL"),
            namespace=read.name("STEM_NAMESPACE", "namespace", "stem"),
            default_queue=read.name("STEM_DEFAULT_QUEUE", "queue", "default"),
            worker_queues=read.names("STEM_WORKER_QUEUES", "queue"),
            worker_name=read.name("STEM_WORKER_NAME", "worker", None),
            worker_concurrency=read.whole("STEM_WORKER_CONCURRENCY", None, 1, 100_000),
            worker_processes=read.whole("STEM_WORKER_PROCESSES", 1, 1, 512),
            health_port=read.whole("STEM_HEALTH_PORT", None, 0, 65_535),
            health_host=read.address("STEM_HEALTH_HOST"),
            prefetch=read.whole("STEM_PREFETCH", 0, 0, 100_000),
            default_max_retries=read.whole("STEM_DEFAULT_MAX_RETRIES", 3, 0, 1_000_000),
            visibility_timeout_s=read.duration("STEM_VISIBILITY_TIMEOUT", 30.0, least=0.1),
            result_ttl_s=read.duration("STEM_RESULT_TTL", 86_400.0, least=0.001),
            heartbeat_interval_s=read.duration("STEM_HEARTBEAT_INTERVAL", 2.0, least=0.1),
            control_timeout_s=read.duration("STEM_CONTROL_TIMEOUT", 5.0, least=0.01),
            drain_timeout_s=read.duration("STEM_DRAIN_TIMEOUT", 25.0, least=0.0),
            wedged_timeout_s=read.duration("STEM_WEDGED_TIMEOUT", 60.0, least=2.0),
            max_queue_length=read.whole("STEM_MAX_QUEUE_LENGTH", None, 1, 10**12),
            dead_max=read.whole("STEM_DEAD_MAX", 10_000, 1, 10**9),
            dead_ttl_s=read.duration("STEM_DEAD_TTL", 30 * 86_400.0, least=1.0),
            max_body=read.size("STEM_MAX_BODY", MAX_BODY, 1024, 64 * 1024 * 1024),
            signing=read.signing(),
            control=read.control(),
            tls=TLSConfig(
                ca_cert=read.text("STEM_TLS_CA_CERT"),
                client_cert=read.text("STEM_TLS_CLIENT_CERT"),
                client_key=read.text("STEM_TLS_CLIENT_KEY"),
                allow_insecure=read.boolean("STEM_TLS_ALLOW_INSECURE", False),
            ),
            signals_enabled=read.boolean("STEM_SIGNALS_ENABLED", True),
            signals_disabled=read.signals("STEM_SIGNALS_DISABLED"),
            log_level=read.choice("STEM_LOG_LEVEL", LOG_LEVELS) or "info",
            log_format=cast("LogFormat | None", read.choice("STEM_LOG_FORMAT", ("console", "json"))),
        )


def check_url(url: str, *, name: str) -> str:
    """Return a broker or backend URL whose scheme is one that Stem knows of.

    Raises:
        ConfigError: it has another form; names `name`, and shows the URL without its password.
    """
    scheme, separator, _ = url.partition("://")
    known = scheme.lower() in SCHEMES or scheme.lower().startswith(("redis+", "valkey+"))
    if not separator or not known or any(character.isspace() or not character.isprintable() for character in url):
        raise ConfigError(f"{name}={clean(safe_url(url))!r} is not a broker URL: use {URL_FORM}")
    return url


def _wrong(name: str, value: str, form: str) -> ConfigError:
    if "://" in value:  # a URL that went into the wrong variable, with its password
        value = safe_url(value)
    return ConfigError(f"{name}={clean(value, 80)!r} is not accepted: use {form}")


_OF_ADDRESSES: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:")


class _Reader:
    """Typed access to the variables; each getter names the variable in its error."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str | None:
        """Return the value without white space around it; None when unset or empty."""
        return self._env.get(name, "").strip() or None

    def address(self, name: str) -> str | None:
        value = self.text(name)
        if value is not None and (not set(value) <= _OF_ADDRESSES or len(value) > 255):
            # Not shown: it may be a URL, with its password.
            raise ConfigError(f"{name} is no host name or IP address: use one of this machine's, such as 127.0.0.1")
        return value

    def url(self, name: str) -> str | None:
        value = self.text(name)
        return None if value is None else check_url(value, name=name)

    def name(self, name: str, kind: Kind, default: T) -> str | T:
        value = self.text(name)
        return default if value is None else self._checked(name, kind, value)

    def names(self, name: str, kind: Kind) -> tuple[str, ...]:
        values = self._items(name)
        return tuple(dict.fromkeys(self._checked(name, kind, value) for value in values))

    def whole(self, name: str, default: T, least: int, most: int) -> int | T:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"\d{1,13}", value, re.ASCII) or not least <= int(value) <= most:
            raise _wrong(name, value, f"a whole number from {least} to {most}")
        return int(value)

    def size(self, name: str, default: int, least: int, most: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        size = parse_size(value, name=name)
        if not least <= size <= most:
            raise _wrong(name, value, f"a size from {least} to {most} bytes")
        return size

    def duration(self, name: str, default: float, *, least: float) -> float:
        value = self.text(name)
        return default if value is None else parse_duration(value, name=name, least=least)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name)
        if value is None:
            return default
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise _wrong(name, value, "true, 1, yes, false, 0 or no")

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is not None and value.lower() not in choices:
            raise _wrong(name, value, f"one of {' '.join(choices)}")
        return None if value is None else value.lower()

    def signals(self, name: str) -> tuple[str, ...]:
        values = self._items(name)
        if values:
            # Here, because loading the catalogue takes longer than all the rest of a configuration.
            from stem.signals import NAMES

            for value in values:
                if value not in NAMES:
                    raise _wrong(name, value, f"signal names parted by commas, of {' '.join(NAMES)}")
        return tuple(dict.fromkeys(values))

    def signing(self) -> SigningConfig:
        algorithm = cast("Algorithm", self._secret("STEM_SIGNING_ALGORITHM", _algorithm) or "hmac-sha256")
        return SigningConfig(
            algorithm=algorithm,
            keys=self._secret("STEM_SIGNING_KEYS", parse_keys) or {},
            active_key=self._secret("STEM_SIGNING_ACTIVE_KEY", parse_key_id),
            public_keys=self._secret("STEM_SIGNING_PUBLIC_KEYS", parse_keys) or {},
            private_keys=self._secret("STEM_SIGNING_PRIVATE_KEYS", parse_keys) or {},
        )

    def control(self) -> ControlConfig:
        secrets = self._secret("STEM_CONTROL_KEYS", parse_role_keys) or {}
        public = self._secret("STEM_CONTROL_PUBLIC_KEYS", parse_role_keys) or {}
        return ControlConfig(
            keys={kid: key for kid, (_, key) in secrets.items()},
            public_keys={kid: key for kid, (_, key) in public.items()},
            private_keys=self._secret("STEM_CONTROL_PRIVATE_KEYS", parse_keys) or {},
            roles={kid: role for kid, (role, _) in (secrets | public).items()},
            active_key=self._secret("STEM_CONTROL_ACTIVE_KEY", parse_key_id),
        )

    def _secret(self, name: str, parse: Callable[[str, str], T]) -> T | None:
        value = self._env.get(name)
        if value is None:
            return None
        if not value.strip():
            raise ConfigError(f"{name} is set but empty: give it a value, or unset it to go without")
        return parse(name, value.strip())

    def _items(self, name: str) -> list[str]:
        value = self.text(name)
        if value is None:
            return []
        items = [item.strip() for item in value.split(",")]
        if not all(items):
            raise _wrong(name, value, "a list parted by single commas")
        return items

    def _checked(self, name: str, kind: Kind, value: str) -> str:
        try:
            return check_name(kind, value)
        except InvalidNameError as error:
            if "://" in value:  # see _wrong
                raise _wrong(name, value, f"a {kind} name") from None
            raise ConfigError(f"{name}: {error}") from error


def _algorithm(name: str, value: str) -> str:
    if value.lower() not in ("hmac-sha256", "ed25519"):
        raise _wrong(name, value, "hmac-sha256 or ed25519")
    return value.lower()
