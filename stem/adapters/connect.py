"""From a URL to an adapter. The only module that knows which adapters there are; each is imported when it is asked for.

Nothing here connects: brokers connect on their first call. Only `embedded://` acts at once, it starts its server.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

from stem.config import TLSConfig, check_url
from stem.contracts import BlockingBroker, Broker, Limits, ResultBackend
from stem.errors import ConfigError
from stem.messages.names import check_name
from stem.text import clean, safe_url

if TYPE_CHECKING:
    from stem.adapters.embedded import EmbeddedServer
    from stem.adapters.memory import InMemoryBroker, InMemoryResultBackend

_REDIS: Final = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
_MISSING: Final[Mapping[str, str]] = {
    "postgresql": "the Postgres adapter does not exist yet: use redis://, valkey:// or unix://",
    "postgres": "the Postgres adapter does not exist yet: use redis://, valkey:// or unix://",
    "redis+sentinel": "Sentinel is not supported yet: give the URL of the primary, redis://host:port",
    "redis+cluster": "Cluster is not supported yet: a namespace lives on one server, redis://host:port",
}

# A signal handler that ends the process may interrupt the main thread while it holds it.
_guard: Final = threading.RLock()
_memory: Final[dict[tuple[str, str], InMemoryBroker]] = {}
_memory_results: Final[dict[tuple[str, str], InMemoryResultBackend]] = {}
_embedded: Final[dict[str, EmbeddedServer]] = {}
_told = False


def interactive() -> bool:
    """Say whether a person is at a terminal: stdin and stderr both are one."""
    return all(stream is not None and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stderr))


def resolve_url(url: str | None, *, interactive: bool, env: Mapping[str, str] | None = None) -> str:
    """Return the broker's URL: `url`, else `STEM_BROKER_URL`, else the embedded server if a person is there to see it.

    That the embedded server was chosen is said on stderr, once per process.

    Raises:
        ConfigError: a URL that is not accepted; or none, and nobody at a terminal: says what to set.
    """
    if url is not None and url.strip():
        return check_url(url.strip(), name="url")
    from_env = (os.environ if env is None else env).get("STEM_BROKER_URL", "").strip()
    if from_env:
        return check_url(from_env, name="STEM_BROKER_URL")
    if not interactive:
        raise ConfigError(
            "no broker is configured: set STEM_BROKER_URL (or give a URL), such as redis://localhost:6379; "
            "embedded:// starts a private server, for trying and developing"
        )
    _tell_once()
    return "embedded://"


def load(url: str) -> None:
    """Import the adapter of a URL, so that the first call of its broker, on somebody's event loop, need not."""
    if url.partition(":")[0].lower() in _REDIS:
        import stem.adapters.redis  # noqa: F401 - the client library takes 0.1 s


def connect_broker(
    url: str, *, namespace: str = "stem", limits: Limits | None = None, tls: TLSConfig | None = None
) -> Broker:
    """Return a broker for `url`; connected on its first call.

    `memory://name` is one broker per process, name and namespace; its limits are those it was first asked for with.

    Raises:
        ConfigError: a URL that is not accepted, or of an adapter that does not exist yet.
    """
    scheme = _checked(url, namespace)
    if scheme == "memory":
        return _memory_broker(url, namespace, limits or Limits()).clone()
    from stem.adapters.redis import RedisStreamsBroker  # loads the redis client, which only this adapter needs

    return RedisStreamsBroker(_server(url), namespace=namespace, limits=limits or Limits(), tls=_tls_for(url, tls))


def connect_blocking(
    url: str, *, namespace: str = "stem", limits: Limits | None = None, tls: TLSConfig | None = None
) -> BlockingBroker:
    """Return the producer's part of a broker for code without an event loop; otherwise as `connect_broker`."""
    scheme = _checked(url, namespace)
    if scheme == "memory":
        return _memory_broker(url, namespace, limits or Limits()).blocking()
    return connect_broker(url, namespace=namespace, limits=limits, tls=tls).blocking()


