"""Signatures over the exact bytes of a message, bound to purpose, namespace, queue and key.

Whoever holds an HMAC key can sign as well as verify. The algorithm belongs to the configured key and is never read from
a message. Nothing here parses what it signs. Knows neither messages nor brokers.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

from stem.errors import ConfigError, SignatureError
from stem.text import clean

Algorithm = Literal["hmac-sha256", "ed25519"]
Purpose = Literal["task", "control", "reply"]

MIN_KEY_BYTES: Final = 16
DIGEST_BYTES: Final = 32

_KEY_ID: Final = re.compile(r"[a-z0-9-]{1,32}")
_KEYS_FORM: Final = "id:base64 pairs parted by commas; an id is 1 to 32 of a-z 0-9 -"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningConfig:
    """Keys by id. Nothing set means unsigned. The keys never show in a repr.

    Attributes:
        keys: HMAC secrets, at least 16 bytes each; all of them verify.
        active_key: the id of the one that signs; may be left out when there is only one.
        public_keys, private_keys: for Ed25519.
    """

    algorithm: Algorithm = "hmac-sha256"
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    active_key: str | None = None
    public_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    private_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def parse_keys(name: str, text: str) -> dict[str, bytes]:
    """Read `id:base64,id2:base64`.

    Raises:
        ConfigError: another form, an id given twice, or base64 that is not written canonically. Shows ids, never keys.
    """
    keys: dict[str, bytes] = {}
    for position, item in enumerate(text.split(","), start=1):
        kid, colon, encoded = item.strip().partition(":")
        if not colon or _KEY_ID.fullmatch(kid) is None:
            # A key pasted without its id would stand where the id should be: the item is not shown.
            raise ConfigError(f"{name}: item {position} is not accepted: use {_KEYS_FORM}")
        if kid in keys:
            raise ConfigError(f"{name}: key id {kid} is given twice")
        keys[kid] = _decode(name, kid, encoded)
    return keys


def _decode(name: str, kid: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        key = b""
    # Even validate=True takes left-over bits in the last character: only the one canonical spelling is a key.
    if not key or base64.b64encode(key).decode("ascii") != encoded:
        raise ConfigError(f"{name}: key {kid} is not base64: make one with `openssl rand -base64 32`")
    return key


class PayloadSigner:
    """Signs with the active key, verifies with any key of the ring. Safe to use from any thread.

    Rotation: add the new key everywhere, make it the active one, wait until no task signed with the old one is left
    (delayed ones too), remove the old one.
    """

    __slots__ = ("_active", "_keys", "_prefix")

    def __init__(self, keys: Mapping[str, bytes], *, active: str) -> None:
        for kid, key in keys.items():
            if _KEY_ID.fullmatch(kid) is None:
                raise ConfigError(f"signing key id {clean(kid, 40)!r} is not accepted: use 1 to 32 of a-z 0-9 -")
            if len(key) < MIN_KEY_BYTES:
                raise ConfigError(
                    f"signing key {kid} has {len(key)} bytes, {MIN_KEY_BYTES} are the least: "
                    "make one with `openssl rand -base64 32`"
                )
        if active not in keys:
            raise ConfigError(
                f"the active signing key {clean(active, 40)!r} is not among the keys ({', '.join(sorted(keys))}): "
                "set STEM_SIGNING_ACTIVE_KEY to one of them"
            )
        self._keys = {kid.encode("ascii"): bytes(key) for kid, key in keys.items()}
        self._active = active.encode("ascii")
        self._prefix = bytes([len(self._active)]) + self._active

    def __repr__(self) -> str:
        return f"<PayloadSigner hmac-sha256, active key {self._active.decode()}, {len(self._keys)} keys>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PayloadSigner is not pickled: it holds keys")

    @classmethod
    def maybe(cls, config: SigningConfig) -> PayloadSigner | None:
        """Return a signer for this configuration, None when it has no keys.

        Raises:
            ConfigError: keys that are too short, an active key that is missing or unclear, or an algorithm that this
                installation cannot do.
        """
        if config.algorithm == "ed25519":
            if importlib.util.find_spec("cryptography") is None:
                raise ConfigError("signing with ed25519 needs the extra: pip install 'stem-workers[ed25519]'")
            raise ConfigError("signing with ed25519 is not supported yet: use STEM_SIGNING_ALGORITHM=hmac-sha256")
        if config.public_keys or config.private_keys:
            raise ConfigError(
                "STEM_SIGNING_PUBLIC_KEYS and STEM_SIGNING_PRIVATE_KEYS are for ed25519, which is not supported yet: "
                "use STEM_SIGNING_KEYS"
            )
        if not config.keys:
            if config.active_key is not None:
                raise ConfigError("STEM_SIGNING_ACTIVE_KEY is set, but STEM_SIGNING_KEYS is not")
            return None
        active = config.active_key
        if active is None:
            if len(config.keys) > 1:
                raise ConfigError(f"STEM_SIGNING_ACTIVE_KEY: say which key signs: {', '.join(sorted(config.keys))}")
            active = next(iter(config.keys))
        return cls(config.keys, active=active)

    def sign(self, purpose: Purpose, namespace: str, queue: str, data: bytes) -> bytes:
        """Return a signature of `data` for this purpose, namespace and queue: key id and digest in one."""
        return self._prefix + _digest(self._keys[self._active], self._active, purpose, namespace, queue, data)

    def verify(self, purpose: Purpose, namespace: str, queue: str, data: bytes, signature: bytes) -> None:
        """Check a signature over these very bytes, before anybody parses them.

        Raises:
            SignatureError: missing, ill-formed, made with an unknown key, or of something else.
        """
        if not signature:
            raise SignatureError(f"the {purpose} is not signed: give its producer the signing key")
        size = signature[0]
        kid, digest = signature[1 : 1 + size], signature[1 + size :]
        if len(kid) != size or len(digest) != DIGEST_BYTES:
            raise SignatureError(f"the {purpose}'s signature is ill-formed")
        key = self._keys.get(kid)
        if key is None:
            shown = clean(kid, 40)
            raise SignatureError(f"the {purpose} is signed with the unknown key {shown!r}: add it to STEM_SIGNING_KEYS")
        if not hmac.compare_digest(digest, _digest(key, kid, purpose, namespace, queue, data)):
            raise SignatureError(f"the {purpose}'s signature does not match: altered, or meant for another queue")


def _digest(key: bytes, kid: bytes, purpose: str, namespace: str, queue: str, data: bytes) -> bytes:
    # No part but the last can hold a NUL (names are checked), so the parts cannot be shifted against each other.
    head = b"\0".join((f"stem/{purpose}/v1".encode(), namespace.encode(), queue.encode(), kid, b""))
    return hmac.digest(key, head + data, "sha256")
