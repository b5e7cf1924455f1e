"""A worker made by hand: beats, listens and answers as told, in a thread of its own. Runs no tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from stem.adapters.connect import connect_broker
from stem.contracts import Beat, Broker
from stem.control.target import addresses
from stem.messages.command import Command, Reply
from stem.messages.heartbeat import Heartbeat, RunningTask

Answer = Callable[[Command], list[tuple[str, Mapping[str, Any]]]]
"""From a command to the replies to it: stage and data, in order."""


def answers_all(command: Command) -> list[tuple[str, Mapping[str, Any]]]:
    """Answer every command, and its effect, at once."""
    if command.type == "ping":
        data = {"nonce": command.args["nonce"], "loop_age_ms": 1, "in_flight": 0, "concurrency": 4, "state": "running"}
        return [("applied", data)]
    if command.type == "inspect":
        registered = [{"name": "mail.send", "kind": "async"}] if command.args["what"] == "registered" else []
        return [("applied", {"count": len(registered), "items": registered})]
    if command.type == "stats":
        return [("applied", {"counters": {"succeeded": 3}})]
    if command.type == "revoke":
        ids = command.args["ids"]
        return [("applied", {"held": ids}), ("effect", {"ended": dict.fromkeys(ids, "cancelled")})]
    return [("applied", {}), ("effect", {})]


def answers_none(command: Command) -> list[tuple[str, Mapping[str, Any]]]:
    """Be deaf."""
    return []


class HandMadeWorker:
    """Beats twice a second until told to stop; `vanish` stops it without a goodbye."""

    def __init__(
        self,
        url: str,
        namespace: str,
        name: str,
        *,
        queues: tuple[str, ...] = ("default",),
        answer: Answer = answers_all,
        **beat: Any,
    ) -> None:
        self.name = name
        self.id = f"{name}-1"
        self.heard: list[Command] = []
        self._url = url
        self._namespace = namespace
        self._queues = queues
        self._answer = answer
        self._beat = beat
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._goodbye = True
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=f"hand-made {name}")

    def __enter__(self) -> HandMadeWorker:
        self._thread.start()
        assert self._ready.wait(10), "the hand-made worker did not come up"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """Say goodbye and end."""
        self._stop.set()
        self._thread.join(10)

    def vanish(self) -> None:
        """Stop beating and answering without a goodbye."""
        self._goodbye = False
        self._stop.set()
        self._thread.join(10)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # shown to the test by __exit__
            self._failure = error
        finally:
            self._ready.set()

    def _heartbeat(self, **fields: Any) -> Heartbeat:
        values: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "started_at_ms": int(time.time() * 1000),
            "host": "host",
            "pid": 1,
            "version": "0.1.0",
            "queues": self._queues,
            "concurrency": 4,
            **self._beat,
            **fields,
        }
        running = tuple(one for one in values.get("running", ()) if isinstance(one, RunningTask))
        return Heartbeat(**{**values, "running": running})

    async def _run(self) -> None:
        broker = connect_broker(self._url, namespace=self._namespace)
        try:
            started = int(time.time() * 1000)
            await broker.control.subscribe()
            epoch = (await broker.control.read(0)).epoch
            await broker.presence.beat(Beat(heartbeat=self._heartbeat(epoch=epoch, started_at_ms=started)))
            self._ready.set()
            while not self._stop.is_set():
                await broker.control.wake(0.05)
                desired = await broker.control.read(epoch)
                epoch = desired.epoch
                for logged in desired.log:
                    await self._reply(broker, Command.decode(logged.command), started)
                if not self._stop.is_set():
                    beat = self._heartbeat(epoch=epoch, started_at_ms=started)
                    await broker.presence.beat(Beat(heartbeat=beat))
            await self._say_goodbye(broker, started)
        finally:
            await broker.close()

    async def _say_goodbye(self, broker: Broker, started: int) -> None:
        if self._goodbye:
            self._goodbye = False
            beat = self._heartbeat(state="stopped", started_at_ms=started)
            await broker.presence.beat(Beat(heartbeat=beat))

    async def _reply(self, broker: Broker, command: Command, started: int) -> None:
        if not addresses(command.targets, self.id, self.name):
            return
        self.heard.append(command)
        for stage, data in self._answer(command):
            failed = stage == "refused"
            if (command.type, stage) == ("shutdown", "effect"):
                # As a worker does: whoever hears of its goodbye no longer finds it in the list.
                await self._say_goodbye(broker, started)
                self._stop.set()
            reply = Reply(
                command_id=command.id,
                worker=self.id,
                name=self.name,
                stage="accepted" if failed else stage,
                ok=not failed,
                error_code="unsupported" if failed else "",
                error_message=str(data.get("message", "")),
                data={} if failed else data,
            )
            await broker.control.reply(reply, keep_ms=60_000)
        if command.type == "shutdown":
            self._stop.set()
