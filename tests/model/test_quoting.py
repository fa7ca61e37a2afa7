"""How text from outside is shown: on one line, and without what could steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.model.quoting import one_line, printable, uncoloured

ANYTHING = st.text(st.characters(), max_size=400)


@given(ANYTHING)
def test_printable_text_keeps_its_length_and_has_nothing_else(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert printable(shown) == shown


@given(ANYTHING, st.integers(1, 50))
def test_one_line_is_printable_single_spaced_and_short(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    assert line == line.strip()
    assert "  " not in line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("no such file", "no such file"),
        ("  Traceback:\n\tno\u2028such\xa0file\r\n", "Traceback: no such file"),
        ("\x1b[1;31merror\x1b[0m: ƒ", "error: ƒ"),
        ("\x9b31m\x1b[?25lred\x1b[2J", "red"),
        ("\x1b]0;title\x07", "?]0;title?"),
        ("a\u202eb\u200bc\ufeffd", "a?b?c?d"),
        ("\ud800\ufffe\ue000\x00\x7f", "?????"),
        (ValueError("first\nsecond"), "first second"),
        (None, "None"),
        ("", ""),
    ],
)
def test_what_somebody_said_is_shown_as(said: object, line: str) -> None:
    assert one_line(said) == line


def test_what_is_left_out_is_an_ellipsis() -> None:
    assert one_line("x" * 10, 10) == "x" * 10
    assert one_line("x" * 11, 10) == "x" * 9 + "…"
    assert one_line("a b" + " " * 500 + "c", 10) == "a b…"
    assert one_line("x" * 10_000_000) == "x" * 499 + "…"


def test_a_table_keeps_its_columns() -> None:
    assert printable("a  \tb\x1b[c") == "a   b?[c"


@given(st.text("\x1b\x9b[0;1m?x ", max_size=60))
def test_whatever_is_uncoloured_is_only_made_shorter(text: str) -> None:
    rest = iter(text)
    assert all(c in rest for c in uncoloured(text))
