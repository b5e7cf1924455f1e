"""Playing the state machine against one adapter by a seed."""

from __future__ import annotations

import io
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import ClassVar, Final

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import run_state_machine_as_test

from tests.model.stories import BrokerMachine
from tests.model.worlds import MemoryWorld, ServerWorld, World, virtual_clock
from tests.servers import Server, redis_server_path

ADAPTERS: Final = ("memory", "valkey", "redis70")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one adapter. `trace` is the shortest sequence that shows the violation, and its error."""

    adapter: str
    seed: int
    seen: Counter[str]
    seconds: float
    violations: int
    trace: str

    @property
    def summary(self) -> str:
        seen = dict(sorted(self.seen.items()))
        examples, steps = seen.pop("examples", 0), seen.pop("steps", 0)
        return (
            f"{self.adapter}: {examples} examples, {steps} steps, {self.violations} violations; seed {self.seed}, "
            f"{self.seconds:.0f} s\n  {', '.join(f'{what} {count}' for what, count in seen.items())}"
        )


def missing(adapter: str) -> str:
    """Say why an adapter cannot be played here; empty if it can."""
    return "redis-server is not on PATH" if adapter == "redis70" and redis_server_path() is None else ""


def play(adapter: str, examples: int, steps: int, seed: int, *, shrink: bool = True) -> Report:
    """Play so many sequences of so many calls; stop at the first violation, and look for a shorter one like it."""
    began, said = time.perf_counter(), io.StringIO()
    wanted = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.normal,
        print_blob=False,
    )
    trace = ""
    with _world_of(adapter) as opened, _no_files_left(), redirect_stdout(said):

        class Machine(BrokerMachine):
            open_world = staticmethod(opened)
            seen: ClassVar[Counter[str]] = Counter()

        try:
            run_state_machine_as_test(hypothesis.seed(seed)(Machine), settings=wanted)
        except Exception:
            trace = said.getvalue() + traceback.format_exc()
    return Report(
        adapter=adapter,
        seed=seed,
        seen=Machine.seen,
        seconds=time.perf_counter() - began,
        violations=1 if trace else 0,
        trace=trace,
    )


@contextmanager
def _world_of(adapter: str) -> Iterator[Callable[[], World]]:
    """Give what opens an empty world of this adapter, with a server of its own if it needs one."""
    if adapter == "memory":
        yield MemoryWorld
        return
    server = Server(kind="redis" if adapter == "redis70" else "valkey")
    try:
        server.start()
        with virtual_clock():
            yield lambda: ServerWorld(server)
    finally:
        server.remove()


@contextmanager
def _no_files_left() -> Iterator[None]:
    """Hypothesis keeps what it has read of the sources in a folder; let that be one which goes again."""
    with tempfile.TemporaryDirectory(prefix="stem-model-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)
