"""The command that a question shows does the same when it is run."""

from __future__ import annotations

import asyncio
import shlex

from stem.adapters.connect import connect_broker
from stem.clock import SystemClock
from stem.contracts import NewTask
from stem.messages.envelope import Envelope
from stem.observe.feed import take
from stemctl.main import main
from tests.observe.builders import state
from tests.tui.still import make_app, make_session
from tests.tui.test_deeds import asked


async def test_the_command_of_a_purge_purges(valkey_url: str, namespace: str) -> None:
    broker = connect_broker(valkey_url, namespace=namespace)
    try:
        await broker.enqueue(
            [NewTask(id=each, task="mail.send", queue="mail", body=Envelope(id=each, task="mail.send").encode())
             for each in ("t-1", "t-2")]
        )  # fmt: skip
        made = state()
        made.apply(await take(broker, clock=SystemClock()), 1.0)
        app = make_app(make_session(made, broker, url=broker.url, namespace=namespace), broker)
        async with app.run_test(size=(90, 26)) as pilot:
            await pilot.press("2", "ctrl+d")
            program, *words = shlex.split((await asked(app, pilot)).question.command)
            await pilot.press("enter")
        assert program == "stemctl"
        assert [row.ready for row in await broker.census.queues()] == [2], "shown, not sent"

        code = await asyncio.to_thread(main, [*words, "--yes"])

        assert code == 0
        assert [row.ready for row in await broker.census.queues()] == [0]
    finally:
        await broker.close()
