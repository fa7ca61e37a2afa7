"""What an instance is started with: the placeholders in R, the hosts, and options of brokers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.burst.bootstrap import (
    Lead,
    follower_options,
    follower_toml,
    hosts_of,
    lead_options,
    lead_toml,
    placeholder_r,
    with_cores,
)
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.slots import Slot
from flux_flex.errors import BadInput
from flux_flex.model.rv1 import parse_r

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AMD = NodeType(
    name="hpc7a.12xlarge", cores=24, vcpus=24, gpus=0, memory_gib=768.0, network_gbps=300.0,
    price_per_hour_usd=7.2, properties=("amd", "efa"),
)  # fmt: skip
GPU = AMD.model_copy(
    update={"name": "p5.48xlarge", "cores": 96, "gpus": 8, "vcpus": 192, "properties": ("efa",)}
)
SLOTS = (
    Slot("hpc7a-0", AMD.name, ("hpc7a-0-0", "hpc7a-0-1")),
    Slot("hpc7a-1", AMD.name, ("hpc7a-1-0", "hpc7a-1-1")),
    Slot("p5-0", GPU.name, ("p5-0-0",)),
)
LEAD = Lead("lead", "203.0.113.7")
HOSTS = ("lead", "own1", "own2", "hpc7a-0-0", "hpc7a-0-1", "hpc7a-1-0", "hpc7a-1-1", "p5-0-0")


def own(**changes: Any) -> dict[str, Any]:
    execution = {
        "R_lite": [{"rank": "0-2", "children": {"core": "0-7"}}],
        "nodelist": ["lead,own[1-2]"],
        "starttime": 10.0,
        "expiration": 20.0,
        "properties": {"rack0": "1-2"},
    }
    return {"version": 1, "execution": {**execution, **changes}}


# -- R


def test_placeholders_follow_the_own_hosts_with_what_their_types_have() -> None:
    R = placeholder_r(own(), "lead", SLOTS, [AMD, GPU])
    found = parse_r(R)
    assert hosts_of(R) == HOSTS
    assert [target.rank for target in found.ranks] == [*range(8)]
    assert found.ranks[:3] == parse_r(own()).ranks
    assert (found.starttime, found.expiration) == (10.0, 20.0)
    amd, gpu = found.ranks[3], found.ranks[7]
    assert (amd.cores, amd.gpus) == (tuple(range(24)), ())
    assert set(amd.properties) == {"hpc7a.12xlarge", "amd", "efa"}
    assert (len(gpu.cores), gpu.gpus) == (96, tuple(range(8)))
    assert R["execution"] == {
        "R_lite": [
            {"rank": "0-2", "children": {"core": "0-7"}},
            {"rank": "3-6", "children": {"core": "0-23"}},
            {"rank": "7", "children": {"core": "0-95", "gpu": "0-7"}},
        ],
        "starttime": 10.0,
        "expiration": 20.0,
        "nodelist": ["lead,own[1-2],hpc7a-0-[0-1],hpc7a-1-[0-1],p5-0-0"],
        "properties": {
            "amd": "3-6",
            "efa": "3-7",
            "hpc7a.12xlarge": "3-6",
            "p5.48xlarge": "7",
            "rack0": "1-2",
        },
    }


def test_without_slots_r_stays_as_it_is() -> None:
    assert parse_r(placeholder_r(own(), "lead", (), ())) == parse_r(own())


def test_brokers_that_only_stand_for_a_type_may_have_fewer_cores() -> None:
    small = with_cores(AMD, 2)
    assert (small.name, small.cores, small.vcpus) == (AMD.name, 2, 2)
    assert with_cores(AMD, 0) is AMD


@pytest.mark.parametrize(
    ("R", "said"),
    [
        ([], "not an object"),
        (own(nodelist=["own[0-2]"]), "the lead is lead, but R begins with own0"),
        (own(nodelist=["own1,lead,own2"]), "but R begins with own1"),
        (own(nodelist=["lead,own1,own1"]), "own1 is there twice"),
        (own(nodelist=["lead,own1,hpc7a-1-0"]), "hpc7a-1-0 is there twice"),
        (
            own(R_lite=[{"rank": "0,2-3", "children": {"core": "0"}}], properties={}),
            "leaves out rank 1",
        ),
        (own(R_lite=[{"rank": "1-3", "children": {"core": "0"}}]), "leaves out rank 0"),
        ({**own(), "scheduling": {"graph": {}}}, "a graph for the scheduler"),
        (own(R_lite=[], nodelist=[], properties={}), "R begins with nothing"),
    ],
)
def test_an_r_to_which_nothing_can_be_added_is_refused(R: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said) as got:
        placeholder_r(R, "lead", SLOTS, [AMD, GPU])
    assert got.value.remedy


def test_a_slot_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(BadInput, match="no node type") as got:
        placeholder_r(own(), "lead", SLOTS, [AMD])
    assert got.value.where == "slot p5-0"


# -- configuration


def test_all_brokers_have_one_list_of_hosts_and_only_own_ones_have_r() -> None:
    leading = tomllib.loads(lead_toml(HOSTS, LEAD, "/etc/curve.cert", "/etc/R.json"))
    joining = tomllib.loads(follower_toml(HOSTS, LEAD, "/etc/curve.cert"))
    rest = [
        {"host": "own[1-2]"},
        {"host": "hpc7a-0-[0-1]"},
        {"host": "hpc7a-1-[0-1]"},
        {"host": "p5-0-0"},
    ]
    first = {"host": "lead", "connect": "tcp://203.0.113.7:8050"}
    assert joining == {
        "resource": {"noverify": True},
        "tbon": {"topo": "kary:0"},
        "bootstrap": {"curve_cert": "/etc/curve.cert", "hosts": [first, *rest]},
    }
    assert leading == {
        "resource": {"path": "/etc/R.json"},
        "tbon": {"topo": "kary:0"},
        "bootstrap": {
            "curve_cert": "/etc/curve.cert",
            "hosts": [{**first, "bind": "tcp://*:8050"}, *rest],
        },
    }


@pytest.mark.parametrize(
    ("address", "endpoint", "bind"),
    [
        ("127.0.0.1", "tcp://127.0.0.1:8050", "tcp://127.0.0.1:8050"),
        ("::1", "tcp://[::1]:8050", "tcp://[::1]:8050"),
        ("2001:db8::7", "tcp://[2001:db8::7]:8050", "tcp://*:8050"),
        ("lead.example.org", "tcp://lead.example.org:8050", "tcp://*:8050"),
    ],
)
def test_the_lead_listens_everywhere_unless_it_is_alone(
    address: str, endpoint: str, bind: str
) -> None:
    lead = Lead("lead", address)
    assert (lead.endpoint, lead.bind) == (endpoint, bind)
    table = tomllib.loads(lead_toml(["lead"], lead, "/c", "/R"))["bootstrap"]
    assert table.get("enable_ipv6", False) is (":" in address)


def test_a_lead_that_is_not_rank_0_is_refused() -> None:
    for hosts in ((), ("own1", "lead")):
        with pytest.raises(BadInput, match="not the first host"):
            follower_toml(hosts, LEAD, "/etc/curve.cert")


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1))
def test_any_path_comes_out_of_toml_as_it_went_in(path: str) -> None:
    found = tomllib.loads(lead_toml(["lead"], LEAD, path, path))
    assert (found["bootstrap"]["curve_cert"], found["resource"]["path"]) == (path, path)


def test_options_of_brokers() -> None:
    assert lead_options(3, "/c/broker.toml") == (
        "-Sbroker.quorum=3",
        "--config-path=/c/broker.toml",
    )
    assert follower_options("a-0-0", "/c/b.toml") == ("-Shostname=a-0-0", "--config-path=/c/b.toml")
    assert follower_options("a-0-0", "/c/b.toml", "/run/x")[1] == "-Srundir=/run/x"
