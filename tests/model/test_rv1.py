"""R version 1 (RFC 20): in, out, and what is refused with which key path."""

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import assert_reads_as_one_line

from flux_flex.errors import BadInput
from flux_flex.model.rv1 import (
    RankResources,
    ResourceSet,
    parse_r,
    parse_resource_summary,
)

# `flux resource R` of flux-core 0.88.0 with 16 fake nodes of 8 cores
REAL: dict[str, Any] = {
    "version": 1,
    "execution": {
        "R_lite": [{"rank": "0-15", "children": {"core": "0-7"}}],
        "starttime": 0.0,
        "expiration": 0.0,
        "nodelist": ["compute[0-15]"],
    },
}


def r_of(*entries: tuple[str, dict[str, str]], hosts: str, **execution: object) -> dict[str, Any]:
    r_lite = [{"rank": rank, "children": children} for rank, children in entries]
    return {"version": 1, "execution": {"R_lite": r_lite, "nodelist": [hosts], **execution}}


def with_key(path: str, value: object) -> dict[str, Any]:
    """REAL with the key at the dotted ``path`` set to ``value``."""
    r = copy.deepcopy(REAL)
    *parents, last = path.split(".")
    inner: Any = r
    for key in parents:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    inner[last] = value
    return r


def without_key(path: str) -> dict[str, Any]:
    r = with_key(path, None)
    *parents, last = path.split(".")
    inner: Any = r
    for key in parents:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    del inner[last]
    return r


def test_r_of_a_real_system_survives_the_round_trip() -> None:
    resources = parse_r(REAL)
    assert [target.host for target in resources.ranks] == [f"compute{i}" for i in range(16)]
    assert resources.ranks[3] == RankResources(3, "compute3", tuple(range(8)), ())
    assert resources.to_r() == REAL


def test_rfc20_example_is_read() -> None:
    resources = parse_r(
        r_of(
            ("19-22", {"core": "0-47", "gpu": "0-7"}),
            hosts="node[186-189]",
            nslots=32,
            starttime=1676560542,
            expiration=1676562342,
        )
    )
    assert resources.nslots == 32
    assert resources.expiration - resources.starttime == 1800.0
    assert resources.ranks[3].host == "node189"
    assert resources.ranks[3].gpus == tuple(range(8))
    assert parse_r(resources.to_r()) == resources


def test_hosts_follow_ascending_ranks_not_the_order_of_r_lite() -> None:
    resources = parse_r(
        r_of(("2-3", {"core": "0"}), ("0-1", {"core": "0-1"}), hosts="d,c,b,a"),
    )
    assert [(t.rank, t.host, len(t.cores)) for t in resources.ranks] == [
        (0, "d", 2),
        (1, "c", 2),
        (2, "b", 1),
        (3, "a", 1),
    ]


def test_several_ranks_may_share_a_host() -> None:
    resources = parse_r(r_of(("0-1", {"core": "0"}), hosts="laptop,laptop"))
    assert [t.host for t in resources.ranks] == ["laptop", "laptop"]
    assert resources.to_r()["execution"]["nodelist"] == ["laptop,laptop"]  # type: ignore[index]


def test_equal_ranks_fold_into_one_entry() -> None:
    targets = tuple(
        RankResources(rank, f"n{rank}", (0, 1), (0,) if rank == 2 else (), ("efa",))
        for rank in (3, 2, 1, 0)
    )
    assert ResourceSet(targets).to_r() == {
        "version": 1,
        "execution": {
            "R_lite": [
                {"rank": "0-1,3", "children": {"core": "0-1"}},
                {"rank": "2", "children": {"core": "0-1", "gpu": "0"}},
            ],
            "starttime": 0.0,
            "expiration": 0.0,
            "nodelist": ["n[0-3]"],
            "properties": {"efa": "0-3"},
        },
    }


def test_properties_reach_their_ranks_and_come_back() -> None:
    r = r_of(("0-2", {"core": "0"}), hosts="n[0-2]", properties={"spot": "1", "efa": "0-1"})
    resources = parse_r(r)
    assert [t.properties for t in resources.ranks] == [("efa",), ("efa", "spot"), ()]
    assert resources.to_r()["execution"]["properties"] == {"efa": "0-1", "spot": "1"}  # type: ignore[index]


def test_scheduling_key_rides_along_untouched() -> None:
    graph: dict[str, object] = {"graph": {"nodes": [], "edges": []}}
    resources = parse_r({**REAL, "scheduling": graph})
    assert resources.to_r()["scheduling"] is graph
    assert isinstance(hash(resources), int)


def test_attributes_ride_along_untouched() -> None:
    attributes = {"system": {"site": "blue"}}
    r = parse_r({**REAL, "attributes": attributes}).to_r()
    assert r["attributes"] is attributes
    assert "attributes" not in parse_r({**REAL, "attributes": None}).to_r()


