"""The embedded matcher: who gets what, when, and who does not."""

import math

import pytest
from match_help import ask, cores, embedded, names, nodes, plant, slot, spec, whole_nodes

from flux_flex.errors import BadInput
from flux_flex.match import Busy, Unsatisfiable
from flux_flex.model.graph import GraphBuilder, Vertex

NUMBERED_BACKWARDS = {"cluster": {"node2": {"core": 1}, "node0": {"core": 1}, "node1": {"core": 1}}}


# -- allocate, reserve, cancel ------------------------------------------------------------------


def test_a_job_gets_what_it_asks_for_and_the_way_to_it():
    match = embedded(nodes(2, core=4)).allocate(cores(2))
    assert match.vertices == {
        "/cluster0": (1, False),
        "/cluster0/node0": (1, False),
        "/cluster0/node0/core0": (1, True),
        "/cluster0/node0/core1": (1, True),
    }
    assert (match.jobid, match.at, match.reserved) == (1, 0, False)


def test_what_is_in_use_is_busy_and_what_is_not_there_is_unsatisfiable():
    matcher = embedded(nodes(1, core=4))
    matcher.allocate(cores(3))
    with pytest.raises(Busy):
        matcher.allocate(cores(2))
    with pytest.raises(Unsatisfiable):
        matcher.allocate(cores(5))
    with pytest.raises(Unsatisfiable):
        matcher.reserve(cores(5))


def test_a_cancelled_job_makes_room():
    matcher = embedded(nodes(1, core=1))
    first = matcher.allocate(cores(1))
    matcher.cancel(first.jobid)
    assert names(matcher.allocate(cores(1))) == {"node0", "node0/core0"}


def test_a_job_cannot_be_cancelled_twice():
    matcher = embedded(nodes(1, core=1))
    match = matcher.allocate(cores(1))
    matcher.cancel(match.jobid)
    with pytest.raises(BadInput, match="job 1 holds nothing"):
        matcher.cancel(match.jobid)


def test_a_reserved_job_starts_when_enough_has_ended():
    matcher = embedded(nodes(2, core=2))
    for duration in (30, 10, 20, 10):
        matcher.allocate(cores(1, duration))
    match = matcher.reserve(cores(3, 5))
    assert (match.at, match.reserved) == (20, True)


def test_a_cancelled_reservation_lets_others_run_longer():
    matcher = embedded(nodes(1, core=2))
    matcher.allocate(cores(1, 10))
    held = matcher.reserve(cores(2, 10))
    with pytest.raises(Busy):
        matcher.allocate(cores(1, 11))
    matcher.cancel(held.jobid)
    assert matcher.allocate(cores(1, 11)).at == 0


def test_jobs_without_limit_stand_in_the_way_for_ever():
    matcher = embedded(nodes(1, core=2))
    matcher.allocate(cores(1))
    with pytest.raises(Busy, match="without a time limit"):
        matcher.reserve(cores(2, 10))
    assert matcher.probe(cores(2, 10)) is None
    assert matcher.end_of(1) == math.inf


def test_a_job_without_limit_waits_for_the_last_reservation():
    matcher = embedded(nodes(1, core=2))
    matcher.allocate(cores(2, 10))
    matcher.reserve(cores(2, 10), at=15)
    assert matcher.reserve(cores(1)).at == 25


def test_a_job_that_would_run_into_a_reservation_is_refused_and_a_shorter_one_is_not():
    matcher = embedded(nodes(2, core=1))
    matcher.allocate(cores(1, 10))
    assert matcher.reserve(whole_nodes(2, 10)).at == 10
    with pytest.raises(Busy):
        matcher.allocate(cores(1, 11))
    assert matcher.reserve(cores(1, 11)).at == 20
    assert matcher.allocate(cores(1, 10)).at == 0


def test_jobs_may_follow_each_other_beside_a_longer_one():
    """The peak of what later spans hold counts, not their sum."""
    matcher = embedded(nodes(1, core=2))
    matcher.allocate(cores(1, 10), at=10)
    matcher.allocate(cores(1, 10), at=20)
    assert names(matcher.allocate(cores(1, 40))) == {"node0", "node0/core1"}


def test_a_core_that_changes_hands_within_the_window_is_not_lost_twice():
    matcher = embedded(nodes(1, core=2))
    matcher.allocate(cores(1, 10))
    matcher.reserve(spec(slot(1, ask("core")), duration=10), at=10)
    assert matcher.allocate(cores(1, 30)).at == 0


