"""Counts of a jobspec's resources (RFC 14): one number, a range with steps, or a set of numbers.

A count is written as an integer, as ``{min, max, operator, operand}``, as an idset (RFC 22) such as
``"1,4-6"``, or as a range in text (RFC 45): ``min-max``, ``min+``, and either followed by
``:operand`` and ``:operator``, such as ``"2-16:2:*"``. Text may stand in brackets.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from flux_flex.errors import BadInput
from flux_flex.model.idset import parse_idset
from flux_flex.model.quoting import brief, quoted

# More of anything than this is a typing error; it also stands for "as many as there are".
MAX_COUNT = 10**9

_RANGE = re.compile(
    r"(?P<least>\d{1,10})(?:-(?P<most>\d{1,10})|(?P<open>\+))(?::(?P<operand>\d{1,10})(?::(?P<operator>[+*^]))?)?"
)


@dataclass(frozen=True, slots=True)
class Count:
    """How many of a resource: ``least`` to ``most``, by the steps RFC 14 allows.

    ``operator`` is ``+``, ``*`` or ``^`` with its ``operand``; a plain integer n is n to n. Where
    ``choices`` are given, ascending, only they are permitted.
    """

    least: int
    most: int
    operator: str = "+"
    operand: int = 1
    choices: tuple[int, ...] = ()

    def largest_within(self, available: int) -> int:
        """The greatest permitted count that is at most ``available``, or 0 if there is none."""
        if available < self.least:
            return 0
        if self.choices:
            return self.choices[bisect_right(self.choices, available) - 1]
        limit = min(available, self.most)
        if self.operator == "+":
            return self.least + (limit - self.least) // self.operand * self.operand
        count = self.least
        # The operand, and for ^ the count too, is at least 2: at most log2(limit) steps.
        while (bigger := self._next(count)) <= limit:
            count = bigger
        return count

    def _next(self, count: int) -> int:
        return count * self.operand if self.operator == "*" else count**self.operand


def parse_count(value: object, place: str) -> Count:
    """A count in any of its forms. Raises BadInput at ``place`` for anything else."""
    if isinstance(value, Mapping):
        return _range(value, place)
    if isinstance(value, str):
        return _text(value, place)
    number = _positive(value, place)
    return Count(number, number)


def _range(value: Mapping[object, object], place: str) -> Count:
    unknown = set(value) - {"min", "max", "operator", "operand"}
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise BadInput(f"unknown key {quoted(name)}", place, "use min, max, operator, operand")
    least = _positive(value.get("min"), f"{place}.min")
    # RFC 14: max may be left out, and then only the graph bounds the count.
    most = MAX_COUNT if value.get("max") is None else _positive(value["max"], f"{place}.max")
    operand = _positive(value.get("operand", 1), f"{place}.operand")
    operator = value.get("operator", "+")
    if operator not in ("+", "*", "^"):
        what = f"{brief(operator)} is no operator"
        raise BadInput(what, f"{place}.operator", "use + or * or ^")
    return _stepped(least, most, str(operator), operand, place)


def _text(value: str, place: str) -> Count:
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    found = _RANGE.fullmatch(text)
    if found is not None:
        least = _positive(int(found["least"]), place)
        most = MAX_COUNT if found["open"] else _positive(int(found["most"]), place)
        operand = _positive(int(found["operand"] or 1), place)
        return _stepped(least, most, found["operator"] or "+", operand, place)
    try:
        choices = parse_idset(text)
    except BadInput as error:
        remedy = 'use a number, a range such as "2-8:2:*" or "2+", or a set such as "1,4-6"'
        raise BadInput(f"{quoted(value)} is no count: {error.what}", place, remedy) from None
    if not choices or choices[0] < 1:
        raise BadInput("a count of 0", place, "use numbers of 1 or more")
    return Count(choices[0], choices[-1], choices=choices)


def _stepped(least: int, most: int, operator: str, operand: int, place: str) -> Count:
    if most < least:
        raise BadInput(f"max {most} is below min {least}", place, "make max at least min")
    if operator != "+" and (operand < 2 or (operator == "^" and least < 2)):
        raise BadInput(f"{operator!r} never grows from here", place, "use min and operand of 2 up")
    return Count(least, most, operator, operand)


def _positive(value: object, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"{brief(value)} is not a whole number", place, "use a number of 1 or more")
    if value < 1:
        what = "a negative count" if value else "a count of 0"
        raise BadInput(what, place, "use a number of 1 or more")
    if value > MAX_COUNT:
        raise BadInput(f"a count above {MAX_COUNT}", place, "ask for less")
    return value
