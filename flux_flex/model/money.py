"""Money for people: US dollars and cents, a half cent rounded up."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_CENT = Decimal("0.01")


def format_usd(amount: float) -> str:
    """Such as ``$1,402.50``. Sums of prices are taken as what they mean: 35.245 is $35.25."""
    exact = Decimal(repr(round(amount, 6)))
    return f"${exact.quantize(_CENT, ROUND_HALF_UP):,}"