def test_two_pools_halves_given_back_at_once_and_taken_by_two():
    matcher = embedded(plant({"cluster": {"node0": {"memory": [8]}}}))
    memory = lambda n, t: spec(ask("memory", n), duration=t)  # noqa: E731
    matcher.allocate(memory(4, 10))
    matcher.allocate(memory(3, 10), at=10)
    matcher.allocate(memory(3, 10), at=10)
    assert matcher.allocate(memory(2, 30)).at == 0
    with pytest.raises(Busy):
        matcher.allocate(memory(3, 11))


def test_an_allocation_may_be_asked_for_later():
    matcher = embedded(nodes(1, core=1))
    match = matcher.allocate(cores(1, 10), at=5)
    assert (match.at, match.reserved) == (5, False)
    assert matcher.idle_nodes() == [1]
    matcher.advance(5)
    assert matcher.idle_nodes() == []


def test_what_ends_is_free_at_that_time():
    matcher = embedded(nodes(1, core=1))
    matcher.allocate(cores(1, 10))
    assert matcher.allocate(cores(1, 10), at=10).at == 10
    matcher.advance(20)
    assert list(matcher.holders) == []
    assert matcher.now == 20


def test_after_many_jobs_have_come_and_gone_all_is_free_again():
    matcher = embedded(nodes(2, core=2))
    for now in range(0, 900, 3):
        matcher.advance(now)
        assert matcher.allocate(cores(3, 2)).at == now
        assert matcher.reserve(cores(4, 1)).at == now + 2
    matcher.advance(900)
    assert list(matcher.holders) == []
    assert matcher.reserve(whole_nodes(2)).at == 900


@pytest.mark.parametrize("now", [9, math.nan])
def test_time_only_moves_forward(now):
    matcher = embedded(nodes(1, core=1))
    matcher.advance(10)
    with pytest.raises(BadInput, match="backwards"):
        matcher.advance(now)


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_a_start_that_is_no_time_is_refused(at):
    matcher = embedded(nodes(1, core=1))
    for question in (matcher.allocate, matcher.reserve):
        with pytest.raises(BadInput, match="a start at"):
            question(cores(1), at=at)


def test_what_is_asked_for_the_past_starts_now():
    matcher = embedded(nodes(1, core=1))
    matcher.advance(10)
    match = matcher.reserve(cores(1), at=3)
    assert (match.at, match.reserved) == (10, False)


def test_ids_are_the_callers_or_the_next_free_ones():
    matcher = embedded(nodes(1, core=4))
    assert matcher.allocate(cores(1), jobid=1).jobid == 1
    assert matcher.allocate(cores(1)).jobid == 2
    with pytest.raises(BadInput, match="job 2 holds resources already"):
        matcher.allocate(cores(1), jobid=2)
    assert len(matcher.holders) == 2


def test_a_probe_stops_at_its_limit():
    matcher = embedded(nodes(1, core=1))
    matcher.allocate(cores(1, 50))
    assert matcher.probe(cores(1), before=49) is None
    probed = matcher.probe(cores(1), before=50)
    assert (probed.at, probed.reserved) == (50, True)


def test_the_version_changes_with_every_change():
    matcher = embedded(nodes(2, core=1))
    seen = [matcher.version]
    match = matcher.allocate(cores(1, 10))
    seen.append(matcher.version)
    matcher.mark([1], up=False)
    seen.append(matcher.version)
    matcher.cancel(match.jobid)
    seen.append(matcher.version)
    assert len(set(seen)) == 4
    matcher.probe(cores(1))
    assert matcher.version == seen[-1]


def test_a_fork_shares_nothing_that_changes():
    matcher = embedded(nodes(1, core=1))
    twin = matcher.fork()
    twin.allocate(cores(1))
    twin.mark([1], up=False)
    twin.advance(5)
    assert matcher.now == 0
    assert matcher.allocate(cores(1)).at == 0


# -- exclusive and shared -----------------------------------------------------------------------


def test_an_exclusive_node_is_given_with_all_that_is_in_it():
    match = embedded(nodes(2, core=2, gpu=1)).allocate(whole_nodes(1))
    assert names(match) == {"node0", "node0/core0", "node0/core1", "node0/gpu0"}
    assert all(exclusive for path, (_, exclusive) in match.vertices.items() if "node" in path)


def test_a_node_that_is_used_at_all_is_not_given_exclusively():
    matcher = embedded(nodes(1, core=2))
    matcher.allocate(cores(1))
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(1))


def test_nothing_in_an_exclusive_node_is_given_to_others():
    matcher = embedded(nodes(1, core=2, gpu=1))
    matcher.allocate(spec(ask("node", 1, slot(1, ask("core")), exclusive=True)))
    for other in (cores(1), spec(slot(1, ask("gpu"))), spec(ask("node", 1))):
        with pytest.raises(Busy):
            matcher.allocate(other)


