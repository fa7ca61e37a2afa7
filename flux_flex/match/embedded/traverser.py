"""Traverser: find the vertices for a request in one state of the planner.

Two passes. Bottom up, whole arrays at a time, it counts what each vertex could supply: first
:meth:`Traversal.supply`, with :meth:`Traversal.qualified` for vertices that have requests below
them. Top down, it then picks as many as are wanted, by the policy's preference, and lists what
is claimed. Nothing here changes the planner for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flux_flex.match.embedded.planner import IDLE, OWN, Planner
from flux_flex.match.embedded.policies import Preference, ordered
from flux_flex.match.embedded.request import Ask, Request
from flux_flex.model.graph import BoolArray, IntArray, ResourceGraph


class _NoFit(Exception):  # noqa: N818 - a way out of the recursion, never seen outside
    """The picks so far leave too little for the rest of the request."""


@dataclass(slots=True)
class Choice:
    """What a traversal picked.

    ``shown`` is what the match lists: vertex to (amount, exclusive). ``claims`` is what becomes
    unavailable, vertex to amount: an exclusive vertex takes all that is below it along.
    """

    shown: dict[int, tuple[int, bool]] = field(default_factory=dict)
    claims: dict[int, int] = field(default_factory=dict)


class Traversal:
    """One look at one state, for one request."""

    def __init__(
        self, planner: Planner, request: Request, up: BoolArray | None, prefer: Preference
    ) -> None:
        self.planner = planner
        self.graph: ResourceGraph = planner.graph
        self.state = planner.state
        self.request = request
        self.prefer = prefer
        self.eligible = _both(request.eligible, up)
        self._qualified: dict[int, BoolArray] = {}

    def choose(self) -> Choice | None:
        """The vertices for the whole request, or None where it does not fit this state."""
        choice = Choice()
        try:
            self._pick_siblings(self.request.asks, self.request.contested, 0, choice)
        except _NoFit:
            return None
        self._show_above(choice)
        return choice

    # -- bottom up: what could be supplied ------------------------------------------------------

    def supply(self, ask: Ask) -> IntArray:
        """How many of ``ask`` each of its homes could give, shape (n_homes,)."""
        if ask.is_slot:
            return self._slots(ask)
        if ask.row >= 0 and not ask.pooled and (self.eligible is None or ask.in_nodes):
            counted: IntArray = self.state[ask.row, ask.homes]
            return counted if self.eligible is None else counted * self.eligible[ask.homes]
        before = np.concatenate(([0], np.cumsum(self._amount(ask))))
        found: IntArray = before[ask.high] - before[ask.low]
        return found

    def qualified(self, ask: Ask) -> BoolArray:
        """Which candidates of ``ask`` could serve it, with all it wants below them."""
        known = self._qualified.get(id(ask))
        if known is None:
            known = self._usable(ask)
            for child in ask.children:
                known = known & (self.supply(child) >= child.count.least)
            if ask.contested:
                known = self._not_fought_over(ask, known)
            self._qualified[id(ask)] = known
        return known

    def _usable(self, ask: Ask) -> BoolArray:
        """Candidates that are up, meet the constraint, and are free as the request wants."""
        if ask.exclusive:
            usable = self.state[IDLE, ask.candidates] == 0
        else:
            usable = self.state[OWN, ask.candidates] > 0
        return usable if self.eligible is None else usable & self.eligible[ask.candidates]

    def _amount(self, ask: Ask) -> IntArray:
        """What each candidate counts for: a pool its free amount, any other vertex 1."""
        good = self.qualified(ask)
        return np.where(good, self.state[OWN, ask.candidates], 0) if ask.row >= 0 else 1 * good

    def _slots(self, slot: Ask) -> IntArray:
        each = [self.supply(content) // content.count.least for content in slot.children]
        slots = each[0] if len(each) == 1 else np.minimum.reduce(each)
        if slot.contested:
            total = sum(content.count.least for content in slot.children)
            slots = np.minimum.reduce([self.supply(c) // total for c in slot.children])
        for content in slot.children:
            if content.pooled:
                slots = self._whole_pools(content, slots)
        return slots

    def _whole_pools(self, content: Ask, slots: IntArray) -> IntArray:
        """Fewer slots where a pool is larger than one slot wants: a pool is not split between
        slots, since each has its resources for itself."""
        kept = slots.copy()
        for h in np.flatnonzero(slots):
            sizes = self.graph.size[self._preferred(content, h)].tolist()
            kept[h] = min(int(slots[h]), _groups(sizes, content.count.least))
        return kept

    def _not_fought_over(self, ask: Ask, known: BoolArray) -> BoolArray:
        """Of ``known`` candidates, those in which a trial pick of all children succeeds."""
        kept = known.copy()
        for i in np.flatnonzero(known):
            try:
                self._pick_siblings(ask.children, True, int(i), Choice())
            except _NoFit:
                kept[i] = False
        return kept

    # -- top down: which to take ----------------------------------------------------------------

    def _pick_siblings(
        self, asks: tuple[Ask, ...], contested: bool, home: int, choice: Choice
    ) -> None:
        """Pick for each of ``asks`` within its home number ``home``."""
        if not contested:
            for ask in asks:
                self._pick(ask, home, choice)
            return
        # One after the other on a state that each changes for the next, put right at the end.
        kept, outer = self.state, self._qualified
        self.state = kept.copy()
        try:
            for ask in asks:
                self._qualified = {}
                mine = Choice()
                self._pick(ask, home, mine)
                self.planner.take_from(self.state, *claim_arrays(mine))
                choice.shown |= mine.shown
                choice.claims |= mine.claims
        finally:
            self.state, self._qualified = kept, outer

    def _pick(self, ask: Ask, home: int, choice: Choice) -> None:
        if ask.is_slot:
            self._pick_slots(ask, home, choice)
            return
        available = int(self.supply(ask)[home])
        wanted = ask.count.largest_within(available)
        if not wanted:
            raise _NoFit
        self._take(ask, home, wanted, choice)

    def _pick_slots(self, slot: Ask, home: int, choice: Choice) -> None:
        slots = self._slots(slot)
        if slot.spread:
            wanted = slot.count.largest_within(int(slots.sum()))
            share = self._share_out(slot, slots, wanted)
        else:
            wanted = slot.count.largest_within(int(slots[home]))
            share = np.zeros_like(slots)
            share[home] = wanted
        if not wanted:
            raise _NoFit
        for h in np.flatnonzero(share):
            self._fill(slot, int(h), int(share[h]), choice)

    def _fill(self, slot: Ask, home: int, n: int, choice: Choice) -> None:
        """Take the contents of ``n`` slots in one home."""
        for content in slot.children:
            if content.pooled and content.row >= 0:
                for _ in range(n):
                    self._take(content, home, content.count.least, choice)
            else:
                self._take(content, home, n * content.count.least, choice)

    def _share_out(self, slot: Ask, slots: IntArray, wanted: int) -> IntArray:
        """How many of ``wanted`` slots each home gives, of the ``slots`` that it has.

        The slots of one home are ranked by the number of their first vertex, and so are those
        of all homes together; equal ones go to the earlier home.
        """
        first = slot.children[0]
        home, rank, vertex = self._ranked(first)
        per_slot = first.count.least
        leads = (rank % per_slot == 0) & (rank // per_slot < slots[home])
        home, vertex = home[leads], vertex[leads]
        best = np.argsort(self.prefer(self.graph.local_id[vertex]), kind="stable")[:wanted]
        share = np.bincount(home[best], minlength=len(slots))
        missing = wanted - int(share.sum())
        if missing > 0:  # pools of several units: fewer vertices lead than there are slots
            room = slots - share
            share = share + np.diff(np.minimum(np.cumsum(room), missing), prepend=0)
        return share

    def _ranked(self, ask: Ask) -> tuple[IntArray, IntArray, IntArray]:
        """Usable candidates of all homes: (home, rank by preference within it, vertex)."""
        length = ask.high - ask.low
        home = np.repeat(np.arange(len(length)), length)
        place = np.arange(len(home)) + np.repeat(ask.low - (np.cumsum(length) - length), length)
        kept = self.qualified(ask)[place]
        home, vertex = home[kept], ask.candidates[place[kept]]
        order = np.lexsort((self.prefer(self.graph.local_id[vertex]), home))
        home, vertex = home[order], vertex[order]
        start = np.searchsorted(home, np.arange(len(ask.homes)))
        return home, np.arange(len(home)) - start[home], vertex

    def _preferred(self, ask: Ask, home: int) -> IntArray:
        """Usable candidates in one home, the preferred ones first."""
        window = slice(ask.low[home], ask.high[home])
        usable = self.qualified(ask)[window]
        return ordered(ask.candidates[window][usable], self.graph.local_id, self.prefer)

    def _take(self, ask: Ask, home: int, wanted: int, choice: Choice) -> None:
        """Take ``wanted`` of ``ask`` in a home: vertices, or amounts of pools."""
        for vertex in self._preferred(ask, home).tolist():
            if wanted <= 0:
                return
            if vertex in choice.claims:
                continue
            wanted -= self._take_one(ask, vertex, wanted, choice)
        if wanted > 0:
            raise _NoFit

    def _take_one(self, ask: Ask, vertex: int, wanted: int, choice: Choice) -> int:
        size = int(self.graph.size[vertex])
        if ask.row >= 0:
            taken = size if ask.exclusive else min(wanted, int(self.state[OWN, vertex]))
            choice.shown[vertex] = (taken, ask.exclusive)
            choice.claims[vertex] = taken
            return taken
        choice.shown[vertex] = (size, ask.exclusive)
        candidate = int(np.searchsorted(ask.candidates, vertex))
        self._pick_siblings(ask.children, ask.contested, candidate, choice)
        if ask.exclusive:
            inside = range(vertex, int(self.graph.end[vertex]))
            sizes = self.graph.size[inside.start : inside.stop].tolist()
            choice.claims.update(zip(inside, sizes, strict=True))
            if ask.whole:  # said in the jobspec, not implied by a slot: all of it is listed
                choice.shown.update((v, (n, True)) for v, n in zip(inside, sizes, strict=True))
        return 1

    def _show_above(self, choice: Choice) -> None:
        """List the vertices on the way from the root, which are shared."""
        parent = self.graph.parent
        for vertex in list(choice.shown):
            above = int(parent[vertex])
            while above >= 0 and above not in choice.shown:
                choice.shown[above] = (int(self.graph.size[above]), False)
                above = int(parent[above])


def claim_arrays(choice: Choice) -> tuple[IntArray, IntArray]:
    """The claims as (vertices, amounts)."""
    n = len(choice.claims)
    return (
        np.fromiter(choice.claims.keys(), dtype=np.int64, count=n),
        np.fromiter(choice.claims.values(), dtype=np.int64, count=n),
    )


def _groups(sizes: list[int], wanted: int) -> int:
    """How many groups of at least ``wanted`` in all can be gathered in this order."""
    groups = gathered = 0
    for size in sizes:
        gathered += size
        if gathered >= wanted:
            groups, gathered = groups + 1, 0
    return groups


def _both(one: BoolArray | None, other: BoolArray | None) -> BoolArray | None:
    if one is None or other is None:
        return one if other is None else other
    return one & other
