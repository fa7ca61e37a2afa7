"""The timeline of an outcome: which node ran what when, for the picture."""

from __future__ import annotations

from flux_flex.model.duration import format_duration
from flux_flex.model.jobid import f58
from flux_flex.model.money import format_usd
from flux_flex.simulate.document import cost_usd, summary
from flux_flex.simulate.replay import BurstRecord, Outcome
from flux_flex.simulate.scenario import Scenario
from flux_flex.simulate.timeline_svg import JobBar, NodeRow, Timeline


def timeline(scenario: Scenario, plain: Outcome, burst: Outcome) -> Timeline:
    """Nodes and jobs of the replay with bursting; ``plain`` is only told in the subtitle."""
    end_s = burst.end_s
    bars = tuple(
        JobBar(
            job=f58(record.jobid),
            name=record.name,
            start_s=record.start_s,
            end_s=end_s if record.end_s is None else record.end_s,
            nodes=record.nodes,
            rented=bool(record.where),
            share=record.share,
            running_before=record.running_before,
        )
        for record in burst.records
        if record.start_s is not None
    )
    rows = [*_local_rows(scenario, end_s)]
    for record in burst.bursts:
        rows += _rented_rows(record, end_s)
    return Timeline(
        title=scenario.name,
        subtitle=_subtitle(plain, burst),
        rows=tuple(rows),
        bars=bars,
        end_s=end_s,
    )


def _local_rows(scenario: Scenario, end_s: float) -> list[NodeRow]:
    graph = scenario.graph
    nodes = sorted(graph.once(graph.of_type("node")).tolist(), key=lambda v: int(graph.rank[v]))
    return [NodeRow(graph.names[v], False, "local", 0.0, end_s, None) for v in nodes]


def _rented_rows(record: BurstRecord, end_s: float) -> list[NodeRow]:
    order = record.order
    until_s = end_s if record.ended_s is None else record.ended_s
    group = f"{order.burst} · {order.nodes} x {order.node_type.name}"
    ready_s = min(order.ready_s, until_s)
    return [
        NodeRow(f"{order.burst}-{i}", True, group, ready_s, until_s, record.requested_s)
        for i in range(order.nodes)
    ]


def _subtitle(plain: Outcome, burst: Outcome) -> str:
    figures = summary(burst)
    return (
        f"all jobs done in {_time(burst)} instead of {_time(plain)}, "
        f"{figures['bursts']} bursts, {format_usd(cost_usd(burst))}"
    )


def _time(outcome: Outcome) -> str:
    makespan = summary(outcome)["makespan_s"]
    return format_duration(makespan) if isinstance(makespan, float) else "never"
