"""Ten virtual days of bursting with everything that goes wrong: ``python -m benchmarks.soak``.

Jobs are submitted and cancelled at random, the controller dies before and after its acts, types
have no capacity, nodes come late or never, requests fail half-way, somebody drains a node. At
the end it says what it counted, and whether

- every job has ended: those that were told that they never will have been cancelled,
- nothing is rented that the ledger does not know, and nothing at all once the queue is empty,
- the bill of the provider, counted by the second on its side, is what the ledger says, to the cent,
  and within the budget of each period.

The clock is virtual; it takes some minutes for ten days.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "burst"))

from burst_site import OWN, World, slots_of

from flux_flex.burst.config import Limits
from flux_flex.host.instance import JobState

DAY_S = 86_400.0
STEP_S = 30.0
LIMITS = Limits(nodes=12, cost_per_hour=60.0, budget=400.0, period=2 * DAY_S, per_user=8)


class Weather:
    """What goes wrong, at random, and is mended again."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.counts: Counter[str] = Counter()

    def change(self) -> None:
        rng, world = self.rng, self.world
        if rng.random() < 0.02:
            world.provider.no_capacity = set(rng.sample(["small", "big"], rng.randint(0, 2)))
            self.counts["changes of capacity"] += 1
        if rng.random() < 0.01:
            world.provider.broken = rng.choice(["", "", "", "the API said no, after it began"])
        if rng.random() < 0.01:
            hosts = [host for slot in world.slots for host in slot.hosts]
            world.late = set(rng.sample(hosts, rng.choice([0, 0, 0, 1, 3])))
        if rng.random() < 0.02:
            # In the next calls and writes, somewhere.
            world.crash_at = len(world.points) + rng.randint(0, 6)
        for provider in [*world.controller.ledger.book.protected]:
            if rng.random() < 0.02:  # somebody has looked, and does not crash
                world.crash_at = None
                world.controller.ledger.reset(provider)
                self.counts["resets of protected mode"] += 1


class Users:
    """They submit, and change their minds."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.jobs: list[int] = []
        self.counts: Counter[str] = Counter()

    def act(self) -> None:
        rng, world = self.rng, self.world
        if rng.random() < 0.04 and world.instance.waiting() < 12:
            nodes = rng.choice([1, 1, 2, 3, 4, 4, 6])
            duration_s = rng.choice([120.0, 600.0, 1800.0, 7200.0])
            held = {"flex": {"held": True}} if rng.random() < 0.3 else {}
            self.jobs.append(
                world.submit(
                    nodes, duration_s, user=rng.choice(["ada", "bob", "eve"]),
                    urgency=0 if held else 16, attributes=held,
                )
            )  # fmt: skip
            self.counts["submitted"] += 1
        if rng.random() < 0.004:
            waiting = world.instance.jobs(JobState.SCHED)
            if waiting:
                world.instance.cancel(rng.choice(waiting).jobid)
                self.counts["cancelled"] += 1


class Meter:
    """The provider's own bill: what exists, by the step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.price = {one.name: one.price_per_hour_usd for one in world.provider.types()}
        self.bills: list[tuple[float, float]] = []

    def tick(self) -> None:
        rented = self.world.provider.rented.values()
        usd = sum(rental.nodes * self.price[rental.type] for rental, _ in rented) * STEP_S / 3600
        self.bills.append((self.world.instance.now(), usd))

    @property
    def most_in_a_period(self) -> float:
        """The dearest stretch of one period."""
        most, running, first = 0.0, 0.0, 0
        for now_s, usd in self.bills:
            running += usd
            while self.bills[first][0] <= now_s - LIMITS.period:
                running -= self.bills[first][1]
                first += 1
            most = max(most, running)
        return most


def soak(days: float, seed: int) -> list[str]:
    """Run it, print what was counted; what went against the promises."""
    rng = random.Random(seed)
    world = World(
        slots=[*slots_of("small", 2, 4), *slots_of("big", 2, 4)], limits=LIMITS,
        # As a site reckons that wants no surprise: nodes come at the last moment, and go slowly.
        boot_s=600.0, release_s=180.0,
    )  # fmt: skip
    users, weather, meter = Users(world, rng), Weather(world, rng), Meter(world)
    most_nodes, began = 0, time.monotonic()
    while world.instance.now() < 1_000_000 + days * DAY_S:
        users.act()
        weather.change()
        world.run(STEP_S, every_s=STEP_S)
        meter.tick()
        most_nodes = max(most_nodes, sum(r.nodes for r, _ in world.provider.rented.values()))
    _calm(world, meter)
    book = world.controller.ledger.book
    told = book.spent_usd(0.0, world.instance.now())
    paid = sum(usd for _, usd in meter.bills)
    states = Counter(job.state.value for job in world.instance.jobs())
    print(f"{days:g} virtual days in {time.monotonic() - began:.0f} s, seed {seed}")
    print(f"jobs       {dict(users.counts)}, now {dict(states)}")
    print(f"bursts     {world.provider.rents} rented, {len(book.past)} in the ledger")
    print(f"faults     {world.crashes} crashes, {dict(weather.counts)}")
    print(f"nodes      {most_nodes} at once at the most (limit {LIMITS.nodes})")
    print(f"dollars    {paid:.2f} by the provider's meter, {told:.2f} by the ledger")
    print(f"           {meter.most_in_a_period:.2f} in the dearest period (budget {LIMITS.budget})")
    return list(_broken_promises(world, meter, most_nodes, told, paid))


def _calm(world: World, meter: Meter) -> None:
    """The weather is fine again, nobody submits, and all that waits may run or be cancelled."""
    world.crash_at, world.late, world.provider.broken = None, set(), ""
    world.provider.no_capacity = set()
    for _ in range(2):
        for provider in [*world.controller.ledger.book.protected]:
            world.controller.ledger.reset(provider)
        end_s = world.instance.now() + 4 * DAY_S
        while world.instance.now() < end_s and not world.over:
            world.run(STEP_S, every_s=STEP_S)
            meter.tick()
            _resign(world)


def _resign(world: World) -> None:
    """Who reads that a job can never burst takes it back, if it cannot run here either."""
    for job in world.instance.jobs(JobState.SCHED):
        wanted = world.instance.jobspec(job.jobid)["resources"][0]["count"]
        if world.verdict(job.jobid).startswith("impossible: ") and wanted > OWN:
            world.instance.cancel(job.jobid)


def _broken_promises(world: World, meter: Meter, most_nodes: int, told: float, paid: float):
    waiting = world.instance.jobs(JobState.SCHED)
    for job in waiting:
        yield f"job {job.jobid} waits: {job.memo.get('flex.burst', 'it was told no reason')}"
    if world.instance.jobs(JobState.RUN):
        yield "jobs still run"
    if world.provider.rented or world.controller.ledger.book.bursts:
        yield f"still rented: {sorted(world.provider.rented)}"
    if most_nodes > (LIMITS.nodes or math.inf):
        yield f"{most_nodes} nodes at once"
    if meter.most_in_a_period > (LIMITS.budget or math.inf) + 0.005:
        yield f"${meter.most_in_a_period:.2f} in one period"
    if paid > told + 0.005:
        yield f"the provider counted ${paid - told:.2f} more than the ledger"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # all that is told here goes wrong on purpose
    broken = soak(options.days, options.seed)
    for line in broken:
        print(f"BROKEN     {line}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