def connect_backend(url: str, *, namespace: str = "stem", tls: TLSConfig | None = None) -> ResultBackend:
    """Return a result backend for `url`; connected on its first call.

    Raises:
        ConfigError: a URL that is not accepted, or of an adapter that does not exist yet.
    """
    if _checked(url, namespace) == "memory":
        from stem.adapters.memory import InMemoryResultBackend  # each adapter is loaded when it is asked for

        with _guard:
            return _memory_results.setdefault((_memory_name(url), namespace), InMemoryResultBackend())
    from stem.adapters.redis import RedisResultBackend  # loads the redis client, which only this adapter needs

    return RedisResultBackend(_server(url), namespace=namespace, tls=_tls_for(url, tls))


def release_embedded() -> None:
    """Give back the embedded servers that this process holds; otherwise done when the interpreter ends."""
    with _guard:
        held = list(_embedded.values())
        _embedded.clear()
    for server in held:
        server.release()


def _tls_for(url: str, tls: TLSConfig | None) -> TLSConfig | None:
    """An embedded server is reached over a socket of this machine, whatever the settings say of others."""
    return None if url.lower().startswith("embedded:") else tls


def _checked(url: str, namespace: str) -> str:
    """Return the scheme of an accepted URL."""
    check_name("namespace", namespace)
    scheme = check_url(url, name="url").partition("://")[0].lower()
    reason = _MISSING.get(scheme)
    if reason is None and scheme not in _REDIS and scheme not in ("memory", "embedded"):
        reason = "there is no such adapter: use redis://, valkey://, unix://, memory:// or embedded://"
    if reason is not None:
        raise ConfigError(f"{clean(safe_url(url))}: {reason}")
    return scheme


def _server(url: str) -> str:
    """Return `url`, or for `embedded://[/folder]` that of the server it stands for, which is started if need be."""
    if not url.lower().startswith("embedded:"):
        return url
    from stem.adapters.embedded import EmbeddedServer  # Unix only, and only for this scheme

    parts = _split(url)
    if parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"{clean(safe_url(url))}: use embedded://, or embedded:///absolute/path/of/a/folder")
    folder = unquote(parts.path) or None
    with _guard:
        server = _embedded.get(folder or "")
        if server is None:
            # Held until the process ends: brokers come and go, the server must not.
            server = _embedded[folder or ""] = EmbeddedServer.acquire(folder)
        return server.url


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:  # a bracket that no IPv6 address follows
        raise ConfigError(f"{clean(safe_url(url))}: it does not parse: {error}") from error


def _memory_name(url: str) -> str:
    parts = _split(url)
    name = parts.netloc + parts.path.rstrip("/")
    if parts.query or parts.fragment or "@" in name:
        raise ConfigError(f"{clean(safe_url(url))}: use memory:// or memory://name")
    return name


def _memory_broker(url: str, namespace: str, limits: Limits) -> InMemoryBroker:
    from stem.adapters.memory import InMemoryBroker  # each adapter is loaded when it is asked for

    key = (_memory_name(url), namespace)
    with _guard:
        broker = _memory.get(key)
        if broker is None:
            broker = _memory[key] = InMemoryBroker(namespace=namespace, limits=limits)
        return broker


def _tell_once() -> None:
    global _told
    if not _told:
        _told = True
        sys.stderr.write("stem: no broker is configured (STEM_BROKER_URL): using the embedded server of this project\n")


def access_rules(namespace: str) -> dict[str, str]:
    """Return an `ACL SETUSER` line for each role that the users of a Redis server can have.

    Raises:
        InvalidNameError: the namespace is no name.
    """
    from stem.adapters.redis.acl import ROLES, rules

    check_name("namespace", namespace)
    return {role: rules(role, namespace=namespace) for role in ROLES}
