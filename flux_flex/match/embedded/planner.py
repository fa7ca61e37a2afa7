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
from flux_flex.match.embedded.counting import Counting
from flux_flex.match.embedded.profile import Profile
from flux_flex.match.embedded.sharing import on_all_aliases
from flux_flex.match.embedded.spans import (
    IDLE,
    NO_VERTICES,
    OWN,
    Claims,
    Delta,
    Span,
)
from flux_flex.model.graph import BoolArray, IntArray, ResourceGraph, expand

# So many changes are remembered one by one; whoever looks less often looks at all anew.
_REMEMBERED = 256

# Past no more events than this a sweep walks step by step.
_SHORT = 160

# States at later times are kept so many events apart, and only a few of them.
_STRIDE = 96
_KEPT_STATES = 12
_KEPT_BYTES = 256 << 20

# An event is (time, order, serial, span); ends sort before starts at one time, since a span
# is half open and what ends at t is free at t. The serial keeps spans from being compared.
_END, _START = 0, 1
_Event = tuple[float, int, int, Span]


class Planner:
    """Spans on a graph through time, with the state at one moment, ``now``, at hand."""

    def __init__(self, graph: ResourceGraph) -> None:
        self.graph = graph
        self.now = 0.0
        self._counting = Counting(graph)
        self.leaf_row, self.full = self._counting.leaf_row, self._counting.full
        self.state = self.full.copy()
        self.state[IDLE] = 0
        self._spans: dict[int, Span] = {}
        self._events: list[_Event] = []
        self._serial = 0
        self.version = 0  # counts changes: answers kept for a version stay true within it
        self._changes: deque[IntArray] = deque(maxlen=_REMEMBERED)
        self._ahead: list[tuple[float, IntArray]] = []  # states at later times, ascending
        self._profile = Profile(
            graph, self.full[list(self.leaf_row.values())], self._counting.row_of_code
        )
        self._unit = bool((graph.size == 1).all())
        self._owned: WeakKeyDictionary[Span, tuple[IntArray, IntArray]] = WeakKeyDictionary()

    def fork(self) -> Planner:
        """A planner that starts from this one's state and then goes its own way."""
        twin = Planner.__new__(Planner)
        twin.graph, twin.now, twin.leaf_row = self.graph, self.now, self.leaf_row
        twin.full, twin._counting = self.full, self._counting
        twin.state = self.state.copy()
        twin._spans = dict(self._spans)
        twin._events = list(self._events)
        twin._serial, twin.version = self._serial, self.version
        twin._changes = self._changes.copy()
        twin._profile = self._profile.copy()
        twin._ahead = []
        twin._unit, twin._owned = self._unit, self._owned
        return twin

    @property
    def spans(self) -> dict[int, Span]:
        """Spans by job id: those that hold something now or will."""
        return self._spans

    # -- changes -----------------------------------------------------------------------------

    def add(self, jobid: int, start: float, end: float, claims: Claims) -> Span | None:
        """Hold ``claims`` for a job in [start, end); nothing, where that is over by now."""
        if end <= self.now:
            return None
        if self.graph.same is not None:
            claims = on_all_aliases(claims, self.graph)
        return self.hold(Span(jobid, start, end, claims, self._counting.delta(claims)))

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
        if until <= _SHORT:
            yield from self._step_by_step(start, duration_s, needs, until)
            return
        ends = [event[0] for event in events[passed:until] if event[1] == _END]
        times = np.array([start, *ends])
        good = self._profile.fitting(times, needs, duration_s, self._spans.values())
        present = self.state
        try:
            for time in np.unique(times[good]).tolist():
                self.state = self._state_at(time, present)
                with self._without_later(time, time + duration_s):
                    yield time, self.state
        finally:
            self.state = present

    def _step_by_step(
        self, start: float, duration_s: float, needs: IntArray, until: int
    ) -> Generator[tuple[float, IntArray]]:
        """The same without the profile: past few events it is quicker to walk, in place, and to
        look at the totals of the root."""
        wanted = [(row, int(n)) for row, n in zip(self.leaf_row.values(), needs, strict=False) if n]
        events, walked, time = self._events, 0, start
        cursor = bisect_right(events, (start, _START), key=_when)
        try:
            while True:
                for _, kind, _, span in events[walked:cursor]:
                    self._apply(kind, span)
                walked = cursor
                if all(self.state[row, 0] >= need for row, need in wanted):
                    with self._without_later(time, time + duration_s):
                        yield time, self.state
                while cursor < until and events[cursor][1] == _START:
                    cursor += 1
                if cursor >= until:
                    return
                time = events[cursor][0]
                cursor = bisect_right(events, (time, _START), key=_when)
        finally:
            for _, kind, _, span in reversed(events[:walked]):
                self._apply(_START if kind == _END else _END, span)

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
            taken.append(self._counting.delta(claims))
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
        delta = self._counting.delta(more)
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
