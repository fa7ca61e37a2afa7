"""What is read of a queue: held jobs, jobs of bursts, and jobspecs that change or make no sense."""

from __future__ import annotations

import time
from typing import Any

import pytest
from burst_site import BOOT_S, OWN, World, job_of, slots_of

from flux_flex.burst.config import Limits
from flux_flex.burst.ledger import KEY
from flux_flex.burst.queue import LET_GO, Known, read_queue
from flux_flex.burst.service import Service
from flux_flex.host.instance import JobState
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.rv1 import RankResources, ResourceSet

HELD = {"flex": {"held": True}}


def plain(nodes: int, duration_s: float = 600.0) -> dict[str, Any]:
    """A job that may not burst."""
    spec = job_of(nodes, duration_s)
    spec["attributes"]["system"]["burstable"] = False
    return spec


def own_busy(world: World) -> None:
    """A job of ten days on all own nodes."""
    job = world.instance.submit(plain(OWN, 864000.0), urgency=31)
    world.instance.start(job, ResourceSet(tuple(world.targets[:OWN])).to_r())


def urgency(world: World, job: int) -> int:
    return next(one.urgency for one in world.instance.jobs() if one.jobid == job)


def names(world: World) -> list[str]:
    return [event.name for event in world.instance.log(KEY)]


def four_nodes() -> MemoryInstance:
    targets = tuple(RankResources(rank, f"n{rank}", (0, 1, 2, 3), ()) for rank in range(4))
    return MemoryInstance(ResourceSet(targets).to_r(), now=1000.0)


# -- beyond the depth ------------------------------------------------------------------------------


def test_held_jobs_that_can_never_run_do_not_keep_others_from_being_weighed() -> None:
    world = World()
    for _ in range(40):
        world.submit(4, duration_s=0, urgency=0, attributes=HELD, user="mallory")
    job = world.submit(4, user="alice")
    world.run(86400, every_s=600)
    assert world.verdict(job) or world.state(job) is JobState.INACTIVE


def test_a_held_job_is_weighed_where_a_plugin_gives_priorities() -> None:
    world = World()
    own_busy(world)
    for _ in range(40):
        world.instance.submit(plain(1), priority=100_000)
    job = world.submit(1, urgency=0, attributes=HELD)
    world.run(86400, every_s=600)
    assert world.verdict(job)


def test_a_held_job_is_let_go_on_its_nodes_however_many_wait_ahead_of_it() -> None:
    world = World()
    job = world.submit(4, urgency=0, attributes=HELD)
    world.run(60)
    for _ in range(40):
        world.instance.submit(plain(20), priority=100_000)
    world.run(BOOT_S + 90)
    assert urgency(world, job) == 16


def test_all_or_nothing_holds_for_a_job_that_is_far_down_the_queue_by_now() -> None:
    world = World(slots=slots_of("small", 1, 6))
    own_busy(world)
    world.submit(6)
    world.late = {"small-0-3"}
    world.run(60)
    for _ in range(40):
        world.instance.submit(plain(20), priority=100)
    world.run(700)
    assert "up" not in names(world)


def test_of_many_held_jobs_each_user_has_the_first_looked_at() -> None:
    instance = four_nodes()
    for _ in range(1000):
        instance.submit(job_of(1, flex={"held": True}), urgency=0, user="mallory")
    job = instance.submit(job_of(1, flex={"held": True}), urgency=0, user="alice")
    known = Known()
    for _ in range(5):  # jobspecs are read some at a time
        queue = read_queue(instance, known, depth=2)
    assert job in queue.held
    assert len(queue.pending) < 1000


def test_a_step_reads_few_jobspecs_of_a_long_queue() -> None:
    instance = four_nodes()
    for number in range(3000):
        instance.submit(plain(1, 600.0 + number))
    read, asked = instance.jobspecs, list[int]()

    def counted(jobids: Any) -> Any:
        asked.extend(jobids)
        return read(jobids)

    instance.jobspecs = counted  # type: ignore[method-assign]
    known = Known()
    read_queue(instance, known, depth=32)
    assert len(asked) < 400
    asked.clear()
    queue = read_queue(instance, known, depth=32)
    assert not asked
    assert len(queue.pending) == 32
    assert queue.waiting[0].limit_s == 600.0 + 2999


def test_a_job_of_a_burst_that_leaves_is_decided_about_again() -> None:
    world = World()
    own_busy(world)
    world.submit(4, duration_s=3 * 86400)
    world.run(BOOT_S + 90)
    world.provider.no_capacity.add("small")
    job = world.submit(4, urgency=0, attributes=HELD)
    world.run(60)
    world.provider.no_capacity.clear()
    Service(world.controller).drain({"burst": "small-0"})
    world.run(86400, every_s=300)
    assert world.state(job) is not JobState.SCHED  # the other slot is free all the time


