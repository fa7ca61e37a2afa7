"""What a job would take of a node type: counts, packings, and why it does not fit."""

from __future__ import annotations

import time
from typing import Any

import pytest
from burst_snapshots import job, node_type, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.market import (
    MAX_NODES,
    alone,
    at_least,
    misfit,
    nodes_asked,
    nodes_for,
    pack,
    rented_graph,
)
from flux_flex.burst.select import PendingJob
from flux_flex.errors import Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.jobspec import Jobspec

STD = node_type(gpus=2)


def slot(count: Any, cores: int, gpus: int = 0) -> dict[str, object]:
    inside = [{"type": "core", "count": cores}]
    inside += [{"type": "gpu", "count": gpus}] if gpus else []
    return {"type": "slot", "count": count, "label": "task", "with": inside}


def node(count: Any, *below: object, exclusive: bool = False) -> dict[str, object]:
    return {"type": "node", "count": count, "exclusive": exclusive, "with": list(below)}


def asks(*resources: object) -> Jobspec:
    return spec(resources=list(resources))


# ---- how many nodes


@pytest.mark.parametrize(
    ("jobspec", "asked", "bound", "taken"),
    [
        (asks(slot(1, 1)), 0, 1, 1),
        (asks(slot(8, 1)), 0, 1, 1),
        (asks(slot(9, 1)), 0, 2, 2),
        (asks(slot(5, 5)), 0, 4, 5),  # 5 of 8 cores do not pair up
        (asks(slot(3, 1, 2)), 0, 3, 3),  # by gpus
        (asks(node(3, slot(2, 1))), 3, 3, 3),
        (asks(node(2, slot(1, 8)), slot(1, 1)), 2, 3, 3),
        (asks(node(1, slot(1, 1), exclusive=True), slot(1, 1)), 1, 1, 2),
        (asks({"type": "slot", "count": 2, "label": "t", "with": [node(2, slot(1, 1))]}), 4, 4, 4),
        (asks(node({"min": 2, "max": 9}, slot(1, 8))), 2, 2, 2),
        (asks(slot({"min": 4, "max": 50}, 5)), 0, 3, 4),
        (asks(node(3, slot(1, 1)), node(2, slot(1, 1))), 5, 3, 3),  # two may share a node
        (asks(node(3, slot(1, 1)), node(2, slot(1, 1), exclusive=True)), 5, 5, 5),
        (asks({"type": "core", "count": 17}), 0, 3, 3),
        (asks({"type": "cluster", "count": 1, "with": [node(2, slot(1, 1))]}), 2, 2, 2),
    ],
)
def test_nodes_are_asked_bounded_and_taken(
    jobspec: Jobspec, asked: int, bound: int, taken: int
) -> None:
    assert nodes_asked(jobspec) == asked
    assert at_least(jobspec, STD) == bound
    assert nodes_for(jobspec, STD) == taken
    assert misfit(jobspec, STD, 0) == ""


def test_nodes_for_is_none_where_the_most_are_too_few() -> None:
    assert nodes_for(asks(slot(5, 5)), STD, 4) is None
    assert nodes_for(asks(node(9, slot(1, 1))), STD, 8) is None


_SLOTS = st.builds(
    slot,
    st.one_of(
        st.integers(1, 6),
        st.tuples(st.integers(1, 4), st.integers(0, 4)).map(
            lambda pair: {"min": pair[0], "max": pair[0] + pair[1]}
        ),
    ),
    st.integers(1, 9),
    st.integers(0, 3),
)
_NODES = st.builds(
    lambda count, below, alone: node(count, below, exclusive=alone),
    st.integers(1, 4),
    st.builds(slot, st.integers(1, 3), st.integers(1, 4), st.integers(0, 1)),
    st.booleans(),
)
_JOBSPECS = st.lists(st.one_of(_SLOTS, _NODES), min_size=1, max_size=3).map(lambda r: asks(*r))
_TYPES = st.builds(
    lambda cores, gpus: node_type(cores=cores, gpus=gpus), st.integers(1, 8), st.integers(0, 2)
)


@given(_JOBSPECS, _TYPES)
@settings(max_examples=200, deadline=None)
def test_nodes_for_is_the_first_number_on_which_the_matcher_says_yes(
    jobspec: Jobspec, kind: NodeType
) -> None:
    most = 32  # no such job has more than 24 slots and nodes
    fits = [n for n in range(1, most + 1) if _satisfiable(jobspec, kind, n)]
    assert (misfit(jobspec, kind, 0) == "") == bool(fits)
    assert nodes_for(jobspec, kind, most) == (min(fits) if fits else None)
    if fits:
        assert at_least(jobspec, kind) <= min(fits)
        placed = alone(PendingJob(1, jobspec, "ann", 16, 0.0), kind, 0.0)
        assert placed.nodes == min(fits) == max(placed.placed[0].nodes) + 1


