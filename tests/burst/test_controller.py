"""The controller over an instance in memory: it rents, packs, waits, gives back, and survives."""

from __future__ import annotations

from typing import Any

import pytest
from burst_site import BOOT_S, OWN, Slow, World, job_of, longer_job, names, slots_of

from flux_flex.burst.config import Limits
from flux_flex.burst.ledger import KEY, State
from flux_flex.burst.providers import Observed, Phase
from flux_flex.errors import FlexError
from flux_flex.host.instance import JobState
from flux_flex.model.rv1 import ResourceSet


def test_a_job_that_needs_more_than_there_is_runs_on_rented_nodes_which_then_go() -> None:
    world = World()
    job = world.submit(4)
    world.run(30)
    assert world.verdict(job).startswith("burst: 4 x small, $14.40/h")
    world.run(BOOT_S + 60)
    assert world.state(job) is JobState.RUN
    world.run(3600, until=lambda: world.over)
    assert world.over
    assert world.provider.rents == 1
    assert names(world) == ["intend", "asked", "up", "leave", "release", "gone"]
    assert not world.instance.drained()


def test_a_job_that_starts_here_soon_rents_nothing() -> None:
    world = World()
    job = world.submit(OWN)
    world.run(600)
    assert world.provider.rents == 0
    assert world.state(job) is not JobState.SCHED


def test_rented_nodes_are_for_the_jobs_that_they_were_rented_for() -> None:
    world = World()
    world.submit(4, duration_s=300)
    world.run(BOOT_S + 90)
    assert world.instance.jobs(JobState.RUN)
    spec = job_of(1, 7200)
    spec["attributes"]["system"]["burstable"] = False
    others = [world.instance.submit(spec) for _ in range(6)]
    world.run(3600)
    assert not world.provider.rented
    assert sum(world.state(job) is JobState.RUN for job in others) == OWN


def test_no_job_starts_before_all_nodes_are_up() -> None:
    world = World()
    world.late = {"small-0-3"}
    job = world.submit(4, duration_s=1200)
    world.run(BOOT_S + 120)
    assert world.state(job) is JobState.SCHED
    world.late = set()
    world.run(60)
    assert world.state(job) is JobState.RUN


def test_idle_nodes_stay_until_the_timeout_and_no_longer() -> None:
    world = World()
    world.submit(4, duration_s=60)
    world.run(BOOT_S + 60 + 60)
    assert world.controller.ledger.book.bursts["small-0"].state is State.UP
    world.run(240)
    assert world.provider.rented
    world.run(180)
    assert not world.provider.rented


def test_a_second_job_is_packed_onto_nodes_that_are_rented() -> None:
    world = World()
    world.submit(4, duration_s=300)
    world.run(BOOT_S + 90)
    later = world.submit(3, duration_s=120)
    world.run(3600, until=lambda: world.over)
    assert world.state(later) is JobState.INACTIVE
    assert world.provider.rents == 1
    assert world.over


def test_two_jobs_share_one_burst() -> None:
    world = World(slots=slots_of("small", 1, 8))
    jobs = [world.submit(4), world.submit(4)]
    world.run(3600, until=lambda: world.over)
    assert [world.state(job) for job in jobs] == [JobState.INACTIVE] * 2
    assert world.provider.rents == 1


def test_a_job_that_is_cancelled_before_its_nodes_are_up_cancels_the_request() -> None:
    world = World()
    job = world.submit(4)
    world.run(60)
    assert world.provider.rented
    world.instance.cancel(job)
    world.run(60)
    assert not world.provider.rented
    assert world.over


def test_a_type_without_capacity_is_set_aside_and_the_next_one_is_tried() -> None:
    world = World(slots=[*slots_of("small", 1, 4), *slots_of("big", 1, 4)])
    world.provider.no_capacity.add("small")
    job = world.submit(4)
    world.run(120)
    assert list(world.provider.rented) == ["big-0"]
    assert ("scripted", "small") in world.controller.ledger.book.aside
    world.run(3600, until=lambda: world.over)
    assert world.state(job) is JobState.INACTIVE


