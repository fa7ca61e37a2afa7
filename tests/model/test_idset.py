"""Idsets (RFC 22): what is accepted, what is refused and with which place."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import assert_reads_as_one_line

from flux_flex.errors import BadInput
from flux_flex.model.idset import MAX_EXPANDED, MAX_ID, format_idset, parse_idset
from flux_flex.model.quoting import json_kind

ids = st.sets(st.one_of(st.integers(0, 60), st.integers(0, MAX_ID)), max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("[]", ()),
        ("0", (0,)),
        ("[5]", (5,)),
        ("0-3,7", (0, 1, 2, 3, 7)),
        ("[1-3,5-6,42]", (1, 2, 3, 5, 6, 42)),
        ("4-4", (4,)),
        (str(MAX_ID), (MAX_ID,)),
    ],
)
def test_rfc22_text_gives_ascending_ids(text: str, expected: tuple[int, ...]) -> None:
    assert parse_idset(text) == expected


def test_range_backwards_is_refused_with_its_place() -> None:
    with pytest.raises(BadInput) as refused:
        parse_idset("0-2,9-5")
    assert refused.value.where == "idset '0-2,9-5', item 2"
    assert refused.value.what == "the range 9-5 runs backwards"
    assert refused.value.remedy == "Write 5-9."


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("3,1", "1 follows 3"),
        ("2,2", "2 follows 2"),
        ("0,0-1", "0 follows 0"),  # fluxion wrote such cores until flux-sched#1438
        ("007", "leading zero"),
        ("1-02", "leading zero"),
        ("1,,2", "neither an id nor a range"),
        ("-1", "neither an id nor a range"),
        ("1-2-3", "neither an id nor a range"),
        (" 1", "neither an id nor a range"),
        ("1\n", "neither an id nor a range"),
        ("٣", "neither an id nor a range"),  # a digit to Python, not to RFC 22
        ("[1", "brackets do not pair"),
        ("1]", "brackets do not pair"),
        ("[", "brackets do not pair"),
        ("[[1]]", "neither an id nor a range"),
        (str(MAX_ID + 1), "goes above"),
        ("0-99999999999999", "goes above"),
        ("9" * 10_000, "goes above"),
    ],
)
def test_text_that_is_not_rfc22_is_refused(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as refused:
        parse_idset(text)
    assert refused.value.remedy
    assert len(refused.value.what) < 120


def test_idset_that_is_no_string_is_refused() -> None:
    with pytest.raises(BadInput, match="not a number"):
        parse_idset(3)  # type: ignore[arg-type]


def test_million_ids_are_expanded_and_one_more_is_refused() -> None:
    assert len(parse_idset(f"0-{MAX_EXPANDED - 1}")) == MAX_EXPANDED
    with pytest.raises(BadInput, match="1,000,001 ids"):
        parse_idset(f"0-{MAX_EXPANDED}")


def test_huge_ranges_are_refused_without_expanding_them() -> None:
    started = time.perf_counter()
    with pytest.raises(BadInput, match="more than 1,000,000"):
        parse_idset("0-2000000000,2000000002-4000000000")
    assert time.perf_counter() - started < 0.5


def test_brackets_are_written_only_around_several_ids() -> None:
    assert format_idset([3], brackets=True) == "3"
    assert format_idset([], brackets=True) == ""
    assert format_idset([3, 1, 2, 2], brackets=True) == "[1-3]"
    assert format_idset([0, 1, 5]) == "0-1,5"


@pytest.mark.parametrize("outside", [-1, MAX_ID + 1, 1 << 20_000], ids=["negative", "next", "huge"])
def test_id_that_flux_cannot_hold_is_not_written(outside: int) -> None:
    with pytest.raises(BadInput, match="outside 0 to"):
        format_idset([1, outside])


def test_json_kinds_are_named_as_json_names_them() -> None:
    values = [None, True, 1, 1.5, "", [], {}, object()]
    assert [json_kind(value) for value in values] == [
        "null",
        "a boolean",
        "a number",
        "a number",
        "a string",
        "a list",
        "an object",
        "object",
    ]


@given(ids, st.booleans())
@settings(deadline=None)
def test_written_idset_reads_back_the_same(members: set[int], brackets: bool) -> None:
    assert parse_idset(format_idset(members, brackets=brackets)) == tuple(sorted(members))


@given(st.one_of(st.text(), st.text("0123456789,-[]", max_size=30)))
@settings(deadline=None, max_examples=500)
def test_any_text_is_an_idset_or_bad_input(text: str) -> None:
    try:
        found = parse_idset(text)
    except BadInput as error:
        assert_reads_as_one_line(error)
    else:
        assert list(found) == sorted(set(found))
