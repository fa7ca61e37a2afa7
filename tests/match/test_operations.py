"""What a matcher can be told beside jobs: parts given back, nodes down, bursts; and asked: find.

The same claims hold for the embedded engine and for fluxion, where there is one.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from engines import Open, ranks_of
from fluxion_library_here import ENGINES
from match_help import ask, cores, nodes, plant, slot, spec, whole_nodes

from flux_flex.errors import BadInput, Busy
from flux_flex.model.jgf import jgf_document
from flux_flex.model.rv1 import RankResources, ResourceSet

pytestmark = pytest.mark.parametrize("engine", ENGINES, indirect=True)


def r_of(*ranks: int) -> dict[str, Any]:
    return ResourceSet(tuple(RankResources(i, f"node{i}", (0,), ()) for i in ranks)).to_r()


def burst(first: int, n: int, per_node: int = 2) -> dict[str, Any]:
    """JGF of a cluster with nodes of their own ranks, from ``node<first>`` on."""
    tree = {f"node{i}": {"core": per_node} for i in range(first, first + n)}
    return jgf_document(plant({"cluster": tree}))


# -- parts of a job --------------------------------------------------------------------------------


def test_a_job_gives_back_the_ranks_that_are_named(engine: Open) -> None:
    matcher = engine(nodes(3, core=2), "low")
    job = matcher.allocate(whole_nodes(2))
    assert not matcher.partial_cancel(job.jobid, r_of(0))
    assert matcher.info(job.jobid).hosts == ["node1"]
    assert matcher.allocate(whole_nodes(2)).hosts == ["node0", "node2"]
    with pytest.raises(BadInput, match="holds nothing there"):
        matcher.partial_cancel(job.jobid, r_of(0))
    assert matcher.partial_cancel(job.jobid, r_of(1))
    with pytest.raises(BadInput, match="holds nothing"):
        matcher.info(job.jobid)
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]


def test_a_part_given_back_is_all_that_a_job_has_on_the_rank(engine: Open) -> None:
    matcher = engine(nodes(2, core=4), "low")
    job = matcher.allocate(cores(6))
    assert not matcher.partial_cancel(job.jobid, r_of(0))  # R names core0 alone
    assert matcher.allocate(cores(5)).amount("core") == 5  # 4 of node0, and 1 that was free


def test_a_reservation_gives_back_a_part_of_what_it_will_hold(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.allocate(whole_nodes(2, 10))
    later = matcher.reserve(whole_nodes(2, 10))
    assert matcher.reserve(whole_nodes(1, 10)).at == 20
    assert not matcher.partial_cancel(later.jobid, r_of(1))
    assert (matcher.info(later.jobid).at, matcher.info(later.jobid).state) == (10, "RESERVED")
    assert matcher.reserve(whole_nodes(1, 10)).at == 10


# -- what a job holds ------------------------------------------------------------------------------


def test_info_says_what_was_given_and_in_what_state(engine: Open) -> None:
    matcher = engine(nodes(1, core=2), "low")
    now = matcher.allocate(whole_nodes(1, 10))
    later = matcher.reserve(cores(1, 10))
    known = matcher.info(now.jobid)
    assert (known.vertices, known.at, known.state) == (now.vertices, 0, "ALLOCATED")
    assert (matcher.info(later.jobid).at, matcher.info(later.jobid).state) == (10, "RESERVED")
    with pytest.raises(BadInput, match="job 99 holds nothing"):
        matcher.info(99)


# -- down ------------------------------------------------------------------------------------------


def test_nodes_are_marked_by_path_and_by_rank(engine: Open) -> None:
    matcher = engine(nodes(4, core=1), "low")
    matcher.mark_path("/cluster0/node0", up=False)
    matcher.mark_ranks("2", up=False)
    matcher.mark_ranks([3], up=False)
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    matcher.mark_path("/cluster0", up=True)
    assert matcher.allocate(whole_nodes(3)).hosts == ["node0", "node2", "node3"]


def test_marks_at_places_that_are_not_there_are_refused(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    for path in ("/cluster0/node9", "/cluster1", "cluster0", "", "/cluster0/node0/"):
        with pytest.raises(BadInput, match="no such vertex"):
            matcher.mark_path(path, up=False)
    with pytest.raises(BadInput, match="a part of a node"):
        matcher.mark_path("/cluster0/node0/core0", up=False)
    with pytest.raises(BadInput, match="no node of rank 2,7-8 in"):
        matcher.mark_ranks("1-2,7-8", up=False)
    with pytest.raises(BadInput, match="runs backwards"):
        matcher.mark_ranks("2-1", up=False)
    assert matcher.allocate(whole_nodes(2)).hosts == ["node0", "node1"]


# -- find ------------------------------------------------------------------------------------------


def furnished(engine: Open) -> Any:
    """rack0 (node0 arm with a gpu, node1) and rack1 (node2 arm), which is down; job 3 has a core
    of node0, job 4 all of node1."""
    rack0 = {"node0": {"core": 2, "gpu": 1, "properties": {"arm"}}, "node1": {"core": 2}}
    rack1 = {"node2": {"core": 2, "properties": {"arm"}}}
    matcher = engine(plant({"cluster": {"rack0": rack0, "rack1": rack1}}), "low")
    matcher.mark_path("/cluster0/rack1", up=False)
    matcher.allocate(cores(1, 10), jobid=3)
    matcher.allocate(whole_nodes(1, 10), jobid=4)
    return matcher


FOUND = {
    "status=up": {0: "0-1+1", 1: "0-1"},
    "status=down": {2: "0-1"},
    "status=DOWN": {2: "0-1"},
    "sched-now=allocated": {0: "0", 1: "0-1"},
    "sched-now=free": {0: "1+1", 2: "0-1"},
    "sched-now=free and status=up": {0: "1+1"},
    "sched-now=free status=up": {0: "1+1"},
    "sched-future=reserved": {},
    "sched-future=free and status=down": {2: "0-1"},
    "status=up or status=down and sched-now=allocated": {0: "0", 1: "0-1"},
    "status=up or (status=down and sched-now=allocated)": {0: "0-1+1", 1: "0-1"},
    " ( ( status=down )  ) ": {2: "0-1"},
    "property=arm": {0: "0-1+1", 2: "0-1"},
    "property=arm and status=up": {0: "0-1+1"},
    "property=none": {},
    "names=node[1-2]": {1: "0-1", 2: "0-1"},
    "names=core0": {0: "0", 1: "0", 2: "0"},
    "names=rack0": {},
    "jobid-alloc=3": {0: "0"},
    "jobid-alloc=4": {1: "0-1"},
    "jobid-alloc=3 or jobid-alloc=4": {0: "0", 1: "0-1"},
    "jobid-tag=3": {0: "0"},
    "jobid-alloc=5": {},
    "jobid-reserved=3": {},
    "agfilter=f": {},
}


@pytest.mark.parametrize("criteria", FOUND)
def test_what_meets_criteria_is_found(engine: Open, criteria: str) -> None:
    assert ranks_of(furnished(engine).find(criteria)) == FOUND[criteria]


def test_what_is_reserved_is_found(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.allocate(whole_nodes(2, 10))
    matcher.reserve(whole_nodes(1, 10), jobid=8)
    for criteria in ("sched-future=reserved", "jobid-reserved=8"):
        assert ranks_of(matcher.find(criteria)) == {0: "0"}
    assert ranks_of(matcher.find("sched-future=free")) == {1: "0"}


@pytest.mark.parametrize(
    "criteria",
    ["", "  ", "status", "status=", "status=left", "what=ever", "status=up and", "or status=up",
     "(status=up", "status=up)", "()", "property=", "jobid-alloc=x", "agfilter=maybe"],
)  # fmt: skip
def test_what_are_no_criteria_is_refused(engine: Open, criteria: str) -> None:
    with pytest.raises(BadInput):
        furnished(engine).find(criteria)


# -- bursts ----------------------------------------------------------------------------------------


def test_a_burst_arrives_and_leaves(engine: Open) -> None:
    matcher = engine(nodes(2, core=2), "low")
    local = matcher.allocate(whole_nodes(2, 50))
    waiting = matcher.reserve(whole_nodes(2, 50))
    matcher.add_subgraph(burst(2, 2))
    away = matcher.allocate(whole_nodes(2, 50))
    assert away.hosts == ["node2", "node3"]
    assert matcher.info(local.jobid).vertices == local.vertices
    assert (matcher.info(waiting.jobid).at, matcher.info(waiting.jobid).hosts) == (50, local.hosts)
    with pytest.raises(BadInput, match=f"job {away.jobid} holds a part of it"):
        matcher.remove_subgraph("/cluster0/node2")
    matcher.cancel(away.jobid)
    for path in ("/cluster0/node2", "/cluster0/node3"):
        matcher.remove_subgraph(path)
    assert not matcher.satisfiable(whole_nodes(3))
    assert matcher.reserve(whole_nodes(2)).at == 100
    with pytest.raises(BadInput, match="no such vertex"):
        matcher.remove_subgraph("/cluster0/node2")


def test_a_burst_goes_below_the_parent_that_is_named(engine: Open) -> None:
    matcher = engine(plant({"cluster": {"rack0": {"node0": {"core": 2}}, "rack1": {}}}), "low")
    document: dict[str, Any] = jgf_document(plant({"node": {"core": 2}}))
    document["graph"]["nodes"][0]["metadata"] |= {"name": "node5", "id": 5, "rank": 5}
    matcher.add_subgraph(json.dumps(document), "/cluster0/rack1")
    assert matcher.allocate(whole_nodes(2)).hosts == ["node0", "node5"]
    with pytest.raises(BadInput, match="already"):
        matcher.add_subgraph(document, "/cluster0/rack1")


def test_nothing_is_added_to_what_a_job_holds_whole(engine: Open) -> None:
    matcher = engine(plant({"cluster": {"rack0": {"node0": {"core": 1}}}}), "low")
    job = matcher.allocate(spec(ask("rack", 1, exclusive=True)))
    more = jgf_document(plant({"cluster": {"rack0": {"node7": {"core": 1}}}}))
    with pytest.raises(BadInput, match=f"job {job.jobid} holds it whole"):
        matcher.add_subgraph(more)
    with pytest.raises(BadInput, match=f"job {job.jobid} holds a part of it"):
        matcher.remove_subgraph("/cluster0/rack0/node0")
    matcher.cancel(job.jobid)
    matcher.add_subgraph(more)
    assert matcher.allocate(whole_nodes(2)).hosts == ["node0", "node7"]


def test_a_reservation_keeps_what_it_waits_for_from_being_removed(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.allocate(whole_nodes(1, 10))
    matcher.allocate(whole_nodes(1, 20))
    later = matcher.reserve(whole_nodes(1, 10))
    assert later.hosts == ["node0"]
    with pytest.raises(BadInput, match="holds a part of it"):
        matcher.remove_subgraph("/cluster0/node0")


def test_a_burst_brings_what_the_graph_did_not_have(engine: Open) -> None:
    matcher = engine(nodes(1, core=1), "low")
    wants = spec(ask("node", 1, slot(1, ask("core"), ask("gpu"))))
    assert not matcher.satisfiable(wants)
    matcher.add_subgraph(jgf_document(plant({"cluster": {"node1": {"core": 1, "gpu": 1}}})))
    assert matcher.allocate(wants).hosts == ["node1"]


def test_what_is_down_stays_down_when_a_burst_arrives(engine: Open) -> None:
    matcher = engine(nodes(2, core=1), "low")
    matcher.mark_ranks("1", up=False)
    matcher.add_subgraph(burst(2, 1, 1))
    assert matcher.allocate(whole_nodes(2)).hosts == ["node0", "node2"]
    assert ranks_of(matcher.find("status=down")) == {1: "0"}
