"""Job ids in both spellings (RFC 19)."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.jobid import f58, parse_jobid

PAIRS = [
    (0, "ƒ1"),
    (1, "ƒ2"),
    (57, "ƒz"),
    (58, "ƒ21"),
    (35148267520, "ƒvYw4PR"),
    (6731191091817518, "ƒuZZybuNNy"),
    ((1 << 64) - 1, "ƒjpXCZedGfVQ"),
]


@pytest.mark.parametrize(("number", "word"), PAIRS)
def test_known_pairs(number, word):
    assert f58(number) == word
    assert parse_jobid(word) == number
    assert parse_jobid(word.replace("ƒ", "f")) == number


@given(st.integers(0, (1 << 64) - 1))
def test_every_id_survives_both_spellings(number):
    assert (
        parse_jobid(f58(number)) == parse_jobid(str(number)) == parse_jobid(hex(number)) == number
    )


def test_f58_tells_upper_from_lower_case():
    assert parse_jobid("ƒABC") != parse_jobid("ƒabc")


def test_space_around_an_id_is_nothing():
    assert parse_jobid(" ƒvYw4PR\n") == 35148267520


@pytest.mark.parametrize(
    "text",
    ["", "ƒ", "f", "ƒ0", "ƒO", "ƒI", "ƒl", "-1", "+1", "007", "1_0", "0b1", "0o7", "١", "1.5",
     "job", "ƒvY w", str(1 << 64), "0x" + "f" * 17, "ƒjpXCZedGfVR", "ƒ" + "z" * 12,
     "f" + "1" * 10**6, "9" * 10**6],
)  # fmt: skip
def test_what_is_no_id_is_refused(text):
    with pytest.raises(BadInput, match="is no job id") as refused:
        parse_jobid(text)
    assert len(refused.value.what) < 80


def test_a_number_beyond_64_bits_has_no_spelling():
    for number in (-1, 1 << 64, -(16**9000)):
        with pytest.raises(BadInput, match="is no job id"):
            f58(number)


@given(st.text(max_size=24))
def test_any_text_is_read_or_refused(text):
    with suppress(BadInput):
        assert 0 <= parse_jobid(text) < 1 << 64
