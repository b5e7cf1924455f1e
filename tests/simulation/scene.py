"""What a seed decides before anything runs: the fleet, the load, the faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.simulation.network import Weather
from tests.simulation.node import WorkerPlan

Profile = Literal["storm", "calm", "lossy", "crash", "freeze"]
"""`storm`: everything at once. `calm`: no fault. `lossy`: calls get lost, nobody dies. `crash`: one worker is killed.
`freeze`: workers stand still, for longer than a lease."""

QUEUES: Final = ("alpha", "beta")


@dataclass(slots=True, kw_only=True)
class Scene:
    """What the seed decides before anything runs."""

    plan: WorkerPlan
    workers: int
    producers: int
    tasks: int
    load_s: float
    faults: int
    weather: Weather = field(default_factory=Weather)
    operator: bool = False


def profile_of(seed: int) -> Profile:
    """Return the profile that a seed is played with where nobody chose one: half of them are storms."""
    return ("storm", "calm", "storm", "freeze", "storm", "lossy", "storm", "freeze", "storm", "crash")[seed % 10]


def scene(rng: random.Random, profile: Profile) -> Scene:
    lease_s = rng.choice([1.0, 2.0, 2.0, 5.0])
    plan = WorkerPlan(
        queues=QUEUES,
        concurrency=rng.choice([1, 2, 4, 8]),
        lease_s=lease_s,
        interval_s=rng.choice([0.3, 0.5, 1.0]),
        drain_s=3.0,
        wedged_s=rng.choice([2.5, 6.0, 60.0]) if profile == "storm" else 60.0,
    )
    tasks = rng.randint(10, 30)
    load_s = lease_s * rng.uniform(2.0, 4.0)
    if profile == "calm":
        return Scene(plan=plan, workers=rng.randint(1, 4), producers=2, tasks=tasks, load_s=load_s, faults=0)
    if profile == "lossy":
        plan.lease_s = 30.0
        weather = Weather(lost_reply=rng.choice([0.02, 0.1, 0.2]), lost_request=0.02, refused=0.02, false_wake=0.1)
        return Scene(
            plan=plan, workers=rng.randint(1, 3), producers=2, tasks=tasks, load_s=5.0, faults=0, weather=weather
        )
    if profile == "crash":
        plan.concurrency = 16
        return Scene(plan=plan, workers=rng.randint(2, 4), producers=1, tasks=tasks, load_s=load_s, faults=1)
    if profile == "freeze":
        plan.concurrency = rng.choice([4, 8])
        return Scene(plan=plan, workers=rng.randint(3, 4), producers=1, tasks=tasks, load_s=2 * load_s, faults=14)
    bad = rng.choice([0.0, 0.02, 0.05, 0.1])
    weather = Weather(
        lost_reply=bad * rng.random(),
        lost_request=bad * rng.random() / 2,
        refused=bad * rng.random() / 2,
        slow=bad * rng.random() / 2,
        false_wake=rng.choice([0.0, 0.1]),
        usual_s=rng.choice([0.0005, 0.002, 0.02]),
        slowest_s=3 * lease_s,
    )
    return Scene(
        plan=plan,
        workers=rng.randint(2, 4),
        producers=rng.randint(1, 2),
        tasks=tasks,
        load_s=load_s,
        faults=rng.randint(1, 8),
        weather=weather,
        operator=rng.random() < 0.5,
    )
