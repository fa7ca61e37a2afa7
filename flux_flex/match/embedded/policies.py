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

# Maps local ids, shape (n,), to keys, shape (n,), of which the smallest is preferred; equal keys
# stay in the order of the graph. None leaves everything in that order.
Preference = Callable[[IntArray], IntArray] | None

PREFERENCES: dict[str, Preference] = {
    "first": None,
    "low": np.positive,
    "high": np.negative,
}
