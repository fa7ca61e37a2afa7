"""The replay: who starts when and where, and what rented nodes cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from flux_flex.burst.config import parse_burst_config
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet
from flux_flex.simulate.document import summary
from flux_flex.simulate.queue_dump import RunningJob
from flux_flex.simulate.replay import JobRecord, Outcome, replay
from flux_flex.simulate.scenario import Scenario
from flux_flex.simulate.submissions import Submission, runtime_of
from flux_flex.simulate.timeline import timeline

M = 60.0  # a minute
BOOT, IDLE = 6 * M, 5 * M
PRICE = 6.0  # a node an hour: ten cents a minute


def job(nodes: int, minutes: float, *, cores: int = 0, burstable: bool = False) -> Jobspec:
    """Whole nodes, or ``cores`` anywhere; 0 minutes for no time limit."""
    core = {"type": "core", "count": 1}
    slot = {"type": "slot", "count": cores or 1, "label": "task", "with": [core]}
    resources = [{"type": "node", "count": nodes, "exclusive": True, "with": [slot]}]
    return parse_jobspec(
        {
            "version": 1,
            "resources": resources if nodes else [slot],
            "attributes": {"system": {"duration": minutes * M, "burstable": int(burstable)}},
        }
    )


def come(
    jobid: int, spec: Jobspec, at: float = 0.0, takes: float | None = None, **more: Any
) -> Submission:
    """A job that comes at minute ``at`` and takes ``takes`` minutes, else all its time."""
    runtime_s = runtime_of(spec, None if takes is None else takes * M)
    return Submission(
        jobid, spec, more.get("user", "u"), more.get("priority", 16), at * M, runtime_s
    )


def holding(jobid: int, nodes: int, end: float) -> RunningJob:
    """A job that runs since a minute on the first nodes, of four cores each."""
    held = [RankResources(i, f"node{i}", (0, 1, 2, 3), ()) for i in range(nodes)]
    R = ResourceSet(tuple(held)).to_r()
    return RunningJob(jobid, "old", "u", -2 * M, -M, end * M, R)


def scenario(*submissions: Submission, nodes: int = 4, **more: Any) -> Scenario:
    """Nodes of four cores here; nodes of eight to rent, for $6 an hour, ready after 6 min."""
    rented = {
        "name": "rented", "cores": 8, "vcpus": 8, "gpus": 0, "memory_gib": 1, "network_gbps": 1,
        "price_per_hour_usd": PRICE,
    }  # fmt: skip
    burst = {
        "threshold": more.get("threshold", 0),
        "idle_timeout": IDLE,
        "limits": more.get("limits", {}),
        "depth": more.get("depth", 32),
        "providers": [{"name": "p", "boot": BOOT, "types": [rented]}],
    }
    return Scenario(
        name="t",
        path=Path("t.yaml"),
        graph=uniform_graph(nodes, 4),
        network=None,
        running=tuple(more.get("running", ())),
        submissions=submissions,
        queue_policy=more.get("policy", "fcfs"),
        queue_depth=more.get("queue_depth", 32),
        match_policy="lonode",
        horizon_s=more.get("horizon"),
        epoch_s=0.0,
        burst=parse_burst_config(burst),
    )


def starts(outcome: Outcome) -> dict[int, float | None]:
    """Start of each job in minutes, None for those that did not start."""
    found = {one.jobid: one.start_s for one in outcome.records}
    return {jobid: None if start is None else start / M for jobid, start in found.items()}


def record(outcome: Outcome, jobid: int) -> JobRecord:
    return next(one for one in outcome.records if one.jobid == jobid)


# -- here -----------------------------------------------------------------------------------------


def small_behind_large(**more: Any) -> Scenario:
    """Node 3 is free; job 2 wants all four, at minute 60; job 3 would fit now and end at 50."""
    return scenario(
        come(1, job(3, 60)), come(2, job(4, 10), at=1), come(3, job(1, 50), at=2), **more
    )


def test_fcfs_lets_nobody_pass_the_head() -> None:
    outcome = replay(small_behind_large(policy="fcfs"), bursting=False)
    assert starts(outcome) == {1: 0, 2: 60, 3: 70}


@pytest.mark.parametrize("policy", ["easy", "conservative"])
def test_backfill_lets_pass_what_ends_before_the_head_starts(policy: str) -> None:
    outcome = replay(small_behind_large(policy=policy), bursting=False)
    assert starts(outcome) == {1: 0, 2: 60, 3: 2}


@pytest.mark.parametrize("policy", ["easy", "conservative"])
def test_backfill_does_not_delay_the_head(policy: str) -> None:
    queue = come(1, job(3, 60)), come(2, job(4, 10), at=1), come(3, job(1, 59.5), at=2)
    outcome = replay(scenario(*queue, policy=policy), bursting=False)
    assert starts(outcome) == {1: 0, 2: 60, 3: 70}


def test_easy_may_delay_the_second_in_line_but_conservative_may_not() -> None:
    # Job 2 holds nodes 1-3 from minute 60, job 3 node 0 and others from 70; job 4 of 90 min fits
    # beside job 2 on the node that job 3 counts on.
    queue = (
        come(1, job(3, 60)),
        come(2, job(3, 10), at=1),
        come(3, job(4, 10), at=2),
        come(4, job(1, 90), at=3),
    )
    easy = replay(scenario(*queue, policy="easy"), bursting=False)
    assert starts(easy) == {1: 0, 2: 60, 3: 93, 4: 3}
    conservative = replay(scenario(*queue, policy="conservative"), bursting=False)
    assert starts(conservative) == {1: 0, 2: 60, 3: 70, 4: 80}


def test_backfill_looks_no_further_than_the_queue_depth() -> None:
    outcome = replay(small_behind_large(policy="easy", queue_depth=1), bursting=False)
    assert starts(outcome)[3] == 70


def test_higher_priority_goes_first_though_it_came_later() -> None:
    queue = come(1, job(4, 60)), come(2, job(4, 10), at=1), come(3, job(4, 10), at=2, priority=20)
    assert starts(replay(scenario(*queue), bursting=False)) == {1: 0, 2: 70, 3: 60}


def test_job_that_ends_early_makes_room_at_once() -> None:
    queue = come(1, job(4, 60), takes=20), come(2, job(4, 10), at=1)
    assert starts(replay(scenario(*queue), bursting=False)) == {1: 0, 2: 20}


def test_job_that_runs_already_holds_its_nodes_until_its_expiration() -> None:
    given = scenario(come(2, job(4, 10)), running=[holding(1, 1, end=30)])
    outcome = replay(given, bursting=False)
    assert starts(outcome) == {1: -1, 2: 30}
    assert record(outcome, 1).end_s == 30 * M
    assert record(outcome, 1).running_before
    figures = summary(outcome)
    assert (figures["jobs_finished"], figures["mean_wait_s"]) == (1, 30 * M)


def test_job_without_a_time_limit_keeps_its_nodes_for_ever() -> None:
    queue = come(1, job(4, 0), at=5), come(2, job(1, 10), at=6)
    outcome = replay(scenario(*queue), bursting=False)
    assert starts(outcome) == {1: 5, 2: None}
    assert record(outcome, 1).end_s is None
    figures = summary(outcome)
    assert (figures["jobs_finished"], figures["jobs_unfinished"]) == (0, 2)
    timeline(scenario(*queue), outcome, outcome)  # a bar that never ends has an end all the same


def test_job_without_a_time_limit_ends_when_its_runtime_says() -> None:
    queue = come(1, job(4, 0), takes=15), come(2, job(1, 10), at=1)
    assert starts(replay(scenario(*queue), bursting=False)) == {1: 0, 2: 15}


def test_job_that_could_never_start_is_refused_and_holds_nobody_up() -> None:
    queue = come(1, job(5, 10)), come(2, job(4, 10), at=1)
    for bursting in (False, True):
        outcome = replay(scenario(*queue), bursting=bursting)
        assert starts(outcome) == {1: None, 2: 1}
        assert record(outcome, 1).refused
        assert summary(outcome)["jobs_refused"] == 1


def test_horizon_ends_the_replay_in_the_middle() -> None:
    queue = come(1, job(4, 60)), come(2, job(4, 60)), come(3, job(1, 1), at=200)
    outcome = replay(scenario(*queue, horizon=90 * M), bursting=False)
    assert outcome.end_s == 90 * M
    assert starts(outcome) == {1: 0, 2: 60}  # job 3 has not come yet
    figures = summary(outcome)
    assert (figures["jobs_finished"], figures["jobs_unfinished"]) == (1, 1)
    assert figures["local_node_hours"] == 4 * 1.5


def test_node_that_several_jobs_share_is_busy_once() -> None:
    queue = [come(i, job(0, 60, cores=2)) for i in (1, 2)]
    outcome = replay(scenario(*queue), bursting=False)
    assert [one.nodes for one in outcome.records] == [("node0",), ("node0",)]
    assert [one.share for one in outcome.records] == [0.5, 0.5]
    assert summary(outcome)["local_node_hours"] == 1.0


def test_progress_counts_every_job_once() -> None:
    told: list[tuple[int, int]] = []
    queue = come(1, job(4, 10)), come(2, job(9, 10)), come(3, job(4, 10))
    given = scenario(*queue, running=[holding(9, 1, end=1)])
    replay(given, bursting=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# -- bursting -------------------------------------------------------------------------------------


def test_burst_costs_its_nodes_for_boot_run_and_idling() -> None:
    queue = come(1, job(4, 600)), come(2, job(2, 30, burstable=True))
    outcome = replay(scenario(*queue), bursting=True)
    assert starts(outcome) == {1: 0, 2: 6}
    (burst,) = outcome.bursts
    assert (burst.requested_s, burst.ended_s) == (0, BOOT + 30 * M + IDLE)
    figures = summary(outcome)
    assert figures["cost_usd"] == pytest.approx(2 * PRICE * (6 + 30 + 5) / 60)
    assert figures["rented_node_hours"] == pytest.approx(2 * (6 + 30 + 5) / 60, abs=1e-3)
    assert record(outcome, 2).nodes == ("burst-0-0", "burst-0-1")
    assert record(outcome, 2).where == "burst-0"


def test_idling_is_paid_though_no_job_is_left() -> None:
    outcome = replay(scenario(come(1, job(5, 30, burstable=True))), bursting=True)
    assert summary(outcome)["cost_usd"] == pytest.approx(5 * PRICE * (6 + 30 + 5) / 60)
    assert outcome.end_s == (6 + 30 + 5) * M
    assert summary(outcome)["makespan_s"] == (6 + 30) * M


def test_burst_that_runs_at_the_horizon_is_paid_until_then() -> None:
    queue = come(1, job(4, 600)), come(2, job(1, 300, burstable=True))
    outcome = replay(scenario(*queue, horizon=60 * M), bursting=True)
    assert outcome.bursts[0].ended_s is None
    assert summary(outcome)["cost_usd"] == pytest.approx(PRICE)


def test_job_that_ends_early_frees_the_burst_for_the_next() -> None:
    queue = (
        come(1, job(4, 600)),
        come(2, job(1, 300, burstable=True), takes=10),  # on the burst from 6 to 16
        come(3, job(1, 60, burstable=True), at=18),  # comes before the nodes are gone at 21
    )
    outcome = replay(scenario(*queue), bursting=True)
    assert len(outcome.bursts) == 1
    assert starts(outcome) == {1: 0, 2: 6, 3: 18}
    assert outcome.bursts[0].ended_s == (18 + 60 + 5) * M
    assert outcome.bursts[0].jobs == [2, 3]


def test_nodes_that_idled_for_their_time_are_gone_for_the_next() -> None:
    queue = (
        come(1, job(4, 600)),
        come(2, job(1, 10, burstable=True)),  # on the burst from 6 to 16, gone at 21
        come(3, job(1, 60, burstable=True), at=21),
    )
    outcome = replay(scenario(*queue), bursting=True)
    assert [one.ended_s for one in outcome.bursts] == [21 * M, (21 + 6 + 60 + 5) * M]
    assert starts(outcome)[3] == 27


def test_two_jobs_are_packed_on_one_rented_node() -> None:
    queue = [come(1, job(4, 600))]
    queue += [come(i, job(0, 30, cores=4, burstable=True)) for i in (2, 3)]
    outcome = replay(scenario(*queue), bursting=True)
    assert [(one.order.nodes, one.jobs) for one in outcome.bursts] == [(1, [2, 3])]
    assert [record(outcome, i).nodes for i in (2, 3)] == [("burst-0-0",), ("burst-0-0",)]
    assert [record(outcome, i).share for i in (2, 3)] == [0.5, 0.5]
    assert starts(outcome) == {1: 0, 2: 6, 3: 6}


def test_job_that_may_not_burst_waits_while_the_one_behind_it_bursts() -> None:
    queue = come(1, job(4, 600)), come(2, job(1, 10)), come(3, job(1, 10, burstable=True))
    assert starts(replay(scenario(*queue), bursting=True)) == {1: 0, 2: 600, 3: 6}


def test_place_here_of_a_job_that_bursts_goes_to_the_one_behind_it() -> None:
    # Job 2 wants all nodes and blocks job 3 in a fcfs queue, until it leaves for rented ones.
    queue = come(1, job(3, 600)), come(2, job(4, 60, burstable=True)), come(3, job(1, 10))
    assert starts(replay(scenario(*queue), bursting=False))[3] == 660
    assert starts(replay(scenario(*queue), bursting=True)) == {1: 0, 2: 6, 3: 0}


def test_job_too_large_for_here_waits_for_a_burst() -> None:
    outcome = replay(scenario(come(1, job(5, 30, burstable=True))), bursting=True)
    assert starts(outcome) == {1: 6}
    assert not record(outcome, 1).refused
    assert replay(scenario(come(1, job(5, 30, burstable=True))), bursting=False).records[0].refused


def test_job_stays_where_the_wait_is_within_the_threshold() -> None:
    queue = come(1, job(4, 30)), come(2, job(4, 10, burstable=True))
    outcome = replay(scenario(*queue, threshold=40 * M), bursting=True)
    assert (starts(outcome)[2], outcome.bursts) == (30, ())
    assert [decision.verdict for _, decision in outcome.decisions] == ["stay"]


def test_limit_on_nodes_defers_a_job_until_a_burst_is_over() -> None:
    queue = (
        come(1, job(4, 6000)),
        come(2, job(1, 30, burstable=True)),
        come(3, job(2, 30, burstable=True)),
    )
    outcome = replay(scenario(*queue, limits={"nodes": 2}), bursting=True)
    assert starts(outcome) == {1: 0, 2: 6, 3: (6 + 30 + 5) + 6}
    verdicts = [(at / M, one.job.jobid, one.verdict) for at, one in outcome.decisions]
    assert verdicts == [(0, 2, "burst"), (0, 3, "deferred"), (41, 3, "burst")]


def test_budget_is_free_again_when_its_period_has_passed() -> None:
    # The budget allows one such burst in 10 h; job 2 comes when the nodes of the first are gone.
    queue = come(1, job(5, 1, burstable=True)), come(2, job(5, 1, burstable=True), at=13)
    once = 5 * PRICE * (6 + 1 + 5) / 60
    limits = {"budget": once * 1.5, "period": "10h"}
    outcome = replay(scenario(*queue, limits=limits), bursting=True)
    first, second = outcome.bursts
    assert first.ended_s == 12 * M
    # Nothing else happens in the queue, and still the job is looked at when the money is there.
    assert second.requested_s == 12 * M + 10 * 3600
    assert starts(outcome)[2] == 12 + 600 + 6


def test_what_a_burst_before_the_period_cost_is_forgotten_and_no_more() -> None:
    queue = [come(i, job(5, 1, burstable=True), at=20 * (i - 1)) for i in (1, 2, 3)]
    once = 5 * PRICE * (6 + 1 + 5) / 60
    limits = {"budget": once * 2.5, "period": "1h"}
    outcome = replay(scenario(*queue, limits=limits), bursting=True)
    requested = [one.requested_s / M for one in outcome.bursts]
    assert requested == [0, 20, 12 + 60]


def test_job_without_a_time_limit_is_never_rented_for() -> None:
    queue = come(1, job(4, 60)), come(2, job(4, 0, burstable=True), takes=10)
    outcome = replay(scenario(*queue), bursting=True)
    assert (starts(outcome)[2], outcome.bursts) == (60, ())
    assert outcome.decisions[0][1].verdict == "impossible"


def test_verdict_is_kept_when_it_changes_and_not_repeated() -> None:
    queue = [come(1, job(4, 60)), come(2, job(4, 30, burstable=True), at=1)]
    queue += [come(i, job(4, 1), at=i) for i in range(3, 9)]
    outcome = replay(scenario(*queue, threshold="2h"), bursting=True)
    assert [one.job.jobid for _, one in outcome.decisions] == [2]


def test_timeline_has_a_row_for_every_node_and_a_bar_for_every_job() -> None:
    queue = come(1, job(4, 600)), come(2, job(2, 30, burstable=True))
    given = scenario(*queue)
    outcome = replay(given, bursting=True)
    drawn = timeline(given, replay(given, bursting=False), outcome)
    assert [row.name for row in drawn.rows] == [
        "node0", "node1", "node2", "node3", "burst-0-0", "burst-0-1",
    ]  # fmt: skip
    rented = drawn.rows[-1]
    assert (rented.rented, rented.boot_from_s, rented.up_from_s) == (True, 0, BOOT)
    assert rented.up_until_s == BOOT + 30 * M + IDLE
    assert [(bar.job, bar.rented) for bar in drawn.bars] == [("ƒ2", False), ("ƒ3", True)]
    assert "1 bursts" in drawn.subtitle
    assert not any(math.isinf(bar.end_s) for bar in drawn.bars)
