"""Nodes cost until they are gone: how long that takes is the site's or the provider's to say."""

from __future__ import annotations

from typing import Any

import pytest
from burst_site import World, job_of
from flux_site import CATALOG

from flux_flex.burst.config import Limits
from flux_flex.burst.service import Service
from flux_flex.cli.burst_site import settings_of
from flux_flex.config import FlexConfig, parse_config
from flux_flex.errors import BadInput

SLOT = {"name": "s", "type": "small", "bursts": 1, "nodes": 2}


@pytest.fixture
def site(tmp_path: Any) -> Any:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG)

    def made(**keys: Any) -> FlexConfig:
        return parse_config({"burst": {"catalog": str(catalog), "slots": [SLOT], **keys}})

    return made


@pytest.mark.parametrize(
    ("provider", "seconds"),
    [("local", 120.0), ("kubernetes", 300.0), ("eks", 1200.0), ("somebody-elses", 1200.0)],
)
def test_each_provider_has_a_time_of_its_own_to_let_nodes_go(
    site: Any, provider: str, seconds: float
) -> None:
    assert settings_of(site(provider=provider)).config.release == seconds


@pytest.mark.parametrize("provider", ["local", "eks", "fluxburst"])
def test_the_key_says_it_for_any_provider(site: Any, provider: str) -> None:
    given = site(provider=provider, release_deadline="33m")
    assert settings_of(given).config.release == 1980.0


def test_fluxburst_says_it_in_its_own_table(site: Any) -> None:
    table = {"plugin": "fluxburst_gke", "rundir": "/run/flux", "release_deadline": "7m"}
    assert settings_of(site(provider="fluxburst", fluxburst=table)).config.release == 420.0


@pytest.mark.parametrize("value", [0, -1, "2d", "soon", float("inf")])
def test_a_time_that_cannot_be_meant_is_refused_with_its_place(site: Any, value: object) -> None:
    with pytest.raises(BadInput) as got:
        site(release_deadline=value)
    assert "burst.release_deadline" in got.value.where


def slow_world(budget: float) -> World:
    """Nodes that take half an hour to go, and a controller that knows it."""
    world = World(limits=Limits(budget=budget), release_s=2000.0)
    release, began = world.provider.release, dict[str, float]()

    def slow(burst: str) -> None:
        began.setdefault(burst, world.instance.now())
        if world.instance.now() - began[burst] > 1800:
            release(burst)

    world.provider.release = slow  # type: ignore[method-assign]
    world.submit(4)
    world.run(6 * 3600)
    return world


def test_a_release_that_takes_half_an_hour_stays_within_the_budget() -> None:
    world = slow_world(budget=6.0)
    assert Service(world.controller).budget({})["spent"] == 0.0  # it would have been $11.76
    world = slow_world(budget=13.0)
    spent = Service(world.controller).budget({})["spent"]
    assert world.provider.rents == 1
    assert 0.0 < spent <= 13.0  # type: ignore[operator]


def test_a_job_may_say_no_in_the_queue_for_bursts() -> None:
    for place, value in (("system", False), ("user", False), ("user", 0)):
        world = World(queue="burst")
        spec = job_of(4)
        spec["attributes"]["system"]["queue"] = "burst"
        del spec["attributes"]["system"]["burstable"]
        spec["attributes"][place]["burstable"] = value
        world.instance.submit(spec)
        world.run(60)
        assert not world.provider.rented, (place, value)


def test_a_job_that_says_nothing_bursts_in_the_queue_for_bursts() -> None:
    world = World(queue="burst")
    spec = job_of(4)
    spec["attributes"]["system"]["queue"] = "burst"
    del spec["attributes"]["system"]["burstable"]
    world.instance.submit(spec)
    world.run(60)
    assert world.provider.rented
