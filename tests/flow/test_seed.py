"""docs/seed.md names what is there; and two lines of it that no other test shows."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from dataclasses import fields, is_dataclass
from typing import Any, Final

import pytest

from stem import (
    InMemoryBroker,
    InMemoryResultBackend,
    Stem,
    StemConfig,
    StemSignals,
    Worker,
    WorkerLifecycleConfig,
)
from tests.flow.running import ROOT
from tests.waiting import eventually

PAGE: Final = (ROOT / "docs/seed.md").read_text("utf-8")
ROWS: Final = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in re.findall(r"^\| .+\|$", PAGE, re.MULTILINE)
    if not line.startswith("| the guide |")
]
NAMES: Final = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[1])})
TESTS: Final = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[2])})


def found(dotted: str) -> Any:
    """Return what a dotted name of the package stands for: a class, a method, or a module's class."""
    thing: Any = importlib.import_module("stem")
    for part in dotted.split(".")[1:]:
        if inspect.ismodule(thing) and not hasattr(thing, part):
            thing = importlib.import_module(f"{thing.__name__}.{part}")
        elif hasattr(thing, part) or part not in annotated(thing):
            thing = getattr(thing, part)
        else:
            thing = annotated(thing)[part]
    return thing


def annotated(thing: Any) -> dict[str, Any]:
    """Return the attributes that a class or protocol only declares."""
    return {
        name: kind for each in getattr(thing, "__mro__", ()) for name, kind in inspect.get_annotations(each).items()
    }


def parameters(thing: Any) -> set[str]:
    if is_dataclass(thing):
        return {each.name for each in fields(thing)}
    return set(inspect.signature(thing).parameters)


def test_each_row_names_something_and_a_test() -> None:
    assert len(ROWS) >= 60
    for row in ROWS:
        assert len(row) == 3, row
        assert "`" in row[1], row
        assert "::" in row[2], row


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there(name: str) -> None:
    if name.startswith(("examples/", "docs/")):
        assert (ROOT / name).is_file()
    elif name.startswith("STEM_"):
        assert f'"{name}"' in (ROOT / "stem/config.py").read_text("utf-8")
    else:
        match = re.fullmatch(r"(stem(?:\.\w+)+)(?:\((\w+)\))?", name)
        assert match, "write it as stem.Name, or stem.Name(option)"
        thing = found(match[1])
        assert match[2] is None or match[2] in parameters(thing)


@pytest.mark.parametrize("name", TESTS)
def test_each_test_is_there(name: str) -> None:
    path, _, function = name.partition("::")

    assert re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("missing", ["stem.Nothing", "stem.Stem.nothing", "stem.Worker(nothing)", "STEM_NOTHING"])
def test_a_name_that_is_not_there_is_noticed(missing: str) -> None:
    with pytest.raises((AssertionError, AttributeError, ModuleNotFoundError)):
        test_each_name_is_there(missing)


async def test_an_embedded_worker_drains_and_its_life_is_signalled() -> None:
    """`shutdown()` lets what runs come to its end; init, ready, heartbeats, stopping and shutdown are told in order."""
    app = Stem(broker=InMemoryBroker(), backend=InMemoryResultBackend())
    began, may_end = asyncio.Event(), asyncio.Event()

    @app.task("t")
    async def handler() -> str:
        began.set()
        await may_end.wait()
        return "finished"

    said: list[str] = []
    connections = [
        StemSignals.on_worker_init(lambda event, context: said.append("init")),
        StemSignals.on_worker_ready(lambda event, context: said.append("ready")),
        StemSignals.on_worker_heartbeat(lambda event, context: said.append("beat")),
        StemSignals.on_worker_stopping(lambda event, context: said.append(f"stopping {event.mode}")),
        StemSignals.on_worker_shutdown(lambda event, context: said.append(f"shutdown {event.exit_code}")),
    ]
    worker = Worker(
        broker=app.broker,
        registry=app.registry,
        backend=app.backend,
        config=StemConfig(heartbeat_interval_s=0.2),
        lifecycle=WorkerLifecycleConfig(drain_timeout=20),
    )
    try:
        await worker.start()
        task_id = await app.enqueue("t")
        await began.wait()
        await eventually(lambda: "beat" in said)
        stopping = asyncio.create_task(worker.shutdown())
        await eventually(lambda: "stopping warm" in said)
        assert not stopping.done()
        may_end.set()
        await stopping

        assert (await app.status(task_id)).result == "finished"
        life = [each for each in said if each != "beat"]
        assert life == ["init", "ready", "stopping warm", "shutdown 0"]
    finally:
        may_end.set()
        await worker.shutdown()
        for connection in connections:
            connection.disconnect()
        await app.close()


async def test_a_worker_runs_as_many_at_once_as_its_concurrency_says() -> None:
    app = Stem(broker=InMemoryBroker())
    running: list[int] = []
    seen: list[int] = []
    may_end = asyncio.Event()

    @app.task("t")
    async def handler(number: int) -> None:
        running.append(number)
        seen.append(len(running))
        await may_end.wait()
        running.remove(number)

    worker = Worker(broker=app.broker, registry=app.registry, concurrency=3)
    await worker.start()
    try:
        ids = await app.enqueue_many([("t", {"number": number}) for number in range(8)])
        await eventually(lambda: len(running) == 3)
        may_end.set()
        for task_id in ids:
            await app.wait_for(task_id, timeout=20)

        assert max(seen) == 3
    finally:
        may_end.set()
        await worker.shutdown()
        await app.close()
