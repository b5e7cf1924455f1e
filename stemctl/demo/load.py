"""The demo's load: a shop's tasks at a steady rate, and an operator who revokes some of them."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Final

from stem.client import Stem
from stem.control.controller import Controller
from stem.task import Signature, TaskOptions
from stemctl.demo.ledger import Ledger

TICK_S: Final = 0.1
VIDEO_S: Final = 6.0
BLOCK_EVERY_S: Final = 30.0
REVOKE_EVERY_S: Final = 0.8


class Shop:
    """Enqueues tasks; belongs to the event loop.

    Args:
        rate: tasks per second.
        video_s: how long the long tasks take.
        block_s: how long a task blocks its worker's loop, now and then; first after `first_block_s`.
    """

    def __init__(
        self,
        stem: Stem,
        ledger: Ledger,
        *,
        rate: float,
        video_s: float = VIDEO_S,
        block_s: float = 1.0,
        first_block_s: float,
    ) -> None:
        self._stem = stem
        self._ledger = ledger
        self._rate = rate
        self._video_s = video_s
        self._block_s = block_s
        self._first_block_s = first_block_s
        self._orders = 0
        self.scheduled: deque[str] = deque(maxlen=50)
        """Ids that wait for their time, newest last: what an operator can withdraw."""
        self.long: deque[str] = deque(maxlen=50)
        """Ids of long tasks: what an operator can stop while they run."""

    async def run(self, stop: asyncio.Event) -> None:
        """Enqueue until `stop` is set."""
        loop = asyncio.get_running_loop()
        begun, sent = loop.time(), 0
        block_at = begun + self._first_block_s
        while not stop.is_set():
            if loop.time() >= block_at:
                block_at += BLOCK_EVERY_S
                await self._send([self._report()])
            due = int((loop.time() - begun) * self._rate)
            # A demo that was held up does not make up for more than a second: a burst would look like a bug.
            sent = max(sent, due - int(self._rate))
            if due > sent:
                await self._send([self._order() for _ in range(due - sent)])
                sent = due
            await wait_for(stop, TICK_S)

    async def _send(self, batch: list[Signature]) -> None:
        ids = await self._stem.enqueue_many(batch)
        for task_id, signature in zip(ids, batch, strict=True):
            self._ledger.write("acked", task_id)
            if signature.name == "reminder.send":
                self.scheduled.append(task_id)
            elif signature.name == "video.encode":
                self.long.append(task_id)

    def _report(self) -> Signature:
        return Signature(name="report.totals", args={"month": "2026-10", "seconds": self._block_s})

    def _order(self) -> Signature:
        self._orders += 1
        number, dice = self._orders, random.random()
        if dice < 0.72:
            name, queue, args = "mail.send", "mail", {"to": f"customer{number}@example.com"}
            return Signature(name=name, args=args, options=TaskOptions(queue=queue))
        if dice < 0.86:
            payment = {
                "order": number,
                "amount": random.randint(5, 500),
                "card": random.choice(["good"] * 14 + ["bad"]),
            }
            return Signature(name="payment.charge", args=payment, options=TaskOptions(queue="payments"))
        if dice < 0.92:
            return Signature(name="pdf.render", args={"invoice": number}, options=TaskOptions(queue="media"))
        if dice < 0.95:
            return Signature(name="image.resize", args={"path": f"{number}.jpg"}, options=TaskOptions(queue="media"))
        if dice < 0.992:
            args = {"to": f"customer{number}@example.com"}
            delay = random.uniform(1.0, 3.0)
            return Signature(name="reminder.send", args=args, options=TaskOptions(queue="mail"), delay=delay)
        video = {"video": number, "seconds": self._video_s}
        return Signature(name="video.encode", args=video, options=TaskOptions(queue="media"), priority=5)


class Operator:
    """Revokes tasks now and then and writes down what the broker answered."""

    def __init__(self, controller: Controller, shop: Shop, ledger: Ledger) -> None:
        self._controller = controller
        self._shop = shop
        self._ledger = ledger

    async def run(self, stop: asyncio.Event) -> None:
        """Withdraw one waiting task and stop one running task, again and again until `stop` is set."""
        while not await wait_for(stop, REVOKE_EVERY_S):
            ids = [line.pop() for line in (self._shop.scheduled, self._shop.long) if line]
            if ids:
                await self._revoke(ids)

    async def _revoke(self, ids: list[str]) -> None:
        result = await self._controller.revoke(ids, terminate=True, reason="the demo's operator changed his mind")
        for item in result.items:
            if item.worker:
                self._ledger.write("stopping", item.target)
            elif item.outcome == "revoked":
                self._ledger.write("withdrawn", item.target)


async def wait_for(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait up to `timeout_s` for the event; True if it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
