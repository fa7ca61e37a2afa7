"""What holds for every plan, on random small queues, systems and configurations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from burst_snapshots import config, job, node_type, provider, rented, snapshot, system
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.decide import Placed, Plan, Rented, Snapshot, decide
from flux_flex.burst.select import PendingJob
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.jobspec import Resource

CENT = 0.01
USERS = ("ann", "bob")

_TYPES = st.lists(
    st.builds(
        node_type,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([4, 8, 16]),
        st.sampled_from([0.0, 0.7, 3.6, 9.0]),
        gpus=st.sampled_from([0, 0, 2]),
        efa=st.sampled_from([0, 1]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda kind: kind.name,
)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


@st.composite
def jobs(draw: st.DrawFn) -> list[PendingJob]:
    queue = []
    for jobid in range(1, draw(st.integers(1, 7)) + 1):
        nodes: Any = draw(st.sampled_from([0, 0, 1, 1, 2, 3, 5]))
        slots = draw(st.integers(1, 4) if nodes else st.integers(1, 20))
        asks = {
            "slots": slots,
            "cores": draw(st.sampled_from([1, 1, 2, 3])),
            "gpus": draw(st.sampled_from([0, 0, 0, 1])),
            "exclusive": draw(st.booleans()),
            "duration": draw(st.sampled_from([0.0, 300.0, 1800.0, 7200.0, 7200.0])),
            "burstable": draw(st.sampled_from([True, True, False])),
        }
        if nodes and draw(st.sampled_from([False, False, True])):
            nodes = {"min": nodes, "max": nodes + 3}
        who, priority = draw(st.sampled_from(USERS)), draw(st.sampled_from([16, 16, 20]))
        queue.append(job(jobid, nodes, user=who, priority=priority, **asks))
    return queue


@st.composite
def existing(draw: st.DrawFn, types: Sequence[NodeType]) -> list[Rented]:
    bursts = []
    for number in range(draw(st.integers(0, 2))):
        nodes = draw(st.integers(1, 3))
        busy = draw(st.integers(0, nodes))
        ends = draw(st.sampled_from([500.0, 3000.0, 9000.0]))
        running = [(100 + number, busy, ends)] if busy else []
        bursts.append(
            rented(
                f"burst-{number}", nodes, draw(st.sampled_from(types)),
                ready=draw(st.sampled_from([0.0, 200.0])), running=running,
                user=draw(st.sampled_from(USERS)),
            )
        )  # fmt: skip
    return bursts


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    types = draw(_TYPES)
    providers = [provider("eks", *types, boot=draw(st.sampled_from([0.0, 60.0, 360.0])))]
    if draw(st.booleans()):
        providers.append(provider("other", *types[:1], boot=900.0))
    limits = {
        "nodes": draw(maybe(st.integers(0, 8))),
        "cost_per_hour": draw(maybe(st.floats(0, 40))),
        "budget": draw(maybe(st.floats(0, 60))),
        "per_user": draw(maybe(st.integers(0, 5))),
        "types": draw(maybe(st.just([types[0].name]))),
    }
    bursts = draw(existing(types))
    return snapshot(
        *draw(jobs()),
        local=system(draw(st.integers(1, 3)), 8, draw(st.sampled_from([0, 2])),
                     held_until=draw(st.sampled_from([0.0, 900.0, 5000.0, math.inf]))),
        setup=config(providers=providers, limits={k: v for k, v in limits.items() if v is not None},
                     threshold=draw(st.sampled_from([0.0, 600.0])),
                     idle_timeout=draw(st.sampled_from([0.0, 300.0])),
                     efa_from_nodes=draw(st.sampled_from([0, 2])),
                     depth=draw(st.sampled_from([3, 32]))),
        bursts=bursts,
        spent=draw(st.sampled_from([0.0, 10.0])),
        policy=draw(st.sampled_from(["fcfs", "easy", "conservative"])),
        next_burst=len(bursts),
    )  # fmt: skip


@given(snapshots())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_plan_keeps_its_promises(given_: Snapshot) -> None:
    plan = decide(given_)
    for one in plan.decisions:
        event(one.verdict)
    _each_decision_is_one_of_a_job_with_a_reason(given_, plan)
    _bursts_are_sooner_than_here_by_more_than_the_threshold(given_, plan)
    _what_is_decided_is_what_is_placed(plan)
    _limits_hold(given_, plan)
    _nodes_are_not_over_committed(given_, plan)
    assert decide(given_) == plan


def _each_decision_is_one_of_a_job_with_a_reason(given_: Snapshot, plan: Plan) -> None:
    ids = [one.job.jobid for one in plan.decisions]
    assert len(set(ids)) == len(ids) <= given_.config.depth
    for one in plan.decisions:
        assert one.reason
        assert (one.verdict == "burst") == (one.chosen is not None)
        taken = [seen for seen in one.alternatives if not seen.rejected]
        assert taken == ([one.chosen] if one.chosen else [])
        never = [math.isinf(seen.start_s) for seen in one.alternatives]
        costs = [round(seen.cost_usd, 6) for seen in one.alternatives]
        ranks = list(zip(never, costs, strict=True))
        assert ranks == sorted(ranks)
        if one.verdict == "impossible":
            assert all(math.isinf(seen.start_s) for seen in one.alternatives)


def _bursts_are_sooner_than_here_by_more_than_the_threshold(given_: Snapshot, plan: Plan) -> None:
    for one in plan.decisions:
        if one.chosen:
            assert one.job.jobspec.burstable
            assert one.job.jobspec.duration_s > 0
            assert one.local_start_s - one.chosen.start_s > given_.config.threshold
            assert one.chosen.cost_usd >= -1e-9
            allowed = given_.config.limits.types
            assert allowed is None or one.chosen.type in allowed


def _what_is_decided_is_what_is_placed(plan: Plan) -> None:
    placed = [one for order in plan.orders for one in order.placed]
    placed += [one for joined in plan.joined.values() for one in joined]
    chosen = {one.job.jobid: one.chosen for one in plan.decisions if one.chosen}
    assert sorted(one.job.jobid for one in placed) == sorted(chosen)
    for one in placed:
        said = chosen[one.job.jobid]
        assert said is not None
        assert (one.start_s, len(one.nodes)) == (said.start_s, said.nodes)
        assert one.end_s == one.start_s + one.job.jobspec.duration_s
    new = sum(one.new_nodes for one in chosen.values() if one is not None)
    assert new == sum(order.nodes for order in plan.orders)


def _limits_hold(given_: Snapshot, plan: Plan) -> None:
    """Counted anew from the orders and the joined bursts, without Headroom. What existed may be
    beyond a limit already; a plan must not add to that."""
    limits, idle = given_.config.limits, given_.config.idle_timeout
    had, has = Counter[str](), Counter[str]()
    hourly_had = hourly = 0.0
    had_usd = has_usd = given_.spent_usd
    for one in given_.rented:
        had[one.user] += one.nodes
        per_hour = one.nodes * one.node_type.price_per_hour_usd
        hourly_had += per_hour
        ends = [joined.end_s for joined in plan.joined.get(one.burst, ())]
        had_usd += per_hour * (one.busy_until_s + idle) / 3600
        has_usd += per_hour * (max([one.busy_until_s, *ends]) + idle) / 3600
    for order in plan.orders:
        has[order.placed[0].job.user] += order.nodes
        per_hour = order.nodes * order.node_type.price_per_hour_usd
        hourly += per_hour
        has_usd += per_hour * (max(one.end_s for one in order.placed) + idle) / 3600
    if limits.nodes is not None and plan.orders:
        assert had.total() + has.total() <= limits.nodes
    if limits.cost_per_hour is not None and hourly > CENT:
        assert hourly_had + hourly <= limits.cost_per_hour + CENT
    if limits.budget is not None and has_usd > had_usd + CENT:
        assert has_usd <= limits.budget + CENT
    if limits.per_user is not None:
        for user, nodes in has.items():
            assert had[user] + nodes <= limits.per_user
    costs = sum(one.chosen.cost_usd for one in plan.decisions if one.chosen)
    assert costs == pytest.approx(has_usd - had_usd, abs=1e-6)


# ---- capacity, by brute force


def _nodes_are_not_over_committed(given_: Snapshot, plan: Plan) -> None:
    for order in plan.orders:
        assert {one.start_s for one in order.placed} == {order.ready_s}
        # Nothing is rented that nobody uses.
        assert {node for one in order.placed for node in one.nodes} == set(range(order.nodes))
        _fit_together(order.placed, order.node_type, order.nodes, held=set())
    for burst in given_.rented:
        joined = plan.joined.get(burst.burst, ())
        assert all(one.start_s >= max(burst.ready_s, given_.now_s) for one in joined)
        # What is held only grows where something starts.
        for moment in [one.start_s for one in joined]:
            running = [one for one in joined if one.start_s <= moment < one.end_s]
            held = _held(burst.matcher, moment)
            _fit_together(running, burst.node_type, burst.nodes, held)


def _held(matcher: EmbeddedMatcher, moment: float) -> set[int]:
    """The nodes that jobs hold from before, which all of them hold whole."""
    held: set[int] = set()
    for span in matcher._planner.spans.values():
        if span.start <= moment < span.end:
            held |= {int(matcher.graph.rank[v]) for v in span.claims.whole}
    return held


def _fit_together(jobs: Sequence[Placed], kind: NodeType, nodes: int, held: set[int]) -> None:
    """Jobs that run at one time fit their nodes, counted by hand."""
    whole = {"core": kind.cores, "gpu": kind.gpus}
    free = [{name: 0 if n in held else has for name, has in whole.items()} for n in range(nodes)]
    for one in jobs:
        (top,) = one.job.jobspec.resources
        if top.type == "node":
            assert top.count.least <= len(one.nodes) <= top.count.most
            for node in one.nodes:
                _take(free[node], whole if top.exclusive else _in_slots(top.children[0]))
    # How many slots a job has on each of its nodes is not told: they fit by their sum, and each
    # of them fits one node.
    spread = [one for one in jobs if one.job.jobspec.resources[0].is_slot]
    nodes_of = {node for one in spread for node in one.nodes}
    total = {name: sum(free[node][name] for node in nodes_of) for name in whole}
    for one in spread:
        (slot,) = one.job.jobspec.resources
        assert len(one.nodes) <= slot.count.least
        _take(total, _in_slots(slot))
        _take(dict(whole), _in_slots(slot, count=1))


def _in_slots(slot: Resource, count: int | None = None) -> dict[str, int]:
    times = slot.count.least if count is None else count
    return {child.type: times * child.count.least for child in slot.children}


def _take(left: dict[str, int], amounts: dict[str, int]) -> None:
    for kind, amount in amounts.items():
        left[kind] -= amount
        assert left[kind] >= 0
