"""How text from outside is shown: on one line, short, and without what could steer a terminal.

Names and values that users wrote are :func:`quoted`. What somebody else said, such as a program, a
server or a library, is a line of its own: :func:`one_line`. Where every character keeps its
column, as in a table, :func:`printable` is enough.
"""

from __future__ import annotations

import re

# ECMA-48 control sequences, which set colours and move the cursor.
_CONTROL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")


def printable(text: str) -> str:
    """The text in one line of the same length, whoever wrote it.

    White space, line ends among it, is shown as spaces. What Python calls not printable is shown
    as ``?``: control and escape characters, those that turn the direction of writing or have no
    width, surrogates, and code points that mean nothing or nothing agreed.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def one_line(said: object, most: int = 500) -> str:
    """What somebody else said, as a line for a log, a message, a picture or an exception.

    It is :func:`uncoloured` and :func:`printable`, white space is single spaces, with none at the
    ends, and it has at most ``most`` characters; the last is an ellipsis where some were left
    out. No more than eight times ``most`` are looked at, so that endless text costs little.
    """
    text = str(said)
    head = text[: 8 * most]
    line = " ".join(printable(uncoloured(head)).split())
    return line if len(line) <= most and len(head) == len(text) else f"{line[: most - 1]}…"


def uncoloured(text: str) -> str:
    """The text without control sequences, of which each would leave a remainder like ``?[31m``."""
    return _CONTROL_SEQUENCE.sub("", text)


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
