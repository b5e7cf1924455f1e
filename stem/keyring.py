"""Single keys: how they are written, which are refused, and how each signs and checks. The algorithm is a property of
the configured key, never of a message. Knows nothing of what is signed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol

from stem.errors import ConfigError
from stem.text import clean

if TYPE_CHECKING:  # loaded by those who have such a key: it takes 30 ms and is an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Algorithm = Literal["hmac-sha256", "ed25519"]

MIN_KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 32
POINT_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_KEY_ID: Final = re.compile(r"[a-z0-9-]{1,32}")
_KEYS_FORM: Final = "id:base64 pairs parted by commas; an id is 1 to 32 of a-z 0-9 -"
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P


class Key(Protocol):
    """One key of a ring. Safe to use from any thread.

    Attributes:
        size: bytes of its signatures.
        signs: it can make signatures; else it only checks them.
    """

    @property
    def algorithm(self) -> Algorithm: ...

    @property
    def size(self) -> int: ...

    @property
    def signs(self) -> bool: ...

    def sign(self, data: bytes) -> bytes: ...

    def matches(self, data: bytes, signature: bytes) -> bool:
        """Say whether this is its signature of these very bytes."""


class _Secret:
    """What holds a key is neither shown nor pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled: it holds a key")


class HmacKey(_Secret):
    """A shared secret: whoever can check can also sign."""

    __slots__ = ("_key",)
    algorithm: Algorithm = "hmac-sha256"
    size = DIGEST_BYTES
    signs = True

    def __init__(self, kid: str, key: bytes) -> None:
        check_id(kid)
        if len(key) < MIN_KEY_BYTES:
            raise ConfigError(
                f"signing key {kid} has {len(key)} bytes, {MIN_KEY_BYTES} are the least: "
                "make one with `openssl rand -base64 32`"
            )
        self._key = bytes(key)

    def sign(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256")

    def matches(self, data: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(signature, hmac.digest(self._key, data, "sha256"))


class Ed25519Key(_Secret):
    """A pair, or its public half, which checks and cannot sign.

    Args:
        public, private: 32 raw bytes each; at least one is given.

    Raises:
        ConfigError: `cryptography` is not installed, a key is no key or a weak one, or the two are no pair.
    """

    __slots__ = ("_private", "_verify")
    algorithm: Algorithm = "ed25519"
    size = SIGNATURE_BYTES

    def __init__(self, kid: str, *, public: bytes | None = None, private: bytes | None = None) -> None:
        check_id(kid)
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
        except ImportError as error:
            raise ConfigError(
                f"key {kid} is an Ed25519 key, which needs the extra: pip install 'stem-workers[ed25519]'"
            ) from error
        self._private: Ed25519PrivateKey | None = None
        if private is not None:
            if len(private) != POINT_BYTES:
                raise ConfigError(f"private key {kid} has {len(private)} bytes: an Ed25519 one has {POINT_BYTES}")
            self._private = Ed25519PrivateKey.from_private_bytes(private)
            derived = self._private.public_key().public_bytes_raw()
            if public is not None and public != derived:
                raise ConfigError(f"the private and the public key {kid} are no pair: give the public half of this one")
            public = derived
        assert public is not None
        check_point(kid, public)
        point = Ed25519PublicKey.from_public_bytes(public)

        def verify(data: bytes, signature: bytes) -> bool:
            try:
                point.verify(signature, data)
            except InvalidSignature:
                return False
            return True

        self._verify: Callable[[bytes, bytes], bool] = verify

    @property
    def signs(self) -> bool:
        return self._private is not None

    def sign(self, data: bytes) -> bytes:
        assert self._private is not None
        return self._private.sign(data)

    def matches(self, data: bytes, signature: bytes) -> bool:
        return self._verify(data, signature)


def ring(
    secrets: Mapping[str, bytes], public: Mapping[str, bytes], private: Mapping[str, bytes], *, what: str
) -> dict[str, Key]:
    """Return the keys by id.

    Args:
        what: the variables they come from, as errors name them, such as `STEM_SIGNING`.

    Raises:
        ConfigError: a key that cannot be used, or an id that stands for a secret and a pair.
    """
    keys: dict[str, Key] = {kid: HmacKey(kid, key) for kid, key in secrets.items()}
    for kid in dict.fromkeys([*public, *private]):
        if kid in keys:
            raise ConfigError(
                f"key id {kid} is in {what}_KEYS and in {what}_PUBLIC_KEYS or {what}_PRIVATE_KEYS: an id is of one key"
            )
        keys[kid] = Ed25519Key(kid, public=public.get(kid), private=private.get(kid))
    return keys


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def parse_key_id(name: str, text: str) -> str:
    """Return the id of a key; `ConfigError`, which does not show it, for what is none: it may be the key itself."""
    if not is_key_id(text):
        raise ConfigError(f"{name}: this is no key's id: use 1 to 32 of a-z 0-9 -")
    return text


def check_id(kid: str) -> None:
    """Raise `ConfigError` for what cannot be a key's id."""
    if not is_key_id(kid):
        raise ConfigError(f"signing key id {clean(kid, 40)!r} is not accepted: use 1 to 32 of a-z 0-9 -")


def check_point(kid: str, public: bytes) -> None:
    """Refuse what is no public key, or one under which signatures of any message can be made without a private one.

    That is so for the eight points of low order, which libraries take without a word. An encoding that is not the one
    canonical spelling would give one key two names.

    Raises:
        ConfigError: says why; never shows the key.
    """
    if len(public) != POINT_BYTES:
        raise ConfigError(f"public key {kid} has {len(public)} bytes: an Ed25519 one has {POINT_BYTES}")
    number = int.from_bytes(public, "little")
    y, odd = number & (1 << 255) - 1, number >> 255
    xx = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if y >= _P or (xx == 0 and odd):
        raise ConfigError(f"public key {kid} is not written canonically: it is not one that a tool for keys has made")
    if xx and pow(xx, (_P - 1) // 2, _P) != 1:
        raise ConfigError(f"public key {kid} is no point of the curve: it is not one that a tool for keys has made")
    for _ in range(3):  # eight times the point; its x is needed squared only
        both = _D * xx * y * y
        xx, y = 4 * xx * y * y * pow(1 + both, -2, _P) % _P, (y * y + xx) * pow(1 - both, -1, _P) % _P
    if (xx, y) == (0, 1):
        raise ConfigError(f"public key {kid} is weak (of low order): anybody could sign for it, so it is refused")


def parse_keys(name: str, text: str) -> dict[str, bytes]:
    """Read `id:base64,id2:base64`.

    Raises:
        ConfigError: another form, an id given twice, or base64 that is not written canonically. Shows ids, never keys.
    """
    keys: dict[str, bytes] = {}
    for position, item in enumerate(text.split(","), start=1):
        kid, colon, encoded = item.strip().partition(":")
        if not colon or not is_key_id(kid):
            # A key pasted without its id would stand where the id should be: the item is not shown.
            raise ConfigError(f"{name}: item {position} is not accepted: use {_KEYS_FORM}")
        if kid in keys:
            raise ConfigError(f"{name}: key id {kid} is given twice")
        keys[kid] = decode_key(name, kid, encoded)
    return keys


def decode_key(name: str, kid: str, encoded: str) -> bytes:
    """Read the base64 of one key; raises `ConfigError` for any spelling but the canonical one."""
    try:
        key = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        key = b""
    # Even validate=True takes left-over bits in the last character: only the one canonical spelling is a key.
    if not key or base64.b64encode(key).decode("ascii") != encoded:
        raise ConfigError(f"{name}: key {kid} is not base64: make one with `openssl rand -base64 32`")
    return key
