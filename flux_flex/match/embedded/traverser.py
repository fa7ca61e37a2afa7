"""Traverser: find the vertices for a request in one state of the planner.

Two passes over whole arrays. Bottom up it counts what each vertex could supply:
:meth:`Traversal.supply`, with :meth:`Traversal.qualified` for vertices that have requests below
them. Top down it picks as many as are wanted in each *home*, a vertex that supplies are counted
in, by the policy's preference, and lists what is claimed. Nothing here changes the planner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from flux_flex.match.embedded.choice import Choice
from flux_flex.match.embedded.discovery import Discovery, Order
from flux_flex.match.embedded.leads import NONE, Leads
from flux_flex.match.embedded.planner import Planner
from flux_flex.match.embedded.policies import MAX_FOLLOWED, Policy, preferred, run_keys
from flux_flex.match.embedded.request import Ask, Request
from flux_flex.match.embedded.spans import IDLE, OWN
from flux_flex.model.closeness import closest
from flux_flex.model.graph import NODE, BoolArray, IntArray, ResourceGraph, expand


class NoFit(Exception):
    """The picks so far leave too little for the rest of the request."""


class Traversal:
    """One look at one state, for one request."""

    def __init__(
        self,
        planner: Planner,
        request: Request,
        up: BoolArray | None,
        policy: Policy,
        keys: IntArray,
        order: Order | None = None,
        leads: Leads | None = None,
    ) -> None:
        self.planner = planner
        self.graph: ResourceGraph = planner.graph
        self.state = planner.state
        self.request = request
        self.policy = policy
        self.keys = keys
        self.order = order
        self.leads = leads
        self.up = up
        self.eligible = _both(request.eligible, up)
        if policy.whole_nodes:
            self.eligible = _both(self.eligible, self._not_shared())
        self._supply: dict[int, IntArray] = {}
        self._qualified: dict[int, BoolArray] = {}

    def choose(self) -> Choice | None:
        """The vertices for the whole request, or None where it does not fit this state."""
        if self.order is not None and not self.request.competing:
            met = self._discover(self.order)
            if met is not None:
                return met
            # What one walk does not meet, since it looks for two things in one place, may fit.
        choice = Choice()
        try:
            self._pick_siblings(self.request.asks, self.request.contested, _ROOT, choice)
        except NoFit:
            return None
        return choice.with_whole_nodes(self.graph) if self.policy.whole_nodes else choice

    def _discover(self, order: Order) -> Choice | None:
        walk = Discovery(
            self.state, self.graph, order, self.keys, self.eligible, self.up, self._has_enough
        )
        return walk.choose(self.request.asks)

    def _has_enough(self) -> bool:
        """Whether each ask at the top could be served, for all that the others want."""
        return all(int(self.supply(ask).sum()) >= ask.count.least for ask in self.request.asks)

    def _not_shared(self) -> BoolArray | None:
        """All outside of nodes of which another job holds a part, where there are such: what was
        allocated elsewhere need not be whole nodes."""
        nodes = self.graph.of_type(NODE)
        shared = nodes[(self.state[IDLE, nodes] != 0) & (self.state[OWN, nodes] > 0)]
        if not shared.size:
            return None
        free = np.ones(len(self.graph), dtype=bool)
        free[expand(shared, self.graph.end[shared])] = False
        return free

    # -- bottom up: what could be supplied ------------------------------------------------------

    def supply(self, ask: Ask) -> IntArray:
        """How many of ``ask`` each of its homes could give, shape (n_homes,)."""
        known = self._supply.get(id(ask))
        if known is None:
            known = self._slots(ask) if ask.is_slot else self._counted(ask)
            self._supply[id(ask)] = known
        return known

    def _counted(self, ask: Ask) -> IntArray:
        if ask.row >= 0 and not ask.pooled and (self.eligible is None or ask.in_nodes):
            counted: IntArray = self.state[ask.row, ask.homes]
            return counted if self.eligible is None else counted * self.eligible[ask.homes]
        good = self.qualified(ask)
        amount = np.where(good, self.state[OWN, ask.candidates], 0) if ask.row >= 0 else good
        before = np.zeros(len(good) + 1, dtype=np.int64)
        np.cumsum(amount, out=before[1:])
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
        return self._free(ask, ask.candidates)

    def _free(self, ask: Ask, vertices: IntArray) -> BoolArray:
        """Which of some candidates are up, meet the constraint and are free as is wanted."""
        if ask.exclusive:
            free: BoolArray = self.state[IDLE, vertices] == 0
        else:
            free = self.state[OWN, vertices] > 0
        if self.eligible is not None:
            free = free & self.eligible[vertices]
        if self.up is not None and ask.exclusive and ask.row < 0:
            down = np.concatenate(([0], np.cumsum(~self.up)))
            free = free & (down[self.graph.end[vertices]] == down[vertices])
        return free

    def _slots(self, slot: Ask) -> IntArray:
        contents = slot.children
        each = [self.supply(content) // content.count.least for content in contents]
        slots: IntArray = each[0] if len(each) == 1 else np.minimum.reduce(each)
        for content in contents:
            if content.pooled and content.row >= 0:
                slots = self._whole_pools(content, slots)
        return self._slots_at_once(slot, slots) if slot.contested else slots

    def _whole_pools(self, content: Ask, slots: IntArray) -> IntArray:
        """Fewer slots where a pool is larger than one slot wants: a pool is not split between
        slots, since each has its resources for itself."""
        kept: IntArray = slots.copy()
        for home in np.flatnonzero(slots):
            _, _, pools = self._ranked(content, np.array([home]))
            groups = _groups(self.graph.size[pools].tolist(), content.count.least)
            kept[home] = min(int(slots[home]), len(groups))
        return kept

    def _slots_at_once(self, slot: Ask, slots: IntArray) -> IntArray:
        """Of ``slots`` in each home, as many as a trial pick of all their contents allows."""
        kept: IntArray = slots.copy()
        for home in np.flatnonzero(slots).tolist():
            least, most = 0, int(slots[home])
            while least < most:
                middle = (least + most + 1) // 2
                if self._fits(_contents(slot, home), middle):
                    least = middle
                else:
                    most = middle - 1
            kept[home] = least
        return kept

    def _fits(self, asks: tuple[Ask, ...], slots: int | None = None) -> bool:
        try:
            self._pick_in_turn(asks, Choice(), slots)
        except NoFit:
            return False
        return True

    def _not_fought_over(self, ask: Ask, known: BoolArray) -> BoolArray:
        """Of ``known`` candidates, those in which a trial pick of all children succeeds."""
        kept: BoolArray = known.copy()
        for candidate in np.flatnonzero(known).tolist():
            kept[candidate] = self._fits(_contents(ask, candidate))
        return kept

    # -- top down: which to take ----------------------------------------------------------------

    def _pick_siblings(
        self, asks: tuple[Ask, ...], contested: bool, homes: IntArray, choice: Choice
    ) -> None:
        """Pick for each of ``asks`` within each of ``homes``, given by number."""
        if not contested:
            for ask in asks:
                self._pick(ask, homes, choice)
            return
        for home in homes.tolist():
            mine = (ask if ask.spread else ask.within(home, home + 1) for ask in asks)
            self._pick_in_turn(tuple(mine), choice)

    def _pick_in_turn(
        self, asks: tuple[Ask, ...], choice: Choice, slots: int | None = None
    ) -> None:
        """Pick for ``asks`` of one home, or for so many slots of them, one after the other: each
        finds the state without what those before it took."""
        kept = self._supply, self._qualified, self.leads
        self.leads = None  # they are of the state without what is tried here
        try:
            with self.planner.trial() as take:
                for ask in asks:
                    self._supply, self._qualified = {}, {}
                    mine = Choice()
                    if slots is None:
                        self._pick(ask, _ROOT, mine)
                    else:
                        self._take_for_slots(ask, _ROOT, np.array([slots]), mine)
                    take(mine.claims())
                    choice.add(mine)
        finally:
            self._supply, self._qualified, self.leads = kept

    def _pick(self, ask: Ask, homes: IntArray, choice: Choice) -> None:
        supply = self.supply(ask)
        if ask.spread:
            wanted = ask.count.largest_within(int(supply.sum()))
            if not wanted:
                raise NoFit
            if self.policy.by_runs and not ask.contested:
                self._take_by_runs(ask, supply, wanted, choice)
                return
            share = self._shares(ask, supply, wanted)
            homes = np.flatnonzero(share)
            self._take(ask, homes, share[homes], choice)
            return
        available = supply[homes]
        if ask.count.least == ask.count.most:
            wanted_of = np.full(len(homes), ask.count.least)
        else:
            wanted_of = np.array([ask.count.largest_within(n) for n in available.tolist()])
        if (available < ask.count.least).any() or not wanted_of.all():
            raise NoFit
        self._take(ask, homes, wanted_of, choice)

    def _take(self, ask: Ask, homes: IntArray, wanted: IntArray, choice: Choice) -> None:
        """Take ``wanted[i]`` of ``ask`` in ``homes[i]``."""
        if ask.is_slot:
            if ask.contested:
                for home, slots in zip(homes.tolist(), wanted.tolist(), strict=True):
                    self._pick_in_turn(_contents(ask, home), choice, slots)
                return
            for content in ask.children:
                self._take_for_slots(content, homes, wanted, choice)
            return
        pools = ask.pooled and ask.row >= 0
        if self.policy.nearest and not pools and (ask.row < 0 or not ask.in_nodes):
            self._take_nearest(ask, homes, wanted, choice)
            return
        place, rank, vertices = self._ranked(ask, homes)
        if pools:
            self._take_pools(ask, place, vertices, wanted, choice)
            return
        kept = rank < wanted[place]
        vertices = vertices[kept]
        if len(vertices) < wanted.sum():
            raise NoFit
        self._take_vertices(ask, vertices, choice)

    def _take_nearest(self, ask: Ask, homes: IntArray, wanted: IntArray, choice: Choice) -> None:
        """In each home the vertices that are nearest to each other."""
        place, _, vertices = self._ranked(ask, homes)
        taken = []
        for i, n in enumerate(wanted.tolist()):
            mine = np.sort(vertices[place == i])
            if len(mine) < n:
                raise NoFit
            share = closest(self.graph.parent, mine, np.ones(len(mine), dtype=np.int64), n)
            taken.append(mine[share > 0])
        self._take_vertices(ask, np.concatenate(taken), choice)

    def _take_for_slots(
        self, content: Ask, homes: IntArray, slots: IntArray, choice: Choice
    ) -> None:
        """Take what ``slots[i]`` slots in ``homes[i]`` hold of one content."""
        if content.pooled and content.row >= 0:
            self._take_whole_pools(content, homes, slots, choice)
        else:
            self._take(content, homes, slots * content.count.least, choice)

    def _take_vertices(self, ask: Ask, vertices: IntArray, choice: Choice) -> None:
        sizes = self.graph.size[vertices]
        if ask.row >= 0:
            choice.shown.append((vertices, sizes, ask.exclusive))
            choice.leaves.append((vertices, sizes))
            return
        if ask.exclusive:
            choice.whole.append(vertices)
        if ask.whole and not ask.contested:
            # Exclusive by its own word, not by a slot's: all that is below it is listed too, so
            # what exactly would serve its children does not matter.
            inside = expand(vertices, self.graph.end[vertices])
            choice.shown.append((inside, self.graph.size[inside], True))
            return
        choice.shown.append((vertices, sizes, ask.exclusive))
        if ask.children:
            below = Choice()
            numbers = np.searchsorted(ask.candidates, vertices)
            self._pick_siblings(ask.children, ask.contested, numbers, below)
            choice.shown += below.shown
            if not ask.exclusive:
                choice.whole += below.whole
                choice.leaves += below.leaves
        elif not ask.exclusive:
            choice.leaves.append((vertices, np.zeros_like(vertices)))  # shared, but in use

    def _take_pools(
        self, ask: Ask, place: IntArray, pools: IntArray, wanted: IntArray, choice: Choice
    ) -> None:
        """Amounts of pools, one pool after the other until there is enough."""
        left = wanted.tolist()
        free = self.state[OWN, pools].tolist()
        taken = []
        for i, home in enumerate(place.tolist()):
            most = free[i] if ask.exclusive else min(free[i], left[home])
            taken.append(most if left[home] > 0 else 0)
            left[home] -= taken[-1]
        amounts = np.array(taken, dtype=np.int64)
        kept = amounts > 0
        choice.shown.append((pools[kept], amounts[kept], ask.exclusive))
        choice.leaves.append((pools[kept], amounts[kept]))

    def _take_whole_pools(
        self, content: Ask, homes: IntArray, slots: IntArray, choice: Choice
    ) -> None:
        """Whole pools for each slot, as :meth:`_whole_pools` counted them."""
        for home, n in zip(homes, slots.tolist(), strict=True):
            _, _, pools = self._ranked(content, np.array([home]))
            groups = _groups(self.graph.size[pools].tolist(), content.count.least)
            if len(groups) < n:
                raise NoFit
            taken = pools[: groups[n - 1]]
            choice.shown.append((taken, self.graph.size[taken], True))
            choice.leaves.append((taken, self.graph.size[taken]))

    def _shares(self, slot: Ask, slots: IntArray, wanted: int) -> IntArray:
        """How many of ``wanted`` slots each home gives, of the ``slots`` that it has."""
        if not self.policy.nearest:
            return self._share_out(slot, slots, wanted)
        homes = np.flatnonzero(slots)
        share = np.zeros_like(slots)
        share[homes] = closest(self.graph.parent, slot.homes[homes], slots[homes], wanted)
        return share

    def _share_out(self, slot: Ask, slots: IntArray, wanted: int) -> IntArray:
        """The best slots by score, as shares of the homes.

        A slot scores the sum of what its vertices score; within a home the slots are made of the
        preferred vertices in turn.
        """
        homes = np.flatnonzero(slots)
        if int(slots.sum()) > MAX_FOLLOWED and len(homes) > wanted:
            homes = self._leading(slot, slots, wanted)
        home, score = self._slot_scores(slot, homes, slots[homes])
        best = preferred(score)[:wanted]
        return np.bincount(home[best], minlength=len(slots))

    def _take_by_runs(self, slot: Ask, slots: IntArray, wanted: int, choice: Choice) -> None:
        """The best slots by the runs of their scores, the first of their homes or not."""
        homes = np.flatnonzero(slots)
        held = list(self._in_slots(slot, homes, slots[homes]))
        score = self._scores(held, int(slots.sum()))
        chosen = np.zeros(len(score), dtype=bool)
        chosen[preferred(run_keys(score))[:wanted]] = True
        for content, into, vertices in held:
            self._take_vertices(content, vertices[chosen[into]], choice)

    def _leading(self, slot: Ask, slots: IntArray, wanted: int) -> IntArray:
        """The ``wanted`` homes whose first slots are best: the best slots are all in them."""
        leads = np.where(slots > 0, self._leads(slot), NONE)
        worst = np.partition(leads, wanted - 1)[wanted - 1]
        better = np.flatnonzero(leads < worst)
        equal = np.flatnonzero(leads == worst)[: wanted - len(better)]
        found: IntArray = np.sort(np.concatenate((better, equal)))
        return found

    def _leads(self, slot: Ask) -> IntArray:
        if self.leads is not None and self.eligible is None:
            return self.leads.of(slot, lambda homes: self._first_scores(slot, homes))
        return self._first_scores(slot, np.arange(len(slot.homes)))

    def _first_scores(self, slot: Ask, homes: IntArray) -> IntArray:
        """What the first slot of each of some homes scores, NONE where there is none."""
        some = np.minimum(self.supply(slot)[homes], 1)
        scores = np.full(len(homes), NONE, dtype=np.int64)
        given = np.flatnonzero(some)
        _, score = self._slot_scores(slot, homes[given], some[given])
        scores[given] = score
        return scores

    def _slot_scores(
        self, slot: Ask, homes: IntArray, slots: IntArray
    ) -> tuple[IntArray, IntArray]:
        """(home, score) of the first ``slots[i]`` slots of each of ``homes``."""
        held = self._in_slots(slot, homes, slots)
        return np.repeat(homes, slots), self._scores(held, int(slots.sum()))

    def _in_slots(
        self, slot: Ask, homes: IntArray, slots: IntArray
    ) -> Iterator[tuple[Ask, IntArray, IntArray]]:
        """For each content (it, slot numbers, vertices): what the first ``slots[i]`` slots of
        each of ``homes`` hold, the slots being numbered through."""
        start = np.cumsum(slots) - slots
        for content in slot.children:
            place, rank, vertices = self._ranked(content, homes)
            number = self._slot_of(content, place, rank, vertices)
            used = number < slots[place]
            yield content, start[place[used]] + number[used], vertices[used]

    def _scores(self, held: Iterable[tuple[Ask, IntArray, IntArray]], count: int) -> IntArray:
        """What each of ``count`` slots scores: the sum of its vertices."""
        score = np.zeros(count, dtype=np.int64)
        for _, into, vertices in held:
            sums = np.bincount(into, weights=self.keys[vertices], minlength=count)
            score += sums.astype(np.int64)
        return score

    def _slot_of(
        self, content: Ask, place: IntArray, rank: IntArray, vertices: IntArray
    ) -> IntArray:
        """Which slot of its home each vertex goes to."""
        if not content.pooled or content.row < 0:
            return rank // content.count.least
        slot, last, gathered = [], -1, 0
        number = 0
        for at, size in zip(place.tolist(), self.graph.size[vertices].tolist(), strict=True):
            if at != last:
                last, gathered, number = at, 0, 0
            slot.append(number)
            gathered += size
            if gathered >= content.count.least:
                gathered, number = 0, number + 1
        return np.array(slot, dtype=np.int64)

    def _ranked(self, ask: Ask, homes: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Qualified candidates in some homes: (place in ``homes``, rank there by preference,
        vertex), ordered by place, and by preference within one."""
        low, high = ask.low[homes], ask.high[homes]
        length = high - low
        candidate = expand(low, high)
        place = np.repeat(np.arange(len(homes)), length)
        by_runs = self.policy.by_runs and any(ask is one for one in self.request.asks)
        if ask.order < 0 and not by_runs:  # the last candidate of each home is the best
            candidate = np.repeat(low + high - 1, length) - candidate
        vertex = ask.candidates[candidate]
        kept = self.qualified(ask)[candidate] if ask.children else self._free(ask, vertex)
        place, vertex = place[kept], vertex[kept]
        first = np.searchsorted(place, np.arange(len(homes) + 1))
        if not ask.order or by_runs:
            keys = run_keys(self.keys[vertex]) if by_runs else self.keys[vertex]
            by_key = np.lexsort((keys, place))
            self._as_fluxion_sorts(keys, by_key, first)
            place, vertex = place[by_key], vertex[by_key]
        return place, np.arange(len(place)) - first[place], vertex

    def _as_fluxion_sorts(self, keys: IntArray, order: IntArray, first: IntArray) -> None:
        """Put right the order of equal keys in homes with so many that a sort is not stable."""
        ranked = keys[order]
        if (ranked[1:] != ranked[:-1]).all():
            return
        for low, high in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
            if high - low > 16:
                order[low:high] = low + preferred(keys[low:high])


_ROOT = np.zeros(1, dtype=np.int64)


def _contents(ask: Ask, number: int) -> tuple[Ask, ...]:
    """The children of ``ask`` in one vertex, by its number among their homes."""
    return tuple(child.within(number, number + 1) for child in ask.children)


def _groups(sizes: list[int], wanted: int) -> list[int]:
    """Where groups of at least ``wanted`` end when gathered in this order: for 2, 2, 4 and 3
    wanted, after the first 2 and after all 3."""
    ends, gathered = [], 0
    for i, size in enumerate(sizes):
        gathered += size
        if gathered >= wanted:
            ends.append(i + 1)
            gathered = 0
    return ends


def _both(one: BoolArray | None, other: BoolArray | None) -> BoolArray | None:
    if one is None or other is None:
        return one if other is None else other
    return one & other
