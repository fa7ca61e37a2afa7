"""Splice: a graph with a part added or taken away, as when a burst arrives and leaves.

A part is an interval of vertices, so the arrays are cut open and joined: what stays is copied in
one piece and numbered on, never looked at one by one.

    >>> larger = grown(graph, burst, "/cluster0")
    >>> larger.graph.path(int(larger.added[0]))
    '/cluster0/burst0'
    >>> shrunk(larger.graph, int(larger.added[0])).graph      # as before
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.model.graph import MAX_VERTICES, NODE, IntArray, ResourceGraph
from flux_flex.model.jgf import MAX_SIZE
from flux_flex.model.places import vertex_at
from flux_flex.model.quoting import quoted

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False, slots=True)
class Spliced:
    """``graph`` after a change; ``moved[v]`` is the number in it of the vertex v before, -1 for
    one that is gone; ``added`` are the numbers of what is new, ascending."""

    graph: ResourceGraph
    moved: IntArray
    added: IntArray


def grown(graph: ResourceGraph, part: ResourceGraph, parent: str | None = None) -> Spliced:
    """The graph with ``part`` below the vertex at the path ``parent``, after its other children.

    Without ``parent``, ``part`` starts at the root of ``graph``, and what is new in it is added.
    New vertices get a ``uniq_id`` above all others, in their order. Raises BadInput for an
    unknown path or another root, where nothing is new, where a name or the rank of a node is
    there already, where the graph gets too large, and where containers share nodes.
    """
    _refuse_shared(graph)
    _refuse_shared(part)
    blocks = _news(graph, part) if parent is None else _below(graph, part, vertex_at(graph, parent))
    # Of places at one position the deepest comes first: it is within the others.
    blocks.sort(key=lambda block: (int(graph.end[block[0]]), -_depth(graph, block[0])))
    source = np.concatenate([np.arange(top, part.end[top]) for _, top in blocks])
    _refuse_what_does_not_fit(graph, part, source)
    length = np.array([part.end[top] - top for _, top in blocks])
    position = np.repeat(graph.end[[above for above, _ in blocks]], length)
    before = np.concatenate(([0], np.cumsum(np.bincount(position, minlength=len(graph) + 1))))
    moved = np.arange(len(graph)) + before[1 : len(graph) + 1]
    added = position + np.arange(len(source))

    end = graph.end + before[graph.end]
    for above, top in blocks:
        # What ends just where the block begins contains it only where it is above it.
        vertex = above
        while vertex >= 0 and graph.end[vertex] == graph.end[above]:
            end[vertex] += part.end[top] - top
            vertex = int(graph.parent[vertex])
    parent_of_new = added - (source - part.parent[source])
    parent_of_new[np.cumsum(length) - length] = moved[[above for above, _ in blocks]]

    types = tuple(dict.fromkeys((*graph.types, *(part.types[c] for c in part.type_of[source]))))
    code = np.array([types.index(name) if name in types else -1 for name in part.types])

    def joined(old: IntArray, new: IntArray) -> IntArray:
        both = np.empty(len(old) + len(new), dtype=np.int64)
        both[moved], both[added] = old, new
        return both

    larger = replace(
        graph,
        types=types,
        type_of=joined(graph.type_of, code[part.type_of[source]]),
        parent=joined(np.append(moved, -1)[graph.parent], parent_of_new),
        end=joined(end, part.end[source] - source + added),
        size=joined(graph.size, part.size[source]),
        local_id=joined(graph.local_id, part.local_id[source]),
        rank=joined(graph.rank, part.rank[source]),
        uniq_id=joined(
            graph.uniq_id, int(graph.uniq_id.max()) + 1 + np.argsort(np.argsort(source))
        ),
        names=_joined_names(graph, part, blocks),
        units={**_renumbered(graph.units, moved), **_chosen(part.units, source, added)},
        properties={
            **_renumbered(graph.properties, moved),
            **_chosen(part.properties, source, added),
        },
        _of_type={},
    )
    return Spliced(larger, moved, added)


def shrunk(graph: ResourceGraph, top: int) -> Spliced:
    """The graph without the vertex ``top`` and all below it.

    Raises BadInput for the root, and where containers share nodes.
    """
    if top == 0:
        raise BadInput("the root cannot be removed", graph.path(0), "remove what is below it")
    _refuse_shared(graph)
    last = int(graph.end[top])
    kept = np.delete(np.arange(len(graph)), np.s_[top:last])
    moved = np.full(len(graph), -1, dtype=np.int64)
    moved[kept] = np.arange(len(kept))
    end = graph.end[kept]
    used = np.unique(graph.type_of[kept])
    smaller = replace(
        graph,
        types=tuple(graph.types[code] for code in used.tolist()),
        type_of=np.searchsorted(used, graph.type_of[kept]),
        parent=np.append(moved, -1)[graph.parent[kept]],
        end=np.where(end >= last, end - (last - top), end),
        size=graph.size[kept],
        local_id=graph.local_id[kept],
        rank=graph.rank[kept],
        uniq_id=graph.uniq_id[kept],
        names=graph.names[:top] + graph.names[last:],
        units=_renumbered(graph.units, moved),
        properties=_renumbered(graph.properties, moved),
        _of_type={},
    )
    return Spliced(smaller, moved, np.zeros(0, dtype=np.int64))


# Where something goes: the vertex of the graph that it goes below, and its top in the part.
_Block = tuple[int, int]


def _below(graph: ResourceGraph, part: ResourceGraph, above: int) -> list[_Block]:
    name = part.names[0]
    if name in {graph.names[child] for child in graph.children(above)}:
        what = f"there is a {quoted(name)} already"
        raise BadInput(what, graph.path(above), "give the subgraph another name")
    return [(above, 0)]


def _news(graph: ResourceGraph, part: ResourceGraph) -> list[_Block]:
    """The tops of what is in ``part`` but not in ``graph``."""
    if part.names[0] != graph.names[0]:
        what = f"it hangs from {part.path(0)}, not from {graph.path(0)}"
        raise BadInput(what, "subgraph", "begin at the root of the graph, or name a parent")
    blocks: list[_Block] = []
    stack = [(0, 0)]
    while stack:
        above, within = stack.pop()
        known = {graph.names[child]: child for child in graph.children(above)}
        for child in part.children(within):
            if part.names[child] in known:
                stack.append((known[part.names[child]], child))
            else:
                blocks.append((above, child))
    if not blocks:
        raise BadInput("all of it is in the graph already", "subgraph", "add what is new")
    return blocks


def _refuse_what_does_not_fit(graph: ResourceGraph, part: ResourceGraph, new: IntArray) -> None:
    total = len(graph) + len(new)
    if total > MAX_VERTICES:
        raise BadInput(f"{total} vertices", "subgraph", f"stay below {MAX_VERTICES}")
    if int(graph.size.sum()) + int(part.size[new].sum()) > MAX_SIZE:
        raise BadInput("sizes that add up to too much", "subgraph", f"stay below {MAX_SIZE}")
    nodes = new[np.isin(new, part.of_type(NODE))]
    ranks = part.rank[nodes]
    there = ranks[(ranks >= 0) & np.isin(ranks, graph.rank[graph.of_type(NODE)])]
    if there.size:
        what = f"a node of rank {there[0]} is in the graph already"
        raise BadInput(what, "subgraph", "give new nodes ranks of their own, or -1 for none")


def _refuse_shared(graph: ResourceGraph) -> None:
    if graph.same is not None:
        what = "containers that share nodes: a part of them is no interval"
        raise BadInput(what, "subgraph", "open a matcher on the graph as it is to be")


def _depth(graph: ResourceGraph, vertex: int) -> int:
    depth = 0
    while vertex > 0:
        vertex = int(graph.parent[vertex])
        depth += 1
    return depth


def _joined_names(
    graph: ResourceGraph, part: ResourceGraph, blocks: list[_Block]
) -> tuple[str, ...]:
    names: list[str] = []
    copied = 0
    for above, top in blocks:
        position = int(graph.end[above])
        names += islice(graph.names, copied, position)
        names += part.names[top : int(part.end[top])]
        copied = position
    names += graph.names[copied:]
    return tuple(names)


def _renumbered(named: Mapping[int, _T], moved: IntArray) -> dict[int, _T]:
    """A mapping by vertex, without those that are gone."""
    keys = moved[np.fromiter(named, dtype=np.int64, count=len(named))]
    found = dict(zip(keys.tolist(), named.values(), strict=True))
    found.pop(-1, None)
    return found


def _chosen(named: Mapping[int, _T], source: IntArray, added: IntArray) -> dict[int, _T]:
    """A mapping by vertex of a part, for those in ``source``, which got the numbers ``added``."""
    number = dict(zip(source.tolist(), added.tolist(), strict=True))
    return {number[v]: value for v, value in named.items() if v in number}
