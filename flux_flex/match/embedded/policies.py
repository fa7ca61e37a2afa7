"""Match policies: which of several vertices that would do to prefer.

Fluxion's policies order by the vertex's own number (``core3`` has 3), not by its path:

    first   in the order of the graph
    low     lowest numbers first
    high    highest numbers first
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flux_flex.model.graph import IntArray

# A policy maps local ids, shape (n,), to keys, shape (n,), of which the smallest is preferred;
# equal keys stay in the order of the graph.
Preference = Callable[[IntArray], IntArray]

PREFERENCES: dict[str, Preference] = {
    "first": np.zeros_like,
    "low": np.positive,
    "high": np.negative,
}


def ordered(vertices: IntArray, local_id: IntArray, prefer: Preference) -> IntArray:
    """``vertices`` (in depth-first order) with the preferred ones first."""
    return vertices[np.argsort(prefer(local_id[vertices]), kind="stable")]
