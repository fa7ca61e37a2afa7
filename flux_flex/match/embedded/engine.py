"""EmbeddedMatcher: the Matcher interface over planner and traverser."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from functools import cached_property, lru_cache

import numpy as np

from flux_flex.errors import BadInput, Busy, Unsatisfiable
from flux_flex.match.embedded.choice import Choice
from flux_flex.match.embedded.discovery import Order
from flux_flex.match.embedded.leads import Leads
from flux_flex.match.embedded.planner import Planner
from flux_flex.match.embedded.policies import POLICIES
from flux_flex.match.embedded.request import Basis, Request, compile_request
from flux_flex.match.embedded.spans import LISTED, Claims
from flux_flex.match.embedded.traverser import Traversal
from flux_flex.match.matcher import JobspecLike, Match
from flux_flex.model.graph import NODE, BoolArray, ResourceGraph
from flux_flex.model.jobspec import Jobspec, load_jobspec, parse_jobspec
from flux_flex.model.rv1 import parse_r


class EmbeddedMatcher:
    """Allocations and reservations on one graph, in memory.

    Times only move forward: :meth:`advance` to the present, then ask about it or later.
    """

    def __init__(self, graph: ResourceGraph, policy: str = "first") -> None:
        self.graph = graph
        self.policy = policy
        self._policy = POLICIES[policy]
        self._keys = self._policy.keys(graph)
        walks = self._policy.stops_early and Order.can_walk(graph)
        self._order = Order(graph) if walks else None
        self._planner = Planner(graph)
        self._leads = Leads(self._planner)
        self._empty = Planner(graph)
        self._basis = Basis(graph, self._planner.leaf_row, self._planner.full, self._keys)
        self._compiled: dict[object, Request] = {}
        self._satisfiable: dict[int, bool] = {}
        self._up: BoolArray | None = None
        self._next_jobid = 1

    def fork(self) -> EmbeddedMatcher:
        """A matcher in the same state that then goes its own way; what was compiled is shared."""
        twin = copy.copy(self)
        twin._planner = self._planner.fork()
        twin._leads = Leads(twin._planner)
        twin._order = self._order.copy() if self._order else None
        return twin

    @property
    def now(self) -> float:
        """The present, in seconds: the last time that was advanced to."""
        return self._planner.now

    @property
    def version(self) -> int:
        """A number that changes whenever an answer may."""
        return self._planner.version

    def advance(self, now: float) -> None:
        """Move the present forward; what ends by then is free. Raises BadInput backwards."""
        self._planner.advance(now)

    # -- the Matcher interface -----------------------------------------------------------------

    def allocate(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        request, duration_s = self._compile(jobspec)
        at = self._not_before_now(at)
        choice = self._choose(request, at, _end(at, duration_s))
        if choice is None:
            self._refuse_the_impossible(request)
            raise Busy("the resources are in use", remedy="ask again later, or reserve")
        return self._hold(choice, self._fresh(jobid), at, duration_s, reserved=False)

    def reserve(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        request, duration_s = self._compile(jobspec)
        start = self._not_before_now(at)
        found = self._earliest(request, start, duration_s)
        if found is None:
            self._refuse_the_impossible(request)
            what = "jobs without a time limit hold what is wanted"
            raise Busy(what, remedy="wait for them to end")
        when, choice = found
        return self._hold(choice, self._fresh(jobid), when, duration_s, reserved=when > start)

    def probe(self, jobspec: JobspecLike, at: float = 0, before: float = math.inf) -> Match | None:
        """What :meth:`reserve` would give, without holding it; None where nothing starts from
        ``at`` up to ``before``."""
        request, duration_s = self._compile(jobspec)
        start = self._not_before_now(at)
        found = self._earliest(request, start, duration_s, before)
        if found is None:
            return None
        when, choice = found
        picked = tuple(choice.shown)
        return Match(0, when, duration_s, when > start, picked, self.graph)

    def satisfiable(self, jobspec: JobspecLike) -> bool:
        return self._is_satisfiable(self._compile(jobspec)[0])

    def cancel(self, jobid: int) -> None:
        self._planner.remove(jobid)

    def update(self, jobid: int, R: Mapping[str, object], at: float, duration: float) -> Match:
        """Take note of an allocation that somebody else made.

        ``R`` is version 1 (RFC 20); ``duration`` 0 is without limit. Nothing is held where it
        is over by now. Raises BadInput for hosts or ids that the graph does not have and for a
        job that holds something, and Busy where something is held already.
        """
        vertices = np.array(sorted(self._vertices_of(R)), dtype=np.int64)
        amounts = self.graph.size[vertices]
        end = _end(at, duration)
        with self._planner.during(self._not_before_now(at), end):
            short = self._planner.free(vertices) < amounts
        if short.any():
            path = self.graph.path(int(vertices[np.argmax(short)]))
            raise Busy("held by another job already", path, "cancel that job first")
        claims = Claims(np.zeros(0, dtype=np.int64), vertices, amounts)
        self._planner.add(self._fresh(jobid), at, end, claims)
        return Match(jobid, at, duration, False, ((vertices, amounts, True),), self.graph)

    @property
    def holders(self) -> Collection[int]:
        """The ids of the jobs that hold something now or have it reserved."""
        return self._planner.spans.keys()

    # -- availability ----------------------------------------------------------------------------

    def mark(self, vertices: Iterable[int], *, up: bool) -> None:
        """Mark nodes, or what holds nodes, up or down: nothing new starts on what is down.

        Raises BadInput for vertices within a node: Flux too knows only whole nodes down.
        """
        now_up = np.ones(len(self.graph), dtype=bool) if self._up is None else self._up.copy()
        for vertex in vertices:
            if self.graph.node_of[vertex] not in (-1, vertex):
                raise BadInput("a part of a node", self.graph.path(vertex), "mark the whole node")
            now_up[vertex : self.graph.end[vertex]] = up
        self._up = None if now_up.all() else now_up
        self._planner.version += 1

    def end_of(self, jobid: int) -> float:
        """When a job's span ends, in seconds (inf: without limit). Raises KeyError."""
        return self._planner.spans[jobid].end

    def idle_nodes(self) -> list[int]:
        """Node vertices of which nothing is held now."""
        nodes = self.graph.of_type(NODE)
        return [int(v) for v in nodes[self._planner.idle(nodes)]]

    # -- within --------------------------------------------------------------------------------

    def _not_before_now(self, at: float) -> float:
        if not math.isfinite(at):
            raise BadInput(f"a start at {at}", "at", "give seconds")
        return max(at, self.now)

    def _compile(self, jobspec: JobspecLike) -> tuple[Request, float]:
        """The compiled request, and its duration in seconds (0 for no limit)."""
        spec = read_jobspec(jobspec)
        key = (spec.resources, spec.constraint)
        request = self._compiled.get(key)
        if request is None:
            if len(self._compiled) >= 4096:
                self._compiled.clear()
                self._satisfiable.clear()
                self._leads = Leads(self._planner)
            request = compile_request(spec, self._basis)
            self._compiled[key] = request
        return request, spec.duration_s

    def _traversal(self, request: Request, leads: Leads | None = None) -> Traversal:
        return Traversal(
            self._planner, request, self._up, self._policy, self._keys, self._order, leads
        )

    def _choose(self, request: Request, at: float, end: float) -> Choice | None:
        if not _promising(request, self._planner, at):
            return None
        if self._planner.is_present(at, end):
            return self._traversal(request, self._leads).choose()
        with self._planner.during(at, end):
            return self._traversal(request).choose()

    def _earliest(
        self, request: Request, start: float, duration_s: float, before: float = math.inf
    ) -> tuple[float, Choice] | None:
        times = self._planner.sweep(start, duration_s or math.inf, request.totals, before)
        with closing(times):
            for when, _ in times:
                choice = self._traversal(request).choose()
                if choice is not None:
                    return when, choice
        return None

    def _hold(
        self, choice: Choice, jobid: int, at: float, duration_s: float, *, reserved: bool
    ) -> Match:
        self._planner.add(jobid, at, _end(at, duration_s), choice.claims())
        if self._order is not None:
            self._touch(self._order, choice)
        return Match(jobid, at, duration_s, reserved, tuple(choice.shown), self.graph)

    def _touch(self, order: Order, choice: Choice) -> None:
        """Let the order of discovery learn where a job came by."""
        graph, free = self.graph, self._planner.state[LISTED]
        above = np.concatenate([vertices for vertices, _, _ in choice.shown])
        above = np.unique(np.where(graph.end[above] > above + 1, above, graph.parent[above]))
        touched: set[int] = set()
        for vertex in above.tolist():
            while vertex >= 0 and vertex not in touched:
                touched.add(vertex)
                order.touch(vertex, int(free[vertex]))
                vertex = int(graph.parent[vertex])

    def _is_satisfiable(self, request: Request) -> bool:
        known = self._satisfiable.get(id(request))
        if known is None:
            known = (
                Traversal(self._empty, request, None, self._policy, self._keys).choose() is not None
            )
            self._satisfiable[id(request)] = known
        return known

    def _refuse_the_impossible(self, request: Request) -> None:
        if not self._is_satisfiable(request):
            raise Unsatisfiable(
                "no part of this graph could ever meet the request",
                remedy="ask for less, or for other resources or properties",
            )

    def _fresh(self, jobid: int | None) -> int:
        if jobid is None:
            jobid = self._next_jobid
            while jobid in self._planner.spans:
                jobid += 1
            self._next_jobid = jobid + 1
        elif jobid in self._planner.spans:
            raise BadInput(f"job {jobid} holds resources already", "", "cancel it first")
        return jobid

    def _vertices_of(self, R: Mapping[str, object]) -> set[int]:
        """The core and gpu vertices that an R names, found by host (or by rank) and number."""
        found: set[int] = set()
        for item in parse_r(R).ranks:
            node = self._node_at.get((item.rank, item.host))
            if node is None:
                what = f"no node {item.host} of rank {item.rank} in the graph"
                raise BadInput(what, "R", "give an R of this system")
            for kind, ids in (("core", item.cores), ("gpu", item.gpus)):
                found |= self._inside(node, kind, ids)
        return found

    def _inside(self, node: int, kind: str, ids: Iterable[int]) -> set[int]:
        members = self.graph.of_type(kind)
        low, high = np.searchsorted(members, (node, self.graph.end[node]))
        number = {int(self.graph.local_id[v]): int(v) for v in members[low:high]}
        missing = [i for i in ids if i not in number]
        if missing:
            what = f"{self.graph.names[node]} has no {kind}{missing[0]}"
            raise BadInput(what, "R", "give an R of this system")
        return {number[i] for i in ids}

    @cached_property
    def _node_at(self) -> dict[tuple[int, str], int]:
        """Node vertices by rank and host."""
        graph = self.graph
        return {(int(graph.rank[v]), graph.names[v]): int(v) for v in graph.of_type(NODE)}


def read_jobspec(jobspec: JobspecLike) -> Jobspec:
    """A Jobspec from an object, a decoded mapping, or text. Raises BadInput."""
    if isinstance(jobspec, Jobspec):
        return jobspec
    if isinstance(jobspec, str):
        return _load(jobspec)
    return parse_jobspec(jobspec)


# Queues hold many copies of few jobspecs.
_load = lru_cache(maxsize=1024)(load_jobspec)


def _promising(request: Request, planner: Planner, at: float) -> bool:
    """A quick no for the present, before anything is walked or counted."""
    if at > planner.now:
        return True
    return all(planner.state[row, 0] >= need for row, need in request.needs)


def _end(start: float, duration_s: float) -> float:
    return start + duration_s if duration_s else math.inf
