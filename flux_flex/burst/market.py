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
from flux_flex.model.constraints import And, Constraint, Not, Or, Ranks
from flux_flex.model.graph import ResourceGraph, uniform_graph
from flux_flex.model.jobspec import Jobspec, Resource

# What a rented node is described by. Other types in a jobspec cannot be rented for.
RENTED_TYPES = frozenset({"cluster", "node", "core", "gpu", "slot"})

# No single rental is larger than this: placing a job on more nodes would take too long.
MAX_NODES = 4096

# So many graphs of up to this many cores and gpus are kept (some 150 bytes for each of them).
_KEPT = 32
_KEPT_SIZE = 20_000
# Answers about so many jobspecs are kept, which may be large.
_KEPT_ANSWERS = 1024


def rented_graph(node_type: NodeType, nodes: int) -> ResourceGraph:
    """The graph of ``nodes`` equal nodes of a type, of ranks 0 and up.

    Each has the type's properties, and the name of the type as one more.
    """
    kept = nodes * (node_type.cores + node_type.gpus) <= _KEPT_SIZE
    return (_kept_graph if kept else _rented_graph)(node_type, nodes)


def _rented_graph(node_type: NodeType, nodes: int) -> ResourceGraph:
    return uniform_graph(
        nodes,
        node_type.cores,
        node_type.gpus,
        prefix=f"{node_type.name}-",
        properties=_properties(node_type),
    )


_kept_graph = lru_cache(maxsize=_KEPT)(_rented_graph)


def _properties(node_type: NodeType) -> tuple[str, ...]:
    return *node_type.properties, node_type.name


def rented_matcher(node_type: NodeType, nodes: int) -> EmbeddedMatcher:
    """A matcher over nodes that are all idle. It fills one node after the other, so that jobs
    are packed on few."""
    return EmbeddedMatcher(rented_graph(node_type, nodes), "lonode")


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


@lru_cache(maxsize=_KEPT_ANSWERS)
def nodes_for(jobspec: Jobspec, node_type: NodeType, most: int = MAX_NODES) -> int | None:
    """The fewest nodes of a type on which the matcher places the job; None where ``most`` are
    too few. Where a count is a range, the fewest are for the least of it."""
    too_few, nodes = 0, min(at_least(jobspec, node_type), most)
    while (used := _used(jobspec, node_type, nodes)) is None:
        if nodes >= most:
            return None
        too_few, nodes = nodes, min(2 * nodes, most)
    # A range takes what there is, so what it used is not yet the fewest.
    while _has_range(jobspec) and used > too_few + 1:
        middle = (too_few + used) // 2
        fewer = _used(jobspec, node_type, middle)
        too_few, used = (middle, used) if fewer is None else (too_few, fewer)
    return used


def alone(job: PendingJob, node_type: NodeType, ready_s: float) -> Packing:
    """One job on nodes of its own from ``ready_s``. It must fit ``MAX_NODES`` of the type (see
    ``misfit`` and ``nodes_for``); raises Unsatisfiable otherwise."""
    nodes, placed = _alone(job.jobspec, node_type)
    end_s = ready_s + job.jobspec.duration_s
    return Packing(nodes, (Placed(job, ready_s, end_s, placed),))


@lru_cache(maxsize=_KEPT_ANSWERS)
def _alone(jobspec: Jobspec, node_type: NodeType) -> tuple[int, tuple[int, ...]]:
    """The nodes that a job takes, and the numbers of those that it runs on."""
    nodes = nodes_for(jobspec, node_type) or MAX_NODES
    match = rented_matcher(node_type, nodes).allocate(jobspec)
    return nodes, tuple(node_numbers(match.graph, match.nodes))


def pack(jobs: Sequence[PendingJob], node_type: NodeType, ready_s: float) -> Packing | None:
    """All of ``jobs`` at once, in their order, each starting at ``ready_s``.

    The nodes are as many as the matcher uses. None where the jobs are better apart: where they
    would take more nodes together, and for ranges of counts, since what those take depends on
    the nodes that are there. Every job must fit the type (see ``misfit``).
    """
    if any(_has_range(job.jobspec) for job in jobs):
        return None
    room = sum(_alone(job.jobspec, node_type)[0] for job in jobs)
    matcher = rented_matcher(node_type, room)
    matcher.advance(ready_s)
    placed = []
    for job in jobs:
        try:
            match = matcher.allocate(job.jobspec, job.jobid, ready_s)
        except Busy:  # first fit may want more room for a job where less is in its way
            return None
        end_s = match.at + job.jobspec.duration_s
        placed.append(Placed(job, match.at, end_s, tuple(node_numbers(match.graph, match.nodes))))
    used = max(max(job.nodes) for job in placed) + 1
    return Packing(used, tuple(placed))


