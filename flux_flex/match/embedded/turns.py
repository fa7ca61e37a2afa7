"""Turns: picking where candidates are the same vertex by different paths.

Containers that share nodes compete: what one takes the next can no longer have. So wherever two
candidates of a request overlap, they are tried one after the other, each in the state that those
before it left, and who finds nothing left is passed over for the next.
"""

from __future__ import annotations

import numpy as np

from flux_flex.match.embedded.choice import Choice
from flux_flex.match.embedded.policies import preferred
from flux_flex.match.embedded.request import Ask
from flux_flex.match.embedded.sharing import given_twice
from flux_flex.match.embedded.traverser import NoFit, Traversal
from flux_flex.model.graph import IntArray, ResourceGraph, expand

# Who found nothing left goes first in another round; so many rounds are tried.
_ROUNDS = 6

_ROOT = np.zeros(1, dtype=np.int64)


class SharingTraversal(Traversal):
    """A traversal of a graph in which vertices are shared."""

    def choose(self) -> Choice | None:
        choice = super().choose()
        # A policy that takes nodes whole may have taken one by two paths.
        if choice is not None and given_twice(choice.shown, self.graph):
            return None
        return choice

    def _pick_siblings(
        self, asks: tuple[Ask, ...], contested: bool, homes: IntArray, choice: Choice
    ) -> None:
        if contested or any(overlaps(ask, homes, self.graph) for ask in asks if not ask.spread):
            apart = [
                ask if ask.spread else ask.within(home, home + 1)
                for home in homes.tolist()
                for ask in asks
            ]
            if len(apart) > 1:
                self._pick_in_turn(tuple(apart), choice)
                return
        super()._pick_siblings(asks, False, homes, choice)

    def _pick(self, ask: Ask, homes: IntArray, choice: Choice) -> None:
        if not self._overlaps(ask, homes):
            super()._pick(ask, homes, choice)
            return
        supply = self.supply(ask)
        most = ask.count.largest_within(int((supply if ask.spread else supply[homes]).sum()))
        found = self._in_turn(ask, int(homes[0]), most)
        wanted = ask.count.largest_within(len(found)) if most else 0
        if not wanted:
            raise NoFit
        for each in found[:wanted]:
            choice.add(each)

    def _take(self, ask: Ask, homes: IntArray, wanted: IntArray, choice: Choice) -> None:
        if not self._overlaps(ask, homes):
            super()._take(ask, homes, wanted, choice)
            return
        for home, n in zip(homes.tolist(), wanted.tolist(), strict=True):
            found = self._in_turn(ask, home, n)
            if len(found) < n:
                raise NoFit
            for each in found:
                choice.add(each)

    def _overlaps(self, ask: Ask, homes: IntArray) -> bool:
        everywhere = np.arange(len(ask.homes))
        return overlaps(ask, everywhere if ask.spread else homes, self.graph)

    def _in_turn(self, ask: Ask, home: int, wanted: int) -> list[Choice]:
        """Up to ``wanted`` of ``ask``, in a home unless they are spread, each fitting beside the
        others."""
        if ask.is_slot:
            return self._round(ask, wanted, self._homes_by_preference(ask, home), [])
        _, _, vertices = self._ranked(ask, np.array([home]))
        order = vertices.tolist()
        best: list[Choice] = []
        for _ in range(_ROUNDS):
            passed_over: list[int] = []
            found = self._round(ask, wanted, order, passed_over)
            if len(found) > len(best):
                best = found
            if len(best) == wanted or not passed_over or order[0] in passed_over:
                break
            order = passed_over + [v for v in order if v not in set(passed_over)]
        return best

    def _homes_by_preference(self, slot: Ask, home: int) -> list[int]:
        """The homes of a slot, as often as each may give one; the preferred first."""
        supply = self.supply(slot)
        homes = np.flatnonzero(supply) if slot.spread else np.array([home])
        if not supply[homes].sum():
            return []
        home_of, score = self._slot_scores(slot, homes, supply[homes])
        numbers: list[int] = home_of[preferred(score)].tolist()
        return numbers

    def _round(
        self, ask: Ask, wanted: int, order: list[int], passed_over: list[int]
    ) -> list[Choice]:
        """Try candidates (of a slot: homes) in an order, noting those in which nothing fits."""
        found: list[Choice] = []
        kept = self._supply, self._qualified, self.leads
        self.leads = None  # they are of the state without what is tried here
        try:
            with self.planner.trial() as take:
                for candidate in order:
                    if len(found) == wanted:
                        break
                    self._supply, self._qualified = {}, {}
                    mine = Choice()
                    try:
                        self._take_one(ask, candidate, mine)
                    except NoFit:
                        passed_over.append(candidate)
                        continue
                    alone = self.policy.whole_nodes
                    take((mine.with_whole_nodes(self.graph) if alone else mine).claims())
                    found.append(mine)
        finally:
            self._supply, self._qualified, self.leads = kept
        return found

    def _take_one(self, ask: Ask, candidate: int, choice: Choice) -> None:
        if ask.is_slot:
            contents = tuple(child.within(candidate, candidate + 1) for child in ask.children)
            self._pick_in_turn(contents, choice, 1)
            return
        vertex = np.array([candidate])
        if not self.qualified(ask)[np.searchsorted(ask.candidates, candidate)]:
            raise NoFit
        self._take_vertices(ask, vertex, choice)


def overlaps(ask: Ask, homes: IntArray, graph: ResourceGraph) -> bool:
    """Whether two candidates of ``ask`` in some homes, given by number, or of what it wants below
    them, are aliases, or have aliases in them that are taken with them."""
    if ask.is_slot:
        return any(overlaps(content, homes, graph) for content in ask.children)
    assert graph.same is not None
    numbers = expand(ask.low[homes], ask.high[homes])
    vertices = ask.candidates[numbers]
    taken = expand(vertices, graph.end[vertices]) if ask.exclusive else vertices
    if len(np.unique(graph.same[taken])) < len(taken):
        return True
    return any(overlaps(child, numbers, graph) for child in ask.children)
