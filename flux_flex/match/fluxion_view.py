"""View: one graph in fluxion, perhaps without some levels, perhaps from a later time on.

It speaks of vertices by their numbers in the full graph and of jobs by their caller's ids, and
translates both. Levels that are folded out of the view are put back into what it answers, and
out of what it is told.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flux_flex.errors import Busy
from flux_flex.match.fluxion_graphs import fold
from flux_flex.match.fluxion_library import Answer, Context, Library, Operation, answered
from flux_flex.match.matcher import Match
from flux_flex.model.graph import IntArray, ResourceGraph
from flux_flex.model.jgf import jgf_document

HORIZON_S = 3_153_600_000  # as far as fluxion's planners reach: 100 years
# Ids for what it is told, where it counts the jobs that it matches itself.
OWN_COUNT_ENDS = 1 << 40
BLOCKER = 1 << 41


@dataclass(slots=True)
class View:
    """``full`` without the levels ``folded``, at the time ``origin`` in seconds.

    ``number[i]`` is the vertex of ``full`` that fluxion knows by the id i, -1 for one removed; ids
    are in the order of ``uniq_id``, by which fluxion visits. ``place[v]`` is the number in
    ``loaded`` of the vertex v of ``full``, -1 for one folded. ``own_id`` is fluxion's id for each
    job that it knows; ids are used again, from ``spare``, because fluxion remembers each for ever.
    ``behind``: some job held may not be known yet.

    Fluxion gives nothing *now* of what it was told is allocated at any time, be it years ahead: it
    takes it for a job that overruns. ``later`` are the jobs of which it was told so. With a
    ``lead`` of 1, fluxion's now is a second before ``origin``, and all is taken in that second:
    it then gives only reservations, for which it looks at the times.
    """

    full: ResourceGraph
    loaded: ResourceGraph
    folded: frozenset[str]
    origin: float
    number: IntArray
    place: IntArray
    context: Context
    own_id: dict[int, int]
    spare: list[int]
    later: set[int]
    lead: int = 0
    issued: int = 0
    behind: bool = True

    @classmethod
    def load(
        cls,
        full: ResourceGraph,
        folded: frozenset[str],
        origin: float,
        lead: int,
        library: Library,
        policy: str,
    ) -> View:
        """Load a graph into fluxion. Raises FlexError where it refuses."""
        loaded, kept = fold(full, folded)
        loaded = replace(loaded, same=None)  # fluxion's containment is a tree
        place = np.full(len(full), -1)
        place[kept] = np.arange(len(kept))
        order = np.argsort(loaded.uniq_id, kind="stable")
        document = _document(loaded, np.argsort(order))
        context = Context(library, json.dumps(document), policy, loaded.types)
        if lead:
            for node in document["graph"]["nodes"]:
                node["metadata"]["exclusive"] = True
            context.update(BLOCKER, _r(document, 0, lead))
        number = kept[order]
        return cls(full, loaded, folded, origin, number, place, context, {}, [], set(), lead)

    def fork(self) -> View:
        """A view in the same state that then goes its own way."""
        return replace(
            self,
            context=self.context.clone(),
            own_id=dict(self.own_id),
            spare=list(self.spare),
            later=set(self.later),
        )

    # -- jobs ------------------------------------------------------------------------------------

    @property
    def _first_id(self) -> int:
        return 1 if self.context.library.has("match_with_jobid") else OWN_COUNT_ENDS

    def free_id(self) -> int:
        """An id that fluxion has for no job now."""
        return self.spare[-1] if self.spare else self._first_id + self.issued

    def match(self, operation: Operation, jobspec: str) -> Answer:
        """Ask at ``origin``; the answer's ``at`` is in seconds after it. Raises as
        :meth:`Context.match`. The answer is to be noted."""
        if not self.lead:
            return self.context.match(operation, jobspec, self.free_id())
        answer = self.context.match(Operation.RESERVE, jobspec, self.free_id())
        if operation is Operation.ALLOCATE and answer.at > self.lead:
            self.context.cancel(answer.jobid)
            raise Busy("the resources are in use", remedy="ask again later, or reserve")
        return replace(answer, at=answer.at - self.lead)

    def note(self, jobid: int, own: int) -> None:
        """Remember fluxion's id for a job."""
        if self.spare and own == self.spare[-1]:
            self.spare.pop()
        elif own == self._first_id + self.issued:
            self.issued += 1
        self.own_id[jobid] = own

    def drop(self, jobid: int) -> None:
        """Give back what a job holds, if it is known here."""
        self.later.discard(jobid)
        own = self.own_id.pop(jobid, None)
        if own is not None:
            self.context.cancel(own)
            if own >= self._first_id:
                self.spare.append(own)

    def catch_up(self, held: Mapping[int, Match]) -> None:
        """Be told of the jobs held that are not known here."""
        if self.behind:
            for jobid, match in held.items():
                if jobid not in self.own_id:
                    self.tell(match)
            self.behind = False

    def tell(self, match: Match) -> None:
        """Let fluxion hold a match made elsewhere, as far as it lies in this view's time."""
        start, end = (moment - self.origin for moment in span_s(match))
        if end <= 0 or start + self.lead >= HORIZON_S:
            return
        R = _r(self._jgf(match), max(start, 0.0) + self.lead, min(end + self.lead, HORIZON_S))
        own = self.free_id()
        self.context.update(own, R)
        self.note(match.jobid, own)
        if start > 0:
            self.later.add(match.jobid)

    def _jgf(self, match: Match) -> dict[str, object]:
        """What a match excludes others from, and what contains it."""
        picked = [(self._inside(v), v, only) for v, _, only in match.picked]
        taken = [inside if only else self._consumed(v) for inside, v, only in picked]
        exclusive = self._everywhere(taken)
        shown = self._everywhere([inside if only else v for inside, v, only in picked])
        for vertex in sorted(shown):
            above = int(self.loaded.parent[vertex])
            while above >= 0 and above not in shown:
                shown.add(above)
                above = int(self.loaded.parent[above])
        document: dict[str, Any] = jgf_document(self.loaded, sorted(shown))
        for node in document["graph"]["nodes"]:
            node["metadata"]["exclusive"] = int(node["id"]) in exclusive
        return document

    def _consumed(self, vertices: IntArray) -> IntArray:
        """What is used up of vertices that are not exclusive. A part of a shared pool keeps others
        from all of it: of its aliases fluxion could not add up the parts."""
        leaf = self.full.end[vertices] == vertices + 1
        used_up: IntArray = vertices[leaf & (self.full.same is not None)]
        return used_up

    def _everywhere(self, groups: Sequence[IntArray]) -> set[int]:
        """The numbers in the view of some vertices and their aliases."""
        numbers: list[int] = self.place[self.full.aliases(np.concatenate(groups))].tolist()
        return set(numbers) - {-1}

    def _inside(self, vertices: IntArray) -> IntArray:
        """Vertices of the view that stand for ``vertices``: for one folded, all below it."""
        folded = vertices[self.place[vertices] < 0]
        below = [np.arange(v + 1, self.full.end[v]) for v in folded.tolist()]
        together = np.concatenate([vertices, *below])
        kept: IntArray = together[self.place[together] >= 0]
        return kept

    # -- answers ---------------------------------------------------------------------------------

    def vertices(self, jgf: str) -> list[int]:
        """The vertices of an answer, "" for none, ascending."""
        return sorted(self.number[[v for v, _, _ in answered(jgf)]].tolist()) if jgf else []

    def picked(
        self, jgf: str, named: frozenset[str], whole: frozenset[str]
    ) -> tuple[tuple[IntArray, IntArray, bool], ...]:
        """An answer as :attr:`Match.picked`: what is exclusive, and what of ``named`` types is
        shared; the other vertices in it contain these. Of ``whole`` types all is taken, and so
        are levels that were folded in it."""
        exclusive: dict[int, int] = {}
        shared: dict[int, int] = {}
        for own, amount, only in answered(jgf):
            (exclusive if only else shared)[int(self.number[own])] = amount
        for vertex in self._put_back(exclusive, whole):
            exclusive[vertex] = int(self.full.size[vertex])
        matched = {v: n for v, n in shared.items() if self.full.type_name(v) in named}
        return tuple(_columns(group, only) for group, only in _groups(exclusive, matched))

    def _put_back(self, exclusive: Mapping[int, int], whole: frozenset[str]) -> set[int]:
        """The folded vertices that lie in one taken whole, above something that was answered."""
        found: set[int] = set()
        for vertex in exclusive if self.folded and whole else ():
            trail = []
            above = int(self.full.parent[vertex])
            while above >= 0 and (self.place[above] < 0 or above in exclusive):
                if self.place[above] < 0:
                    trail.append(above)
                elif self.full.type_name(above) in whole:
                    found.update(trail)
                above = int(self.full.parent[above])
        return found

    # -- the graph -------------------------------------------------------------------------------

    def mark(self, vertices: Iterable[int], *, up: bool) -> None:
        """Mark vertices up or down; for one folded, the uppermost below it."""
        for vertex in vertices:
            below, end = vertex, int(self.full.end[vertex])
            while below < end:
                if self.place[below] < 0:
                    below += 1
                else:
                    self.context.mark(self.loaded.path(int(self.place[below])), up=up)
                    below = int(self.full.end[below])

    def grow(self, full: ResourceGraph, moved: IntArray, added: Iterable[int]) -> None:
        """Take a larger graph, in which ``added`` are new and v has become ``moved[v]``."""
        new = sorted(added)
        known = np.where(self.number >= 0, moved[self.number], -1)
        self.number = np.concatenate([known, np.array(new, dtype=np.int64)])
        self.full = self.loaded = full
        self.place = np.arange(len(full))
        own = np.full(len(full), -1)
        own[self.number[self.number >= 0]] = np.flatnonzero(self.number >= 0)
        shown = set(new)
        for vertex in new:
            above = int(full.parent[vertex])
            while above >= 0 and above not in shown:
                shown.add(above)
                above = int(full.parent[above])
        self.context.add_subgraph(json.dumps(_document(full, own, sorted(shown))))

    def shrink(self, full: ResourceGraph, moved: IntArray, path: str) -> None:
        """Take a smaller graph, without what is at ``path``; v has become ``moved[v]``."""
        self.number = np.where(self.number >= 0, moved[self.number], -1)
        self.full = self.loaded = full
        self.place = np.arange(len(full))
        self.context.remove_subgraph(path)


