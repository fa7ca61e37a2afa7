"""Money for people: US dollars and cents, a half cent rounded up; and what nodes come to."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

_CENT = Decimal("0.01")
# Beyond this nobody counts cents.
_MOST_IN_CENTS = 1e15


def format_usd(amount: float) -> str:
    """Such as ``$1,402.50``. Sums of prices are taken as what they mean: 35.245 is $35.25.

    What is beyond all budgets is ``$1e+300``, and without a bound ``$inf``.
    """
    if not abs(amount) < _MOST_IN_CENTS:
        return f"${amount:.3g}"
    exact = Decimal(repr(round(amount, 6)))
    return f"${exact.quantize(_CENT, ROUND_HALF_UP):,}"


def cost_of(cost_per_hour_usd: float, seconds: float) -> float:
    """What something costs for a time, which may be without end: nothing, where it is free."""
    if not cost_per_hour_usd:
        return 0.0
    if math.isinf(seconds):
        return seconds
    return cost_per_hour_usd * seconds / 3600
