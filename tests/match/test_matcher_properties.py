"""What holds for every graph and every run of requests: by random search."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from match_help import ask, held_twice, plant, slot, spec

from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.embedded.counting import CORE
from flux_flex.match.embedded.planner import Planner
from flux_flex.match.embedded.policies import POLICIES
from flux_flex.match.embedded.spans import IDLE, LISTED, OWN
from flux_flex.model.graph import ResourceGraph

few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

node = st.fixed_dictionaries(
    {"core": st.integers(1, 4)},
    optional={
        "gpu": st.integers(1, 2),
        "memory": st.lists(st.integers(1, 4), min_size=1, max_size=2),
    },
) | st.builds(
    lambda sockets: {f"socket{i}": {"core": n} for i, n in enumerate(sockets)},
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
)
racks = st.lists(st.lists(node, min_size=1, max_size=3), min_size=1, max_size=2)


@st.composite
def graphs(draw: st.DrawFn) -> ResourceGraph:
    number = iter(range(100))
    built = {
        f"rack{i}": {f"node{next(number)}": below for below in rack}
        for i, rack in enumerate(draw(racks))
    }
    if draw(st.booleans()):
        built = {name: below for rack in built.values() for name, below in rack.items()}
    return plant({"cluster": built})


counts = st.integers(1, 3) | st.builds(
    lambda least, more: {"min": least, "max": least + more}, st.integers(1, 2), st.integers(0, 3)
)
leaves = st.builds(ask, st.sampled_from(["core", "core", "gpu", "memory"]), st.integers(1, 3))
slots = st.builds(slot, counts, leaves) | st.builds(slot, counts, leaves, leaves)
exclusive = st.sampled_from([{}, {"exclusive": True}, {"exclusive": False}])


@st.composite
def holders(draw: st.DrawFn, kind: str, below: st.SearchStrategy[Any]) -> dict[str, Any]:
    return ask(kind, draw(counts), *draw(below), **draw(exclusive))


def some(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=least, max_size=2)


in_nodes = slots | leaves | holders("socket", some(slots | leaves))
of_nodes = holders("node", some(in_nodes))
resources = st.one_of(
    some(slots, 1),
    some(of_nodes, 1),
    some(holders("rack", some(of_nodes, 1)), 1),
    st.builds(lambda n, held: [slot(n, held)], counts, of_nodes),
    some(slots | of_nodes | leaves, 1),
)
durations = st.sampled_from([0, 10, 10, 20, 35])
specs = st.builds(lambda items, t: spec(*items, duration=t), resources, durations)
every_policy = pytest.mark.parametrize("policy", POLICIES)
steps = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "reserve", "reserve", "cancel", "advance", "update", "mark"]),
        specs,
        st.integers(0, 30),
    ),
    max_size=10,
)


class Run:
    """A matcher, driven through steps; what cannot be had is left out."""

    def __init__(self, graph: ResourceGraph, policy: str) -> None:
        self.matcher = EmbeddedMatcher(graph, policy)
        self.matches: list[Any] = []

    def do(self, steps: list[Any]) -> "Run":
        for step, jobspec, number in steps:
            with suppress(Busy, Unsatisfiable):
                self._do(step, jobspec, number)
        return self

    def _do(self, step: str, jobspec: Any, number: int) -> None:
        matcher = self.matcher
        if step == "allocate":
            self.matches.append(matcher.allocate(jobspec, at=matcher.now + number % 3 * 5))
        elif step == "reserve":
            self.matches.append(matcher.reserve(jobspec, at=matcher.now + number % 3 * 5))
        elif step == "update":
            self.matches.append(
                matcher.update(
                    100 + len(self.matches), self._part(number), matcher.now, number // 2 * 10
                )
            )
        elif step == "mark":
            matcher.mark([self._node(number)], up=number % 2 == 0)
        elif step == "advance":
            matcher.advance(matcher.now + number)
        elif matcher.holders:
            matcher.cancel(sorted(matcher.holders)[number % len(matcher.holders)])

    def _node(self, number: int) -> int:
        nodes = self.matcher.graph.of_type("node")
        return int(nodes[number // 2 % len(nodes)])

    def _part(self, number: int) -> dict[str, Any]:
        """The R of one core of a node."""
        graph, node = self.matcher.graph, self._node(number)
        lite = [{"rank": str(graph.rank[node]), "children": {"core": "0"}}]
        return {"version": 1, "execution": {"R_lite": lite, "nodelist": [graph.names[node]]}}


def state_of(planner: Planner) -> np.ndarray:
    """The state as it follows from the spans alone, counted vertex by vertex."""
    graph = planner.graph
    state = planner.full.copy()
    state[IDLE] = 0
    for span in planner.spans.values():
        if not span.start <= planner.now < span.end:
            continue
        taken = [
            (int(v), int(n)) for v, n in zip(span.claims.vertices, span.claims.amounts, strict=True)
        ]
        for v in span.claims.whole:
            taken += [(u, int(graph.size[u])) for u in range(v, graph.end[v])]
        for v, amount in taken:
            state[OWN, v] -= amount
            kind = graph.type_name(v)
            for above in upwards(graph, v):
                state[IDLE, above] -= 1
                if kind in planner.leaf_row:
                    state[planner.leaf_row[kind], above] -= amount
                if kind == CORE and v not in span.claims.unlisted:
                    state[LISTED, above] -= amount
    return state


def upwards(graph: ResourceGraph, vertex: int) -> Iterator[int]:
    while vertex >= 0:
        yield vertex
        vertex = int(graph.parent[vertex])


@every_policy
@few
@given(graphs(), steps)
def test_nothing_is_given_twice_at_one_time(policy, graph, steps):
    run = Run(graph, policy).do(steps)
    assert held_twice(run.matcher, run.matches) == ""


@every_policy
@few
@given(graphs(), steps)
def test_the_state_is_what_the_spans_take(policy, graph, steps):
    planner = Run(graph, policy).do(steps).matcher._planner
    counted = state_of(planner)
    np.testing.assert_array_equal(planner.state[:LISTED], counted[:LISTED])
    holding = graph.end > np.arange(len(graph)) + 1  # the other rows say what is below a vertex
    np.testing.assert_array_equal(planner.state[:, holding], counted[:, holding])
    assert (planner.state[OWN:] >= 0).all()


@every_policy
@few
@given(graphs(), steps, specs)
def test_what_is_cancelled_leaves_no_trace(policy, graph, steps, jobspec):
    matcher = Run(graph, policy).do(steps).matcher
    before, events = matcher._planner.state.copy(), list(matcher._planner._events)
    try:
        match = matcher.reserve(jobspec)
    except (Busy, Unsatisfiable):
        match = None
    if match is not None:
        matcher.cancel(match.jobid)
    np.testing.assert_array_equal(matcher._planner.state, before)
    assert matcher._planner._events == events


@every_policy
@few
@given(graphs(), steps, specs)
def test_a_probe_says_what_reserve_gives_and_holds_nothing(policy, graph, steps, jobspec):
    matcher = Run(graph, policy).do(steps).matcher
    held = set(matcher.holders)
    probed = matcher.probe(jobspec)
    assert set(matcher.holders) == held
    try:
        match = matcher.reserve(jobspec)
    except (Busy, Unsatisfiable):
        assert probed is None
        return
    assert probed is not None
    assert (probed.at, probed.reserved, probed.vertices) == (
        match.at,
        match.reserved,
        match.vertices,
    )


@every_policy
@few
@given(graphs(), steps, specs)
def test_a_fork_goes_its_own_way(policy, graph, steps, jobspec):
    matcher = Run(graph, policy).do(steps).matcher
    twin = matcher.fork()
    before, held = matcher._planner.state.copy(), set(matcher.holders)
    with suppress(Busy, Unsatisfiable):
        twin.reserve(jobspec)
    twin.advance(twin.now + 1000)
    np.testing.assert_array_equal(matcher._planner.state, before)
    assert set(matcher.holders) == held


@every_policy
@few
@given(graphs(), steps)
def test_each_job_starts_when_it_was_told_and_nothing_is_short(policy, graph, steps):
    """Later reservations never move or rob earlier answers: at every start there is enough."""
    run = Run(graph, policy).do(steps)
    told = {m.jobid: (m.at, m.vertices) for m in run.matches if m.jobid in run.matcher.holders}
    planner = run.matcher._planner
    for start in sorted({at for at, _ in told.values() if at > planner.now}):
        planner.advance(start)
        assert (planner.state[OWN:] >= 0).all()
        for jobid, (at, _) in told.items():
            if jobid in planner.spans:
                assert planner.spans[jobid].start == at


@every_policy
@few
@given(graphs(), steps, specs)
def test_a_question_leaves_the_state_as_it_was(policy, graph, steps, jobspec):
    matcher = Run(graph, policy).do(steps).matcher
    planner = matcher._planner
    before, empty = planner.state.copy(), matcher._empty.state.copy()
    matcher.satisfiable(jobspec)
    matcher.probe(jobspec)
    matcher.probe(jobspec, before=planner.now + 10)
    with pytest.raises(ZeroDivisionError), planner.during(planner.now + 5, planner.now + 50):
        raise ZeroDivisionError
    nothing = np.zeros(len(planner.leaf_row) + 1, dtype=np.int64)
    sweep = planner.sweep(planner.now + 3, 20.0, nothing)
    with suppress(StopIteration):
        next(sweep)
        next(sweep)
    sweep.close()
    np.testing.assert_array_equal(planner.state, before)
    np.testing.assert_array_equal(matcher._empty.state, empty)


@every_policy
@few
@given(graphs(), steps, specs)
def test_what_is_allocated_was_satisfiable(policy, graph, steps, jobspec):
    matcher = Run(graph, policy).do(steps).matcher
    try:
        matcher.allocate(jobspec)
    except (Busy, Unsatisfiable):
        return
    assert matcher.satisfiable(jobspec)


@every_policy
@few
@given(graphs(), specs)
def test_a_satisfiable_request_fits_the_empty_graph(policy, graph, jobspec):
    matcher = EmbeddedMatcher(graph, policy)
    if matcher.satisfiable(jobspec):
        match = matcher.reserve(jobspec)
        assert (match.at, match.reserved) == (0, False)
    else:
        with pytest.raises(Unsatisfiable):
            matcher.reserve(jobspec)


@every_policy
@few
@given(graphs(), steps, specs)
def test_a_reservation_is_the_earliest_that_allocate_finds(policy, graph, steps, jobspec):
    matcher = Run(graph, policy).do(steps).matcher
    found = matcher.probe(jobspec)
    if found is None:
        return
    ends = sorted({span.end for span in matcher._planner.spans.values()} | {matcher.now})
    for time in ends:
        if matcher.now <= time < found.at:
            with pytest.raises(Busy):
                matcher.fork().allocate(jobspec, at=time)
    assert matcher.fork().allocate(jobspec, at=found.at).vertices == found.vertices
