"""What every engine answers alike, asked of each that is present."""

from __future__ import annotations

import json
from typing import Any

import pytest
from engines import Open
from fluxion_library_here import ENGINES
from match_help import ask, cores, names, nodes, plant, slot, spec, whole_nodes

from flux_flex.errors import BadInput, Busy, Unsatisfiable
from flux_flex.model.graph import ResourceGraph
from flux_flex.model.jobspec import parse_jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet

pytestmark = pytest.mark.parametrize("engine", ENGINES, indirect=True)


def r_of(rank: int, *ids: int) -> dict[str, Any]:
    return ResourceSet((RankResources(rank, f"node{rank}", ids, ()),)).to_r()


def properties(**held: str) -> ResourceGraph:
    """node0, node1 … with a property each, or none."""
    tree = {name: {"core": 1, "properties": {word} - {""}} for name, word in held.items()}
    return plant({"cluster": tree})


def test_cores_are_given_lowest_first(engine: Open) -> None:
    got = engine(nodes(2, core=2), "lonode").allocate(cores(3))
    assert names(got) == {"node0", "node0/core0", "node0/core1", "node1", "node1/core0"}
    assert (got.at, got.reserved) == (0, False)


def test_cores_are_given_highest_first(engine: Open) -> None:
    got = engine(nodes(2, core=2), "hinode").allocate(cores(1))
    assert names(got) == {"node1", "node1/core1"}


def test_jobspecs_come_as_objects_mappings_and_text(engine: Open) -> None:
    matcher = engine(nodes(3, core=1), "low")
    document = whole_nodes(1)
    asked = (document, json.dumps(document), parse_jobspec(document))
    assert [matcher.allocate(one).hosts for one in asked] == [["node0"], ["node1"], ["node2"]]


def test_what_is_held_is_busy(engine: Open) -> None:
    matcher = engine(nodes(1, core=2), "low")
    matcher.allocate(cores(2))
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    assert matcher.satisfiable(cores(2))


def test_what_the_graph_does_not_have_is_never(engine: Open) -> None:
    matcher = engine(nodes(1, core=2), "low")
    for question in (matcher.allocate, matcher.reserve):
        for wanted in (cores(3), spec(slot(1, ask("fpga")))):
            with pytest.raises(Unsatisfiable):
                question(wanted)
    assert not matcher.satisfiable(cores(3))


def test_never_is_said_of_a_full_graph_too(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.allocate(whole_nodes(2))
    with pytest.raises(Unsatisfiable):
        matcher.allocate(whole_nodes(3))


def test_an_exclusive_node_is_not_shared(engine: Open) -> None:
    matcher = engine(nodes(2, core=2), "low")
    matcher.allocate(spec(ask("node", 1, slot(1, ask("core")), exclusive=True)))
    with pytest.raises(Busy):
        matcher.allocate(cores(3))
    assert names(matcher.allocate(cores(2))) == {"node1", "node1/core0", "node1/core1"}


def test_a_node_in_use_is_not_given_whole(engine: Open) -> None:
    matcher = engine(nodes(2, core=2), "low")
    matcher.allocate(cores(1))
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]


def test_a_slot_is_the_tasks_alone(engine: Open) -> None:
    matcher = engine(nodes(1, core=2), "low")
    got = matcher.allocate(spec(slot(1, ask("node", 1, ask("core")))))
    assert got.vertices["/cluster0/node0"] == (1, True)
    with pytest.raises(Busy):
        matcher.allocate(cores(1))


