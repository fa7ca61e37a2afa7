"""What the policy first gives: the best of what fluxion's walk meets before it stops looking."""

import random

import pytest
from match_help import ask, cores, embedded, names, nodes, plant, slot, spec, vertex, whole_nodes

from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.embedded.discovery import Discovery, Order
from flux_flex.match.embedded.traverser import Traversal
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex


def first(graph: ResourceGraph) -> EmbeddedMatcher:
    return embedded(graph, "first")


def host_of(matcher: EmbeddedMatcher, request: dict) -> str:
    (host,) = matcher.allocate(request).hosts
    return host


# -- the order of visits ------------------------------------------------------------------------


def test_of_untouched_nodes_the_one_that_was_read_last_comes_first():
    graph = plant({"cluster": {f"node{i}": {"core": 1} for i in (5, 9, 2)}})
    assert [host_of(first(graph), cores(1))] == ["node2"]
    matcher = first(graph)
    assert [host_of(matcher, cores(1)) for _ in range(3)] == ["node2", "node9", "node5"]


def test_untouched_nodes_come_before_those_where_a_job_came_by():
    matcher = first(nodes(3, core=4))
    given = [host_of(matcher, cores(1)) for _ in range(4)]
    assert given == ["node2", "node1", "node0", "node2"]


def test_a_node_stays_touched_when_its_job_is_gone():
    matcher = first(nodes(2, core=2))
    matcher.cancel(matcher.allocate(cores(1)).jobid)
    assert host_of(matcher, cores(1)) == "node0"


def test_of_touched_nodes_the_one_with_the_most_free_cores_comes_first():
    matcher = first(nodes(3, core=6))
    for taken in (3, 1, 2):
        matcher.allocate(spec(slot(1, ask("core", taken))))
    assert [host_of(matcher, spec(slot(1, ask("core", 2)))) for _ in range(2)] == ["node1", "node0"]


def test_how_much_is_free_is_what_the_last_job_that_came_by_left():
    """Cancelled or ended, it is not looked at again until the next job comes by."""
    matcher = first(nodes(2, core=4))
    long = matcher.allocate(spec(slot(1, ask("core", 3))))
    assert long.hosts == ["node1"]
    assert host_of(matcher, spec(slot(1, ask("core", 2)))) == "node0"
    matcher.cancel(long.jobid)
    assert host_of(matcher, cores(1)) == "node0"  # two were left there, and one on node1
    assert host_of(matcher, cores(1)) == "node1"  # as on node0 now, which was read before it


def test_cores_that_go_along_with_an_exclusive_node_unlisted_count_as_left():
    matcher = first(nodes(3, core=4))
    shared = spec(ask("node", 1, slot(1, ask("core", 1))), duration=10)
    exclusive = spec(slot(1, ask("node", 1, ask("core", 1))), duration=10)
    for request in (exclusive, spec(slot(1, ask("core", 2))), shared):
        matcher.allocate(request)
    matcher.advance(10)
    # On node2, as on node0, three were left that no match lists, on node1 only two.
    assert host_of(matcher, cores(1)) == "node2"


def test_children_come_in_the_order_of_what_was_learnt_in_large_and_small_families():
    for width in (5, 200):
        graph = nodes(width, core=3)
        order, rng = Order(graph), random.Random(width)
        weight = {}
        for _ in range(300):
            child = rng.choice(graph.of_type("node").tolist())
            weight[child] = rng.randrange(4)
            order.touch(child, weight[child])
            wanted = sorted(graph.children(0), key=lambda v: (-weight.get(v, 1 << 62), -v))
            assert list(order.children(0)) == wanted


def test_the_root_itself_can_be_where_a_job_comes_by():
    matcher = first(plant({"cluster": {"core": 3}}))
    assert names(matcher.allocate(cores(1))) == {"core2"}
    assert first(nodes(2, core=1)).allocate(spec(ask("cluster"))).vertices == {
        "/cluster0": (1, False)
    }


def test_a_fork_learns_by_itself():
    matcher = first(nodes(4, core=2))
    matcher.allocate(cores(1))
    twin = matcher.fork()
    assert [host_of(twin, cores(1)) for _ in range(3)] == ["node2", "node1", "node0"]
    assert host_of(matcher, cores(1)) == "node2"
    assert host_of(twin.fork(), cores(1)) == "node3"


def test_a_question_teaches_nothing():
    matcher = first(nodes(2, core=2))
    for _ in range(3):
        assert matcher.probe(cores(1)).hosts == ["node1"]
        assert matcher.satisfiable(cores(1))
    with pytest.raises(Busy):
        [matcher.allocate(cores(4)) for _ in range(2)]
    assert matcher.probe(cores(1)) is None


# -- where it stops -----------------------------------------------------------------------------


def test_it_stops_when_it_has_enough_and_takes_the_best_of_what_it_met():
    """Four cores of the node that it comes to first: the highest of those, and no others."""
    graph = plant({"cluster": {"node9": {"core": 4}, "node0": {"core": 4}}})
    match = first(graph).allocate(cores(2))
    assert names(match) == {"node0", "node0/core3", "node0/core2"}
    # All that high knows of is met by a policy that looks at everything.
    assert embedded(graph, "hinode").allocate(cores(2)).hosts == ["node9"]


def test_of_what_one_node_yields_beyond_enough_the_best_is_taken():
    graph = plant({"cluster": {"node9": {"core": 2}, "node0": {"core": 3}}})
    match = first(graph).allocate(cores(4))
    # Three of node0 were not enough, and node9's two are better than any of these.
    assert names(match) >= {"node9/core0", "node9/core1", "node0/core2", "node0/core1"}
    assert match.amount("core") == 4


