"""The network tree: hops are a metric, span says what all pairs say, bad trees are refused."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.network import MAX_LAYERS, NetworkPlace, NetworkTree, Span


def place(host: str, *network_nodes: str, zone: str = "z1") -> NetworkPlace:
    return NetworkPlace(host, network_nodes, f"i-{host}", "hpc7a.12xlarge", zone)


def tree(*places: NetworkPlace) -> NetworkTree:
    return NetworkTree.from_places(places)


THREE_LAYERS = (
    place("a", "top", "left", "leaf1"),
    place("b", "top", "left", "leaf1"),
    place("c", "top", "left", "leaf2"),
    place("d", "top", "right", "leaf3"),
    place("e", "other", "far", "leaf4"),
    place("f", "abroad", "away", "leaf5", zone="z2"),
)


@pytest.mark.parametrize(
    ("other", "hops"), [("a", 0), ("b", 2), ("c", 4), ("d", 6), ("e", 8), ("f", 10)]
)
def test_hops_grow_by_two_with_each_layer_up(other: str, hops: int) -> None:
    assert tree(*THREE_LAYERS).hops("a", other) == hops


def test_hosts_under_leaves_of_differing_depth_are_as_far_as_their_path_is_long() -> None:
    mixed = tree(place("deep", "n1", "n2", "n3"), place("flat", "n1"), place("flat2", "n1"))
    assert mixed.hops("deep", "flat") == 4  # deep-n3-n2-n1-flat
    assert mixed.hops("flat", "flat2") == 2


def test_host_without_network_nodes_is_never_closer_than_the_top_of_its_zone() -> None:
    blind = tree(
        place("a", "n1", "n2"), place("b", "m1", "m2"), place("dark"), place("darker"),
        place("far", "k1", "k2", zone="z2"),
    )  # fmt: skip
    assert blind.hops("dark", "a") == blind.hops("a", "b") == 6
    assert blind.hops("dark", "darker") == 6
    assert blind.hops("dark", "far") == blind.hops("a", "far") == 8
    assert blind.span(["dark", "darker"]).layers == (0, 0)


def test_span_counts_network_nodes_top_first() -> None:
    spread = tree(*THREE_LAYERS)
    assert spread.span(["a", "b", "c", "d"]) == Span((1, 2, 3), 6, (2 + 4 + 6 + 4 + 6 + 6) / 6)
    assert spread.span(["a", "f"]) == Span((2, 2, 2), 10, 10.0)


@pytest.mark.parametrize("hosts", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_hosts_span_no_hops(hosts: list[str]) -> None:
    span = tree(*THREE_LAYERS).span(hosts)
    assert (span.diameter, span.mean_hops) == (0, 0.0)
    assert span.layers == ((1, 1, 1) if hosts else (0, 0, 0))


@st.composite
def random_trees(draw: st.DrawFn) -> NetworkTree:
    places = []
    for index in range(draw(st.integers(2, 12))):
        zone = draw(st.sampled_from(["z1", "z2"]))
        branch = draw(st.lists(st.integers(0, 2), max_size=4))
        # A node is named by its whole path, so it has one parent whatever is drawn.
        path = [f"{zone}/" + ".".join(map(str, branch[: n + 1])) for n in range(len(branch))]
        places.append(place(f"h{index}", *path, zone=zone))
    return NetworkTree.from_places(places)


@given(random_trees())
def test_hops_are_a_metric(drawn: NetworkTree) -> None:
    hops = {(a, b): drawn.hops(a, b) for a, b in itertools.product(drawn.hosts, repeat=2)}
    for a, b, c in itertools.product(drawn.hosts, repeat=3):
        assert hops[a, b] == hops[b, a]
        assert (hops[a, b] == 0) == (a == b)
        assert hops[a, c] <= hops[a, b] + hops[b, c]


@given(random_trees(), st.data())
def test_span_agrees_with_all_pairs(drawn: NetworkTree, data: st.DataObject) -> None:
    hosts = data.draw(st.lists(st.sampled_from(drawn.hosts), min_size=2, unique=True))
    pairs = [drawn.hops(a, b) for a, b in itertools.combinations(hosts, 2)]
    span = drawn.span(hosts)
    assert span.diameter == max(pairs)
    assert span.mean_hops == pytest.approx(sum(pairs) / len(pairs))


def test_span_of_many_hosts_does_not_list_pairs() -> None:
    n_hosts = 20_000
    big = NetworkTree.from_places(
        [place(f"h{i}", "n", f"n{i // 1000}", f"n{i // 1000}.{i // 20}") for i in range(n_hosts)]
    )
    start = time.perf_counter()
    span = big.span(big.hosts)
    # All pairs would be 2e8 calls of hops(), minutes at least.
    assert time.perf_counter() - start < 2
    assert span.layers == (1, 20, 1000)
    assert span.diameter == 6


def test_parents_lead_from_host_to_zone() -> None:
    walked = tree(*THREE_LAYERS)
    assert walked.parent_of("c") == "leaf2"
    assert walked.parent_of("leaf2") == "left"
    assert walked.parent_of("top") == "z1"
    assert walked.parent_of("z1") is None


def test_names_keep_the_order_of_the_places() -> None:
    ordered = tree(*THREE_LAYERS)
    assert ordered.hosts == ("a", "b", "c", "d", "e", "f")
    assert ordered.zones == ("z1", "z2")
    assert ordered.layers == (
        ("top", "other", "abroad"),
        ("left", "right", "far", "away"),
        ("leaf1", "leaf2", "leaf3", "leaf4", "leaf5"),
    )


def test_iteration_goes_depth_first_and_counts_hosts_below() -> None:
    lines = list(tree(place("a", "n1", "n2"), place("b", "m1"), place("c", "n1", "n2")))
    assert [(line.depth, line.name, line.kind, line.hosts) for line in lines] == [
        (0, "z1", "zone", 3),
        (1, "n1", "network node", 2),
        (2, "n2", "network node", 2),
        (3, "a", "host", 1),
        (3, "c", "host", 1),
        (1, "m1", "network node", 1),
        (2, "b", "host", 1),
    ]


def test_tree_of_no_hosts_is_empty() -> None:
    empty = tree()
    assert (empty.hosts, empty.zones, empty.layers, list(empty)) == ((), (), (), [])
    assert empty.span([]) == Span((), 0, 0.0)
    with pytest.raises(BadInput, match="the tree has no hosts"):
        empty.hops("a", "a")


@pytest.mark.parametrize(
    ("places", "what", "where"),
    [
        ((place("a", "n1", "x"), place("b", "n2", "x")), "is below", "host b (i-b)"),
        ((place("a", "x"), place("b", "x", zone="z2")), "is below", "host b (i-b)"),
        ((place("a", "x", "y"), place("b", "y", "x")), "is below", "host b (i-b)"),
        ((place("a", "x", "x"),), "is below", "host a (i-a)"),
        ((place("a", "x"), place("a", "x")), "has a place already, that of i-a", "host a (i-a)"),
        ((place("x", "x"),), "both a host and a network node", "host x (i-x)"),
        ((place("z1", "x"),), "both a host and a zone", "host z1 (i-z1)"),
        (
            (place("a", "z2"), place("b", "x", zone="z2")),
            "both a zone and",
            "host a (i-a)",
        ),
        ((place("", "x"),), "host name is empty", "places[0].host"),
        ((place("a", "x", zone=""),), "has no zone", "host a (i-a)"),
        ((place("a", "x", ""),), "is empty", "host a (i-a)"),
        (
            (place("a", *(f"n{i}" for i in range(MAX_LAYERS + 1))),),
            "33 network nodes",
            "host a (i-a)",
        ),
    ],
)
def test_places_that_are_no_tree_are_refused(
    places: tuple[NetworkPlace, ...], what: str, where: str
) -> None:
    with pytest.raises(BadInput) as refused:
        NetworkTree.from_places(places)
    assert what in refused.value.what
    assert refused.value.where == where
    assert refused.value.remedy


def test_unknown_host_is_refused_with_some_known_ones() -> None:
    known = tree(*THREE_LAYERS)
    for ask in (lambda: known.hops("a", "nope"), lambda: known.span(["nope"])):
        with pytest.raises(BadInput, match="'nope' has no place") as refused:
            ask()
        assert refused.value.remedy == "known hosts (6): a, b, c, d, e, ..."
    with pytest.raises(BadInput, match="is called 'nope'"):
        known.parent_of("nope")
    with pytest.raises(BadInput, match="is called ''"):
        known.parent_of("")


# -- several regions, accelerator domains, the nearest -------------------------------------------


def in_region(host: str, region: str, *network_nodes: str) -> NetworkPlace:
    zone = f"{region}a"
    return NetworkPlace(host, network_nodes, f"i-{host}", "p5", zone, region=region)


def test_regions_stand_above_the_zones_where_there_are_several() -> None:
    spread = tree(in_region("a", "r1", "n1"), in_region("b", "r1", "n2"), in_region("c", "r2"))
    assert spread.regions == ("r1", "r2")
    assert spread.zones == ("r1a", "r2a")
    assert spread.layers == (("n1", "n2"),)
    assert spread.parent_of("r1a") == "r1"
    assert spread.parent_of("r1") is None
    assert spread.hops("a", "b") == 4
    assert spread.hops("a", "c") == 8  # n1, r1a, r1, root, r2, and an edge as long as the deepest
    assert spread.span(["a", "b", "c"]).layers == (2,)
    assert [(b.name, b.kind, b.depth) for b in spread][:4] == [
        ("r1", "region", 0), ("r1a", "zone", 1), ("n1", "network node", 2), ("a", "host", 3),
    ]  # fmt: skip


def test_one_region_needs_no_level_of_its_own() -> None:
    alone = tree(in_region("a", "r1", "n1"), in_region("b", "r1", "n1"))
    assert alone.regions == ()
    assert alone.parent_of("r1a") is None


def test_a_host_without_region_among_several_is_refused() -> None:
    with pytest.raises(BadInput, match="no region"):
        tree(in_region("a", "r1"), in_region("b", "r2"), place("c"))


def test_hosts_of_one_capacity_block_are_one_accelerator_domain() -> None:
    def member(host: str, block: str) -> NetworkPlace:
        return NetworkPlace(host, ("n1",), f"i-{host}", "p6e", "z1", capacity_block=block)

    domains = tree(member("a", "cb-1"), member("b", ""), member("c", "cb-1")).domains
    assert domains == {"cb-1": ("a", "c")}


@given(random_trees(), st.data())
def test_the_nearest_have_the_fewest_hops_of_all_sets(
    found: NetworkTree, data: st.DataObject
) -> None:
    free = data.draw(st.lists(st.sampled_from(found.hosts), unique=True, min_size=1))
    wanted = data.draw(st.integers(1, min(len(free), 4)))
    nearest = found.nearest(free, wanted)
    assert len(set(nearest)) == wanted
    assert set(nearest) <= set(free)
    best = min(found.span(some).mean_hops for some in itertools.combinations(free, wanted))
    assert found.span(nearest).mean_hops == pytest.approx(best)


def test_more_hosts_than_are_free_cannot_be_near() -> None:
    with pytest.raises(BadInput, match="2 hosts of 1"):
        tree(*THREE_LAYERS).nearest(["a"], 2)
    assert tree(*THREE_LAYERS).nearest(["a"], 0) == ()


def test_many_hosts_of_which_only_the_zone_is_known_are_chosen_from_in_time() -> None:
    deep = place("deep", *(f"n{layer}" for layer in range(MAX_LAYERS)))
    bare = tree(*(place(f"h{i}") for i in range(20_000)), deep)
    start = time.perf_counter()
    nearest = bare.nearest(bare.hosts, 512)
    # An edge of 33 hops to each of the 20,000 took half a minute.
    assert time.perf_counter() - start < 3
    assert len(set(nearest)) == 512


def test_all_that_are_free_are_the_nearest_of_them() -> None:
    assert tree(*THREE_LAYERS).nearest(["f", "a"], 2) == ("a", "f")
