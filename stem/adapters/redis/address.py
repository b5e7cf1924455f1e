"""Where a server is: the URL forms that this adapter takes."""

from __future__ import annotations

import re
from dataclasses import field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from stem.config import TLSConfig
from stem.errors import ConfigError
from stem.record import record
from stem.text import clean, safe_url

FORMS = "redis://[user:password@]host[:port][/db], rediss:// for TLS, valkey(s)://…, or unix:///path/to.sock[?db=0]"


@record
class Address:
    """A server and a database on it. `path` is a unix socket; then host and port mean nothing. `tls` None is no TLS."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TLSConfig | None = None

    def __str__(self) -> str:
        """For people, and a URL all the same: never has a secret in it."""
        if self.path is not None:
            return f"unix://{quote(self.path, errors='replace')}" + (f"?db={self.db}" if self.db else "")
        user = f"{quote(self.username, safe='', errors='replace')}@" if self.username else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{user}{host}:{self.port}/{self.db}"


def parse_address(url: str, tls: TLSConfig | None = None) -> Address:
    """Return the address in `url`.

    Args:
        tls: how to check and be checked, for a URL with TLS.

    Raises:
        ConfigError: it has another form; names what is wrong, without the password. Or there are settings for TLS, and
            the URL has none: that would send in clear what was meant to be hidden.
    """

    def wrong(why: str) -> ConfigError:
        return ConfigError(f"broker URL {clean(safe_url(url))!r}: {why}; use {FORMS}")

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise wrong("it does not parse (is the port a number?)") from error
    secure = parts.scheme in ("rediss", "valkeys")
    if not secure and parts.scheme not in ("redis", "valkey", "unix"):
        raise wrong("its scheme is not known here")
    if not secure and parts.scheme != "unix" and tls is not None and tls != TLSConfig():
        raise wrong("STEM_TLS_* are set, but this URL is without TLS: write rediss://, or unset them")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(query) - {"db"}):
        # What is no plain word may be the rest of a password with an unescaped question mark.
        named = f"the option {unknown[0]!r}" if re.fullmatch(r"[a-z_]{1,40}", unknown[0]) else "an option after the `?`"
        raise wrong(f"{named} is not known (a `?` in a password is written %3F)")
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc.rpartition("@")[2]:
            raise wrong("a socket's path must be absolute, with three slashes")
        number, path, host = query.get("db", "0"), unquote(parts.path), "localhost"
    else:
        number, path, host = parts.path.strip("/") or query.get("db", "0"), None, parts.hostname or ""
        if not host:
            raise wrong("it names no host")
    if not number.isascii() or not number.isdigit() or len(number) > 5:
        raise wrong("the database is not a number")
    return Address(
        host=host,
        port=port or 6379,
        path=path,
        db=int(number),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=(tls or TLSConfig()) if secure else None,
    )
