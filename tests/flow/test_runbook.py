"""Each symptom of docs/runbook.md is made with real servers and workers, and the page's commands are run on it.

`<!-- stage: NAME -->` in the page calls the function of this name here. The `text` block after a `sh` block holds lines
that its commands print; `…` stands for anything. `ID` is the last task id that was enqueued or printed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from stem import SyncStem, TaskOptions
from tests.conftest import OwnServer
from tests.flow.running import ROOT, environment, run, running
from tests.servers import Server
from tests.waiting import wait_until

PAGE: Final = ROOT / "docs/runbook.md"
PIECE: Final = re.compile(
    r"^<!-- stage: (?P<stage>\w+) -->$|"
    r"(?:^<!-- test: exit (?P<exit>\d+) [^\n]*-->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TASK_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
LOOKS: Final = (
    "ping",
    "health",
    "doctor",
    "audit ls",
    "why",
    "inspect",
    "queues ls",
    "tasks ls",
    "tasks show",
    "dlq ls",
    "dlq show",
    "workers",
)

APP: Final = """
import asyncio, os, time
from stem import Stem
app = Stem.connect()

@app.task("email.send")
async def send(to: str) -> str:
    return to

@app.task("report.build")
async def build(seconds: float = 600.0) -> None:
    await asyncio.sleep(seconds)

@app.task("report.block")
async def block() -> None:
    time.sleep(600)

@app.task("invoice.charge", max_retries=0)
async def charge(customer: str) -> None:
    raise ValueError("no such customer")
