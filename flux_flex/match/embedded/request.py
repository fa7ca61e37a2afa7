"""Compile a jobspec against a graph: raw names become index arrays, once for all matches.

An :class:`Ask` is one vertex of the jobspec with all that the traverser needs: which vertices of
the graph could serve it, where each lies below the vertices that could serve its parent, and
which row of the planner's state counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from flux_flex.model.constraints import Constraint
from flux_flex.model.count import Count
from flux_flex.model.graph import NODE, BoolArray, IntArray, ResourceGraph
from flux_flex.model.jobspec import Jobspec, Resource
from flux_flex.model.targets import Target, Targets

_FIRST = np.ones(1, dtype=bool)

# More than any graph has, and so that the sum of two of them is an int64.
_MOST = 1 << 61


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """One requested vertex, compiled.

    ``candidates`` are the vertices of the graph of this type, in depth-first order (for a slot:
    none). ``homes`` are the vertices that the supply is counted in: those that could serve the
    parent, and for a slot at the top the lowest vertices with all of its contents below them;
    home h contains ``candidates[low[h]:high[h]]``. ``row`` counts a leaf type in the planner's
    state, -1 for others. ``exclusive`` is said or implied by a slot above, ``whole`` said.
    ``in_nodes``: all homes are nodes or lie in one. ``spread``: a slot at the top, which all its
    homes serve together. ``pooled``: some candidate has another size than 1. ``contested``: some
    children compete for what they take, so that their supplies must not be counted apart.
    ``order``: 1 where the preferred candidates of every home come first in the graph, -1 where they
    come last, 0 for neither. ``code`` numbers the type in the graph, -1 where it is not there.
    ``needs`` are the least amounts by row that one takes. ``home_set``: the homes of a slot at
    the top.
    """

    count: Count
    is_slot: bool
    exclusive: bool
    whole: bool
    row: int
    needs: tuple[tuple[int, int], ...]
    candidates: IntArray
    homes: IntArray
    low: IntArray
    high: IntArray
    in_nodes: bool
    spread: bool
    pooled: bool
    contested: bool
    code: int
    order: int
    home_set: frozenset[int]
    children: tuple[Ask, ...]

    def within(self, first: int, last: int) -> Ask:
        """The same ask in its homes ``first`` to ``last - 1`` alone, which are numbered anew."""
        low, high = self.low[first:last], self.high[first:last]
        start, end = int(low[0]), int(high[-1])
        inner = (first, last) if self.is_slot else (start, end)
        return replace(
            self,
            candidates=self.candidates[start:end],
            homes=self.homes[first:last],
            low=low - start,
            high=high - start,
            children=tuple(child.within(*inner) for child in self.children if inner[0] < inner[1]),
        )


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """A compiled jobspec. ``eligible`` (None: all) says which vertices meet the constraint;
    ``needs`` are the least free amounts, by row, that the whole graph must have, and ``totals`` the
    same as the planner's profile counts them. ``contested``:
    the asks at the top compete; ``competing``: some asks do, at the top or below."""

    asks: tuple[Ask, ...]
    contested: bool
    competing: bool
    eligible: BoolArray | None
    needs: tuple[tuple[int, int], ...]
    totals: IntArray


@dataclass(frozen=True, eq=False, slots=True)
class Basis:
    """What jobspecs are compiled against: a graph, the rows of the planner's state by leaf type,
    ``totals[row, v]``, the state when nothing is held, and the policy's ``keys[v]``."""

    graph: ResourceGraph
    leaf_row: Mapping[str, int]
    totals: IntArray
    keys: IntArray


def compile_request(jobspec: Jobspec, basis: Basis) -> Request:
    """Compile a jobspec for one graph and policy."""
    root = np.zeros(1, dtype=np.int64)
    asks = tuple(
        _compile(item, basis, root, in_slot=False, at_top=True) for item in jobspec.resources
    )
    contested = _contested(jobspec.resources, basis.graph, in_slot=False)
    return Request(
        asks=asks,
        contested=contested,
        competing=contested or any(_competing(ask) for ask in asks),
        eligible=_eligible(jobspec.constraint, basis.graph),
        needs=_sum_of_needs(asks),
        totals=_totals(asks, basis),
    )