def test_set_aside_types_are_tried_again_with_growing_intervals() -> None:
    world = World(slots=slots_of("small", 1, 4))
    world.provider.no_capacity.update({"small", "big"})
    world.submit(4)
    world.run(3600)
    untils = [
        e.context["until"] - e.timestamp for e in world.instance.log(KEY) if e.name == "aside"
    ]  # type: ignore[operator]
    assert untils == sorted(untils)
    assert untils[:4] == [60, 120, 240, 480]
    world.provider.no_capacity.clear()
    world.run(7200, until=lambda: world.over)
    assert world.over


def test_a_provider_whose_nodes_do_not_come_up_is_protected_until_it_is_reset() -> None:
    world = World()
    world.provider.never_up = True
    job = world.submit(4)
    world.run(900)
    assert not world.provider.rented
    assert "did not come up in 10m" in world.controller.ledger.book.protected["scripted"]
    world.run(3600)
    assert world.provider.rents == 1
    world.provider.never_up = False
    world.controller.ledger.reset("scripted")
    world.run(3600, until=lambda: world.over)
    assert world.state(job) is JobState.INACTIVE


def test_a_request_that_fails_half_way_is_undone() -> None:
    world = World()
    world.provider.broken = "the API said no, after it began"
    world.submit(4)
    world.run(30)
    world.provider.broken = ""
    world.run(3600, until=lambda: world.over)
    assert world.over


def test_a_burst_that_fails_at_the_provider_is_released_with_its_reason() -> None:
    world = World()
    job = world.submit(4)
    world.run(30)
    world.provider.failing["small-0"] = Observed("small-0", Phase.FAILED, 4, "image not found")
    world.run(60)
    reasons = [e.context.get("reason") for e in world.instance.log(KEY) if e.name == "release"]
    assert reasons[0] == "image not found"
    aside = world.controller.ledger.book.aside["scripted", "small"]
    assert aside.why == "image not found"
    assert world.provider.rents == 1  # not again at once
    said = "deferred: small failed (image not found), asking again in"
    assert world.verdict(job).startswith(said)


def test_what_failed_before_nodes_came_up_does_not_count_any_more() -> None:
    world = World(slots=slots_of("small", 1, 4))
    world.provider.no_capacity.add("small")
    world.submit(4)
    world.run(600)
    assert world.controller.ledger.book.aside["scripted", "small"][1] > 2
    world.provider.no_capacity.clear()
    world.run(3600, until=lambda: world.over)
    assert not world.controller.ledger.book.aside


def test_a_controller_that_retires_takes_away_at_once_what_nothing_runs_on() -> None:
    world = World()
    world.submit(4, duration_s=60)
    world.run(BOOT_S + 150)
    assert world.controller.ledger.book.bursts["small-0"].state is State.UP
    assert not world.instance.jobs(JobState.RUN)
    world.controller.retire("unloaded")
    assert not world.provider.rented


def test_a_controller_that_retires_lets_run_what_runs_and_the_next_one_takes_it_away() -> None:
    world = World()
    job = world.submit(4, duration_s=3600)
    world.run(BOOT_S + 90)
    world.controller.retire("unloaded")
    assert world.controller.ledger.book.bursts["small-0"].state is State.LEAVING
    assert world.state(job) is JobState.RUN
    world.controller = world.started()
    world.run(7200, until=lambda: world.over)
    assert world.over


def test_a_request_that_rents_after_its_job_was_cancelled_is_released_before_it_is_gone() -> None:
    world, slow = World(), Slow()
    world.controller.renting.calls = slow
    job = world.submit(4)
    world.run(30)
    world.instance.cancel(job)
    world.run(30)
    assert names(world) == ["intend", "release"]
    slow.end("release")
    for _ in range(3):
        world.run(30)
        slow.end("observe")
    assert names(world) == ["intend", "release"]
    slow.end("request")
    assert world.provider.rented
    for _ in range(3):
        world.run(30)
        slow.end("release")
        slow.end("observe")
    assert names(world)[-1] == "gone"
    assert world.over


def test_no_more_is_rented_than_hosts_are_set_aside() -> None:
    world = World(slots=slots_of("small", 1, 4))
    first, second = world.submit(4), world.submit(4, duration_s=7200)
    world.run(60)
    assert len(world.provider.rented) == 1
    assert world.verdict(second).startswith("burst: joins small-0 on 4 x small")
    world.run(4 * 3600, until=lambda: world.over)
    assert [world.state(job) for job in (first, second)] == [JobState.INACTIVE] * 2