def test_a_reservation_starts_when_there_is_room(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.allocate(whole_nodes(1, 10))
    matcher.allocate(whole_nodes(1, 20))
    assert matcher.reserve(whole_nodes(1, 10)).at == 10
    later = matcher.reserve(whole_nodes(2, 10))
    assert (later.at, later.reserved) == (20, True)


def test_what_fits_now_is_not_reserved_for_later(engine: Open) -> None:
    got = engine(nodes(1, core=1), "low").reserve(cores(1, 10))
    assert (got.at, got.reserved) == (0, False)


def test_a_short_job_fits_in_front_of_a_reservation(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.allocate(whole_nodes(1, 10))
    matcher.reserve(whole_nodes(2, 10))
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(1, 11))
    assert matcher.allocate(whole_nodes(1, 10)).at == 0


def test_nothing_is_reserved_behind_a_job_without_a_limit(engine: Open) -> None:
    matcher = engine(nodes(1, core=1), "low")
    matcher.allocate(cores(1))
    with pytest.raises(Busy):
        matcher.reserve(cores(1, 10))


def test_a_later_start_may_be_asked_for(engine: Open) -> None:
    matcher = engine(nodes(1, core=1), "low")
    matcher.allocate(cores(1, 10))
    with pytest.raises(Busy):
        matcher.allocate(cores(1, 10), at=9)
    assert matcher.allocate(cores(1, 10), at=10).at == 10


def test_what_is_cancelled_is_free_again(engine: Open) -> None:
    matcher = engine(nodes(1, core=1), "low")
    job = matcher.allocate(cores(1))
    matcher.cancel(job.jobid)
    assert matcher.allocate(cores(1)).vertices == job.vertices
    with pytest.raises(BadInput, match="job 77 holds nothing"):
        matcher.cancel(77)


def test_a_cancelled_reservation_is_in_nobodys_way(engine: Open) -> None:
    matcher = engine(nodes(1, core=1), "low")
    matcher.allocate(cores(1, 10))
    waiting = matcher.reserve(cores(1, 90))
    matcher.cancel(waiting.jobid)
    assert matcher.reserve(cores(1, 10)).at == 10


def test_jobids_are_the_callers(engine: Open) -> None:
    matcher = engine(nodes(1, core=3), "low")
    assert matcher.allocate(cores(1), jobid=4711).jobid == 4711
    with pytest.raises(BadInput, match="4711 holds resources already"):
        matcher.allocate(cores(1), jobid=4711)
    assert matcher.allocate(cores(1)).jobid != 4711


def test_an_allocation_made_elsewhere_is_in_the_way(engine: Open) -> None:
    matcher = engine(nodes(2, core=2), "low")
    matcher.update(7, r_of(0, 0, 1), at=0, duration=30)
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]
    assert matcher.reserve(cores(1)).at == 30
    with pytest.raises(Busy):
        matcher.update(8, r_of(0, 1), at=0, duration=0)


def test_an_r_of_another_system_is_refused(engine: Open) -> None:
    matcher = engine(nodes(1, core=1), "low")
    for R in (r_of(3, 0), r_of(0, 9)):
        with pytest.raises(BadInput):
            matcher.update(1, R, at=0, duration=0)


def test_constraints_of_properties_are_met(engine: Open) -> None:
    graph = properties(node0="", node1="arm", node2="efa")
    for constraint, hosts in (
        ({"properties": ["efa"]}, ["node2"]),
        ({"properties": ["^efa"]}, ["node0", "node1"]),
        ({"or": [{"properties": ["arm"]}, {"properties": ["efa"]}]}, ["node1", "node2"]),
        ({"not": [{"properties": ["arm"]}]}, ["node0", "node2"]),
    ):
        wanted = whole_nodes(len(hosts), constraints=constraint)
        assert engine(graph, "low").allocate(wanted).hosts == hosts
        with pytest.raises(Unsatisfiable):
            engine(graph, "low").allocate(whole_nodes(len(hosts) + 1, constraints=constraint))


def test_constraints_of_hosts_and_ranks_are_met(engine: Open) -> None:
    for constraint in ({"hostlist": ["node[1-2]"]}, {"ranks": ["1-2"]}):
        wanted = whole_nodes(2, constraints=constraint)
        assert engine(nodes(4, core=1), "low").allocate(wanted).hosts == ["node1", "node2"]


