"""Real worker processes to start, kill, freeze and stop; and the world around them: client, controller, ledger.

No process outlives its test: `Fleet.close` kills what is left, frozen or not, and waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stem.client import Stem
from stem.config import StemConfig
from stem.contracts import Broker, Seen
from stem.control.controller import Controller
from stem.messages.status import TaskState, TaskStatus
from stem.options import Duration, TaskOptions
from tests.faults.ledger import LEDGER_VARIABLE, PARENT_VARIABLE, Ledger
from tests.waiting import eventually, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
APP: Final = "tests.faults.app:app"
READY_S: Final = 60.0
BEAT_S: Final = 0.4
LEASE_S: Final = 1.5


class WorkerProcess:
    """One `stem-worker` process; what it says on stderr goes to a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.id = ""
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def tracebacks(self) -> list[str]:
        """Return the lines of the log that hold one: a well-behaved worker writes none."""
        return [line for line in self.log().splitlines() if "Traceback" in line]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop it where it stands, and return once every thread of it has stopped."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: _thread_states(self.pid) <= {"T"}, what=f"worker {self.name} is frozen")

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill9(self) -> None:
        """Kill it with SIGKILL and wait for it."""
        self.process.kill()
        self.process.wait()

    async def exit_code(self, timeout: float = 15.0) -> int:
        """Wait for its end and return the exit code; negative is a signal."""
        try:
            await eventually(lambda: not self.running, timeout, what=f"the end of worker {self.name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-3000:]}") from None
        return self.process.returncode


