"""ResourceGraph: subtrees are intervals; graphs from R, with and without a network."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flux_flex.model.graph as graphs
from flux_flex.errors import BadInput
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, graph_from_r, uniform_graph
from flux_flex.model.rv1 import RankResources, ResourceSet


def targets(*hosts: str) -> ResourceSet:
    return ResourceSet(
        tuple(RankResources(i, host, (0, 1), (), ("efa",)) for i, host in enumerate(hosts))
    )


def paths(graph: ResourceGraph, kind: str) -> list[str]:
    return [graph.path(int(v)) for v in graph.of_type(kind)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=20))
def test_everything_below_a_vertex_is_the_interval_after_it(parents):
    builder = GraphBuilder()
    builder.add(Vertex("cluster", "v0"))
    for i, above in enumerate(parents, 1):
        builder.add(Vertex("node", f"v{i}"), above % i)
    graph = builder.build()
    for v in range(len(graph)):
        inside = {
            u for u in range(len(graph)) if (graph.path(u) + "/").startswith(graph.path(v) + "/")
        }
        assert inside == set(range(v, int(graph.end[v])))


def test_children_keep_the_order_in_which_they_were_added():
    builder = GraphBuilder()
    root = builder.add(Vertex("cluster", "c"))
    nodes = [builder.add(Vertex("node", name), root) for name in ("b", "a")]
    builder.add(Vertex("core", "late"), nodes[0])
    assert builder.build().names == ("c", "b", "late", "a")


def test_a_graph_has_exactly_one_root():
    builder = GraphBuilder()
    with pytest.raises(BadInput, match="without vertices"):
        builder.build()
    with pytest.raises(BadInput, match="exactly one root"):
        builder.add(Vertex("node", "n"), 0)
    builder.add(Vertex("cluster", "c"))
    with pytest.raises(BadInput, match="exactly one root"):
        builder.add(Vertex("node", "n"))


def test_a_vertex_knows_its_node():
    graph = uniform_graph(2, cores=2)
    assert graph.node_of.tolist() == [-1, 1, 1, 1, 4, 4, 4]
    assert graph.node_of is graph.node_of  # counted once


def test_types_are_found_and_counted():
    graph = uniform_graph(2, cores=3, gpus=1, properties=["efa"])
    assert graph.of_type("node").tolist() == [1, 6]
    assert graph.of_type("tpu").tolist() == []
    assert (graph.total("core"), graph.total("gpu"), graph.total("tpu")) == (6, 2, 0)
    assert graph.leaf_types() == ("core", "gpu")
    assert graph.properties == {1: frozenset({"efa"}), 6: frozenset({"efa"})}
    assert graph.type_name(6) == "node"


def test_a_type_that_holds_others_anywhere_is_no_leaf():
    builder = GraphBuilder()
    root = builder.add(Vertex("cluster", "c"))
    builder.add(Vertex("node", "empty"), root)
    builder.add(Vertex("core", "core0"), builder.add(Vertex("node", "full"), root))
    assert builder.build().leaf_types() == ("core",)


def test_an_r_becomes_a_cluster_of_nodes_numbered_by_rank():
    r = ResourceSet(
        (RankResources(3, "b", (0, 2), (1,), ("efa",)), RankResources(5, "a", (0,), ()))
    )
    graph = graph_from_r(r, cluster="tuolumne")
    assert paths(graph, "core") == ["/tuolumne/b/core0", "/tuolumne/b/core2", "/tuolumne/a/core0"]
    assert paths(graph, "gpu") == ["/tuolumne/b/gpu1"]
    nodes = graph.of_type("node")
    assert graph.rank[nodes].tolist() == graph.local_id[nodes].tolist() == [3, 5]
    assert graph.rank[graph.of_type("core")].tolist() == [3, 3, 5]


def test_two_ranks_of_one_host_are_refused():
    with pytest.raises(BadInput, match="host 'a' has several ranks"):
        graph_from_r(targets("a", "b", "a"))


def test_an_r_of_more_vertices_than_any_system_has_is_refused(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_VERTICES", 6)
    assert len(graph_from_r(targets("a", "b"))) == 7  # the cluster is not counted
    with pytest.raises(BadInput, match="9 cores, gpus and nodes"):
        graph_from_r(targets("a", "b", "c"))
