"""Counts in text: idsets (RFC 22) and ranges (RFC 45)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.count import MAX_COUNT, Count, parse_count


@pytest.mark.parametrize(
    ("text", "permitted"),
    [
        ("4", [4]),
        ("2-5", [2, 3, 4, 5]),
        ("[2-5]", [2, 3, 4, 5]),
        ("2-9:3", [2, 5, 8]),
        ("2-16:2:*", [2, 4, 8, 16]),
        ("2-300:2:^", [2, 4, 16, 256]),
        ("1,4-6", [1, 4, 5, 6]),
        ("[3,7]", [3, 7]),
    ],
)
def test_text_permits_just_these_counts(text: str, permitted: list[int]) -> None:
    count = parse_count(text, "count")
    found = {count.largest_within(n) for n in range(400)} - {0}
    assert sorted(found) == permitted


def test_plus_leaves_the_end_open() -> None:
    assert parse_count("3+", "count") == Count(3, MAX_COUNT)
    assert parse_count("3+:2", "count").largest_within(10) == 9
    assert parse_count("3+:2:*", "count").largest_within(25) == 24


def test_text_and_mapping_of_one_range_are_equal() -> None:
    mapping = {"min": 2, "max": 16, "operator": "*", "operand": 2}
    assert parse_count("2-16:2:*", "count") == parse_count(mapping, "count")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "a count of 0"),
        ("0", "a count of 0"),
        ("0-3", "a count of 0"),
        ("0,2", "a count of 0"),
        ("5-2", "max 2 is below min 5"),
        ("2-8:1:*", "never grows"),
        ("1-8:2:^", "never grows"),
        ("2-8:0", "a count of 0"),
        ("2-8:2:/", "is no count"),
        ("-3", "is no count"),
        ("many", "is no count"),
        ("1-9999999999", "a count above"),
    ],
)
def test_text_that_is_no_count_is_refused_with_its_place(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        parse_count(text, "resources[0].count")
    assert caught.value.where == "resources[0].count"
    assert caught.value.remedy


@given(st.text(max_size=30) | st.text("0123456789-+:*^,[]", max_size=20))
def test_any_text_is_a_count_or_refused(text: str) -> None:
    try:
        count = parse_count(text, "count")
    except BadInput:
        return
    assert 1 <= count.least <= count.most <= MAX_COUNT
    assert count.largest_within(count.least) == count.least