class Fleet:
    """The workers of one test, on one server and namespace.

    Args:
        env: further `STEM_*` settings of every worker.
    """

    def __init__(self, *, url: str, namespace: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.url = url
        self.namespace = namespace
        self.folder = folder
        self._env = dict(env or {})
        self._workers: list[WorkerProcess] = []

    def __iter__(self) -> Any:
        return iter(self._workers)

    def spawn(
        self,
        name: str,
        *,
        queues: Sequence[str] = ("default",),
        concurrency: int = 8,
        env: Mapping[str, str] | None = None,
        app: str = APP,
        options: Sequence[str] = (),
    ) -> WorkerProcess:
        """Start a worker and return without waiting for it."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("STEM_")},
            "STEM_HEARTBEAT_INTERVAL": f"{round(BEAT_S * 1000)}ms",
            "STEM_VISIBILITY_TIMEOUT": f"{round(LEASE_S * 1000)}ms",
            "STEM_BROKER_URL": self.url,
            "STEM_NAMESPACE": self.namespace,
            "STEM_WORKER_NAME": name,
            "STEM_LOG_FORMAT": "json",
            LEDGER_VARIABLE: str(self.folder / "ledger"),
            PARENT_VARIABLE: str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            **self._env,
            **(env or {}),
        }
        command = [sys.executable, "-m", "stem.worker.cli", app, "--concurrency", str(concurrency), *options]
        for queue in queues:
            command += ["--queue", queue]
        path = self.folder / f"{len(self._workers)}-{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=ROOT
            )
        worker = WorkerProcess(name, process, path)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """Kill every worker that is left and wait for it."""
        for worker in self._workers:
            if worker.running:
                worker.process.kill()
        for worker in self._workers:
            worker.process.wait(10)


class World:
    """Everything one test needs: a fleet, a client, a controller and a ledger on one server and namespace."""

    def __init__(self, *, url: str, namespace: str, folder: Path, beat_s: float = BEAT_S, **env: str) -> None:
        self.url = url
        self.namespace = namespace
        beat = {"STEM_HEARTBEAT_INTERVAL": f"{round(beat_s * 1000)}ms"}
        self.fleet = Fleet(url=url, namespace=namespace, folder=folder, env=beat | env)
        self.ledger = Ledger(folder / "ledger")
        self.stem = Stem.connect(url, namespace=namespace, config=StemConfig(heartbeat_interval_s=beat_s))
        self.controller = Controller(self.stem.broker, actor="tests", timeout_s=5.0)
        self._folder = folder

    @property
    def broker(self) -> Broker:
        return self.stem.broker

    async def close(self) -> None:
        self.fleet.close()
        await self.stem.close()
        self.ledger.close()

    # ------------------------------------------------------------------------------------------------------- workers

    async def worker(self, name: str = "w1", **options: Any) -> WorkerProcess:
        """Start a worker and wait until it takes work."""
        return (await self.workers(name, **options))[0]

    async def workers(self, *names: str, **options: Any) -> list[WorkerProcess]:
        """Start workers together and wait until all take work."""
        started = [self.fleet.spawn(name, **options) for name in names]
        for worker in started:
            await self.ready(worker)
        return started

    async def ready(self, worker: WorkerProcess) -> None:
        """Wait until the broker has heard from a worker that it runs."""

        async def there() -> bool:
            if not worker.running:
                raise AssertionError(
                    f"worker {worker.name} ended with {worker.process.returncode}:\n{worker.log()[-3000:]}"
                )
            seen = [one for one in await self.broker.presence.workers() if one.heartbeat.pid == worker.pid]
            if seen and seen[-1].heartbeat.state == "running":
                worker.id = seen[-1].heartbeat.id
            return bool(worker.id)

        try:
            await eventually(there, READY_S, what=f"worker {worker.name} is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{worker.log()[-3000:]}") from None

    async def seen(self, worker: WorkerProcess) -> Seen:
        """Return the newest heartbeat of a worker."""
        (found,) = [one for one in await self.broker.presence.workers() if one.heartbeat.id == worker.id]
        return found

    # --------------------------------------------------------------------------------------------------------- tasks

    async def enqueue(self, name: str, *, queue: str = "default", lease: Duration | None = None, **options: Any) -> str:
        """Enqueue one task and write into the ledger that it was acknowledged.

        Args:
            options: those of `Stem.enqueue`; what is none of them is an argument of the task.
        """
        known = {"delay", "eta", "expires", "priority", "unique_key", "task_id"}
        chosen = TaskOptions(queue=queue) if lease is None else TaskOptions(queue=queue, visibility_timeout=lease)
        args = {key: value for key, value in options.items() if key not in known}
        rest = {key: value for key, value in options.items() if key in known}
        task_id = await self.stem.enqueue(f"fault.{name}", args, options=chosen, **rest)
        self.ledger.write("acked", task_id)
        return task_id

    async def enqueue_some(self, count: int, name: str, **options: Any) -> list[str]:
        """Enqueue several alike."""
        return list(await asyncio.gather(*(self.enqueue(name, **options) for _ in range(count))))

    async def started(self, *task_ids: str, timeout: float = 10.0) -> None:
        """Wait until the ledger has a start of each of these."""
        await self.ledger.wait_for("start", task_ids, timeout=timeout)

    async def state(self, task_id: str) -> TaskState:
        """Return the state that the record holds."""
        return (await self.stem.status(task_id)).state

    async def reaches(self, task_id: str, state: TaskState, *, timeout: float = 10.0) -> TaskStatus:
        """Wait until the record of a task holds this state; return its status."""

        async def there() -> TaskStatus | None:
            status = await self.stem.status(task_id)
            return status if status.state is state else None

        status = await eventually(there, timeout, what=f"{task_id} is {state.value}")
        assert status is not None
        return status

    async def all_final(self, task_ids: Sequence[str], *, timeout: float = 15.0) -> list[TaskStatus]:
        """Wait until every one of these has a final state; return their statuses in order."""

        async def there() -> list[TaskStatus]:
            found: list[TaskStatus | None] = []
            for first in range(0, len(task_ids), 500):
                found += await self.broker.statuses(task_ids[first : first + 500], timeline=False)
            final = [status for status in found if status is not None and status.state.final]
            return final if len(final) == len(task_ids) else []

        return await eventually(there, timeout, what=f"{len(task_ids)} tasks are final")

    async def nothing_in_flight(self, *, timeout: float = 10.0) -> None:
        """Wait until no queue has a delivery out (I6)."""

        async def quiet() -> bool:
            return all(row.in_flight == 0 for row in await self.broker.census.queues())

        await eventually(quiet, timeout, what="nothing is in flight")

    # ------------------------------------------------------------------------------------------------------- stemctl

    async def stemctl(self, *words: str, timeout: float = 20.0) -> tuple[int, str, str]:
        """Run `stemctl` on this world; return exit code, stdout and stderr."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STEM_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys; from stemctl.main import main; sys.exit(main())",
            *words,
            "--url",
            self.url,
            "--namespace",
            self.namespace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | {"STEM_HEARTBEAT_INTERVAL": "400ms"},
            cwd=ROOT,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"stemctl {' '.join(words)} did not end within {timeout} s") from None
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def _thread_states(pid: int) -> set[str]:
    """Return the states of a process's threads as /proc has them; empty where there is no /proc."""
    states = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            states.add(path.read_text().rpartition(")")[2].split()[0])
    return states


def now_ns() -> int:
    """Return the clock of the ledger."""
    return time.monotonic_ns()
