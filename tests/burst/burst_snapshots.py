"""Snapshots in ten lines: jobs, node types, systems and rented bursts for the tests of decide.

The usual node type costs 3.60 dollars an hour, a tenth of a cent for each second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig, parse_burst_config
from flux_flex.burst.decide import Decision, Plan, QueuePolicy, Rented, Snapshot
from flux_flex.burst.market import rented_graph
from flux_flex.burst.select import PendingJob
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jobspec import Jobspec, parse_jobspec

HOUR = 3600.0
BOOT, IDLE, THRESHOLD = 360.0, 300.0, 600.0


def spec(
    nodes: Any = 0,
    slots: Any = 1,
    cores: int = 1,
    gpus: int = 0,
    duration: float = HOUR,
    burstable: bool = True,
    exclusive: bool = False,
    constraint: object = None,
    resources: object = None,
) -> Jobspec:
    """A jobspec: ``slots`` slots of cores and gpus, on each of ``nodes`` nodes where not 0."""
    inside = [{"type": "core", "count": cores}]
    inside += [{"type": "gpu", "count": gpus}] if gpus else []
    top: dict[str, Any] = {"type": "slot", "count": slots, "label": "task", "with": inside}
    if nodes:
        top = {"type": "node", "count": nodes, "with": [top]}
        if exclusive:
            top["exclusive"] = True
    system: dict[str, object] = {"duration": duration, "burstable": burstable}
    if constraint:
        system["constraints"] = constraint
    return parse_jobspec(
        {
            "version": 1,
            "resources": resources or [top],
            "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": system},
        }
    )


def job(
    jobid: int,
    nodes: Any = 0,
    *,
    user: str = "ann",
    priority: int = 16,
    submitted: float = 0.0,
    **asks: Any,
) -> PendingJob:
    return PendingJob(jobid, spec(nodes, **asks), user, priority, submitted)


def node_type(name: str = "std", cores: int = 8, price: float = 3.6, **figures: Any) -> NodeType:
    shape = {"vcpus": cores, "gpus": 0, "memory_gib": 32.0, "network_gbps": 10.0, **figures}
    return NodeType(name=name, cores=cores, price_per_hour_usd=price, **shape)


def provider(name: str, *types: NodeType, boot: float = BOOT) -> dict[str, object]:
    return {"name": name, "boot": boot, "types": types}


def config(
    *types: NodeType,
    limits: dict[str, object] | None = None,
    providers: Sequence[dict[str, object]] = (),
    **keys: object,
) -> BurstConfig:
    """A configuration with one provider of ``types``, or with ``providers``."""
    document: dict[str, object] = {
        "threshold": THRESHOLD,
        "idle_timeout": IDLE,
        "limits": limits or {},
        "providers": list(providers) or [provider("eks", *(types or (node_type(),)))],
    }
    return parse_burst_config({**document, **keys})


def system(
    nodes: int = 2, cores: int = 8, gpus: int = 0, *, held_until: float = 2 * HOUR
) -> EmbeddedMatcher:
    """A local system of which one job holds all nodes until ``held_until``; 0: nobody does."""
    matcher = EmbeddedMatcher(uniform_graph(nodes, cores, gpus))
    if held_until:
        hold(matcher, 9000, nodes, held_until)
    return matcher


def hold(matcher: EmbeddedMatcher, jobid: int, nodes: int, until: float, start: float = 0) -> None:
    """Hold whole nodes, the first that are free."""
    duration = 0.0 if until == float("inf") else until - start
    matcher.allocate(spec(nodes, exclusive=True, duration=duration), jobid, start)


def rented(
    burst: str = "burst-0",
    nodes: int = 1,
    kind: NodeType | None = None,
    *,
    ready: float = 0.0,
    running: Sequence[tuple[int, int, float]] = (),
    user: str = "ann",
    prov: str = "eks",
) -> Rented:
    """A burst with ``running`` jobs: (id, whole nodes, end)."""
    kind = kind or node_type()
    matcher = EmbeddedMatcher(rented_graph(kind, nodes), "lonode")
    for jobid, count, end in running:
        hold(matcher, jobid, count, end, ready)
    busy_until = max((end for _, _, end in running), default=ready)
    return Rented(burst, prov, kind, nodes, 0.0, ready, busy_until, user, matcher)


def snapshot(
    *pending: PendingJob,
    local: EmbeddedMatcher | None = None,
    setup: BurstConfig | None = None,
    bursts: Sequence[Rented] = (),
    spent: float = 0.0,
    policy: QueuePolicy = "fcfs",
    now: float = 0.0,
    next_burst: int = 0,
) -> Snapshot:
    return Snapshot(
        now_s=now,
        local=local or system(),
        pending=pending,
        rented=bursts,
        spent_usd=spent,
        config=setup or config(),
        queue_policy=policy,
        next_burst=next_burst,
    )


def verdicts(plan: Plan) -> dict[int, str]:
    return {one.job.jobid: one.verdict for one in plan.decisions}


def of(plan: Plan, jobid: int) -> Decision:
    return next(one for one in plan.decisions if one.job.jobid == jobid)
