"""The demo's tasks: quick, slow, flaky, blocking and long ones, as a shop might have them.

Each writes to the ledger when it begins and ends; the worker writes when the broker has recorded the end.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from stem.client import Stem
from stem.retry import ExponentialJitterRetryStrategy
from stem.signals import StemSignals
from stem.task import TaskContext
from stemctl.demo.ledger import Ledger

P = ParamSpec("P")
R = TypeVar("R")

LEDGER_VARIABLE: Final = "STEM_DEMO_LEDGER"
CLOSING: Final = "closing"
"""A file beside the ledgers: the demo is about to end."""
QUEUES: Final = ("mail", "media", "payments", "default")

app = Stem.connect()


@functools.cache
def _ledger() -> Ledger:
    # Opened at the first line, so that importing this module (a producer does) writes nothing.
    return Ledger(Path(os.environ[LEDGER_VARIABLE]))


def accounted(
    function: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]]:
    """Write down each run of an async handler."""

    @functools.wraps(function)
    async def run(context: TaskContext, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with _ledger().attempt(context.id, context.attempt):
            return await function(context, *args, **kwargs)

    return run


def accounted_plain(function: Callable[Concatenate[TaskContext, P], R]) -> Callable[Concatenate[TaskContext, P], R]:
    """Write down each run of a plain handler."""

    @functools.wraps(function)
    def run(context: TaskContext, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with _ledger().attempt(context.id, context.attempt):
            return function(context, *args, **kwargs)

    return run


@app.task("mail.send", queue="mail")
@accounted
async def send_mail(context: TaskContext, to: str, template: str = "welcome") -> str:
    """Quick: most of the work of most shops."""
    await asyncio.sleep(random.uniform(0.001, 0.01))
    return f"{template} -> {to}"


@app.task("reminder.send", queue="mail")
@accounted
async def send_reminder(context: TaskContext, to: str) -> str:
    """Scheduled: it is enqueued with a delay."""
    return f"reminded {to}"


@app.task("image.resize", queue="media")
@accounted
async def resize_image(context: TaskContext, path: str, width: int = 800) -> str:
    """Slow, but waiting most of the time."""
    await asyncio.sleep(random.uniform(0.2, 0.8))
    return f"{path}@{width}"


@app.task("pdf.render", queue="media")
@accounted_plain
def render_pdf(context: TaskContext, invoice: int) -> str:
    """Blocking: a plain function, so it runs in a thread."""
    time.sleep(random.uniform(0.02, 0.06))
    return hashlib.sha256(str(invoice).encode()).hexdigest()


@app.task(
    "payment.charge",
    queue="payments",
    max_retries=3,
    retry_strategy=ExponentialJitterRetryStrategy(base=0.2, max=1.0),
)
@accounted
async def charge_payment(context: TaskContext, order: int, amount: int, card: str = "good") -> str:
    """Flaky: the bank is down now and then, and refuses bad cards every time."""
    await asyncio.sleep(random.uniform(0.005, 0.02))
    if card == "bad":
        raise PermissionError(f"order {order}: the bank refuses this card")
    if random.random() < 0.3:
        raise ConnectionError(f"order {order}: the bank does not answer")
    return f"charged {amount}"


@app.task("report.totals")
@accounted
async def total_report(context: TaskContext, month: str, seconds: float = 1.0) -> str:
    """A mistake as it happens: a blocking call in an async handler. Its worker answers, and is named wedged."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not _closing():
        time.sleep(0.1)  # noqa: ASYNC251  the mistake that is shown
    return f"totals of {month}"


def _closing() -> bool:
    """Say whether the demo is about to end: then nothing is to be seen any more, and nobody waits for it."""
    return (Path(os.environ[LEDGER_VARIABLE]) / CLOSING).exists()


@app.task("video.encode", queue="media")
@accounted
async def encode_video(context: TaskContext, video: int, seconds: float = 6.0) -> str:
    """Long, with progress: something to look at, and to revoke."""
    steps = 20
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds / steps)
        context.progress({"percent": 100 * step // steps})
    return f"video {video}"


StemSignals.on_task_succeeded(lambda event, _: _ledger().write("final:succeeded", event.id, event.attempt))
StemSignals.on_task_failed(lambda event, _: _ledger().write("final:failed", event.id, event.attempt))
StemSignals.on_task_retry(lambda event, _: _ledger().write("final:retry", event.id, event.attempt))
StemSignals.on_task_revoked(lambda event, _: _ledger().write("final:revoked", event.id, event.attempt))
StemSignals.on_task_expired(lambda event, _: _ledger().write("final:expired", event.id, event.attempt))