def node_numbers(graph: ResourceGraph, nodes: Sequence[int]) -> list[int]:
    """0 for the first node of a rented graph, and so on."""
    return [int(graph.rank[node]) for node in nodes]


@lru_cache(maxsize=_KEPT_ANSWERS)
def misfit(
    jobspec: Jobspec, node_type: NodeType, efa_from_nodes: int, most: int = MAX_NODES
) -> str:
    """Why a job cannot run on any number of nodes of a type, in a few words; empty if it can, or
    if it takes more than ``most``."""
    for item in jobspec.resources:
        for asked in item.walk():
            if asked.type not in RENTED_TYPES:
                return f"wants a {asked.type}, rented nodes are described by cores and gpus"
    if jobspec.constraint and not _meets(jobspec.constraint, node_type):
        return f"wants {jobspec.constraint.describe()}"
    for kind, has in (("core", node_type.cores), ("gpu", node_type.gpus)):
        wants = max(_within_one_node(item, kind) for item in jobspec.resources)
        if wants > has:
            return f"wants {wants} {kind}{'s' * (wants > 1)} on a node, it has {has}"
    few = at_least(jobspec, node_type)
    if efa_from_nodes and not node_type.efa and few >= efa_from_nodes:
        return f"no EFA, which jobs of {efa_from_nodes} nodes or more need"
    # The bounds above are about one node. What is left, such as a second cluster, the matcher
    # knows. What does not pack well takes some times the lower bound, but not more.
    plenty = 4 * few
    if few > most or plenty > MAX_NODES or nodes_for(jobspec, node_type, plenty):
        return ""
    return "does not fit its nodes"


def _meets(constraint: Constraint, node_type: NodeType) -> bool:
    """Whether any node that is rented meets a constraint: it is none of the hosts here, and
    ranks are only known once it has joined."""
    if _names_ranks(constraint):
        return False
    return constraint.matches(_properties(node_type), f"{node_type.name}-0", -1)


def _names_ranks(constraint: Constraint) -> bool:
    if isinstance(constraint, (And, Or)):
        return any(_names_ranks(operand) for operand in constraint.operands)
    if isinstance(constraint, Not):
        return _names_ranks(constraint.operand)
    return isinstance(constraint, Ranks)


def nodes_asked(jobspec: Jobspec) -> int:
    """How many nodes a jobspec names; 0 where it only asks for slots of cores."""

    def count(item: Resource) -> int:
        below = sum(count(child) for child in item.children)
        return item.count.least * (1 if item.type == "node" else below)

    return sum(count(item) for item in jobspec.resources)


def asked_in_all(jobspec: Jobspec, kind: str) -> int:
    """How many of a type, such as core, a jobspec names in all."""

    def total(item: Resource) -> int:
        own = 1 if item.type == kind else 0
        return item.count.least * (own + sum(total(child) for child in item.children))

    return sum(total(item) for item in jobspec.resources)


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


def _nodes_held(items: tuple[Resource, ...], *, exclusive: bool) -> tuple[int, int]:
    """The fewest nodes that some siblings hold: alone, and beside each other. Two requests for
    a node may be met by one where neither wants it exclusively, itself or for a slot above."""
    alone = shared = 0
    for item in items:
        count = item.count.least
        if item.type != "node":
            held = _nodes_held(item.children, exclusive=exclusive or item.is_slot)
            alone, shared = alone + count * held[0], max(shared, count * held[1])
        elif exclusive or item.exclusive:
            alone += count
        else:
            shared = max(shared, count)
    return alone, shared


def _has_range(jobspec: Jobspec) -> bool:
    return any(
        below.count.least < below.count.most for item in jobspec.resources for below in item.walk()
    )


@lru_cache(maxsize=_KEPT_ANSWERS)
def at_least(jobspec: Jobspec, node_type: NodeType) -> int:
    """A lower bound of the nodes needed: by count, and by the sum of cores and gpus."""
    bound = max(1, sum(_nodes_held(jobspec.resources, exclusive=False)))
    for kind, has in (("core", node_type.cores), ("gpu", node_type.gpus)):
        wants = asked_in_all(jobspec, kind)
        if has and wants:
            bound = max(bound, -(-wants // has))
    return bound


def _used(jobspec: Jobspec, node_type: NodeType, nodes: int) -> int | None:
    """How many of ``nodes`` empty nodes a job uses, None where it does not fit them."""
    matcher = rented_matcher(node_type, nodes)
    try:
        match = matcher.allocate(jobspec)
    except Unsatisfiable:
        return None
    return max(node_numbers(match.graph, match.nodes)) + 1
