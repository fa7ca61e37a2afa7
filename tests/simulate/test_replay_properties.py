"""What is true of every replay, looked at by a bookkeeper who shares no code with it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flux_flex.burst.config import parse_burst_config
from flux_flex.match import Match
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.simulate import replay as module
from flux_flex.simulate.document import summary
from flux_flex.simulate.replay import BurstRecord, Outcome, replay
from flux_flex.simulate.scenario import Scenario
from flux_flex.simulate.submissions import Submission

POLICIES = ("fcfs", "easy", "conservative")
CORES = 4
SEEDS = range(40)


def job(rng: random.Random) -> Jobspec:
    core: dict[str, Any] = {"type": "core", "count": 1}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    if rng.random() < 0.5:
        nodes = rng.choice([1, 1, 2, 3, 4, 6])
        exclusive = rng.random() < 0.7
        resources = [{"type": "node", "count": nodes, "exclusive": exclusive, "with": [slot]}]
    else:
        resources = [{**slot, "count": rng.choice([1, 2, 3, 5, 8, 20])}]
    minutes = rng.choice([1, 5, 10, 30, 30, 60, 120, 0 if rng.random() < 0.2 else 7])
    system = {"duration": minutes * 60.0, "burstable": int(rng.random() < 0.5)}
    return parse_jobspec({"version": 1, "resources": resources, "attributes": {"system": system}})


def scenario(seed: int) -> Scenario:
    rng = random.Random(seed)
    now, queue = 0.0, []
    for jobid in range(1, rng.randint(2, 40)):
        spec = job(rng)
        now += rng.choice([0, 0, 60, 300, rng.uniform(0, 1200)])
        limit_s = spec.duration_s or 1800.0
        runtime_s = limit_s * rng.choice([1.0, 1.0, 0.5, 0.1, 0.0])
        user, priority = rng.choice("abc"), rng.choice([16, 16, 16, 20, 5])
        queue.append(Submission(jobid, spec, user, priority, now, runtime_s))
    limits: dict[str, Any] = {"period": rng.choice([1800, 7200, 86400])}
    if rng.random() < 0.6:
        limits["nodes"] = rng.choice([0, 1, 2, 5, 9])
    if rng.random() < 0.6:
        limits["budget"] = rng.choice([0.0, 1.0, 5.0, 20.0])
    if rng.random() < 0.6:
        limits["cost_per_hour"] = rng.choice([0.7, 3.0, 12.0])
    if rng.random() < 0.3:
        limits["per_user"] = rng.choice([1, 3])
    types = [
        {"name": name, "cores": cores, "vcpus": cores, "gpus": 0, "memory_gib": 1,
         "network_gbps": 1, "price_per_hour_usd": price}
        for name, cores, price in (("small", 4, 0.7), ("large", 16, 2.5), ("free", 2, 0.0))
        if name != "free" or rng.random() < 0.2
    ]  # fmt: skip
    burst = {
        "threshold": rng.choice([0, 60, 600]),
        "idle_timeout": rng.choice([0, 60, 300]),
        "depth": rng.choice([1, 3, 32]),
        "limits": limits,
        "providers": [{"name": "p", "boot": rng.choice([0, 120, 360]), "types": types}],
    }
    return Scenario(
        name="random",
        path=Path("random.yaml"),
        graph=uniform_graph(rng.choice([1, 3, 5]), CORES),
        network=None,
        running=(),
        submissions=tuple(queue),
        queue_policy=POLICIES[seed % 3],  # type: ignore[arg-type]
        queue_depth=rng.choice([1, 4, 32]),
        match_policy=rng.choice(["first", "low", "high"]),
        horizon_s=rng.choice([None, None, 3600.0]),
        epoch_s=0.0,
        burst=parse_burst_config(burst),
    )


def recorded(
    given: Scenario, monkeypatch: pytest.MonkeyPatch, *, bursting: bool
) -> tuple[Outcome, dict[int, set[str]]]:
    """The outcome, and which cores each job really was given."""
    held: dict[int, set[str]] = {}

    def share(match: Match) -> float:
        graph = match.graph
        whole = [v for v, (_, exclusive) in match.chosen.items() if exclusive]
        below = {int(v) for top in whole for v in range(top, graph.end[top])}
        held[match.jobid] = {graph.path(v) for v in below if graph.type_name(v) == "core"}
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(module, "_share", share)
        return replay(given, bursting=bursting), held


def moments(outcome: Outcome) -> list[float]:
    """Moments between any two changes, where everything can be looked at."""
    times = {0.0, outcome.end_s}
    for one in outcome.records:
        times |= {time for time in (one.start_s, one.end_s) if time is not None}
    for burst in outcome.bursts:
        times |= {time for time in (burst.requested_s, burst.ended_s) if time is not None}
    return [(a + b) / 2 for a, b in itertools.pairwise(sorted(times))]


def active(bursts: Iterable[BurstRecord], at: float) -> list[BurstRecord]:
    return [
        one for one in bursts if one.requested_s <= at and (one.ended_s is None or at < one.ended_s)
    ]


@pytest.mark.parametrize("bursting", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_core_is_ever_given_to_two_jobs(
    seed: int, bursting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, held = recorded(scenario(seed), monkeypatch, bursting=bursting)
    for at in moments(outcome):
        taken: dict[str, int] = {}
        for one in outcome.records:
            end_s = float("inf") if one.end_s is None else one.end_s
            if one.start_s is None or not one.start_s <= at < end_s:
                continue
            assert held[one.jobid]
            for core in held[one.jobid]:
                other = taken.setdefault(f"{one.where}{core}", one.jobid)
                assert other == one.jobid, f"{core} of {one.where or 'here'} at {at}"


@pytest.mark.parametrize("bursting", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_runs_its_time_or_is_told_as_unfinished_or_refused(
    seed: int, bursting: bool
) -> None:
    given = scenario(seed)
    outcome = replay(given, bursting=bursting)
    seen = {item.jobid for item in given.submissions if item.submitted_s <= outcome.end_s}
    if given.horizon_s is None:
        seen = {item.jobid for item in given.submissions}
    records = {one.jobid: one for one in outcome.records}
    assert records.keys() == seen
    for item in given.submissions:
        one = records.get(item.jobid)
        if one is None:
            continue
        if one.start_s is not None:
            assert one.start_s >= item.submitted_s
            assert one.nodes
        if one.end_s is not None:
            assert one.start_s is not None
            assert one.end_s == one.start_s + item.runtime_s
        if one.refused:
            assert one.start_s is None
        if one.end_s is None and not one.refused and given.horizon_s is None:
            # Only a burst could run it, and none may: it waits to the end.
            assert one.start_s is None
    figures = summary(outcome)
    told = [figures[f"jobs_{word}"] for word in ("finished", "unfinished", "refused")]
    assert sum(told) == len(records)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_jobs_that_fit_here_all_end_in_a_replay_without_horizon(seed: int) -> None:
    given = scenario(seed)
    if given.horizon_s is not None:
        return
    for one in replay(given, bursting=False).records:
        assert one.refused or one.end_s is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_no_limit_is_exceeded_at_any_moment(seed: int) -> None:
    given = scenario(seed)
    limits = given.burst.limits
    outcome = replay(given, bursting=True)
    for at in moments(outcome):
        rented = active(outcome.bursts, at)
        nodes = sum(one.order.nodes for one in rented)
        hourly = sum(one.order.nodes * one.order.node_type.price_per_hour_usd for one in rented)
        assert limits.nodes is None or nodes <= limits.nodes
        assert limits.cost_per_hour is None or hourly <= limits.cost_per_hour + 1e-3
    if limits.budget is not None:
        for until in [*moments(outcome), outcome.end_s]:
            since = until - limits.period
            spent = sum(
                cost_within(one, since, min(until, outcome.end_s)) for one in outcome.bursts
            )
            assert spent <= limits.budget + 0.005


def cost_within(one: BurstRecord, since: float, until: float) -> float:
    """Dollars for the part of a burst that lies in a window."""
    end = until if one.ended_s is None else min(one.ended_s, until)
    seconds = max(0.0, end - max(one.requested_s, since))
    return one.order.nodes * one.order.node_type.price_per_hour_usd * seconds / 3600


@pytest.mark.parametrize("seed", SEEDS)
def test_money_and_hours_of_the_summary_are_those_of_the_bursts(seed: int) -> None:
    given = scenario(seed)
    outcome = replay(given, bursting=True)
    figures = summary(outcome)
    bursts = outcome.bursts
    cost = sum(cost_within(one, 0.0, outcome.end_s) for one in bursts)
    hours = sum(
        one.order.nodes
        * ((outcome.end_s if one.ended_s is None else one.ended_s) - one.requested_s)
        for one in bursts
    )
    assert figures["cost_usd"] == pytest.approx(cost, abs=1e-3)
    assert figures["rented_node_hours"] == pytest.approx(hours / 3600, abs=2e-3)
    ran = {one.jobid: one for one in outcome.records}
    for burst in bursts:
        ends = [ran[jobid].end_s for jobid in burst.jobs]
        for jobid in burst.jobs:
            start_s = ran[jobid].start_s
            if start_s is not None:  # it may still boot at the horizon
                assert ran[jobid].where == burst.order.burst
                assert start_s >= burst.order.ready_s
        if burst.ended_s is not None:
            # Its last job and then the whole time-out, no more and no less.
            idle_s = burst.ended_s - max(end for end in ends if end is not None)
            assert idle_s == pytest.approx(given.burst.idle_timeout, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_skipping_decisions_that_nothing_changed_changes_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = scenario(seed)
    told = replay(given, bursting=True)
    monkeypatch.setattr(module._Replay, "_looked_at", lambda self: object())
    always = replay(given, bursting=True)
    assert (always.records, always.end_s) == (told.records, told.end_s)
    assert deeds(always) == deeds(told)


def deeds(outcome: Outcome) -> tuple[object, ...]:
    """All that was rented, and why. That a deferred job may as well stay is told when something
    else happens, and changes nothing."""
    bursts = [
        (b.order.burst, b.requested_s, b.ended_s, b.order.nodes, b.jobs, b.order.node_type)
        for b in outcome.bursts
    ]
    reasons = [(at, one) for at, one in outcome.decisions if one.verdict == "burst"]
    return bursts, reasons


def test_random_scenarios_reach_what_they_are_for() -> None:
    """Were the scenarios all trivial, the claims above would hold of anything."""
    outcomes = [replay(scenario(seed), bursting=True) for seed in SEEDS]
    verdicts = {one.verdict for outcome in outcomes for _, one in outcome.decisions}
    assert verdicts == {"stay", "burst", "deferred", "impossible"}
    assert any(len(burst.jobs) > 2 for outcome in outcomes for burst in outcome.bursts)
    assert sum(len(outcome.bursts) for outcome in outcomes) > 40
    assert any(one.refused for outcome in outcomes for one in outcome.records)
