"""The demo itself: a private server, worker processes, load, one SIGKILL, and the account of it all.

Everything is in one temporary folder, which is removed at the end together with every process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stem.adapters.connect import connect_broker
from stem.adapters.embedded import EmbeddedServer
from stem.client import Stem
from stem.contracts import Broker
from stem.control.controller import Controller
from stem.errors import StemError
from stem.text import clean
from stemctl.demo import aftermath
from stemctl.demo import ledger as accounts
from stemctl.demo.ledger import Ledger, Verdict
from stemctl.demo.load import VIDEO_S, Operator, Shop, wait_for
from stemctl.demo.tasks import CLOSING, LEDGER_VARIABLE, QUEUES

NAMESPACE: Final = "demo"
LEASE: Final = "3s"
"""So short that what the killed worker held runs elsewhere before the demo is over."""
HEARTBEAT: Final = "500ms"
READY_S: Final = 20.0
SETTLE_S: Final = 25.0
STOP_S: Final = 30.0
KILL_TRIES: Final = 100
BLOCK_S: Final = 20.0
"""How long a worker is wedged where there is a dashboard: long enough to find it, its task and its stack."""

Say = Callable[[str], None]


class DemoError(StemError):
    """The demo could not be shown; says what went wrong."""


class DemoInterruptedError(DemoError):
    """Somebody stopped the demo before there was anything to sum up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to show.

    Attributes:
        seconds: how long tasks are enqueued; None, with a dashboard: until it is closed.
        kill_after_s: when one worker gets SIGKILL.
        keep: leave the folder with ledgers and logs where it is.
    """

    seconds: float | None = 10.0
    workers: int = 3
    rate: float = 250.0
    kill_after_s: float = 3.0
    dashboard: bool = False
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened. `workers` counts the processes started, the replacement included."""

    verdict: Verdict
    workers: int
    elapsed_s: float
    interrupted: bool = False
    folder: Path | None = None

    def to_plain(self) -> dict[str, int | float]:
        rate = self.verdict.succeeded / self.elapsed_s if self.elapsed_s else 0.0
        return {
            **self.verdict.to_plain(),
            "workers": self.workers,
            "elapsed_s": round(self.elapsed_s, 2),
            "tasks_per_s": round(rate, 1),
        }


