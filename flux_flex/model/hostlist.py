"""Hostlists: ordered lists of host names written as text (RFC 29).

    >>> expand_hostlist("n[08-10],login1")
    ['n08', 'n09', 'n10', 'login1']
    >>> format_hostlist(["n08", "n09", "n10", "login1"])
    'n[08-10],login1'

Unlike an idset (RFC 22) a hostlist keeps order and repeats: the position of a host in R's
nodelist says which rank it is. RFC 29 lets nearly any printable character into a name; here a
name is letters, digits, ``.``, ``_`` and ``-`` and starts with none of ``.`` and ``-``, because
names end up in paths and on command lines.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux_flex.errors import BadInput
from flux_flex.model.idset import MAX_EXPANDED
from flux_flex.model.quoting import json_kind, quoted

MAX_NAME_LENGTH = 255
"""The longest host name, in characters: what DNS can carry."""

_MAX_ID_DIGITS = 18  # fits a 64-bit integer, as flux-core needs for a number in brackets
_DIGITS = "0123456789"
_TOKEN = re.compile(r"\[(?P<idlist>[^\[\]]*)\]|(?P<comma>,)|(?P<literal>[^\[\],]+)|[\[\]]")
_LITERAL = re.compile(r"[A-Za-z0-9._-]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ID_ITEM = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_NAME_REMEDY = "A host name has letters, digits, '.', '_' and '-', and starts with no '.' or '-'."


@dataclass(frozen=True, slots=True)
class _IdRange:
    """The ids ``low`` to ``high``, both included, zero-padded to ``width`` digits."""

    low: int
    high: int
    width: int

    def __len__(self) -> int:
        return self.high - self.low + 1

    def texts(self) -> Iterator[str]:
        return (str(i).zfill(self.width) for i in range(self.low, self.high + 1))

    def longest(self) -> int:
        return max(self.width, len(str(self.high)))


# One hostlist expression: literal text and bracketed id lists, as they follow each other.
_Expression = list[str | list[_IdRange]]


def expand_hostlist(text: str) -> list[str]:
    """The host names that ``text`` stands for; order and repeats are kept.

    Several bracket groups in one name multiply, the rightmost fastest. Leading zeros of the
    first id in a group hold for the whole group (RFC 29). Empty expressions are empty lists.
    Raises :class:`BadInput` when brackets or ranges are malformed, a name has a character that
    host names do not have or more than :data:`MAX_NAME_LENGTH` of them, or the text stands for
    more than :data:`~flux_flex.model.idset.MAX_EXPANDED` hosts.
    """
    return _expand(text, MAX_EXPANDED)


def expand_nodelist(items: Sequence[str], *, where: str = "nodelist") -> list[str]:
    """All hosts of a list of hostlists, in order: R's ``nodelist`` (RFC 20).

    Raises :class:`BadInput` as :func:`expand_hostlist` does, with the place ``where[index]``;
    the limit on the number of hosts is for all items together.
    """
    if not isinstance(items, list | tuple):
        raise BadInput(
            f"it is {json_kind(items)}, not a list of hostlists", where, 'Write ["node[0-3]"].'
        )
    hosts: list[str] = []
    for index, item in enumerate(items):
        try:
            hosts.extend(_expand(item, MAX_EXPANDED - len(hosts)))
        except BadInput as error:
            raise error.at(f"{where}[{index}]") from None
    return hosts


def format_hostlist(hosts: Sequence[str]) -> str:
    """The RFC 29 text for ``hosts``; expanding it gives ``hosts`` again, in the same order.

    Neighbours that differ only in a trailing number share one bracket group, and rising runs in
    it become ranges; zero padding is kept. Raises :class:`BadInput` for an invalid host name.
    """
    parts: list[str] = []
    for prefix, tails in _neighbours(hosts):
        if len(tails) == 1:
            parts.append(prefix + tails[0])
        else:
            parts.append(f"{prefix}[{','.join(_runs(tails))}]")
    return ",".join(parts)


def _expand(text: str, room: int) -> list[str]:
    """Like :func:`expand_hostlist`, for at most ``room`` hosts."""
    if not isinstance(text, str):
        raise BadInput(
            f"a hostlist is a string, not {json_kind(text)}",
            "hostlist",
            'Write it quoted: "node[0-3]".',
        )
    hosts: list[str] = []
    try:
        for expression in _expressions(text):
            count = _count(expression)
            if count > room - len(hosts):
                raise BadInput(
                    f"it takes the list over {MAX_EXPANDED:,} hosts",
                    remedy="Name only the hosts that exist.",
                )
            hosts.extend(_names(expression))
    except BadInput as error:
        raise error.at(f"hostlist {quoted(text)}") from None
    return hosts


def _expressions(text: str) -> Iterator[_Expression]:
    """The comma-separated expressions of ``text``, without the empty ones."""
    expression: _Expression = []
    for token in _TOKEN.finditer(text):
        if token["comma"]:
            if expression:
                yield expression
            expression = []
        elif token["literal"]:
            expression.append(_literal(token["literal"]))
        elif token["idlist"] is not None:
            expression.append(_idlist(token["idlist"]))
        else:
            raise BadInput(
                f"the square bracket at character {token.start() + 1} has no partner",
                remedy="Write a group as node[0-3]; groups do not nest.",
            )
    if expression:
        yield expression


def _literal(text: str) -> str:
    if _LITERAL.fullmatch(text) is None:
        raise BadInput(f"{quoted(text)} cannot be part of a host name", remedy=_NAME_REMEDY)
    return text


def _idlist(text: str) -> list[_IdRange]:
    ranges: list[_IdRange] = []
    shared_width = 1
    for item in text.split(","):
        ids = _id_range(item)
        if not ranges:
            shared_width = ids.width
        ranges.append(_IdRange(ids.low, ids.high, max(ids.width, shared_width)))
    return ranges


def _id_range(item: str) -> _IdRange:
    """One item of a bracket group; its width is 1 unless its first id has leading zeros."""
    matched = _ID_ITEM.fullmatch(item)
    if matched is None:
        raise BadInput(
            f"{quoted(item)} in square brackets is neither a number nor a range",
            remedy="A group is numbers and ranges between commas, like [0-3,7].",
        )
    first, last = matched[1], matched[2] or matched[1]
    if max(len(first), len(last)) > _MAX_ID_DIGITS:
        raise BadInput(
            f"{quoted(item)} has more than {_MAX_ID_DIGITS} digits",
            remedy="Put the digits that all hosts share in front of the bracket.",
        )
    if _padded(last) and len(last) != len(first):
        raise BadInput(
            f"the range {item} pads its ends to different widths",
            remedy=f"Write {first.zfill(len(last))}-{last}.",
        )
    if int(first) > int(last):
        raise BadInput(f"the range {item} runs backwards", remedy=f"Write {last}-{first}.")
    return _IdRange(int(first), int(last), len(first) if _padded(first) else 1)


def _padded(digits: str) -> bool:
    return len(digits) > 1 and digits[0] == "0"


def _count(expression: _Expression) -> int:
    """How many hosts the expression stands for, worked out without expanding it.

    Names are bounded here too, so that neither their number nor their length can exhaust memory.
    """
    length = sum(
        len(part) if isinstance(part, str) else max(ids.longest() for ids in part)
        for part in expression
    )
    if length > MAX_NAME_LENGTH:
        raise BadInput(
            f"it makes host names of {length} characters",
            remedy=f"A host name has at most {MAX_NAME_LENGTH}.",
        )
    return math.prod(
        sum(len(ids) for ids in part) for part in expression if not isinstance(part, str)
    )


def _names(expression: _Expression) -> Iterator[str]:
    first = expression[0]
    if isinstance(first, str) and _NAME.match(first) is None:
        raise BadInput(f"no host name starts with {first[0]!r}", remedy=_NAME_REMEDY)
    pools = [
        (part,) if isinstance(part, str) else [t for ids in part for t in ids.texts()]
        for part in expression
    ]
    return map("".join, itertools.product(*pools))


def _neighbours(hosts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each prefix with the number texts of the hosts next to each other that can share a group."""
    prefix, tails = "", list[str]()
    for host in hosts:
        if not isinstance(host, str) or len(host) > MAX_NAME_LENGTH or not _NAME.fullmatch(host):
            shown = quoted(host) if isinstance(host, str) else json_kind(host)
            raise BadInput(f"{shown} is not a host name", "hostlist", _NAME_REMEDY)
        stem = host.rstrip(_DIGITS)
        tail = host[len(stem) :]
        if tails and stem == prefix and _share_group(tails[0], tail):
            tails.append(tail)
            continue
        if tails:
            yield prefix, tails
        prefix, tails = stem, [tail]
    if tails:
        yield prefix, tails


def _share_group(first: str, tail: str) -> bool:
    """Whether ``tail`` comes out of a group unchanged when the padding is that of ``first``."""
    if not first or not tail or max(len(first), len(tail)) > _MAX_ID_DIGITS:
        return False
    return str(int(tail)).zfill(len(first) if _padded(first) else 1) == tail


def _runs(tails: list[str]) -> Iterator[str]:
    """``tails`` with each run that rises by one written as a range."""
    start = end = tails[0]
    for tail in tails[1:]:
        if int(tail) == int(end) + 1:
            end = tail
            continue
        yield start if start == end else f"{start}-{end}"
        start = end = tail
    yield start if start == end else f"{start}-{end}"
