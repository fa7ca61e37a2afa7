"""The controller on EKS: one burst from end to end, and what a crash anywhere in it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

moto = pytest.importorskip("moto")

from burst_site import World, slots_of  # noqa: E402
from test_eks_provider import IDENTITY, PORT, TYPES, Site, isolate, status  # noqa: E402

from flux_flex.burst.calls import Inline  # noqa: E402
from flux_flex.burst.controller import Controller  # noqa: E402
from flux_flex.burst.ledger import KEY  # noqa: E402
from flux_flex.burst.providers.eks import EksProvider  # noqa: E402
from flux_flex.burst.providers.eks_config import parse_eks_config  # noqa: E402
from flux_flex.host.instance import JobState  # noqa: E402

CHANGES = {
    "create_launch_template", "create_nodegroup", "authorize_security_group_ingress",
    "delete_nodegroup", "revoke_security_group_ingress", "delete_launch_template",
}  # fmt: skip


class EksWorld(World):
    """The world of the controller's tests; its scripted provider is the Kubernetes half."""

    def __init__(self, site: Site, **more: Any) -> None:
        self.site = site
        super().__init__(slots=slots_of("small", 1, 4), **more)

    def started(self) -> Controller:
        config = parse_eks_config(self.site.config(placement_group="near"))
        eks = EksProvider(config, TYPES, self.provider, IDENTITY, PORT, self.site.aws)
        self.site.aws.point = self.at_aws
        return Controller(self.instance, {"scripted": eks}, self.settings, Inline())

    def at_aws(self, operation: str) -> None:
        if operation in CHANGES:
            self.point(operation)

    def point(self, name: str) -> None:
        # The controller's own points have tests of their own.
        if name in CHANGES or name in ("request", "release"):
            super().point(name)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    isolate(monkeypatch)
    with moto.mock_aws():
        yield Site()


def names(world: World) -> list[str]:
    return [event.name for event in world.instance.log(KEY)]


def test_a_job_runs_on_a_node_group_that_comes_and_goes(site: Site) -> None:
    world = EksWorld(site)
    job = world.submit(4, duration_s=60)
    world.run(60)
    assert site.groups() == [f"flux-flex-{IDENTITY}-small-0"]
    assert len(site.rules()) == 1
    world.run(3600, until=lambda: world.over)
    assert world.state(job) is JobState.INACTIVE
    assert world.over
    assert names(world) == ["intend", "asked", "up", "leave", "release", "gone"]
    assert site.is_empty


def test_a_type_without_capacity_is_set_aside_and_its_node_group_goes(site: Site) -> None:
    world = EksWorld(site)
    status(site, "CREATING", ("AsgInstanceLaunchFailures", "InsufficientInstanceCapacity"))
    world.submit(4, duration_s=60)
    world.run(90)
    site.aws.changed.clear()
    assert "aside" in names(world)
    world.run(3600, until=lambda: world.over)
    assert world.over
    assert site.is_empty


# Before and after each change, in the order in which a burst makes and undoes them.
@pytest.mark.parametrize("crash_at", range(16))
def test_a_crash_anywhere_leaves_nothing_behind(site: Site, crash_at: int) -> None:
    world = EksWorld(site, crash_at=crash_at)
    job = world.submit(4, duration_s=60)
    world.run(3600, until=lambda: world.over)
    assert world.crashes == 1
    assert world.state(job) is JobState.INACTIVE
    assert world.over
    assert site.is_empty
    assert not world.instance.drained()


def test_the_crashes_are_those_of_every_change(site: Site) -> None:
    world = EksWorld(site)
    world.submit(4, duration_s=60)
    world.run(3600, until=lambda: world.over)
    assert len(world.points) == 16
    assert {*world.points} == CHANGES | {"request", "release"}
