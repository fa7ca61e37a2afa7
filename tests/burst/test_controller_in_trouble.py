"""The controller in an unkind world: hostile jobs, silent providers, other configurations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from burst_site import BOOT_S, OWN, Slow, World, job_of, names, own_busy, slots_of

from flux_flex.burst.calls import Inline
from flux_flex.burst.controller import Controller
from flux_flex.burst.ledger import KEY, State
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.service import Service
from flux_flex.errors import FlexError
from flux_flex.host.instance import JobState

HELD = {"flex": {"held": True}}


def test_a_type_that_lacks_capacity_for_months_does_not_end_the_controller() -> None:
    world = World(slots=slots_of("small", 1, 4))
    aside = {"provider": "scripted", "type": "small", "until": 0.0}
    for _ in range(1100):
        world.instance.post(KEY, "aside", aside)
    world.controller = world.started()
    world.provider.no_capacity.add("small")
    job = world.submit(4)
    world.run(60)
    assert world.verdict(job).startswith("deferred: no capacity")


def test_running_jobs_are_not_taken_their_nodes_when_their_slot_left_flex_toml() -> None:
    world = World()
    job = world.submit(4, duration_s=36000)
    world.run(BOOT_S + 120)
    slots = tuple(slot for slot in world.slots if slot.name != "small-0")
    world.settings = replace(world.settings, slots=slots)
    world.controller = world.started()
    world.run(1200)
    assert world.state(job) is JobState.RUN
    assert world.provider.rented, names(world)


def test_a_burst_whose_slot_left_flex_toml_is_not_up_before_its_nodes_are() -> None:
    world = World()
    world.submit(4, urgency=0, attributes=HELD)
    world.run(60)
    slots = tuple(slot for slot in world.slots if slot.name != "small-0")
    world.settings = replace(world.settings, slots=slots)
    world.controller = world.started()
    world.run(30)
    assert names(world)[-1] != "up"


def test_a_user_who_holds_a_job_does_not_put_the_provider_into_protected_mode() -> None:
    world = World()
    job = world.submit(4)
    world.run(60)
    world.instance.set_urgency(job, 0)  # flux job urgency JOBID hold
    world.run(1800)
    assert not world.controller.ledger.book.protected


def test_a_slot_with_a_node_that_somebody_drained_is_not_rented_for_all_of_it() -> None:
    world = World()
    own_busy(world)
    world.instance.drain([world.ranks["small-0-1"]], "broken fan")
    job = world.submit(4)
    world.run(3600, until=lambda: world.state(job) is JobState.INACTIVE)
    assert not world.controller.ledger.book.protected
    assert world.state(job) is JobState.INACTIVE


def test_one_rank_that_cannot_be_drained_does_not_keep_other_bursts_rented() -> None:
    world = World(slots=slots_of("small", 2, 3))
    own_busy(world)
    for _ in range(2):
        world.submit(3)
    world.run(BOOT_S + 90)
    drain, excluded = world.instance.drain, world.ranks["small-0-0"]

    def refused(ranks: Any, reason: str) -> None:
        if excluded in ranks:
            raise FlexError("rank 2 excluded", "rank 2-4")
        drain(ranks, reason)

    world.instance.drain = refused  # type: ignore[method-assign]
    world.run(15000)
    assert "small-1" not in world.provider.rented


def test_a_verdict_that_could_not_be_written_once_is_written_again() -> None:
    world = World()
    memo, first = world.instance.memo, [True]

    def once(jobid: int, fields: Any) -> None:
        if first:
            first.clear()
            raise FlexError("Connection timed out", "job-manager.memo")
        memo(jobid, fields)

    world.instance.memo = once  # type: ignore[method-assign]
    job = world.submit(4, duration_s=0)
    world.run(600)
    assert world.verdict(job)


def test_a_request_that_never_answers_has_a_deadline() -> None:
    world, slow = World(), Slow()
    world.controller.renting.calls = slow
    job = world.submit(4)
    world.run(86400, every_s=300)
    assert names(world) != ["intend"]
    assert not world.verdict(job).startswith("burst: 4 x small, $14.40/h, ready in 2m")


def test_an_observation_that_never_answers_is_seen_in_the_status() -> None:
    world, slow = World(), Slow()
    world.controller.renting.calls = slow
    job = world.submit(4)
    world.run(30)
    slow.end("request")
    world.run(30)
    world.instance.cancel(job)
    world.run(30)
    slow.end("release")
    world.run(86400, every_s=300)
    assert "scripted" in json.dumps(Service(world.controller).status({}))


def test_a_provider_that_does_not_answer_is_seen_in_the_status() -> None:
    world = World()

    def refused() -> Any:
        raise FlexError("credentials have expired", "scripted")

    world.provider.observe = refused  # type: ignore[method-assign]
    world.run(120)
    assert "credentials have expired" in json.dumps(Service(world.controller).status({}))


def test_jobs_of_a_burst_whose_provider_left_flex_toml_are_decided_about_again() -> None:
    world = World()
    world.controller.renting.calls = Slow()
    job = world.submit(4, urgency=0, attributes=HELD)
    world.run(30)
    provider = world.settings.config.providers[0].model_copy(update={"name": "other"})
    config = world.settings.config.model_copy(update={"providers": (provider,)})
    settings = replace(world.settings, config=config)
    world.controller = Controller(world.instance, {"other": world.provider}, settings, Inline())
    world.run(7 * 86400, every_s=600)
    assert world.state(job) is JobState.INACTIVE


def test_a_burst_is_asked_for_and_released_one_at_a_time() -> None:
    world, slow = World(), Slow()
    world.controller.renting.calls = slow
    job = world.submit(4)
    world.run(30)
    world.instance.cancel(job)
    world.run(30)
    assert not {("request", "small-0"), ("release", "small-0")} <= slow.waiting.keys()


def test_a_slot_is_not_rented_into_while_what_was_found_there_is_released() -> None:
    world, slow = World(slots=slots_of("small", 1, 4)), Slow()
    world.provider.request(Rental("small-0", "small", world.slots[0].hosts))  # the ledger was lost
    world.controller.renting.calls = slow
    world.run(30)
    slow.end("observe")
    world.run(30)
    world.submit(4)
    world.run(30)
    assert not {("request", "small-0"), ("release", "small-0")} <= slow.waiting.keys()


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


def test_a_job_whose_burst_failed_is_not_told_that_it_bursts() -> None:
    world, slow = World(), Slow()
    world.controller.renting.calls = slow
    job = world.submit(4)
    world.run(30)
    slow.end("request")
    world.provider.failing["small-0"] = Observed("small-0", Phase.FAILED, 4, "image not found")
    for _ in range(2):
        world.run(30)
        slow.end("observe")
    world.run(3600)
    assert not world.verdict(job).startswith("burst")


def test_a_burst_that_the_provider_does_not_have_any_more_is_not_waited_for() -> None:
    world = World()
    world.submit(4)
    world.run(30)
    world.provider.rented.clear()
    world.run(120)
    assert "release" in names(world)


def test_a_job_that_nodes_are_rented_for_is_explained_after_a_restart() -> None:
    world = World()
    job = world.submit(4)
    world.run(60)
    world.controller = world.started()
    world.run(30)
    Service(world.controller).explain({"id": job})


def test_after_drain_nothing_is_rented_anew_for_the_same_jobs() -> None:
    world = World()
    world.submit(4)
    world.run(60)
    Service(world.controller).drain({})
    world.run(300)
    assert not world.provider.rented, names(world)


def test_a_job_that_waits_while_renting_is_stopped_is_told_so() -> None:
    world = World()
    Service(world.controller).stop({})
    large, here = world.submit(4), world.submit(OWN, urgency=0, attributes=HELD)
    world.run(60)
    assert world.verdict(large) == "deferred: renting is stopped, until flux-flex burst start"
    assert world.state(here) is JobState.SCHED
    assert next(j.urgency for j in world.instance.jobs() if j.jobid == here) == 16
    Service(world.controller).start({})
    world.run(60)
    assert world.provider.rents == 1


def test_a_word_that_says_nothing_of_bursting_rents_nothing() -> None:
    world = World()
    spec = job_of(4)
    spec["attributes"]["system"]["burstable"] = "maybe"
    job = world.instance.submit(spec)
    world.run(60)
    assert world.provider.rents == 0
    assert world.verdict(job).startswith("impossible: ")
    assert "'maybe' says nothing of bursting" in world.verdict(job)


def test_a_job_that_runs_can_still_be_explained() -> None:
    world = World()
    job = world.submit(4)
    world.run(BOOT_S + 90)
    assert world.state(job) is JobState.RUN
    assert Service(world.controller).explain({"id": job})["alternatives"]


def test_to_trust_a_provider_again_does_not_end_a_stop() -> None:
    world = World()
    Service(world.controller).stop({})
    Service(world.controller).start({"provider": "scripted"})
    assert not world.controller.deciding


@pytest.mark.parametrize(
    ("topic", "payload"), [("start", {"provider": []}), ("drain", {"burst": {}})]
)
def test_a_payload_of_another_kind_is_bad_input(topic: str, payload: Any) -> None:
    service = Service(World().controller)
    with pytest.raises(FlexError):
        service.topics[topic](payload)


def test_what_a_provider_says_is_cut_and_cleaned_before_it_is_kept() -> None:
    world = World()
    world.provider.never_up = True
    job = world.submit(4)
    world.run(30)
    said = "\x1b[2J\nAuthorization: Bearer abc " + "A" * 200_000
    world.provider.failing["small-0"] = Observed("small-0", Phase.COMING, 4, said)
    world.run(1800)
    assert len(world.verdict(job)) < 1000
    assert world.verdict(job).isprintable()


def test_a_job_that_waits_for_a_day_has_few_memos_in_its_eventlog() -> None:
    world = World(slots=slots_of("small", 1, 4))
    world.provider.no_capacity.add("small")
    job = world.submit(4)
    world.run(86400, every_s=30)
    assert sum(event.name == "memo" for event in world.instance.eventlog(job)) < 100


def test_nodes_do_not_idle_for_a_day_where_the_clock_was_put_back() -> None:
    world = World()
    world.submit(4, duration_s=60)
    world.run(BOOT_S + 150)
    assert world.controller.ledger.book.bursts["small-0"].state is State.UP
    world.instance._now -= 86400
    world.run(3600)
    assert not world.provider.rented