# -- held by whom ----------------------------------------------------------------------------------


def test_a_job_that_was_let_go_and_is_held_again_is_held_by_a_person() -> None:
    instance = four_nodes()
    job = instance.submit(job_of(1, flex={"held": True}), urgency=0)
    assert read_queue(instance, Known(), depth=2).held == {job}
    instance.memo(job, {LET_GO: True})
    queue = read_queue(instance, Known(), depth=2)
    assert not queue.held
    assert not queue.pending


# -- jobspecs that change, are refused, or are not there -------------------------------------------


def test_a_held_job_whose_jobspec_is_refused_is_known_with_the_reason() -> None:
    instance, known = four_nodes(), Known()
    spec = job_of(1, flex={"held": True})
    spec["resources"][0]["count"] = 300_000
    job = instance.submit(spec, urgency=0)
    other = plain(300_000)
    instance.submit(other)
    for _ in range(2):
        queue = read_queue(instance, known, depth=8)
        assert queue.senseless == {job: queue.senseless[job]}
        assert "300000 nodes" in queue.senseless[job]
    instance.cancel(job)
    assert not read_queue(instance, known, depth=8).senseless


@pytest.mark.parametrize("flex", [[], "x", {"held": []}, None])
def test_a_jobspec_of_any_shape_is_read(flex: object) -> None:
    instance = four_nodes()
    instance.submit({"version": 1, "attributes": {"user": flex, "system": flex}}, urgency=0)
    instance.submit({"attributes": flex})
    assert not read_queue(instance, Known(), depth=8).pending


def test_a_jobspec_that_could_not_be_read_once_is_read_again() -> None:
    world = World()
    read, first = world.instance.jobspecs, [True]

    def once(jobids: Any) -> Any:
        if jobids and first:
            first.clear()
            return {}
        return read(jobids)

    world.instance.jobspecs = once  # type: ignore[method-assign]
    job = world.submit(4, urgency=0, attributes=HELD)
    world.run(3600)
    assert world.verdict(job)


def test_the_jobspec_of_a_job_that_nodes_are_rented_for_is_read_anew() -> None:
    instance, known = four_nodes(), Known()
    job = instance.submit(job_of(1))
    assert len(read_queue(instance, known, depth=2).pending[0].jobspec.resources) == 1
    document: Any = instance.jobspec(job)
    document["attributes"]["system"]["constraints"] = {"properties": ["efa"]}
    assert read_queue(instance, known, depth=2).pending[0].jobspec.constraint is None
    assert read_queue(instance, known, depth=2, also={job}).pending[0].jobspec.constraint


def test_a_time_limit_that_was_updated_is_seen_in_any_job() -> None:
    instance, known = four_nodes(), Known()
    job = instance.submit(job_of(1))
    read_queue(instance, known, depth=2)
    document: Any = instance.jobspec(job)
    document["attributes"]["system"]["duration"] = 7200.0  # flux update JOBID duration=2h
    queue = read_queue(instance, known, depth=2)
    assert queue.pending[0].jobspec.duration_s == 7200
    assert queue.waiting[0].limit_s == 7200


def test_the_end_of_a_job_that_was_updated_while_it_runs_is_seen() -> None:
    instance, known = four_nodes(), Known()
    job = instance.submit(job_of(1))
    R = ResourceSet(
        (RankResources(0, "n0", (0, 1, 2, 3), ()),), starttime=1000.0, expiration=1600.0
    ).to_r()
    instance.start(job, R)
    assert read_queue(instance, known, depth=2).running[0].end_s == 1600
    R["execution"]["expiration"] = 9000.0  # type: ignore[index]
    assert read_queue(instance, known, depth=2).running[0].end_s == 9000


# -- speed -----------------------------------------------------------------------------------------


def test_jobs_that_nobody_could_match_quickly_do_not_stop_the_controller() -> None:
    world = World(slots=slots_of("small", 10, 20), limits=Limits(budget=1000.0))
    for i in range(8):
        spec = plain(4)
        wanted = [{"properties": [f"p{k}-{i}"]} for k in range(3300)]
        spec["attributes"]["system"]["constraints"] = {"or": wanted}
        world.instance.submit(spec)
    world.submit(4)
    world.controller.step()
    began_s = time.process_time()
    world.controller.step()
    assert time.process_time() - began_s < 1.0
