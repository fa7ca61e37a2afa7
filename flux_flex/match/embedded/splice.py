"""Splice: a planner's spans carried to a graph that has grown or shrunk.

What jobs hold keeps its meaning and gets new numbers: the entries that each changes in the state
are renumbered, not worked out again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flux_flex.match.embedded.discovery import Order
from flux_flex.match.embedded.planner import Planner
from flux_flex.match.embedded.spans import FIRST_LEAF, Claims, Delta, Span
from flux_flex.match.matcher import Match
from flux_flex.model.graph import BoolArray, IntArray
from flux_flex.model.splice import Spliced


def carried(planner: Planner, empty: Planner, spliced: Spliced) -> tuple[Planner, dict[Span, Span]]:
    """A planner of ``spliced.graph`` that holds the same, and which of its spans was which.

    ``empty`` is a planner of that graph in which nothing is held. Nothing that is held may be gone
    from the graph.
    """
    fresh = empty.fork()
    fresh.advance(planner.now)
    rows = _rows(planner, fresh)
    was: dict[Span, Span] = {}
    for span in planner.spans.values():
        claims = _moved_claims(span.claims, spliced.moved)
        if rows is None:
            held = fresh.add(span.jobid, span.start, span.end, claims)
        else:
            delta = _moved_delta(span.delta, rows, spliced.moved, len(spliced.graph))
            held = fresh.hold(replace(span, claims=claims, delta=delta))
        assert held is not None  # it had not ended
        was[span] = held
    fresh.version = planner.version + 1
    return fresh, was


def moved_match(match: Match, spliced: Spliced) -> Match:
    """A match on the graph after the change."""
    picked = tuple((spliced.moved[v], amounts, only) for v, amounts, only in match.picked)
    return replace(match, graph=spliced.graph, picked=picked)


def moved_up(up: BoolArray | None, spliced: Spliced) -> BoolArray | None:
    """What is up after the change; new vertices are as what they were added to."""
    if up is None:
        return None
    kept = spliced.moved >= 0
    now = np.ones(len(spliced.graph), dtype=bool)
    now[spliced.moved[kept]] = up[kept]
    above = spliced.graph.parent[spliced.added]
    tops = ~np.isin(above, spliced.added)
    for vertex, parent in zip(spliced.added[tops].tolist(), above[tops].tolist(), strict=True):
        now[vertex : spliced.graph.end[vertex]] = now[parent]
    return None if now.all() else now


def moved_order(order: Order, spliced: Spliced) -> Order:
    """The order of discovery, with what it has learnt of the vertices that stay."""
    return order.on(spliced.graph, spliced.moved)


def _rows(old: Planner, new: Planner) -> IntArray | None:
    """The row of ``new`` for each row of ``old``, -1 for none; None where a type has become one
    that is counted, or is not counted any more."""
    if any(kind in old.graph.types for kind in new.leaf_row.keys() - old.leaf_row.keys()):
        return None
    if any(kind in new.graph.types for kind in old.leaf_row.keys() - new.leaf_row.keys()):
        return None
    counted = [new.leaf_row.get(kind, -1) for kind in old.leaf_row]
    return np.array([*range(FIRST_LEAF), *counted])


def _moved_claims(claims: Claims, moved: IntArray) -> Claims:
    return Claims(
        moved[claims.whole], moved[claims.vertices], claims.amounts, moved[claims.unlisted]
    )


def _moved_delta(delta: Delta, rows: IntArray, moved: IntArray, n: int) -> Delta:
    row, vertex = np.divmod(delta.index, len(moved))
    row = rows[row]
    index = row * n + moved[vertex]
    if row.min(initial=0) >= 0:
        return Delta(index, delta.amount)
    # A type that is gone had rows, in which nothing was taken.
    kept = row >= 0
    return Delta(index[kept], delta.amount[kept])