def test_ranges_are_filled_as_far_as_they_go(engine: Open) -> None:
    counted = {"min": 1, "max": 4, "operator": "*", "operand": 2}
    for there, given in ((1, 1), (3, 2), (9, 4)):
        matcher = engine(nodes(there, core=1), "low")
        assert len(matcher.allocate(spec(ask("node", counted, exclusive=True))).hosts) == given


def test_a_range_takes_what_is_left(engine: Open) -> None:
    matcher = engine(nodes(3, core=1), "low")
    matcher.allocate(whole_nodes(1))
    counted = {"min": 1, "max": 3, "operator": "+", "operand": 1}
    wanted = spec(ask("node", counted, exclusive=True))
    assert matcher.allocate(wanted).hosts == ["node1", "node2"]
    with pytest.raises(Busy):
        matcher.allocate(wanted)


def test_gpus_come_with_cores_of_their_node(engine: Open) -> None:
    matcher = engine(
        plant({"cluster": {"node0": {"core": 4}, "node1": {"core": 2, "gpu": 2}}}), "low"
    )
    wanted = spec(ask("node", 1, slot(1, ask("core", 1), ask("gpu", 1))))
    first, second = matcher.allocate(wanted), matcher.allocate(wanted)
    assert first.hosts == second.hosts == ["node1"]
    assert (first.amount("gpu"), second.amount("gpu")) == (1, 1)
    with pytest.raises(Busy):
        matcher.allocate(wanted)


def test_memory_is_given_by_whole_pools_to_slots(engine: Open) -> None:
    matcher = engine(nodes(1, core=4, memory=[4, 4]), "low")
    wanted = spec(ask("node", 1, slot(1, ask("core", 1), ask("memory", 3))))
    assert [matcher.allocate(wanted).amount("memory") for _ in range(2)] == [4, 4]
    with pytest.raises(Busy):
        matcher.allocate(wanted)
    with pytest.raises(Unsatisfiable):
        matcher.allocate(spec(ask("node", 1, slot(1, ask("core", 1), ask("memory", 9)))))


def test_r_says_what_was_given(engine: Open) -> None:
    got = engine(nodes(2, core=2), "low").allocate(whole_nodes(2, 10))
    execution: Any = got.to_r()["execution"]
    assert execution["R_lite"] == [{"rank": "0-1", "children": {"core": "0-1"}}]
    assert execution["nodelist"] == ["node[0-1]"]


def test_a_fork_goes_its_own_way(engine: Open) -> None:
    matcher: Any = engine(nodes(2, core=1), "low")
    job = matcher.allocate(whole_nodes(1))
    twin = matcher.fork()
    twin.cancel(job.jobid)
    assert twin.allocate(whole_nodes(2)).hosts == ["node0", "node1"]
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]
    assert matcher.info(job.jobid).hosts == ["node0"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 9999, "resources": []}'])
def test_what_is_no_jobspec_is_refused(engine: Open, text: str) -> None:
    matcher = engine(nodes(1, core=1), "low")
    for question in (matcher.allocate, matcher.reserve, matcher.satisfiable):
        with pytest.raises(BadInput):
            question(text)


def test_locality_takes_the_run_of_nodes_that_begins_highest(engine: Open) -> None:
    matcher = engine(nodes(8, core=1), "locality")
    matcher.mark_ranks("2,7", up=False)  # which leaves 0-1 and 3-6
    given = [matcher.allocate(whole_nodes(n)).hosts for n in (1, 2, 2)]
    assert given == [["node3"], ["node4", "node5"], ["node0", "node6"]]


def test_locality_counts_slots_with_consecutive_scores_alike(engine: Open) -> None:
    matcher = engine(nodes(4, core=4), "locality")
    assert names(matcher.allocate(cores(1))) == {"node0", "node0/core3"}
    assert names(matcher.allocate(cores(2))) == {"node0", "node0/core1", "node0/core2"}
    many = engine(nodes(6, core=3), "locality")  # more slots than a stable sort has
    assert many.allocate(cores(4)).amount("core") == 4
