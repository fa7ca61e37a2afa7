"""Containers that share nodes: what the README of examples/containers promises, rule by rule."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fluxion_library_here import NEEDS_FLUXION
from hypothesis import given, settings
from hypothesis import strategies as st
from match_help import ask, slot, spec

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.fluxion import FluxionMatcher
from flux_flex.match.matcher import Match, Matcher, read_graph
from flux_flex.model.graph import ResourceGraph
from flux_flex.model.jgf import jgf_document, parse_jgf

EXAMPLES = Path(__file__).parents[2] / "examples" / "containers"
JOBSPECS = ("one-container", "two-containers", "shared")


FLUXION = pytest.param(
    FluxionMatcher,
    id="fluxion",
    marks=NEEDS_FLUXION,
)
ONLY_FLUXION = pytest.mark.parametrize("engine", [FLUXION])
ENGINES = pytest.mark.parametrize("engine", [pytest.param(EmbeddedMatcher, id="embedded"), FLUXION])


def jgf(kinds: Mapping[str, Mapping[str, Any]], edges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    nodes = [
        {"id": name, "metadata": {"type": name.rstrip("0123456789").split(".")[-1], **metadata}}
        for name, metadata in kinds.items()
    ]
    return {"graph": {"nodes": nodes, "edges": [{"source": a, "target": b} for a, b in edges]}}


def shared_graph(
    containers: Sequence[Sequence[int]], cores: int = 2, memory: int = 0
) -> ResourceGraph:
    """A cluster of containers, given by the numbers of the nodes that each contains."""
    kinds: dict[str, dict[str, Any]] = {"cluster0": {"name": "cluster0"}}
    edges = []
    for c, nodes in enumerate(containers):
        kinds[f"container{c}"] = {"name": f"container{c}", "id": c}
        edges.append(("cluster0", f"container{c}"))
        edges += [(f"container{c}", f"node{n}") for n in nodes]
    for n in sorted(set(itertools.chain(*containers))):
        kinds[f"node{n}"] = {"name": f"node{n}", "id": n, "rank": n}
        for c in range(cores):
            kinds[f"{n}.core{c}"] = {"name": f"core{c}", "id": c, "rank": n}
            edges.append((f"node{n}", f"{n}.core{c}"))
        if memory:
            kinds[f"{n}.memory0"] = {"name": "memory0", "size": memory, "rank": n}
            edges.append((f"node{n}", f"{n}.memory0"))
    return parse_jgf(jgf(kinds, edges))


def physical(match: Match, kind: str) -> list[str]:
    """The vertices of a type in a match by their first paths, as often as they are in it."""
    graph = match.graph
    assert graph.same is not None
    chosen = [v for v in match.chosen if graph.type_name(v) == kind]
    return sorted(graph.path(int(graph.same[v])) for v in chosen)


def containers(n: int, *below: dict[str, Any], **more: Any) -> dict[str, Any]:
    return spec(ask("container", n, *below), **more)


def held_twice(graph: ResourceGraph, matches: Sequence[Match]) -> str:
    """By brute force: a physical vertex that running matches hold and may not, or ""."""
    assert graph.same is not None
    same = graph.same.tolist()
    holders: dict[int, set[tuple[int, int]]] = {}  # (job, alias) by physical vertex
    excluders: dict[int, set[tuple[int, int]]] = {}
    used: dict[int, int] = {}
    for match in matches:
        inside_exclusive: set[int] = set()
        for v, (amount, exclusive) in match.chosen.items():
            holders.setdefault(same[v], set()).add((match.jobid, v))
            if exclusive:
                inside_exclusive.update(range(v, int(graph.end[v])))
            elif graph.type_name(v) in graph.leaf_types():
                used[same[v]] = used.get(same[v], 0) + amount
        for v in inside_exclusive:
            holders.setdefault(same[v], set()).add((match.jobid, v))
            excluders.setdefault(same[v], set()).add((match.jobid, v))
    for v in excluders:
        if len(holders[v]) > 1:
            return f"{graph.path(v)}: excluded others by {excluders[v]}, held by {holders[v]}"
    over = [v for v, amount in used.items() if amount > graph.size[v]]
    return f"{graph.path(over[0])}: more than there is" if over else ""


def state_of(matcher: EmbeddedMatcher) -> np.ndarray:
    return matcher._planner.state.copy()


# -- the three jobspecs -------------------------------------------------------------------------


@ENGINES
@pytest.mark.parametrize("policy", ["low", "first", "high", "lonode", "hinode"])
@pytest.mark.parametrize("order", list(itertools.permutations(JOBSPECS)), ids="-".join)
def test_the_three_jobspecs_match_together_in_any_order(
    engine: Any, policy: str, order: Sequence[str]
) -> None:
    graph = read_graph(EXAMPLES / "graph.json")
    matcher: Matcher = engine(graph, policy)
    got = {
        name: matcher.allocate((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in order
    }
    assert held_twice(graph, list(got.values())) == ""
    assert len(physical(got["one-container"], "container")) == 1
    assert len(set(physical(got["one-container"], "node"))) == 2
    assert len(set(physical(got["two-containers"], "container"))) == 2
    assert len(set(physical(got["shared"], "container"))) == 2
    assert physical(got["shared"], "node") == 2 * ["/cluster0/container0/node0"] + 2 * [
        "/cluster0/container0/node1"
    ]


# -- the rules ----------------------------------------------------------------------------------


@ENGINES
def test_a_container_uses_a_shared_node_without_excluding_the_other(engine: Any) -> None:
    graph = shared_graph([[0], [0]])
    matcher = engine(graph, "low")
    one_core = containers(1, ask("node", 1, slot(1, ask("core"))))
    got = [matcher.allocate(one_core) for _ in range(2)]
    assert held_twice(graph, got) == ""
    with pytest.raises(Busy):
        matcher.allocate(one_core)


@ENGINES
def test_what_is_consumed_by_one_path_is_gone_by_the_other(engine: Any) -> None:
    matcher = engine(shared_graph([[0], [0]], cores=2), "low")
    assert matcher.satisfiable(containers(2, ask("node", 1, slot(1, ask("core")))))
    assert not matcher.satisfiable(containers(2, ask("node", 1, slot(1, ask("core", 2)))))
    with pytest.raises(Unsatisfiable):
        matcher.allocate(containers(2, ask("node", 1, slot(1, ask("core", 2)))))
    first = matcher.allocate(containers(1, ask("node", 1, slot(1, ask("core", 2)))))
    with pytest.raises(Busy):
        matcher.allocate(containers(1, ask("node", 1, slot(1, ask("core")))))
    matcher.cancel(first.jobid)
    matcher.allocate(containers(1, ask("node", 1, slot(1, ask("core", 2)))))


@ENGINES
def test_an_exclusive_shared_node_is_no_other_containers(engine: Any) -> None:
    graph = shared_graph([[0], [0]])
    matcher = engine(graph, "low")
    whole = containers(1, ask("node", 1, exclusive=True))
    held = matcher.allocate(whole)
    for refused in (whole, containers(1, ask("node", 1, slot(1, ask("core"))))):
        with pytest.raises(Busy):
            matcher.allocate(refused)
    matcher.cancel(held.jobid)
    matcher.allocate(containers(1, ask("node", 1, slot(1, ask("core")))))
    with pytest.raises(Busy):
        matcher.allocate(whole)
    with pytest.raises(Unsatisfiable):
        matcher.allocate(containers(2, ask("node", 1, exclusive=True)))


@ENGINES
def test_a_node_in_a_slot_is_exclusive_one_above_a_slot_is_shared(engine: Any) -> None:
    graph = shared_graph([[0, 1], [0, 1]])
    matcher = engine(graph, "low")
    inside = matcher.allocate(containers(2, slot(1, ask("node", 1, ask("core", 1)))))
    assert len(set(physical(inside, "node"))) == 2
    assert held_twice(graph, [inside]) == ""
    with pytest.raises(Busy):
        matcher.allocate(containers(1, ask("node", 1, slot(1, ask("core")))))


@ENGINES
def test_the_container_that_has_no_other_node_gets_the_shared_one(engine: Any) -> None:
    graph = shared_graph([[0, 1], [0]])
    got = engine(graph, "low").allocate(containers(2, ask("node", 1, exclusive=True)))
    nodes = {path for path in got.vertices if "node" in path and "core" not in path}
    assert nodes == {"/cluster0/container0/node1", "/cluster0/container1/node0"}


@ENGINES
def test_a_request_that_names_no_container_counts_each_core_once(engine: Any) -> None:
    graph = shared_graph([[0, 1], [0, 1]], cores=2)
    matcher = engine(graph, "low")
    assert not matcher.satisfiable(spec(slot(5, ask("core"))))
    got = matcher.allocate(spec(slot(4, ask("core"))))
    assert len(set(physical(got, "core"))) == 4
    assert got.to_r()["execution"]["R_lite"] == [{"rank": "0-1", "children": {"core": "0-1"}}]


@ENGINES
def test_a_reservation_waits_for_what_the_other_path_holds(engine: Any) -> None:
    matcher = engine(shared_graph([[0], [0]]), "low")
    both = containers(1, ask("node", 1, slot(1, ask("core", 2))), duration=100)
    matcher.allocate(both)
    later = matcher.reserve(both)
    assert (later.at, later.reserved) == (100, True)
    assert matcher.reserve(both).at == 200


@ENGINES
def test_a_shared_node_that_is_down_is_so_by_every_path(engine: Any) -> None:
    graph = shared_graph([[0, 1], [0]])
    matcher = engine(graph, "low")
    matcher.mark([graph.of_type("node")[0]], up=False)
    one = containers(1, ask("node", 1, slot(1, ask("core"))))
    assert physical(matcher.allocate(one), "node") == ["/cluster0/container0/node1"]
    with pytest.raises(Busy):
        matcher.allocate(containers(2, ask("node", 1, slot(1, ask("core")))))
    matcher.mark([graph.of_type("node")[0]], up=True)
    matcher.allocate(containers(2, ask("node", 1, slot(1, ask("core")))))


@ENGINES
def test_an_allocation_made_elsewhere_is_seen_by_every_path(engine: Any) -> None:
    graph = shared_graph([[0], [0]])
    matcher = engine(graph, "low")
    one = containers(1, ask("node", 1, slot(1, ask("core", 2))))
    R = engine(graph, "low").allocate(one).to_r()
    matcher.update(7, R, 0, 0)
    with pytest.raises(Busy):
        matcher.allocate(one)
    with pytest.raises(Busy):
        matcher.update(8, R, 0, 0)
    matcher.cancel(7)
    matcher.allocate(one)


@ENGINES
def test_a_part_that_is_given_back_is_so_by_every_path(engine: Any) -> None:
    graph = shared_graph([[0, 1], [0, 1]], memory=4)
    matcher = engine(graph, "low")
    two = containers(1, ask("node", 2, slot(1, ask("core", 2), ask("memory", 4))))
    held = matcher.allocate(two)
    core = {"rank": "0", "children": {"core": "0-1"}}
    execution = {"R_lite": [core], "nodelist": ["node0"], "starttime": 0, "expiration": 0}
    assert not matcher.partial_cancel(held.jobid, {"version": 1, "execution": execution})
    left = matcher.find("sched-now=allocated")["execution"]["R_lite"]
    assert left == [{"rank": "1", "children": {"core": "0-1"}}]
    again = matcher.allocate(containers(1, ask("node", 1, slot(1, ask("core", 2)))))
    assert physical(again, "node") == ["/cluster0/container0/node0"]
    matcher.cancel(again.jobid)
    matcher.cancel(held.jobid)
    matcher.allocate(two)


def test_nodes_with_nothing_known_in_them_are_shared_too() -> None:
    matcher = EmbeddedMatcher(shared_graph([[0, 1], [0, 1]], cores=0), "low")
    four = matcher.allocate(containers(2, ask("node", 2)))
    assert len(physical(four, "node")) == 4
    one = matcher.allocate(containers(1, ask("node", 2)))
    alone = containers(1, ask("node", 1, exclusive=True))
    with pytest.raises(Busy):
        matcher.allocate(alone)
    matcher.cancel(four.jobid)
    matcher.cancel(one.jobid)
    matcher.allocate(alone)


def test_pools_are_shared_by_amount() -> None:
    matcher = EmbeddedMatcher(shared_graph([[0], [0]], memory=8), "low")
    part = containers(1, ask("node", 1, ask("memory", 4)))
    matcher.allocate(part)
    matcher.allocate(containers(1, ask("node", 1, ask("memory", 3))))
    with pytest.raises(Busy):
        matcher.allocate(part)
    assert not matcher.satisfiable(containers(2, ask("node", 1, ask("memory", 5))))


def test_a_policy_of_whole_nodes_gives_each_container_a_node_of_its_own() -> None:
    graph = shared_graph([[0, 1], [0, 1]])
    two = containers(2, ask("node", 1, slot(1, ask("core"))))
    got = EmbeddedMatcher(graph, "lonodex").allocate(two)
    assert len(set(physical(got, "node"))) == 2
    assert held_twice(graph, [got]) == ""
    four = containers(2, ask("node", 2, slot(1, ask("core"))))
    assert not EmbeddedMatcher(graph, "lonodex").satisfiable(four)


# -- any graph ----------------------------------------------------------------------------------

graphs = st.builds(
    shared_graph,
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True), min_size=1).filter(
        lambda c: len(c) <= 4 and len(set(itertools.chain(*c))) < sum(map(len, c))
    ),
    st.integers(1, 3),
    st.sampled_from([0, 4]),
)
tasks = st.builds(lambda n, m: slot(n, ask("core", m)), st.integers(1, 2), st.integers(1, 2))
some_nodes = st.one_of(
    st.builds(lambda n, task: ask("node", n, task), st.integers(1, 2), tasks),
    st.builds(lambda n: ask("node", n, exclusive=True), st.integers(1, 2)),
    st.builds(lambda n: slot(1, ask("node", n, ask("core", 1))), st.integers(1, 2)),
    tasks,
)
requests = st.one_of(
    st.builds(lambda n, nodes: containers(n, nodes, duration=10), st.integers(1, 3), some_nodes),
    st.builds(lambda nodes: spec(nodes, duration=10), some_nodes),
    st.builds(lambda n: spec(ask("container", n, exclusive=True), duration=10), st.integers(1, 2)),
    st.builds(lambda a, b: containers(1, a, b, duration=10), some_nodes, tasks),
)


@settings(max_examples=150, deadline=None)
@given(graphs, st.lists(requests, max_size=6), st.sampled_from(["low", "first", "hinodex"]))
def test_nothing_is_given_twice_and_all_comes_back(
    graph: ResourceGraph, asked: list[dict[str, Any]], policy: str
) -> None:
    matcher = EmbeddedMatcher(graph, policy)
    before = state_of(matcher)
    paths = {graph.path(v) for v in range(len(graph))}
    got: list[Match] = []
    for request in asked:
        fits = matcher.satisfiable(request)
        try:
            got.append(matcher.allocate(request))
        except Unsatisfiable:
            assert not fits
            continue
        except Busy:
            assert fits
            continue
        assert fits
        assert set(got[-1].vertices) <= paths
        assert held_twice(graph, got) == ""
        assert (state_of(matcher)[1:] >= 0).all()
    for match in got:
        matcher.cancel(match.jobid)
    assert (state_of(matcher) == before).all()


@settings(max_examples=60, deadline=None)
@given(graphs, st.lists(requests, max_size=8))
def test_reservations_are_never_of_what_is_held_by_another_path(
    graph: ResourceGraph, asked: list[dict[str, Any]]
) -> None:
    matcher = EmbeddedMatcher(graph, "low")
    got = []
    for request in asked:
        if matcher.satisfiable(request):
            got.append(matcher.reserve(request))
    for time in {match.at for match in got}:
        running = [match for match in got if match.at <= time < match.at + 10]
        assert held_twice(graph, running) == ""


@ONLY_FLUXION
@settings(max_examples=25, deadline=None)
@given(graph=graphs, asked=st.lists(requests, max_size=4))
def test_fluxion_gives_nothing_twice(
    engine: type[FluxionMatcher], graph: ResourceGraph, asked: list[dict[str, Any]]
) -> None:
    matcher = engine(graph, "low")
    got: list[Match] = []
    for request in asked:
        try:
            got.append(matcher.reserve(request))
        except FlexError:  # Busy, Unsatisfiable, or a request that skips a level only in one place
            continue
    for time in {match.at for match in got}:
        running = [match for match in got if match.at <= time < match.at + 10]
        assert held_twice(graph, running) == ""
    for match in got:
        matcher.cancel(match.jobid)


# -- JGF ----------------------------------------------------------------------------------------


@given(graphs)
def test_a_shared_graph_survives_the_way_out_and_in(graph: ResourceGraph) -> None:
    document: Any = jgf_document(graph)
    again = parse_jgf(document)
    assert [again.path(v) for v in range(len(again))] == [graph.path(v) for v in range(len(graph))]
    assert again.same is not None
    assert graph.same is not None
    assert again.same.tolist() == graph.same.tolist()
    assert len(document["graph"]["nodes"]) == len(set(graph.same.tolist()))


def test_a_match_as_jgf_has_a_shared_node_once_with_both_edges() -> None:
    graph = shared_graph([[0], [0]])
    got = EmbeddedMatcher(graph, "low").allocate(
        containers(2, ask("node", 1, slot(1, ask("core"))))
    )
    document: Any = got.to_jgf()
    names = [node["metadata"]["name"] for node in document["graph"]["nodes"]]
    assert names.count("node0") == 1
    assert len(document["graph"]["edges"]) == 6  # 2 containers, node0 in both, 2 cores in node0
    assert got.hosts == ["node0"]
    assert parse_jgf(document).total("core") == 2


def test_a_few_edges_with_many_paths_are_refused() -> None:
    names = ["cluster0", *(f"{side}{i}" for i in range(40) for side in ("left", "right"))]
    edges = [("cluster0", "left0"), ("cluster0", "right0")]
    for i in range(39):
        edges += [(f"{a}{i}", f"{b}{i + 1}") for a in ("left", "right") for b in ("left", "right")]
    kinds = {name: {"name": name} for name in names}
    with pytest.raises(BadInput, match="too many paths"):
        parse_jgf(jgf(kinds, edges))


def test_a_long_chain_with_one_shared_end_is_refused() -> None:
    names = ["cluster0", *(f"box{i}" for i in range(20_000))]
    edges = [*itertools.pairwise(names), ("cluster0", names[-1])]
    with pytest.raises(BadInput, match="too deep"):
        parse_jgf(jgf({name: {"name": name} for name in names}, edges))
