"""Text and numbers in SVG: how wide text is, as much of it as has room, and how both are written.

The viewer's font is not known, so widths are estimates on the safe side. What is written here is
escaped, and cut to a room if asked for; take what cannot be printed out of it before, with
:func:`flux_flex.model.quoting.one_line`.
"""

from __future__ import annotations

import unicodedata
from xml.sax.saxutils import escape

# A glyph is taken as this wide, in font sizes: a little more than common sans fonts need.
GLYPH_EM = 0.61


def text_width(text: str, font: float, em: float = GLYPH_EM) -> float:
    """About how wide ``text`` is, in px; East Asian wide characters are a full em."""
    wide = 0 if text.isascii() else sum(unicodedata.east_asian_width(ch) in "WF" for ch in text)
    return font * (em * len(text) + (1 - em) * wide)


def fitted(text: str, room: float, font: float, em: float = GLYPH_EM) -> str:
    """``text``, or as much of it as fits in ``room`` px with an ellipsis; empty below 3 signs."""
    if text_width(text, font, em) <= room:
        return text
    fits = 0
    used = font  # the ellipsis
    for ch in text:
        used += text_width(ch, font, em)
        if used > room:
            break
        fits += 1
    return text[:fits].rstrip() + "…" if fits >= 3 else ""


def escaped(text: str) -> str:
    """``text`` for the inside of an element or of an attribute."""
    return escape(text, {'"': "&quot;", "'": "&apos;"})


def text_element(x: float, y: float, kind: str, text: str) -> str:
    """A line of text of the class ``kind``, of none where that is empty, that begins at x and y."""
    mark = f' class="{kind}"' if kind else ""
    return f'<text{mark} x="{number(x)}" y="{number(y)}">{escaped(text)}</text>'


def box(x: float, y: float, width: float, height: float) -> str:
    """The four attributes of a rectangle."""
    return f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'


def number(value: float) -> str:
    """A number with at most two decimals."""
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short
