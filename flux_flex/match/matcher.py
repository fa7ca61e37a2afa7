"""Matcher: the interface of every engine, what it answers, and how to open one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.model.graph import IntArray, ResourceGraph, expand
from flux_flex.model.jgf import graph_of_r, jgf_document, parse_jgf, paths_of
from flux_flex.model.jobspec import Jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

if TYPE_CHECKING:
    from flux_flex.match.live import Rpc

POLICIES = (
    "first",
    "low",
    "high",
    "lonode",
    "hinode",
    "lonodex",
    "hinodex",
    "locality",
    "topology",
)
ENGINES = ("auto", "live", "fluxion", "embedded")
KNOWN_TO_FLUXION = POLICIES[:-1]

JobspecLike = Jobspec | Mapping[str, object] | str
GraphLike = ResourceGraph | Mapping[str, object] | str | Path


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What a job was given.

    ``picked`` holds what was matched, as (vertex numbers of ``graph``, amounts, exclusive) that
    belong together; ``at`` and ``duration_s`` are seconds on the matcher's clock (0: without
    limit); ``reserved`` says that it starts later than was asked.
    """

    jobid: int
    at: float
    duration_s: float
    reserved: bool
    picked: tuple[tuple[IntArray, IntArray, bool], ...] = field(repr=False)
    graph: ResourceGraph = field(repr=False)

    @property
    def state(self) -> str:
        """As fluxion's info says it."""
        return "RESERVED" if self.reserved else "ALLOCATED"

    @property
    def chosen(self) -> dict[int, tuple[int, bool]]:
        """Vertex number to (amount, exclusive), with the shared vertices above the picked."""
        chosen: dict[int, tuple[int, bool]] = {}
        for vertices, amounts, exclusive in self.picked:
            pairs = zip(vertices.tolist(), amounts.tolist(), strict=True)
            chosen.update((vertex, (amount, exclusive)) for vertex, amount in pairs)
        for vertex in list(chosen):
            above = int(self.graph.parent[vertex])
            while above >= 0 and above not in chosen:
                chosen[above] = (int(self.graph.size[above]), False)
                above = int(self.graph.parent[above])
        return chosen

    @property
    def vertices(self) -> dict[str, tuple[int, bool]]:
        """``{containment path: (amount, exclusive)}``."""
        chosen = self.chosen
        return dict(zip(paths_of(self.graph, chosen), chosen.values(), strict=True))

    @property
    def nodes(self) -> list[int]:
        """The node vertices, in depth-first order; of shared nodes the first aliases."""
        found = np.unique(self._node_of(self._given())).tolist()
        return [node for node in found if node >= 0]

    @property
    def hosts(self) -> list[str]:
        """The names of the nodes, in depth-first order."""
        return [self.graph.names[v] for v in self.nodes]

    def amount(self, kind: str) -> int:
        """How much of a type was picked, without the shared vertices above what was picked."""
        code = self.graph.types.index(kind) if kind in self.graph.types else -1
        return sum(int(n[self.graph.type_of[v] == code].sum()) for v, n, _ in self.picked)

    def to_jgf(self) -> dict[str, object]:
        """The chosen vertices and the containment edges among them, as JGF."""
        return jgf_document(self.graph, list(self.chosen))

    def to_r(self) -> dict[str, object]:
        """The match as R version 1 (RFC 20): the cores and gpus of each rank.

        A vertex that was given whole, with nothing named in it, gives all its cores and gpus.
        What lies outside of nodes has no place in an R. Raises BadInput for nodes without rank.
        """
        graph, numbers = self.graph, self._given()
        held: dict[int, dict[str, list[int]]] = {node: {} for node in self.nodes}
        nodes, ids = self._node_of(numbers).tolist(), graph.local_id[numbers].tolist()
        for vertex, node, local_id in zip(numbers.tolist(), nodes, ids, strict=True):
            if node >= 0:
                held[node].setdefault(graph.type_name(vertex), []).append(local_id)
        ranks = [
            RankResources(
                rank=int(graph.rank[node]),
                host=graph.names[node],
                cores=tuple(sorted(kinds.get("core", ()))),
                gpus=tuple(sorted(kinds.get("gpu", ()))),
            )
            for node, kinds in held.items()
        ]
        expiration = self.at + self.duration_s if self.duration_s else 0.0
        ranks.sort(key=lambda item: item.rank)
        return ResourceSet(tuple(ranks), starttime=self.at, expiration=expiration).to_r()

    def _node_of(self, numbers: IntArray) -> IntArray:
        """The node that each vertex is or lies in, -1 outside of nodes: a shared one is one."""
        nodes, same = self.graph.node_of[numbers], self.graph.same
        return nodes if same is None else np.where(nodes >= 0, same[nodes], -1)

    def _given(self) -> IntArray:
        """The picked vertices, and all in those exclusive ones of which nothing else is picked."""
        numbers = np.concatenate([vertices for vertices, _, _ in self.picked])
        end = self.graph.end
        whole = [v[end[v] > v + 1] for v, _, exclusive in self.picked if exclusive]
        if not any(map(len, whole)):
            return numbers
        holding, ordered = np.concatenate(whole), np.sort(numbers)
        inside = np.searchsorted(ordered, end[holding]) - np.searchsorted(ordered, holding, "right")
        alone = holding[inside == 0]
        return np.concatenate((numbers, expand(alone + 1, end[alone]))) if alone.size else numbers


