"""What the limits still leave, and which limit stands in the way of one more rental."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from flux_flex.burst.config import Limits
from flux_flex.model.duration import format_duration
from flux_flex.model.money import format_usd

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
        """Which limit ``more`` would break, as a clause for people; empty if none.

        What takes nothing of a limit does not break it, even where nothing is left of it.
        """
        return (
            self._too_many_nodes(more)
            or self._too_much_an_hour(more)
            or self._too_much_in_all(more)
            or self._too_many_for_user(more)
        )

    def _too_many_nodes(self, more: Commitment) -> str:
        limit = self._limits.nodes
        if limit is None or not more.nodes or self._nodes + more.nodes <= limit:
            return ""
        left = max(0, limit - self._nodes)
        return f"the limit of {_nodes(limit)} leaves {left}, it takes {more.nodes}"

    def _too_much_an_hour(self, more: Commitment) -> str:
        limit, extra = self._limits.cost_per_hour, more.cost_per_hour_usd
        if limit is None or not _over(self._cost_per_hour_usd, extra, limit):
            return ""
        left = max(0.0, limit - self._cost_per_hour_usd)
        said, rest, more_usd = (format_usd(amount) for amount in (limit, left, extra))
        return f"the limit of {said}/h leaves {rest}, it takes {more_usd}"

    def _too_much_in_all(self, more: Commitment) -> str:
        limit, extra = self._limits.budget, more.cost_usd
        if limit is None or not _over(self._cost_usd, extra, limit):
            return ""
        left, period = max(0.0, limit - self._cost_usd), format_duration(self._limits.period)
        if not math.isfinite(extra):
            said, rest = format_usd(limit), format_usd(left)
            return f"the budget of {said} in {period} leaves {rest}, what it takes has no bound"
        said, rest, more_usd = (format_usd(amount) for amount in (limit, left, extra))
        return f"the budget of {said} in {period} leaves {rest}, it takes {more_usd}"

    def _too_many_for_user(self, more: Commitment) -> str:
        limit, own = self._limits.per_user, self._nodes_of[more.user]
        if limit is None or not more.nodes or own + more.nodes <= limit:
            return ""
        left = max(0, limit - own)
        return (
            f"the limit of {_nodes(limit)} a user leaves {more.user} {left}, it takes {more.nodes}"
        )


def _nodes(number: int) -> str:
    return f"{number} node{'s' * (number != 1)}"


def _over(taken: float, more: float, limit: float) -> bool:
    # A sum that is no number is not within a limit.
    return not more <= _TOLERANCE_USD and not taken + more <= limit + _TOLERANCE_USD