def _compile(
    item: Resource, basis: Basis, parents: IntArray, *, in_slot: bool, at_top: bool
) -> Ask:
    graph = basis.graph
    homes = graph.once(_homes(item, graph)) if item.is_slot and at_top else parents
    candidates = _once_in_each(homes, _outermost(graph, item.type), graph)
    # Below a slot supplies are counted in the slot's homes; below a vertex, in that vertex.
    below = homes if item.is_slot else candidates
    children = tuple(
        _compile(child, basis, below, in_slot=in_slot or item.is_slot, at_top=False)
        for child in item.children
    )
    low = np.searchsorted(candidates, homes if at_top else homes + 1)
    row = basis.leaf_row.get(item.type, -1)
    exclusive = bool(item.exclusive) or in_slot  # RFC 14: a slot's contents are its tasks' alone
    needs = dict(_sum_of_needs(children)) if row < 0 else {row: 1}
    if row < 0 and exclusive and not item.is_slot:
        for other, need in _whole(candidates, basis).items():
            needs[other] = max(need, needs.get(other, 0))
    return Ask(
        count=item.count,
        is_slot=item.is_slot,
        exclusive=exclusive,
        whole=bool(item.exclusive),
        code=graph.types.index(item.type) if item.type in graph.types else -1,
        row=row,
        needs=tuple(needs.items()),
        candidates=candidates,
        homes=homes,
        low=low,
        high=np.searchsorted(candidates, graph.end[homes]),
        in_nodes=_in_nodes(homes, graph),
        spread=item.is_slot and at_top,
        pooled=bool((graph.size[candidates] != 1).any()),
        contested=_contested(item.children, graph, in_slot=in_slot or item.is_slot),
        order=_order(basis.keys[candidates], low),
        home_set=frozenset(homes.tolist()) if item.is_slot and at_top else frozenset(),
        children=children,
    )


def _outermost(graph: ResourceGraph, kind: str) -> IntArray:
    """The vertices of a type that lie in no other of that type: a switch in a switch is taken
    with the outer one, never beside it."""
    members = graph.of_type(kind)
    ends = np.maximum.accumulate(graph.end[members])
    outer: IntArray = members[np.concatenate((_FIRST, members[1:] >= ends[:-1]))[: len(members)]]
    return outer


def _once_in_each(homes: IntArray, candidates: IntArray, graph: ResourceGraph) -> IntArray:
    """The candidates in some homes, of shared ones the first alias in each home."""
    if graph.same is None:
        return candidates
    home = np.searchsorted(homes, candidates, side="right") - 1
    inside = (home >= 0) & (candidates < graph.end[homes[home]])
    candidates, home = candidates[inside], home[inside]
    _, first = np.unique(home * len(graph) + graph.same[candidates], return_index=True)
    once: IntArray = candidates[np.sort(first)]
    return once


def _homes(slot: Resource, graph: ResourceGraph) -> IntArray:
    """The lowest vertices with every content type of a slot below them: a slot is never
    gathered from two of them, as fluxion and sched-simple never spread one over nodes."""
    has_all = np.ones(len(graph), dtype=bool)
    number = np.arange(len(graph))
    for content in slot.children:
        members = _outermost(graph, content.type)
        inside = np.searchsorted(members, graph.end) - np.searchsorted(members, number + 1)
        has_all &= inside > 0
    above_another = np.zeros(len(graph), dtype=bool)
    masked = np.flatnonzero(has_all)
    above_another[graph.parent[masked[masked > 0]]] = True
    return np.flatnonzero(has_all & ~above_another)


def _order(keys: IntArray, low: IntArray) -> int:
    """See ``order`` of Ask: ``keys`` of the candidates, the first of each home at ``low``."""
    apart = np.zeros(len(keys) + 1, dtype=bool)
    apart[low] = True  # of two homes, and so never compared
    apart = apart[1 : len(keys)]
    if (apart | (keys[1:] > keys[:-1])).all():
        return 1
    return -1 if (apart | (keys[1:] < keys[:-1])).all() else 0