def span_s(match: Match) -> tuple[float, float]:
    """From when to when fluxion takes a match to last, in whole seconds; inf without limit."""
    end = math.ceil(match.at + match.duration_s) if match.duration_s else math.inf
    return float(math.floor(match.at)), float(end)


def _document(
    graph: ResourceGraph, own: IntArray, kept: Sequence[int] | None = None
) -> dict[str, Any]:
    """JGF of a graph, or of some of its vertices, in which vertex v has the id ``own[v]``."""
    document: dict[str, Any] = jgf_document(graph, kept)
    ids = own.tolist()
    for node in document["graph"]["nodes"]:
        number = ids[int(node["id"])]
        node["id"], node["metadata"]["uniq_id"] = str(number), number
    for edge in document["graph"]["edges"]:
        edge["source"], edge["target"] = (str(ids[int(edge[end])]) for end in ("source", "target"))
    return document


def _r(scheduling: Mapping[str, object], start: float, end: float) -> str:
    """R version 1 (RFC 20) of what is in ``scheduling``, a JGF document."""
    execution = {
        "R_lite": [],
        "nodelist": [],
        "starttime": float(start),
        "expiration": float(end),
    }
    return json.dumps({"version": 1, "execution": execution, "scheduling": scheduling})


def _groups(exclusive: dict[int, int], shared: dict[int, int]) -> list[tuple[dict[int, int], bool]]:
    return [(group, only) for group, only in ((exclusive, True), (shared, False)) if group]


def _columns(group: Mapping[int, int], exclusive: bool) -> tuple[IntArray, IntArray, bool]:
    vertices = np.array(sorted(group), dtype=np.int64)
    amounts = np.array([group[v] for v in vertices.tolist()], dtype=np.int64)
    return vertices, amounts, exclusive
