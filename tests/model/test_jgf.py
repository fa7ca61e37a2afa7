"""JGF: both dialects of fluxion's, what is refused and where, and back out again."""

import copy
from graphlib import CycleError, TopologicalSorter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import MAX_SIZE, jgf_document, parse_jgf, paths_of


def node(identity: Any, kind: str = "node", **metadata: Any) -> dict[str, Any]:
    return {"id": identity, "metadata": {"type": kind, "name": f"{kind}{identity}", **metadata}}


def edge(source: Any, target: Any, **metadata: Any) -> dict[str, Any]:
    metadata = metadata or {"subsystem": "containment"}
    return {"source": source, "target": target, "metadata": metadata}


def jgf(nodes: list[Any], edges: list[Any]) -> dict[str, Any]:
    return {"graph": {"nodes": nodes, "edges": edges}}


def paths(graph: ResourceGraph) -> list[str]:
    return [graph.path(v) for v in range(len(graph))]


SMALL = jgf(
    [node("0", "cluster"), node("1", rank=3, id=7, properties={"efa": ""}), node("2", "core")],
    [edge("0", "1"), edge("1", "2")],
)


def test_a_graph_is_read_with_what_its_vertices_say():
    graph = parse_jgf(SMALL)
    assert paths(graph) == ["/cluster0", "/cluster0/node1", "/cluster0/node1/core2"]
    assert (graph.rank.tolist(), graph.local_id.tolist()) == ([-1, 3, -1], [0, 7, 0])
    assert graph.properties == {1: frozenset({"efa"})}


def test_values_of_properties_are_written_again():
    nodes = [node("0", "cluster"), node("1", properties={"arch": "x86", "efa": "", "odd": 3})]
    again: Any = jgf_document(parse_jgf(jgf(nodes, [edge("0", "1")])))
    said = again["graph"]["nodes"][1]["metadata"]["properties"]
    assert said == {"arch": "x86", "efa": "", "odd": ""}


def test_old_edges_name_their_relation_and_point_back_up_too():
    old = {"name": {"containment": "contains"}}
    back = {"name": {"containment": "in"}}
    document = jgf([node(0, "cluster"), node(1)], [edge(0, 1, **old), edge(1, 0, **back)])
    assert paths(parse_jgf(document)) == ["/cluster0", "/cluster0/node1"]


def test_an_edge_without_metadata_contains():
    document = jgf([node(0, "cluster"), node(1)], [{"source": 0, "target": 1}])
    assert paths(parse_jgf(document)) == ["/cluster0", "/cluster0/node1"]


@pytest.mark.parametrize(
    "other",
    [{"subsystem": "power"}, {"name": {"power": "supplies"}}, {"name": "odd"}, {"subsystem": [1]}],
)
def test_edges_of_other_subsystems_are_left_out(other):
    document = jgf([node(0, "cluster"), node(1)], [edge(0, 1), edge(1, 0, **other)])
    assert len(parse_jgf(document)) == 2


def test_vertices_come_in_any_order_and_children_in_that_of_the_edges():
    document = jgf(
        [node("b"), node("a"), node("top", "cluster"), node("c")],
        [edge("top", "c"), edge("top", "a"), edge("top", "b")],
    )
    assert parse_jgf(document).names == ("clustertop", "nodec", "nodea", "nodeb")


def test_numbers_and_text_are_the_same_id():
    document = jgf([node("0", "cluster"), node(1)], [edge(0, "1")])
    assert len(parse_jgf(document)) == 2


@pytest.mark.parametrize("properties", [{"efa": "", "spot": 1}, ["efa", "spot"]])
def test_properties_are_a_mapping_or_a_list(properties):
    document = copy.deepcopy(SMALL)
    document["graph"]["nodes"][1]["metadata"]["properties"] = properties
    assert parse_jgf(document).properties == {1: frozenset({"efa", "spot"})}


def test_a_vertex_without_a_name_is_called_after_its_type_and_number():
    document = jgf([{"id": "x", "metadata": {"type": "core", "id": 3}}], [])
    assert parse_jgf(document).names == ("core3",)
    document["graph"]["nodes"][0]["metadata"]["basename"] = "cpu"
    assert parse_jgf(document).names == ("cpu3",)


def test_edges_may_be_left_out_where_there_is_one_vertex():
    assert len(parse_jgf({"graph": {"nodes": [node(0)]}})) == 1


TWO = [node("0", "cluster"), node("1")]
BOMB: list[Any] = []
BOMB.append(BOMB)


