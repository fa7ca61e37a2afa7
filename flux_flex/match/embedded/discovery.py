"""Discovery: what the policy ``first`` meets before it stops looking.

Fluxion's ``first`` walks the graph in an order that learns: below each vertex it visits first the
children that no job has touched yet, then those that had the most cores free when a job last came
by, and of equals the one that was read last. It stops as soon as it has as many as are asked for,
and only then compares scores. So its answer is the best of what this walk meets.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from flux_flex.match.embedded.choice import Choice
from flux_flex.match.embedded.counting import CORE
from flux_flex.match.embedded.policies import preferred
from flux_flex.match.embedded.request import Ask
from flux_flex.match.embedded.spans import IDLE, OWN
from flux_flex.model.count import MAX_COUNT
from flux_flex.model.graph import BoolArray, IntArray, ResourceGraph, expand

_UNTOUCHED = 1 << 62

# The walk calls itself twice for each level. Deeper graphs, which no machine has, are not walked.
_MAX_DEPTH = 200

# So many visits cost about as much as counting the supply of the whole graph.
_PATIENCE = 48

_Key = tuple[int, int, int]


class Order:
    """The order in which the children of each vertex are visited."""

    def __init__(self, graph: ResourceGraph) -> None:
        self._graph = graph
        self._unchanged: dict[int, list[int]] = {}
        self._weight: dict[int, int] = {}
        self._learnt: dict[int, list[_Key]] = {}

    def copy(self) -> Order:
        """An order that is the same now and then learns by itself."""
        twin = Order(self._graph)
        twin._unchanged = self._unchanged
        twin._weight = dict(self._weight)
        twin._learnt = {vertex: list(below) for vertex, below in self._learnt.items()}
        return twin

    def on(self, graph: ResourceGraph, moved: IntArray) -> Order:
        """The order on a graph in which vertex v has the number ``moved[v]``, -1 if it is gone,
        with what was learnt of those that stay."""
        twin = Order(graph)
        numbers = {vertex: int(moved[vertex]) for vertex in {*self._weight, *self._learnt}}
        twin._weight = {numbers[v]: w for v, w in self._weight.items() if numbers[v] >= 0}
        for vertex in self._learnt:
            if numbers[vertex] >= 0:
                below = graph.children(numbers[vertex])
                twin._learnt[numbers[vertex]] = sorted(map(twin._key, below))
        return twin

    @staticmethod
    def can_walk(graph: ResourceGraph) -> bool:
        """Whether a graph is not too deep to be walked."""
        above = np.arange(len(graph))
        for _ in range(_MAX_DEPTH):
            above = np.unique(graph.parent[above])
            above = above[above >= 0]
            if not above.size:
                return True
        return False

    def children(self, vertex: int) -> Iterable[int]:
        """The children of a vertex in the order of visits."""
        learnt = self._learnt.get(vertex)
        if learnt is not None:
            return [key[2] for key in learnt] if len(learnt) < 64 else _vertices(learnt)
        known = self._unchanged.get(vertex)
        if known is None:
            uniq_id = self._graph.uniq_id
            known = sorted(self._graph.children(vertex), key=lambda v: -int(uniq_id[v]))
            self._unchanged[vertex] = known
        return known

    def touch(self, vertex: int, free: int) -> None:
        """A job came by, and left so much free: visited accordingly from now on."""
        parent = int(self._graph.parent[vertex])
        if parent < 0:
            return
        below = self._learnt.get(parent)
        if below is None:
            below = self._learnt[parent] = [self._key(child) for child in self.children(parent)]
        del below[bisect_left(below, self._key(vertex))]
        self._weight[vertex] = free
        insort(below, self._key(vertex))

    def _key(self, vertex: int) -> _Key:
        weight = self._weight.get(vertex, _UNTOUCHED)
        return -weight, -int(self._graph.uniq_id[vertex]), vertex


def _vertices(keys: list[_Key]) -> Iterator[int]:
    return (key[2] for key in keys)


@dataclass(slots=True)
class Found:
    """Something that was met: a vertex, or a slot (-1) made of ``parts``.

    ``amount`` is what it counts for, ``key`` what the policy compares, the smallest first.
    ``parts`` are what was chosen below it, with the ask that each serves.
    """

    amount: int
    key: int
    vertex: int = -1
    parts: list[tuple[Ask, Found]] = field(default_factory=list)


@dataclass(slots=True)
class _Gathered:
    """What was met for one ask so far, and how it counts towards enough.

    One child's yield is a bundle: a share is complete when the bundles since the last one amount
    to ``per_share``, and what is over does not count for the next.
    """

    ask: Ask
    per_share: int
    found: list[Found] = field(default_factory=list)
    total: int = 0
    counted: int = 0
    towards: int = 0
    shares: int = 0

    def add(self, found: Found) -> None:
        self.found.append(found)
        self.total += found.amount

    def close_bundle(self) -> None:
        self.towards += self.total - self.counted
        self.counted = self.total
        if self.towards >= self.per_share:
            self.shares += 1
            self.towards = 0


class _InVain(Exception):
    """There is not enough in the whole graph."""


class Discovery:
    """One walk over one state, for one request."""

    def __init__(
        self,
        state: IntArray,
        graph: ResourceGraph,
        order: Order,
        keys: IntArray,
        eligible: BoolArray | None,
        up: BoolArray | None,
        possible: Callable[[], bool],
    ) -> None:
        self._state = state
        self._graph = graph
        self._order = order
        self._keys = keys
        self._eligible = eligible
        self._up = up
        self._possible = possible
        self._visits = 0

    def choose(self, asks: tuple[Ask, ...]) -> Choice | None:
        """What serves ``asks``, or None where the walk does not meet enough.

        A walk that has not ended after a while may be one that meets the whole graph in vain, so
        then it is asked once whether there is enough at all.
        """
        gathered = _gathering(asks)
        try:
            self._visit(0, gathered, 1)
        except _InVain:
            return None
        parts = _best(gathered)
        if parts is None:
            return None
        choice = Choice()
        self._take(parts, choice)
        return choice

    # -- the walk -------------------------------------------------------------------------------

    def _visit(self, vertex: int, gathered: list[_Gathered], shares: int) -> None:
        """Meet a vertex: add what it gives, or go on below it."""
        self._visits += 1
        if self._visits == _PATIENCE and not self._possible():
            raise _InVain
        if self._state[OWN, vertex] <= 0:
            return
        if self._eligible is not None and not self._eligible[vertex]:
            return
        kind = self._graph.type_of[vertex]
        for one in gathered:
            ask = one.ask
            if ask.is_slot:
                if vertex in ask.home_set:
                    self._add_slots(vertex, one)
                    return
            elif ask.code == kind:
                found = self._serve(vertex, ask)
                if found is not None:
                    one.add(found)
                return
        if self._graph.end[vertex] > vertex + 1:
            self._explore(vertex, gathered, shares)

    def _explore(self, vertex: int, gathered: list[_Gathered], shares: int) -> None:
        """Visit children until each ask has ``shares`` times what it wants."""
        here = [_Gathered(one.ask, one.per_share) for one in gathered]
        kind_of = self._graph.type_of
        enough: set[int] = set()
        for child in self._order.children(vertex):
            if enough and int(kind_of[child]) in enough:
                continue
            self._visit(child, here, shares)
            for one in here:
                one.close_bundle()
                if one.shares >= shares:
                    enough.add(one.ask.code)
            if all(one.shares >= shares for one in here):
                break
        for one, mine in zip(gathered, here, strict=True):
            for found in mine.found:
                one.add(found)

    def _serve(self, vertex: int, ask: Ask) -> Found | None:
        """The vertex for an ask of its own type, with what is chosen below it."""
        if ask.exclusive and self._state[IDLE, vertex] != 0:
            return None
        if self._up is not None and ask.exclusive and not self._all_up(vertex):
            return None
        key = int(self._keys[vertex])
        if not ask.children:
            amount = int(self._state[OWN, vertex]) if ask.row >= 0 else 1
            return Found(amount, key, vertex)
        if not self._has(vertex, ask):
            return None
        gathered = _gathering(ask.children)
        inner = [one for one in gathered if not one.ask.is_slot]
        for one in gathered:
            if one.ask.is_slot:
                self._add_slots(vertex, one)
        if inner:
            self._explore(vertex, inner, 1)
        parts = _best(gathered)
        return None if parts is None else Found(1, key, vertex, parts)

    def _has(self, vertex: int, ask: Ask) -> bool:
        """Whether there is as much free below a vertex as one of ``ask`` takes: a look at a few
        sums saves the walk below a vertex that is full."""
        return all(self._state[row, vertex] >= need for row, need in ask.needs)

    def _add_slots(self, vertex: int, slots: _Gathered) -> None:
        """The slots that can be made of what is met below a vertex."""
        if not self._has(vertex, slots.ask):
            return
        contents = _gathering(slots.ask.children)
        self._explore(vertex, contents, slots.per_share)
        for made in zip(*(_bundles(one) for one in contents), strict=False):
            parts = [
                (one.ask, found)
                for one, bundle in zip(contents, made, strict=True)
                for found in bundle
            ]
            slots.add(Found(1, sum(found.key for _, found in parts), -1, parts))

    def _all_up(self, vertex: int) -> bool:
        return self._up is None or bool(self._up[vertex : self._graph.end[vertex]].all())

    # -- what was chosen ------------------------------------------------------------------------

    def _take(self, parts: list[tuple[Ask, Found]], choice: Choice) -> None:
        """Take what was chosen, those of one ask together."""
        by_ask: dict[int, tuple[Ask, list[Found]]] = {}
        for ask, found in parts:
            by_ask.setdefault(id(ask), (ask, []))[1].append(found)
        for ask, several in by_ask.values():
            if ask.is_slot:
                self._take([part for found in several for part in found.parts], choice)
            else:
                self._take_vertices(ask, several, choice)

    def _take_vertices(self, ask: Ask, several: list[Found], choice: Choice) -> None:
        vertices = np.array([found.vertex for found in several], dtype=np.int64)
        if ask.row >= 0:
            amounts = np.array([found.amount for found in several], dtype=np.int64)
            choice.shown.append((vertices, amounts, ask.exclusive))
            choice.leaves.append((vertices, amounts))
            return
        if ask.whole:
            inside = expand(vertices, self._graph.end[vertices])
            choice.whole.append(vertices)
            choice.shown.append((inside, self._graph.size[inside], True))
            return
        choice.shown.append((vertices, self._graph.size[vertices], ask.exclusive))
        below = [part for found in several for part in found.parts]
        if not ask.exclusive:
            self._take(below, choice)
            if not ask.children:
                choice.leaves.append((vertices, np.zeros_like(vertices)))  # shared, but in use
        else:
            mine = Choice()
            self._take(below, mine)
            choice.whole.append(vertices)
            choice.shown += mine.shown
            choice.unlisted.append(self._unlisted(vertices, mine))

    def _unlisted(self, vertices: IntArray, listed: Choice) -> IntArray:
        """The cores in ``vertices`` that a choice below them does not list."""
        inside = expand(vertices, self._graph.end[vertices])
        cores = inside[np.isin(inside, self._graph.of_type(CORE), assume_unique=True)]
        shown = [numbers for numbers, _, _ in listed.shown]
        return np.setdiff1d(cores, np.concatenate(shown)) if shown else cores


def _gathering(asks: Sequence[Ask]) -> list[_Gathered]:
    return [_Gathered(ask, ask.count.largest_within(MAX_COUNT)) for ask in asks]


def _bundles(content: _Gathered) -> Iterator[list[Found]]:
    """As much as one slot wants of its content at a time, the preferred first."""
    bundle: list[Found] = []
    amount = 0
    for found in _ranked(content.found):
        bundle.append(found)
        amount += found.amount
        if amount >= content.ask.count.least:
            yield bundle
            bundle, amount = [], 0


def _best(gathered: list[_Gathered]) -> list[tuple[Ask, Found]] | None:
    """The best of what was met for each ask, or None if some ask got too little."""
    parts: list[tuple[Ask, Found]] = []
    for one in gathered:
        wanted = one.ask.count.largest_within(one.total)
        if not wanted:
            return None
        for found in _ranked(one.found):
            if wanted <= 0:
                break
            if found.amount > wanted and not one.ask.exclusive:
                found = Found(wanted, found.key, found.vertex)  # a part of a pool
            parts.append((one.ask, found))
            wanted -= found.amount
    return parts


def _ranked(found: list[Found]) -> list[Found]:
    if len(found) < 2:
        return found
    if len(found) <= 16:
        return sorted(found, key=lambda one: one.key)
    keys = np.array([one.key for one in found], dtype=np.int64)
    return [found[i] for i in preferred(keys)]
