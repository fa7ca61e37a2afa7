"""Catalogs of node types: figures are checked, and errors name the key and the way out."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
import yaml

from flux_flex.burst.catalog import Catalog, NodeType, parse_catalog
from flux_flex.errors import BadInput
from flux_flex.pydantic_errors import bad_input

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "burst-queue" / "catalog.yaml"


def node_type(**changes: object) -> dict[str, object]:
    figures: dict[str, object] = {
        "name": "c7i.4xlarge",
        "cores": 8,
        "vcpus": 16,
        "gpus": 0,
        "memory_gib": 32,
        "network_gbps": 6.25,
        "price_per_hour_usd": 0.714,
    }
    return figures | changes


def catalog(*types: object, **changes: object) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "source": "made up for a test",
        "date": "2026-11-23",
        "region": "us-east-2",
        "currency": "USD",
        "types": list(types) or [node_type()],
    }
    return figures | changes


def refusal(value: object) -> BadInput:
    with pytest.raises(BadInput) as refused:
        parse_catalog(value)
    assert "\n" not in refused.value.what + refused.value.where
    assert refused.value.remedy
    return refused.value


def test_example_catalog_has_the_types_that_the_example_rents() -> None:
    example = parse_catalog(yaml.safe_load(EXAMPLE.read_text()))
    assert (example.region, example.date) == ("us-east-2", datetime.date(2026, 11, 23))
    figures = {
        node_type.name: (node_type.cores, node_type.vcpus, node_type.gpus, node_type.efa)
        for node_type in example.types
    }
    assert figures == {
        "hpc7a.96xlarge": (192, 192, 0, 2),
        "hpc7a.12xlarge": (24, 24, 0, 2),
        "hpc6id.32xlarge": (64, 64, 0, 2),
        "c7i.4xlarge": (8, 16, 0, 0),
        "c7i.48xlarge": (96, 192, 0, 1),
        "p5.48xlarge": (96, 192, 8, 32),
    }


def test_catalog_gives_a_type_by_name_and_suggests_the_nearest() -> None:
    found = parse_catalog(catalog())
    assert found.get("c7i.4xlarge").cores == 8
    with pytest.raises(BadInput, match=r"no node type 'c7i\.4xlarg'") as refused:
        found.get("c7i.4xlarg")
    assert refused.value.remedy == "did you mean 'c7i.4xlarge'?"
    with pytest.raises(BadInput) as refused:
        found.get("zzz")
    assert refused.value.remedy == "it has: c7i.4xlarge"


def test_catalog_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        parse_catalog(catalog()).types[0].cores = 9


def test_negative_price_is_refused_at_its_key() -> None:
    refused = refusal(catalog(node_type(name="a"), node_type(price_per_hour_usd=-1.5)))
    assert refused.where == "types[1].price_per_hour_usd"
    assert refused.what == "should be greater than or equal to 0, not -1.5"
    assert refused.remedy == "price of one node for an hour in USD, 0 or more"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "C7i.4xlarge"),
        ("name", "c7i.4xlarge\n"),
        ("name", "-c7i"),
        ("name", "x" * 64),
        ("cores", 0),
        ("cores", 4097),
        ("cores", "8"),
        ("cores", True),
        ("cores", 8.5),
        ("cores", None),
        pytest.param("cores", 1 << 20_000, id="cores-more-digits-than-python-writes"),
        ("cores", [8]),
        ("vcpus", 7),
        ("gpus", -1),
        ("efa", -1),
        ("memory_gib", 0),
        ("memory_gib", float("nan")),
        ("network_gbps", float("inf")),
        ("price_per_hour_usd", float("inf")),
        ("price_per_hour_usd", float("nan")),
        ("price_per_hour_usd", "0.7"),
        ("properties", "efa"),
    ],
)
def test_figure_out_of_range_is_refused_at_its_key(key: str, value: object) -> None:
    assert refusal(catalog(node_type(**{key: value}))).where == f"types[0].{key}"


def test_vcpus_below_cores_are_refused_in_words() -> None:
    assert refusal(catalog(node_type(vcpus=7))).what == "7 vcpus are fewer than the 8 cores"


def test_property_that_a_constraint_could_not_name_is_refused() -> None:
    assert parse_catalog(catalog(node_type(properties=["efa"]))).types[0].properties == ("efa",)
    refused = refusal(catalog(node_type(properties=["efa", "a|b"])))
    assert refused.where == "types[0].properties[1]"


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"types": []}, "types", "at least 1 item"),
        ({"types": [node_type(), node_type()]}, "types", "2 node types are called c7i.4xlarge"),
        ({"types": {}}, "types", "valid tuple"),
        ({"types": ["c7i"]}, "types[0]", "should be a mapping of keys, not str"),
        ({"currency": "EUR"}, "currency", "should be 'USD', not 'EUR'"),
        ({"source": ""}, "source", "at least 1 character"),
        ({"region": "Ohio"}, "region", "not of the form"),
        ({"date": "yesterday"}, "date", "valid date"),
        ({"date": 20261123}, "date", "should be a date written 2026-11-23"),
        ({"date": datetime.datetime(2026, 11, 23, 1)}, "date", "should be a date written"),
    ],
)
def test_bad_catalog_is_refused_at_its_key(
    changes: dict[str, object], where: str, what: str
) -> None:
    refused = refusal(catalog(**changes))
    assert refused.where == where
    assert what in refused.what


@pytest.mark.parametrize("value", [None, [], "types", 7])
def test_document_that_is_no_mapping_is_refused(value: object) -> None:
    refused = refusal(value)
    assert refused.what == f"should be a mapping of keys, not {type(value).__name__}"
    assert refused.remedy == "known keys: source, date, region, currency, types"


def test_unknown_key_is_answered_with_the_nearest_key_of_that_table() -> None:
    refused = refusal(catalog(node_type(network_gbp=1)))
    assert (refused.what, refused.where) == ("unknown key", "types[0].network_gbp")
    assert refused.remedy == "did you mean 'network_gbps'?"
    refused = refusal(catalog(sauce="x"))
    assert (refused.where, refused.remedy) == ("sauce", "did you mean 'source'?")
    refused = refusal(catalog(zzz="x"))
    assert refused.remedy == "known keys: source, date, region, currency, types"


def test_misspelt_key_is_reported_rather_than_the_key_it_leaves_missing() -> None:
    misspelt = node_type(price_per_hour=1.0)
    del misspelt["price_per_hour_usd"]
    refused = refusal(catalog(misspelt))
    assert refused.where == "types[0].price_per_hour"
    assert refused.remedy == "did you mean 'price_per_hour_usd'?"


def test_missing_key_is_named_with_its_meaning() -> None:
    short = node_type()
    del short["cores"]
    refused = refusal(catalog(short))
    assert (refused.what, refused.where) == ("the key is missing", "types[0].cores")
    assert refused.remedy == "physical cores of one node, 1 to 4096"


@pytest.mark.parametrize("key", ["two\nlines", "a.b", "x" * 5000, "", 7, None])
def test_hostile_key_still_gives_one_short_line(key: object) -> None:
    refused = refusal(catalog() | {key: 1})
    assert len(str(refused.where)) < 80


class Local(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["local"]
    brokers: int = 1


class Eks(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["eks"]
    cluster: str = pydantic.Field(alias="cluster-name", default="")
    labels: dict[str, int] = {}


class Scenario(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    node: NodeType | None = None
    provider: Annotated[Local | Eks, pydantic.Field(discriminator="kind")] | None = None
    either: Local | Eks | int | None = None
    by_name: dict[str, NodeType] = {}
    pair: tuple[int, NodeType] | None = None
    sizes: dict[int, int] = {}


@pytest.mark.parametrize(
    ("value", "where", "remedy"),
    [
        ({"node": node_type(gpu=1)}, "node.gpu", "did you mean 'gpus'?"),
        (
            {"provider": {"kind": "local", "broker": 3}},
            "provider.broker",
            "did you mean 'brokers'?",
        ),
        (
            {"provider": {"kind": "eks", "cluster_name": "c"}},
            "provider.cluster_name",
            "did you mean 'cluster-name'?",
        ),
        ({"provider": {"kind": "eks", "labels": {"a b": "x"}}}, 'provider.labels["a b"]', ""),
        ({"either": {"kind": "local", "broker": 3}}, "either.broker", "did you mean 'brokers'?"),
        ({"by_name": {"x": node_type(efas=1)}}, "by_name.x.efas", "did you mean 'efa'?"),
        ({"pair": [1, node_type(efas=1)]}, "pair[1].efas", "did you mean 'efa'?"),
        ({"sizes": {"many": 1}}, "sizes.many", ""),
    ],
)
def test_unknown_key_is_found_in_any_nesting_of_models(
    value: object, where: str, remedy: str
) -> None:
    with pytest.raises(pydantic.ValidationError) as invalid:
        Scenario.model_validate(value)
    said = bad_input(invalid.value, Scenario)
    assert (said.where, said.remedy) == (where, remedy)


def test_catalog_survives_a_round_through_json() -> None:
    before = parse_catalog(catalog(node_type(properties=["efa"])))
    assert Catalog.model_validate_json(before.model_dump_json()) == before
