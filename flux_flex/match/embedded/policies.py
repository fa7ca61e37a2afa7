"""Match policies: which of several vertices that would do to prefer.

Fluxion scores each vertex by its own number (``core3`` has 3), and with a node-centric policy
first by that of its node, and takes the lowest or the highest scores:

    low, high           by the vertex's own number
    lonode, hinode      by the node's number, then by the vertex's own
    lonodex, hinodex    the same, and every node that is touched is taken whole
    first               as hinode, among the first that are found
    locality            as high; but of what stands at the top of a request, all with consecutive
                        scores count alike, and runs of them that begin higher come first
    topology            the nodes that are nearest to each other (see ``closeness``)

Equal scores are taken in the order in which fluxion's sort leaves them (see ``introsort``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flux_flex.match.embedded.introsort import introsorted
from flux_flex.model.graph import NODE, IntArray, ResourceGraph

# Above this many candidates equal scores are taken in the order of the graph: to follow an
# unstable sort through more of them would take longer than all the rest of a match.
MAX_FOLLOWED = 1024

# Fluxion's constants: what a node's number counts in the scores of the vertices in it.
_NODE_WEIGHT = 10_000


@dataclass(frozen=True, slots=True)
class Policy:
    """One match policy. ``whole_nodes``: what is touched of a node takes all of it.
    ``stops_early``: only the first vertices that are found are compared. ``nearest``: not the
    scores decide, but how near the vertices are to each other. ``by_runs``: at the top of a request
    the runs decide that the scores form."""

    highest: bool
    node_centric: bool = False
    whole_nodes: bool = False
    stops_early: bool = False
    nearest: bool = False
    by_runs: bool = False

    def keys(self, graph: ResourceGraph) -> IntArray:
        """A key for each vertex, shape (n,), of which the smallest is preferred."""
        # By runs, a slot of more vertices must be as far from one of fewer as fluxion has it.
        score = graph.local_id + (2 if self.by_runs else 1)
        if self.node_centric:
            inside = graph.node_of >= 0
            inside[graph.of_type(NODE)] = False
            node = graph.node_of[inside]
            tie = np.abs(graph.uniq_id[node] % _NODE_WEIGHT - 1)
            score = score.copy()
            score[inside] += (graph.local_id[node] + 2) * _NODE_WEIGHT + tie
        return -score if self.highest else score


POLICIES: dict[str, Policy] = {
    "first": Policy(highest=True, node_centric=True, stops_early=True),
    "low": Policy(highest=False),
    "high": Policy(highest=True),
    "lonode": Policy(highest=False, node_centric=True),
    "hinode": Policy(highest=True, node_centric=True),
    "lonodex": Policy(highest=False, node_centric=True, whole_nodes=True),
    "locality": Policy(highest=True, by_runs=True),
    "topology": Policy(highest=False, node_centric=True, nearest=True),
    "hinodex": Policy(highest=True, node_centric=True, whole_nodes=True),
}


def run_keys(keys: IntArray) -> IntArray:
    """For each of ``keys`` that of the run of consecutive numbers that it is in: its largest key,
    which belongs to the lowest score."""
    different = np.unique(keys)
    last = np.append(different[1:] - different[:-1] > 1, True)[: len(different)]
    ends = different[last]
    found: IntArray = ends[np.searchsorted(ends, keys)]
    return found


def preferred(keys: IntArray) -> IntArray:
    """Positions of ``keys``, the smallest first, equal ones as fluxion's sort leaves them."""
    order = np.argsort(keys, kind="stable")
    if not 16 < len(keys) <= MAX_FOLLOWED:
        return order
    ranked = keys[order]
    if (ranked[1:] != ranked[:-1]).all():
        return order
    as_list: Sequence[int] = keys.tolist()
    return np.array(introsorted(as_list), dtype=np.int64)
