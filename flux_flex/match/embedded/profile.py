"""Profile: the totals that are free in the whole graph, through time.

A step function of time for each leaf type, and one for nodes that nobody holds whole. A request
can only start where its needs are below these all through its time, which is found in a few array
operations. What passes is then looked at vertex by vertex, so a profile may promise too much, but
never too little.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from flux_flex.match.embedded.sharing import on_all_aliases
from flux_flex.match.embedded.spans import FIRST_LEAF, Claims, Span
from flux_flex.model.graph import NODE, IntArray, ResourceGraph

_Times = npt.NDArray[np.float64]

# After so many changes that nobody asked about in between, it is made anew when somebody does.
_PATIENCE = 32


class Profile:
    """``free[kind, i]`` is what is free in [times[i], times[i + 1]); the last step has no end.

    Kinds are the leaf types, in the order of the state's rows, and nodes held whole. The profile
    is only brought up to date when it is asked: many matchers only ever ask about the present.
    """

    def __init__(self, graph: ResourceGraph, full: IntArray, row_of_code: IntArray) -> None:
        """``full[kind, v]``: what is at and below a vertex, of each leaf type."""
        self._graph = graph
        self._full = full
        self._row_of_code = row_of_code
        self._amounts: WeakKeyDictionary[Span, IntArray] = WeakKeyDictionary()
        self._times: _Times | None = None  # None: to be made anew
        self._free: IntArray = np.zeros((len(full) + 1, 0), dtype=np.int64)
        self._changes: list[tuple[int, Span]] = []

    def copy(self) -> Profile:
        """A profile that is the same now and then changes by itself."""
        twin = Profile(self._graph, self._full, self._row_of_code)
        twin._amounts = self._amounts
        twin._times, twin._free = self._times, self._free.copy()
        twin._changes = list(self._changes)
        return twin

    def begin(self, span: Span) -> None:
        """Note that a span is held."""
        self._note(1, span)

    def end(self, span: Span) -> None:
        """Note that a span is not held any more."""
        self._note(-1, span)

    def fitting(
        self, times: _Times, needs: IntArray, duration_s: float, spans: Collection[Span]
    ) -> npt.NDArray[np.bool_]:
        """At which of ``times`` (ascending) ``needs[kind]`` are free, and stay so for
        ``duration_s``. ``spans`` are all that are held."""
        known = self._brought_up_to_date(spans)
        short: npt.NDArray[np.bool_] = np.any(self._free < needs[:, np.newaxis], axis=0)
        count = len(short)
        # For each step the time at which the first one that is too short begins, from it on.
        index = np.where(short, np.arange(count), count)
        next_short = np.minimum.accumulate(index[::-1])[::-1]
        until = np.append(known, math.inf)[next_short]
        step = np.searchsorted(known, times, side="right") - 1
        fitting: npt.NDArray[np.bool_] = ~short[step] & (until[step] >= times + duration_s)
        return fitting

    def amounts_of(self, claims: Claims) -> IntArray:
        """What claims take of each kind."""
        amounts = np.zeros(len(self._full) + 1, dtype=np.int64)
        if self._graph.same is not None:
            return self._amounts_once(on_all_aliases(claims, self._graph), amounts)
        amounts[:-1] = self._full[:, claims.whole].sum(axis=1)
        row = self._row_of_code[self._graph.type_of[claims.vertices]]
        np.add.at(amounts, row[row >= 0] - FIRST_LEAF, claims.amounts[row >= 0])
        nodes = self._graph.of_type(NODE)
        inside = np.searchsorted(nodes, self._graph.end[claims.whole])
        amounts[-1] = (inside - np.searchsorted(nodes, claims.whole)).sum()
        return amounts

    def _amounts_once(self, claims: Claims, amounts: IntArray) -> IntArray:
        """The same, added to ``amounts``, for claims on all aliases, of which one counts."""
        graph = self._graph
        assert graph.same is not None
        first = graph.same[claims.vertices] == claims.vertices
        vertices, taken = claims.vertices[first], claims.amounts[first]
        row = self._row_of_code[graph.type_of[vertices]]
        np.add.at(amounts, row[row >= 0] - FIRST_LEAF, taken[row >= 0])
        amounts[-1] = (taken[np.isin(vertices, graph.of_type(NODE))] > 0).sum()
        return amounts

    def _note(self, sign: int, span: Span) -> None:
        if self._times is None:
            return
        self._changes.append((sign, span))
        if len(self._changes) > _PATIENCE:
            self._times = None
            self._changes.clear()

    def _brought_up_to_date(self, spans: Collection[Span]) -> _Times:
        if self._times is None or len(self._times) > 8 * len(spans) + 64:
            self._times = self._made_anew(spans)
            self._changes.clear()
        for sign, span in self._changes:
            first, self._times = self._step_at(span.start, self._times)
            last, self._times = self._step_at(span.end, self._times)
            self._free[:, first:last] -= sign * self._taken(span)[:, np.newaxis]
        self._changes.clear()
        return self._times

    def _made_anew(self, spans: Collection[Span]) -> _Times:
        """All steps at once. They begin before all time, when everything was free."""
        starts = np.array([span.start for span in spans])
        ends = np.array([span.end for span in spans])
        times = np.unique(np.concatenate(([-math.inf], starts, ends[ends < math.inf])))
        change = np.zeros((len(self._free), len(times) + 1), dtype=np.int64)
        if len(starts):
            taken = np.stack([self._taken(span) for span in spans], axis=1)
            np.subtract.at(change.T, np.searchsorted(times, starts), taken.T)
            np.add.at(change.T, np.searchsorted(times, ends), taken.T)
        everything = self.amounts_of(
            Claims(np.zeros(1, dtype=np.int64), *np.zeros((2, 0), dtype=np.int64))
        )
        self._free = everything[:, np.newaxis] + np.cumsum(change[:, :-1], axis=1)
        return times

    def _taken(self, span: Span) -> IntArray:
        known = self._amounts.get(span)
        if known is None:
            known = self._amounts[span] = self.amounts_of(span.claims)
        return known

    def _step_at(self, time: float, times: _Times) -> tuple[int, _Times]:
        """The step that begins at a time, made by splitting one if need be."""
        place = int(np.searchsorted(times, time))
        if time == math.inf or (place < len(times) and times[place] == time):
            return place, times
        self._free = np.insert(self._free, place, self._free[:, place - 1], axis=1)
        return place, np.insert(times, place, time)
