"""Closeness: the nodes that are nearest to each other, by brute force and through the matcher."""

import random
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pytest
from match_help import ask, embedded, nodes, plant, slot, spec, whole_nodes

from flux_flex.errors import Busy
from flux_flex.model import closeness
from flux_flex.model.closeness import closest
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex

LAYERS = ("nn1", "nn2", "nn3")


def network(rng: random.Random, most: int = 3) -> ResourceGraph:
    """Up to three layers of network nodes, not all of one depth, with nodes below them."""
    builder = GraphBuilder()
    hosts = iter(range(10_000))

    def grow(above: int, layer: int) -> None:
        for number in range(rng.randint(1, most)):
            if layer == len(LAYERS) or rng.random() < 0.2:
                host = next(hosts)
                node = builder.add(Vertex("node", f"n{host}", host, rank=host), above)
                for core in range(2):
                    builder.add(Vertex("core", f"core{core}", core), node)
            else:
                name = f"{LAYERS[layer]}-{above}-{number}"
                grow(builder.add(Vertex(LAYERS[layer], name, number), above), layer + 1)

    root = builder.add(Vertex("cluster", "cluster0"))
    grow(root, 0)
    grow(root, 0)
    return builder.build()


def hops(graph: ResourceGraph, one: int, other: int) -> int:
    """Edges between two vertices."""
    ways = []
    for vertex in (one, other):
        way = [vertex]
        while way[-1] > 0:
            way.append(int(graph.parent[way[-1]]))
        ways.append(way)
    shared = set(ways[0]) & set(ways[1])
    return sum(len([v for v in way if v not in shared]) for way in ways)


def sum_of_hops(graph: ResourceGraph, chosen: Iterable[int]) -> int:
    return sum(hops(graph, a, b) for a, b in combinations(list(chosen), 2))


def rest(graph: ResourceGraph, room: dict[int, int], chosen: Iterable[int]) -> int:
    """What is left in the groups of siblings of which something is taken."""
    chosen = list(chosen)
    opened = {int(graph.parent[v]) for v in chosen}
    return sum(n for v, n in room.items() if int(graph.parent[v]) in opened) - len(chosen)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("roomy", [1, 3])
def test_the_chosen_are_as_near_and_leave_as_little_rest_as_the_best_of_all_sets(seed, roomy):
    rng = random.Random(seed)
    graph = network(rng)
    all_nodes = graph.of_type("node").tolist()
    free = sorted(rng.sample(all_nodes, min(len(all_nodes), rng.randint(3, 8))))
    room = {v: rng.randint(1, roomy) for v in free}
    seats = [v for v in free for _ in range(room[v])]
    wanted = rng.randint(1, min(5, len(seats)))

    share = closest(graph.parent, np.array(free), np.array([room[v] for v in free]), wanted)

    chosen = [v for v, n in zip(free, share.tolist(), strict=True) for _ in range(n)]
    assert len(chosen) == wanted
    assert all(chosen.count(v) <= room[v] for v in free)
    best = min(
        (sum_of_hops(graph, some), rest(graph, room, some))
        for some in set(combinations(seats, wanted))
    )
    assert (sum_of_hops(graph, chosen), rest(graph, room, chosen)) == best


def racks(*sizes: int, cores: int = 1) -> ResourceGraph:
    number = iter(range(1000))
    return plant(
        {
            "cluster": {
                f"rack{i}": {f"node{next(number)}": {"core": cores} for _ in range(size)}
                for i, size in enumerate(sizes)
            }
        }
    )


@pytest.mark.parametrize(("wanted", "rack"), [(1, 2), (2, 2), (3, 1), (4, 3), (5, 3), (6, 0)])
def test_of_equally_near_racks_the_tightest_fit_is_taken(wanted, rack):
    matcher = embedded(racks(7, 3, 2, 5), "topology")
    match = matcher.allocate(whole_nodes(wanted))
    given = {matcher.graph.parent[v] for v in match.nodes}
    assert {matcher.graph.names[v] for v in given} == {f"rack{rack}"}


