"""Planner: who holds what of a graph, and when.

The state of a graph at one moment is an int64 array ``state`` of shape (n_rows, n_vertices) in
which more is always more available:

    state[row of a leaf type, v]   free amount of that type below v
    state[IDLE, v]                 minus the number of claims at or below v: 0 is untouched
    state[OWN, v]                  free amount of v itself
    state[LISTED, v]               cores at or below v that no match lists: fluxion does not count
                                   those that an exclusive node takes along without listing them

Claims change a few entries: those of the claimed vertices, and one in each row that counts them
in each vertex above. All these are kept as one :class:`Delta` a job, so that starting and ending
a job are each one indexed addition, whatever the size of the graph.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from operator import itemgetter
from weakref import WeakKeyDictionary

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.match.embedded.profile import Profile
from flux_flex.match.embedded.sharing import on_all_aliases, shared_entries
from flux_flex.match.embedded.spans import (
    FIRST_LEAF,
    IDLE,
    LISTED,
    NO_VERTICES,
    OWN,
    Claims,
    Delta,
    Span,
)
from flux_flex.model.graph import BoolArray, IntArray, ResourceGraph, expand

CORE = "core"

_FIRST = np.ones(1, dtype=bool)

# So many changes are remembered one by one; whoever looks less often looks at all anew.
_REMEMBERED = 256

# States at later times are kept so many events apart, and only a few of them.
_STRIDE = 96
_KEPT_STATES = 12
_KEPT_BYTES = 256 << 20

# Claims of so few vertices are summed up in Python: numpy's calls would take longer.
_FEW = 8

# An event is (time, order, serial, span); ends sort before starts at one time, since a span
# is half open and what ends at t is free at t. The serial keeps spans from being compared.
_END, _START = 0, 1
_Event = tuple[float, int, int, Span]


class Planner:
    """Spans on a graph through time, with the state at one moment, ``now``, at hand."""

    def __init__(self, graph: ResourceGraph) -> None:
        self.graph = graph
        self.now = 0.0
        self.leaf_row = {kind: FIRST_LEAF + i for i, kind in enumerate(graph.leaf_types())}
        self.full = self._full()
        self.state = self.full.copy()
        self.state[IDLE] = 0
        self._rows_above = [IDLE, LISTED, *self.leaf_row.values()]
        # By type code: the row that counts a claim of this type above it, or -1.
        self._row_of_code = np.array([self.leaf_row.get(kind, -1) for kind in graph.types])
        self._spans: dict[int, Span] = {}
        self._events: list[_Event] = []
        self._serial = 0
        self.version = 0  # counts changes: answers kept for a version stay true within it
        self._changes: deque[IntArray] = deque(maxlen=_REMEMBERED)
        self._ahead: list[tuple[float, IntArray]] = []  # states at later times, ascending
        self._profile = Profile(graph, self.full[list(self.leaf_row.values())], self._row_of_code)
        self._leaf = graph.end == np.arange(len(graph)) + 1
        self._unit = bool((graph.size == 1).all())
        self._owned: WeakKeyDictionary[Span, tuple[IntArray, IntArray]] = WeakKeyDictionary()

    def fork(self) -> Planner:
        """A planner that starts from this one's state and then goes its own way."""
        twin = Planner.__new__(Planner)
        twin.graph, twin.now, twin.leaf_row = self.graph, self.now, self.leaf_row
        twin.full, twin._rows_above = self.full, self._rows_above
        twin.state = self.state.copy()
        twin._row_of_code = self._row_of_code
        twin._spans = dict(self._spans)
        twin._events = list(self._events)
        twin._serial, twin.version = self._serial, self.version
        twin._changes = self._changes.copy()
        twin._profile = self._profile.copy()
        twin._ahead = []
        twin._unit, twin._owned, twin._leaf = self._unit, self._owned, self._leaf
        return twin

    @property
    def spans(self) -> dict[int, Span]:
        """Spans by job id: those that hold something now or will."""
        return self._spans

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

    # -- changes -----------------------------------------------------------------------------

    def add(self, jobid: int, start: float, end: float, claims: Claims) -> Span | None:
        """Hold ``claims`` for a job in [start, end); nothing, where that is over by now."""
        if end <= self.now:
            return None
        if self.graph.same is not None:
            claims = on_all_aliases(claims, self.graph)
        return self.hold(Span(jobid, start, end, claims, self._delta(claims)))

    def hold(self, span: Span) -> Span:
        """Hold a span that has not ended; its delta is of this graph."""
        jobid, start, end = span.jobid, span.start, span.end
        self._spans[jobid] = span
        self._profile.begin(span)
        self._change_ahead(span, np.subtract)
        self._serial += 1
        if start <= self.now:
            self._take(span.delta)
        else:
            insort(self._events, (start, _START, self._serial, span), key=_when)
        if end < math.inf:
            insort(self._events, (end, _END, self._serial, span), key=_when)
        self._changed(span)
        return span

    def remove(self, jobid: int) -> None:
        """Give back what a job holds. Raises BadInput where it holds nothing."""
        span = self._spans.pop(jobid, None)
        if span is None:
            raise BadInput(f"job {jobid} holds nothing", "", "cancel a job once")
        self._profile.end(span)
        self._change_ahead(span, np.add)
        if span.start <= self.now:
            self._give(span.delta)
        else:
            self._drop_event((span.start, _START), span)
        if span.end < math.inf:
            self._drop_event((span.end, _END), span)
        self._changed(span)

    def advance(self, now: float) -> None:
        """Move the present forward: what ends by then is given back, what starts is taken."""
        if not now >= self.now:  # nor is it NaN
            raise BadInput(
                f"time runs backwards, from {self.now} to {now}", "at", "ask in order of time"
            )
        due = bisect_right(self._events, (now, _START), key=_when)
        for _, kind, _, span in self._events[:due]:
            self._apply(kind, span)
            self._changed(span)
            if kind == _END:
                del self._spans[span.jobid]
        del self._events[:due]
        self.now = now
        self._ahead = [(time, state) for time, state in self._ahead if time > now]

    def _change_ahead(self, span: Span, change: np.ufunc) -> None:
        for time, state in self._ahead:
            if span.start <= time < span.end:
                change.at(state.reshape(-1), span.delta.index, span.delta.amount)

    def _changed(self, span: Span) -> None:
        self.version += 1
        self._changes.append(np.concatenate((span.claims.whole, span.claims.vertices)))

    def changed_since(self, version: int) -> IntArray | None:
        """The vertices claimed or given back since a version, or None where that is too long ago
        to be remembered."""
        behind = self.version - version
        if behind > len(self._changes):
            return None
        recent = [self._changes[i] for i in range(len(self._changes) - behind, len(self._changes))]
        return np.concatenate(recent) if recent else np.zeros(0, dtype=np.int64)

    def is_present(self, start: float, end: float) -> bool:
        """Whether what is free now is free all through [start, end)."""
        first = bisect_left(self._events, (end, _END), key=_when)
        return start <= self.now and all(e[1] == _END for e in self._events[:first])

    def _drop_event(self, when: tuple[float, int], span: Span) -> None:
        i = bisect_left(self._events, when, key=_when)
        while self._events[i][3] is not span:
            i += 1
        del self._events[i]

    def _apply(self, kind: int, span: Span) -> None:
        if kind == _END:
            self._give(span.delta)
        else:
            self._take(span.delta)

    def _take(self, delta: Delta) -> None:
        np.subtract.at(self.state.reshape(-1), delta.index, delta.amount)

    def _give(self, delta: Delta) -> None:
        np.add.at(self.state.reshape(-1), delta.index, delta.amount)

    def _delta(self, claims: Claims) -> Delta:
        """All entries that claims change, with the sums that they change by."""
        if self.graph.same is not None:
            return self._shared_delta(claims)
        if not claims.whole.size and claims.vertices.size <= _FEW:
            return self._small_delta(claims)
        graph, n = self.graph, len(self.graph)
        rows = np.arange(len(self.state))[:, np.newaxis] * n
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
            row = int(self._row_of_code[self.graph.type_of[vertex]])
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
        columns = np.zeros((len(self.state), len(claims.vertices)), dtype=np.int64)
        columns[IDLE] = 1
        columns[OWN] = claims.amounts
        row = self._row_of_code[self.graph.type_of[claims.vertices]]
        counted = np.flatnonzero(row >= 0)
        columns[row[counted], counted] = claims.amounts[counted]
        columns[LISTED] = columns[self.leaf_row[CORE]] if CORE in self.leaf_row else 0
        return columns

    # -- questions ---------------------------------------------------------------------------

    @contextmanager
    def during(self, start: float, end: float) -> Iterator[IntArray]:
        """The state of what stays available all through [start, end); only to be read."""
        present = self.state
        self.state = self._state_at(start, present)
        try:
            with self._without_later(start, end):
                yield self.state
        finally:
            self.state = present

    def free(self, vertices: IntArray) -> IntArray:
        """The free amounts of vertices themselves, in the state as it stands."""
        own: IntArray = self.state[OWN, vertices]
        return own

    def idle(self, vertices: IntArray) -> BoolArray:
        """Of which vertices nothing is held, at or below them, in the state as it stands."""
        untouched: BoolArray = self.state[IDLE, vertices] == 0
        return untouched

    def sweep(
        self, start: float, duration_s: float, needs: IntArray, before: float = math.inf
    ) -> Generator[tuple[float, IntArray]]:
        """The times from ``start`` on at which a request may newly fit, with their state.

        Yields ``(time, state of what stays free for duration_s)`` for ``start`` itself and each
        later time up to ``before`` at which something is given back, leaving out those at which
        the profile has less than ``needs`` (as the profile counts them). Close the generator when
        done: until then the planner stands at the time that it yielded.
        """
        events = self._events
        passed = bisect_right(events, (start, _START), key=_when)
        until = bisect_right(events, (before, _START), key=_when)
        ends = [event[0] for event in events[passed:until] if event[1] == _END]
        times = np.array([start, *ends])
        present = self.state
        try:
            good = self._profile.fitting(times, needs, duration_s, self._spans.values())
            for time in np.unique(times[good]).tolist():
                self.state = self._state_at(time, present)
                with self._without_later(time, time + duration_s):
                    yield time, self.state
        finally:
            self.state = present

    def _state_at(self, time: float, present: IntArray) -> IntArray:
        """The state at a time: the present one, or one that is walked there from the nearest of
        a few that are kept, since who asks about the future asks again."""
        if time <= self.now:
            return present
        mark = bisect_right(self._ahead, time, key=itemgetter(0)) - 1
        reached, state = self._ahead[mark] if mark >= 0 else (self.now, present)
        first = bisect_right(self._events, (reached, _START), key=_when)
        last = bisect_right(self._events, (time, _START), key=_when)
        if mark < 0 or last - first > _STRIDE:
            state = state.copy()
            self._ahead.insert(mark + 1, (time, state))
        else:
            self._ahead[mark] = time, state
        self._walk(state, self._events[first:last])
        self._thin_out()
        return state

    def _thin_out(self) -> None:
        """Of too many kept states drop the one that is least ahead of another."""
        if len(self._ahead) > max(1, min(_KEPT_STATES, _KEPT_BYTES // self.state.nbytes)):
            times = [self.now, *(time for time, _ in self._ahead)]
            gaps = [later - earlier for earlier, later in pairwise(times)]
            del self._ahead[gaps.index(min(gaps))]

    @staticmethod
    def _walk(state: IntArray, events: list[_Event]) -> None:
        """Let events happen to a state, all in one go."""
        if not events:
            return
        index = np.concatenate([span.delta.index for _, _, _, span in events])
        amount = np.concatenate(
            [
                span.delta.amount if kind == _END else -span.delta.amount
                for _, kind, _, span in events
            ]
        )
        np.add.at(state.reshape(-1), index, amount)

    @contextmanager
    def trial(self) -> Iterator[Callable[[Claims], None]]:
        """Take claims from the state, in place, until the end of the context."""
        taken: list[Delta] = []

        def take(claims: Claims) -> None:
            if self.graph.same is not None:
                claims = on_all_aliases(claims, self.graph)
            taken.append(self._delta(claims))
            self._take(taken[-1])

        try:
            yield take
        finally:
            for delta in taken:
                self._give(delta)

    @contextmanager
    def _without_later(self, start: float, end: float) -> Iterator[None]:
        """Take away what spans that begin within (start, end) will hold at their peak."""
        first = bisect_right(self._events, (start, _START), key=_when)
        last = bisect_left(self._events, (end, _END), key=_when)
        window = self._events[first:last]
        if all(event[1] == _END for event in window):
            yield
            return
        more = self._taken_anew(window) if self._unit else self._peak(window)
        if not more.vertices.size:
            yield
            return
        delta = self._delta(more)
        self._take(delta)
        try:
            yield
        finally:
            self._give(delta)

    def _peak(self, window: list[_Event]) -> Claims:
        """The most that spans of a window hold of each vertex beyond what it held at first.

        An end within the window has given nothing back in the state yet. So a vertex whose peak
        is not above zero is only taken again after it was given back, and nothing more is lost.
        """
        vertices = np.unique(np.concatenate([self._own(span)[0] for _, _, _, span in window]))
        held = np.zeros((2, len(vertices)), dtype=np.int64)  # amounts, and numbers of claims
        peak = held.copy()
        for _, kind, _, span in window:
            mine, amounts = self._own(span)
            place = np.searchsorted(vertices, mine)
            held[:, place] += amounts if kind == _START else -amounts
            np.maximum(peak, held, out=peak)
        more = peak.any(axis=0)
        return Claims(np.zeros(0, dtype=np.int64), vertices[more], peak[0, more])

    def _taken_anew(self, window: list[_Event]) -> Claims:
        """The same where every size is 1: what is free at first and taken by any span is lost."""
        begins = [self._own(span) for _, kind, _, span in window if kind == _START]
        if any((amounts[0] == 0).any() for _, amounts in begins):
            return self._peak(window)  # a shared vertex is in use, but not taken
        taken = np.zeros(len(self.graph), dtype=bool)
        taken[np.concatenate([mine for mine, _ in begins])] = True
        vertices = np.flatnonzero(taken & (self.state[OWN] > 0))
        return Claims(NO_VERTICES, vertices, np.ones_like(vertices))

    def _own(self, span: Span) -> tuple[IntArray, IntArray]:
        """Every vertex that a span takes, and (amount of it, 1), shape (2, n)."""
        known = self._owned.get(span)
        if known is None:
            claims = span.claims
            inside = expand(claims.whole, self.graph.end[claims.whole])
            amounts = np.concatenate((self.graph.size[inside], claims.amounts))
            vertices = np.concatenate((inside, claims.vertices))
            known = self._owned[span] = vertices, np.stack((amounts, np.ones_like(amounts)))
        return known


def _when(event: tuple[float, int] | _Event) -> tuple[float, int]:
    return event[0], event[1]