def test_job_with_gpus_alone_may_leave_out_cores() -> None:
    resources = parse_r(r_of(("0", {"gpu": "0"}), hosts="n0"))
    assert (resources.ranks[0].cores, resources.ranks[0].gpus) == ((), (0,))
    assert parse_r(resources.to_r()) == resources


def test_r_of_nothing_needs_no_nodelist() -> None:
    nothing = parse_r({"version": 1, "execution": {"R_lite": []}})
    assert nothing.ranks == ()
    assert parse_r(nothing.to_r()) == nothing


def test_ranks_and_hosts_that_disagree_are_refused() -> None:
    with pytest.raises(BadInput) as refused:
        parse_r(with_key("execution.nodelist", ["compute[0-14]"]))
    assert refused.value.where == "execution.nodelist"
    assert refused.value.what == "ranks and hosts disagree: 16 ranks, 15 hosts"
    assert refused.value.remedy


CHILDREN = "execution.R_lite.0.children"


@pytest.mark.parametrize(
    ("r", "where", "what"),
    [
        ([], "R", "it is a list, not an object"),
        ({}, "R", "the key version is missing"),
        (with_key("version", 2), "version", "R version 2 is not known, only 1 is"),
        (with_key("version", True), "version", "R version a boolean is not known"),
        (with_key("version", "1"), "version", "R version '1' is not known"),
        (with_key("version", 10**6000), "version", "R version of more than 64 bits"),
        (without_key("execution"), "R", "the key execution is missing"),
        (with_key("execution", None), "execution", "it is null, not an object"),
        (without_key("execution.R_lite"), "execution", "the key R_lite is missing"),
        (with_key("execution.R_lite", {}), "execution.R_lite", "it is an object, not a list"),
        (with_key("execution.R_lite", [3]), "execution.R_lite[0]", "it is a number"),
        (without_key("execution.R_lite.0.rank"), "execution.R_lite[0]", "key rank is missing"),
        (without_key(CHILDREN), "execution.R_lite[0]", "key children is missing"),
        (with_key("execution.R_lite.0.rank", 0), "execution.R_lite[0].rank", "not a number"),
        (with_key("execution.R_lite.0.rank", ""), "execution.R_lite[0].rank", "names no rank"),
        (
            with_key("execution.R_lite.0.rank", "3-1"),
            "execution.R_lite[0].rank: idset '3-1', item 1",
            "the range 3-1 runs backwards",
        ),
        (
            with_key(f"{CHILDREN}.gpu", "x"),
            "execution.R_lite[0].children.gpu: idset 'x', item 1",
            "neither an id nor a range",
        ),
        (
            with_key(f"{CHILDREN}.socket", "0"),
            "execution.R_lite[0].children",
            "resource type 'socket' is unknown",
        ),
        (
            r_of(("0-3", {"core": "0"}), ("3", {"core": "1"}), hosts="n[0-4]"),
            "execution.R_lite[1].rank",
            "rank 3 is already in execution.R_lite[0]",
        ),
        (without_key("execution.nodelist"), "execution", "the key nodelist is missing"),
        (with_key("execution.nodelist", "n[0-15]"), "execution.nodelist", "a string, not a list"),
        (
            with_key("execution.nodelist", ["n[0"]),
            "execution.nodelist[0]: hostlist 'n[0'",
            "has no partner",
        ),
        (with_key("execution.starttime", True), "execution.starttime", "not a boolean"),
        (with_key("execution.starttime", float("nan")), "execution.starttime", "not a finite"),
        (with_key("execution.starttime", -1), "execution.starttime", "not a finite"),
        (with_key("execution.expiration", float("inf")), "execution.expiration", "not a finite"),
        (with_key("execution.expiration", 10**6000), "execution.expiration", "no time"),
        (with_key("execution.expiration", "1"), "execution.expiration", "not a string"),
        (
            r_of(("0", {"core": "0"}), hosts="n0", starttime=5, expiration=5),
            "execution.expiration",
            "expires at 5.0 but starts at 5.0",
        ),
        (with_key("execution.properties", []), "execution.properties", "not an object"),
        (with_key("execution.properties", {"a|b": "0"}), "execution.properties", "contains '|'"),
        (with_key("execution.properties", {3: "0"}), "execution.properties", "not a number"),
        (
            with_key("execution.properties", {"efa": "16"}),
            "execution.properties['efa']",
            "rank 16 is not in R_lite",
        ),
        (with_key("execution.properties", {"efa": 1}), "execution.properties['efa']", "a number"),
        (with_key("execution.nslots", 0), "execution.nslots", "not a whole number"),
        (with_key("scheduling", "graph"), "scheduling", "it is a string, not an object"),
    ],
)
def test_malformed_r_is_refused_with_its_key_path(r: object, where: str, what: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_r(r)
    assert refused.value.where == where
    assert what in refused.value.what
    assert refused.value.remedy


def test_repeated_huge_idsets_cost_one_expansion() -> None:
    everything = {"core": "0-900000"}
    r = r_of(*((str(i), everything) for i in range(2000)), hosts="n[0-1999]")
    started = time.perf_counter()
    resources = parse_r(r)
    assert time.perf_counter() - started < 5
    assert resources.ranks[0].cores is resources.ranks[1999].cores


def test_distinct_huge_idsets_are_refused() -> None:
    r = r_of(*((str(i), {"core": f"{i}-900000"}) for i in range(2000)), hosts="n[0-1999]")
    with pytest.raises(BadInput, match="more than 1,000,000 ids"):
        parse_r(r)


def test_too_many_properties_of_ranks_are_refused() -> None:
    properties = {f"p{i}": "0-99999" for i in range(2000)}
    r = r_of(("0-99999", {"core": "0"}), hosts="n[0-99999]", properties=properties)
    with pytest.raises(BadInput, match="more than 1,000,000 properties"):
        parse_r(r)


def test_resource_summary_is_read_item_by_item() -> None:
    assert parse_resource_summary("rank[12-14]/core[0-7]") == [
        ((12, 13, 14), {"core": tuple(range(8))})
    ]
    assert parse_resource_summary("rank0/core[0-3],gpu0 rank1/core[0-1,5]") == [
        ((0,), {"core": (0, 1, 2, 3), "gpu": (0,)}),
        ((1,), {"core": (0, 1, 5)}),
    ]
    assert parse_resource_summary("") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("rank0", "not rank<ids>/<children>"),
        ("node0/core0", "not rank<ids>/<children>"),
        ("rank/core0", "not rank<ids>/<children>"),
        ("rank0/", "not a type with ids"),
        ("rank0/core", "not a type with ids"),
        ("rank0/core0,", "not a type with ids"),
        ("rank0/core[0-1]gpu0", "follows core without a comma"),
        ("rank0/socket0", "'socket' is unknown"),
        ("rank0/core0,core1", "core comes twice"),
        ("rank[0-1]/core0 rank1/gpu0", "rank 1 is already in resources item 1"),
        ("rank0/core[3-1]", "runs backwards"),
        ("rank0/core[0-900000] rank1/core[0-900001]", "more than 1,000,000 ids"),
    ],
)
def test_malformed_summary_is_refused(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as refused:
        parse_resource_summary(text)
    assert refused.value.where.startswith("resources item ")


def test_summary_that_is_no_string_is_refused() -> None:
    with pytest.raises(BadInput, match="it is null"):
        parse_resource_summary(None)  # type: ignore[arg-type]


id_tuples = st.sets(st.integers(0, 12), max_size=6).map(lambda ids: tuple(sorted(ids)))
resource_sets = st.builds(
    lambda targets, start, length: ResourceSet(
        tuple(RankResources(rank, *targets[rank]) for rank in sorted(targets)),
        float(start),
        float(start + length),
    ),
    st.dictionaries(
        st.integers(0, 40),
        st.tuples(
            st.from_regex(r"\A(n|login)[0-9]{1,3}\Z"),
            id_tuples,
            id_tuples,
            st.sets(st.sampled_from(["efa", "spot", "amd@gpu"])).map(lambda p: tuple(sorted(p))),
        ),
        max_size=12,
    ),
    st.integers(0, 10**9),
    st.integers(1, 10**6),
)


@given(resource_sets)
@settings(deadline=None)
def test_written_r_reads_back_the_same(resources: ResourceSet) -> None:
    assert parse_r(json.loads(json.dumps(resources.to_r()))) == resources


def json_trees(keys: list[str]) -> st.SearchStrategy[Any]:
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=6)
        | st.sampled_from(["0", "0-3", "n[0-3]", "3-1"])
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=15,
    )


TREES = json_trees(["version", "execution", "R_lite", "rank", "children", "core", "nodelist"])
PATHS = [
    "version",
    "execution",
    "scheduling",
    "execution.R_lite",
    "execution.R_lite.0.rank",
    CHILDREN,
    f"{CHILDREN}.core",
    f"{CHILDREN}.gpu",
    "execution.nodelist",
    "execution.properties",
    "execution.starttime",
    "execution.expiration",
    "execution.nslots",
]


@given(TREES, st.none() | st.sampled_from(PATHS))
@settings(deadline=None, max_examples=800)
def test_any_tree_is_an_r_or_bad_input(tree: object, path: str | None) -> None:
    try:
        resources = parse_r(tree if path is None else with_key(path, tree))
    except BadInput as error:
        assert_reads_as_one_line(error)
    else:
        again = resources.to_r()
        if resources.scheduling is None:
            assert parse_r(again) == resources


@given(st.one_of(st.text(), st.text("rankcoegpu012[]-,/ ", max_size=30)))
@settings(deadline=None, max_examples=500)
def test_any_text_is_a_summary_or_bad_input(text: str) -> None:
    try:
        parse_resource_summary(text)
    except BadInput as error:
        assert_reads_as_one_line(error)