def test_slots_fill_the_node_that_they_fit_most_tightly():
    graph = plant({"cluster": {f"node{i}": {"core": n} for i, n in enumerate((8, 3, 4, 2))}})
    matcher = embedded(graph, "topology")
    assert matcher.allocate(spec(slot(3, ask("core")))).hosts == ["node1"]
    assert matcher.allocate(spec(slot(3, ask("core")))).hosts == ["node2"]
    # Eight of node0 and one more: the fewest pairs apart, with the rest where least is left.
    match = matcher.allocate(spec(slot(9, ask("core"))))
    assert match.hosts == ["node0", "node2"]


def test_more_than_the_tables_hold_is_chosen_in_portions(monkeypatch):
    monkeypatch.setattr(closeness, "MAX_EXACT", 4)
    graph = racks(3, 4, 6, 4, 2)
    free = graph.of_type("node")
    share = closest(graph.parent, free, np.ones(len(free), dtype=np.int64), 8)
    chosen = free[share > 0]
    assert share.max() == 1
    assert sorted(graph.names[graph.parent[v]] for v in chosen) == ["rack1"] * 4 + ["rack3"] * 4
    all_of_them = closest(graph.parent, free, np.ones(len(free), dtype=np.int64), len(free))
    assert all_of_them.tolist() == [1] * len(free)
    room = np.full(len(free), 3)
    share = closest(graph.parent, free, room, 50)
    assert share.sum() == 50
    assert (share <= room).all()


def test_a_slot_of_the_only_home_and_the_root_itself_can_be_had():
    """The root has no edge above it, and a flat cluster is the home of slots of nodes."""
    matcher = embedded(nodes(3, core=1), "topology")
    assert matcher.allocate(spec(slot(2, ask("node")))).hosts == ["node0", "node1"]
    assert matcher.allocate(spec(ask("cluster", 1, ask("node", 1)))).hosts == ["node2"]
    assert embedded(nodes(1, core=1), "topology").allocate(spec(ask("cluster"))).hosts == []


def test_within_each_rack_that_is_asked_for_the_nodes_are_nearest():
    rack = {"switch0": {"node": 2}, "switch1": {"node": 3}, "switch2": {"node": 1}}
    graph = plant({"cluster": {"rack0": rack, "rack1": rack}})
    match = embedded(graph, "topology").allocate(
        spec(ask("rack", 2, ask("node", 3, exclusive=True)))
    )
    switches = {graph.path(int(graph.parent[v])) for v in match.nodes}
    assert switches == {"/cluster0/rack0/switch1", "/cluster0/rack1/switch1"}


# -- the policy ---------------------------------------------------------------------------------


def fragmented(graph: ResourceGraph, policy: str, busy: list[str]):
    matcher = embedded(graph, policy)
    if busy:
        matcher.allocate(whole_nodes(len(busy), constraints={"hostlist": [",".join(busy)]}))
    return matcher


@pytest.mark.parametrize("seed", range(25))
def test_topology_is_never_farther_apart_than_first_lonode_or_any_nodes_at_random(seed):
    rng = random.Random(seed)
    graph = network(rng, most=4)
    hosts = [graph.names[v] for v in graph.of_type("node")]
    busy = sorted(rng.sample(hosts, rng.randrange(len(hosts) - 1)))
    wanted = rng.randint(2, len(hosts) - len(busy))

    def given(policy: str, request: dict) -> list[int]:
        match = fragmented(graph, policy, busy).allocate(request)
        assert len(match.nodes) == wanted
        return list(match.nodes)

    free = [v for v in graph.of_type("node").tolist() if graph.names[v] not in busy]
    some = min(sum_of_hops(graph, rng.sample(free, wanted)) for _ in range(20))
    for request in (whole_nodes(wanted), spec(slot(wanted, ask("core", 2)))):
        near = sum_of_hops(graph, given("topology", request))
        assert near <= some
        assert near <= sum_of_hops(graph, given("first", request))
        assert near <= sum_of_hops(graph, given("lonode", request))


def test_topology_refuses_what_the_others_refuse():
    matcher = embedded(racks(2, 2), "topology")
    matcher.allocate(whole_nodes(3))
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(2))
    assert not matcher.satisfiable(spec(ask("rack", 1, ask("node", 3))))
