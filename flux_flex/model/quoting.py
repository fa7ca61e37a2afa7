"""How input is shown in a message: on one line, and short whatever was submitted."""

from __future__ import annotations


def quoted(text: str) -> str:
    """``text`` in quotes, on one line and short enough for an error message."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def clipped_int(number: int) -> str:
    """``number`` in decimal, or words: Python refuses to print an int of thousands of digits."""
    return str(number) if number.bit_length() <= 64 else "of more than 64 bits"


def json_kind(value: object) -> str:
    """What JSON calls ``value``, with its article: ``a list``, ``null``, ``a number``."""
    if value is None:
        return "null"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"),
        ((int, float), "a number"),
        (str, "a string"),
        ((list, tuple), "a list"),
        (dict, "an object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def brief(value: object) -> str:
    """A value for a message: short whatever was submitted."""
    if isinstance(value, int) and not isinstance(value, bool):
        return clipped_int(value)
    text = repr(value) if isinstance(value, (str, float, bool, type(None))) else ""
    return text if text and len(text) <= 40 else f"a {type(value).__name__}"
