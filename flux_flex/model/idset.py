"""Idsets: sets of small integers written as text (RFC 22).

Flux writes broker ranks and the logical ids of cores and gpus this way:

    >>> parse_idset("0-3,7")
    (0, 1, 2, 3, 7)
    >>> format_idset([7, 0, 1, 2, 3], brackets=True)
    '[0-3,7]'

RFC 22 wants ids in ascending order, without repeats and without leading zeros, and flux-core
refuses anything else; so does :func:`parse_idset`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flux_flex.errors import BadInput
from flux_flex.model.quoting import clipped_int, json_kind, quoted

MAX_EXPANDED = 1_000_000
"""The most ids or hosts that one text, R or constraint may expand to."""

MAX_ID = 2**32 - 3
"""The highest id: Flux keeps ids in a C unsigned int and reserves the two highest values."""

_ITEM = re.compile(r"(0|[1-9][0-9]*)(?:-(0|[1-9][0-9]*))?")
_ALPHABET_REMEDY = "An idset is ascending ids and ranges between commas, like 0-3,7 (RFC 22)."
_MAX_ID_DIGITS = len(str(MAX_ID))


def parse_idset(text: str) -> tuple[int, ...]:
    """The ids that ``text`` stands for, ascending and unique; ``()`` for ``""`` and ``"[]"``.

    Square brackets around the whole are optional. Raises :class:`BadInput` when the text is not
    RFC 22 (ids descend or repeat, a leading zero, any other character), when an id is above
    :data:`MAX_ID`, or when it stands for more than :data:`MAX_EXPANDED` ids.
    """
    if not isinstance(text, str):
        raise BadInput(
            f"an idset is a string, not {json_kind(text)}", "idset", 'Write it quoted: "0-3,7".'
        )
    inside = _without_brackets(text)
    if not inside:
        return ()
    spans = _spans(inside, text)
    count = sum(high - low + 1 for low, high in spans)
    if count > MAX_EXPANDED:
        raise BadInput(
            f"it stands for {count:,} ids, more than {MAX_EXPANDED:,}",
            f"idset {quoted(text)}",
            "Name only the ids that exist.",
        )
    return tuple(i for low, high in spans for i in range(low, high + 1))


def format_idset(ids: Iterable[int], *, brackets: bool = False) -> str:
    """The RFC 22 text for ``ids``, which may come in any order and with repeats.

    With ``brackets`` the text is bracketed when there is more than one id, as Flux does in
    ``rank[0-3]/core0``. Raises :class:`BadInput` for an id below 0 or above :data:`MAX_ID`.
    """
    ordered = sorted(set(ids))
    if ordered and (ordered[0] < 0 or ordered[-1] > MAX_ID):
        outside = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise BadInput(
            f"the id {clipped_int(outside)} is outside 0 to {MAX_ID}",
            "idset",
            "Ids count up from 0 (RFC 22).",
        )
    spans: list[tuple[int, int]] = []
    for i in ordered:
        if spans and i == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], i)
        else:
            spans.append((i, i))
    text = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
    return f"[{text}]" if brackets and len(ordered) > 1 else text


def _without_brackets(text: str) -> str:
    opened, closed = text.startswith("["), text.endswith("]")
    if opened != closed:
        raise BadInput(
            "the square brackets do not pair up",
            f"idset {quoted(text)}",
            "Brackets are optional; write both or none.",
        )
    return text[1:-1] if opened else text


def _spans(inside: str, text: str) -> list[tuple[int, int]]:
    """The (low, high) of each item, both ends included, checked to ascend."""
    spans: list[tuple[int, int]] = []
    last = -1
    for number, item in enumerate(inside.split(","), start=1):
        where = f"idset {quoted(text)}, item {number}"
        low, high = _span(item, where)
        if low <= last:
            raise BadInput(
                f"{low} follows {last}: ids ascend and none is repeated (RFC 22)",
                where,
                "Sort the ids and drop the repeats.",
            )
        spans.append((low, high))
        last = high
    return spans


def _span(item: str, where: str) -> tuple[int, int]:
    matched = _ITEM.fullmatch(item)
    if matched is None:
        if re.fullmatch(r"[0-9]+(-[0-9]+)?", item):
            raise BadInput(f"{quoted(item)} has a leading zero", where, "Write ids without it.")
        raise BadInput(f"{quoted(item)} is neither an id nor a range", where, _ALPHABET_REMEDY)
    low_text, high_text = matched[1], matched[2] or matched[1]
    # Digits are counted before int() sees them: int() of a very long text is slow, or refused.
    if any(len(end) > _MAX_ID_DIGITS or int(end) > MAX_ID for end in (low_text, high_text)):
        raise BadInput(f"{quoted(item)} goes above {MAX_ID}", where, "Flux has no higher id.")
    low, high = int(low_text), int(high_text)
    if low > high:
        raise BadInput(f"the range {item} runs backwards", where, f"Write {high}-{low}.")
    return low, high