def test_a_shared_node_is_shared_until_its_cores_run_out():
    matcher = embedded(nodes(1, core=2))
    shared = spec(ask("node", 1, slot(1, ask("core"))))
    assert {matcher.allocate(shared).jobid for _ in range(2)} == {1, 2}
    with pytest.raises(Busy):
        matcher.allocate(shared)


def test_a_node_shared_without_taking_anything_in_it_is_still_not_exclusive():
    matcher = embedded(nodes(1, core=1))
    matcher.allocate(spec(ask("node", 1), duration=10))
    assert names(matcher.allocate(cores(1, 5))) == {"node0", "node0/core0"}
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(1))
    assert matcher.reserve(whole_nodes(1)).at == 10


def test_a_reservation_that_shares_a_node_keeps_it_from_being_taken_whole():
    matcher = embedded(nodes(1, core=1))
    matcher.allocate(spec(ask("node", 1), duration=10), at=10)
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(1, 11))
    assert matcher.allocate(whole_nodes(1, 10)).at == 0


def test_a_rack_taken_whole_takes_its_nodes():
    graph = plant({"cluster": {"rack0": {"node0": {"core": 1}}, "rack1": {"node1": {"core": 1}}}})
    matcher = embedded(graph)
    match = matcher.allocate(spec(ask("rack", 1, exclusive=True)))
    assert names(match) == {"rack0", "rack0/node0", "rack0/node0/core0"}
    assert names(matcher.allocate(cores(1))) == {"rack1", "rack1/node1", "rack1/node1/core0"}
    with pytest.raises(Busy):
        matcher.allocate(cores(1))


def test_a_slot_holds_its_nodes_exclusively():
    matcher = embedded(nodes(1, core=2))
    match = matcher.allocate(spec(slot(1, ask("node", 1, ask("core", 1)))))
    assert match.vertices["/cluster0/node0"] == (1, True)
    with pytest.raises(Busy):
        matcher.allocate(cores(1))


# -- slots, pools, counts -----------------------------------------------------------------------


def test_a_slot_never_straddles_two_nodes():
    matcher = embedded(nodes(2, core=3))
    match = matcher.allocate(spec(slot(2, ask("core", 2))))
    assert len(match.nodes) == 2
    with pytest.raises(Busy):  # one core is left on each
        matcher.allocate(spec(slot(1, ask("core", 2))))
    with pytest.raises(Unsatisfiable):
        matcher.allocate(spec(slot(1, ask("core", 4))))


def test_slots_of_cores_and_gpus_fit_as_often_as_both_do():
    graph = plant({"cluster": {"node0": {"core": 8, "gpu": 1}, "node1": {"core": 2, "gpu": 2}}})
    matcher = embedded(graph)
    pair = ask("core", 2), ask("gpu")
    match = matcher.allocate(spec(slot(2, *pair)))
    assert (match.amount("core"), match.amount("gpu"), match.amount("tpu")) == (4, 2, 0)
    assert match.hosts == ["node0", "node1"]
    assert not matcher.satisfiable(spec(slot(3, *pair)))


def test_memory_is_taken_by_amount_from_pools_that_have_some():
    matcher = embedded(plant({"cluster": {"node0": {"core": 4, "memory": [8, 8]}}}))
    wants = spec(ask("node", 1, slot(1, ask("core")), ask("memory", 6)))
    held = [matcher.allocate(wants).vertices for _ in range(2)]
    memory = [
        {path[-1]: amount for path, (amount, _) in match.items() if "memory" in path}
        for match in held
    ]
    assert memory == [{"0": 6}, {"0": 2, "1": 4}]
    with pytest.raises(Busy):
        matcher.allocate(wants)


def test_a_slot_takes_whole_pools_since_pools_are_not_split_between_slots():
    matcher = embedded(plant({"cluster": {"node0": {"memory": [2, 2, 4]}}}))
    match = matcher.allocate(spec(slot(2, ask("memory", 3))))
    assert match.amount("memory") == 8
    assert not matcher.satisfiable(spec(slot(3, ask("memory", 3))))


def test_two_contents_of_one_pool_type_take_different_pools():
    matcher = embedded(plant({"cluster": {"node0": {"memory": [4, 4]}}}))
    both = ask("memory", 3), ask("memory", 3)
    assert matcher.satisfiable(spec(slot(1, *both)))
    assert not matcher.satisfiable(spec(slot(2, *both)))


def test_vertices_that_hold_others_count_one_each_whatever_their_size():
    builder = GraphBuilder()
    node = builder.add(Vertex("node", "node0"), builder.add(Vertex("cluster", "cluster0")))
    for i in range(2):
        builder.add(Vertex("core", "core0"), builder.add(Vertex("socket", f"s{i}", i, 5), node))
    matcher = embedded(builder.build())
    assert matcher.satisfiable(spec(slot(1, ask("socket", 2))))
    assert not matcher.satisfiable(spec(slot(1, ask("socket", 3))))
    assert matcher.allocate(spec(slot(2, ask("socket")))).hosts == ["node0"]


