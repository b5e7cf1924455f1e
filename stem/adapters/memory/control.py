"""The control channel: commands are stored first, then the subscribed are woken."""

from __future__ import annotations

from typing import Final

from stem.adapters.memory import steering
from stem.adapters.memory.core import Core
from stem.adapters.memory.desired import LOG_PAGE
from stem.adapters.memory.handle import Handle
from stem.adapters.memory.waiting import LoopWaiter, Subscription
from stem.contracts import Change, ChangeItem, Desired, Issued, RevokeTasks, WakeUp
from stem.errors import BrokerUnreachableError
from stem.messages.audit import AuditOutcome, Deed
from stem.messages.command import Command, Reply
from stem.messages.names import check_name

READ_AT_ONCE: Final = 100
"""Commands whose replies are read at the same time by one handle."""


def issue(core: Core, command: Command, change: Change | None) -> Issued:
    """Store a command, once per id, and wake the workers; see `ControlChannel.issue`."""
    with core.step() as now:
        before = core.log.issued(command.id)
        if before is not None:
            epoch, items, audit = before
            return Issued(epoch=epoch, now_ms=now, items=items, workers=tuple(core.fleet.seen(now)), audit=audit)
        raises_fence = change is not None and not isinstance(change, RevokeTasks)
        epoch = core.log.append(command, now, raises_fence=raises_fence)
        done: tuple[ChangeItem, ...] = ()
        if change is not None:
            done = tuple(steering.apply(core, command, change, now))
        audit = core.audit.command(command, change, done, epoch=epoch, now=now)
        core.log.remember(command.id, now, done, audit)
        wake(core)
        return Issued(epoch=epoch, now_ms=now, items=done, workers=tuple(core.fleet.seen(now)), audit=audit)


def wake(core: Core) -> None:
    """Wake everybody who subscribed; the lock is held."""
    for subscription in core.subscriptions:
        subscription.ring()


class InMemoryControl:
    """See `stem.contracts.ControlChannel`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._core = handle.core
        self._read_to: dict[str, int] = {}

    async def issue(self, command: Command, change: Change | None = None) -> Issued:
        return issue(self._core, command, change)

    async def record(self, deed: Deed) -> str:
        check_name("task id", deed.id)
        with self._core.step() as now:
            return self._core.audit.deed(deed, now)

    async def conclude(self, audit: str, outcome: AuditOutcome) -> bool:
        data = outcome.encode()
        with self._core.step() as now:
            return self._core.audit.conclude(audit, data, now)

    async def read(self, after_epoch: int) -> Desired:
        core = self._core
        with core.step() as now:
            reset = core.log.epoch < after_epoch
            return Desired(
                epoch=core.log.epoch,
                fence=core.log.fence,
                now_ms=now,
                log=tuple(core.log.after(max(0, core.log.epoch - LOG_PAGE) if reset else after_epoch, now)),
                pauses=tuple(core.desired.pauses),
                drained=core.desired.drained,
                shutdown=core.desired.shutdown,
                reset=reset,
            )

    async def subscribe(self) -> None:
        with self._core.lock:
            if self._handle.subscription is None:
                self._handle.subscription = Subscription()
                self._core.subscriptions[self._handle.subscription] = None

    async def wake(self, timeout_s: float) -> WakeUp | None:
        waiter = LoopWaiter()
        with self._core.lock:
            subscription = self._handle.subscription
            if subscription is None:
                raise BrokerUnreachableError("not subscribed to the control channel of this broker: call subscribe()")
            if subscription.take():
                return WakeUp()
            subscription.add(waiter)
        taken = False
        try:
            with self._handle.released_by_close(waiter):
                await waiter.wait(timeout_s)
            taken = True
        finally:
            with self._core.lock:
                subscription.discard(waiter)
                if waiter.fired and not taken:
                    subscription.ring()  # cancelled with the wake-up in hand: leave it to the next
        if self._handle.subscription is not subscription:
            raise BrokerUnreachableError("the handle of this broker was closed")
        return WakeUp() if waiter.fired else None

    async def reply(self, reply: Reply, *, keep_ms: int) -> None:
        data = reply.encode()
        with self._core.step() as now:
            self._core.replies.append(reply.command_id, data, now + keep_ms)
            self._core.waits.fire_all(f"reply:{reply.command_id}")

    async def replies(self, command_id: str, *, timeout_s: float) -> list[Reply]:
        topic, waiter = f"reply:{command_id}", LoopWaiter()
        with self._core.step():
            found = self._unread(command_id)
            if found or timeout_s <= 0:
                return found
            self._core.waits.add(topic, waiter)
        try:
            with self._handle.released_by_close(waiter):
                await waiter.wait(timeout_s)
        finally:
            with self._core.lock:
                self._core.waits.discard(topic, waiter)
        with self._core.step():
            return self._unread(command_id)

    def _unread(self, command_id: str) -> list[Reply]:
        """Return what this handle has not returned yet; of the newest commands only, an older one's come once more."""
        found, last = self._core.replies.after(command_id, self._read_to.pop(command_id, 0))
        self._read_to[command_id] = last  # the dict stays in the order of use
        while len(self._read_to) > READ_AT_ONCE:
            del self._read_to[next(iter(self._read_to))]
        return found
