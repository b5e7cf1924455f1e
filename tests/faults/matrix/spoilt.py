"""Bytes that change on their way: one in ten thousand, in both directions, on every wire. Tasks are signed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import uuid
from typing import Final

from stem.client import Stem
from stem.config import StemConfig
from stem.errors import BrokerError, TaskConflictError
from stem.signing import SigningConfig
from tests.faults.chaos import ChaosProxy
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.lost import tracebacks
from tests.faults.matrix.sealed import seal
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.faults.rules import Fault
from tests.waiting import eventually

EVERY: Final = 10_000
KEY: Final = b"0123456789abcdef0123456789abcdef"
KEYS: Final = f"k1:{base64.b64encode(KEY).decode()}"
SIGNING: Final = SigningConfig(keys={"k1": KEY})
LEASE: Final = "5s"
PRODUCERS: Final = 4


@family("T-F9", "one byte in 10 000 changed, both directions", share_s=90, full_s=900)
async def changed_bytes(stage: Stage) -> list[Row]:
    return [await _once(stage, number) for number in range(stage.times(full=3, share=1))]


async def _once(stage: Stage, number: int) -> Row:
    """Workers and half of the producers stand behind a wire that changes bytes; the other producers do not."""
    tasks = stage.times(full=2_000, share=400)
    server = stage.server(aof=False)
    async with (
        ChaosProxy(server.url, server.folder / "w", seed=stage.seed + number) as wire,
        ChaosProxy(server.url, server.folder / "p", seed=stage.seed + number) as producers_wire,
    ):
        env = {"STEM_BROKER_URL": wire.url, "STEM_VISIBILITY_TIMEOUT": LEASE, "STEM_SIGNING_KEYS": KEYS}
        world = await stage.world(server.url, workers=0, beat_s=0.4, concurrency=8, **env)
        await world.workers("w1", "w2", "w3", app="tests.faults.matrix.sealed:app")
        fault, producers_fault = Fault(corrupt_every=EVERY), Fault(corrupt_every=EVERY)
        async with world.disturbed(after_s=10.0):
            with wire.having(fault), producers_wire.having(producers_fault):
                await asyncio.gather(
                    *(
                        _produce(world, tasks // PRODUCERS, (world.url, producers_wire.url)[n % 2], stage.seed + n)
                        for n in range(PRODUCERS)
                    )
                )
                await _mostly_done(world, tasks)
        spoilt = _met(world, fault, producers_fault)
        verdict = await judge(world, forgiven=spoilt, counts=False, keys=False)
        requests = _met(world, producers_fault)
        # A request that was changed may have put its task into a queue of another name, where nobody looks.
        verdict.violations = [text for text in verdict.violations if not text.startswith("left in ")]
        (queue,) = await world.broker.census.queues(["default"])
        verdict.expect(queue.ready == queue.in_flight == queue.retrying == queue.delayed == 0, f"{queue} is not empty")
        lost = await _not_ended(world, spoilt - requests)
        verdict.lost |= lost
        verdict.violations += [f"{task_id} is lost, and its producer's wire changed nothing of it" for task_id in lost]
        verdict.violations += tracebacks(world.fleet)
        for worker in world.fleet:
            code = worker.process.poll()
            verdict.expect(code is None, f"{worker.name} ended with {code}: {worker.log()[-500:]}")
        changed = wire.corrupted + producers_wire.corrupted
        verdict.expect(changed > 0, "not a byte was changed")
        wrong = verdict.account.ids("failed")
        verdict.expect(not wrong, f"ran with other arguments than were signed: {sorted(wrong)[:5]}")
        verdict.tasks = len(verdict.account.ids("acked"))
        misled = len(await _not_ended(world, requests, within_s=0.5))
        buried = len(verdict.account.ids("final:failed"))
        note = f"{buried} dead letters with a changed body; {misled} whose own request was changed never came"
        return stage.row(verdict, injected=f"{changed} bytes", note=note)


def _met(world: FaultWorld, *faults: Fault) -> set[str]:
    """Return the tasks whose id stands in something that was changed."""
    ids = world.ledger.read().ids("tried")
    return {task_id for fault in faults for chunk in fault.spoilt for task_id in ids if task_id.encode() in chunk}


async def _not_ended(world: FaultWorld, ids: set[str], *, within_s: float = 15.0) -> set[str]:
    """Return those of the acknowledged tasks that no worker has ended, and of which no record says that they ended."""
    account = world.ledger.read()
    left = ids & account.ids("acked") & account.lost()

    async def all_ended() -> bool:
        rows = await world.broker.statuses(sorted(left), timeline=False)
        left.difference_update(status.id for status in rows if status is not None and status.state.final)
        return not left

    with contextlib.suppress(AssertionError):
        await eventually(all_ended, within_s)
    return left


async def _produce(world: FaultWorld, count: int, url: str, seed: int) -> None:
    """Enqueue signed tasks; whatever is not certain is asked again with the same id, a few times."""
    chance, ledger = random.Random(seed), world.ledger
    config = StemConfig(signing=SIGNING)
    async with Stem.connect(url, namespace=world.namespace, config=config, patience=3.0) as stem:
        for _ in range(count):
            task_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            ledger.write("tried", task_id)
            for _ in range(5):
                try:
                    answer = await stem.enqueue("fault.sealed", {"text": seal(task_id)}, task_id=task_id)
                except TaskConflictError:
                    break  # an earlier try arrived with other bytes in it
                except BrokerError:
                    continue
                assert answer == task_id, f"{answer} was acknowledged for {task_id}"
                ledger.write("acked", task_id)
                break
            else:
                ledger.write("unknown", task_id)


async def _mostly_done(world: FaultWorld, tasks: int) -> None:
    """Wait for the greater part of the work, so that it happens under the fault; what is left ends without it."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: len(world.ledger.read().ids("done", "final:failed")) >= tasks * 0.9, 30.0)
