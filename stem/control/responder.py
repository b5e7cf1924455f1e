"""The worker's side of the control channel: reads what is asked for, acts on it, answers.

A wake-up says "look": what is acted on is the log behind it, read after the newest epoch known. Only a question may be
answered as it comes, because it changes nothing. All this runs in the worker's vitals thread and reaches the worker
through `Steered`; it knows brokers only by contract.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from stem.contracts import ControlChannel, Desired, Logged
from stem.control.guard import Guard, Refused
from stem.control.target import addresses
from stem.errors import BrokerError, DecodeError, StemError
from stem.messages.command import QUESTIONS, Command, Reply
from stem.messages.names import is_name
from stem.signals import ControlCommandCompleted, ControlCommandReceived, StemSignals
from stem.text import clean

log = logging.getLogger("stem.worker.control")

PAGE: Final = 1_000
MOST_AT_ONCE: Final = 256
MOST_WAITING: Final = 1_024
"""So many commands may wait for what they do to show; of any more, only what shows at once is answered."""
KEEP_MS: Final = 60_000
LONGEST_KEEP_MS: Final = 86_400_000
"""However long a sender says it waits: replies are kept no longer, and the server takes no expiry past its clock."""
WHATS: Final = ("active", "reserved", "revoked", "registered", "queues", "children", "config", "stack")
MODES: Final = ("warm", "soft", "hard")


class Steered(Protocol):
    """What a worker lets itself be asked and told. Everything is called in the vitals thread and returns at once,
    unless it is `async`."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def now_ms(self) -> int:
        """Return the broker's clock as this worker knows it."""

    def adopt_desired(self, desired: Desired, *, epoch: int) -> None:
        """Take over pauses, drains and shutdowns, and hand nothing out under an older epoch from now on."""

    def pulse(self) -> Mapping[str, Any]:
        """Return what a ping is answered with."""

    def inspect(self, what: str) -> Mapping[str, Any]: ...

    def stats(self) -> Mapping[str, Any]: ...

    async def barrier(self, *, begun: bool = True) -> None:
        """Return once every delivery handed out before now has arrived here; and has begun its handler, or was handed
        back, unless `begun` is false."""

    async def idle(self) -> bool:
        """Return True once nothing is in flight, False if the worker takes work again before that."""

    def remember_revoked(self, ids: Sequence[str], *, terminate: bool) -> None: ...

    def held(self, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that are in flight here."""

    async def revoke(self, ids: Sequence[str], *, terminate: bool) -> Mapping[str, str]:
        """Tell these to stop; return, once all of them have ended, how each did."""

    def shut_down(self, mode: str, why: str) -> None: ...

    async def goodbye(self) -> Mapping[str, Any]:
        """Return right before the worker is gone, with what there is to say."""


class _Late(Exception):
    """It takes longer than anybody waits for the answer."""


class Responder:
    """Applies the control log in order and answers. Belongs to the vitals loop."""

    def __init__(self, control: ControlChannel, worker: Steered, guard: Guard) -> None:
        self._control = control
        self._worker = worker
        self._guard = guard
        self._cursor = 0
        self._answered: dict[int, bytes] = {}
        self._reading = asyncio.Lock()
        self._answers: set[asyncio.Task[None]] = set()
        self._waiting = 0

    @property
    def epoch(self) -> int:
        """The newest epoch that has been applied."""
        return self._cursor

    async def begin(self) -> None:
        """Take over desired state as it is; what was commanded before this worker was there is not for it."""
        desired = await self._control.read(0)
        if desired.epoch > PAGE:  # the newest of them are those that could be repeated
            desired = await self._control.read(desired.epoch - PAGE)
        commands = [command for logged in desired.log if (command := _decode(logged)) is not None]
        self._guard.begin(commands, now_ms=desired.now_ms)
        self._cursor = desired.epoch
        self._worker.adopt_desired(self._guard.trusted(desired), epoch=desired.epoch)

    def answer(self, asked: Logged) -> bool:
        """Answer a question that came with its wake-up; False if it is none, or if the log is to be read first.

        It is in the log too, and read there once more: a channel on which others may publish moves no cursor, or a
        false question could hide a true command.
        """
        command = _decode(asked)
        if (
            command is None
            or command.type not in QUESTIONS
            or self._reading.locked()
            or asked.epoch != self._cursor + len(self._answered) + 1
            or len(self._answered) >= MOST_AT_ONCE
        ):
            return False
        self._answered[asked.epoch] = asked.command
        admitted = self._admitted(asked, now_ms=self._worker.now_ms())
        if admitted is not None:
            self._take(admitted)
        return True

    async def catch_up(self) -> None:
        """Read what is new and act on it.

        Raises:
            BrokerError: it could not be read; nothing of it is lost.
        """
        async with self._reading:
            while True:
                desired = await self._control.read(self._cursor)
                rows = desired.log
                more = len(rows) >= PAGE and rows[-1].epoch < desired.epoch
                self._cursor = rows[-1].epoch if more else desired.epoch
                new = (logged for logged in rows if self._answered.get(logged.epoch) != logged.command)
                commands = [self._admitted(logged, now_ms=desired.now_ms) for logged in new]
                # State first: it is of the newest epoch, whatever command of the log comes next.
                self._worker.adopt_desired(self._guard.trusted(desired), epoch=desired.epoch)
                for command in commands:
                    if command is not None:
                        self._take(command)
                if not more:
                    self._answered.clear()
                    return

    async def close(self, timeout_s: float) -> None:
        """Let the last answers out."""
        if self._answers:
            await asyncio.wait(set(self._answers), timeout=timeout_s)
        for answer in self._answers:
            answer.cancel()

    # --------------------------------------------------------------------------------------------------------- private

    def _admitted(self, logged: Logged, *, now_ms: int) -> Command | None:
        """Return the command if it is to be acted on here; who is refused gets an answer."""
        command = _decode(logged)
        if command is None or not addresses(command.targets, self._worker.id, self._worker.name):
            return None
        if command.type in QUESTIONS and logged.issued_at_ms + command.timeout_ms < now_ms:
            return None  # nobody waits for the answer any more
        try:
            return command if self._guard.admit(logged, command, now_ms=now_ms) else None
        except Refused as refused:
            log.warning(
                "control.refused",
                extra={"command": clean(command.type, 40), "command_id": command.id, "error": str(refused)},
            )
            if not self._busy:
                self._spawn(self._refuse(command, refused))
            return None

    def _take(self, command: Command) -> None:
        if StemSignals.control_command_received.wanted:
            StemSignals.control_command_received.emit_nowait(
                ControlCommandReceived(worker=self._worker.id, worker_name=self._worker.name, command=command)
            )
        if command.type not in QUESTIONS:
            log.info(
                "control.command",
                extra={
                    "command": clean(command.type, 40),
                    "command_id": command.id,
                    "actor": clean(command.actor, 80),
                    "reason": clean(command.reason, 200),
                },
            )
        if self._busy:
            answer = self._reply(command, "accepted", error=Refused("busy", "too many commands at once: ask again"))
        else:
            answer = self._carry_out(command)
        self._spawn(answer)

    @property
    def _busy(self) -> bool:
        # Who waits costs nothing, and may wait for long: a shutdown must not be refused because of it.
        return len(self._answers) - self._waiting >= MOST_AT_ONCE

    def _spawn(self, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _carry_out(self, command: Command) -> None:
        error: Refused | None = None
        try:
            await self._act(command)
        except Refused as refused:
            error = refused
        except _Late:
            log.info("control.late", extra={"command": clean(command.type, 40), "command_id": command.id})
        except BrokerError as failure:
            log.warning("control.reply_failed", extra={"command_id": command.id, "error": clean(failure, 300)})
        except Exception as failure:
            log.exception("control.failed", extra={"command": clean(command.type, 40), "command_id": command.id})
            error = Refused("failed", f"{type(failure).__name__}: {clean(failure, 300)}")
        if error is not None:
            await self._refuse(command, error)
        if StemSignals.control_command_completed.wanted:
            StemSignals.control_command_completed.emit_nowait(
                ControlCommandCompleted(
                    worker=self._worker.id,
                    worker_name=self._worker.name,
                    command=command,
                    ok=error is None,
                    error_code="" if error is None else error.code,
                )
            )

    async def _refuse(self, command: Command, error: Refused) -> None:
        try:
            await self._reply(command, "accepted", error=error)
        except BrokerError as failure:
            log.warning("control.reply_failed", extra={"command_id": command.id, "error": clean(failure, 300)})

    async def _act(self, command: Command) -> None:
        worker = self._worker
        match command.type:
            case "ping":
                await self._reply(command, "applied", {"nonce": command.args.get("nonce"), **worker.pulse()})
            case "inspect":
                what = command.args.get("what")
                if what not in WHATS:
                    raise Refused("invalid", f"inspect knows {', '.join(WHATS)}, not {clean(what, 40)!r}")
                await self._reply(command, "applied", worker.inspect(what))
            case "stats":
                await self._reply(command, "applied", worker.stats())
            case "revoke":
                await self._revoke(command)
            case "pause" | "resume":
                # Confirmed only when no delivery handed out before can start any more: then both stages are reached.
                async with self._patience(command):
                    await worker.barrier()
                await self._reply(command, "effect", {})
            case "drain":
                async with self._patience(command):
                    await worker.barrier()
                await self._reply(command, "applied", {})
                async with self._patience(command):
                    idle = await worker.idle()
                if idle:
                    await self._reply(command, "effect", {})
            case "undrain":
                await self._reply(command, "effect", {})
            case "shutdown":
                await self._shut_down(command)
            case _:
                raise Refused(
                    "unsupported",
                    f"this worker runs Stem {worker.version}, which does not know {clean(command.type, 40)!r}",
                )

    async def _revoke(self, command: Command) -> None:
        ids, terminate = command.args.get("ids"), command.args.get("terminate", False)
        # Ids are remembered: what is no id, and may be of any size, is not.
        if (
            not isinstance(ids, list)
            or not all(is_name("task id", one) for one in ids)
            or not isinstance(terminate, bool)
        ):
            raise Refused("invalid", "revoke takes a list of task ids and terminate true or false")
        worker = self._worker
        worker.remember_revoked(ids, terminate=terminate)
        # What is being handed to us at this moment counts: it began before the revoke reached the broker's record.
        try:
            async with self._patience(command):
                await worker.barrier(begun=False)
        except _Late:  # nothing is confirmed, but what is here is told all the same
            held = worker.held(ids)
        else:
            held = worker.held(ids)
            await self._reply(command, "applied", {"held": held})
        if held:
            async with self._patience(command):
                ended = await worker.revoke(held, terminate=terminate)
            await self._reply(command, "effect", {"ended": dict(ended)})

    async def _shut_down(self, command: Command) -> None:
        mode = command.args.get("mode", "warm")
        if mode not in MODES:
            raise Refused("invalid", f"shutdown takes a mode of {', '.join(MODES)}, not {clean(mode, 40)!r}")
        who = f" by {clean(command.actor, 80)}" if command.actor else ""
        # Before its answer, which may not get through: a signed stop stands nowhere else, and its id is taken now.
        self._worker.shut_down(mode, f"shutdown {mode}{who}")
        await self._reply(command, "applied", {})
        async with self._patience(command):
            goodbye = await self._worker.goodbye()
        await self._reply(command, "effect", goodbye)

    @contextlib.asynccontextmanager
    async def _patience(self, command: Command) -> AsyncIterator[None]:
        """Wait inside for what may take long, or never come: for as long as the command's replies are kept.

        Raises:
            _Late: it took longer, or too many wait and it was not there at once.
        """
        within_s = 0.0 if self._waiting >= MOST_WAITING else _keep_ms(command) / 1000
        self._waiting += 1
        try:
            async with asyncio.timeout(within_s):
                yield
        except TimeoutError as error:
            raise _Late from error
        finally:
            self._waiting -= 1

    async def _reply(
        self, command: Command, stage: str, data: Mapping[str, Any] | None = None, *, error: Refused | None = None
    ) -> None:
        reply = Reply(
            command_id=command.id,
            worker=self._worker.id,
            name=self._worker.name,
            stage=stage,
            ok=error is None,
            error_code="" if error is None else error.code,
            error_message="" if error is None else str(error),
            data={} if data is None else data,
            at_ms=self._worker.now_ms(),
        )
        keep_ms = _keep_ms(command)
        for attempt in range(3):
            try:
                await self._control.reply(reply, keep_ms=keep_ms)
                return
            except BrokerError:
                if attempt == 2:
                    raise
            except StemError as failure:  # what there is to say is too large, or cannot be encoded
                if error is not None:
                    raise
                raise Refused("failed", f"the answer cannot be sent: {clean(failure, 200)}") from failure
            await asyncio.sleep(0.2 * 2**attempt)


def _keep_ms(command: Command) -> int:
    return min(max(0, command.timeout_ms), LONGEST_KEEP_MS) + KEEP_MS


def _decode(logged: Logged) -> Command | None:
    """Return the command, None for one that cannot be read: that one says nothing, and stops nothing."""
    try:
        return Command.decode(logged.command)
    except DecodeError as error:
        log.warning("control.unreadable", extra={"epoch": logged.epoch, "error": clean(error, 200)})
        return None
