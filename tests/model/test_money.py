"""Money for people."""

import math

import pytest

from flux_flex.model.money import cost_of, format_usd


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (35.245, "$35.25"),
        (35.245000000000005, "$35.25"),
        (35.24499, "$35.24"),
        (1401.685333, "$1,401.69"),
        (422.94000000000005, "$422.94"),
        (1e9, "$1,000,000,000.00"),
    ],
)
def test_half_cents_are_rounded_up_and_thousands_set_apart(amount: float, shown: str) -> None:
    assert format_usd(amount) == shown


@pytest.mark.parametrize(
    ("amount", "shown"), [(math.inf, "$inf"), (1e300, "$1e+300"), (1.7e308, "$1.7e+308")]
)
def test_what_is_beyond_all_budgets_is_shown_without_cents(amount: float, shown: str) -> None:
    assert format_usd(amount) == shown


def test_what_costs_nothing_costs_nothing_however_long() -> None:
    assert cost_of(0.0, math.inf) == 0
    assert cost_of(3.6, math.inf) == math.inf
    assert cost_of(3.6, 1800.0) == pytest.approx(1.8)
