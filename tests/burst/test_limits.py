"""Headroom: what is taken, what is left, and which limit says no."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.burst.config import Limits
from flux_flex.burst.limits import Commitment, Headroom


def takes(nodes: int = 0, hourly: float = 0.0, cost: float = 0.0, user: str = "ann") -> Commitment:
    return Commitment(user, nodes, hourly, cost)


@pytest.mark.parametrize(
    ("limits", "taken", "more", "refusal"),
    [
        ({}, takes(10**6, 1e6, 1e6), takes(10**6, 1e6, 1e6), ""),
        ({"nodes": 5}, takes(3), takes(2), ""),
        ({"nodes": 5}, takes(3), takes(3), "the limit of 5 nodes leaves 2, it takes 3"),
        ({"nodes": 0}, takes(), takes(1), "the limit of 0 nodes leaves 0, it takes 1"),
        ({"cost_per_hour": 10.0}, takes(hourly=4.0), takes(hourly=6.0), ""),
        (
            {"cost_per_hour": 1000.0},
            takes(hourly=4.0),
            takes(hourly=996.01),
            "the limit of $1,000.00/h leaves $996.00, it takes $996.01",
        ),
        ({"budget": 10.0}, takes(cost=4.0), takes(cost=6.0), ""),
        (
            {"budget": 10.0, "period": 86400.0},
            takes(cost=4.0),
            takes(cost=6.01),
            "the budget of $10.00 in 24h leaves $6.00, it takes $6.01",
        ),
        ({"per_user": 2}, takes(1), takes(1), ""),
        ({"per_user": 2}, takes(2, user="bob"), takes(2), ""),
        ({"per_user": 1}, takes(1), takes(1),
         "the limit of 1 node a user leaves ann 0, it takes 1"),
        # The first that is broken is named.
        ({"nodes": 1, "budget": 0.0}, takes(), takes(2, cost=1.0),
         "the limit of 1 node leaves 1, it takes 2"),
    ],
)  # fmt: skip
def test_refusal_names_the_limit_what_it_leaves_and_what_is_asked(
    limits: dict[str, Any], taken: Commitment, more: Commitment, refusal: str
) -> None:
    room = Headroom(Limits(**limits), 0.0)
    room.commit(taken)
    assert room.refusal(more) == refusal


def test_what_was_spent_counts_against_the_budget_alone() -> None:
    room = Headroom(Limits(budget=10.0, cost_per_hour=5.0, nodes=5), 9.0)
    assert room.refusal(takes(5, 5.0, 1.0)) == ""
    assert room.refusal(takes(5, 5.0, 1.01)).startswith("the budget of $10.00 in 30d leaves $1.00")


@pytest.mark.parametrize(
    ("limits", "more", "left"),
    [
        ({"nodes": 1}, takes(1), "leaves 0,"),
        ({"cost_per_hour": 1.0}, takes(hourly=1.0), "leaves $0.00,"),
        ({"budget": 1.0}, takes(cost=1.0), "leaves $0.00,"),
        ({"per_user": 1}, takes(1), "leaves ann 0,"),
    ],
)
def test_a_limit_lowered_below_what_is_taken_leaves_nothing_but_allows_what_takes_nothing(
    limits: dict[str, Any], more: Commitment, left: str
) -> None:
    room = Headroom(Limits(**limits), 0.0)
    room.commit(takes(3, 30.0, 30.0))
    assert left in room.refusal(more)
    assert room.refusal(takes()) == ""


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_cents_that_add_up_to_the_budget_fit_it_to_the_cent(cents: list[int]) -> None:
    room = Headroom(Limits(budget=sum(cents) / 100, cost_per_hour=sum(cents) / 100), 0.0)
    for cent in cents:
        assert room.refusal(takes(hourly=cent / 100, cost=cent / 100)) == ""
        room.commit(takes(hourly=cent / 100, cost=cent / 100))
    assert "leaves $0.00, it takes $0.01" in room.refusal(takes(cost=0.01))
    assert "leaves $0.00, it takes $0.01" in room.refusal(takes(hourly=0.01))
