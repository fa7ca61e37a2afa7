"""Closeness: where n nodes are nearest to each other on the tree above them.

The sum of hops over all pairs of n chosen nodes is, edge by edge of the tree, x (n - x), where x
of them lie below the edge. So the nearest set is found exactly, from the leaves up: for each
subtree the cheapest way to choose k below it, for all k up to n, its children combined one by
one. Of equally near sets the one that leaves the smallest rest in the groups that it opens is
taken, so that large holes stay whole.

The tree is given by the parent of each vertex: a resource graph's own containment, with its racks
or network nodes, or that of a NetworkTree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Tables grow with the square of n. Above this, subtrees are filled greedily, the roomiest first.
MAX_EXACT = 512

IntArray = npt.NDArray[np.int64]
_Costs = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Table:
    """``cost[k]`` of choosing k below a vertex; ``split[i][k]`` how many of them come from child
    i, given that those before it give the rest."""

    cost: _Costs
    children: tuple[int, ...] = ()
    split: tuple[IntArray, ...] = ()


def closest(parent: IntArray, vertices: IntArray, room: IntArray, wanted: int) -> IntArray:
    """How many of ``wanted`` each vertex gives, at most its ``room``, all as near as can be.

    ``parent[vertex]`` is smaller than ``vertex``, and -1 for the root, 0. ``vertices`` (ascending)
    have room in all for ``wanted`` or more; shape (n_vertices,).
    """
    if len(vertices) == 1:  # perhaps the root, which has no edge above it
        return np.array([wanted])
    limit = min(wanted, MAX_EXACT)
    walk = _Walk(parent, vertices, room, limit)
    share = np.zeros(len(vertices), dtype=np.int64)
    left = wanted
    while left > 0:
        # More than the tables hold: in portions, each as near as can be.
        walk.room = room - share
        part = walk.choose(min(left, limit))
        share += part
        left -= int(part.sum())
    return share


class _Walk:
    """One tree of candidate vertices, from the leaves to the root."""

    def __init__(self, parent: IntArray, vertices: IntArray, room: IntArray, limit: int) -> None:
        self.room = room
        self.limit = limit
        self.groups: dict[int, IntArray] = {}
        parents = parent[vertices]
        order = np.argsort(parents, kind="stable")
        cuts = np.flatnonzero(np.diff(parents[order])) + 1
        for group in np.split(order, cuts):
            self.groups[int(parents[group[0]])] = group
        self.inner: dict[int, list[int]] = {}
        seen = set(self.groups)
        stack = list(self.groups)
        while stack:
            vertex = stack.pop()
            above = int(parent[vertex])
            if above >= 0:
                self.inner.setdefault(above, []).append(vertex)
                if above not in seen:
                    seen.add(above)
                    stack.append(above)

    def choose(self, wanted: int) -> IntArray:
        # Dearer than any sum of rests: a rest only decides between equally near sets.
        self.unit = float(self.room.sum() + 1)
        self.wanted = wanted
        self.tables: dict[int, _Table] = {}
        for vertex in sorted({*self.groups, *self.inner}, reverse=True):
            self.tables[vertex] = self._table(vertex)
        share = np.zeros(len(self.room), dtype=np.int64)
        self._trace(0, wanted, share)
        return share

    def _table(self, vertex: int) -> _Table:
        below = sorted(self.inner.get(vertex, ()))
        cost = self._group_costs(self.groups[vertex]) if vertex in self.groups else np.zeros(1)
        split = []
        for child in below:
            cost, taken = _combined(cost, self.tables[child].cost, self.wanted)
            split.append(taken)
        if vertex:
            k = np.arange(len(cost))
            cost = cost + self.unit * k * (self.wanted - k)
        return _Table(cost, tuple(below), tuple(split))

    def _group_costs(self, group: IntArray) -> _Costs:
        """Of candidates side by side, the roomiest are filled first, which is nearest."""
        rooms = np.sort(self.room[group])[::-1]
        total = int(rooms.sum())
        most = min(total, self.wanted)
        filled = np.concatenate(([0], np.cumsum(rooms)))
        k = np.arange(most + 1)
        full = np.searchsorted(filled, k, side="right") - 1
        spent = np.concatenate(([0], np.cumsum(rooms * (self.wanted - rooms))))
        rest = k - filled[full]
        cost: _Costs = self.unit * (spent[full] + rest * (self.wanted - rest)) + (total - k)
        cost[0] = 0.0
        return cost

    def _trace(self, vertex: int, wanted: int, share: IntArray) -> None:
        stack = [(vertex, wanted)]
        while stack:
            vertex, wanted = stack.pop()
            table = self.tables[vertex]
            for child, taken in zip(reversed(table.children), reversed(table.split), strict=True):
                part = int(taken[wanted])
                if part:
                    stack.append((child, part))
                wanted -= part
            if wanted:
                self._fill(self.groups[vertex], wanted, share)

    def _fill(self, group: IntArray, wanted: int, share: IntArray) -> None:
        """The roomiest whole, and the rest where it fits most tightly."""
        rooms = self.room[group]
        order = np.argsort(-rooms, kind="stable")
        before = np.cumsum(rooms[order])
        whole = int(np.searchsorted(before, wanted, side="right"))
        share[group[order[:whole]]] = rooms[order[:whole]]
        rest = wanted - (int(before[whole - 1]) if whole else 0)
        if rest:
            others = order[whole:]
            fitting = others[rooms[others] >= rest]
            share[group[fitting[np.argmin(rooms[fitting])]]] = rest


def _combined(one: _Costs, other: _Costs, wanted: int) -> tuple[_Costs, IntArray]:
    """The cheapest of all splits: cost[k] = min over j of one[k - j] + other[j], and that j."""
    size = min(len(one) + len(other) - 1, wanted + 1)
    k = np.arange(size)[:, np.newaxis]
    j = np.arange(min(len(other), size))[np.newaxis, :]
    i = k - j
    valid = (i >= 0) & (i < len(one))
    cost = np.where(valid, one[np.clip(i, 0, len(one) - 1)], np.inf) + other[: j.shape[1]]
    best = np.argmin(cost, axis=1)
    return cost[np.arange(size), best], best
