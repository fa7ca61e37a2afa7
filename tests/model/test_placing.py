"""Network nodes put into a graph: nodes keep what they are, and are found below their leaf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import jgf_document, parse_jgf
from flux_flex.model.network import NetworkPlace, NetworkTree
from flux_flex.model.placing import place_nodes


def tree(**above: tuple[str, ...]) -> NetworkTree:
    return NetworkTree.from_places(
        [NetworkPlace(host, nodes, f"i-{host}", "t", "z1") for host, nodes in above.items()]
    )


def paths(graph: ResourceGraph) -> list[str]:
    return [graph.path(v) for v in graph.of_type("node").tolist()]


TWO_LEAVES = tree(node0=("top", "left"), node1=("top", "right"), node2=("top", "left"))


def test_nodes_hang_from_their_leaf_and_keep_what_they_are() -> None:
    placed = place_nodes(uniform_graph(3, 2, 1), TWO_LEAVES)
    assert sorted(paths(placed)) == [
        "/cluster0/z1/top/left/node0",
        "/cluster0/z1/top/left/node2",
        "/cluster0/z1/top/right/node1",
    ]
    assert [placed.type_name(v) for v in range(4)] == ["cluster", "zone", "nn1", "nn2"]
    assert placed.total("core") == 6
    assert placed.total("gpu") == 3
    ranks = {placed.names[v]: int(placed.rank[v]) for v in placed.of_type("node").tolist()}
    assert ranks == {f"node{i}": i for i in range(3)}


def test_network_nodes_of_a_layer_are_numbered_through() -> None:
    placed = place_nodes(
        uniform_graph(3, 1), tree(node0=("t0", "l0"), node1=("t0", "l1"), node2=("t1", "l2"))
    )
    for kind, numbers in (("zone", [0]), ("nn1", [0, 1]), ("nn2", [0, 1, 2])):
        assert placed.local_id[placed.of_type(kind)].tolist() == numbers
    assert set(placed.rank[placed.of_type("nn1")].tolist()) == {-1}


def test_nodes_that_the_network_does_not_know_are_near_to_nobody() -> None:
    placed = place_nodes(uniform_graph(5, 1), TWO_LEAVES)
    assert sorted(paths(placed))[:2] == [
        "/cluster0/unplaced/node3.nn1/node3.nn2/node3",
        "/cluster0/unplaced/node4.nn1/node4.nn2/node4",
    ]


def test_a_host_of_which_only_the_zone_is_known_is_alone_in_it() -> None:
    placed = place_nodes(uniform_graph(2, 1), tree(node0=(), node1=("t",)))
    assert sorted(paths(placed)) == ["/cluster0/z1/node0.nn1/node0", "/cluster0/z1/t/node1"]


def test_hosts_of_one_leaf_stay_together_where_others_are_deeper() -> None:
    placed = place_nodes(uniform_graph(3, 1), tree(node0=("t",), node1=("t",), node2=("t", "deep")))
    assert sorted(paths(placed)) == [
        "/cluster0/z1/t/deep/node2",
        "/cluster0/z1/t/t.nn2/node0",
        "/cluster0/z1/t/t.nn2/node1",
    ]


def test_unplaced_nodes_have_a_region_only_where_there_are_several() -> None:
    places = [
        NetworkPlace("node0", ("a",), "i-0", "t", "r1a", region="r1"),
        NetworkPlace("node1", ("b",), "i-1", "t", "r2a", region="r2"),
    ]
    placed = place_nodes(uniform_graph(3, 1), NetworkTree.from_places(places))
    assert placed.total("region") == 3
    assert (
        place_nodes(uniform_graph(3, 1), NetworkTree.from_places(places[:1])).total("region") == 0
    )


def test_network_nodes_without_hosts_in_the_graph_are_left_out() -> None:
    placed = place_nodes(uniform_graph(1, 1), TWO_LEAVES)
    assert [placed.names[v] for v in placed.of_type("nn2").tolist()] == ["left"]


def test_placing_again_replaces_the_levels() -> None:
    once = place_nodes(uniform_graph(3, 1), TWO_LEAVES)
    moved = tree(node0=("new",), node1=("new",), node2=("top",))
    again = place_nodes(once, moved)
    assert paths(again) == paths(place_nodes(uniform_graph(3, 1), moved))
    assert not again.of_type("nn2").size


def test_properties_and_memory_are_added_and_nothing_is_replaced() -> None:
    builder = GraphBuilder()
    root = builder.add(Vertex("cluster", "c"))
    for host in ("node0", "node1"):
        node = builder.add(Vertex("node", host, properties=frozenset({"old"})), root)
        if host == "node1":
            builder.add(Vertex("memory", "ram", size=3, unit="GB"), node)
    builder.add(Vertex("storage", "lustre", size=9), root)
    placed = place_nodes(
        builder.build(),
        TWO_LEAVES,
        properties={"node0": frozenset({"new"})},
        memory_mib={"node0": 512, "node1": 512},
    )
    node0 = placed.names.index("node0")
    assert placed.properties[node0] == {"old", "new"}
    sizes = [int(placed.size[v]) for v in placed.of_type("memory").tolist()]
    assert sorted(sizes) == [3, 512]
    assert placed.path(int(placed.of_type("storage")[0])) == "/c/lustre"


def test_nodes_in_racks_are_refused_with_the_rack() -> None:
    builder = GraphBuilder()
    rack = builder.add(Vertex("rack", "rack7"), builder.add(Vertex("cluster", "c")))
    builder.add(Vertex("node", "node0"), rack)
    with pytest.raises(BadInput, match="'node0' is in 'rack7' already") as got:
        place_nodes(builder.build(), TWO_LEAVES)
    assert got.value.where == "/c/rack7"


def test_names_that_clash_with_a_zone_are_refused() -> None:
    host, storage = GraphBuilder(), GraphBuilder()
    for builder, vertex in ((host, Vertex("node", "z1")), (storage, Vertex("storage", "z1"))):
        root = builder.add(Vertex("cluster", "c"))
        for one in (Vertex("node", "node0"), vertex):
            builder.add(one, root)
    with pytest.raises(BadInput, match="both a host and a network node or zone"):
        place_nodes(host.build(), TWO_LEAVES)
    with pytest.raises(BadInput, match="two vertices would be called 'z1'"):
        place_nodes(storage.build(), TWO_LEAVES)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8))
def test_a_placed_graph_has_unique_ids_and_survives_the_way_out_and_in(leaves: list[str]) -> None:
    network = tree(**{f"node{i}": ("top", leaf) for i, leaf in enumerate(leaves)})
    placed = place_nodes(uniform_graph(len(leaves), 2), network)
    assert len(set(placed.uniq_id.tolist())) == len(placed)
    again = parse_jgf(jgf_document(placed))
    assert [again.path(v) for v in range(len(again))] == [
        placed.path(v) for v in range(len(placed))
    ]
