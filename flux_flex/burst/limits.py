"""What the limits still leave, and which limit stands in the way of one more rental."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from flux_flex.config import Limits
from flux_flex.model.duration import format_duration

# Sums of prices are compared to limits in dollars: a hundredth of a cent is no excess.
_TOLERANCE_USD = 1e-4


@dataclass(frozen=True, slots=True)
class Commitment:
    """What renting takes of the limits: nodes and dollars an hour while it lasts, and what it
    will have cost in the end from now on."""

    user: str
    nodes: int
    cost_per_hour_usd: float
    cost_usd: float


class Headroom:
    """The room below the limits, as commitments are made one after the other."""

    def __init__(self, limits: Limits, spent_usd: float) -> None:
        self._limits = limits
        self._nodes = 0
        self._cost_per_hour_usd = 0.0
        self._cost_usd = spent_usd
        self._nodes_of: Counter[str] = Counter()

    def commit(self, more: Commitment) -> None:
        """Take ``more`` of the room; whoever calls has asked :meth:`refusal` first."""
        self._nodes += more.nodes
        self._cost_per_hour_usd += more.cost_per_hour_usd
        self._cost_usd += more.cost_usd
        self._nodes_of[more.user] += more.nodes

    def refusal(self, more: Commitment) -> str:
        """Which limit ``more`` would break, as a clause for people; empty if none."""
        limits, left = self._limits, ""
        if limits.nodes is not None and self._nodes + more.nodes > limits.nodes:
            left = f"the limit of {limits.nodes} nodes leaves {limits.nodes - self._nodes}"
            return f"{left}, it takes {more.nodes}"
        hourly = limits.cost_per_hour
        if hourly is not None and _over(self._cost_per_hour_usd + more.cost_per_hour_usd, hourly):
            left = f"the limit of ${hourly:,.2f}/h leaves ${hourly - self._cost_per_hour_usd:,.2f}"
            return f"{left}, it takes ${more.cost_per_hour_usd:,.2f}"
        budget = limits.budget
        if budget is not None and _over(self._cost_usd + more.cost_usd, budget):
            period = format_duration(limits.period)
            rest = max(0.0, budget - self._cost_usd)
            left = f"the budget of ${budget:,.2f} in {period} leaves ${rest:,.2f}"
            return f"{left}, it takes ${more.cost_usd:,.2f}"
        own = self._nodes_of[more.user]
        if limits.per_user is not None and more.nodes and own + more.nodes > limits.per_user:
            left = f"the limit of {limits.per_user} nodes a user leaves {more.user}"
            return f"{left} {limits.per_user - own}, it takes {more.nodes}"
        return ""


def _over(amount: float, limit: float) -> bool:
    return amount > limit + _TOLERANCE_USD
