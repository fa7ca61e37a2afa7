"""Money for people."""

import pytest

from flux_flex.model.money import format_usd


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