class Matcher(Protocol):
    """What every engine answers. Jobspecs come as objects, decoded mappings or text.

    Times are seconds on one clock that the caller owns. A jobspec that cannot be read raises
    BadInput from every method. A running instance keeps its own books and its own graph: its
    matcher raises FlexError from what would change them, cancel and all below it but find.
    """

    @property
    def graph(self) -> ResourceGraph: ...

    def allocate(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        """Give resources from ``at`` on. Raises Busy (not now) or Unsatisfiable (never)."""
        ...

    def reserve(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        """Allocate at ``at``, or else hold the earliest time after it.

        Raises Unsatisfiable, or Busy where jobs without a time limit stand in the way for ever.
        """
        ...

    def satisfiable(self, jobspec: JobspecLike) -> bool:
        """Whether the request could ever fit, were everything up and idle."""
        ...

    def cancel(self, jobid: int) -> None:
        """Give back all that a job holds. Raises BadInput for a job that holds nothing."""
        ...

    def update(self, jobid: int, R: Mapping[str, object], at: float, duration: float) -> Match:
        """Take note of an allocation that somebody else made. Raises BadInput or Busy."""
        ...

    def partial_cancel(self, jobid: int, R: Mapping[str, object]) -> bool:
        """Give back what a job holds on the ranks of ``R``, as fluxion does, whatever part of
        them R names. Returns whether the job is gone: nothing is left that is its alone, or
        nothing on a node. Raises BadInput where it holds nothing there."""
        ...

    def info(self, jobid: int) -> Match:
        """What a job holds, with ``state`` and ``at``. Raises BadInput where it holds nothing."""
        ...

    def find(self, criteria: str) -> dict[str, Any]:
        """R (RFC 20) of the resources that meet fluxion's criteria, such as ``status=down`` or
        ``sched-now=free and property=arm``: see :mod:`~flux_flex.match.criteria`. A node that meets
        them, where nothing in it does, stands for all in it. Raises BadInput for bad criteria."""
        ...

    def mark_path(self, path: str, *, up: bool) -> None:
        """Mark a node, or what holds nodes, by containment path: nothing new starts on what is
        down. Raises BadInput for unknown paths and for parts of a node."""
        ...

    def mark_ranks(self, ranks: str | Iterable[int], *, up: bool) -> None:
        """Mark nodes by rank: an idset (RFC 22) or numbers. Raises BadInput for unknown ranks."""
        ...

    def add_subgraph(self, subgraph: GraphLike, parent: str | None = None) -> None:
        """Add a graph below the vertex at the path ``parent``; without one, add what is new in
        a graph that starts at the same root.

        Vertex numbers change; matches made before keep the graph that they were made on. Raises
        BadInput for an unknown parent, where nothing is new, where a name or a rank is there
        already, and below what a job holds whole.
        """
        ...

    def remove_subgraph(self, path: str) -> None:
        """Remove a vertex and all below it. Raises BadInput where a job holds a part of it."""
        ...


def open_matcher(
    graph: GraphLike | None = None,
    *,
    engine: str = "auto",
    policy: str = "first",
    instance: Rpc | None = None,
) -> Matcher:
    """Open a matcher over a graph: a ResourceGraph, or JGF or an R as a mapping, text or by path.

    ``engine`` is ``embedded``, ``fluxion`` (the library on this machine), ``live`` (the running
    ``instance``, whose graph it is) or ``auto``: live inside an instance with fluxion where no
    graph is given, else fluxion where its library is found, else embedded.

    Raises BadInput for an unreadable graph and for unknown engines and policies, FlexError where
    the engine that is asked for is not there.
    """
    if engine not in ENGINES:
        raise BadInput(f"unknown engine {engine!r}", "engine", f"use one of {', '.join(ENGINES)}")
    if policy not in POLICIES:
        raise BadInput(f"unknown policy {policy!r}", "policy", f"use one of {', '.join(POLICIES)}")
    # Engines are imported where they are chosen: each brings what only it needs.
    if engine == "live" or (engine == "auto" and graph is None):
        return _open_live(engine, instance)
    if graph is None:
        raise BadInput("no graph", "graph", "give a graph, or ask a running instance")
    if engine == "fluxion" or (engine == "auto" and policy in KNOWN_TO_FLUXION):
        from flux_flex.match.fluxion import FluxionMatcher
        from flux_flex.match.fluxion_library import available

        if engine == "fluxion" or available() is not None:
            return FluxionMatcher(read_graph(graph), policy)
    from flux_flex.match.embedded import EmbeddedMatcher

    return EmbeddedMatcher(read_graph(graph), policy)


def _open_live(engine: str, instance: Rpc | None) -> Matcher:
    from flux_flex.match.live import FLUXION, open_live

    if instance is None:
        what = "no running instance" if engine == "live" else "neither a graph nor an instance"
        raise BadInput(what, "engine", "give a graph, or run inside an instance")
    if engine == "auto" and FLUXION not in instance.modules():
        raise BadInput("this instance has no fluxion", "engine", "ask with engine live")
    return open_live(instance)


def read_graph(graph: GraphLike) -> ResourceGraph:
    """A ResourceGraph from whatever :func:`open_matcher` takes. Raises BadInput.

    A mapping is JGF, or an R (RFC 20) by its ``execution``, with the graph under its scheduling
    key if there is one. Text that begins with ``{`` is one of
    them as JSON, other text a path.
    """
    if isinstance(graph, ResourceGraph):
        return graph
    if isinstance(graph, str):
        if graph.lstrip().startswith("{"):
            return _parsed(_decode(graph))
        graph = Path(graph)
    if isinstance(graph, Path):
        try:
            return _parsed(_decode(_read(graph)))
        except BadInput as error:
            raise error.at(str(graph)) from None
    return _parsed(graph)


def _parsed(document: object) -> ResourceGraph:
    if isinstance(document, Mapping) and "execution" in document:
        return graph_of_r(parse_r(document))
    return parse_jgf(document)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"cannot be read: {reason}", remedy="give a JGF file") from None


def _decode(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"not valid JSON: {error.msg}", place, "correct the syntax there") from None
    except (ValueError, RecursionError):
        what = "not valid JSON: nested too deeply, or a number of too many digits"
        raise BadInput(what, remedy="correct the syntax") from None
