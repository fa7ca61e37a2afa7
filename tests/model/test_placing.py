"""Network nodes put into a graph: nodes keep what they are, and are found below their leaf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.graph import (
    GraphBuilder,
    Properties,
    ResourceGraph,
    Vertex,
    uniform_graph,
    values_of,
)
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
    with pytest.raises(BadInput, match="both a host and a zone"):
        place_nodes(host.build(), TWO_LEAVES)
    with pytest.raises(BadInput, match="'z1', a zone and a storage") as got:
        place_nodes(storage.build(), TWO_LEAVES)
    assert got.value.remedy == "give the storage another name"


def planted(*vertices: tuple[str, str, int]) -> ResourceGraph:
    """A graph of (type, name, number of the vertex above), the root first."""
    builder = GraphBuilder()
    for number, (kind, name, above) in enumerate(vertices):
        builder.add(Vertex(kind, name), above if number else None)
    return builder.build()


def test_what_a_site_has_in_its_own_zones_beside_the_nodes_hangs_from_the_root() -> None:
    graph = planted(
        ("cluster", "c", 0), ("region", "r", 0), ("zone", "own", 1), ("node", "node0", 2),
        ("ssd", "ssd0", 2), ("core", "core0", 4), ("zone", "bare", 0), ("pfs", "lustre", 6),
    )  # fmt: skip
    placed = place_nodes(graph, TWO_LEAVES)
    assert [placed.path(v) for v in range(len(placed))] == [
        "/c", "/c/z1", "/c/z1/top", "/c/z1/top/left", "/c/z1/top/left/node0",
        "/c/ssd0", "/c/ssd0/core0", "/c/lustre",
    ]  # fmt: skip


def test_a_root_that_is_a_node_is_refused() -> None:
    with pytest.raises(BadInput, match="the root is a node"):
        place_nodes(planted(("node", "node0", 0), ("core", "core0", 0)), TWO_LEAVES)


def test_memory_anywhere_in_a_node_is_its_memory() -> None:
    graph = planted(
        ("cluster", "c", 0), ("node", "node0", 0), ("socket", "s0", 1), ("memory", "m0", 2)
    )
    placed = place_nodes(graph, TWO_LEAVES, memory_mib={"node0": 512})
    assert placed.total("memory") == 1


def test_stale_properties_go_and_values_of_others_stay() -> None:
    held = Properties({"old", "arch"}, {"old": "nn2", "arch": "x86"})
    builder = GraphBuilder()
    root = builder.add(Vertex("cluster", "c"))
    builder.add(Vertex("node", "node0", properties=held), root)
    placed = place_nodes(
        builder.build(),
        TWO_LEAVES,
        properties={"node0": frozenset({"new"})},
        stale=frozenset({"old", "new"}),
    )
    (found,) = placed.properties.values()
    assert found == {"arch", "new"}
    assert values_of(found) == {"arch": "x86"}


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8))
def test_a_placed_graph_has_unique_ids_and_survives_the_way_out_and_in(leaves: list[str]) -> None:
    network = tree(**{f"node{i}": ("top", leaf) for i, leaf in enumerate(leaves)})
    placed = place_nodes(uniform_graph(len(leaves), 2), network)
    assert len(set(placed.uniq_id.tolist())) == len(placed)
    again = parse_jgf(jgf_document(placed))
    assert [again.path(v) for v in range(len(again))] == [
        placed.path(v) for v in range(len(placed))
    ]
