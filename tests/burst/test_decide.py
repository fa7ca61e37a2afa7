"""What decide answers: one snapshot, one plan, as claims."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from burst_snapshots import (
    BOOT,
    HOUR,
    config,
    hold,
    job,
    node_type,
    of,
    provider,
    rented,
    snapshot,
    spec,
    system,
    verdicts,
)

from flux_flex.burst.decide import Plan, Rented, decide
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.graph import uniform_graph

# ---- stay or burst


def test_job_that_starts_here_now_stays() -> None:
    plan = decide(snapshot(job(1, 2), local=system(held_until=0)))
    (one,) = plan.decisions
    assert (one.verdict, one.reason, one.local_start_s) == ("stay", "starts here now", 0.0)
    assert (plan.orders, plan.joined, one.alternatives) == ((), {}, ())


def test_job_that_starts_here_soon_stays() -> None:
    plan = decide(snapshot(job(1, 2), local=system(held_until=300)))
    assert (of(plan, 1).verdict, of(plan, 1).reason) == ("stay", "starts here in 5m")


@pytest.mark.parametrize(
    ("told_s", "verdict", "start_s"),
    [(300.0, "stay", 300.0), (3 * HOUR, "burst", 3 * HOUR), (-1.0, "burst", 2 * HOUR)],
)
def test_what_flux_tells_of_the_start_here_is_believed_unless_it_is_over(
    told_s: float, verdict: str, start_s: float
) -> None:
    waits = replace(job(1, 2), flux_start_s=told_s)
    one = of(decide(replace(snapshot(waits), flux_tells=True)), 1)
    assert (one.verdict, one.local_start_s) == (verdict, start_s)
    assert of(decide(snapshot(waits)), 1).local_start_s == 2 * HOUR


def test_jobs_behind_one_that_flux_tells_about_start_no_sooner_under_fcfs() -> None:
    first = replace(job(1, 2, burstable=False), flux_start_s=3 * HOUR)
    plan = decide(replace(snapshot(first, job(2, 2, submitted=1.0)), flux_tells=True))
    assert of(plan, 2).local_start_s == 3 * HOUR


@pytest.mark.parametrize(
    ("nodes", "verdict", "why"),
    [
        (3, "deferred", "no slot with 3 hosts for std is free"),
        (5, "impossible", "no type here fits: it takes 5, a slot for std has 4 hosts at most"),
    ],
)
def test_a_slot_that_is_taken_defers_and_one_that_is_too_small_for_ever_is_said(
    nodes: int, verdict: str, why: str
) -> None:
    seen = replace(snapshot(job(1, nodes)), rooms={"std": [2]}, largest={"std": 4})
    one = of(decide(seen), 1)
    assert (one.verdict, one.reason) == (verdict, why)


def test_whether_a_job_fits_here_at_all_is_said_with_its_decision() -> None:
    plan = decide(snapshot(job(1, 2), job(2, 3)))
    assert [one.fits_here for one in plan.decisions] == [True, False]


def test_job_that_waits_here_bursts_and_says_what_it_gains() -> None:
    plan = decide(snapshot(job(1, 2)))
    one = of(plan, 1)
    assert (one.verdict, one.local_start_s) == ("burst", 2 * HOUR)
    assert one.reason == "2 x std, $7.20/h, ready in 6m instead of 2h"
    (order,) = plan.orders
    assert (order.burst, order.provider, order.node_type.name) == ("burst-0", "eks", "std")
    assert (order.nodes, order.ready_s, order.end_s) == (2, BOOT, BOOT + HOUR)
    (placed,) = order.placed
    assert (placed.job.jobid, placed.start_s, placed.nodes) == (1, BOOT, (0, 1))


def test_cost_counts_boot_and_time_limit_and_idling_of_every_node() -> None:
    chosen = of(decide(snapshot(job(1, 2))), 1).chosen
    assert chosen is not None
    assert chosen.cost_usd == pytest.approx(2 * 3.6 * (360 + 3600 + 300) / 3600)
    assert chosen.cost_per_hour_usd == pytest.approx(7.2)
    assert (chosen.nodes, chosen.new_nodes, chosen.burst, chosen.rejected) == (2, 2, "", "")


def test_times_count_from_the_present_and_not_from_zero() -> None:
    plan = decide(snapshot(job(1, 2), now=HOUR))
    one = of(plan, 1)
    assert one.reason == "2 x std, $7.20/h, ready in 6m instead of 1h"
    assert plan.orders[0].ready_s == HOUR + BOOT
    assert one.chosen is not None
    assert one.chosen.cost_usd == pytest.approx(2 * 4.26)


@pytest.mark.parametrize(
    ("types", "taken", "rejected"),
    [
        ((node_type("dear", price=4.0), node_type("cheap", price=3.0)), "cheap", "costs more"),
        # Twice the price for a node, but half of the nodes and more: 16 cores fit on one.
        ((node_type("small", 8, 1.0), node_type("big", 16, 1.9)), "big", "costs more"),
        ((node_type("b"), node_type("a")), "a", "no better than the one taken"),
    ],
)
def test_the_cheapest_type_is_taken_and_of_equals_the_first_by_name(
    types: Any, taken: str, rejected: str
) -> None:
    one = of(decide(snapshot(job(1, slots=16), setup=config(*types))), 1)
    assert one.chosen is not None
    assert one.chosen.type == taken
    assert [other.rejected for other in one.alternatives] == ["", rejected]


def test_of_equal_cost_the_sooner_is_taken() -> None:
    # Both cost 2 dollars for 2 hours or 1 hour of boot and run in all.
    slow = provider("slow", node_type("a", price=3.6), boot=1260)
    quick = provider("quick", node_type("b", price=5.4), boot=540)
    setup = config(providers=[slow, quick], idle_timeout=0)
    one = of(decide(snapshot(job(1, 1, duration=900), setup=setup)), 1)
    assert one.chosen is not None
    assert (one.chosen.provider, one.chosen.start_s) == ("quick", 540)
    assert [other.rejected for other in one.alternatives] == ["", "starts later"]


def test_each_provider_has_its_own_boot() -> None:
    setup = config(
        providers=[provider("near", node_type(), boot=60), provider("far", node_type(), boot=1200)]
    )
    one = of(decide(snapshot(job(1, 1), setup=setup)), 1)
    starts = {seen.provider: [seen.start_s, seen.cost_usd] for seen in one.alternatives}
    assert starts["near"] == pytest.approx([60, 3.96])
    assert starts["far"] == pytest.approx([1200, 5.10])
    assert one.chosen is not None
    assert one.chosen.provider == "near"


# ---- the threshold


@pytest.mark.parametrize(
    ("held_until", "verdict", "reason"),
    [
        (600, "stay", "starts here in 10m"),
        (601, "stay", "starts here in 10m, rented nodes would be ready in 6m"),
        (960, "stay", "starts here in 16m, rented nodes would be ready in 6m"),
        (961, "burst", "1 x std, $3.60/h, ready in 6m instead of 16m"),
    ],
)
def test_renting_has_to_be_sooner_by_more_than_the_threshold(
    held_until: float, verdict: str, reason: str
) -> None:
    one = of(decide(snapshot(job(1, 1), local=system(held_until=held_until))), 1)
    assert (one.verdict, one.reason) == (verdict, reason)


def test_what_is_too_late_says_by_how_much() -> None:
    one = of(decide(snapshot(job(1, 1), local=system(held_until=700))), 1)
    assert [seen.rejected for seen in one.alternatives] == ["not sooner by more than 10m: by 6m"]


def test_a_long_boot_leaves_a_quicker_provider_of_a_dearer_type() -> None:
    slow = provider("slow", node_type("cheap", price=1.0), boot=2 * HOUR)
    quick = provider("quick", node_type("dear", price=9.0), boot=120)
    one = of(decide(snapshot(job(1, 1), setup=config(providers=[slow, quick]))), 1)
    assert one.chosen is not None
    assert one.chosen.type == "dear"


def test_too_late_wins_over_a_type_that_does_not_fit() -> None:
    setup = config(node_type("small", cores=4), node_type("std"))
    one = of(decide(snapshot(job(1, 1, cores=8), local=system(held_until=700), setup=setup)), 1)
    assert one.verdict == "stay"


# ---- limits


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"nodes": 1}, "at most 1 node may be rented at once, it takes 2"),
        ({"cost_per_hour": 7.19}, "the limit of $7.19/h leaves $7.19, it takes $7.20"),
        ({"budget": 8.51}, "the budget of $8.51 in 30d leaves $8.51, it takes $8.52"),
        (
            {"budget": 8.51, "period": "7d"},
            "the budget of $8.51 in 7d leaves $8.51, it takes $8.52",
        ),
        ({"per_user": 1}, "the limit of 1 node a user leaves ann 1, it takes 2"),
        ({"types": ["other"]}, "std is not among the types that may be rented"),
    ],
)
def test_a_limit_defers_with_its_numbers(limits: dict[str, object], reason: str) -> None:
    setup = config(node_type(), node_type("other", cores=1), limits=limits)
    # The other type never fits, so what is said is about std.
    plan = decide(snapshot(job(1, 2, cores=8), setup=setup))
    assert (of(plan, 1).verdict, of(plan, 1).reason) == ("deferred", reason)
    assert plan.orders == ()


@pytest.mark.parametrize(
    "limits",
    [
        {"nodes": 2},
        {"cost_per_hour": 7.2},
        {"budget": 8.52},
        {"per_user": 2},
        {"types": ["std"]},
    ],
)
def test_a_limit_that_is_just_reached_allows(limits: dict[str, object]) -> None:
    assert verdicts(decide(snapshot(job(1, 2), setup=config(limits=limits)))) == {1: "burst"}


def test_a_type_within_the_limit_is_taken_where_the_cheapest_is_beyond_it() -> None:
    setup = config(
        node_type("many", 8, 1.0), node_type("few", 16, 9.0), limits={"nodes": 1}, idle_timeout=0
    )
    one = of(decide(snapshot(job(1, slots=16), setup=setup)), 1)
    assert one.chosen is not None
    assert one.chosen.type == "few"
    assert (
        one.alternatives[0].rejected == "at most 1 node may be rented at once, it takes 2 or more"
    )


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"nodes": 3}, "the limit of 3 nodes leaves 1, it takes 2"),
        ({"cost_per_hour": 10.0}, "the limit of $10.00/h leaves $2.80, it takes $7.20"),
        ({"budget": 17.03}, "the budget of $17.03 in 30d leaves $8.51, it takes $8.52"),
        ({"per_user": 3}, "the limit of 3 nodes a user leaves ann 1, it takes 2"),
    ],
)
def test_limits_hold_across_the_jobs_of_one_round(limits: dict[str, object], reason: str) -> None:
    pair = job(1, 2, cores=8), job(2, 2, cores=8)
    plan = decide(snapshot(*pair, setup=config(limits=limits)))
    assert verdicts(plan) == {1: "burst", 2: "deferred"}
    assert of(plan, 2).reason == reason
    assert len(plan.orders) == 1


def test_what_one_user_rents_leaves_the_limit_of_another() -> None:
    pair = job(1, 2, cores=8), job(2, 2, cores=8, user="bob")
    plan = decide(snapshot(*pair, setup=config(limits={"per_user": 2})))
    assert verdicts(plan) == {1: "burst", 2: "burst"}


def test_nobody_adds_nodes_to_the_burst_of_another_user_where_each_has_a_limit() -> None:
    # Four of eight cores for each: bob's three nodes would use the half that ann's leaves.
    pair = job(1, 1, cores=4), job(2, 3, cores=4, user="bob")
    plan = decide(snapshot(*pair, setup=config(limits={"per_user": 3})))
    assert [(order.user, order.nodes) for order in plan.orders] == [("ann", 1), ("bob", 3)]


def test_what_is_spent_already_counts_against_the_budget() -> None:
    setup = config(limits={"budget": 100.0})
    one = of(decide(snapshot(job(1, 2), setup=setup, spent=95.0)), 1)
    assert one.reason == "the budget of $100.00 in 30d leaves $5.00, it takes $8.52"


def test_the_rest_of_an_existing_burst_counts_against_the_budget() -> None:
    # One node at a tenth of a cent a second, busy for 1000 s and idle for 300 s: 1.30 dollars.
    existing = rented(running=[(50, 1, 1000.0)])
    setup = config(limits={"budget": 9.0})
    one = of(decide(snapshot(job(1, 2, cores=8), setup=setup, bursts=[existing])), 1)
    assert one.verdict == "deferred"
    assert one.reason == "the budget of $9.00 in 30d leaves $7.70, it takes $8.52"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"nodes": 3}, "the limit of 3 nodes leaves 1, it takes 2"),
        ({"cost_per_hour": 10.0}, "the limit of $10.00/h leaves $2.80, it takes $7.20"),
        ({"per_user": 3}, "the limit of 3 nodes a user leaves ann 1, it takes 2"),
    ],
)
def test_existing_bursts_count_against_the_limits(limits: dict[str, object], reason: str) -> None:
    existing = rented(nodes=2, running=[(50, 2, 3 * HOUR)])
    local = system(held_until=3 * HOUR)
    setup = config(limits=limits)
    one = of(decide(snapshot(job(1, 2, cores=8), local=local, setup=setup, bursts=[existing])), 1)
    assert (one.verdict, one.reason) == ("deferred", reason)


# ---- never


_MEMORY = [
    {
        "type": "slot",
        "count": 1,
        "label": "task",
        "with": [{"type": "core", "count": 1}, {"type": "memory", "count": 4}],
    }
]


@pytest.mark.parametrize(
    ("asks", "reason"),
    [
        ({"gpus": 3}, "wants 3 gpus on a node, it has 2"),
        ({"nodes": 1, "gpus": 3}, "wants 3 gpus on a node, it has 2"),
        ({"cores": 9}, "wants 9 cores on a node, it has 8"),
        ({"nodes": 2, "slots": 3, "cores": 3}, "wants 9 cores on a node, it has 8"),
        ({"constraint": {"properties": ["efa"]}}, "wants properties efa"),
        ({"constraint": {"hostlist": ["node0"]}}, "wants hosts node0"),
        ({"constraint": {"ranks": ["0"]}}, "wants ranks 0"),
        ({"constraint": {"not": [{"ranks": ["0"]}]}}, "wants not ranks 0"),
        (
            {"resources": _MEMORY},
            "wants a memory, rented nodes are described by cores and gpus",
        ),
        ({"resources": [{"type": "cluster", "count": 2}]}, "does not fit its nodes"),
    ],
)
def test_what_no_type_has_is_impossible(asks: dict[str, Any], reason: str) -> None:
    local = EmbeddedMatcher(uniform_graph(1, 16, 4))
    hold(local, 9000, 1, 2 * HOUR)
    one = of(decide(snapshot(job(1, **asks), local=local, setup=config(node_type(gpus=2)))), 1)
    assert (one.verdict, one.reason) == ("impossible", f"no type here fits: {reason}")
    assert [seen.start_s for seen in one.alternatives] == [math.inf]


@pytest.mark.parametrize(
    "constraint",
    [
        {"properties": ["amd"]},
        {"properties": ["std"]},
        {"properties": ["^spot"]},
        {"not": [{"hostlist": ["node[0-9]"]}]},
        {"or": [{"hostlist": ["node0"]}, {"properties": ["amd"]}]},
    ],
)
def test_a_constraint_that_rented_nodes_meet_lets_burst(constraint: object) -> None:
    setup = config(node_type(properties=("amd",)))
    plan = decide(snapshot(job(1, 2, constraint=constraint), setup=setup))
    assert verdicts(plan) == {1: "burst"}


def test_the_reason_that_most_types_share_is_given_with_one_of_them() -> None:
    setup = config(node_type("a", gpus=4), node_type("b", 4), node_type("c", 4))
    one = of(decide(snapshot(job(1, 1, cores=5, gpus=5), setup=setup)), 1)
    assert one.reason == "no type here fits: b: wants 5 cores on a node, it has 4"


def test_job_that_can_never_start_here_bursts() -> None:
    plan = decide(snapshot(job(1, 5), local=system(nodes=2)))
    one = of(plan, 1)
    assert (one.verdict, one.local_start_s) == ("burst", math.inf)
    assert one.reason == "5 x std, $18.00/h, ready in 6m instead of never"


def test_job_that_can_never_start_here_nor_burst_is_impossible() -> None:
    one = of(decide(snapshot(job(1, 5, burstable=False), job(2), local=system(nodes=2))), 1)
    assert (one.verdict, one.reason) == ("impossible", "not burstable, and cannot start here")


def test_job_without_a_time_limit_never_bursts() -> None:
    one = of(decide(snapshot(job(1, 2, duration=0))), 1)
    assert one.verdict == "impossible"
    assert one.reason == "has no time limit, so what it would cost has no bound"


def test_job_without_a_time_limit_that_starts_here_stays() -> None:
    one = of(decide(snapshot(job(1, 2, duration=0), local=system(held_until=0))), 1)
    assert (one.verdict, one.reason) == ("stay", "starts here now")


def test_a_job_larger_than_any_rental_is_deferred_without_being_placed() -> None:
    one = of(decide(snapshot(job(1, 200_000), local=system(nodes=2))), 1)
    assert one.verdict == "deferred"
    assert one.reason == "at most 4096 nodes may be rented at once, it takes 200000"


# ---- the queue here


def test_job_ahead_in_queue_delays_local_start() -> None:
    ahead = job(1, 2, cores=8, burstable=False)
    plan = decide(snapshot(ahead, job(2, 2)))
    assert of(plan, 1).reason == "not burstable, starts here in 2h"
    assert of(plan, 2).local_start_s == 3 * HOUR


def test_jobs_are_walked_by_priority_then_submission() -> None:
    queue = job(1, 2, submitted=1.0), job(2, 2), job(3, 2, priority=20, submitted=2.0)
    plan = decide(snapshot(*queue, setup=config(limits={"nodes": 2})))
    assert [one.job.jobid for one in plan.decisions] == [3, 2, 1]
    assert verdicts(plan)[3] == "burst"


def test_bursting_job_frees_its_place_for_those_behind() -> None:
    plan = decide(snapshot(job(1, 2), job(2, 2, cores=8, burstable=False), job(3, 1)))
    assert of(plan, 2).local_start_s == 2 * HOUR
    assert of(plan, 3).local_start_s == 3 * HOUR


def test_deferred_job_keeps_its_place_before_those_behind() -> None:
    setup = config(limits={"nodes": 1})
    plan = decide(snapshot(job(1, 2, cores=8), job(2, 1), setup=setup))
    assert verdicts(plan) == {1: "deferred", 2: "burst"}
    assert of(plan, 2).local_start_s == 3 * HOUR


@pytest.mark.parametrize(
    ("policy", "start"), [("fcfs", math.inf), ("easy", 0.0), ("conservative", 0.0)]
)
def test_only_backfill_lets_a_short_job_pass_the_blocked_head(policy: Any, start: float) -> None:
    # One of two nodes is free until the head, which wants both, starts in 2 h.
    local = EmbeddedMatcher(uniform_graph(2, 8))
    hold(local, 9000, 1, 2 * HOUR)
    head = job(1, 2, cores=8, burstable=False, duration=0)
    plan = decide(snapshot(head, job(2, 1, duration=2 * HOUR), local=local, policy=policy))
    assert of(plan, 2).local_start_s == start


def test_backfill_does_not_delay_the_head() -> None:
    local = EmbeddedMatcher(uniform_graph(2, 8))
    hold(local, 9000, 1, 2 * HOUR)
    head = job(1, 2, cores=8, burstable=False)
    plan = decide(snapshot(head, job(2, 1, duration=3 * HOUR), local=local, policy="easy"))
    assert of(plan, 2).local_start_s == 3 * HOUR


def test_under_fcfs_nobody_starts_before_the_job_ahead() -> None:
    local = EmbeddedMatcher(uniform_graph(2, 8))
    hold(local, 9000, 1, 2 * HOUR)
    head = job(1, 2, burstable=False)
    plan = decide(snapshot(head, job(2, 1, duration=60), local=local))
    assert of(plan, 2).local_start_s == 2 * HOUR  # beside it, not before it


def test_job_behind_one_that_no_end_frees_has_no_start_in_sight() -> None:
    local = system(held_until=math.inf)
    plan = decide(snapshot(job(1, 2, burstable=False), job(2, 3, burstable=False), local=local))
    assert plan.decisions == ()  # nothing burstable: nothing to decide
    plan = decide(snapshot(job(1, 2, burstable=False), job(2, 1), local=local))
    assert of(plan, 1).reason == "not burstable, waits here behind jobs without a time limit"
    assert (of(plan, 1).verdict, of(plan, 1).local_start_s) == ("stay", math.inf)
    assert of(plan, 2).reason == "1 x std, $3.60/h, ready in 6m instead of never"


def test_job_blocked_for_ever_that_bursts_does_not_block_those_behind() -> None:
    local = EmbeddedMatcher(uniform_graph(2, 8))
    hold(local, 9000, 1, math.inf)
    plan = decide(snapshot(job(1, 2), job(2, 1), local=local))
    assert verdicts(plan) == {1: "burst", 2: "stay"}
    assert of(plan, 2).local_start_s == 0.0


def test_job_too_large_for_the_system_holds_nobody_up_even_behind_a_blocked_one() -> None:
    local = system(held_until=math.inf)
    queue = job(1, 2, burstable=False), job(2, 3, burstable=False), job(3, 1)
    plan = decide(snapshot(*queue, local=local))
    assert of(plan, 2).reason == "not burstable, and cannot start here"
    plan = decide(snapshot(*queue[1:]))
    assert of(plan, 3).local_start_s == 2 * HOUR


def test_depth_counts_all_pending_jobs_from_the_head() -> None:
    queue = job(1, 1, burstable=False), job(2, 1), job(3, 1)
    assert verdicts(decide(snapshot(*queue, setup=config(depth=1)))) == {}
    assert list(verdicts(decide(snapshot(*queue, setup=config(depth=2))))) == [1, 2]


# ---- packing


def test_second_job_goes_onto_leftover_cores_of_an_order_of_this_round() -> None:
    plan = decide(snapshot(job(1, slots=5), job(2, slots=3), next_burst=4))
    (order,) = plan.orders
    assert (order.burst, order.nodes) == ("burst-4", 1)
    assert [placed.job.jobid for placed in order.placed] == [1, 2]
    second = of(plan, 2)
    assert second.reason == "joins burst-4 on 1 x std, no more nodes, starts in 6m instead of 2h"
    assert second.chosen is not None
    assert (second.chosen.cost_usd, second.chosen.new_nodes) == (0.0, 0)


def test_joining_an_order_for_longer_costs_the_difference() -> None:
    plan = decide(snapshot(job(1, slots=5), job(2, slots=3, duration=HOUR + 600)))
    chosen = of(plan, 2).chosen
    assert chosen is not None
    assert chosen.cost_usd == pytest.approx(0.6)
    assert plan.orders[0].end_s == BOOT + HOUR + 600


def test_an_order_grows_by_the_nodes_that_are_missing() -> None:
    plan = decide(snapshot(job(1, slots=4), job(2, slots=12)))
    (order,) = plan.orders
    chosen = of(plan, 2).chosen
    assert chosen is not None
    assert (order.nodes, chosen.nodes, chosen.new_nodes) == (2, 2, 1)
    assert [chosen.cost_usd, chosen.cost_per_hour_usd] == pytest.approx([4.26, 3.6])
    assert of(plan, 2).reason == "joins burst-0 with 1 more x std, ready in 6m instead of 2h"


def test_a_long_job_does_not_keep_a_large_order_where_its_own_node_is_cheaper() -> None:
    plan = decide(snapshot(job(1, 10, cores=4), job(2, 1, cores=4, duration=5 * HOUR)))
    assert [(order.burst, order.nodes) for order in plan.orders] == [
        ("burst-0", 10),
        ("burst-1", 1),
    ]


def test_orders_of_another_type_or_provider_are_not_joined() -> None:
    setup = config(providers=[provider("a", node_type(price=3.0)), provider("b", node_type())])
    plan = decide(snapshot(job(1, slots=4), job(2, slots=4), setup=setup))
    assert [order.provider for order in plan.orders] == ["a"]
    assert {seen.burst for seen in of(plan, 2).alternatives if seen.provider == "b"} == {""}


def test_grown_order_costs_the_budget_what_it_costs_in_all() -> None:
    # 4.26 for the first, nothing for the second, 4.26 for the third: 8.52 in all.
    queue = job(1, slots=5), job(2, slots=3), job(3, slots=8)
    fits = decide(snapshot(*queue, setup=config(limits={"budget": 8.52})))
    assert set(verdicts(fits).values()) == {"burst"}
    short = decide(snapshot(*queue, setup=config(limits={"budget": 8.51})))
    assert verdicts(short) == {1: "burst", 2: "burst", 3: "deferred"}
    assert of(short, 3).reason == "the budget of $8.51 in 30d leaves $4.25, it takes $4.26"


def test_job_with_a_range_of_nodes_rents_the_least_and_shares_with_nobody() -> None:
    wide = job(1, {"min": 2, "max": 8}, cores=4)
    plan = decide(snapshot(wide, job(2, 1, cores=4)))
    assert verdicts(plan) == {1: "burst", 2: "burst"}
    assert [(order.nodes, len(order.placed)) for order in plan.orders] == [(2, 1), (1, 1)]


# ---- onto bursts that exist


def test_job_joins_an_existing_burst_with_free_nodes_at_no_cost() -> None:
    existing = rented(nodes=2, running=[(50, 1, 2 * HOUR)])
    plan = decide(snapshot(job(1, 1), bursts=[existing]))
    one = of(plan, 1)
    assert one.reason == "joins burst-0 on 1 x std, no more nodes, starts in 0s instead of 2h"
    assert one.chosen is not None
    assert (one.chosen.cost_usd, one.chosen.cost_per_hour_usd, one.chosen.start_s) == (0, 0, 0)
    assert plan.orders == ()
    (placed,) = plan.joined["burst-0"]
    assert (placed.job.jobid, placed.start_s, placed.end_s, placed.nodes) == (1, 0, HOUR, (1,))


def test_job_joins_a_burst_that_boots_not_before_it_is_ready() -> None:
    existing = rented(nodes=2, ready=200.0, running=[(50, 1, 2 * HOUR)])
    plan = decide(snapshot(job(1, 1), bursts=[existing], now=100.0))
    assert plan.joined["burst-0"][0].start_s == 200.0


def test_job_waits_for_nodes_of_an_existing_burst_where_that_is_soon_enough() -> None:
    existing = rented(running=[(50, 1, 1200.0)])
    plan = decide(snapshot(job(1, 1, duration=600), bursts=[existing]))
    assert plan.joined["burst-0"][0].start_s == 1200.0
    chosen = of(plan, 1).chosen
    assert chosen is not None
    assert chosen.cost_usd == pytest.approx(0.6)


@pytest.mark.parametrize(
    "existing",
    [
        rented(running=[(50, 1, 2 * HOUR - 600)]),  # free, but not soon enough
        rented(ready=2 * HOUR - 600),  # ready, but not soon enough
        rented(kind=node_type("tiny", cores=2)),  # too small
    ],
    ids=["busy", "boots", "small"],
)
def test_job_does_not_join_where_that_is_too_late_or_does_not_fit(existing: Rented) -> None:
    plan = decide(snapshot(job(1, 1, cores=4), bursts=[existing], next_burst=1))
    assert plan.joined == {}
    assert [order.burst for order in plan.orders] == ["burst-1"]


def test_job_does_not_join_a_burst_of_a_type_that_may_not_be_rented_any_more() -> None:
    setup = config(node_type("other"), node_type(), limits={"types": ["other"]})
    plan = decide(snapshot(job(1, 1), bursts=[rented()], setup=setup))
    assert plan.joined == {}


def test_joining_costs_what_it_keeps_the_whole_burst_longer() -> None:
    existing = rented(nodes=3, running=[(50, 2, 1000.0)])
    plan = decide(snapshot(job(1, 1, duration=1500), bursts=[existing]))
    chosen = of(plan, 1).chosen
    assert chosen is not None
    assert chosen.cost_usd == pytest.approx(3 * 0.5)


def test_second_job_to_join_pays_only_beyond_the_first() -> None:
    existing = rented(nodes=2)
    queue = job(1, 1, cores=8, duration=300), job(2, 1, cores=8, duration=400)
    plan = decide(snapshot(*queue, bursts=[existing]))
    costs = [one.chosen.cost_usd for one in plan.decisions if one.chosen]
    assert costs == [pytest.approx(0.6), pytest.approx(0.2)]
    assert [placed.nodes for placed in plan.joined["burst-0"]] == [(0,), (1,)]


def test_joining_at_no_cost_is_open_where_a_limit_is_exhausted() -> None:
    existing = rented(nodes=2, running=[(50, 1, 2 * HOUR)])
    limits: dict[str, object] = {"nodes": 1, "cost_per_hour": 1.0, "budget": 0.0, "per_user": 1}
    plan = decide(snapshot(job(1, 1), bursts=[existing], setup=config(limits=limits)))
    assert list(plan.joined) == ["burst-0"]


def test_joining_for_longer_than_the_budget_pays_is_refused() -> None:
    existing = rented(running=[(50, 1, 1000.0)])  # 1.30 dollars
    setup = config(limits={"budget": 2.0})
    plan = decide(snapshot(job(1, 1), bursts=[existing], setup=setup))
    one = of(plan, 1)
    assert (one.verdict, plan.joined) == ("deferred", {})
    # The job ends at 4600 s instead of 1000 s.
    assert one.reason == "the budget of $2.00 in 30d leaves $0.70, it takes $3.60"


# ---- EFA


@pytest.mark.parametrize(
    ("asks", "efa_from_nodes", "taken"),
    [
        ({"nodes": 2}, 0, "plain"),
        ({"nodes": 1}, 2, "plain"),
        ({"nodes": 2}, 2, "fabric"),
        ({"nodes": 2}, 3, "plain"),
        ({"slots": 8}, 2, "plain"),
        ({"slots": 9}, 2, "fabric"),  # more cores than one node has
    ],
)
def test_jobs_of_several_nodes_need_efa_from_a_number_on(
    asks: dict[str, Any], efa_from_nodes: int, taken: str
) -> None:
    types = node_type("plain", price=1.0), node_type("fabric", price=9.0, efa=1)
    setup = config(*types, efa_from_nodes=efa_from_nodes)
    chosen = of(decide(snapshot(job(1, **asks), setup=setup)), 1).chosen
    assert chosen is not None
    assert chosen.type == taken


def test_missing_efa_is_named() -> None:
    one = of(decide(snapshot(job(1, 4), setup=config(efa_from_nodes=4))), 1)
    assert one.reason == "no type here fits: no EFA, which jobs of 4 nodes or more need"


# ---- numbers, purity


def test_bursts_are_numbered_on_from_the_snapshot() -> None:
    plan = decide(snapshot(job(1, 1, cores=8), job(2, 1, cores=8), next_burst=7))
    joined = [order.burst for order in plan.orders]
    assert joined[0] == "burst-7"
    setup = config(node_type("a", 8, 1.0), node_type("b", 8, 3.6, gpus=1))
    plan = decide(snapshot(job(1, 1), job(2, 1, gpus=1), setup=setup, next_burst=7,
                           local=system(gpus=1)))  # fmt: skip
    assert [order.burst for order in plan.orders] == ["burst-7", "burst-8"]


def test_decide_gives_the_same_plan_twice_and_changes_nothing() -> None:
    local = system()
    existing = rented(nodes=2, running=[(50, 1, 2 * HOUR)])
    queue = [job(1, 2, burstable=False), job(2, 1), job(3, slots=5), job(4, slots=3), job(5, 9)]
    given = snapshot(*queue, local=local, bursts=[existing], now=60.0, policy="easy")
    before = [_state(matcher) for matcher in (local, existing.matcher)]
    first, second = decide(given), decide(given)
    assert _comparable(first) == _comparable(second)
    assert {"burst", "stay"} <= set(verdicts(first).values())
    assert [_state(matcher) for matcher in (local, existing.matcher)] == before


def _state(matcher: EmbeddedMatcher) -> tuple[object, ...]:
    planner = matcher._planner
    events = [(when, kind, span.jobid) for when, kind, _, span in planner._events]
    return planner.state.tobytes(), matcher.version, matcher.now, sorted(matcher.holders), events


def _comparable(plan: Plan) -> object:
    return plan.decisions, plan.orders, plan.joined


def test_the_same_jobspec_with_another_name_is_decided_alike() -> None:
    # Answers are kept by jobspec; what they are kept for must not leak into another job.
    first = decide(snapshot(job(1, 2)))
    second = decide(snapshot(job(2, 2, user="bob")))
    assert first.orders[0].placed[0].job.jobid == 1
    assert second.orders[0].placed[0].job.jobid == 2
    assert spec(2) == spec(2)
