"""Which workers a command means: ids, names and globs. Pure; knows nothing of brokers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from stem.contracts import Seen, superseded
from stem.errors import InvalidNameError
from stem.messages.names import check_list

_TARGET: Final = re.compile(r"[A-Za-z0-9_.*?\[\]!-]{1,64}")


def check_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Return `targets` if each could be a worker id, a name or a glob.

    Raises:
        InvalidNameError: one of them cannot.
        InvalidInputError: one text instead of a list.
    """
    names = check_list("workers", targets)
    for target in names:
        if not _TARGET.fullmatch(target):
            raise InvalidNameError(
                f"{ascii(target)[:80]} is not a worker: use an id, a name or a glob of A-Z a-z 0-9 _ . - * ? [ ]"
            )
    return names


def is_glob(target: str) -> bool:
    """Say whether `target` is a pattern rather than a name."""
    return any(sign in target for sign in "*?[")


def addresses(targets: Sequence[str], worker_id: str, name: str) -> bool:
    """Say whether a command with these targets means this worker; no targets mean everybody."""
    if not targets:
        return True
    return any(
        target in (worker_id, name) or fnmatchcase(name, target) or fnmatchcase(worker_id, target) for target in targets
    )


def select(seen: Iterable[Seen], targets: Sequence[str]) -> list[Seen]:
    """Return those that are addressed, in the order given."""
    return [worker for worker in seen if addresses(targets, worker.heartbeat.id, worker.heartbeat.name)]


def unmatched(seen: Iterable[Seen], targets: Sequence[str]) -> tuple[str, ...]:
    """Return the targets that mean none of these workers."""
    known = list(seen)
    return tuple(target for target in targets if not select(known, [target]))


def holding(paused: Iterable[str], selected: Sequence[Seen], seen: Iterable[Seen], target: str) -> list[str]:
    """Return what of `paused`, ids and names, keeps from working whom a target means: the `selected` of those `seen`.

    A worker that is gone can still be paused by its name. A name that others have too, who are not meant, stays paused.
    """
    others = {worker.heartbeat.name for worker in seen if worker not in selected}
    ids = {worker.heartbeat.id for worker in selected}
    names = {worker.heartbeat.name for worker in selected} - others
    return [each for each in paused if each in ids or each in names or each == target or fnmatchcase(each, target)]


def live(seen: Iterable[Seen]) -> list[Seen]:
    """Return the workers that beat in time and said no goodbye."""
    return [worker for worker in seen if not worker.stopped and not worker.lost]


def missing(seen: Iterable[Seen]) -> list[Seen]:
    """Return the workers lost without a goodbye, unless one of the same name has started since."""
    known = list(seen)
    again = superseded(known)
    return [worker for worker in known if worker.lost and worker.heartbeat.id not in again]
