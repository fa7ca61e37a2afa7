"""Counting: what claims change in the planner's state, entry by entry.

A claim counts where it is made and in everything above. All that a job changes is one
:class:`~flux_flex.match.embedded.spans.Delta`, worked out once.
"""

from __future__ import annotations

import numpy as np

from flux_flex.match.embedded.sharing import on_all_aliases, shared_entries
from flux_flex.match.embedded.spans import (
    FIRST_LEAF,
    IDLE,
    LISTED,
    NO_VERTICES,
    OWN,
    Claims,
    Delta,
)
from flux_flex.model.graph import IntArray, ResourceGraph, expand

CORE = "core"

_FIRST = np.ones(1, dtype=bool)

# Claims of so few vertices are summed up in Python: numpy's calls would take longer.
_FEW = 8


class Counting:
    """How claims are counted on one graph; shared by all planners of it.

    ``leaf_row`` are the rows of the leaf types, and ``full[row, v]`` is what taking everything at
    and below a vertex takes.
    """

    def __init__(self, graph: ResourceGraph) -> None:
        self.graph = graph
        self.leaf_row = {kind: FIRST_LEAF + i for i, kind in enumerate(graph.leaf_types())}
        self.full = self._full()
        self._n_rows = len(self.full)
        self._rows_above = [IDLE, LISTED, *self.leaf_row.values()]
        # By type code: the row that counts a claim of this type above it, or -1.
        self.row_of_code = np.array([self.leaf_row.get(kind, -1) for kind in graph.types])
        self._leaf = graph.end == np.arange(len(graph)) + 1

    def delta(self, claims: Claims) -> Delta:
        """All entries that claims change, with the sums that they change by."""
        if self.graph.same is not None:
            return self._shared_delta(claims)
        if not claims.whole.size and claims.vertices.size <= _FEW:
            return self._small_delta(claims)
        graph, n = self.graph, len(self.graph)
        rows = np.arange(self._n_rows)[:, np.newaxis] * n
        inside = expand(claims.whole, graph.end[claims.whole])
        single = self._columns(claims)
        # What a leaf has below it is never asked: of leaves only what they are themselves counts.
        leaf = self._leaf[inside]
        trunk, own = inside[~leaf], rows[:LISTED]
        index = [
            (rows + trunk).ravel(),
            (own + inside[leaf]).ravel(),
            (own + claims.vertices).ravel(),
        ]
        change = [
            self.full[:, trunk].ravel(),
            self.full[:LISTED, inside[leaf]].ravel(),
            single[:LISTED].ravel(),
        ]
        # Above, whole vertices and single ones count alike: a column of amounts for each, in
        # all rows but that of what a vertex is itself.
        rows = rows[self._rows_above]
        taken = np.concatenate(
            (self.full[:, claims.whole][self._rows_above], single[self._rows_above]), axis=1
        )
        above = graph.parent[np.concatenate((claims.whole, claims.vertices))]
        while True:
            inner = above >= 0
            if not inner.all():
                above, taken = above[inner], taken[:, inner]
            if not above.size:
                break
            # Siblings stand together: what they take above them is one sum.
            runs = np.flatnonzero(np.concatenate((_FIRST, above[1:] != above[:-1])))
            above, taken = above[runs], np.add.reduceat(taken, runs, axis=1)
            index.append((rows + above).ravel())
            change.append(taken.ravel())
            above = graph.parent[above]
        above = claims.unlisted
        while above.size:
            index.append(LISTED * n + above)
            change.append(np.full(len(above), -1))
            above = graph.parent[above]
            above = above[above >= 0]
        return Delta(np.concatenate(index), np.concatenate(change))

    def _small_delta(self, claims: Claims) -> Delta:
        """The same for a few single vertices."""
        n, parent = len(self.graph), self.graph.parent
        sums: dict[int, int] = {}
        core = self.leaf_row.get(CORE, -2)
        amounts = claims.amounts.tolist()
        for claimed, amount in zip(claims.vertices.tolist(), amounts, strict=True):
            vertex = claimed
            row = int(self.row_of_code[self.graph.type_of[vertex]])
            rows = (row, LISTED) if row == core else (row,) if row >= 0 else ()
            sums[OWN * n + vertex] = sums.get(OWN * n + vertex, 0) + amount
            while vertex >= 0:
                sums[IDLE * n + vertex] = sums.get(IDLE * n + vertex, 0) + 1
                for counted in rows if vertex != claimed else ():
                    sums[counted * n + vertex] = sums.get(counted * n + vertex, 0) + amount
                vertex = int(parent[vertex])
        return Delta(
            np.array(list(sums), dtype=np.int64), np.array(list(sums.values()), dtype=np.int64)
        )

    def _shared_delta(self, claims: Claims) -> Delta:
        """The same for claims on all aliases, in a graph that has some."""
        n, vertices = len(self.graph), claims.vertices
        claim, above = shared_entries(claims, self.graph)
        rows = np.array(self._rows_above)
        taken = self._columns(claims)[rows][:, claim]
        return Delta(
            np.concatenate(
                (IDLE * n + vertices, OWN * n + vertices, (rows[:, np.newaxis] * n + above).ravel())
            ),
            np.concatenate((np.ones_like(vertices), claims.amounts, taken.ravel())),
        )

    def _columns(self, claims: Claims) -> IntArray:
        """What each single claim takes of each row, shape (n_rows, n_claims)."""
        columns = np.zeros((self._n_rows, len(claims.vertices)), dtype=np.int64)
        columns[IDLE] = 1
        columns[OWN] = claims.amounts
        row = self.row_of_code[self.graph.type_of[claims.vertices]]
        counted = np.flatnonzero(row >= 0)
        columns[row[counted], counted] = claims.amounts[counted]
        columns[LISTED] = columns[self.leaf_row[CORE]] if CORE in self.leaf_row else 0
        return columns

    def _full(self) -> IntArray:
        """What taking everything at and below each vertex takes, in the shape of the state."""
        graph, n = self.graph, len(self.graph)
        full = np.zeros((FIRST_LEAF + len(self.leaf_row), n), dtype=np.int64)
        full[IDLE] = graph.end - np.arange(n)
        full[OWN] = graph.size
        for kind, row in self.leaf_row.items():
            own = np.where(graph.type_of == graph.types.index(kind), graph.size, 0)
            before = np.concatenate(([0], np.cumsum(own)))
            full[row] = before[graph.end] - before[:n]
        if graph.same is not None:
            self._count_once(full)
        if CORE in self.leaf_row:
            full[LISTED] = full[self.leaf_row[CORE]]
        return full

    def _count_once(self, full: IntArray) -> None:
        """Let each row count what is shared once in what contains several of its aliases."""
        graph, n = self.graph, len(self.graph)
        root = np.zeros(1, dtype=np.int64)
        everything = on_all_aliases(Claims(root, NO_VERTICES, NO_VERTICES), graph)
        claim, above = shared_entries(everything, graph)
        inner = graph.end > np.arange(n) + 1
        full[IDLE] = 1 + np.bincount(above, minlength=n)
        code = graph.type_of[everything.vertices[claim]]
        for kind, row in self.leaf_row.items():
            of_kind = code == graph.types.index(kind)
            sums = np.zeros(n, dtype=np.int64)
            np.add.at(sums, above[of_kind], everything.amounts[claim[of_kind]])
            full[row, inner] = sums[inner]