async def show(plan: Plan, say: Say) -> Report:
    """Run the demo in a temporary folder and clean up after it, however it ends.

    Raises:
        DemoError: it could not be shown, or was interrupted before there was anything to sum up.
    """
    folder = Path(tempfile.mkdtemp(prefix="stem-demo-"))
    try:
        (folder / "ledger").mkdir(mode=0o700)
        server = await asyncio.to_thread(EmbeddedServer.acquire, folder / ".stem")
        try:
            return await _Demo(plan, folder, server.url, say).run()
        except asyncio.CancelledError:  # the second Ctrl-C; by now nothing runs any more
            raise DemoInterruptedError("interrupted twice: stopped at once") from None
        finally:
            server.release()
    finally:
        if not plan.keep:
            shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    """One showing; belongs to its event loop."""

    def __init__(self, plan: Plan, folder: Path, url: str, say: Say) -> None:
        self._plan = plan
        self._folder = folder
        self._url = url
        self._say = say
        self._ledger: Ledger
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._stop = asyncio.Event()
        self._interrupted = False
        self._held: list[str] | None = None

    async def run(self) -> Report:
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(sign, self._interrupt, asyncio.current_task())
        self._ledger = Ledger(self._folder / "ledger")
        stem = Stem.connect(self._url, namespace=NAMESPACE)
        broker = connect_broker(self._url, namespace=NAMESPACE)
        try:
            controller = Controller(broker, actor="demo", timeout_s=2.0)
            for number in range(1, self._plan.workers + 1):
                self._start_worker(f"demo-{number}")
            await self._await_workers(controller)
            begun = time.monotonic()
            await self._show(stem, controller)
            await self._settle(broker, controller)
            elapsed_s = time.monotonic() - begun
            await self._stop_workers()
        finally:
            await stem.close()
            await broker.close()
            self._kill_workers()
            self._ledger.close()
        verdict = accounts.judge(accounts.read(self._folder / "ledger"))
        kept = self._folder if self._plan.keep else None
        return Report(
            verdict=verdict,
            workers=self._started,
            elapsed_s=elapsed_s,
            interrupted=self._interrupted,
            folder=kept,
        )

    def _interrupt(self, showing: asyncio.Task[Report] | None) -> None:
        """Stop in order; at the second signal at once."""
        if self._interrupted and showing is not None:
            showing.cancel()
        self._interrupted = True
        self._stop.set()

    async def _show(self, stem: Stem, controller: Controller) -> None:
        """Let the load, the operator, the killer and the dashboard run until it is time."""
        video_s = min(VIDEO_S, (self._plan.seconds or 60.0) / 3)
        block_s = BLOCK_S if self._plan.dashboard else 1.0
        # A worker that stands still holds the most: it would be the one that is killed.
        first_block_s = self._plan.kill_after_s + 2.0
        shop = Shop(
            stem, self._ledger, rate=self._plan.rate, video_s=video_s, block_s=block_s, first_block_s=first_block_s
        )
        parts = [
            asyncio.create_task(shop.run(self._stop), name="load"),
            asyncio.create_task(Operator(controller, shop, self._ledger).run(self._stop), name="operator"),
            asyncio.create_task(self._kill_one(), name="killer"),
        ]
        ending = asyncio.create_task(self._until_over(), name="ending")
        try:
            # A part that fails ends the demo at once, with its error.
            done, _ = await asyncio.wait([*parts, ending], return_when=asyncio.FIRST_EXCEPTION)
            self._stop.set()
            for part in done:
                part.result()
            await asyncio.gather(*parts)
        finally:
            self._stop.set()
            for part in (*parts, ending):
                part.cancel()
            await asyncio.gather(*parts, ending, return_exceptions=True)

    async def _until_over(self) -> None:
        if self._plan.dashboard:
            await self._dashboard()
        else:
            await wait_for(self._stop, self._plan.seconds or 10.0)
        self._stop.set()

    def _tell(self, text: str) -> None:
        """Say something now, or when the dashboard no longer owns the terminal."""
        if self._held is None:
            self._say(text)
        else:
            self._held.append(text)

    async def _dashboard(self) -> None:
        self._held = []
        try:
            await self._run_dashboard()
        finally:
            held, self._held = self._held, None
            for text in held:
                self._say(text)
        self._say("finishing what is under way")

    async def _run_dashboard(self) -> None:
        command = (sys.executable, "-m", "stem_tui", "--url", self._url, "--namespace", NAMESPACE)
        process = await asyncio.create_subprocess_exec(*command)
        closed = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(wait_for(self._stop, self._plan.seconds or 86_400.0))
        try:
            await asyncio.wait([closed, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if process.returncode is None:
                # A process that ended by itself meanwhile needs no signal.
                with suppress(ProcessLookupError):
                    process.terminate()
            await closed
        # One that was told to end before it listened ends by the signal itself.
        if process.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGHUP):
            raise DemoError(f"the dashboard ended with exit code {process.returncode}; try: stemctl demo --headless")

    async def _kill_one(self) -> None:
        if await wait_for(self._stop, self._plan.kill_after_s) or self._plan.workers < 2:
            return
        # One that is in the middle of something: to kill an idle one would show nothing.
        for _ in range(KILL_TRIES):
            busiest = accounts.at_work(accounts.read(self._folder / "ledger")).most_common(1)
            name = next((name for name, each in self._workers.items() if busiest and each.pid == busiest[0][0]), "")
            if name or await wait_for(self._stop, 0.02):
                break
        name = name or next(iter(self._workers))
        victim = self._workers.pop(name)
        victim.kill()
        self._ledger.write("killed", str(victim.pid))
        await asyncio.to_thread(victim.communicate)
        self._tell(f"killed worker {name} (process {victim.pid}) with SIGKILL; starting another one in its place")
        self._start_worker(name)

    # --------------------------------------------------------------------------------------------------------- workers

    def _start_worker(self, name: str) -> None:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("STEM_")},
            "STEM_BROKER_URL": self._url,
            "STEM_NAMESPACE": NAMESPACE,
            "STEM_WORKER_NAME": name,
            "STEM_VISIBILITY_TIMEOUT": LEASE,
            "STEM_HEARTBEAT_INTERVAL": HEARTBEAT,
            "STEM_LOG_FORMAT": "json",
            LEDGER_VARIABLE: str(self._folder / "ledger"),
        }
        queues = [part for queue in QUEUES for part in ("--queue", queue)]
        command = [
            sys.executable,
            "-m",
            "stemctl.demo.worker",
            "stemctl.demo.tasks:app",
            *queues,
            "--concurrency",
            "20",
        ]
        with (self._folder / f"{name}-{self._started}.log").open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which then stops its workers in order.
            self._workers[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._started += 1

    async def _await_workers(self, controller: Controller) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            self._check_workers()
            answer = await controller.ping()
            if answer.replied >= self._plan.workers:
                return
            if time.monotonic() > deadline:
                raise DemoError(f"only {answer.replied} of {self._plan.workers} workers are up after {READY_S:g} s")
            if await wait_for(self._stop, 0.05):
                raise DemoInterruptedError("interrupted before it began")

    def _start_again(self) -> None:
        """Start those anew that somebody stopped at the dashboard: what waits is to end all the same."""
        for name, process in list(self._workers.items()):
            if process.poll() in (0, 1):
                self._ledger.write("left", str(process.pid))
                process.communicate()
                self._start_worker(name)

    def _check_workers(self) -> None:
        for name, process in self._workers.items():
            if process.poll() is not None:
                log = max(self._folder.glob(f"{name}-*.log"), key=lambda path: path.stat().st_mtime)
                lines = log.read_text(errors="replace").splitlines()
                raise DemoError(f"worker {name} ended with {process.returncode}: {clean(lines[-1] if lines else '')}")

    async def _settle(self, broker: Broker, controller: Controller) -> None:
        """Wait until every acknowledged task has its end, as far as the ledger knows, or give up."""
        (self._folder / "ledger" / CLOSING).touch()
        deadline = time.monotonic() + SETTLE_S
        pause = asyncio.Event()
        if self._plan.dashboard:
            self._start_again()
            await aftermath.take_back(broker, controller)
        while True:
            lines = accounts.read(self._folder / "ledger")
            if self._plan.dashboard:
                await aftermath.enter(broker, self._ledger, lines)
                lines = accounts.read(self._folder / "ledger")
            if not (missing := accounts.open_tasks(lines)):
                return
            self._check_workers()
            if time.monotonic() > deadline:
                self._say(f"{len(missing)} tasks have no end after {SETTLE_S:g} s, such as {missing[0]}")
                return
            await wait_for(pause, 0.2)

    async def _stop_workers(self) -> None:
        for process in self._workers.values():
            process.terminate()
        for name, process in self._workers.items():
            try:
                await asyncio.to_thread(process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                raise DemoError(f"worker {name} did not stop within {STOP_S:g} s") from None

    def _kill_workers(self) -> None:
        for process in self._workers.values():
            if process.poll() is None:
                process.kill()
            process.communicate()
