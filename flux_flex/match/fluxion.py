"""FluxionMatcher: the real fluxion in this process, behind the Matcher interface.

    >>> matcher = FluxionMatcher(graph, policy="low")
    >>> matcher.version
    'flux-sched 0.54.0, flux-core 0.88.0'
    >>> matcher.allocate(jobspec).vertices

Two things that fluxion cannot do by itself are done with *views*. A view is the graph in a fluxion
context of its own, which knows of every job held:

- A request that skips levels (see :mod:`~flux_flex.match.fluxion_graphs`) is answered by a view
  without them, and the levels are put back into the answer.
- The clock of this binding stands at 0. A request for a later time is answered by a view whose 0
  is that time.

What one view answers the others are told. Of a job that starts later they cannot be told without a
loss, so while there is one, the request goes to one more view: see :class:`View`.

So a view is loaded when the first request needs it, which takes as long as loading the graph (2 s
for 4,096 nodes of 16 cores, flux-sched 0.54), and only a few are kept. Fluxion counts whole
seconds and no more than 100 years: a start that is asked for is rounded up, as are ends.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.match.embedded.engine import read_jobspec
from flux_flex.match.embedded.splice import moved_match
from flux_flex.match.fluxion_graphs import (
    levels_between,
    named_types,
    skipped_levels,
    vertices_of_r,
)
from flux_flex.match.fluxion_library import Answer, Operation, open_library
from flux_flex.match.fluxion_sharing import ask_without_clashes
from flux_flex.match.fluxion_view import View, span_s
from flux_flex.match.holdings import (
    found_r,
    kept_by,
    ranks_of,
    refuse_where_held,
    refuse_within_whole,
)
from flux_flex.match.matcher import GraphLike, JobspecLike, Match, read_graph
from flux_flex.model.graph import NODE, IntArray, ResourceGraph, expand
from flux_flex.model.jobspec import Jobspec
from flux_flex.model.places import nodes_of_ranks, vertex_at
from flux_flex.model.quoting import quoted
from flux_flex.model.rv1 import parse_r
from flux_flex.model.splice import Spliced, grown, shrunk

# What flux-sched 0.54 takes as matcher_policy.
FLUXION_POLICIES = (
    "first", "firstnodex", "high", "hinode", "hinodex", "low", "lonode", "lonodex", "locality",
)  # fmt: skip
MOST_VIEWS = 6

_JOBID = re.compile(r"(jobid-\w+=)(\d+)")


class FluxionMatcher:
    """Allocations and reservations on one graph, in fluxion. Close it, or let it be collected."""

    def __init__(
        self, graph: ResourceGraph, policy: str = "first", library: Path | None = None
    ) -> None:
        """Load the graph into fluxion. ``library`` is a libreapi_cli.so, None to look for one.

        Raises FlexError where there is none, and for graphs and policies that it refuses.
        """
        if policy not in FLUXION_POLICIES:
            remedy = f"use one of {', '.join(FLUXION_POLICIES)}, or the embedded engine"
            raise BadInput(f"fluxion has no policy {policy!r}", "policy", remedy)
        self.graph = graph
        self.policy = policy
        self._library = open_library(library)
        self._between = levels_between(graph)
        self._held: dict[int, Match] = {}
        self._down: set[int] = set()
        self._next_jobid = 1
        self._empty: FluxionMatcher | None = None  # for what is asked of an empty graph
        self._views: dict[tuple[frozenset[str], float, int], View] = {}
        self._view()

    @property
    def version(self) -> str:
        """The version of the fluxion that was found."""
        return self._library.version

    @property
    def holders(self) -> Collection[int]:
        """The ids of the jobs that hold something now or have it reserved."""
        return self._held.keys()

    def fork(self) -> FluxionMatcher:
        """A matcher in the same state that then goes its own way."""
        twin = copy.copy(self)
        twin._held, twin._down = dict(self._held), set(self._down)
        # Without clone, the twin loads its views when it is asked something.
        can = self._library.has("clone")
        twin._views = {key: view.fork() for key, view in self._views.items()} if can else {}
        return twin

    def close(self) -> None:
        """Give fluxion's memory back now; a question afterwards loads the graph again."""
        while self._views:
            self._views.popitem()[1].context.close()
        if self._empty is not None:
            self._empty.close()

    # -- the Matcher interface -------------------------------------------------------------------

    def allocate(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        """Give resources from ``at`` on, in seconds. Raises Busy, Unsatisfiable or FlexError."""
        return self._match(Operation.ALLOCATE, jobspec, jobid, at)

    def reserve(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        """Allocate at ``at``, or else hold the earliest time after it. Raises as ``allocate``."""
        return self._match(Operation.RESERVE, jobspec, jobid, at)

    def satisfiable(self, jobspec: JobspecLike) -> bool:
        spec = read_jobspec(jobspec)
        if not named_types(spec) <= set(self.graph.types):
            return False
        if not self._view_for(spec).context.satisfiable(_text(spec)):
            return False
        return self.graph.same is None or self._fits_when_empty(spec)

    def cancel(self, jobid: int) -> None:
        """Give back all that a job holds. Raises BadInput for a job that holds nothing."""
        self.info(jobid)
        for view in self._views.values():
            view.drop(jobid)
        del self._held[jobid]

    def update(self, jobid: int, R: Mapping[str, object], at: float, duration: float) -> Match:
        """Take note of an allocation that somebody else made.

        ``R`` is version 1 (RFC 20); ``duration`` in seconds, 0 without limit. Raises BadInput for
        hosts or ids that the graph does not have, and Busy where something is held already.
        """
        self._refuse_a_holder(jobid)
        vertices = vertices_of_r(self.graph, parse_r(R))
        picked = ((vertices, self.graph.size[vertices], True),)
        match = Match(jobid, _seconds(at), duration, False, picked, self.graph)
        self._refuse_what_is_held(match)
        self._hold(match, self._view())
        return match

    # -- more that fluxion can --------------------------------------------------------------------

    def partial_cancel(self, jobid: int, R: Mapping[str, object]) -> bool:
        """Give back what a job holds on the ranks of ``R``, as fluxion does, whatever part of
        them R names. Returns whether that was all. Raises BadInput where it holds nothing there.
        """
        match = self.info(jobid)
        kept = kept_by(match, ranks_of(R))
        self.cancel(jobid)
        if kept:
            self._hold(replace(match, picked=kept), self._view())
        return not kept

    def info(self, jobid: int) -> Match:
        """What a job holds, and when. Raises BadInput for a job that holds nothing."""
        if jobid not in self._held:
            raise BadInput(f"job {jobid} holds nothing", "", "name a job that holds something")
        return self._held[jobid]

    def find(self, criteria: str) -> dict[str, Any]:
        """R of what meets fluxion's criteria. Raises BadInput for bad ones."""
        try:
            return found_r(self.graph, np.array(self.found(criteria), dtype=np.int64))
        except FlexError as error:
            if "invalid criteria" not in error.what:
                raise
            remedy = "use terms such as status=up or sched-now=allocated, with and, or, ( )"
            raise BadInput("no criteria of fluxion", quoted(criteria), remedy) from error

    def found(self, criteria: str) -> list[int]:
        """The vertices that meet fluxion's criteria, such as ``status=down`` or ``jobid-alloc=3
        and sched-now=allocated``, and all that contain them. Raises FlexError for bad criteria."""
        view = self._view()
        # Fluxion has ids of its own; 0 is nobody's.
        there = {str(jobid): str(own) for jobid, own in view.own_id.items()}
        told = _JOBID.sub(lambda found: found[1] + there.get(found[2], "0"), criteria)
        return view.vertices(view.context.find(told))

    def mark(self, vertices: Iterable[int], *, up: bool) -> None:
        """Mark nodes, or what holds nodes, up or down: nothing new starts on what is down.

        Raises BadInput for vertices within a node: Flux too knows only whole nodes down.
        """
        marked: set[int] = set()
        nodes = self.graph.of_type(NODE)
        for vertex in vertices:
            if self.graph.node_of[vertex] not in (-1, vertex):
                raise BadInput("a part of a node", self.graph.path(vertex), "mark the whole node")
            low, high = np.searchsorted(nodes, (vertex, self.graph.end[vertex]))
            inside = nodes[low:high] if low < high else np.array([vertex])
            marked.update(self.graph.aliases(inside).tolist())
        self._down = self._down - marked if up else self._down | marked
        for view in self._views.values():
            view.mark(marked, up=up)

    def mark_path(self, path: str, *, up: bool) -> None:
        """Mark the vertex of a containment path. Raises BadInput where there is none."""
        self.mark([vertex_at(self.graph, path)], up=up)

    def mark_ranks(self, ranks: str | Iterable[int], *, up: bool) -> None:
        """Mark the nodes of some ranks. Raises BadInput for ranks that no node has."""
        self.mark(nodes_of_ranks(self.graph, ranks), up=up)

    def add_subgraph(self, subgraph: GraphLike, parent: str | None = None) -> None:
        """Add a graph below ``parent``, or what is new in one from the same root.

        Raises BadInput as the Matcher does. Numbers of vertices change: matches made before keep
        the graph that they were made on.
        """
        larger = grown(self.graph, read_graph(subgraph), parent)
        new = larger.graph.parent[larger.added]
        for above in np.unique(new[~np.isin(new, larger.added)]).tolist():
            old = int(np.searchsorted(larger.moved, above))
            refuse_within_whole(self._held.values(), self.graph, old)
        if not self._library.has("add_subgraph"):
            self.close()
        self._move_to(larger)
        for view in self._views.values():
            view.grow(larger.graph, larger.moved, larger.added.tolist())

    def remove_subgraph(self, path: str) -> None:
        """Remove a vertex and all below it. Raises BadInput where a job holds a part of it."""
        top = vertex_at(self.graph, path)
        refuse_where_held(self._held.values(), self.graph, top)
        smaller = shrunk(self.graph, top)
        if not self._library.has("remove_subgraph"):
            self.close()
        self._move_to(smaller)
        for view in self._views.values():
            view.shrink(smaller.graph, smaller.moved, path)

    # -- within ------------------------------------------------------------------------------------

    def _match(
        self, operation: Operation, jobspec: JobspecLike, jobid: int | None, at: float
    ) -> Match:
        spec, start = read_jobspec(jobspec), float(math.ceil(_seconds(at)))
        self._refuse_a_holder(jobid)
        unknown = sorted(named_types(spec) - set(self.graph.types))
        if unknown:
            what = f"there is no {unknown[0]} in this graph"
            raise Unsatisfiable(what, remedy="ask for other resources")
        view = self._view_for(spec, start)
        try:
            answer, picked = self._ask(view, operation, spec)
        except Busy:
            if self.graph.same is not None and not self._fits_when_empty(spec):
                what = "no part of this graph could ever meet the request"
                raise Unsatisfiable(what, remedy="ask for less, or let fewer share") from None
            raise
        number = self._next_free() if jobid is None else jobid
        match = Match(
            jobid=number,
            at=start + answer.at,
            duration_s=spec.duration_s,
            reserved=answer.at > 0,
            picked=picked,
            graph=self.graph,
        )
        if self.graph.same is None:
            view.note(number, answer.jobid)
        else:
            view.context.cancel(answer.jobid)  # held below, with the aliases of what it holds
        self._hold(match, view)
        return match

    def _ask(
        self, view: View, operation: Operation, spec: Jobspec
    ) -> tuple[Answer, tuple[tuple[IntArray, IntArray, bool], ...]]:
        """Fluxion's answer, and what it picks."""
        named, whole = named_types(spec), _taken_whole(spec)
        return ask_without_clashes(
            view,
            lambda: view.match(operation, _text(spec)),
            lambda answer: view.picked(answer.jgf, named, whole),
            self._down,
        )

    def _fits_when_empty(self, spec: Jobspec) -> bool:
        """Whether a request fits when nothing is held or down. Where nodes are shared, fluxion's
        own word on that counts their aliases apart."""
        if self._empty is None:
            self._empty = FluxionMatcher(self.graph, self.policy, self._library.path)
        view = self._empty._view_for(spec)
        try:
            answer, _ = self._empty._ask(view, Operation.ALLOCATE, spec)
        except (Busy, Unsatisfiable):
            return False
        view.context.cancel(answer.jobid)
        return True

    def _hold(self, match: Match, view: View) -> None:
        """Hold a match that ``view`` knows, or is told now; the others are told when asked."""
        if match.jobid not in view.own_id:
            view.tell(match)
        self._held[match.jobid] = match
        for other in self._views.values():
            other.behind |= other is not view

    def _next_free(self) -> int:
        while self._next_jobid in self._held:
            self._next_jobid += 1
        self._next_jobid += 1
        return self._next_jobid - 1

    def _refuse_a_holder(self, jobid: int | None) -> None:
        if jobid in self._held:
            raise BadInput(f"job {jobid} holds resources already", "", "cancel it first")

    def _view_for(self, spec: Jobspec, origin: float = 0.0) -> View:
        skipped = skipped_levels(self._between, spec)
        if skipped and spec.constraint is not None and self._has_properties(skipped):
            what = "the request skips a level that its constraint may speak of"
            raise FlexError(what, "fluxion", f"name each level: {', '.join(sorted(skipped))}")
        view = self._view(skipped, origin)
        return self._view(skipped, origin, lead=1) if view.later else view

    def _has_properties(self, types: frozenset[str]) -> bool:
        return NODE in types or any(self.graph.type_name(v) in types for v in self.graph.properties)

    def _view(
        self, folded: frozenset[str] = frozenset(), origin: float = 0.0, lead: int = 0
    ) -> View:
        """The view without some levels from ``origin`` on, with all that is held told to it."""
        key = folded, origin, lead
        view = self._views.pop(key, None)
        if view is None:
            while len(self._views) >= MOST_VIEWS:
                self._views.pop(next(iter(self._views))).context.close()
            view = View.load(self.graph, folded, origin, lead, self._library, self.policy)
            view.mark(self._down, up=False)
        self._views[key] = view  # the last is the one used last
        view.catch_up(self._held)
        return view

    def _refuse_what_is_held(self, match: Match) -> None:
        mine = match.picked[0][0]
        start, end = span_s(match)
        for other in self._held.values():
            begins, ends = span_s(other)
            if not (start < ends and begins < end):
                continue
            for vertices, _, exclusive in other.picked:
                if not exclusive:
                    continue
                if self.graph.same is not None:
                    vertices = self.graph.aliases(expand(vertices, self.graph.end[vertices]))
                above = np.sort(vertices)
                last = np.maximum.accumulate(self.graph.end[above])
                place = np.searchsorted(above, mine, side="right") - 1
                held = (place >= 0) & (mine < last[place])
                if held.any():
                    path = self.graph.path(int(mine[np.argmax(held)]))
                    raise Busy(f"held by job {other.jobid} already", path, "cancel it first")

    def _move_to(self, spliced: Spliced) -> None:
        """Take a graph that has grown or shrunk."""
        for key in [key for key, view in self._views.items() if view.folded or view.lead]:
            self._views.pop(key).context.close()  # loaded anew when it is needed
        self.graph = spliced.graph
        self._between = levels_between(spliced.graph)
        self._down = {int(spliced.moved[v]) for v in self._down} - {-1}
        for jobid, match in self._held.items():
            self._held[jobid] = moved_match(match, spliced)


@lru_cache(maxsize=4096)
def _text(spec: Jobspec) -> str:
    """A jobspec as fluxion reads it: it wants tasks, which it ignores, and a label on each slot."""
    system: dict[str, object] = {"duration": spec.duration_s}
    if spec.constraint is not None:
        system["constraints"] = spec.system["constraints"]
    document = {
        "version": 9999,
        "resources": _labelled(spec.raw["resources"]),
        "tasks": [],
        "attributes": {"system": system},
    }
    return json.dumps(document)


def _labelled(items: object) -> list[dict[str, object]]:
    assert isinstance(items, list)  # as parsed
    labelled = []
    for item in items:
        resource = {"label": "task", **item} if item["type"] == "slot" else dict(item)
        if resource.get("with") is not None:
            resource["with"] = _labelled(resource["with"])
        labelled.append(resource)
    return labelled


def _taken_whole(spec: Jobspec) -> frozenset[str]:
    walked = (item for resource in spec.resources for item in resource.walk())
    return frozenset(item.type for item in walked if item.exclusive)


def _seconds(at: float) -> float:
    if not (math.isfinite(at) and at >= 0):
        raise BadInput(f"a start at {at}", "at", "give seconds from 0 up")
    return float(at)
