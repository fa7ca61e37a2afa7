"""Graphs as fluxion is to see them: levels folded out.

RFC 14 says that a request's resources contain one another, not that they do so directly. Fluxion
0.54 matches a request below its first vertex only where it names each level of the graph. So the
levels that a request skips are *folded*: their vertices are left out, and what they contain hangs
from what contains them.

    >>> skipped_levels(graph, jobspec)   # nodes and cores, on nodes with sockets
    frozenset({'socket'})
    >>> folded, kept = fold(graph, frozenset({"socket"}))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.graph import NODE, IntArray, ResourceGraph, Vertex, lay_out
from flux_flex.model.jobspec import Jobspec, Resource
from flux_flex.model.rv1 import ResourceSet

# For a type in a type, the types that lie between them somewhere in a graph.
Between = Mapping[tuple[str, str], frozenset[str]]


def levels_between(graph: ResourceGraph) -> Between:
    """For each type below another, which types are between the nearest two of them."""
    between: dict[tuple[str, str], frozenset[str]] = {}
    for chain in _chains(graph):
        *uppers, below = chain
        inner: set[str] = set()
        for above in reversed(uppers):
            if above not in inner:  # else a nearer one has been met
                pair = above, below
                between[pair] = between.get(pair, frozenset()) | inner
            if above == below:
                break  # what is further up contains the upper of the two
            inner.add(above)
    return between


def _chains(graph: ResourceGraph) -> list[tuple[str, ...]]:
    """The different chains of types from the root down to a vertex."""
    number: dict[tuple[int, int], int] = {}
    chains: list[tuple[str, ...]] = []
    chain_of: list[int] = []
    for above, kind in zip(graph.parent.tolist(), graph.type_of.tolist(), strict=True):
        upper = chain_of[above] if above >= 0 else -1
        found = number.get((upper, kind))
        if found is None:
            found = number[upper, kind] = len(chains)
            chains.append(((*chains[upper],) if upper >= 0 else ()) + (graph.types[kind],))
        chain_of.append(found)
    return chains


def skipped_levels(between: Between, jobspec: Jobspec) -> frozenset[str]:
    """The types that a request skips below a vertex that it names.

    Raises FlexError where it names one of them elsewhere: it cannot be folded and kept.
    """
    skipped: frozenset[str] = frozenset().union(
        *(between.get(pair, frozenset()) for pair in _nested(jobspec.resources, None))
    )
    both = sorted(skipped & named_types(jobspec))
    if both:
        what = f"the request skips the level {both[0]} in one place and names it in another"
        raise FlexError(what, "fluxion", f"name {both[0]} in both, or use the embedded engine")
    return skipped


def named_types(jobspec: Jobspec) -> frozenset[str]:
    """The resource types of a request."""
    walked = (item for resource in jobspec.resources for item in resource.walk())
    return frozenset(item.type for item in walked if not item.is_slot)


def _nested(items: Sequence[Resource], above: str | None) -> Iterator[tuple[str, str]]:
    """(type, type below it) for all neighbours in a request; a slot is no level."""
    for item in items:
        if not item.is_slot and above is not None:
            yield above, item.type
        yield from _nested(item.children, above if item.is_slot else item.type)


def fold(graph: ResourceGraph, types: frozenset[str]) -> tuple[ResourceGraph, IntArray]:
    """The graph without the vertices of some types, and for each of its vertices the number in
    ``graph``. Names that would be the same below one parent get that number."""
    if not types:
        return graph, np.arange(len(graph))
    codes = [code for code, name in enumerate(graph.types) if name in types]
    kept = np.flatnonzero(~np.isin(graph.type_of, codes))
    place = np.full(len(graph) + 1, -1)  # one more, for the root's parent -1
    place[kept] = np.arange(len(kept))
    parents = place[_nearest_kept(graph, place)[kept]].tolist()
    vertices, seen = [], set()
    for number, above in zip(kept.tolist(), parents, strict=True):
        name = graph.names[number]
        name = f"{name}.{number}" if (above, name) in seen else name
        seen.add((above, name))
        vertices.append(_vertex(graph, number, name))
    return lay_out(vertices, _children(parents), root=0), kept


def _nearest_kept(graph: ResourceGraph, place: IntArray) -> IntArray:
    """For each vertex the nearest above it that has a place, -1 for the root's."""
    nearest: IntArray = graph.parent.copy()
    while (folded := np.flatnonzero((nearest >= 0) & (place[nearest] < 0))).size:
        nearest[folded] = graph.parent[nearest[folded]]
    return nearest


def vertices_of_r(graph: ResourceGraph, R: ResourceSet) -> IntArray:
    """The core and gpu vertices that an R names, found by host and rank and by number.

    Raises BadInput for what the graph does not have.
    """
    nodes = {
        (int(graph.rank[v]), graph.names[v]): v for v in graph.once(graph.of_type(NODE)).tolist()
    }
    found: list[int] = []
    for item in R.ranks:
        node = nodes.get((item.rank, item.host))
        if node is None:
            what = f"no node {item.host} of rank {item.rank} in the graph"
            raise BadInput(what, "R", "give an R of this system")
        for kind, ids in (("core", item.cores), ("gpu", item.gpus)):
            members = graph.of_type(kind)
            low, high = np.searchsorted(members, (node, graph.end[node]))
            number = {int(graph.local_id[v]): v for v in members[low:high].tolist()}
            missing = sorted(set(ids) - number.keys())
            if missing:
                what = f"{item.host} has no {kind}{missing[0]}"
                raise BadInput(what, "R", "give an R of this system")
            found += [number[i] for i in ids]
    return np.array(sorted(found), dtype=np.int64)


def _children(parents: Sequence[int]) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in parents]
    for number, above in enumerate(parents):
        if above >= 0:
            children[above].append(number)
    return children


def _vertex(graph: ResourceGraph, number: int, name: str, uniq_id: int | None = None) -> Vertex:
    return Vertex(
        type=graph.type_name(number),
        name=name,
        local_id=int(graph.local_id[number]),
        size=int(graph.size[number]),
        rank=int(graph.rank[number]),
        unit=graph.units.get(number, ""),
        properties=graph.properties.get(number, frozenset()),
        uniq_id=int(graph.uniq_id[number]) if uniq_id is None else uniq_id,
    )
