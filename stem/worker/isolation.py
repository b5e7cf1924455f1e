"""Which tasks want a child process, whether one could run them, and what children are told first; and how many of them,
of threads and of slots a worker has."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from stem.errors import ConfigError
from stem.registry import Registered, TaskRegistry
from stem.worker import host, logs
from stem.worker.lifecycle import WorkerLifecycleConfig
from stem.worker.reference import load

log = logging.getLogger("stem.worker")

ASYNC_SLOTS_PER_CORE: Final = 10
LEAST_THREADS: Final = 4


def kind_of(registered: Registered) -> str:
    """Return where it runs: `async`, `thread` or `process`."""
    return "process" if registered.options.isolation == "process" else registered.kind


def check(registry: TaskRegistry, app: str | None, lifecycle: WorkerLifecycleConfig) -> None:
    """See that child processes could run the tasks that want one.

    Raises:
        ConfigError: no application is named, it cannot be imported, or it has no such task.
    """
    wanting = [name for name in registry.names() if kind_of(registry.get(name)) == "process"]
    if not wanting and (lifecycle.max_tasks_per_child is not None or lifecycle.max_memory_per_child is not None):
        hint = "max_tasks_per_child and max_memory_per_child concern child processes, and no task here asks for one"
        log.warning("worker.no_children", extra={"hint": hint})
    if app is None:
        if wanting:
            raise ConfigError(
                f"task {wanting[0]} wants isolation='process', and a child process has to import the application: "
                "give Worker(app='package.module:attribute'), or use stem-worker"
            )
        return
    if not wanting:
        return
    if app.partition(":")[0] == "__main__":
        raise ConfigError(f"app={app!r}: a child process cannot import __main__: move the tasks to a module")
    known = load(app).registry
    for name in wanting:
        if name not in known or kind_of(known.get(name)) != "process":
            raise ConfigError(
                f"task {name} wants isolation='process', and the application at {app} has no such task: register it "
                "where the module is imported, for a child process sees nothing else"
            )


def sizes(registry: TaskRegistry, concurrency: int | None) -> tuple[int, int, int]:
    """Return how many slots, threads and child processes a worker has.

    Raises:
        ConfigError: fewer than one is asked for.
    """
    if concurrency is not None:
        if concurrency < 1:
            raise ConfigError(f"concurrency={concurrency}: give at least 1")
        return concurrency, concurrency, concurrency
    cores = host.cores()
    threads = max(LEAST_THREADS, cores)
    kinds = {kind_of(registry.get(name)) for name in registry.names()}
    slots = max(ASYNC_SLOTS_PER_CORE * cores, threads)
    if kinds == {"process"}:
        slots = cores
    elif kinds <= {"thread", "process"} and kinds:
        slots = threads
    return slots, threads, cores


def hello(worker_id: str, worker_name: str) -> dict[str, Any]:
    """Return what each child is told first."""
    told: dict[str, Any] = {"worker": worker_id, "name": worker_name, "path": [str(path) for path in sys.path]}
    if logs.installed is not None:
        style, level, worker = logs.installed
        told |= {"log_style": style, "log_level": level, "log_worker": worker}
    return told
