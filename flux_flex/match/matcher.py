"""Matcher: the interface of every engine, what it answers, and how to open one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flux_flex.errors import BadInput
from flux_flex.model.graph import NODE, ResourceGraph
from flux_flex.model.jgf import jgf_document, parse_jgf, paths_of
from flux_flex.model.jobspec import Jobspec, decode
from flux_flex.model.rv1 import RankResources, ResourceSet

POLICIES = ("first", "low", "high")
ENGINES = ("auto", "embedded")

JobspecLike = Jobspec | Mapping[str, object] | str
GraphLike = ResourceGraph | Mapping[str, object] | str | Path


@dataclass(frozen=True, slots=True)
class Match:
    """What a job was given.

    ``chosen`` maps vertex numbers of ``graph`` to (amount, exclusive), the vertices above them
    included; ``at`` and ``duration_s`` are seconds on the matcher's clock (0: without limit);
    ``reserved`` says that it starts later than was asked.
    """

    jobid: int
    at: float
    duration_s: float
    reserved: bool
    chosen: Mapping[int, tuple[int, bool]]
    graph: ResourceGraph = field(repr=False)

    @property
    def vertices(self) -> dict[str, tuple[int, bool]]:
        """``{containment path: (amount, exclusive)}``."""
        paths = paths_of(self.graph, self.chosen)
        return dict(zip(paths, self.chosen.values(), strict=True))

    @property
    def nodes(self) -> list[int]:
        """The node vertices, in depth-first order."""
        code = self.graph.types.index(NODE) if NODE in self.graph.types else -1
        return sorted(v for v in self.chosen if self.graph.type_of[v] == code)

    @property
    def hosts(self) -> list[str]:
        """The names of the nodes, in depth-first order."""
        return [self.graph.names[v] for v in self.nodes]

    def to_jgf(self) -> dict[str, object]:
        """The chosen vertices and the containment edges among them, as JGF."""
        return jgf_document(self.graph, list(self.chosen))

    def to_r(self) -> dict[str, object]:
        """The match as R version 1 (RFC 20): the cores and gpus of each rank."""
        return ResourceSet(
            tuple(self._rank(node) for node in self.nodes),
            starttime=self.at,
            expiration=self.at + self.duration_s if self.duration_s else 0.0,
        ).to_r()

    def _rank(self, node: int) -> RankResources:
        inside = [v for v in self.chosen if node < v < self.graph.end[node]]
        cores, gpus = (
            tuple(int(self.graph.local_id[v]) for v in inside if self.graph.type_name(v) == kind)
            for kind in ("core", "gpu")
        )
        rank = int(self.graph.rank[node])
        return RankResources(
            rank, self.graph.names[node], tuple(sorted(cores)), tuple(sorted(gpus))
        )


class Matcher(Protocol):
    """What every engine answers. Jobspecs come as objects, decoded mappings or text.

    Times are seconds on one clock that the caller owns. A jobspec that cannot be read raises
    BadInput from every method.
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


def open_matcher(graph: GraphLike, *, engine: str = "auto", policy: str = "first") -> Matcher:
    """Open a matcher over a graph: a ResourceGraph, or JGF as a mapping, as text or by path.

    Raises BadInput for an unreadable graph and for unknown engines and policies.
    """
    if engine not in ENGINES:
        raise BadInput(f"unknown engine {engine!r}", "engine", f"use one of {', '.join(ENGINES)}")
    if policy not in POLICIES:
        raise BadInput(f"unknown policy {policy!r}", "policy", f"use one of {', '.join(POLICIES)}")
    # Imported here: whoever only wants the types does not pay for numpy's engine.
    from flux_flex.match.embedded import EmbeddedMatcher

    return EmbeddedMatcher(read_graph(graph), policy)


def read_graph(graph: GraphLike) -> ResourceGraph:
    """A ResourceGraph from whatever :func:`open_matcher` takes."""
    if isinstance(graph, ResourceGraph):
        return graph
    if isinstance(graph, Path):
        return read_graph(_read(graph))
    if isinstance(graph, str):
        if graph.lstrip().startswith("{"):
            return read_graph(_mapping(decode(graph)))
        return read_graph(Path(graph))
    return parse_jgf(graph)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"cannot be read: {reason}", str(path), "give a JGF file") from None


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadInput("not a JGF document", "graph", "JGF is a mapping with the key graph")
    return value


def nodes_needed(match: Match, already: Sequence[int] = ()) -> int:
    """How many nodes of a match are not among ``already``."""
    return len(set(match.nodes) - set(already))
