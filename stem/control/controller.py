"""The operator's end of the control channel: issue a command, know who must answer, return when they have.

Knows the contract and the messages; knows no adapter, no terminal and no worker code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final, Literal

from stem.contracts import (
    Change,
    ClearDrain,
    ClearPause,
    PauseKind,
    RevokeTasks,
    Seen,
    SetDrain,
    SetPause,
    SetShutdown,
)
from stem.control import audit, outcome, target
from stem.control.answer import CommandItem, CommandResult
from stem.control.asking import Asker
from stem.control.collect import EFFECT, LAST_LOOK_S, Party, Request, parties
from stem.errors import InvalidInputError, UnknownOutcomeError
from stem.messages.command import Command, revoke_args
from stem.messages.names import check_list, check_name
from stem.messages.status import TaskStatus

SHUTDOWN_MODES: Final = ("warm", "soft", "hard")
MAX_IDS: Final = 500
"""Of one revoke: a command is one step in the broker, and a step is bounded."""


class Controller(Asker):
    """Sends commands to workers and reports what came of them; asks them as well.

    As with questions, the silent are named; where the effect is waited for, `wait_s` is the limit.
    """

    # --------------------------------------------------------------------------------------------------------- changes

    async def revoke(
        self,
        ids: Sequence[str],
        *,
        terminate: bool = False,
        reason: str = "",
        wait_s: float | None = None,
        dry_run: bool = False,
    ) -> CommandResult:
        """Make tasks never start (again); those that run are told to stop, with `terminate` made to.

        Only workers that run one of them are waited for: `applied` once they know, or with `wait_s` until each of
        their tasks has ended.

        Raises:
            InvalidInputError: more than 500 ids, or an ill-formed one.
        """
        ids = list(dict.fromkeys(check_name("task id", task_id) for task_id in check_list("task ids", ids)))
        if not ids or len(ids) > MAX_IDS:
            raise InvalidInputError(f"{len(ids)} task ids: give 1 to {MAX_IDS} of them")
        if dry_run:
            return await self.look(lambda: self._foresee_revoke(ids))
        command = self._command("revoke", (), revoke_args(ids, terminate=terminate), reason, wait_s)
        request = await self._issue(command, RevokeTasks(ids=ids, terminate=terminate), wait_s)
        running = {item.worker for item in request.issued.items if item.outcome == "running"}
        runners = [seen for seen in request.issued.workers if seen.heartbeat.id in running]
        concerned = parties(target.live(runners), [seen for seen in runners if seen.lost])
        await request.collect(concerned, limit_s=self._limit_s(wait_s), enough=outcome.holds_none)
        items, warnings = outcome.revoke_items(request, await self._ended(request))
        stored = tuple(item.target for item in items if item.outcome == "stored")
        return await self._result(request, items, warnings=warnings, unmatched=stored, enough=outcome.holds_none)

    async def pause(
        self,
        kind: PauseKind,
        targets: Sequence[str],
        *,
        for_s: float | None = None,
        reason: str = "",
        wait_s: float | None = None,
        dry_run: bool = False,
    ) -> CommandResult:
        """Hand out nothing more of these queues, task names or workers, until resumed or for `for_s` seconds."""
        for_ms = None if for_s is None else max(1, round(for_s * 1000))
        started = self._clock.monotonic()
        names, unmatched = await self._pausable(kind, targets, started=started, held=False)
        if dry_run or not names:
            return await self.look(
                lambda: self._foresee_pause(kind, names, unmatched, setting=True, dry_run=dry_run), started=started
            )
        args = {"kind": kind, "targets": list(names), "for_ms": for_ms}
        command = self._command("pause", names if kind == "worker" else (), args, reason, wait_s)
        change = SetPause(kind=kind, targets=names, for_ms=for_ms)
        return await self._set(command, change, unmatched, wait_s, started=started)

    async def resume(
        self,
        kind: PauseKind,
        targets: Sequence[str],
        *,
        reason: str = "",
        wait_s: float | None = None,
        dry_run: bool = False,
    ) -> CommandResult:
        """End a pause; what was not paused is left as it is, and that is a success."""
        started = self._clock.monotonic()
        names, unmatched = await self._pausable(kind, targets, started=started, held=True)
        if dry_run or not names:
            return await self.look(
                lambda: self._foresee_pause(kind, names, unmatched, setting=False, dry_run=dry_run), started=started
            )
        args = {"kind": kind, "targets": list(names), "for_ms": None}
        command = self._command("resume", names if kind == "worker" else (), args, reason, wait_s)
        change = ClearPause(kind=kind, targets=names)
        return await self._set(command, change, unmatched, wait_s, started=started)

    async def drain(
        self, targets: Sequence[str], *, reason: str = "", wait_s: float | None = None, dry_run: bool = False
    ) -> CommandResult:
        """Let workers take nothing more and stay alive; the effect is that nothing is in flight."""

        def change(ids: Sequence[str]) -> Change:
            return SetDrain(workers=ids)

        return await self._steer("drain", targets, {}, change, reason=reason, wait_s=wait_s, dry_run=dry_run)

    async def undrain(
        self, targets: Sequence[str], *, reason: str = "", wait_s: float | None = None, dry_run: bool = False
    ) -> CommandResult:
        """Let drained workers take work again."""

        def change(ids: Sequence[str]) -> Change:
            return ClearDrain(workers=ids)

        return await self._steer("undrain", targets, {}, change, reason=reason, wait_s=wait_s, dry_run=dry_run)

    async def shutdown(
        self,
        targets: Sequence[str] = (),
        *,
        mode: Literal["warm", "soft", "hard"] = "warm",
        reason: str = "",
        wait_s: float | None = None,
        dry_run: bool = False,
    ) -> CommandResult:
        """Stop workers; none named means all. The effect is their goodbye."""
        if mode not in SHUTDOWN_MODES:
            raise InvalidInputError(f"{ascii(mode)[:40]} is not a way to stop: use {', '.join(SHUTDOWN_MODES)}")

        def change(ids: Sequence[str]) -> Change:
            return SetShutdown(workers=ids, mode=mode)

        return await self._steer(
            "shutdown", targets, {"mode": mode}, change, reason=reason, wait_s=wait_s, dry_run=dry_run
        )

    # --------------------------------------------------------------------------------------------- what needs no worker

    def recorded(
        self, verb: str, targets: Sequence[str], *, kind: str = "", option: str = "", reason: str = ""
    ) -> AbstractAsyncContextManager[audit.Tally]:
        """Return a block for a purge, discard, replay or retry of this actor's, with its row in the audit.

        Whoever does it counts in the tally what became of the targets; see `stem.control.audit.recorded`.
        """
        targets = check_list("targets", targets)
        return audit.recorded(self._broker, verb, targets, actor=self._actor, kind=kind, option=option, reason=reason)

    # --------------------------------------------------------------------------------------------------------- private

    def _limit_s(self, wait_s: float | None) -> float:
        return self._timeout_s if wait_s is None else wait_s

    async def _result(
        self,
        request: Request,
        items: Sequence[CommandItem],
        *,
        warnings: Sequence[str] = (),
        unmatched: Sequence[str] = (),
        enough: Callable[[Party], bool] = lambda party: False,
    ) -> CommandResult:
        silent = await request.silent()
        asked = [party for party in request.parties if party.expected]
        result = CommandResult(
            command_id=request.command.id,
            epoch=request.issued.epoch,
            expected=len(asked),
            applied=sum(p.refusal is None and (p.rank >= request.want or enough(p)) for p in asked),
            failed=sum(party.refusal is not None for party in asked),
            silent=silent,
            items=items,
            workers=[
                outcome.confirmation(party) for party in request.parties if party.answered or party.gone == "stopped"
            ],
            warnings=warnings,
            elapsed_ms=request.elapsed_ms,
            unmatched=unmatched,
            waited_out=request.want == EFFECT and not request.complete(enough),
        )
        untold = await audit.tell(self._broker, request.issued.audit, audit.outcome_of(result))
        return replace(result, warnings=[*warnings, *untold])

    async def _pausable(
        self, kind: PauseKind, targets: Sequence[str], *, started: float, held: bool
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names to pause, or to resume where they are `held`, and what nobody is called.

        Of workers also those behind a glob; and to resume, whatever they were paused as, by name or by id.
        """
        targets = check_list(f"{kind}s", targets)
        if not targets:
            raise InvalidInputError(f"no {kind} given")
        if kind != "worker":
            return tuple(dict.fromkeys(check_name(kind, name) for name in targets)), ()
        workers = await self.look(self._broker.presence.workers, started=started)
        seen = [worker for worker in workers if not worker.stopped]
        # A worker that is long gone can still be paused by its name, and must be resumable.
        pauses = await self.look(self._broker.census.pauses, started=started)
        paused = {pause.target for pause in pauses if pause.kind == "worker"}
        known: dict[str, None] = {}
        unmatched: list[str] = []
        for name in target.check_targets(targets):
            selected = target.select(seen, [name])
            found = [worker.heartbeat.name for worker in selected]
            if held and (pausing := target.holding(paused, selected, seen, name)):
                known.update(dict.fromkeys(pausing))
            elif name in paused or (found and not target.is_glob(name)):
                known[name] = None
            elif found:
                known.update(dict.fromkeys(found))
            else:
                unmatched.append(name)
        return tuple(known), tuple(unmatched)

    async def _set(
        self,
        command: Command,
        change: SetPause | ClearPause,
        unmatched: Sequence[str],
        wait_s: float | None,
        *,
        started: float,
    ) -> CommandResult:
        request = await self._issue(command, change, wait_s, started=started)
        workers = request.issued.workers
        concerned = parties(
            _audience(target.live(workers), change.kind, change.targets),
            _audience(target.missing(workers), change.kind, change.targets),
        )
        await request.collect(concerned, limit_s=self._limit_s(wait_s))
        items: list[CommandItem] = []
        for item in request.issued.items:
            meant = [party for party in concerned if _audience([party.seen], change.kind, [item.target])]
            items.append(outcome.change_item(item, stage=request.stage_of(meant)))
            items += outcome.refusals(item.target, meant)
        return await self._result(request, items, unmatched=unmatched)

    async def _steer(
        self,
        verb: str,
        targets: Sequence[str],
        args: dict[str, Any],
        change: Callable[[Sequence[str]], Change],
        *,
        reason: str,
        wait_s: float | None,
        dry_run: bool,
    ) -> CommandResult:
        """Drain, undrain or stop workers, by id: another process of the same name is another worker."""
        wanted = target.check_targets(targets)
        if not wanted and verb != "shutdown":
            raise InvalidInputError(f"no worker given to {verb}")
        started = self._clock.monotonic()
        known = await self.look(self._broker.presence.workers, started=started)
        there = target.select([*target.live(known), *target.missing(known)], wanted)
        nobody = target.unmatched(there, wanted)
        if dry_run or not there:
            would = "clear" if verb == "undrain" else "set"
            items = [CommandItem(target=w.heartbeat.name, worker=w.heartbeat.id, outcome=would) for w in there]
            alive = len(target.live(there))
            return CommandResult(command_id="", expected=alive, items=items, unmatched=nobody, dry_run=dry_run)
        ids = [seen.heartbeat.id for seen in there]
        command = self._command(verb, ids, args, reason, wait_s)
        request = await self._issue(command, change(ids), wait_s, started=started)
        now = {seen.heartbeat.id: seen for seen in request.issued.workers}
        there = [now.get(seen.heartbeat.id, seen) for seen in there]
        concerned = parties(target.live(there), [seen for seen in there if seen.lost])
        await request.collect(concerned, limit_s=self._limit_s(wait_s))
        return await self._result(request, outcome.steer_items(request, there), unmatched=nobody)

    async def _foresee_revoke(self, ids: Sequence[str]) -> CommandResult:
        statuses = await self._broker.statuses(ids, timeline=False)
        items = [outcome.foreseen(task_id, status) for task_id, status in zip(ids, statuses, strict=True)]
        running = {item.worker for item in items if item.outcome == "running"}
        alive = [w for w in target.live(await self._broker.presence.workers()) if w.heartbeat.id in running]
        unknown = tuple(item.target for item in items if item.outcome == "stored")
        return CommandResult(command_id="", expected=len(alive), items=items, unmatched=unknown, dry_run=True)

    async def _foresee_pause(
        self, kind: PauseKind, names: Sequence[str], unmatched: Sequence[str], *, setting: bool, dry_run: bool
    ) -> CommandResult:
        paused = {pause.target for pause in await self._broker.census.pauses() if pause.kind == kind}
        alive = _audience(target.live(await self._broker.presence.workers()), kind, names) if names else []
        would = "set" if setting else "clear"
        items = [
            CommandItem(target=name, changed=changed, outcome=would if changed else "already")
            for name, changed in ((name, (name in paused) != setting) for name in names)
        ]
        return CommandResult(command_id="", expected=len(alive), items=items, unmatched=unmatched, dry_run=dry_run)

    async def _ended(self, request: Request) -> dict[str, TaskStatus]:
        """Look up running tasks whose worker cannot say (any more) how they ended."""
        unsure = {party.id: party for party in request.parties if party.gone or "applied" in party.replies}
        ids = [
            item.target
            for item in request.issued.items
            if item.outcome == "running"
            and (party := unsure.get(item.worker)) is not None
            and (party.gone or outcome.disowns(party, item.target))
        ]
        with request.stored():
            found = await self._last_look(ids) if ids else []
        return {status.id: status for status in found if status is not None and status.state.final}

    async def _last_look(self, ids: Sequence[str]) -> list[TaskStatus | None]:
        try:
            async with asyncio.timeout(LAST_LOOK_S):
                return await self._broker.statuses(ids, timeline=False)
        except TimeoutError as error:
            raise UnknownOutcomeError(
                f"the broker at {self._broker.url} did not say in time how tasks ended"
            ) from error


def _audience(workers: Sequence[Seen], kind: PauseKind, names: Sequence[str]) -> list[Seen]:
    """Return those whom a pause concerns: who takes none of the queues has nothing to confirm."""
    if kind == "worker":
        return target.select(workers, names)
    return [seen for seen in workers if kind == "task" or set(names) & set(seen.heartbeat.queues)]