def test_a_job_that_no_slot_holds_is_in_nobody_s_way() -> None:
    world = World(slots=slots_of("small", 1, 4))
    large, small = world.submit(6), world.submit(4)
    world.run(30)
    assert world.verdict(large).startswith("impossible: no type here fits: ")
    assert {w.type: w.rejected for w in world.controller.decisions[large].alternatives} == {
        "small": "it takes 6, a slot for small has 4 hosts at most",
        "big": "no slot is for big",
    }
    assert list(world.provider.rented) == ["small-0"]
    world.instance.cancel(large)
    world.run(3600, until=lambda: world.over)
    assert world.state(small) is JobState.INACTIVE


def test_a_budget_defers_what_it_does_not_cover() -> None:
    world = World(limits=Limits(budget=1.0))
    job = world.submit(4)
    world.run(600)
    assert world.provider.rents == 0
    assert world.verdict(job).startswith("deferred: the budget of $1.00")


def test_nothing_is_rented_that_a_longer_job_could_take_beyond_the_budget() -> None:
    world = World(limits=Limits(budget=20.0, period=86400.0))
    longer = world.instance.submit(longer_job(5), urgency=20)
    job = world.submit(4)
    world.run(60)
    assert world.provider.rents == 0
    assert world.verdict(job).startswith("deferred: the budget of $20.00 in 24h leaves $20.00")
    assert world.verdict(job).endswith("as a job of 2h waits, which could take its nodes")
    world.instance.cancel(longer)
    world.run(60)
    assert world.provider.rents == 1


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(longer_job(7), id="too large"),
        pytest.param(longer_job(2, constraints={"hostlist": ["own0", "own1"]}), id="elsewhere"),
    ],
)
def test_a_longer_job_that_cannot_run_on_rented_nodes_is_in_nobody_s_way(
    spec: dict[str, Any],
) -> None:
    world = World(limits=Limits(budget=20.0, period=86400.0))
    world.instance.start(
        world.instance.submit(longer_job(1)), ResourceSet(tuple(world.targets[:1])).to_r()
    )
    world.instance.submit(spec)
    job = world.submit(4)
    world.run(30)
    assert world.verdict(job).startswith("burst: ")


def test_nodes_that_come_up_are_not_opened_to_a_longer_job_that_the_budget_does_not_cover() -> None:
    world = World(limits=Limits(budget=20.0, period=86400.0))
    world.submit(4)
    world.run(60)
    longer = world.instance.submit(longer_job(5), urgency=20)
    world.run(3600, until=lambda: not world.provider.rented)
    assert world.provider.rents == 1
    assert world.state(longer) is JobState.SCHED
    assert not world.controller.ledger.book.protected
    left = next(event for event in world.instance.log(KEY) if event.name == "leave")
    assert left.context["reason"] == "the budget does not cover what may start there"


def test_nothing_is_rented_out_of_hours() -> None:
    # It is 13:46 UTC.
    world = World(hours=(15 * 60, 6 * 60))
    job = world.submit(4)
    world.run(60)
    assert world.verdict(job) == "deferred: nodes are rented from 15:00 to 06:00"
    world.run(2 * 3600, until=lambda: bool(world.provider.rented))
    assert world.provider.rented


def test_jobs_of_the_queue_for_bursts_need_not_say_so() -> None:
    world = World(queue="burst")
    for queue in ("batch", "burst"):
        spec = job_of(4)
        spec["attributes"]["system"] = {"duration": 600, "queue": queue}
        world.instance.submit(spec)
    world.run(60)
    (rental, _) = world.provider.rented["small-0"]
    assert len(rental.jobs) == 1


def test_all_or_nothing_gives_back_what_came_up_and_best_effort_keeps_it() -> None:
    for burstable, kept in ((True, False), ("best-effort", True)):
        world = World(slots=slots_of("small", 1, 6))
        spec = job_of(6)
        spec["attributes"]["system"]["burstable"] = burstable
        world.instance.submit(spec)
        world.late = {"small-0-3", "small-0-4", "small-0-5"}
        world.run(750)
        assert bool(world.provider.rented) is kept
        assert bool(world.controller.ledger.book.protected) is not kept
        world.run(600)
        assert not world.provider.rented  # nobody pays for nodes on which nothing starts
        assert world.controller.ledger.book.protected


