"""Signatures over the exact bytes of a message, bound to purpose, namespace, queue and key.

Whoever holds an HMAC key can sign as well as verify; with Ed25519, who has public keys alone verifies only. The
algorithm belongs to the configured key and is never read from a message. Nothing here parses what it signs. Knows
neither messages nor brokers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

from stem.errors import ConfigError, SignatureError
from stem.keyring import Algorithm, HmacKey, Key, check_id, ring
from stem.text import clean

Purpose = Literal["task", "control"]

TASK_KEYS: Final = "STEM_SIGNING"
"""What the variables with keys for tasks begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningConfig:
    """Keys by id. Nothing set means unsigned. The keys never show in a repr.

    All of them verify, whatever their algorithm, so that tasks can move from one to the other.

    Attributes:
        algorithm: of the key that signs.
        keys: HMAC secrets, at least 32 bytes each.
        active_key: the id of the one that signs; may be left out when there is only one.
        public_keys, private_keys: Ed25519, 32 raw bytes each. Public ones alone verify and cannot sign.
    """

    algorithm: Algorithm = "hmac-sha256"
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    active_key: str | None = None
    public_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    private_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)


class PayloadSigner:
    """Signs with the active key, verifies with any key of the ring. Safe to use from any thread.

    Rotation: add the new key everywhere, make it the active one, wait until no task signed with the old one is left
    (delayed ones too), remove the old one.

    Args:
        keys: by id; bytes are an HMAC secret.
        active: the one that signs; None for a ring that only verifies.
        origin: what the variables begin with that the keys come from, for hints.
    """

    __slots__ = ("_active", "_keys", "_origin", "_prefix", "_signing")

    def __init__(self, keys: Mapping[str, bytes | Key], *, active: str | None, origin: str = TASK_KEYS) -> None:
        for kid in keys:
            check_id(kid)
        made: dict[str, Key] = {kid: HmacKey(kid, key) if isinstance(key, bytes) else key for kid, key in keys.items()}
        if active is not None and active not in made:
            raise ConfigError(
                f"the active signing key {clean(active, 40)!r} is not among the keys ({', '.join(sorted(made))}): "
                f"set {origin}_ACTIVE_KEY to one of them"
            )
        self._keys = {kid.encode("ascii"): key for kid, key in made.items()}
        self._origin = origin
        self._signing = made[active] if active is not None and made[active].signs else None
        self._active = b"" if active is None else active.encode("ascii")
        self._prefix = bytes([len(self._active)]) + self._active

    def __repr__(self) -> str:
        if self._signing is None:
            return f"<PayloadSigner, verifies only, {len(self._keys)} keys>"
        return f"<PayloadSigner {self._signing.algorithm}, active key {self.active}, {len(self._keys)} keys>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PayloadSigner is not pickled: it holds keys")

    @property
    def signs(self) -> bool:
        """It has a key to sign with."""
        return self._signing is not None

    @property
    def active(self) -> str:
        """The id of the key that signs, if there is one."""
        return self._active.decode("ascii")

    @classmethod
    def maybe(cls, config: SigningConfig) -> PayloadSigner | None:
        """Return a signer for this configuration, None when it has no keys.

        Raises:
            ConfigError: keys that are weak or ill-formed, an active key that is missing or unclear, or an algorithm
                that this installation cannot do.
        """
        keys = ring(config.keys, config.public_keys, config.private_keys, what=TASK_KEYS)
        if not keys:
            if config.active_key is not None:
                raise ConfigError("STEM_SIGNING_ACTIVE_KEY is set, but STEM_SIGNING_KEYS is not")
            return None
        suited = {kid: key for kid, key in keys.items() if key.algorithm == config.algorithm}
        if not suited:
            others = "ed25519" if config.algorithm == "hmac-sha256" else "hmac-sha256"
            raise ConfigError(f"all keys given are for {others}: set STEM_SIGNING_ALGORITHM={others}")
        return cls(keys, active=choose(suited, config.active_key, origin=TASK_KEYS))

    def sign(self, purpose: Purpose, namespace: str, queue: str, data: bytes) -> bytes:
        """Return a signature of `data` for this purpose, namespace and queue: key id and digest in one.

        Raises:
            ConfigError: there are public keys alone, which cannot sign.
        """
        key = self._signing
        if key is None:
            raise ConfigError(
                f"this process has no key to sign a {purpose} with, its public keys only verify: "
                f"set {self._origin}_PRIVATE_KEYS (and {self._origin}_ACTIVE_KEY) where it shall"
            )
        return self._prefix + key.sign(_signed(self._active, purpose, namespace, queue, data))

    def verify(self, purpose: Purpose, namespace: str, queue: str, data: bytes, signature: bytes) -> str:
        """Check a signature over these very bytes, before anybody parses them, and return the id of its key.

        Raises:
            SignatureError: missing, ill-formed, made with an unknown key, or of something else.
        """
        if not signature:
            raise SignatureError(f"the {purpose} is not signed: give its producer the signing key")
        size = signature[0]
        kid, digest = signature[1 : 1 + size], signature[1 + size :]
        if len(kid) != size or not digest:
            raise SignatureError(f"the {purpose}'s signature is ill-formed")
        key = self._keys.get(kid)
        if key is None:
            raise SignatureError(
                f"the {purpose} is signed with the unknown key {clean(kid, 40)!r}: add it to {self._origin}_KEYS, "
                f"or its public half to {self._origin}_PUBLIC_KEYS"
            )
        if len(digest) != key.size:
            raise SignatureError(f"the {purpose}'s signature is ill-formed")
        if not key.matches(_signed(kid, purpose, namespace, queue, data), digest):
            raise SignatureError(f"the {purpose}'s signature does not match: altered, or meant for another queue")
        return kid.decode("ascii")


def choose(keys: Mapping[str, Key], active: str | None, *, origin: str) -> str | None:
    """Return the id of the key that signs: the active one, or the only one that can; None where none can.

    Raises:
        ConfigError: there are several and nobody said which, or the active one is not among them, or cannot sign.
    """
    able = [kid for kid, key in keys.items() if key.signs]
    if active is None:
        if len(able) > 1:
            raise ConfigError(f"{origin}_ACTIVE_KEY: say which key signs: {', '.join(sorted(able))}")
        return able[0] if able else None
    if active not in keys:
        raise ConfigError(
            f"the active signing key {clean(active, 40)!r} is not among the keys ({', '.join(sorted(keys))}): "
            f"set {origin}_ACTIVE_KEY to one of them"
        )
    if able and active not in able:
        raise ConfigError(
            f"the active signing key {active} is public and cannot sign: add its private half to "
            f"{origin}_PRIVATE_KEYS, or set {origin}_ACTIVE_KEY to one of {', '.join(sorted(able))}"
        )
    return active


def _signed(kid: bytes, purpose: str, namespace: str, queue: str, data: bytes) -> bytes:
    """Return what is signed: the bytes with everything that they are bound to in front."""
    # No part but the last can hold a NUL (names are checked), so the parts cannot be shifted against each other.
    return b"\0".join((f"stem/{purpose}/v1".encode(), namespace.encode(), queue.encode(), kid, data))
