"""The burst configuration: defaults, and what is refused with which place and remedy."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from flux_flex.burst.config import BurstConfig, parse_burst_config
from flux_flex.errors import BadInput

TYPE = {
    "name": "c7i.4xlarge",
    "cores": 8,
    "vcpus": 16,
    "gpus": 0,
    "memory_gib": 32.0,
    "network_gbps": 6.25,
    "price_per_hour_usd": 0.714,
}
LEAST: dict[str, Any] = {"providers": [{"name": "eks", "types": [TYPE]}]}
MINICLUSTER = {
    "image": "ghcr.io/example/flux:0.88",
    "lead": {"address": "203.0.113.7", "name": "lead0"},
    "curve_secret": "flux-curve",
}


def parsed(path: str = "", value: object = None) -> BurstConfig:
    """The least configuration with one key set, given by its path, such as limits.nodes."""
    document = copy.deepcopy({**LEAST, "minicluster": MINICLUSTER, "limits": {}})
    place: Any = document
    *above, last = path.split(".") if path else [""]
    for key in above:
        place = place[int(key)] if key.isdecimal() else place[key]
    if last:
        place[last] = value
    return parse_burst_config(document)


def refused(path: str, value: object) -> BadInput:
    with pytest.raises(BadInput) as error:
        parsed(path, value)
    return error.value


# ---- defaults


@pytest.mark.parametrize(
    ("path", "default"),
    [
        ("threshold", 600.0),
        ("idle_timeout", 300.0),
        ("depth", 32),
        ("efa_from_nodes", 0),
        ("minicluster", None),
        ("limits.nodes", None),
        ("limits.cost_per_hour", None),
        ("limits.budget", None),
        ("limits.period", 30 * 86400.0),
        ("limits.per_user", None),
        ("limits.types", None),
    ],
)
def test_what_is_left_out_has_its_default(path: str, default: object) -> None:
    found: Any = parse_burst_config(LEAST)
    for key in path.split("."):
        found = getattr(found, key)
    assert found == default


def test_provider_and_minicluster_have_their_defaults() -> None:
    config = parsed()
    assert config.providers[0].boot == 360.0
    said = config.minicluster
    assert said is not None
    assert (said.lead.port, said.munge_secret, said.namespace, said.command) == (
        8050,
        "",
        "default",
        "",
    )


def test_every_key_has_a_sentence() -> None:
    models: list[Any] = [BurstConfig]
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
        if model is BurstConfig:
            config = parsed()
            models += [type(config.limits), type(config.providers[0]), type(config.minicluster)]


# ---- values


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("10m", 600.0), (600, 600.0), ("1.5h", 5400.0), (0.5, 0.5), ("30d", 2592e3)],
)
@pytest.mark.parametrize("path", ["threshold", "idle_timeout", "providers.0.boot", "limits.period"])
def test_durations_are_seconds_or_text_with_a_unit(
    path: str, value: object, seconds: float
) -> None:
    found: Any = parsed(path, value)
    for key in path.split("."):
        found = found[int(key)] if key.isdecimal() else getattr(found, key)
    assert found == seconds


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("threshold", float("nan"), "a duration of nan"),
        ("threshold", float("inf"), "a duration of inf"),
        ("threshold", -1, "a duration of -1"),
        ("idle_timeout", "ten minutes", "'ten minutes' is no duration"),
        ("idle_timeout", True, "bool is no duration"),
        ("idle_timeout", None, "NoneType is no duration"),
        ("limits.period", 0, "should be greater than 0"),
        ("limits.nodes", -1, "greater than or equal to 0"),
        ("limits.nodes", 100_001, "less than or equal to 100000"),
        ("limits.nodes", 2.5, "not 2.5"),
        ("limits.nodes", True, "valid integer"),
        ("limits.nodes", "4", "valid integer"),
        ("limits.budget", -0.01, "greater than or equal to 0"),
        ("limits.budget", float("nan"), "finite number"),
        ("limits.cost_per_hour", float("inf"), "finite number"),
        ("limits.per_user", -1, "greater than or equal to 0"),
        ("depth", 0, "greater than or equal to 1"),
        ("efa_from_nodes", -1, "greater than or equal to 0"),
        ("providers", [], "at least 1 item"),
        ("providers.0.name", "EKS", "not of the form"),
        ("providers.0.types", [], "at least 1 item"),
        ("providers.0.types.0.price_per_hour_usd", -1.0, "greater than or equal to 0"),
        ("minicluster.lead.port", 0, "greater than or equal to 1"),
        ("minicluster.lead.port", 65536, "less than or equal to 65535"),
    ],
)
def test_a_bad_value_is_refused_with_its_place_and_a_remedy(
    path: str, value: object, what: str
) -> None:
    error = refused(path, value)
    assert error.where == path.replace(".0", "[0]")
    assert what in error.what
    assert error.remedy or "write seconds" in error.what
    assert str(error).count("\n") <= 1


@pytest.mark.parametrize(
    ("path", "where", "nearest"),
    [
        ("treshold", "treshold", "threshold"),
        ("idle_time", "idle_time", "idle_timeout"),
        ("limits.node", "limits.node", "nodes"),
        ("limits.cost_per_hours", "limits.cost_per_hours", "cost_per_hour"),
        ("providers.0.boots", "providers[0].boots", "boot"),
        ("minicluster.lead.adress", "minicluster.lead.adress", "address"),
        ("minicluster.curve_secrets", "minicluster.curve_secrets", "curve_secret"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(path: str, where: str, nearest: str) -> None:
    error = refused(path, 1)
    assert (error.what, error.where) == ("unknown key", where)
    assert error.remedy == f"did you mean {nearest!r}?"


def test_missing_providers_are_asked_for() -> None:
    with pytest.raises(BadInput) as error:
        parse_burst_config({})
    assert (error.value.where, error.value.what) == ("providers", "the key is missing")
    assert error.value.remedy == "where nodes come from"


@pytest.mark.parametrize("value", [None, [], "eks", 3])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="should be a mapping"):
        parse_burst_config(value)


def test_a_limit_to_types_that_no_provider_has_is_refused() -> None:
    assert parsed("limits.types", ["c7i.4xlarge"]).limits.types == ("c7i.4xlarge",)
    error = refused("limits.types", ["c7i.4xlarge", "p5.48xlarge"])
    assert error.what == (
        "limits.types names 'p5.48xlarge', which no provider has: c7i.4xlarge"
    )  # fmt: skip


def test_providers_have_different_names() -> None:
    one = {"name": "eks", "types": [TYPE]}
    assert len(parsed("providers", [one, {**one, "name": "other"}]).providers) == 2
    assert refused("providers", [one, one]).what == "two providers have one name: eks, eks"


def test_types_of_one_provider_have_different_names() -> None:
    error = refused("providers.0.types", [TYPE, {**TYPE, "price_per_hour_usd": 1.0}])
    assert error.where == "providers[0].types"
    assert error.what == "two node types have one name: c7i.4xlarge, c7i.4xlarge"


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed().depth = 3
