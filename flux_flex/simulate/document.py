"""Reports for programs: the JSON documents of ``simulate`` and ``plan``, version 1.

Their keys are described in docs/json.md. Times are seconds after the start, rounded to the
millisecond; money is US dollars, rounded to a hundredth of a cent; what never happens is null.
The same scenario always gives the same bytes.
"""

from __future__ import annotations

import math

import numpy as np

from flux_flex.burst.decide import Alternative, Decision, Order, Plan
from flux_flex.model.hostlist import format_hostlist
from flux_flex.model.jobid import f58
from flux_flex.simulate.replay import BurstRecord, JobRecord, Outcome
from flux_flex.simulate.scenario import Scenario

SIMULATION = "flux-flex.simulation"
PLAN = "flux-flex.plan"
VERSION = 1

Document = dict[str, object]


def simulation_document(scenario: Scenario, plain: Outcome, burst: Outcome) -> Document:
    """The report on a replay without (``plain``) and with bursting."""
    before = {record.jobid: record for record in plain.records}
    return {
        "format": SIMULATION,
        "version": VERSION,
        "scenario": _scenario(scenario),
        "summary": {"without": summary(plain), "with": summary(burst)},
        "decisions": [_decision(at_s, decision) for at_s, decision in burst.decisions],
        "bursts": [_burst_record(record, burst.end_s) for record in burst.bursts],
        "jobs": [_job(record, before[record.jobid], scenario) for record in burst.records],
    }


def plan_document(scenario: Scenario, plan: Plan) -> Document:
    """The report on one decision."""
    return {
        "format": PLAN,
        "version": VERSION,
        "scenario": _scenario(scenario),
        "decisions": [_decision(0.0, decision) for decision in plan.decisions],
        "bursts": [_order(order) for order in plan.orders],
    }


def summary(outcome: Outcome) -> Document:
    """The figures by which two replays are compared.

    Waits are of the jobs of the queue that started; ``makespan_s`` is when the last job ended.
    ``local_node_hours`` count the time in which a node of the system ran something,
    ``rented_node_hours`` the time for which nodes were paid.
    """
    queued = [record for record in outcome.records if not record.running_before]
    waits = [r.start_s - r.submitted_s for r in queued if r.start_s is not None]
    ends = [record.end_s for record in outcome.records if record.end_s is not None]
    paid_s = sum(record.order.nodes * record.paid_s(outcome.end_s) for record in outcome.bursts)
    return {
        "makespan_s": _seconds(max(ends, default=0.0)),
        "mean_wait_s": _seconds(sum(waits) / len(waits)) if waits else None,
        "max_wait_s": _seconds(max(waits)) if waits else None,
        "local_node_hours": round(_busy_s(outcome) / 3600, 3),
        "rented_node_hours": round(paid_s / 3600, 3),
        "cost_usd": _usd(cost_usd(outcome)),
        "jobs_finished": sum(record.end_s is not None for record in queued),
        "jobs_unfinished": sum(record.end_s is None and not record.refused for record in queued),
        "jobs_refused": sum(record.refused for record in queued),
        "bursts": len(outcome.bursts),
    }


def cost_usd(outcome: Outcome) -> float:
    """What all bursts have cost, in dollars."""
    return sum(record.cost_usd(outcome.end_s) for record in outcome.bursts)


def _busy_s(outcome: Outcome) -> float:
    """Node-seconds in which local nodes ran something, overlaps on one node counted once."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for record in outcome.records:
        if record.start_s is not None and not record.where:
            end_s = outcome.end_s if record.end_s is None else record.end_s
            for node in record.nodes:
                spans.setdefault(node, []).append((max(0.0, record.start_s), end_s))
    return sum(_covered(found) for found in spans.values())


def _covered(spans: list[tuple[float, float]]) -> float:
    ordered = np.array(sorted(spans))
    reached = np.maximum.accumulate(np.concatenate(([0.0], ordered[:-1, 1])))
    return float(np.maximum(0.0, ordered[:, 1] - np.maximum(ordered[:, 0], reached)).sum())


def _scenario(scenario: Scenario) -> Document:
    graph = scenario.graph
    return {
        "name": scenario.name,
        "epoch_s": _seconds(scenario.epoch_s),
        "nodes": len(graph.once(graph.of_type("node"))),
        "cores": graph.total("core"),
        "gpus": graph.total("gpu"),
        "running": len(scenario.running),
        "submissions": len(scenario.submissions),
        "queue_policy": scenario.queue_policy,
        "match_policy": scenario.match_policy,
        "horizon_s": None if scenario.horizon_s is None else _seconds(scenario.horizon_s),
    }


def _decision(at_s: float, decision: Decision) -> Document:
    job, chosen = decision.job, decision.chosen
    return {
        "at_s": _seconds(at_s),
        "jobid": f58(job.jobid),
        "id": job.jobid,
        "name": job.jobspec.name,
        "user": job.user,
        "burstable": job.jobspec.burstable,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "submitted_s": _seconds(job.submitted_s),
        "start_here_s": _seconds(decision.local_start_s),
        "start_there_s": _seconds(chosen.start_s) if chosen else None,
        "flux_estimate_s": _seconds(job.flux_start_s),
        "chosen": _alternative(chosen) if chosen else None,
        "alternatives": [_alternative(one) for one in decision.alternatives],
    }


def _alternative(one: Alternative) -> Document:
    return {
        "provider": one.provider,
        "type": one.type,
        "burst": one.burst,
        "nodes": one.nodes,
        "new_nodes": one.new_nodes,
        "start_s": _seconds(one.start_s),
        "cost_usd": _usd(one.cost_usd),
        "cost_per_hour_usd": _usd(one.cost_per_hour_usd),
        "rejected": one.rejected,
    }


def _order(order: Order) -> Document:
    return {
        "burst": order.burst,
        "provider": order.provider,
        "type": order.node_type.name,
        "nodes": order.nodes,
        "cost_per_hour_usd": _usd(order.nodes * order.node_type.price_per_hour_usd),
        "ready_s": _seconds(order.ready_s),
        "jobs": [f58(placed.job.jobid) for placed in order.placed],
    }


def _burst_record(record: BurstRecord, end_s: float) -> Document:
    return {
        **_order(record.order),
        "requested_s": _seconds(record.requested_s),
        "ended_s": _seconds(record.ended_s),
        "cost_usd": _usd(record.cost_usd(end_s)),
        "jobs": [f58(jobid) for jobid in record.jobs],
    }


def _job(record: JobRecord, before: JobRecord, scenario: Scenario) -> Document:
    return {
        "jobid": f58(record.jobid),
        "id": record.jobid,
        "name": record.name,
        "user": record.user,
        "submitted_s": _seconds(record.submitted_s),
        "start_s": _seconds(record.start_s),
        "end_s": _seconds(record.end_s),
        "burst": record.where,
        "nodes": format_hostlist(record.nodes),
        "mean_hops": _mean_hops(record, scenario),
        "refused": record.refused,
        "without": {"start_s": _seconds(before.start_s), "end_s": _seconds(before.end_s)},
    }


def _mean_hops(record: JobRecord, scenario: Scenario) -> float | None:
    """Mean network hops between two nodes of a job here, where the topology is known."""
    if scenario.network is None or record.where or len(record.nodes) < 2:
        return None
    known = set(scenario.network.hosts)
    if not known.issuperset(record.nodes):
        return None
    return round(scenario.network.span(record.nodes).mean_hops, 3)


def _seconds(value: float | None) -> float | None:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return None if value is None or math.isinf(value) else round(value, 3) + 0.0


def _usd(value: float) -> float:
    return round(value, 4) + 0.0
