"""What a task that waits takes of the server's memory."""

from __future__ import annotations

from typing import Final

from benchmarks.bench import Bench
from benchmarks.rounds import round_of, say
from stem.messages.envelope import Envelope, new_task_id
from stem.sync import SyncStem

BODY: Final = 300
TASKS: Final = 30_000
TASK: Final = "email.send"


def queued(bench: Bench) -> None:
    """Fill a queue with tasks whose body has 300 bytes."""
    stem = next(each for each in bench.ours() if each.label == "stem")
    count, payload = bench.count(TASKS), _payload()
    with round_of(stem) as here, SyncStem.connect(here.server.url) as client:
        client.enqueue(TASK, payload)
        before = here.server.usage()
        for first in range(0, count, 500):
            client.enqueue_many([(TASK, payload)] * min(500, count - first))
        each = (here.server.usage().memory_bytes - before.memory_bytes) / count
    bench.result.add("queued-300", label="stem", name="stem", variant="", value=each)
    say(f"memory: {each:.0f} B per queued task with a body of {BODY} B")


def _payload() -> dict[str, str]:
    """Return arguments that make a body of that size."""

    def size(args: dict[str, str]) -> int:
        return len(Envelope(id=new_task_id(), task=TASK, args=args, produced_at_ms=2**40).encode())

    return next(args for length in range(BODY) if size(args := {"payload": "x" * length}) == BODY)
