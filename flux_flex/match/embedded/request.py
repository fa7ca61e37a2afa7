"""Compile a jobspec against a graph: raw names become index arrays, once for all matches.

An :class:`Ask` is one vertex of the jobspec with all that the traverser needs: which vertices of
the graph could serve it, where each lies below the vertices that could serve its parent, and
which row of the planner's state counts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from flux_flex.model.constraints import Constraint
from flux_flex.model.graph import NODE, BoolArray, IntArray, ResourceGraph
from flux_flex.model.jobspec import Count, Jobspec, Resource


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """One requested vertex, compiled.

    ``candidates`` are the vertices of the graph of this type, in depth-first order (for a slot:
    none). ``homes`` are the vertices that the supply is counted in: those that could serve the
    parent, and for a slot at the top the lowest vertices with all of its contents below them;
    home h contains ``candidates[low[h]:high[h]]``. ``row`` counts a leaf type in the planner's
    state, -1 for others. ``exclusive`` is said or implied by a slot above, ``whole`` said.
    ``in_nodes``: all homes are nodes or lie in one. ``spread``: a slot at the top, which all its
    homes serve together. ``pooled``: some candidate has another size than 1. ``contested``:
    children of one type compete, so that their supplies must not be counted apart.
    """

    kind: str
    count: Count
    is_slot: bool
    exclusive: bool
    whole: bool
    row: int
    candidates: IntArray
    homes: IntArray
    low: IntArray
    high: IntArray
    in_nodes: bool
    spread: bool
    pooled: bool
    contested: bool
    children: tuple[Ask, ...]

    def walk(self) -> Iterator[Ask]:
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """A compiled jobspec. ``eligible`` (None: all) says which vertices meet the constraint;
    ``needs`` are the least free amounts, by row, that the whole graph must have."""

    asks: tuple[Ask, ...]
    contested: bool
    eligible: BoolArray | None
    needs: tuple[tuple[int, int], ...]
    duration_s: float


def compile_request(
    jobspec: Jobspec, graph: ResourceGraph, leaf_row: Mapping[str, int], totals: IntArray
) -> Request:
    """Compile for one graph. ``totals[row, v]`` is the state of the graph when it is empty."""
    root = np.zeros(1, dtype=np.int64)
    asks = tuple(
        _compile(item, graph, leaf_row, root, in_slot=False, at_top=True)
        for item in jobspec.resources
    )
    return Request(
        asks=asks,
        contested=_contested(jobspec.resources),
        eligible=_eligible(jobspec.constraint, graph),
        needs=_needs(asks, leaf_row, totals),
        duration_s=jobspec.duration_s,
    )


def _compile(
    item: Resource,
    graph: ResourceGraph,
    leaf_row: Mapping[str, int],
    parents: IntArray,
    *,
    in_slot: bool,
    at_top: bool,
) -> Ask:
    candidates = graph.of_type(item.type)
    homes = _homes(item, graph) if item.is_slot and at_top else parents
    # Below a slot supplies are counted in the slot's homes; below a vertex, in that vertex.
    below = homes if item.is_slot else candidates
    children = tuple(
        _compile(child, graph, leaf_row, below, in_slot=in_slot or item.is_slot, at_top=False)
        for child in item.children
    )
    return Ask(
        kind=item.type,
        count=item.count,
        is_slot=item.is_slot,
        # RFC 14: what a slot holds is given to its tasks alone.
        exclusive=bool(item.exclusive) or in_slot,
        whole=bool(item.exclusive),
        row=leaf_row.get(item.type, -1),
        candidates=candidates,
        homes=homes,
        low=np.searchsorted(candidates, homes),
        high=np.searchsorted(candidates, graph.end[homes]),
        in_nodes=_in_nodes(homes, graph),
        spread=item.is_slot and at_top,
        pooled=bool((graph.size[candidates] != 1).any()),
        contested=_contested(item.children),
        children=children,
    )


def expand(low: IntArray, high: IntArray) -> IntArray:
    """The numbers of several ranges one after the other: (2, 5), (9, 11) to 2 3 4 9 10."""
    length = high - low
    before = np.cumsum(length) - length
    numbers: IntArray = np.arange(int(length.sum())) + np.repeat(low - before, length)
    return numbers


def _homes(slot: Resource, graph: ResourceGraph) -> IntArray:
    """The lowest vertices with every content type of a slot below them: a slot is never
    gathered from two of them, as fluxion and sched-simple never spread one over nodes."""
    has_all = np.ones(len(graph), dtype=bool)
    number = np.arange(len(graph))
    for content in slot.children:
        members = graph.of_type(content.type)
        inside = np.searchsorted(members, graph.end) - np.searchsorted(members, number + 1)
        has_all &= inside > 0
    above_another = np.zeros(len(graph), dtype=bool)
    masked = np.flatnonzero(has_all)
    above_another[graph.parent[masked[masked > 0]]] = True
    return np.flatnonzero(has_all & ~above_another)


def _in_nodes(vertices: IntArray, graph: ResourceGraph) -> bool:
    nodes = graph.of_type(NODE)
    if not nodes.size:
        return False
    nearest = np.searchsorted(nodes, vertices, side="right") - 1
    return bool((nearest >= 0).all() and (vertices < graph.end[nodes[nearest]]).all())


def _contested(items: tuple[Resource, ...]) -> bool:
    """Whether two of some siblings draw on one type, themselves or further down."""
    seen: set[str] = set()
    for item in items:
        kinds = {below.type for below in item.walk() if not below.is_slot}
        if seen & kinds:
            return True
        seen |= kinds
    return False


def _eligible(constraint: Constraint | None, graph: ResourceGraph) -> BoolArray | None:
    """Which vertices a constraint leaves: all outside of nodes, and whole nodes that match."""
    if constraint is None:
        return None
    eligible = np.ones(len(graph), dtype=bool)
    for node in graph.of_type(NODE):
        held = graph.properties.get(int(node), frozenset())
        if not constraint.matches(held, graph.names[node], int(graph.rank[node])):
            eligible[node : graph.end[node]] = False
    return eligible


def _needs(
    asks: tuple[Ask, ...], leaf_row: Mapping[str, int], totals: IntArray
) -> tuple[tuple[int, int], ...]:
    """Lower bounds by row: a quick no, at each time that is tried, for what cannot fit."""
    rows = tuple(leaf_row.values())
    least = [
        sum(column) for column in zip(*(_need(ask, rows, totals) for ask in asks), strict=True)
    ]
    return tuple((row, need) for row, need in zip(rows, least, strict=True) if need)


def _need(ask: Ask, rows: tuple[int, ...], totals: IntArray) -> list[int]:
    """The least amounts by row that ``ask`` takes, counting all of an exclusive vertex."""
    below = [0] * len(rows)
    for child in ask.children:
        below = [a + b for a, b in zip(below, _need(child, rows, totals), strict=True)]
    if ask.row >= 0:
        below[rows.index(ask.row)] += 1
    elif ask.exclusive and ask.candidates.size:
        held = totals[list(rows)][:, ask.candidates].min(axis=1).tolist()
        below = [max(a, b) for a, b in zip(below, held, strict=True)]
    return [amount * ask.count.least for amount in below]
