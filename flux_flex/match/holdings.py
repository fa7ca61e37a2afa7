"""Holdings: what jobs hold of a graph, said alike by every engine that keeps such books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.match.matcher import Match
from flux_flex.model.graph import NODE, BoolArray, IntArray, ResourceGraph
from flux_flex.model.quoting import quoted
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

Picked = tuple[tuple[IntArray, IntArray, bool], ...]


def ranks_of(R: Mapping[str, object]) -> list[int]:
    """The ranks that an R (RFC 20) names. Raises BadInput."""
    return [item.rank for item in parse_r(R).ranks]


def off_ranks(graph: ResourceGraph, vertices: IntArray, ranks: Iterable[int]) -> BoolArray:
    """Which vertices lie in none of the nodes of some ranks; what is above nodes does."""
    nodes = graph.node_of[vertices]
    off: BoolArray = (nodes < 0) | ~np.isin(graph.rank[nodes], list(ranks))
    return off


def kept_by(match: Match, ranks: Iterable[int]) -> Picked:
    """What is left of a match that gives back what it holds on ``ranks``; () for nothing.

    As in fluxion, a job is gone when nothing of it is left that is its alone, or nothing on a
    node. Raises BadInput where it holds nothing there.
    """
    ranks = set(ranks)
    kept, gone, on_nodes = [], 0, False
    for vertices, amounts, exclusive in match.picked:
        stays = off_ranks(match.graph, vertices, ranks)
        gone += len(vertices) - int(stays.sum())
        if stays.any():
            kept.append((vertices[stays], amounts[stays], exclusive))
            on_nodes |= bool((match.graph.node_of[vertices[stays]] >= 0).any())
    if not gone:
        raise BadInput(f"job {match.jobid} holds nothing there", "R", "name ranks that it holds")
    return tuple(kept) if on_nodes and any(only for _, _, only in kept) else ()


def refuse_where_held(matches: Iterable[Match], graph: ResourceGraph, top: int) -> None:
    """Raise BadInput where a job holds ``top``, something below it, or it as part of a whole."""
    end = int(graph.end[top])
    for match in matches:
        for vertices, _, exclusive in match.picked:
            below = (top <= vertices) & (vertices < end)
            if below.any() or (exclusive and _within(graph, top, vertices)):
                what = f"job {match.jobid} holds a part of it"
                raise BadInput(what, graph.path(top), "cancel that job first")


def refuse_within_whole(matches: Iterable[Match], graph: ResourceGraph, parent: int) -> None:
    """Raise BadInput where a job holds ``parent`` with all below it: what is added there would be
    its own, though it did not ask for it."""
    for match in matches:
        if any(only and _within(graph, parent, vertices) for vertices, _, only in match.picked):
            what = f"job {match.jobid} holds it whole"
            raise BadInput(what, graph.path(parent), "add elsewhere, or when that job has ended")


def _within(graph: ResourceGraph, vertex: int, vertices: IntArray) -> bool:
    """Whether a vertex is one of some others, or lies in one."""
    return bool(((vertices <= vertex) & (vertex < graph.end[vertices])).any())


def found_r(graph: ResourceGraph, vertices: IntArray) -> dict[str, Any]:
    """R of the cores and gpus among some vertices, as fluxion's find says it (``rv1_nosched``),
    and of all those in nodes of which only the node is among them, as with ``property=arm``, which
    fluxion leaves out."""
    if graph.same is not None:
        vertices = np.unique(graph.same[vertices])  # each shared node once
    kinds = {kind: graph.of_type(kind) for kind in ("core", "gpu")}
    leaf = np.isin(vertices, np.concatenate([*kinds.values()]))
    named = np.unique(graph.node_of[vertices[leaf]])
    alone = vertices[(graph.node_of[vertices] == vertices) & ~np.isin(vertices, named)]
    ranks = {}
    for node in sorted({*named.tolist(), *alone.tolist()} - {-1}):
        held = []
        for members in kinds.values():
            low, high = np.searchsorted(members, (node, graph.end[node]))
            inside = members[low:high]
            if node not in alone:
                inside = inside[np.isin(inside, vertices)]
            held.append(tuple(sorted(graph.local_id[inside].tolist())))
        if any(held):
            rank = int(graph.rank[node])
            ranks[node] = RankResources(rank, graph.names[node], held[0], held[1])
    return ResourceSet(tuple(sorted(ranks.values(), key=lambda item: item.rank))).to_r()


def vertices_of(graph: ResourceGraph, resources: ResourceSet) -> IntArray:
    """The core and gpu vertices that an R names, by rank, host and number, ascending.

    Raises BadInput for what the graph does not have.
    """
    remedy = "open the matcher again: the instance may have changed"
    nodes = graph.of_type(NODE).tolist()
    node_at = {(int(graph.rank[v]), graph.names[v]): v for v in nodes}
    found: list[int] = []
    for item in resources.ranks:
        node = node_at.get((item.rank, item.host))
        if node is None:
            what = f"no node {quoted(item.host)} of rank {item.rank} in the instance"
            raise BadInput(what, "execution.R_lite", remedy)
        inside = range(node + 1, int(graph.end[node]))
        number = {(graph.type_name(v), int(graph.local_id[v])): v for v in inside}
        named = [("core", i) for i in item.cores] + [("gpu", i) for i in item.gpus]
        missing = [f"{kind}{i}" for kind, i in named if (kind, i) not in number]
        if missing:
            what = f"{quoted(item.host)} has no {missing[0]}"
            raise BadInput(what, "execution.R_lite", remedy)
        found += [number[key] for key in named]
    return np.array(sorted(found), dtype=np.int64)
