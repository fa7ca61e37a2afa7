"""Recorded EC2 answers: hosts find their instance and place, malformed answers are refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.network import NetworkTree
from flux_flex.topology.answers import (
    Answers,
    InstanceShape,
    merged,
    read_answers,
    read_types,
)
from flux_flex.topology.mapping import Network, read_places

RECORDED = Path(__file__).resolve().parents[2] / "examples" / "burst-queue"
HOSTS = [f"compute{rank}" for rank in range(16)]


def recorded(call: str) -> Any:
    return json.loads((RECORDED / f"{call}.json").read_text())


@pytest.fixture
def instances() -> Any:
    return recorded("describe-instances")


@pytest.fixture
def topology() -> Any:
    return recorded("describe-instance-topology")


def instance(instance_id: str, **keys: object) -> dict[str, object]:
    return {"InstanceId": instance_id, **keys}


def reservation(*members: dict[str, object]) -> dict[str, object]:
    return {"Reservations": [{"Instances": list(members)}]}


def located(*instance_ids: str, nodes: tuple[str, ...] = ("nn-1", "nn-2")) -> dict[str, Any]:
    return {
        "Instances": [
            {
                "InstanceId": instance_id,
                "InstanceType": "hpc7a.12xlarge",
                "NetworkNodes": list(nodes),
                "AvailabilityZone": "us-east-2b",
            }
            for instance_id in instance_ids
        ]
    }


def test_recorded_cluster_is_mapped_whole_and_in_order(instances: Any, topology: Any) -> None:
    mapping = read_places(instances, topology, HOSTS)
    assert [place.host for place in mapping.places] == HOSTS
    assert mapping.unmapped == ()
    assert {place.instance_type for place in mapping.places} == {"hpc7a.12xlarge"}
    tree = NetworkTree.from_places(mapping.places)
    assert [len(layer) for layer in tree.layers] == [1, 2, 4]
    assert tree.span(HOSTS).diameter == 6
    assert tree.hops("compute7", "compute15") == 2  # both under nn-fae923d5a4fd12aab
    assert tree.hops("compute7", "compute13") == 4
    assert tree.hops("compute7", "compute1") == 6


@pytest.mark.parametrize(
    "host",
    [
        "i-0c3fc1626e53a1304",
        "ip-10-0-0-17.us-east-2.compute.internal",
        "ip-10-0-0-17",
        "10.0.0.17",
        "compute7",
    ],
)
def test_host_goes_by_any_name_of_its_instance(host: str, instances: Any, topology: Any) -> None:
    (place,) = read_places(instances, topology, [host]).places
    assert (place.host, place.instance_id) == (host, "i-0c3fc1626e53a1304")
    assert place.network_nodes[-1] == "nn-fae923d5a4fd12aab"


def test_host_that_no_instance_goes_by_is_returned_apart(instances: Any, topology: Any) -> None:
    mapping = read_places(instances, topology, ["login1", "compute3", "compute3", ""])
    assert [place.host for place in mapping.places] == ["compute3"]
    assert mapping.unmapped == ("login1", "")


def test_without_instances_only_instance_ids_are_mapped(topology: Any) -> None:
    mapping = read_places(None, topology, ["compute7", "i-0c3fc1626e53a1304"])
    assert [place.host for place in mapping.places] == ["i-0c3fc1626e53a1304"]
    assert mapping.unmapped == ("compute7",)


def test_instance_that_the_topology_does_not_list_leaves_its_host_unmapped() -> None:
    known = reservation(instance("i-1", PrivateIpAddress="10.0.0.1"))
    assert read_places(known, located("i-2"), ["10.0.0.1"]) == Network((), ("10.0.0.1",))


def test_instance_without_network_nodes_is_placed_in_its_zone() -> None:
    (place,) = read_places(None, located("i-1", nodes=()), ["i-1"]).places
    assert (place.network_nodes, place.zone) == ((), "us-east-2b")


def named(instance_id: str, name: str, state: str = "running") -> dict[str, object]:
    tags = [{"Key": "Owner", "Value": "x"}, {"Key": "Name", "Value": name}]
    return instance(instance_id, Tags=tags, State={"Name": state})


def test_two_instances_that_claim_one_host_are_refused() -> None:
    both = reservation(named("i-1", "node1"), named("i-2", "node1"))
    with pytest.raises(BadInput, match="'node1' is claimed by the instances i-1, i-2"):
        read_places(both, located("i-1", "i-2"), ["node1"])
    # Nobody asks for node1 here, so nothing is ambiguous.
    assert read_places(both, located("i-1", "i-2"), ["i-1"]).places[0].host == "i-1"


def test_name_tag_that_is_another_instances_id_is_refused_as_a_second_claim() -> None:
    with pytest.raises(BadInput, match="claimed by the instances i-1, i-2"):
        read_places(reservation(named("i-2", "i-1")), located("i-1", "i-2"), ["i-1"])


@pytest.mark.parametrize("state", ["terminated", "shutting-down"])
def test_replaced_instance_no_longer_claims_its_host(state: str) -> None:
    both = reservation(named("i-1", "node1", state), named("i-2", "node1"))
    (place,) = read_places(both, located("i-2"), ["node1"]).places
    assert place.instance_id == "i-2"


def test_same_record_twice_is_one_instance_and_a_different_one_is_refused() -> None:
    twice = located("i-1", "i-1")
    assert len(read_places(None, twice, ["i-1"]).places) == 1
    twice["Instances"][1]["NetworkNodes"] = ["nn-9"]
    with pytest.raises(BadInput, match="listed before with other values") as refused:
        read_places(None, twice, ["i-1"])
    assert refused.value.where == "describe-instance-topology: Instances[1]"


TOPOLOGY_FAULTS: list[tuple[object, str, str]] = [
    (None, "expected a JSON object, found NoneType", ""),
    ([], "expected a JSON object, found list", ""),
    ({}, "the key Instances is missing", ""),
    ({"Instances": {}}, "expected a JSON list", ": Instances"),
    ({"Instances": [3]}, "expected a JSON object, found int", ": Instances[0]"),
    ({"Instances": [{}]}, "the key InstanceId is missing", ": Instances[0]"),
    ({"Instances": [], "NextToken": "x"}, "one page of several", ": NextToken"),
]


@pytest.mark.parametrize(("answer", "what", "place"), TOPOLOGY_FAULTS)
def test_malformed_topology_is_refused_with_its_key_path(
    answer: object, what: str, place: str
) -> None:
    with pytest.raises(BadInput) as refused:
        read_places(None, answer, [])
    assert what in refused.value.what
    assert refused.value.where == f"describe-instance-topology{place}"
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "what", "place"),
    [
        ("InstanceId", 7, "expected a JSON string, found int", ".InstanceId"),
        ("InstanceId", "i-1\nspoof", "'i-1\\nspoof' is not an EC2 name", ".InstanceId"),
        ("InstanceType", "", "'' is not an EC2 name", ".InstanceType"),
        ("AvailabilityZone", "../etc", "is not an EC2 name", ".AvailabilityZone"),
        ("AvailabilityZone", None, "expected a JSON string", ".AvailabilityZone"),
        ("NetworkNodes", "nn-1", "expected a JSON list, found str", ".NetworkNodes"),
        ("NetworkNodes", ["nn-1", 2], "expected a JSON string", ".NetworkNodes[1]"),
        ("NetworkNodes", ["nn-1"] * 33, "33 network nodes", ".NetworkNodes"),
    ],
)
def test_malformed_topology_record_is_refused_with_its_key_path(
    key: str, value: object, what: str, place: str
) -> None:
    answer = located("i-0", "i-1")
    answer["Instances"][1][key] = value
    with pytest.raises(BadInput) as refused:
        read_places(None, answer, ["i-1"])
    assert what in refused.value.what
    assert refused.value.where == f"describe-instance-topology: Instances[1]{place}"
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        ({"Reservations": 1}, ": Reservations"),
        ({"Reservations": ["x"]}, ": Reservations[0]"),
        ({"Reservations": [{"Instances": "x"}]}, ": Reservations[0].Instances"),
        (reservation(instance("i-1", State=[])), ": Reservations[0].Instances[0].State"),
        (
            reservation(instance("i-1", PrivateDnsName=4)),
            ": Reservations[0].Instances[0].PrivateDnsName",
        ),
        (reservation(instance("i-1", Tags={})), ": Reservations[0].Instances[0].Tags"),
        (
            reservation(instance("i-1", Tags=[{"Key": "Name", "Value": []}])),
            ": Reservations[0].Instances[0].Tags[0].Value",
        ),
    ],
)
def test_malformed_instances_are_refused_with_their_key_path(answer: object, where: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_places(answer, located("i-1"), ["i-1"])
    assert refused.value.where == f"describe-instances{where}"


def test_lists_and_objects_that_are_null_are_as_good_as_missing() -> None:
    null = instance("i-1", Tags=None, State=None)
    answer = located("i-1")
    answer["Instances"][0]["NetworkNodes"] = None
    known = {"Reservations": [{"Instances": None}, {"Instances": [null]}]}
    (place,) = read_places(known, answer, ["i-1"]).places
    assert place.network_nodes == ()
    shapes: dict[str, InstanceShape] = {}
    shape = {
        "InstanceType": "t",
        "VCpuInfo": {"DefaultCores": 2},
        "MemoryInfo": {"SizeInMiB": 1},
        "GpuInfo": {"Gpus": None},
    }
    read_types({"InstanceTypes": [shape]}, "types", shapes)
    assert shapes["t"].gpus == 0


def answers(*members: dict[str, object], nodes: tuple[str, ...] = ("nn-1",)) -> Answers:
    return read_answers([("x", {**reservation(*members), **located("i-1", nodes=nodes)})])


def test_of_answers_that_overlap_the_later_instance_and_one_place_hold() -> None:
    before, after = (answers(named("i-1", "a", state)) for state in ("pending", "running"))
    assert merged([before, after]).instances["i-1"].state == "running"
    with pytest.raises(BadInput, match="disagree on i-1") as got:
        merged([before, answers(nodes=("nn-2",))])
    assert "--max-age 0" in got.value.remedy


def test_a_type_of_which_nothing_that_runs_is_located_has_no_topology() -> None:
    def of_type(one: str, kind: str, state: str = "running") -> dict[str, object]:
        return instance(one, InstanceType=kind, State={"Name": state})

    found = answers(
        of_type("i-1", "hpc7a.12xlarge"), of_type("i-2", "hpc7a.12xlarge"),
        of_type("i-3", "t3.nano"), of_type("i-4", "c7i.large"), of_type("i-5", "c7i.large"),
        of_type("i-6", "p5.48xlarge", "stopped"), of_type("i-7", "m7.large", "terminated"),
        instance("i-8"),
    )  # fmt: skip
    assert found.types_without_topology() == ("c7i.large", "t3.nano")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(JSON, JSON, st.sampled_from(["InstanceId", "State", "Tags", "PrivateDnsName"]))
def test_no_answer_breaks_the_reader(anything: object, value: object, key: str) -> None:
    shaped = reservation(instance("i-1", **{key: value}))
    for first, second in ((anything, located("i-1")), (shaped, anything), (shaped, located("i-1"))):
        # Anything but BadInput fails the test.
        with contextlib.suppress(BadInput):
            mapping = read_places(first, second, ["i-1", "compute1"])
            assert len(mapping.places) + len(mapping.unmapped) == 2
