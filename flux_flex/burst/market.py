"""What could be rented for a job: the match on nodes that do not exist yet.

The same matcher that places jobs here is asked on a graph of rented nodes, so "how many nodes
would it take" and "how would it run there" are one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.select import PendingJob
from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.graph import ResourceGraph, uniform_graph
from flux_flex.model.jobspec import Jobspec, Resource

# What a rented node is described by. Other types in a jobspec cannot be rented for.
RENTED_TYPES = frozenset({"cluster", "node", "core", "gpu", "slot"})


# No single rental is larger than this: placing a job on more nodes would take too long.
MAX_NODES = 4096


@lru_cache(maxsize=512)
def rented_graph(node_type: NodeType, nodes: int, prefix: str = "node") -> ResourceGraph:
    """The graph of ``nodes`` equal nodes of a type, named ``<prefix>-0`` and so on."""
    return uniform_graph(
        nodes,
        node_type.cores,
        node_type.gpus,
        prefix=f"{prefix}-",
        properties=(*node_type.properties, node_type.name),
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """One job on rented nodes: when it runs there, in seconds on the common clock."""

    job: PendingJob
    start_s: float
    end_s: float
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packing:
    """Jobs packed together on ``nodes`` equal nodes that are ready at ``ready_s``."""

    nodes: int
    placed: tuple[Placed, ...]

    @property
    def end_s(self) -> float:
        return max(job.end_s for job in self.placed)


@lru_cache(maxsize=8192)
def nodes_for(jobspec: Jobspec, node_type: NodeType, most: int) -> int | None:
    """The fewest nodes of a type that the job takes, or None where ``most`` are too few."""
    nodes = min(at_least(jobspec, node_type), most)
    while True:
        used = _used(jobspec, node_type, nodes)
        if used is not None:
            return used
        if nodes >= most:
            return None
        nodes = min(2 * nodes, most)


def alone(job: PendingJob, node_type: NodeType, ready_s: float) -> Packing:
    """One job on nodes of its own from ``ready_s``; it must fit the type (see ``misfit``)."""
    nodes, placed = _alone(job.jobspec, node_type)
    end_s = ready_s + job.jobspec.duration_s
    return Packing(nodes, (Placed(job, ready_s, end_s, placed),))


@lru_cache(maxsize=8192)
def _alone(jobspec: Jobspec, node_type: NodeType) -> tuple[int, tuple[int, ...]]:
    """The nodes that a job takes, and the numbers of those that it runs on."""
    nodes = nodes_for(jobspec, node_type, MAX_NODES) or 0
    match = EmbeddedMatcher(rented_graph(node_type, nodes), "first").allocate(jobspec)
    return nodes, tuple(node_numbers(match.graph, match.nodes))


def pack(jobs: Sequence[PendingJob], node_type: NodeType, ready_s: float) -> Packing:
    """All of ``jobs`` at once, in their order, each starting at ``ready_s``.

    The nodes are as many as the matcher uses. Every job must fit the type (see ``misfit``).
    """
    room = sum(_alone(job.jobspec, node_type)[0] for job in jobs)
    matcher = EmbeddedMatcher(rented_graph(node_type, room), "first")
    matcher.advance(ready_s)
    placed = []
    for job in jobs:
        match = matcher.allocate(job.jobspec, job.jobid, ready_s)
        end_s = match.at + job.jobspec.duration_s
        placed.append(Placed(job, match.at, end_s, tuple(node_numbers(match.graph, match.nodes))))
    used = max(max(job.nodes) for job in placed) + 1
    return Packing(used, tuple(placed))


def node_numbers(graph: ResourceGraph, nodes: Sequence[int]) -> list[int]:
    """0 for the first node of a rented graph, and so on."""
    return [int(graph.rank[node]) for node in nodes]


@lru_cache(maxsize=8192)
def misfit(jobspec: Jobspec, node_type: NodeType, efa_from_nodes: int) -> str:
    """Why a job cannot run on any number of nodes of a type, in a few words; empty if it can."""
    for item in jobspec.resources:
        for asked in item.walk():
            if asked.type not in RENTED_TYPES:
                return f"wants a {asked.type}, rented nodes are described by cores and gpus"
    properties = (*node_type.properties, node_type.name)
    if jobspec.constraint and not jobspec.constraint.matches(properties, "node-0", 0):
        return f"wants {jobspec.constraint.describe()}"
    for kind, has in (("core", node_type.cores), ("gpu", node_type.gpus)):
        wants = max(_within_one_node(item, kind) for item in jobspec.resources)
        if wants > has:
            return f"wants {wants} {kind}{'s' * (wants > 1)} on a node, it has {has}"
    if efa_from_nodes and not node_type.efa and nodes_asked(jobspec) >= efa_from_nodes:
        return f"no EFA, which jobs of {efa_from_nodes} nodes or more need"
    # The bounds above are about one node. What is left, such as slots that do not pack, the
    # matcher knows.
    few = at_least(jobspec, node_type)
    if few > MAX_NODES or nodes_for(jobspec, node_type, 2 * few):
        return ""
    return "does not fit its nodes"


def nodes_asked(jobspec: Jobspec) -> int:
    """How many nodes a jobspec names; 0 where it only asks for slots of cores."""

    def count(item: Resource) -> int:
        below = sum(count(child) for child in item.children)
        return item.count.least * (1 if item.type == "node" else below)

    return sum(count(item) for item in jobspec.resources)


def _within_one_node(item: Resource, kind: str) -> int:
    """How much of a type one node has to have: below a node all of it, else what one slot holds."""

    def inside(item: Resource) -> int:
        own = item.count.least if item.type == kind else 0
        return own + item.count.least * sum(inside(child) for child in item.children)

    if item.type == "node" or (item.is_slot and not _names_node(item)):
        return sum(inside(child) for child in item.children)
    if item.type == kind:
        return 1
    return max((_within_one_node(child, kind) for child in item.children), default=0)


def _names_node(item: Resource) -> bool:
    return any(below.type == "node" for below in item.walk())


def at_least(jobspec: Jobspec, node_type: NodeType) -> int:
    """A lower bound of the nodes needed: by count, and by the sum of cores and gpus."""

    def total(item: Resource, kind: str) -> int:
        own = 1 if item.type == kind else 0
        return item.count.least * (own + sum(total(child, kind) for child in item.children))

    bound = max(1, nodes_asked(jobspec))
    for kind, has in (("core", node_type.cores), ("gpu", node_type.gpus)):
        wants = sum(total(item, kind) for item in jobspec.resources)
        if has and wants:
            bound = max(bound, -(-wants // has))
    return bound


def _used(jobspec: Jobspec, node_type: NodeType, nodes: int) -> int | None:
    matcher = EmbeddedMatcher(rented_graph(node_type, nodes), "first")
    try:
        match = matcher.allocate(jobspec)
    except (Busy, Unsatisfiable):
        return None
    return max(node_numbers(match.graph, match.nodes)) + 1
