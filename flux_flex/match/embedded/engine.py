"""EmbeddedMatcher: the Matcher interface over planner and traverser."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from flux_flex.errors import BadInput, Busy, Unsatisfiable
from flux_flex.match.criteria import Standing, meeting
from flux_flex.match.embedded.choice import Choice
from flux_flex.match.embedded.discovery import Order
from flux_flex.match.embedded.leads import Leads
from flux_flex.match.embedded.planner import Planner
from flux_flex.match.embedded.policies import POLICIES
from flux_flex.match.embedded.request import Basis, Request, compile_request
from flux_flex.match.embedded.spans import LISTED, Claims, Span
from flux_flex.match.embedded.splice import carried, moved_match, moved_order, moved_up
from flux_flex.match.embedded.traverser import Traversal
from flux_flex.match.embedded.turns import SharingTraversal
from flux_flex.match.holdings import (
    found_r,
    kept_by,
    off_ranks,
    ranks_of,
    refuse_where_held,
    refuse_within_whole,
)
from flux_flex.match.matcher import GraphLike, JobspecLike, Match, read_graph
from flux_flex.model.graph import NODE, BoolArray, ResourceGraph
from flux_flex.model.jobspec import Jobspec, load_jobspec, parse_jobspec
from flux_flex.model.places import nodes_of_ranks, vertex_at
from flux_flex.model.rv1 import parse_r
from flux_flex.model.splice import Spliced, grown, shrunk


class EmbeddedMatcher:
    """Allocations and reservations on one graph, in memory.

    Times only move forward: :meth:`advance` to the present, then ask about it or later.
    """

    def __init__(self, graph: ResourceGraph, policy: str = "first") -> None:
        self.policy = policy
        self._policy = POLICIES[policy]
        walks = self._policy.stops_early and graph.same is None and Order.can_walk(graph)
        self._order = Order(graph) if walks else None
        self._up: BoolArray | None = None
        self._next_jobid = 1
        self._given: WeakKeyDictionary[Span, Match] = WeakKeyDictionary()
        self._empty = Planner(graph)
        self._take_up(self._empty.fork())

    def _take_up(self, planner: Planner) -> None:
        """Answer for a planner and its graph; what was compiled is of no more use."""
        self.graph = graph = planner.graph
        self._planner = planner
        self._leads = Leads(planner)
        self._keys = self._policy.keys(graph)
        self._basis = Basis(graph, planner.leaf_row, planner.full, self._keys)
        self._compiled: dict[object, Request] = {}
        self._satisfiable: dict[int, bool] = {}
        self.__dict__.pop("_node_at", None)

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
        match = Match(jobid, at, duration, False, ((vertices, amounts, True),), self.graph)
        return self._note(self._planner.add(self._fresh(jobid), at, end, claims), match)

    def partial_cancel(self, jobid: int, R: Mapping[str, object]) -> bool:
        match, ranks = self.info(jobid), ranks_of(R)
        kept = kept_by(match, ranks)
        span = self._planner.spans[jobid]
        self._planner.remove(jobid)
        if kept:
            left = self._without(span.claims, ranks)
            self._note(
                self._planner.add(jobid, span.start, span.end, left), replace(match, picked=kept)
            )
        return not kept

    def info(self, jobid: int) -> Match:
        span = self._planner.spans.get(jobid)
        if span is None:
            raise BadInput(f"job {jobid} holds nothing", "", "name a job that holds something")
        match = self._given[span]
        begun = match.reserved and span.start <= self.now
        return replace(match, reserved=False) if begun else match

    def find(self, criteria: str) -> dict[str, Any]:
        jobs = {jobid: self._given[span] for jobid, span in self._planner.spans.items()}
        later = {jobid for jobid, span in self._planner.spans.items() if span.start > self.now}
        standing = Standing(
            graph=self.graph,
            up=self._up,
            running={jobid: match for jobid, match in jobs.items() if jobid not in later},
            later={jobid: match for jobid, match in jobs.items() if jobid in later},
        )
        return found_r(self.graph, np.flatnonzero(meeting(criteria, standing)))

    def add_subgraph(self, subgraph: GraphLike, parent: str | None = None) -> None:
        spliced = grown(self.graph, read_graph(subgraph), parent)
        new = spliced.graph.parent[spliced.added]
        for above in np.unique(new[~np.isin(new, spliced.added)]).tolist():
            refuse_within_whole(
                self._matches(), self.graph, int(np.searchsorted(spliced.moved, above))
            )
        self._splice(spliced)

    def remove_subgraph(self, path: str) -> None:
        top = vertex_at(self.graph, path)
        refuse_where_held(self._matches(), self.graph, top)
        self._splice(shrunk(self.graph, top))

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
            now_up[self.graph.aliases(np.arange(vertex, self.graph.end[vertex]))] = up
        self._up = None if now_up.all() else now_up
        self._planner.version += 1

    def mark_path(self, path: str, *, up: bool) -> None:
        self.mark([vertex_at(self.graph, path)], up=up)

    def mark_ranks(self, ranks: str | Iterable[int], *, up: bool) -> None:
        self.mark(nodes_of_ranks(self.graph, ranks), up=up)

    def end_of(self, jobid: int) -> float:
        """When a job's span ends, in seconds (inf: without limit). Raises KeyError."""
        return self._planner.spans[jobid].end

    def idle_nodes(self) -> list[int]:
        """Node vertices of which nothing is held now."""
        nodes = self.graph.once(self.graph.of_type(NODE))
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

    @property
    def _look(self) -> type[Traversal]:
        return Traversal if self.graph.same is None else SharingTraversal

    def _traversal(self, request: Request, leads: Leads | None = None) -> Traversal:
        return self._look(
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
        span = self._planner.add(jobid, at, _end(at, duration_s), choice.claims())
        if self._order is not None:
            self._touch(self._order, choice)
        match = Match(jobid, at, duration_s, reserved, tuple(choice.shown), self.graph)
        return self._note(span, match)

    def _note(self, span: Span | None, match: Match) -> Match:
        """Remember what a span was given as."""
        if span is not None:
            self._given[span] = match
        return match

    def _matches(self) -> Iterator[Match]:
        """What is held, now or later."""
        return (self._given[span] for span in self._planner.spans.values())

    def _without(self, claims: Claims, ranks: list[int]) -> Claims:
        """The claims that are not on some ranks."""
        whole, vertices, unlisted = (
            off_ranks(self.graph, claimed, ranks)
            for claimed in (claims.whole, claims.vertices, claims.unlisted)
        )
        if self.graph.same is not None:  # held on all aliases, but to be said once
            vertices &= self.graph.same[claims.vertices] == claims.vertices
        return Claims(
            claims.whole[whole],
            claims.vertices[vertices],
            claims.amounts[vertices],
            claims.unlisted[unlisted],
        )

    def _splice(self, spliced: Spliced) -> None:
        """Take up a graph that has grown or shrunk; jobs keep what they hold."""
        self._empty = Planner(spliced.graph)
        planner, was = carried(self._planner, self._empty, spliced)
        given = WeakKeyDictionary(
            {now: moved_match(self._given[span], spliced) for span, now in was.items()}
        )
        self._given = given  # a fork may share the one before
        self._up = moved_up(self._up, spliced)
        if self._order is not None:
            self._order = moved_order(self._order, spliced)
        self._take_up(planner)

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
                self._look(self._empty, request, None, self._policy, self._keys).choose()
                is not None
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
        return {
            (int(graph.rank[v]), graph.names[v]): int(v) for v in graph.once(graph.of_type(NODE))
        }


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
