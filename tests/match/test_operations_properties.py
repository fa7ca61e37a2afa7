"""Properties of parts given back, of bursts, and of names that do not matter."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from match_help import ask, cores, embedded, slot, spec, vertex, whole_nodes

from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.matcher import Match
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex
from flux_flex.model.rv1 import RankResources, ResourceSet

REQUESTS = st.sampled_from(
    [
        cores(1, 10),
        cores(3, 20),
        cores(2),
        whole_nodes(1, 15),
        whole_nodes(2, 5),
        spec(ask("node", 1, slot(1, ask("core", 2)), exclusive=True), duration=30),
        spec(slot(1, ask("node", 1, ask("core", 1))), duration=10),
        spec(ask("rack", 1, ask("node", 1, slot(1, ask("core", 1)))), duration=10),
        spec(ask("node", 1, slot(1, ask("core", 1), ask("gpu", 1))), duration=10),
    ]
)
POLICY = st.sampled_from(["first", "low", "high", "lonode", "hinodex", "topology"])
RACKS = st.lists(st.integers(1, 3), min_size=1, max_size=3)


def racks(sizes: list[int], *, gpus: int = 0, first: int = 0, name: str = "rack") -> ResourceGraph:
    builder = GraphBuilder()
    cluster = builder.add(Vertex("cluster", "cluster0"))
    rank = first
    for number, size in enumerate(sizes):
        rack = builder.add(Vertex("rack", f"{name}{number}", number), cluster)
        for _ in range(size):
            node = builder.add(Vertex("node", f"node{rank}", rank, rank=rank), rack)
            for kind, n in (("core", 2), ("gpu", gpus)):
                for i in range(n):
                    builder.add(Vertex(kind, f"{kind}{i}", i, rank=rank), node)
            rank += 1
    return builder.build()


def furnish(matcher: EmbeddedMatcher, requests: list[dict[str, Any]]) -> list[Match]:
    """Reserve what can be, at all."""
    given_ = []
    for request in requests:
        try:
            given_.append(matcher.reserve(request))
        except (Busy, Unsatisfiable):
            continue
    return given_


def held(matcher: EmbeddedMatcher) -> dict[int, Any]:
    """What each job holds and when, by path."""
    jobs = {jobid: matcher.info(jobid) for jobid in matcher.holders}
    return {
        jobid: (job.at, job.duration_s, job.reserved, job.vertices) for jobid, job in jobs.items()
    }


def states(matcher: EmbeddedMatcher, times: tuple[float, ...] = (0, 5, 12, 25)) -> list[Any]:
    """The state of the planner now and at some later times, with all that tells its rows."""
    planner = matcher._planner
    found: list[Any] = [planner.full.tolist(), dict(planner.leaf_row), sorted(planner.spans)]
    for time in times:
        with planner.during(time, time + 1) as state:
            found.append(state.tolist())
    return found


@settings(max_examples=60, deadline=None)
@given(RACKS, st.lists(REQUESTS, max_size=6), POLICY, st.integers(0, 1), st.integers(0, 1))
def test_a_burst_that_came_and_went_leaves_everything_as_it_was(
    sizes: list[int], requests: list[dict[str, Any]], policy: str, mine: int, its: int
) -> None:
    matcher = embedded(racks(sizes, gpus=mine), policy)
    furnish(matcher, requests)
    twin = matcher.fork()
    before, jobs = states(matcher), held(matcher)
    matcher.add_subgraph(racks([2], gpus=its, first=100, name="burst"))
    assert held(matcher) == jobs
    matcher.remove_subgraph("/cluster0/burst0")
    assert states(matcher) == before
    assert held(matcher) == jobs
    assert twin.graph.names == matcher.graph.names
    for request in (cores(1, 10), whole_nodes(1, 10), cores(4, 3)):
        answers = [furnish(one, [request]) for one in (matcher, twin)]
        mine, its = ([match.vertices for match in one] for one in answers)
        assert mine == its


@settings(max_examples=60, deadline=None)
@given(RACKS, st.lists(REQUESTS, max_size=6), POLICY, st.integers(0, 1), st.integers(0, 1))
def test_a_grown_matcher_stands_as_one_that_was_told_the_same(
    sizes: list[int], requests: list[dict[str, Any]], policy: str, mine: int, its: int
) -> None:
    matcher = embedded(racks(sizes, gpus=mine), policy)
    furnish(matcher, requests)
    matcher.add_subgraph(racks([1, 1], gpus=its, first=100, name="burst"))
    fresh = EmbeddedMatcher(matcher.graph, policy)
    for jobid, span in matcher._planner.spans.items():
        fresh._planner.add(jobid, span.start, span.end, span.claims)
    assert states(matcher) == states(fresh)


@settings(max_examples=60, deadline=None)
@given(RACKS, st.lists(REQUESTS, min_size=1, max_size=6), POLICY, st.randoms())
def test_giving_back_every_rank_is_to_cancel(
    sizes: list[int], requests: list[dict[str, Any]], policy: str, rng: random.Random
) -> None:
    matcher = embedded(racks(sizes, gpus=1), policy)
    for job in furnish(matcher, requests):
        if rng.random() < 0.5:
            continue
        twin = matcher.fork()
        twin.cancel(job.jobid)
        ranks = [int(job.graph.rank[node]) for node in job.nodes]
        rng.shuffle(ranks)
        cut = rng.randint(0, len(ranks) - 1)
        gone = False
        for part in filter(None, (ranks[:cut], ranks[cut:])):
            assert not gone
            some = tuple(RankResources(rank, f"node{rank}", (0,), ()) for rank in part)
            gone = matcher.partial_cancel(job.jobid, ResourceSet(some).to_r())
        assert gone
        assert states(matcher) == states(twin)


def relabelled(graph: ResourceGraph, rng: random.Random) -> ResourceGraph:
    """The same tree with other names and numbers, and siblings in another order."""
    builder = GraphBuilder()

    def copy(number: int, above: int | None) -> None:
        name = f"{graph.type_name(number)}{rng.randrange(10**9)}"
        old = Vertex(
            graph.type_name(number),
            name,
            rng.randrange(100),
            int(graph.size[number]),
            int(graph.rank[number]),
        )
        new = builder.add(old, above)
        below = graph.children(number)
        rng.shuffle(below)
        for child in below:
            copy(child, new)

    copy(0, None)
    return builder.build()


@settings(max_examples=60, deadline=None)
@given(RACKS, st.lists(REQUESTS, min_size=1, max_size=8), POLICY, st.randoms())
def test_names_and_order_do_not_change_what_can_ever_fit(
    sizes: list[int], requests: list[dict[str, Any]], policy: str, rng: random.Random
) -> None:
    graph = racks(sizes, gpus=1)
    one, other = embedded(graph, policy), embedded(relabelled(graph, rng), policy)
    for request in requests:
        assert one.satisfiable(request) == other.satisfiable(request)


def test_a_graph_that_has_only_lost_its_gpus_keeps_its_rows_right() -> None:
    matcher = embedded(racks([1]), "low")
    job = matcher.allocate(cores(2, 10))
    matcher.add_subgraph(racks([1], gpus=1, first=9, name="burst"))
    gpu = matcher.allocate(spec(slot(1, ask("gpu"))))
    assert gpu.hosts == ["node9"]
    assert vertex(matcher.graph, "gpu0") in gpu.chosen
    matcher.cancel(gpu.jobid)
    matcher.remove_subgraph("/cluster0/burst0")
    matcher.cancel(job.jobid)
    assert np.array_equal(matcher._planner.state, EmbeddedMatcher(racks([1]))._planner.state)
