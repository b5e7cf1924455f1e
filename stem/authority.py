"""Who may steer workers: the keys that commands are signed with, and the role of each. Knows commands, but no broker.

They are keys of their own: one that signs tasks steers nothing, unless it is given a role here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast, get_args

from stem.errors import ConfigError, SignatureError
from stem.keyring import decode_key, is_key_id, ring
from stem.messages.command import QUESTIONS, Command
from stem.signing import PayloadSigner, choose

Role = Literal["viewer", "operator"]

CONTROL_KEYS: Final = "STEM_CONTROL"
"""What the variables with keys for commands begin with."""
LONGER_MS: Final = 60_000
"""A signed command is good for as long as its sender waits, and this: workers may be late to read it."""
LONGEST_MS: Final = 86_400_000
"""No command is good for longer: by then the log has forgotten it."""

_ROLES: Final[tuple[Role, ...]] = get_args(Role)
_FORM: Final = "id:role:base64 parted by commas; an id is 1 to 32 of a-z 0-9 -, a role is viewer or operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """Keys for commands by id. Nothing set means that commands are neither signed nor checked.

    Attributes:
        keys: HMAC secrets, at least 32 bytes each; they sign and verify.
        public_keys, private_keys: Ed25519, 32 raw bytes each. Workers need public ones, operators one private one.
        roles: of the ids in `keys` and `public_keys`.
        active_key: the id of the one that signs; may be left out when there is only one that can.
    """

    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    public_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    private_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    roles: Mapping[str, Role] = field(default_factory=dict)
    active_key: str | None = None


def parse_role_keys(name: str, text: str) -> dict[str, tuple[Role, bytes]]:
    """Read `id:role:base64,id2:role:base64`.

    Raises:
        ConfigError: another form, a role that does not exist, an id given twice, or base64 that is not canonical.
            Shows ids and positions, never keys.
    """
    keys: dict[str, tuple[Role, bytes]] = {}
    for position, item in enumerate(text.split(","), start=1):
        parts = item.strip().split(":")
        if len(parts) != 3 or parts[1] not in _ROLES or not is_key_id(parts[0]):
            # The parts are not shown: one of them may be a key in the wrong place.
            raise ConfigError(f"{name}: item {position} is not accepted: use {_FORM}")
        kid, role, encoded = parts
        if kid in keys:
            raise ConfigError(f"{name}: key id {kid[:40]!a} is given twice")
        keys[kid] = cast("Role", role), decode_key(name, ascii(kid[:40]), encoded)
    return keys


def may(role: Role, kind: str) -> bool:
    """Say whether a role covers a type of command: viewers ask, operators also change. Unknown ones are changes."""
    return role == "operator" or kind in QUESTIONS


class ControlKeys:
    """Signs commands as an operator does, checks them as a worker does. Safe to use from any thread.

    Raises:
        ConfigError: a key that is weak or ill-formed, or has no role, or an active key that there is not.
    """

    __slots__ = ("_choice", "_roles", "_signer")

    def __init__(self, config: ControlConfig) -> None:
        keys = ring(config.keys, config.public_keys, config.private_keys, what=CONTROL_KEYS)
        self._roles = dict(config.roles)
        for kid in (*config.keys, *config.public_keys):
            if self._roles.get(kid) not in _ROLES:
                raise ConfigError(f"control key {kid} has no role: use {' or '.join(_ROLES)}")
        active, self._choice = config.active_key, ""
        try:
            active = choose(keys, active, origin=CONTROL_KEYS)
        except ConfigError as error:
            if active is not None:
                raise
            self._choice = str(error)  # workers have many keys and sign nothing
        self._signer = PayloadSigner(keys, active=active, origin=CONTROL_KEYS)

    def __repr__(self) -> str:
        return f"<ControlKeys {', '.join(self.obeyed) or 'that obey nobody'}>"

    @classmethod
    def maybe(cls, config: ControlConfig) -> ControlKeys | None:
        """Return the keys of this configuration, None when it has none."""
        if config.keys or config.public_keys or config.private_keys:
            return cls(config)
        if config.active_key is not None:
            raise ConfigError("STEM_CONTROL_ACTIVE_KEY is set, but STEM_CONTROL_KEYS is not")
        return None

    @property
    def active(self) -> str:
        """The id of the key that signs; empty when there is none."""
        return self._signer.active if self._signer.signs else ""

    @property
    def obeyed(self) -> tuple[str, ...]:
        """The ids with roles that these keys can check: what a worker says of itself, as `id:role`."""
        return tuple(f"{kid}:{role}" for kid, role in sorted(self._roles.items()))

    def for_worker(self) -> ControlKeys:
        """Return these keys, if a worker can check anybody with them.

        Raises:
            ConfigError: they are private ones without roles, which only sign.
        """
        if not self._roles:
            raise ConfigError(
                "STEM_CONTROL_PRIVATE_KEYS are for operators: a worker needs STEM_CONTROL_PUBLIC_KEYS or "
                "STEM_CONTROL_KEYS, as id:role:base64, to know whom to obey"
            )
        return self

    def sign(self, command: Command, *, namespace: str, now_ms: int) -> Command:
        """Return the command with its time of issue and expiry, signed.

        Args:
            now_ms: by the broker's clock, the only one that workers compare with.

        Raises:
            ConfigError: there is no key to sign with, or several and nobody said which.
        """
        if self._choice:
            raise ConfigError(self._choice)
        dated = replace(
            command,
            issued_at_ms=now_ms,
            expires_at_ms=now_ms + min(max(0, command.timeout_ms) + LONGER_MS, LONGEST_MS),
        )
        return replace(dated, signature=self._signer.sign("control", namespace, "", dated.encode()))

    def verify(self, namespace: str, data: bytes, signature: bytes) -> tuple[str, Role]:
        """Return whose these bytes are, key id and role, before anybody parses them.

        Raises:
            SignatureError: they are nobody's.
        """
        kid = self._signer.verify("control", namespace, "", data, signature)
        role = self._roles.get(kid)
        if role is None:
            raise SignatureError(f"the control is signed with the key {kid}, which has no role here")
        return kid, role