def _in_nodes(vertices: IntArray, graph: ResourceGraph) -> bool:
    nodes = graph.of_type(NODE)
    if not nodes.size:
        return False
    nearest = np.searchsorted(nodes, vertices, side="right") - 1
    return bool((nearest >= 0).all() and (vertices < graph.end[nodes[nearest]]).all())


def _contested(items: tuple[Resource, ...], graph: ResourceGraph, *, in_slot: bool) -> bool:
    """Whether two of some siblings may take the same vertices: they, or what is below them, are
    of one type, or one takes vertices whole in which the other's lie."""
    if len(items) < 2:
        return False
    drawn = [_drawn_on(item, in_slot) for item in items]
    return any(
        kind == other or (whole and _holds(graph, kind, other))
        for mine, theirs in permutations(drawn, 2)
        for kind, whole in mine.items()
        for other in theirs
    )


def _competing(ask: Ask) -> bool:
    return ask.contested or any(_competing(child) for child in ask.children)


def _drawn_on(item: Resource, in_slot: bool) -> dict[str, bool]:
    """The types of a request, and whether some vertex of the type is taken whole."""
    inside = in_slot or item.is_slot
    drawn = {} if item.is_slot else {item.type: in_slot or bool(item.exclusive)}
    for child in item.children:
        for kind, whole in _drawn_on(child, inside).items():
            drawn[kind] = whole or drawn.get(kind, False)
    return drawn


def _holds(graph: ResourceGraph, kind: str, other: str) -> bool:
    """Whether some vertex of one type has one of another type below it."""
    outer, inner = graph.of_type(kind), graph.of_type(other)
    return bool((np.searchsorted(inner, graph.end[outer]) > np.searchsorted(inner, outer)).any())


def _eligible(constraint: Constraint | None, graph: ResourceGraph) -> BoolArray | None:
    """Which vertices a constraint leaves: all outside of nodes, and whole nodes that match."""
    if constraint is None:
        return None
    eligible = np.ones(len(graph), dtype=bool)
    nodes = graph.of_type(NODE)
    none: frozenset[str] = frozenset()
    targets = Targets(
        Target(int(graph.rank[node]), graph.names[node], graph.properties.get(int(node), none))
        for node in nodes
    )
    for node, meets in zip(nodes, targets.answers(targets.matching(constraint)), strict=True):
        if not meets:
            eligible[node : graph.end[node]] = False
    return eligible


def _sum_of_needs(asks: tuple[Ask, ...]) -> tuple[tuple[int, int], ...]:
    """The least amounts by row that all of ``asks`` take together."""
    least: dict[int, int] = {}
    for ask in asks:
        for row, need in ask.needs:
            least[row] = min(least.get(row, 0) + need * ask.count.least, _MOST)
    return tuple(least.items())


def _totals(asks: tuple[Ask, ...], basis: Basis) -> IntArray:
    """The least amounts of each leaf type, in the order of the rows, and of whole nodes."""
    rows = list(basis.leaf_row.values())
    needs = dict(_sum_of_needs(asks))
    nodes = basis.graph.types.index(NODE) if NODE in basis.graph.types else -1
    whole = min(sum(_whole_nodes(ask, nodes) for ask in asks), _MOST)
    return np.array([*(needs.get(row, 0) for row in rows), whole], dtype=np.int64)


def _whole_nodes(ask: Ask, nodes: int) -> int:
    inside = sum(_whole_nodes(child, nodes) for child in ask.children)
    return ask.count.least * (1 if ask.exclusive and ask.code == nodes >= 0 else inside)


def _whole(candidates: IntArray, basis: Basis) -> dict[int, int]:
    """The least amounts by row that any of some vertices has, when it is taken whole."""
    if not candidates.size:
        return {}
    rows = list(basis.leaf_row.values())
    held = basis.totals[rows][:, candidates].min(axis=1).tolist()
    return {row: need for row, need in zip(rows, held, strict=True) if need}
