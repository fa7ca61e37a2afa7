"""Durations: RFC 23 in, short words out."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # the test vectors of RFC 23
        ("2ms", 0.002),
        ("0.1s", 0.1),
        ("30", 30),
        ("1.2h", 4320),
        ("5m", 300),
        ("0s", 0),
        ("5d", 432000),
        # forms of strtod
        (".5h", 1800),
        ("1.", 1),
        ("1e3", 1000),
        ("1.5E+1m", 900),
        # kinder than RFC 23
        (" 10 m ", 600),
        (90, 90),
        (1.5, 1.5),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "m", "10M", "1h30m", "-5", "- 5", "1,5h", "inf", "infinity", "nan", "٣", "1e999",
     "9" * 999,      True, None, [], {}, -1, -0.5, math.inf, math.nan, 10**400, "0x10", "1e", "e3"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(BadInput) as refused:
        parse_duration(text)
    assert "10m" in refused.value.remedy
    assert len(refused.value.what) < 80


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{0,4}(ms|s|m|h|d)?", fullmatch=True))
def test_any_text_is_read_or_refused(text):
    with suppress(BadInput):
        assert 0 <= parse_duration(text) < math.inf


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (45, "45s"),
        (60, "1m"),
        (90, "90s"),
        (119.6, "2m"),
        (360, "6m"),
        (3599, "1h"),
        (11520, "3h12m"),
        (7200, "2h"),
        (172799, "2d"),
        (187200, "2d4h"),
        (3 * 86400 - 1800, "3d"),
        (math.inf, "never"),
    ],
)
def test_a_duration_is_said_in_two_units_at_the_most(seconds, words):
    assert format_duration(seconds) == words


@given(st.floats(0, 1e7))
def test_what_is_said_is_near_what_is_meant(seconds):
    words = format_duration(seconds)
    unit_s = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    said, number = 0, ""
    for letter in words:
        if letter.isdigit():
            number += letter
        else:
            said, number = said + int(number) * unit_s[letter], ""
    assert abs(said - seconds) <= max(0.5, min(1831, seconds / 4))
