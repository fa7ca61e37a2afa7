"""Leads: the score of the first slot that each home could give, kept from match to match.

To choose the best n of all slots in a graph it is enough to look into the n homes whose first
slots are best. Which these are is remembered for the present state, and only homes in which
something has changed since are looked at again, so that a match costs what is asked and not what
the graph holds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flux_flex.match.embedded.planner import Planner
from flux_flex.match.embedded.request import Ask
from flux_flex.model.graph import IntArray

# No slot at all: behind every score.
NONE = np.iinfo(np.int64).max

# So many requests have their leads kept, each a number for every home.
_KEPT = 64


class Leads:
    """The leads of the slots that one matcher was asked for, by request."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._known: dict[int, tuple[Ask, int, IntArray]] = {}

    def of(self, slot: Ask, score: Callable[[IntArray], IntArray]) -> IntArray:
        """The score of the first slot in each home of ``slot``, shape (n_homes,), NONE for none.

        ``score`` works it out for some homes, given by number.
        """
        planner = self._planner
        known = self._known.get(id(slot))
        changed = planner.changed_since(known[1]) if known is not None else None
        if known is None or changed is None:
            scores = score(np.arange(len(slot.homes)))
        else:
            scores = known[2]
            if changed.size:
                stale = self._homes_of(slot, changed)
                scores[stale] = score(stale)
        if known is None and len(self._known) >= _KEPT:
            del self._known[next(iter(self._known))]
        self._known[id(slot)] = (slot, planner.version, scores)
        return scores

    def _homes_of(self, slot: Ask, vertices: IntArray) -> IntArray:
        """The homes in which ``vertices`` lie, or which lie in one of them."""
        graph = self._planner.graph
        first = np.searchsorted(slot.homes, vertices, side="right") - 1
        first[first < 0] = 0
        outside = graph.end[slot.homes[first]] <= vertices
        first = first + outside
        last = np.maximum(np.searchsorted(slot.homes, graph.end[vertices]), first)
        inside = first < len(slot.homes)
        numbers = np.concatenate(
            [first[inside & (last == first) & ~outside]]
            + [np.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True) if b > a]
        )
        return np.unique(numbers)