"""


class World:
    """The server, the workers and the folder that a section of the page is about."""

    def __init__(self, folder: Path, own_server: OwnServer, stack: ExitStack) -> None:
        self.folder = folder
        self.last_id = ""
        self._make = own_server
        self._stack = stack
        self.env: dict[str, str] = {}
        self.servers: list[Server] = []
        (folder / "tasks.py").write_text(APP)

    def server(self, *options: str, tcp: bool = False) -> Server:
        """Start a server; commands and workers from now on mean this one."""
        made = self._make(aof=True, tcp=tcp, options=("--maxmemory-policy", "noeviction", *options))
        self.servers.append(made)
        self.env = environment(
            STEM_BROKER_URL=made.url,
            STEM_HEARTBEAT_INTERVAL="500ms",
            STEM_VISIBILITY_TIMEOUT="2s",
            STEM_CONTROL_TIMEOUT="2s",
        )
        return made

    def worker(self, name: str = "web-1", *options: str) -> int:
        """Start a worker, wait until it answers, and return its process id."""
        command = ["stem-worker", "tasks:app", "--name", name, *options]
        program = self._stack.enter_context(running(command, env=self.env, folder=self.folder))

        def answers() -> bool:
            assert program.alive, program.errors
            return self.stemctl("ping", name).returncode == 0

        wait_until(answers, 20, what=f"worker {name} answers")
        shown = json.loads(self.stemctl("workers", "show", name, "--json").stdout)
        return int(shown["data"]["pid"])

    def stemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(["stemctl", *words], env=self.env, folder=self.folder)

    def enqueue(self, *words: str) -> str:
        """Enqueue a task; it becomes the one that the page calls ID."""
        done = self.stemctl("enqueue", *words)
        assert done.returncode == 0, done.stderr
        self.last_id = TASK_ID.findall(done.stdout)[0]
        return self.last_id

    def state(self, state: str) -> None:
        """Wait until the last task is in this state."""

        def shown() -> bool:
            return bool(
                json.loads(self.stemctl("tasks", "show", self.last_id, "--json").stdout)["data"]["state"] == state
            )

        wait_until(shown, 20, what=f"the task is {state}")


# ------------------------------------------------------------------------------------------------------------- stages


def well(world: World) -> None:
    world.server()
    world.worker()


def frozen(world: World) -> None:
    world.server()
    pid = world.worker()
    world.enqueue("report.build")
    world.state("running")
    os.kill(pid, signal.SIGSTOP)


def wedged(world: World) -> None:
    world.server()
    world.worker()
    world.enqueue("report.block")


def nobody(world: World) -> None:
    world.server()
    world.worker("web-1", "--concurrency", "1")
    for _ in range(3):
        world.enqueue("email.send", "to=a@example.com", "--queue", "reports")


def paused(world: World) -> None:
    assert world.stemctl("pause", "--queue", "default", "--reason", "maintenance").returncode == 0
    world.enqueue("email.send", "to=a@example.com")


def busy(world: World) -> None:
    world.enqueue("report.build")
    world.state("running")
    world.enqueue("email.send", "to=a@example.com")


def repeats(world: World) -> None:
    world.server()
    pid = world.worker("web-1")
    world.enqueue("report.build")
    world.state("running")
    world.worker("web-2")
    os.kill(pid, signal.SIGKILL)


def dead(world: World) -> None:
    world.server()
    world.worker()
    world.enqueue("invoice.charge", "customer=c1")
    world.state("failed")


def full(world: World) -> None:
    server = world.server()
    world.worker()
    world.enqueue("invoice.charge", "customer=c1")
    world.state("failed")
    with SyncStem.connect(server.url) as producer:
        for _ in range(50):
            producer.enqueue("import.row", args={"row": "x" * 1_000}, options=TaskOptions(queue="imports"))
    used = server.command("INFO", "memory")["used_memory"]
    server.command("CONFIG", "SET", "maxmemory", used)


def raised(world: World) -> None:
    world.servers[-1].command("CONFIG", "SET", "maxmemory", "100mb")


def replica(world: World) -> None:
    primary = world.server(tcp=True)
    for _ in range(3):
        world.enqueue("email.send", "to=a@example.com")
    follower = world.server("--replicaof", f"127.0.0.1 {primary.port}")

    def follows() -> bool:
        return bool(follower.command("INFO", "replication").get("master_link_status") == "up")

    wait_until(follows, 20, what="the replica follows")
    primary.kill9()


def promoted(world: World) -> None:
    world.servers[-1].command("REPLICAOF", "NO", "ONE")
    assert world.stemctl("pause", "--queue", "default").returncode == 0
    world.worker()


def away(world: World) -> None:
    server = world.server()
    world.worker()
    server.kill9()


def back(world: World) -> None:
    world.servers[-1].start()


STAGES: Final[dict[str, Callable[[World], None]]] = {
    stage.__name__: stage
    for stage in (
        well,
        frozen,
        wedged,
        nobody,
        paused,
        busy,
        repeats,
        dead,
        full,
        raised,
        replica,
        promoted,
        away,
        back,
    )
}

# ------------------------------------------------------------------------------------------------------------ the page


def sections() -> Iterator[tuple[str, str]]:
    """Return the page in the parts that stand for themselves, by their headings."""
    for part in re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE):
        yield part.partition("\n")[0].strip("# "), part


def follow(world: World, text: str) -> None:
    """Do what the section says."""
    pieces = list(PIECE.finditer(text))
    for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
        if piece["stage"]:
            STAGES[piece["stage"]](world)
        elif piece["kind"] == "sh":
            promised = after["text"].splitlines() if after is not None and after["kind"] == "text" else []
            commands(world, piece["text"].splitlines(), int(piece["exit"] or 0), promised)


def commands(world: World, lines: list[str], expected: int, promised: list[str]) -> None:
    """Run the lines; those that only look are repeated until they say what the page promises."""
    looking = all(line.removeprefix("stemctl ").startswith(LOOKS) for line in lines)
    said = ""

    def as_promised() -> bool:
        nonlocal said
        said, codes = "", []
        for line in lines:
            done = run(["bash", "-c", re.sub(r"\bID\b", world.last_id, line)], env=world.env, folder=world.folder)
            said += f"$ {line}\n{done.stdout}{done.stderr}=> {done.returncode}\n"
            codes.append(done.returncode)
            if found := TASK_ID.findall(done.stdout):
                world.last_id = found[-1]
        return set(codes) == {expected} and all(re.search(pattern(line), said) for line in promised)

    try:
        wait_until(as_promised, 20 if looking else 0, what="the page's promise")
    except AssertionError:
        pytest.fail(f"{said}\nwas to end with {expected} and to say:\n" + "\n".join(promised), pytrace=False)


def pattern(line: str) -> str:
    """Return the expression for a line of the page, where `…` stands for anything."""
    return r"[^\n]*".join(r"\s+".join(re.escape(word) for word in part.split()) for part in line.split("…"))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("title", [title for title, _ in sections()])
def test_commands_say_what_the_page_promises(title: str, tmp_path: Path, own_server: OwnServer) -> None:
    with ExitStack() as stack:
        follow(World(tmp_path, own_server, stack), dict(sections())[title])


def test_every_stage_is_on_the_page() -> None:
    assert set(re.findall(r"<!-- stage: (\w+) -->", PAGE.read_text("utf-8"))) == set(STAGES)
