"""The version of a keyspace: which meaning the keys of a namespace have, in one key.

The key is written once, by whoever first writes to a namespace, and looked at once per handle, before its first call.
A program that finds a newer version than its own touches nothing: it would misread what it finds. A newer program reads
every older keyspace; when it changes what keys mean it raises the number itself, once no older program runs.

A keyspace without the key is new, or was emptied; it counts as version 1.
"""

from __future__ import annotations

from typing import Final

from stem.adapters.redis.address import Address
from stem.errors import BrokerRefusedError

SCHEMA: Final = 1
"""The version that this program writes, and the newest it reads."""

CODE: Final = "SCHEMA"
"""The code of the `BrokerRefusedError` for a keyspace that this program does not read."""

READERS: Final = frozenset({"queues", "read", "wait", "wake", "watch"})
"""Scripts that put nothing lasting into a namespace: looking into an empty one does not mark it."""


def mark(key: str) -> tuple[str, str, int, str, str]:
    """Return the command that writes the version where there is none, and answers what was there."""
    return ("SET", key, SCHEMA, "NX", "GET")


def is_foreign(error: Exception) -> bool:
    """Say whether an error means that the key is of another type: not written by any Stem."""
    return str(error).startswith("WRONGTYPE")


def check(found: object, *, namespace: str, address: Address) -> None:
    """Accept the stored version (None: not stored), or raise.

    Raises:
        BrokerRefusedError: with the code `SCHEMA`: it is newer than this program, or no version at all.
    """
    if found is None:
        return
    digits = found if isinstance(found, bytes) else b""
    if not (digits.isdigit() and len(digits) <= 9 and int(digits) > 0):
        raise BrokerRefusedError(
            f"the namespace {namespace} at {address} has no readable version in its key `schema`: it is not Stem's, or "
            "was damaged; use another namespace",
            code=CODE,
        )
    if int(digits) > SCHEMA:
        raise BrokerRefusedError(
            f"the namespace {namespace} at {address} was written by a newer Stem (keyspace version {int(digits)}, this "
            f"program reads up to {SCHEMA}): upgrade this program, or use another namespace",
            code=CODE,
        )
