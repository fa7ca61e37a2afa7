"""The ledger: what was written although nobody said so, and what two intents name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from burst_site import OWN, World, job_of, slots_of

from flux_flex.burst.ledger import fold
from flux_flex.errors import FlexError
from flux_flex.host.instance import Event
from flux_flex.model.rv1 import ResourceSet


def run_on(world: World, times: int) -> None:
    """As the reactor does: a step that raises FlexError is made again."""
    for _ in range(times):
        with suppress(FlexError):
            world.run(30)


def intent(burst: str, *jobs: int) -> Event:
    context: Mapping[str, object] = {
        "burst": burst, "type": "small", "hosts": [f"{burst}-0"], "provider": "p", "user": "ada",
        "jobs": [*jobs], "cost_per_hour": 1.0, "boot_by": 600.0,
    }  # fmt: skip
    return Event(1.0, "intend", context)


def test_an_intent_that_was_written_although_it_timed_out_is_not_rented_twice() -> None:
    large = replace(slots_of("small", 1, 8)[0], name="l-0", hosts=tuple(f"l{i}" for i in range(8)))
    world = World(slots=[*slots_of("small", 1, 4), large])
    spec = job_of(OWN, 864000.0)
    world.instance.start(
        world.instance.submit(spec, urgency=31), ResourceSet(tuple(world.targets[:OWN])).to_r()
    )
    post, late = world.instance.post, [True]

    def slow(key: str, name: str, context: Mapping[str, object]) -> None:
        post(key, name, context)
        if name == "intend" and late:
            late.clear()
            raise FlexError("Connection timed out", "KVS key flex.burst.ledger")

    world.instance.post = slow  # type: ignore[method-assign]
    world.submit(4)
    run_on(world, 1)
    world.submit(4)
    run_on(world, 1)
    world.controller = world.started()
    world.run(30)
    jobs = [job for entry in world.controller.ledger.book.bursts.values() for job in entry.jobs]
    assert len(jobs) == len(set(jobs)) == 2
    assert sum(rental.nodes for rental, _ in world.provider.rented.values()) <= 8


def test_an_intent_whose_jobs_are_asked_for_elsewhere_loses_them() -> None:
    asked = Event(2.0, "asked", {"burst": "b"})
    early = fold([intent("a", 1, 2), intent("b", 1), asked]).bursts
    assert {name: one.jobs for name, one in early.items()} == {"a": (2,), "b": (1,)}
    late = fold([intent("b", 1), asked, intent("a", 1, 2)]).bursts
    assert {name: one.jobs for name, one in late.items()} == {"a": (2,), "b": (1,)}


def test_a_job_whose_burst_leaves_may_be_rented_for_again() -> None:
    leaves = Event(2.0, "leave", {"burst": "a"})
    assert fold([intent("a", 1), leaves, intent("b", 1)]).bursts["b"].jobs == (1,)
