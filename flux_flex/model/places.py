"""Places in a graph as people and Flux name them: containment paths and broker ranks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.model.graph import NODE, ResourceGraph
from flux_flex.model.idset import format_idset, parse_idset
from flux_flex.model.quoting import quoted


def vertex_at(graph: ResourceGraph, path: str) -> int:
    """The vertex of a containment path such as ``/cluster0/node1``. Raises BadInput."""
    first, *rest = path.split("/")[1:] or [""]
    vertex = 0 if path.startswith("/") and first == graph.names[0] else -1
    for name in rest:
        if vertex >= 0:
            below = (child for child in graph.children(vertex) if graph.names[child] == name)
            vertex = next(below, -1)
    if vertex < 0:
        what = "no such vertex in the graph"
        raise BadInput(what, quoted(path), "name one like /cluster0/node0")
    return vertex


def nodes_of_ranks(graph: ResourceGraph, ranks: str | Iterable[int]) -> list[int]:
    """The node vertices of broker ranks, given as numbers or as an idset (RFC 22).

    Raises BadInput for text that is no idset and for ranks that no node has.
    """
    wanted = np.unique(np.array(parse_idset(ranks) if isinstance(ranks, str) else [*ranks], int))
    nodes = graph.of_type(NODE)
    unknown = np.setdiff1d(wanted, graph.rank[nodes]).tolist()
    unknown += [rank for rank in wanted.tolist() if rank < 0 and rank not in unknown]
    if unknown:
        named = format_idset(unknown) if min(unknown) >= 0 else str(min(unknown))
        what = f"no node of rank {named} in the graph"
        raise BadInput(what, "ranks", "name ranks of this system")
    found: list[int] = nodes[np.isin(graph.rank[nodes], wanted)].tolist()
    return found