def test_a_type_that_is_set_aside_and_a_provider_in_protected_mode_say_so() -> None:
    world = World(slots=slots_of("small", 1, 4))
    world.provider.no_capacity.add("small")
    job = world.submit(4)
    world.run(150)
    assert world.verdict(job).startswith("deferred: no capacity for small, asking again in")
    world.controller.ledger.protect("scripted", "nodes did not come up")
    world.run(60)
    assert world.verdict(job).startswith("deferred: scripted is in protected mode")


def test_a_held_job_is_let_go_when_its_nodes_are_up() -> None:
    world = World()
    job = world.submit(4, urgency=0, attributes={"flex": {"held": True}})
    world.run(60)
    assert next(j.urgency for j in world.instance.jobs() if j.jobid == job) == 0
    world.run(3600, until=lambda: world.over)
    assert world.state(job) is JobState.INACTIVE
    assert world.over


def test_a_held_job_that_fits_here_is_let_go_at_once() -> None:
    world = World()
    job = world.submit(1, urgency=0, attributes={"flex": {"held": True}})
    world.run(60)
    assert world.state(job) is JobState.RUN
    assert world.provider.rents == 0


@pytest.mark.parametrize(("nodes", "urgency"), [(OWN, 16), (4, 0)])
def test_a_held_job_that_cannot_burst_is_let_go_where_it_fits_here(
    nodes: int, urgency: int
) -> None:
    world = World(limits=Limits(budget=0.01))
    world.submit(OWN, duration_s=7200)
    world.run(60)
    job = world.submit(nodes, urgency=0, attributes={"flex": {"held": True}})
    world.run(60)
    assert world.verdict(job).startswith("deferred: the budget")
    assert next(j.urgency for j in world.instance.jobs() if j.jobid == job) == urgency


def test_a_job_that_a_person_holds_stays_held() -> None:
    world = World()
    job = world.submit(4, urgency=0)
    world.run(900)
    assert world.state(job) is JobState.SCHED
    assert world.provider.rents == 0


def test_nodes_that_somebody_else_drained_stay_drained() -> None:
    world = World()
    world.submit(4, duration_s=60)
    world.run(BOOT_S + 120)
    rank = world.ranks["small-0-1"]
    world.instance.drain([rank], "broken fan")
    world.run(3600, until=lambda: world.over)
    assert world.instance.drained() == {rank: "broken fan"}


def test_what_the_ledger_does_not_know_is_released() -> None:
    world = World()
    world.submit(4)
    world.run(60)
    world.instance.kvs_put("flex", None)
    for job in world.instance.jobs():
        world.instance.cancel(job.jobid)
    world.controller = world.started()
    world.run(300)
    assert not world.provider.rented


def test_what_a_provider_complains_of_cannot_steer_who_reads_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise FlexError("\x1b[31mno\n\u202eanswer\x07")

    world = World()
    monkeypatch.setattr(world.provider, "observe", refuse)
    world.submit(4)
    world.run(60)
    assert {line.partition(" what it has: ")[2] for line in caplog.messages} == {"no ?answer?"}


# -- crashes --------------------------------------------------------------------------------


def life(crash_at: int | None) -> World:
    """A life with a job that bursts, one that joins, and one that is cancelled while it waits."""
    world = World(crash_at=crash_at)
    world.submit(4, duration_s=300)
    world.run(90)
    cancelled = world.submit(3, duration_s=900)
    world.run(90)
    world.submit(3, duration_s=120)
    world.run(60)
    if world.state(cancelled) is JobState.SCHED:
        world.instance.cancel(cancelled)
    world.run(4 * 3600, until=lambda: world.over)
    return world


POINTS = life(None).points


@pytest.mark.parametrize("crash_at", range(len(POINTS)), ids=lambda i: f"{i}-{POINTS[i]}")
def test_after_a_crash_at_any_point_nothing_is_rented_twice_and_nothing_is_left(
    crash_at: int,
) -> None:
    world = life(crash_at)
    assert world.crashes == 1
    assert world.over, names(world)
    assert not world.instance.drained()
    told = names(world)
    assert world.provider.rents <= told.count("intend")
    assert world.provider.rents <= life(None).provider.rents + 1


def test_the_points_are_all_ledger_writes_and_all_calls() -> None:
    assert {point.split()[-1] for point in POINTS} >= {
        "intend", "asked", "up", "leave", "release", "gone", "request", "observe",
    }  # fmt: skip
