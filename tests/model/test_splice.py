"""Parts added to a graph and taken away again."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import jgf_document, parse_jgf, paths_of
from flux_flex.model.places import nodes_of_ranks, vertex_at
from flux_flex.model.splice import grown, shrunk


def paths(graph: ResourceGraph) -> list[str]:
    return paths_of(graph, range(len(graph)))


def racks(*sizes: int, first: int = 0) -> ResourceGraph:
    """A cluster of racks with so many nodes of two cores and one pool of memory."""
    builder = GraphBuilder()
    cluster = builder.add(Vertex("cluster", "cluster0"))
    rank = first
    for number, size in enumerate(sizes):
        rack = builder.add(Vertex("rack", f"rack{number}", number), cluster)
        for _ in range(size):
            arm = frozenset({"arm"}) if rank % 2 else frozenset()
            node = builder.add(Vertex("node", f"node{rank}", rank, rank=rank, properties=arm), rack)
            for core in range(2):
                builder.add(Vertex("core", f"core{core}", core, rank=rank), node)
            builder.add(Vertex("memory", "memory0", 0, 16, rank, "GB"), node)
            rank += 1
    return builder.build()


def arrays(graph: ResourceGraph) -> dict[str, Any]:
    """All that a graph says, to be compared."""
    fields = {field.name: getattr(graph, field.name) for field in dataclasses.fields(graph)}
    del fields["_of_type"]
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}


def test_what_is_new_in_a_graph_from_the_same_root_is_added() -> None:
    two, three = uniform_graph(2, 2), uniform_graph(3, 2)
    larger = grown(two, three)
    assert paths(larger.graph) == paths(three)
    assert paths_of(larger.graph, larger.moved) == paths(two)
    assert [larger.graph.names[v] for v in larger.added] == ["node2", "core0", "core1"]
    smaller = shrunk(larger.graph, int(larger.added[0]))
    assert arrays(smaller.graph) == arrays(two)
    assert smaller.moved[larger.added].tolist() == [-1, -1, -1]


def test_parts_at_several_places_each_go_after_their_siblings() -> None:
    graph, more = racks(1, 2), racks(3, 2, 1)  # node1 is in rack1 here, and in rack0 there
    larger = grown(racks(1, 0), dataclasses.replace(more, rank=np.full(len(more), -1)))
    assert paths(larger.graph) == paths(more)
    assert larger.graph.parent.tolist() == more.parent.tolist()
    assert larger.graph.end.tolist() == more.end.tolist()
    assert arrays(graph) == arrays(racks(1, 2))  # a graph never changes


def test_a_graph_goes_below_the_parent_that_is_named() -> None:
    burst = racks(2, first=10)
    larger = grown(racks(1, 1), burst, "/cluster0/rack0")
    top = vertex_at(larger.graph, "/cluster0/rack0/cluster0")
    assert larger.added.tolist() == list(range(top, int(larger.graph.end[top])))
    assert larger.graph.end[vertex_at(larger.graph, "/cluster0/rack0")] == larger.graph.end[top]
    assert larger.graph.units[int(larger.graph.end[top]) - 1] == "GB"
    assert larger.graph.properties[vertex_at(larger.graph, "/cluster0/rack1/node1")] == {"arm"}
    assert arrays(shrunk(larger.graph, top).graph) == arrays(racks(1, 1))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(1, 3), st.data())
def test_a_splice_says_what_the_graph_built_at_once_says(
    sizes: list[int], more: int, data: st.DataObject
) -> None:
    graph, burst = racks(*sizes), racks(more, first=100)
    parent = int(data.draw(st.integers(0, len(graph) - 1)))
    if "cluster0" in {graph.names[child] for child in graph.children(parent)}:
        return
    larger = grown(graph, burst, graph.path(parent)).graph
    again = parse_jgf(jgf_document(larger))
    assert paths(again) == paths(larger)
    for name in ("parent", "end", "size", "local_id", "rank", "uniq_id"):
        assert np.array_equal(getattr(again, name), getattr(larger, name)), name
    assert [again.type_name(v) for v in range(len(again))] == [
        larger.type_name(v) for v in range(len(larger))
    ]
    assert (again.units, again.properties) == (larger.units, larger.properties)
    top = vertex_at(larger, f"{graph.path(parent)}/cluster0")
    assert arrays(shrunk(larger, top).graph) == arrays(graph)


def test_what_cannot_be_spliced_is_refused() -> None:
    two = uniform_graph(2, 1)
    other = dataclasses.replace(two, names=("cluster1", *two.names[1:]))
    for refusal, what in (
        (lambda: grown(two, other), "hangs from /cluster1"),
        (lambda: grown(two, uniform_graph(1, 1)), "in the graph already"),
        (lambda: grown(two, two, "/cluster0/node9"), "no such vertex"),
        (lambda: grown(two, two, "/cluster0"), "a node of rank 0 is in the graph already"),
        (lambda: shrunk(two, 0), "root cannot be removed"),
        (lambda: grown(shrunk(two, 1).graph, two, "/nowhere"), "no such vertex"),
    ):
        with pytest.raises(BadInput, match=what):
            refusal()
    alone = dataclasses.replace(uniform_graph(1, 1), names=("node0", "core0", "core1"))
    with pytest.raises(BadInput, match="already"):
        grown(two, alone, "/cluster0")


def test_ranks_are_numbers_or_an_idset() -> None:
    graph = uniform_graph(4, 1)
    assert nodes_of_ranks(graph, "1-2") == nodes_of_ranks(graph, [2, 1]) == [3, 5]
    assert nodes_of_ranks(graph, "") == []
    with pytest.raises(BadInput, match="no node of rank 4-5,7 in the graph"):
        nodes_of_ranks(graph, "0,4-5,7")
    with pytest.raises(BadInput, match="no node of rank -1"):
        nodes_of_ranks(graph, [-1])


def test_graphs_with_shared_nodes_are_not_spliced() -> None:
    names = {"c": "cluster0", "a": "left", "b": "right", "n": "node0"}
    document = {
        "graph": {
            "nodes": [
                {"id": key, "metadata": {"type": name.rstrip("0"), "name": name}}
                for key, name in names.items()
            ],
            "edges": [{"source": above, "target": v} for above, v in ("ca", "cb", "an", "bn")],
        }
    }
    shared = parse_jgf(document)
    for refusal in (
        lambda: grown(shared, uniform_graph(1, 1), "/cluster0"),
        lambda: shrunk(shared, 1),
    ):
        with pytest.raises(BadInput, match="containers that share nodes"):
            refusal()