def test_a_range_has_the_walk_look_at_everything():
    graph = plant({"cluster": {"node9": {"core": 2}, "node0": {"core": 3}}})
    assert first(graph).allocate(spec(slot({"min": 1, "max": 4}, ask("core")))).amount("core") == 4
    assert first(graph).allocate(spec(slot({"min": 1}, ask("core")))).amount("core") == 5
    match = first(graph).allocate(spec(ask("node", {"min": 1, "max": 9}, exclusive=True)))
    assert sorted(match.hosts) == ["node0", "node9"]
    few = {"min": 2, "max": 7, "operator": "*", "operand": 2}
    assert first(graph).allocate(spec(slot(few, ask("core")))).amount("core") == 4


def test_a_walk_that_cannot_succeed_is_given_up_early(monkeypatch):
    visits = []
    visit = Discovery._visit
    monkeypatch.setattr(
        Discovery,
        "_visit",
        lambda self, vertex, *more: visits.append(vertex) or visit(self, vertex, *more),
    )
    matcher = first(nodes(300, core=2))
    matcher.allocate(spec(ask("node", 300, slot(1, ask("core"))), duration=10))
    visits.clear()
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(1, 5))
    assert 0 < len(visits) < 100
    assert matcher.reserve(whole_nodes(300)).at == 10


# -- what it meets ------------------------------------------------------------------------------


def test_nodes_that_a_constraint_or_being_down_leaves_out_are_not_met():
    matcher = first(nodes(5, core=1))
    matcher.mark([vertex(matcher.graph, "node4")], up=False)
    assert host_of(matcher, cores(1)) == "node3"
    low = spec(slot(1, ask("core")), constraints={"ranks": ["0-1"]})
    assert host_of(matcher, low) == "node1"
    assert host_of(matcher, low) == "node0"
    with pytest.raises(Busy):
        matcher.allocate(low)
    assert host_of(matcher, cores(1)) == "node2"


def test_a_slot_takes_its_cores_through_levels_that_it_does_not_name(monkeypatch):
    monkeypatch.delattr(Traversal, "_pick_siblings")  # the walk itself finds them
    sockets = {"socket0": {"core": 2, "gpu": 1}, "socket1": {"core": 2, "gpu": 1}}
    graph = plant({"cluster": {"rack0": {"node0": sockets}}})
    for wants in (
        ask("node", 1, slot(4, ask("core"))),
        ask("node", 1, slot(2, ask("core", 2), ask("gpu", 1))),
        ask("cluster", 1, slot(1, ask("core", 4))),
        slot(1, ask("node", 1, ask("core", 4))),
    ):
        assert first(graph).allocate(spec(wants)).amount("core") == 4


def test_two_things_that_are_looked_for_in_one_place_are_both_found():
    """One walk meets each vertex for one of them only; they do not compete for all that."""
    sockets = {"socket0": {"core": 2, "gpu": 1}, "socket1": {"core": 2, "gpu": 1}}
    graph = plant({"cluster": {"node0": sockets}})
    for wants in (
        [slot(1, ask("core")), slot(1, ask("gpu"))],
        [ask("node"), slot(1, ask("core"))],
        [ask("core"), ask("node")],
        [ask("node", 1, ask("socket", 1, ask("gpu")), ask("core", 3))],
    ):
        match = first(graph).allocate(spec(*wants))
        assert match.hosts == ["node0"]
        assert match.amount("core") >= 1


def test_a_vertex_that_holds_others_counts_one_whatever_its_size():
    builder = GraphBuilder()
    node = builder.add(Vertex("node", "node0"), builder.add(Vertex("cluster", "cluster0")))
    for i in range(2):
        builder.add(Vertex("core", "core0"), builder.add(Vertex("socket", f"s{i}", i, 5), node))
    graph = builder.build()
    assert names(first(graph).allocate(spec(ask("node", 1, ask("socket", 2))))) == {
        "node0",
        "node0/s0",
        "node0/s1",
    }
    with pytest.raises(Unsatisfiable):
        first(graph).allocate(spec(ask("node", 1, ask("socket", 3))))


def test_a_part_of_a_pool_is_taken_where_a_part_is_asked_for():
    matcher = first(plant({"cluster": {"node0": {"memory": [8, 8]}}}))
    held = [matcher.allocate(spec(ask("node", 1, ask("memory", 6)))).vertices for _ in range(2)]
    memory = [
        {path[-1]: held for path, held in match.items() if "memory" in path} for match in held
    ]
    assert memory == [{"1": (6, False)}, {"1": (2, False), "0": (4, False)}]
    with pytest.raises(Busy):
        matcher.allocate(spec(ask("node", 1, ask("memory", 6))))
    assert matcher.allocate(spec(ask("memory", 4))).amount("memory") == 4


def test_a_slot_takes_pools_whole():
    matcher = first(plant({"cluster": {"node0": {"memory": [8, 8]}}}))
    match = matcher.allocate(spec(slot(1, ask("memory", 6))))
    assert match.vertices["/cluster0/node0/memory1"] == (8, True)


def test_a_graph_that_is_too_deep_to_be_walked_is_matched_all_the_same():
    builder = GraphBuilder()
    above = builder.add(Vertex("cluster", "cluster0"))
    for i in range(5000):
        above = builder.add(Vertex("box", f"box{i}", i), above)
    for i in range(2):
        builder.add(Vertex("core", f"core{i}", i), above)
    matcher = first(builder.build())
    assert matcher.allocate(cores(1)).amount("core") == 1
    assert matcher.allocate(cores(1)).amount("core") == 1
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
