"""Sharing: claims where containers share nodes, and so a vertex stands in a graph several times.

Whatever takes one alias of a vertex takes them all (:func:`on_all_aliases`), and what is taken of
it counts once in each vertex above any of them (:func:`shared_entries`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flux_flex.match.embedded.spans import NO_VERTICES, Claims
from flux_flex.model.graph import IntArray, ResourceGraph, expand

# What a match lists: (vertices, amounts, exclusive).
Picked = Iterable[tuple[IntArray, IntArray, bool]]


def on_all_aliases(claims: Claims, graph: ResourceGraph) -> Claims:
    """The same claims on every alias, one by one, without whole vertices."""
    assert graph.same is not None
    inside = expand(claims.whole, graph.end[claims.whole])
    first, place = np.unique(
        graph.same[np.concatenate((inside, claims.vertices))], return_inverse=True
    )
    amounts = np.zeros(len(first), dtype=np.int64)
    np.add.at(amounts, place[len(inside) :], claims.amounts)  # parts of one pool by two paths
    amounts[place[: len(inside)]] = graph.size[inside]
    every = np.sort(graph.aliases(first))
    return Claims(NO_VERTICES, every, amounts[np.searchsorted(first, graph.same[every])])


def shared_entries(claims: Claims, graph: ResourceGraph) -> tuple[IntArray, IntArray]:
    """Where claims on all aliases count above themselves: (position in ``claims`` of one alias,
    vertex that contains some alias of it), each pair once."""
    assert graph.same is not None
    n = len(graph)
    physical, above = graph.same[claims.vertices], graph.parent[claims.vertices]
    pairs = [NO_VERTICES]
    while above.size:
        inner = above >= 0
        physical, above = physical[inner], above[inner]
        pairs.append(physical * n + above)
        above = graph.parent[above]
    pair = np.unique(np.concatenate(pairs))
    # The first alias of each is among the claims.
    return np.searchsorted(claims.vertices, pair // n), pair % n


def given_twice(picked: Picked, graph: ResourceGraph) -> list[IntArray]:
    """The vertices that ``picked`` gives by two paths though one excludes the other: for each
    its aliases in ``picked``, at the highest level at which they clash. [] if all is well."""
    if graph.same is None:
        return []
    exclusive, amounts = np.zeros((2, len(graph)), dtype=np.int64)
    leaf = np.isin(graph.type_of, [graph.types.index(kind) for kind in graph.leaf_types()])
    for vertices, sizes, only in picked:
        amounts[vertices] = np.where(leaf[vertices] | only, sizes, 0)
        if only:
            exclusive[expand(vertices, graph.end[vertices])] = 1
        while vertices.size:
            used = amounts[vertices] == 0
            amounts[vertices[used]] = -1  # in use, and so not to be excluded from
            vertices = graph.parent[vertices]
            vertices = np.unique(vertices[vertices >= 0])
    amounts[exclusive == 1] = graph.size[exclusive == 1]
    in_use = np.flatnonzero(amounts != 0)
    first = graph.same[in_use]
    held, excluded, paths = (
        np.bincount(first, weights=count, minlength=len(graph))
        for count in (np.maximum(amounts[in_use], 0), exclusive[in_use], np.ones(len(in_use)))
    )
    bad = (paths > 1) & ((excluded > 0) | (held > graph.size))
    clash = in_use[bad[first]]
    top = clash[~np.isin(graph.parent[clash], clash)]
    return [top[graph.same[top] == v] for v in np.unique(graph.same[top]).tolist()]