@pytest.mark.parametrize(
    ("document", "where", "what"),
    [
        ([], "", "not a mapping"),
        ({}, "graph", "not a mapping"),
        ({"graph": {}}, "graph.nodes", "not a list"),
        (jgf([], []), "graph.nodes", "no vertices"),
        ({"graph": {"nodes": TWO, "edges": {}}}, "graph.edges", "not a list"),
        (jgf([3], []), "graph.nodes[0]", "not a mapping"),
        (jgf([{"metadata": {}}], []), "graph.nodes[0].id", "without an id"),
        (jgf([node(True)], []), "graph.nodes[0].id", "without an id"),
        (jgf([node(BOMB)], []), "graph.nodes[0].id", "without an id"),
        (jgf([{"id": 1}], []), "graph.nodes[0].metadata", "not a mapping"),
        (jgf([node(1, "")], []), "graph.nodes[0].metadata.type", "not a name"),
        (jgf([node(1, name="a/b")], []), "graph.nodes[0].metadata.name", "not a name"),
        (jgf([node(1, name="a\n")], []), "graph.nodes[0].metadata.name", "not a name"),
        (jgf([node(1, name="a" * 256)], []), "graph.nodes[0].metadata.name", "255"),
        (jgf([node(1, size=-1)], []), "graph.nodes[0].metadata.size", "from 0 up"),
        (jgf([node(1, size=1.5)], []), "graph.nodes[0].metadata.size", "from 0 up"),
        (jgf([node(1, size=True)], []), "graph.nodes[0].metadata.size", "from 0 up"),
        (jgf([node(1, size=MAX_SIZE + 1)], []), "graph.nodes[0].metadata.size", "from 0 up"),
        (jgf([node(1, rank=-2)], []), "graph.nodes[0].metadata.rank", "from -1 up"),
        (jgf([node(1, id="7")], []), "graph.nodes[0].metadata.id", "from -1 up"),
        (jgf([node(1, unit=BOMB)], []), "graph.nodes[0].metadata.unit", "unit that is not text"),
        (jgf([node(1, properties=3)], []), "graph.nodes[0].metadata.properties", "properties"),
        (jgf([node(1, properties=[3])], []), "graph.nodes[0].metadata.properties", "properties"),
        (jgf([node(1), node("1")], []), "graph.nodes[1].id", "'1' is used by graph.nodes[0]"),
        (jgf(TWO, [3]), "graph.edges[0]", "not a mapping"),
        (jgf(TWO, [edge("0", "9")]), "graph.edges[0].target", "there is no vertex '9'"),
        (jgf(TWO, [edge(16**30, "1")]), "graph.edges[0].source", "an edge to nowhere"),
        (jgf(TWO, [edge(BOMB, "1")]), "graph.edges[0].source", "an edge to nowhere"),
        (jgf(TWO, [{"source": "0", "target": "1", "metadata": 3}]), "graph.edges[0].metadata", ""),
        (jgf(TWO, [edge("0", "1"), edge("0", "1")]), "graph.edges[1]", "in '0' twice"),
        (jgf(TWO, []), "graph.edges", "2 roots ('0', '1')"),
        (jgf([node(i) for i in range(5)], []), "graph.edges", "5 roots ('0', '1', '2', …)"),
        (jgf(TWO, [edge("0", "1"), edge("1", "0")]), "graph.edges", "every vertex has a parent"),
        (
            jgf([*TWO, node(2), node(3)], [edge(0, 1), edge(2, 3), edge(3, 2)]),
            "graph.edges",
            "a cycle through vertex '2'",
        ),
        (jgf([*TWO, node(2, name="node1")], [edge(0, 1), edge(0, 2)]), "graph.nodes", "'node1'"),
        (
            jgf([node(0, size=MAX_SIZE), node(1, size=1)], [edge(0, 1)]),
            "graph.nodes",
            "add up to too much",
        ),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(document, where, what):
    with pytest.raises(BadInput) as refused:
        parse_jgf(document)
    assert refused.value.where == where
    assert what in refused.value.what
    assert refused.value.remedy


def test_an_id_that_python_cannot_print_is_refused():
    with pytest.raises(BadInput, match="an edge to nowhere"):
        parse_jgf(jgf(TWO, [edge(16**9000, "1")]))


def test_two_vertices_of_one_name_below_different_parents_are_two():
    document = jgf(
        [
            node(0, "cluster"),
            node(1),
            node(2),
            node(3, "core", name="c"),
            node(4, "core", name="c"),
        ],
        [edge(0, 1), edge(0, 2), edge(1, 3), edge(2, 4)],
    )
    assert paths(parse_jgf(document))[-1] == "/cluster0/node2/c"


def test_a_chain_of_any_length_is_read():
    n = 5000
    document = jgf([node(i) for i in range(n)], [edge(i, i + 1) for i in range(n - 1)])
    graph = parse_jgf(document)
    assert graph.end.tolist() == [n] * n


# -- out ----------------------------------------------------------------------------------------


def same(one: ResourceGraph, other: ResourceGraph) -> bool:
    arrays = ("type_of", "parent", "end", "size", "local_id", "rank")
    return all(
        getattr(one, name).tolist() == getattr(other, name).tolist() for name in arrays
    ) and (one.types, one.names, one.units, one.properties) == (
        other.types, other.names, other.units, other.properties,
    )  # fmt: skip


@st.composite
def random_graphs(draw: st.DrawFn) -> ResourceGraph:
    builder = GraphBuilder()
    builder.add(Vertex("cluster", "cluster0"))
    for i in range(1, draw(st.integers(1, 12))):
        vertex = Vertex(
            draw(st.sampled_from(["node", "core", "memory"])),
            f"v{i}",
            draw(st.integers(-1, 9)),
            draw(st.integers(0, 64)),
            draw(st.integers(-1, 9)),
            draw(st.sampled_from(["", "GB"])),
            draw(st.frozensets(st.sampled_from(["efa", "spot"]))),
        )
        builder.add(vertex, draw(st.integers(0, i - 1)))
    return builder.build()


@settings(max_examples=100, deadline=None)
@given(random_graphs())
def test_a_graph_survives_the_way_out_and_in(graph):
    assert same(parse_jgf(jgf_document(graph)), graph)


def test_a_part_of_a_graph_has_the_edges_within_it():
    graph = uniform_graph(2, cores=2)
    document: Any = jgf_document(graph, [0, 5, 4])
    assert [n["metadata"]["name"] for n in document["graph"]["nodes"]] == [
        "cluster0", "node1", "core0",
    ]  # fmt: skip
    assert [(e["source"], e["target"]) for e in document["graph"]["edges"]] == [
        ("0", "4"), ("4", "5"),
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(random_graphs())
def test_paths_of_many_vertices_are_those_of_each(graph):
    vertices = list(reversed(range(len(graph))))
    assert paths_of(graph, vertices) == [graph.path(v) for v in vertices]


# -- whatever comes -----------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "id", "size", "properties", "containment"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
ids = st.integers(0, 4) | st.sampled_from(["0", "1", "2"]) | scalars
wild = st.fixed_dictionaries(
    {"id": ids},
    optional={
        "metadata": st.fixed_dictionaries(
            {"type": st.sampled_from(["node", "core"]) | scalars},
            optional=dict.fromkeys(
                ("name", "id", "size", "rank", "unit", "properties", "basename"), trees
            ),
        )
        | scalars
    },
)
wild_edges = st.fixed_dictionaries(
    {"source": ids, "target": ids},
    optional={
        "metadata": trees | st.just({"subsystem": "containment"}) | st.builds(dict, name=trees)
    },
)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(jgf, st.lists(wild | trees, max_size=5), st.lists(wild_edges | trees, max_size=6))
    | trees
)
def test_any_tree_is_read_or_refused(document):
    try:
        graph = parse_jgf(document)
    except BadInput as error:
        assert len(str(error)) < 1000  # noqa: PT017 - whichever comes
    else:
        assert same(parse_jgf(jgf_document(graph)), graph)


some_edges = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8)
tree_edges = st.tuples(*(st.integers(0, child - 1) for child in range(1, 6))).map(
    lambda parents: [(parent, child) for child, parent in enumerate(parents, 1)]
)


def routes_from_the_root(pairs: list[tuple[int, int]]) -> int | None:
    """How many paths lead from the root to a vertex, or None where a graph must be refused."""
    above: dict[int, set[int]] = {vertex: set() for vertex in range(6)}
    for source, target in pairs:
        above[target].add(source)
    roots = [vertex for vertex in above if not above[vertex]]
    try:
        order = list(TopologicalSorter(above).static_order())
    except CycleError:
        return None
    if len(roots) != 1 or len(set(pairs)) < len(pairs):
        return None
    routes: dict[int, int] = {}
    for vertex in order:
        routes[vertex] = sum(routes[parent] for parent in above[vertex]) or 1
    return sum(routes.values())


@settings(max_examples=300, deadline=None)
@given(some_edges | st.builds(list.__add__, tree_edges, some_edges.map(lambda some: some[:2])))
def test_edges_are_read_when_one_root_reaches_all_without_a_cycle_else_refused(pairs):
    document = jgf([node(i) for i in range(6)], [edge(a, b) for a, b in pairs])
    expected = routes_from_the_root(pairs)
    if expected is None:
        with pytest.raises(BadInput):
            parse_jgf(document)
        return
    graph = parse_jgf(document)
    assert len(graph) == expected
    assert set(graph.names) == {f"node{i}" for i in range(6)}
