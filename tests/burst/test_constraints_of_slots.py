"""What a job's constraint, its size and its place in the queue mean for the slots there are."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from burst_site import BIG, BOOT_S, OWN, TYPE, World, job_of, slots_of

from flux_flex.burst import decide as deciding
from flux_flex.burst.config import Limits
from flux_flex.errors import FlexError
from flux_flex.host.instance import JobState
from flux_flex.model.jobid import f58
from flux_flex.model.rv1 import ResourceSet


def plain(nodes: int, duration_s: float = 600.0) -> dict[str, Any]:
    """A job that may not burst."""
    spec = job_of(nodes, duration_s)
    spec["attributes"]["system"]["burstable"] = False
    return spec


def wanting(nodes: int, constraint: object) -> dict[str, Any]:
    spec = job_of(nodes)
    spec["attributes"]["system"]["constraints"] = constraint
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


# -- constraints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "slot"),
    [
        ({"not": [{"hostlist": ["small-0-1"]}]}, "small-1"),
        ({"hostlist": ["small-1-[0-3]"]}, "small-1"),
        ({"ranks": ["6-9"]}, "small-1"),
        ({"not": [{"hostlist": ["small-0-3"]}]}, "small-0"),  # none of the first two
    ],
)
def test_a_job_is_rented_for_where_its_constraint_allows_the_hosts(
    constraint: object, slot: str
) -> None:
    world = World()
    own_busy(world)
    world.instance.submit(wanting(2, constraint))
    world.run(60)
    assert list(world.provider.rented) == [slot]


def test_nothing_is_rented_whose_hosts_a_constraint_refuses_in_every_slot() -> None:
    world = World()
    own_busy(world)
    refused = {"not": [{"hostlist": ["small-0-1,small-1-0"]}]}
    job = world.instance.submit(wanting(2, refused))
    world.run(3600)
    assert world.provider.rents == 0
    assert world.verdict(job).startswith("impossible: no type here fits: ")
    assert {way.rejected for way in world.controller.decisions[job].alternatives} == {
        "no slot is for big",
        "no slot for small has 2 hosts that the job's constraint allows",
    }
    assert not world.controller.ledger.book.protected


def test_a_job_does_not_join_a_burst_on_hosts_that_it_refuses() -> None:
    world = World()
    own_busy(world)
    world.submit(4, duration_s=1200)
    world.run(60)
    job = world.instance.submit(wanting(2, {"not": [{"hostlist": ["small-0-[0-3]"]}]}))
    world.run(60)
    bursts = world.controller.ledger.book.bursts
    assert {name for name, one in bursts.items() if job in one.jobs} == {"small-1"}


def test_jobs_packed_together_go_where_all_their_constraints_allow_it() -> None:
    world = World()
    own_busy(world)
    jobs = [
        world.instance.submit(wanting(2, {"not": [{"hostlist": ["small-0-3"]}]})),
        world.instance.submit(job_of(2)),
    ]
    world.run(60)
    bursts = world.controller.ledger.book.bursts
    for name, entry in bursts.items():
        if jobs[0] in entry.jobs:
            assert name != "small-0" or entry.rental.nodes < 4
    assert sorted(job for one in bursts.values() for job in one.jobs) == jobs


# -- sizes -----------------------------------------------------------------------------------------


def test_nothing_larger_is_weighed_than_the_largest_slot() -> None:
    world = World(slots=slots_of("small", 1, 4))
    with_types(world, TYPE.model_copy(update={"cores": 96, "vcpus": 192}))
    spec = job_of(1)
    core = {"type": "core", "count": 1}
    spec["resources"] = [{"type": "slot", "count": 390_000, "label": "task", "with": [core]}]
    world.instance.submit(spec)
    began_s = time.process_time()
    world.controller.step()
    assert time.process_time() - began_s < 1.0


def test_a_job_that_nobody_can_decide_about_does_not_keep_others_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    strange, job = world.submit(3), world.submit(4)
    ways = deciding.Bursts.ways

    def failing(bursts: Any, pending: Any, before_s: float) -> Any:
        if pending.jobid == strange:
            raise FlexError("out of \x1b[31mbounds")
        return ways(bursts, pending, before_s)

    monkeypatch.setattr(deciding.Bursts, "ways", failing)
    world.run(30)
    assert world.verdict(strange) == "impossible: nobody can tell what it takes: out of bounds"
    assert world.verdict(job).startswith("burst: ")


# -- types that left the catalogue -----------------------------------------------------------------


def test_a_burst_whose_type_left_the_catalogue_counts_to_the_limits() -> None:
    slots = slots_of("small", 1, 4) + slots_of("big", 1, 4)
    world = World(slots=slots, limits=Limits(nodes=4))
    world.submit(4, duration_s=36000)
    world.run(BOOT_S + 120)
    with_types(world, BIG)
    job = world.submit(4)
    world.run(60)
    assert sum(rental.nodes for rental, _ in world.provider.rented.values()) <= 4
    assert world.verdict(job).startswith("deferred: the limit of 4 nodes leaves 0")


# -- behind a job that nobody passes ---------------------------------------------------------------


def test_nothing_is_rented_behind_a_job_that_fcfs_lets_nobody_pass() -> None:
    world = World(waits=True)
    first = world.instance.submit(plain(OWN + 8))  # has room in R, so Flux does not refuse it
    job = world.submit(4)
    world.run(3600)
    assert not world.controller.ledger.book.protected
    assert world.provider.rents == 0
    assert world.verdict(job) == (
        f"deferred: stands behind {f58(first)}, which waits for 10 nodes not here,"
        " and fcfs lets nobody pass"
    )
    world.instance.cancel(first)
    world.run(60)
    assert world.provider.rents == 1


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        pytest.param(plain(OWN + 9), {"waits": True}, id="more than R has: refused"),
        pytest.param(plain(OWN + 8), {"waits": False}, id="the scheduler refuses it"),
        pytest.param(plain(OWN + 8), {"waits": True, "queue_policy": "easy"}, id="may be passed"),
        pytest.param(job_of(4), {"waits": True}, id="rented for"),
    ],
)
def test_others_are_rented_for_where_the_job_ahead_is_in_nobody_s_way(
    spec: dict[str, Any], settings: dict[str, Any]
) -> None:
    world = World(**settings)
    world.instance.submit(spec)
    job = world.submit(4)
    world.run(30)
    assert world.verdict(job).startswith("burst: ")
    assert world.state(job) is JobState.SCHED
