"""Make untrusted text safe to show: one line, nothing that a terminal or a log reader obeys. Knows nothing of Stem."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Categories that are invisible, steer the terminal, or differ from font to font: control, format (bidi, zero-width,
# soft hyphen, tags), surrogate, private use, unassigned, line and paragraph separator.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks by category, but drawn as nothing at all.
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_NAMED: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_SECRET_QUERY: Final = re.compile(r"(?i)([?&][^=&#]*(?:pass|secret|token|key|auth)[^=&#]*=)[^&#]*")

_INNER_SECRET: Final = re.compile(r":[^:@/]+@")


def clean(text: object, limit: int = 200) -> str:
    r"""Return `text` as one printable line of at most `limit` characters, cut with ``…``.

    What could move a cursor, reorder or hide text is shown as its escape, such as ``\x1b`` or ``\u202e``. Brackets are
    left alone: a result may only go where markup is off.
    """
    value = text if isinstance(text, str) else as_text(text)
    if len(value) <= limit and value.isascii() and value.isprintable():
        return value
    if limit <= 0:
        return ""
    parts: list[str] = []
    room = limit
    for character in value[: limit + 1]:
        shown = character if _visible(character) else _escape(character)
        parts.append(shown)
        room -= len(shown)
        if room < 0:
            break
    if room >= 0:
        return "".join(parts)
    # Too long: drop whole pieces, so that no escape is cut in two, until the ellipsis fits.
    while parts and room < 1:
        room += len(parts.pop())
    return "".join(parts) + "…"


def as_text(value: object) -> str:
    """Return any value as text; survives a `__str__` that fails."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as error:  # somebody's __str__: showing it must not become a second failure
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def safe_url(url: str) -> str:
    """Return `url` for people: passwords (also misplaced ones, and secrets in the query) shown as ``***``."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        # Not a URL; a bare `user:password@host` is masked all the same.
        scheme, rest = "", url
    elif rest.startswith("/") and ":" in rest.rpartition("@")[0]:
        # A socket's path has neither; a slash too many, or one URL inside another, has a password.
        scheme, rest = scheme + separator + "/" * (len(rest) - len(rest.lstrip("/"))), rest.lstrip("/")
        separator = ""
    if not rest.startswith("/") and "@" in rest:
        # An unescaped `/`, `#` or `@` in the password makes the URL end its authority too early; nothing after it may
        # slip out, so the last @ counts, the query apart (unless the only one is there).
        address = rest.partition("?")[0]
        end = address.rfind("@") if "@" in address else rest.rfind("@")
        user, colon, _ = rest[:end].partition(":")
        rest = (f"{user}:***" if colon else user) + rest[end:]
    elif not rest.startswith("/"):
        host, colon, port = rest.partition(":")
        if colon and not host.startswith("[") and re.fullmatch(r"\d{0,5}(?:[/?#].*)?", port, re.DOTALL) is None:
            rest = f"{host}:***"
    return clean(scheme + separator + _SECRET_QUERY.sub(r"\1***", _INNER_SECRET.sub(":***@", rest)), 500)


def _visible(character: str) -> bool:
    return " " <= character <= "~" or (unicodedata.category(character) not in _HIDDEN and character not in _BLANK)


def _escape(character: str) -> str:
    named = _NAMED.get(character)
    if named is not None:
        return named
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
