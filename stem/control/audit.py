"""Telling the audit what came of what was asked for: of commands to workers, and of deeds that need none.

The row is written first, the outcome last. Whoever dies in between leaves a row without an outcome, and that is what it
says: nobody knows how it ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from stem.contracts import AuditRow, Broker
from stem.control.answer import CommandResult
from stem.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.messages.audit import ITEMS_KEPT, AuditItem, AuditOutcome, Deed, Verdict
from stem.messages.envelope import new_task_id

TELL_S: Final = 1.0
"""For writing an outcome: nobody waits longer for a note about what is done anyway."""
REFUSED: Final = {
    "final": "it has ended and is no dead letter: enqueue it anew",
    "not-dead": "it is no dead letter",
    "duplicate": "another unfinished task has its unique key: replay it once that one has ended",
    "unknown": "there is no such task",
}
"""What tasks answer to a deed that did nothing to them, with the reason in words."""


def outcome_of(result: CommandResult) -> AuditOutcome:
    """Return what a command achieved, as the audit keeps it."""
    failed = [item for item in result.items if item.error]
    return AuditOutcome(
        verdict=_verdict(result, len(failed)),
        counts=dict(Counter(item.outcome for item in result.items if item.outcome)),
        expected=result.expected,
        applied=result.applied,
        failed=result.failed,
        silent=[silent.name for silent in result.silent],
        items=[AuditItem(target=item.target, outcome=item.outcome, error=item.error) for item in result.items],
    )


def _verdict(result: CommandResult, failed: int) -> Verdict:
    if failed:
        return "failed" if failed == len(result.items) else "partly"
    if result.waited_out:
        return "waited-out"
    if result.silent:
        return "silent"
    return "applied" if result.items else "nothing"


async def tell(broker: Broker, audit: str, outcome: AuditOutcome) -> list[str]:
    """Write an outcome to its row; return what went wrong with that. Never raises for a broker that is away."""
    if not audit:
        return []
    try:
        async with asyncio.timeout(TELL_S):
            await broker.control.conclude(audit, outcome)
    except TimeoutError:
        return ["the outcome is not in the audit: the broker did not answer in time"]
    except BrokerError as error:
        return [f"the outcome is not in the audit: {error}"]
    return []


@dataclass(slots=True)
class Tally:
    """What a deed has done so far.

    Attributes:
        warnings: filled in at the end: why the audit does not have the outcome.
    """

    counts: Counter[str] = field(default_factory=Counter)
    items: list[AuditItem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, outcome: str, number: int) -> None:
        """Count targets that ended in one way."""
        self.counts[outcome] += number

    def add_all(self, outcomes: Mapping[str, str]) -> None:
        """Count tasks by what became of each."""
        for task_id, outcome in outcomes.items():
            self.counts[outcome] += 1
            error = REFUSED.get(outcome, "")
            if error or len(self.items) < ITEMS_KEPT:
                self.items.append(AuditItem(target=task_id, outcome=outcome, error=error))
        # A long list of ids ends in few items; those that failed go before the others.
        if len(self.items) > 2 * ITEMS_KEPT:
            self.items = sorted(self.items, key=lambda item: not item.error)[:ITEMS_KEPT]

    def outcome(self, *, broken: bool) -> AuditOutcome:
        """Return what the audit keeps. `broken`: an error ended the deed half way."""
        failed = sum(count for outcome, count in self.counts.items() if outcome in REFUSED)
        done = self.counts.total() - failed
        verdict: Verdict = "applied" if done else "nothing"
        if failed or broken:
            verdict = "partly" if done else "failed"
        return AuditOutcome(verdict=verdict, counts=dict(self.counts), items=self.items)


@asynccontextmanager
async def recorded(
    broker: Broker,
    verb: str,
    targets: Sequence[str],
    *,
    actor: str = "",
    kind: str = "",
    option: str = "",
    reason: str = "",
) -> AsyncIterator[Tally]:
    """Do something to tasks with a row in the audit: the row before, what came of it after.

    Args:
        verb: `purge`, `discard`, `replay` or `retry`.
        kind: `queue` where the targets are queues, else they are ids of tasks.
        option: how they were chosen, in words.

    Raises:
        UnknownOutcomeError: the broker was away, or refused, when a part was done; it says how much.
    """
    audit = await broker.control.record(
        Deed(
            id=new_task_id(),
            verb=verb,
            actor=actor[:200],
            reason=reason[:500],
            kind=kind,
            option=option,
            targets=targets,
            count=len(targets),
        )
    )
    tally = Tally()
    try:
        yield tally
    except Exception as error:
        tally.warnings += await tell(broker, audit, tally.outcome(broken=True))
        done = tally.counts.keys() - REFUSED.keys()
        if done and isinstance(error, BrokerUnreachableError | BrokerRefusedError | UnknownOutcomeError):
            # The error speaks of the last part only: alone it would say that nothing was done.
            raise UnknownOutcomeError(f"{verb} broke off after {_counted(tally.counts)}: {error}") from error
        raise
    tally.warnings += await tell(broker, audit, tally.outcome(broken=False))


def asked(row: AuditRow) -> str:
    """Return what was asked in a few words, such as `pause queue for 600 s`, `shutdown soft`; untrusted text."""
    option = row.option
    if row.verb == "pause" and option.isascii() and option.isdigit() and len(option) < 16:
        option = f"for {int(option) / 1000:g} s"
    return " ".join(word for word in (row.verb, row.kind, option) if word)


def targets_of(row: AuditRow, at_most: int = 3) -> str:
    """Return the first targets and how many more there are; untrusted text."""
    if not row.targets:
        return str(row.count) if row.count else "all"
    shown = row.targets[:at_most]
    more = row.count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def summary(row: AuditRow) -> str:
    """Return what came of a row in a few words; untrusted text."""
    outcome = row.outcome
    if outcome is None:
        return f"not told; stored: {_counted(row.stored)}" if row.stored else "not told"
    parts: list[str] = [outcome.verdict]
    if counted := _counted(outcome.counts):
        parts.append(counted)
    if outcome.expected:
        parts.append(f"{outcome.applied} of {outcome.expected} workers")
    if outcome.silent:
        parts.append(f"silent: {', '.join(outcome.silent)}")
    first = next((item for item in outcome.items if item.error), None)
    if first is not None:
        parts.append(f"{first.target}: {first.error}")
    return "; ".join(parts)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