def test_slots_of_pools_come_in_the_order_of_the_policy():
    graph = plant({"cluster": {f"node{i}": {"memory": [4, 4]} for i in range(2)}})
    match = embedded(graph, policy="high").allocate(spec(slot(3, ask("memory", 4))))
    assert match.amount("memory") == 12


@pytest.mark.parametrize(
    ("count", "given"),
    [
        ({"min": 1, "max": 3}, 3),
        ({"min": 2, "max": 100}, 7),
        ({"min": 2}, 7),
        ({"min": 1, "max": 7, "operator": "+", "operand": 4}, 5),
        ({"min": 1, "max": 7, "operator": "*", "operand": 2}, 4),
        ({"min": 2, "max": 7, "operator": "^", "operand": 2}, 4),
    ],
)
def test_a_range_gives_the_most_that_is_free(count, given):
    matcher = embedded(nodes(2, core=4))
    matcher.allocate(cores(1))
    assert matcher.allocate(spec(slot(count, ask("core")))).amount("core") == given


def test_a_range_within_nodes_gives_each_node_its_own_most():
    graph = plant({"cluster": {"node0": {"core": 2}, "node1": {"core": 5}}})
    more = {"min": 2, "max": 4}
    match = embedded(graph).allocate(spec(ask("node", more, slot(more, ask("core")))))
    assert [p for p in match.vertices if "core" in p and "node0" in p].__len__() == 2
    assert match.amount("core") == 6


def test_a_range_whose_least_is_not_free_is_busy():
    matcher = embedded(nodes(1, core=4))
    matcher.allocate(cores(2))
    with pytest.raises(Busy):
        matcher.allocate(spec(slot({"min": 3, "max": 9}, ask("core"))))


# -- siblings that compete ----------------------------------------------------------------------


def test_two_slots_side_by_side_share_the_cores_of_a_node():
    both = slot(1, ask("core", 3)), slot(1, ask("core", 2))
    wants = spec(ask("node", 1, *both))
    assert not embedded(nodes(2, core=4)).satisfiable(wants)
    graph = plant({"cluster": {"node0": {"core": 4}, "node1": {"core": 5}}})
    assert embedded(graph).allocate(wants).amount("core") == 5


def test_two_contents_of_one_type_are_different_vertices():
    matcher = embedded(nodes(2, core=5))
    wants = spec(slot(2, ask("core", 1), ask("core", 2)))
    assert matcher.allocate(wants).amount("core") == 6
    assert not matcher.satisfiable(spec(slot(3, ask("core", 1), ask("core", 2))))


def test_a_core_beside_an_exclusive_node_is_not_one_of_its_cores():
    matcher = embedded(nodes(2, core=2))
    match = matcher.allocate(spec(ask("node", 1, exclusive=True), ask("core", 1)))
    assert match.hosts == ["node0", "node1"]
    assert not embedded(nodes(1, core=2)).satisfiable(
        spec(ask("node", 1, exclusive=True), ask("core", 1))
    )


def test_a_slot_of_a_socket_and_a_core_takes_the_core_from_another_socket():
    graph = plant({"cluster": {"node0": {"socket0": {"core": 2}, "socket1": {"core": 2}}}})
    match = embedded(graph).allocate(spec(slot(1, ask("socket"), ask("core"))))
    assert names(match) >= {"node0/socket0", "node0/socket1/core0"}
    assert "node0/socket0/core0" not in names(match)


def test_a_trial_for_siblings_that_compete_leaves_nothing_behind():
    matcher = embedded(nodes(1, core=4))
    wants = spec(ask("node", 1, slot(1, ask("core", 3)), slot(1, ask("core", 2))), duration=9)
    for _ in range(2):
        assert not matcher.satisfiable(wants)
        with pytest.raises(Unsatisfiable):
            matcher.reserve(wants)
    assert matcher.allocate(cores(4)).amount("core") == 4


def test_trials_in_many_nodes_take_time_in_proportion_to_them(monkeypatch):
    """Each looks into its own node: the numbers that it counts do not grow with the cluster."""
    from flux_flex.match.embedded.traverser import Traversal

    counted = []
    supply = Traversal.supply
    monkeypatch.setattr(
        Traversal, "supply", lambda self, ask: counted.append(len(ask.homes)) or supply(self, ask)
    )
    wants = spec(ask("node", 1, slot(1, ask("core", 1)), slot(1, ask("core", 1))))
    seen = []
    for n in (10, 40):
        counted.clear()
        assert embedded(nodes(n, core=2)).satisfiable(wants)
        seen.append(sum(counted))
    assert seen[1] <= 5 * seen[0]
