"""Choice: what was picked for a request: what the match lists, and what becomes unavailable."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flux_flex.match.embedded.spans import Claims
from flux_flex.model.graph import IntArray, ResourceGraph, expand


@dataclass(slots=True)
class Choice:
    """What a traversal picked, as lists of arrays that belong together.

    ``shown`` is what the match lists: (vertices, amounts, exclusive). ``whole`` are vertices
    taken with all below them; ``leaves`` are amounts taken of single vertices.
    """

    shown: list[tuple[IntArray, IntArray, bool]] = field(default_factory=list)
    whole: list[IntArray] = field(default_factory=list)
    leaves: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    unlisted: list[IntArray] = field(default_factory=list)

    def claims(self) -> Claims:
        """What becomes unavailable."""
        none = np.zeros(0, dtype=np.int64)
        return Claims(
            whole=np.concatenate(self.whole) if self.whole else none,
            vertices=np.concatenate([v for v, _ in self.leaves]) if self.leaves else none,
            amounts=np.concatenate([n for _, n in self.leaves]) if self.leaves else none,
            unlisted=np.concatenate(self.unlisted) if self.unlisted else none,
        )

    def add(self, other: Choice) -> None:
        self.shown += other.shown
        self.whole += other.whole
        self.leaves += other.leaves
        self.unlisted += other.unlisted

    def with_whole_nodes(self, graph: ResourceGraph) -> Choice:
        """The choice with every node that it touches taken whole."""
        touched = [graph.node_of[vertices] for vertices, _, _ in self.shown]
        nodes = np.unique(np.concatenate(touched))
        nodes = nodes[nodes >= 0]
        inside = expand(nodes, graph.end[nodes])
        whole = Choice([(inside, graph.size[inside], True)])
        for vertices, amounts, exclusive in self.shown:
            out = graph.node_of[vertices] < 0
            whole.shown.append((vertices[out], amounts[out], exclusive))
        for vertices in self.whole:
            above = vertices[graph.node_of[vertices] < 0]
            whole.whole.append(above)
            # Nodes of a rack that is taken whole are taken with it already.
            nodes = np.setdiff1d(nodes, expand(above, graph.end[above]))
        whole.whole.append(nodes)
        for vertices, amounts in self.leaves:
            out = graph.node_of[vertices] < 0
            whole.leaves.append((vertices[out], amounts[out]))
        return whole