def _satisfiable(jobspec: Jobspec, kind: NodeType, nodes: int) -> bool:
    return EmbeddedMatcher(rented_graph(kind, nodes)).satisfiable(jobspec)


# ---- what does not fit


@pytest.mark.parametrize(
    ("jobspec", "why"),
    [
        (asks(slot(2, 9)), "wants 9 cores on a node, it has 8"),
        (asks(slot(1, 1, 3)), "wants 3 gpus on a node, it has 2"),
        (asks(node(1, slot(1, 5), slot(1, 4))), "wants 9 cores on a node, it has 8"),
        (asks(slot(1, 1), slot(1, 1, 3)), "wants 3 gpus on a node, it has 2"),
        (
            asks({"type": "slot", "count": 3, "label": "t", "with": [node(1, slot(3, 3))]}),
            "wants 9 cores on a node, it has 8",
        ),
        (
            asks({"type": "rack", "count": 1, "with": [node(1, slot(1, 1))]}),
            "wants a rack, rented nodes are described by cores and gpus",
        ),
        (asks(node(1, node(1, slot(1, 1)))), "does not fit its nodes"),
    ],
)
def test_misfit_says_why_in_a_few_words(jobspec: Jobspec, why: str) -> None:
    assert misfit(jobspec, STD, 0) == why


def test_one_gpu_is_said_in_the_singular() -> None:
    assert misfit(asks(slot(1, 1, 1)), node_type(), 0) == "wants 1 gpu on a node, it has 0"


def test_a_job_that_packs_badly_still_fits() -> None:
    # 40 exclusive nodes, 40 slots that fill the cores and 40 that fill the gpus of a node: 120
    # nodes, where sums of cores and gpus say 60.
    kind = node_type(gpus=8)
    jobspec = asks(node(40, slot(1, 1), exclusive=True), slot(40, 6), slot(40, 3, 8))
    assert nodes_for(jobspec, kind) == 120
    assert misfit(jobspec, kind, 0) == ""


# ---- graphs


def test_rented_nodes_have_the_properties_of_the_type_and_its_name() -> None:
    graph = rented_graph(node_type("hpc7a.96xlarge", properties=("amd",)), 2)
    assert [set(graph.properties[v]) for v in graph.of_type("node").tolist()] == [
        {"amd", "hpc7a.96xlarge"}
    ] * 2
    assert [int(graph.rank[v]) for v in graph.of_type("node")] == [0, 1]


def test_small_graphs_are_kept_and_large_ones_are_not() -> None:
    kind = node_type(cores=100)
    assert rented_graph(kind, 200) is rented_graph(kind, 200)
    assert rented_graph(kind, 201) is not rented_graph(kind, 201)


# ---- packing


def test_alone_starts_when_the_nodes_are_ready() -> None:
    packing = alone(job(1, 3, duration=100), STD, 360.0)
    assert packing.nodes == 3
    assert [(one.start_s, one.end_s, one.nodes) for one in packing.placed] == [
        (360.0, 460.0, (0, 1, 2))
    ]


def test_alone_refuses_a_job_beyond_the_largest_rental() -> None:
    with pytest.raises(Unsatisfiable):
        alone(job(1, slots=MAX_NODES + 1), node_type(cores=1), 0.0)


def test_jobs_packed_together_use_what_others_leave() -> None:
    jobs = [job(1, slots=5), job(2, slots=8), job(3, slots=3)]
    packing = pack(jobs, STD, 60.0)
    assert packing is not None
    assert packing.nodes == 2
    assert [one.nodes for one in packing.placed] == [(0,), (0, 1), (1,)]
    assert {one.start_s for one in packing.placed} == {60.0}


def test_a_job_with_a_range_is_not_packed_with_others() -> None:
    ranged = job(1, {"min": 1, "max": 4}, cores=2)
    assert pack([ranged, job(2)], STD, 0.0) is None
    assert pack([job(2), ranged], STD, 0.0) is None


def test_jobs_that_take_more_nodes_together_are_not_packed() -> None:
    # First fit is no monotone thing: where 2 cores are free elsewhere, the slot of 2 goes there,
    # and the others then take 4 nodes instead of the 3 that all of them take alone.
    kind = node_type(cores=20)
    slots = [slot(1, cores) for cores in (11, 14, 11, 2, 9, 3, 6, 4)]
    tight = job(2, resources=slots)
    assert alone(tight, kind, 0.0).nodes == 3
    assert pack([job(1, 1, cores=18), tight], kind, 0.0) is None


# ---- large jobs


@pytest.mark.parametrize("count", [200_000, MAX_NODES + 1])
def test_nothing_is_built_for_a_job_beyond_the_largest_rental(count: int) -> None:
    kind = node_type(f"wide{count}", cores=4096, gpus=8)
    jobspec = spec(count, cores=4096)
    began = time.process_time()
    assert misfit(jobspec, kind, 0) == ""
    assert at_least(jobspec, kind) == count
    assert time.process_time() - began < 0.5
