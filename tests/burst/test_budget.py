"""The budget holds whatever jobs ask for, whatever nodes cost, and whatever the ledger says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from burst_site import BIG, BOOT_S, OWN, TYPE, World, job_of, slots_of

from flux_flex.burst.config import Limits
from flux_flex.burst.ledger import fold
from flux_flex.burst.service import Service
from flux_flex.errors import FlexError
from flux_flex.host.instance import Event, JobState
from flux_flex.model.rv1 import ResourceSet


def plain(nodes: int, duration_s: float = 600.0) -> dict[str, Any]:
    """A job that may not burst."""
    spec = job_of(nodes, duration_s)
    spec["attributes"]["system"]["burstable"] = False
    return spec


def own_busy(world: World) -> None:
    """A job of ten days on all own nodes."""
    job = world.instance.submit(plain(OWN, 864000.0), urgency=31)
    world.instance.start(job, ResourceSet(tuple(world.targets[:OWN])).to_r())


def with_types(world: World, *types: Any) -> None:
    provider = world.settings.config.providers[0].model_copy(update={"types": types})
    config = world.settings.config.model_copy(update={"providers": (provider,)})
    world.settings = replace(world.settings, config=config)
    world.controller = world.started()


def spent(world: World) -> float:
    found = Service(world.controller).budget({})["spent"]
    assert isinstance(found, float)
    return found


# -- what cannot be reckoned with ------------------------------------------------------------------


def test_a_job_without_a_time_limit_that_waits_is_said_to_stand_in_the_way() -> None:
    world = World(limits=Limits(budget=1000.0))
    spec = plain(4)
    del spec["attributes"]["system"]["duration"]
    world.instance.submit(spec)
    job = world.submit(4)
    world.run(60)
    assert world.verdict(job) == (
        "deferred: the budget of $1,000.00 in 30d leaves $1,000.00, what it takes has no bound,"
        " as a job without a time limit waits, which could take its nodes"
    )


@pytest.mark.parametrize("duration_s", [1e300, 1.7e308])
def test_a_job_of_absurd_length_is_deferred(duration_s: float) -> None:
    world = World(limits=Limits(budget=100.0))
    job = world.submit(4, duration_s=duration_s)
    world.run(60)
    assert world.verdict(job).startswith("deferred: the budget of $100.00")


def test_nodes_that_cost_nothing_do_not_open_the_budget() -> None:
    slots = slots_of("small", 1, 4) + slots_of("big", 1, 4)
    world = World(slots=slots, limits=Limits(budget=10.0))
    with_types(world, TYPE.model_copy(update={"price_per_hour_usd": 0.0}), BIG)
    world.instance.submit(plain(5, 0.0))
    world.submit(4)
    world.submit(4, duration_s=360000.0)
    world.run(60)
    assert set(world.provider.rented) == {"small-0"}


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0, 10**400, True, "1"])
def test_a_ledger_with_a_cost_that_could_not_be_is_refused(cost: object) -> None:
    bad = {"burst": "b", "cost_per_hour": cost, "boot_by": 1.0, "hosts": ["h"], "jobs": []}
    with pytest.raises(FlexError, match="cost_per_hour"):
        fold([Event(1.0, "intend", bad)])


@pytest.mark.parametrize("limits", [Limits(), Limits(budget=1.0), Limits(nodes=2)])
def test_a_job_of_absurd_length_is_explained_in_numbers_that_json_has(limits: Limits) -> None:
    world = World(limits=limits)
    own_busy(world)
    jobs = [world.submit(4, duration_s=1.7e308) for _ in range(2)]
    world.run(60)
    for job in jobs:
        if job in world.controller.decisions:
            for way in world.controller.decisions[job].alternatives:
                json.dumps([way.cost_usd, way.cost_per_hour_usd], allow_nan=False)


# -- jobs without an end ---------------------------------------------------------------------------


def test_a_job_that_runs_without_a_limit_on_rented_nodes_is_not_over_now() -> None:
    world = World(limits=Limits(budget=100.0))
    own_busy(world)
    first = world.submit(4)
    world.run(BOOT_S + 60)
    world.instance.finish(first)
    endless = world.instance.submit(plain(4, 0.0))
    nodes = tuple(one for one in world.targets if one.host.startswith("small-0"))
    world.instance.start(endless, ResourceSet(nodes).to_r())
    jobs = world._jobs

    def never_ends() -> None:
        world.instance._jobs[endless].t_run = world.instance.now() + 1
        jobs()

    world._jobs = never_ends  # type: ignore[method-assign]
    world.submit(4)
    world.run(4 * 3600)
    assert world.state(endless) is JobState.RUN
    assert world.provider.rents == 1  # else: rented, not opened, released, rented …


# -- jobs that come in between ---------------------------------------------------------------------


def test_a_job_that_became_longer_after_it_was_rented_for_does_not_break_the_budget() -> None:
    world = World(limits=Limits(budget=20.0, period=86400.0))
    job = world.submit(4)
    world.run(60)
    system: Any = world.instance.jobspec(job)["attributes"]["system"]  # type: ignore[index]
    system["duration"] = 360000.0  # flux update JOBID duration=100h
    world.run(86400, every_s=300)
    assert spent(world) <= 20.0


class Backfill(World):
    """Jobs that fit start, whoever waits ahead of them."""

    def _jobs(self) -> None:
        for job in self.instance.jobs(JobState.RUN):
            system: Any = self.instance.jobspec(job.jobid)["attributes"]["system"]  # type: ignore[index]
            if self.instance.now() >= (job.t_run or 0.0) + system["duration"]:
                self.instance.finish(job.jobid)
        waiting = {job.jobid: job for job in self.instance.jobs(JobState.SCHED)}
        for jobid in [*self.instance.queue()]:
            if waiting[jobid].urgency:
                self._start(jobid)


def test_the_budget_covers_the_longest_job_that_waits_also_far_down_the_queue() -> None:
    limits = Limits(budget=30.0, period=86400.0)
    world = Backfill(slots=slots_of("small", 1, 4), limits=limits, queue_policy="easy")
    own_busy(world)
    world.submit(4, duration_s=1200, priority=50)
    world.run(BOOT_S + 90)
    world.submit(2, duration_s=900, priority=49)
    world.submit(4, duration_s=600, priority=48)
    world.run(30)
    for _ in range(40):
        world.instance.submit(plain(9, 60), priority=47)
    world.instance.submit(plain(1, 360000.0), priority=10)
    world.run(3600)
    world.run(23 * 3600, every_s=300)
    assert spent(world) <= 30.0
