"""Job constraints: which execution targets a job may run on (RFC 31).

A constraint is an object with one operator and its values. It is parsed once into frozen sets,
then asked of every node:

    >>> wanted = parse_constraint({"properties": ["efa", "^spot"]})
    >>> wanted.matches({"efa"}, "compute0", 0)
    True
    >>> wanted.describe()
    'properties efa and not spot'

What RFC 31 leaves to the implementation: ``{"properties": []}`` matches everything, and
``{"hostlist": []}`` and ``{"ranks": []}`` match nothing. What it defines: ``{"and": []}``,
``{"or": []}`` and a nested ``{}`` match everything, ``{"not": []}`` nothing.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field

from flux_flex.errors import BadInput
from flux_flex.model.hostlist import expand_nodelist
from flux_flex.model.idset import MAX_EXPANDED, parse_idset
from flux_flex.model.quoting import json_kind, quoted

MAX_DEPTH = 64
"""How deep constraints may nest."""

MAX_TERMS = 10_000
"""How many operators and values one constraint may have in all."""

ILLEGAL_IN_PROPERTY = "!&'\"^`|()"
"""The characters that RFC 20 keeps out of property names, for the sake of RFC 35 queries."""

_OPERATORS = ("properties", "hostlist", "ranks", "and", "or", "not")
# Words that people write and that are too far from the operator for a spelling comparison.
_SYNONYMS = {"host": "hostlist", "hosts": "hostlist", "any": "or", "all": "and", "none": "not"}
_ONE_OPERATOR = 'Write one operator and a list of its values: {"properties": ["efa"]}.'
_ANYTHING = "anything"


class Constraint(ABC):
    """A condition on one execution target; frozen and hashable."""

    __slots__ = ()

    @abstractmethod
    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:
        """Whether an execution target with these ``properties`` satisfies the constraint.

        Each leaf costs one look-up in a set per value of ``properties``, ``hostlist`` or
        ``ranks``; pass ``properties`` as a set or frozenset to keep it so.
        """

    @abstractmethod
    def phrase(self) -> str:
        """The condition in words, in full."""

    def describe(self) -> str:
        """The condition as a phrase of at most 200 characters, for reasons and errors."""
        return _clipped(self.phrase(), 200)


@dataclass(frozen=True, slots=True)
class Properties(Constraint):
    """Every ``required`` property is there and no ``forbidden`` one."""

    required: frozenset[str]
    forbidden: frozenset[str]

    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:  # noqa: ARG002
        return all(name in properties for name in self.required) and not any(
            name in properties for name in self.forbidden
        )

    def phrase(self) -> str:
        names = [*sorted(self.required), *(f"not {name}" for name in sorted(self.forbidden))]
        return _clipped(f"properties {' and '.join(names)}", 80) if names else _ANYTHING


@dataclass(frozen=True, slots=True)
class Hosts(Constraint):
    """The host is one of ``hosts``; ``text`` is the hostlist as it was written."""

    hosts: frozenset[str]
    text: str = field(compare=False)

    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:  # noqa: ARG002
        return hostname in self.hosts

    def phrase(self) -> str:
        return _clipped(f"hosts {self.text}", 80) if self.hosts else "no host"


@dataclass(frozen=True, slots=True)
class Ranks(Constraint):
    """The rank is one of ``ranks``; ``text`` is the idset as it was written."""

    ranks: frozenset[int]
    text: str = field(compare=False)

    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:  # noqa: ARG002
        return rank in self.ranks

    def phrase(self) -> str:
        return _clipped(f"ranks {self.text}", 80) if self.ranks else "no rank"


@dataclass(frozen=True, slots=True)
class And(Constraint):
    """Every operand matches; with no operands, everything does."""

    operands: tuple[Constraint, ...]

    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:
        return all(operand.matches(properties, hostname, rank) for operand in self.operands)

    def phrase(self) -> str:
        return _joined(self.operands, " and ")


@dataclass(frozen=True, slots=True)
class Or(Constraint):
    """Some operand matches; with no operands, everything does (RFC 31)."""

    operands: tuple[Constraint, ...]

    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:
        return not self.operands or any(
            operand.matches(properties, hostname, rank) for operand in self.operands
        )

    def phrase(self) -> str:
        return _joined(self.operands, " or ")


@dataclass(frozen=True, slots=True)
class Not(Constraint):
    """The operand does not match; of several values, not all of them do, as in flux-core."""

    operand: Constraint

    def matches(self, properties: Collection[str], hostname: str, rank: int) -> bool:
        return not self.operand.matches(properties, hostname, rank)

    def phrase(self) -> str:
        inner = self.operand.phrase()
        return "nothing" if inner == _ANYTHING else f"not {_grouped(inner)}"


def parse_constraint(value: object) -> Constraint | None:
    """The constraint in decoded JSON ``value``; None when it is None or ``{}``: no constraint.

    Raises :class:`BadInput`, with a place like ``constraint.and[1].properties[0]``, when an
    object has other than one key, the operator is unknown or its values are not a list, a
    property, hostlist or idset is malformed, or the whole exceeds :data:`MAX_DEPTH`,
    :data:`MAX_TERMS` or, in ids and hosts together,
    :data:`~flux_flex.model.idset.MAX_EXPANDED`.
    """
    if value is None or value == {}:
        return None
    return _Parser().constraint(value, "constraint", depth=1)


class _Parser:
    """Reads one constraint and counts what it has cost so far."""

    __slots__ = ("expanded", "terms")

    def __init__(self) -> None:
        self.terms = 0
        self.expanded = 0

    def constraint(self, value: object, where: str, *, depth: int) -> Constraint:
        if depth > MAX_DEPTH:
            raise BadInput(
                f"constraints nest deeper than {MAX_DEPTH}",
                _clipped(where, 80),
                "Flatten the nested operators.",
            )
        operator, values = _operator_of(value, where)
        if operator is None:
            return And(())
        where = f"{where}.{operator}"
        self._count_terms(len(values), where)
        if operator == "properties":
            return _properties(values, where)
        if operator == "hostlist":
            return self._hosts(values, where)
        if operator == "ranks":
            return self._ranks(values, where)
        operands = tuple(
            self.constraint(operand, f"{where}[{index}]", depth=depth + 1)
            for index, operand in enumerate(values)
        )
        if operator == "not":
            # RFC 31 knows one value; flux-core (librlist/match.c) negates the conjunction of all.
            return Not(operands[0] if len(operands) == 1 else And(operands))
        return And(operands) if operator == "and" else Or(operands)

    def _hosts(self, values: list[object], where: str) -> Hosts:
        texts = _strings(values, where, "a hostlist", '["node[0-3]"]')
        hosts = expand_nodelist(texts, where=where)
        self._count_expanded(len(hosts), where)
        return Hosts(frozenset(hosts), ",".join(texts))

    def _ranks(self, values: list[object], where: str) -> Ranks:
        texts = _strings(values, where, "an idset", '["0-3"]')
        ranks: set[int] = set()
        for index, text in enumerate(texts):
            try:
                ids = parse_idset(text)
            except BadInput as error:
                raise error.at(f"{where}[{index}]") from None
            self._count_expanded(len(ids), where)
            ranks.update(ids)
        return Ranks(frozenset(ranks), ",".join(texts))

    def _count_terms(self, count: int, where: str) -> None:
        self.terms += count
        if self.terms > MAX_TERMS:
            raise BadInput(
                f"the constraint has more than {MAX_TERMS:,} operators and values",
                where,
                "Give the nodes a property and ask for that.",
            )

    def _count_expanded(self, count: int, where: str) -> None:
        self.expanded += count
        if self.expanded > MAX_EXPANDED:
            raise BadInput(
                f"the constraint names more than {MAX_EXPANDED:,} hosts and ranks",
                where,
                "Give the nodes a property and ask for that.",
            )


def _operator_of(value: object, where: str) -> tuple[str | None, list[object]]:
    """The one operator of a constraint object and its values; None for the empty object."""
    if not isinstance(value, dict):
        raise BadInput(f"a constraint is an object, not {json_kind(value)}", where, _ONE_OPERATOR)
    if not value:
        return None, []
    if len(value) > 1:
        raise BadInput(
            f"a constraint has one operator, this one has {len(value)}",
            where,
            'Join them: {"and": [{"properties": […]}, {"hostlist": […]}]}.',
        )
    operator, values = next(iter(value.items()))
    if operator not in _OPERATORS:
        raise _unknown_operator(operator, where)
    if not isinstance(values, list):
        raise BadInput(
            f"the values of {operator} are {json_kind(values)}, not a list",
            f"{where}.{operator}",
            _ONE_OPERATOR,
        )
    return operator, values


def _unknown_operator(operator: object, where: str) -> BadInput:
    if not isinstance(operator, str):
        return BadInput(f"an operator is a string, not {json_kind(operator)}", where, _ONE_OPERATOR)
    # Clipped, because comparing spellings takes time that grows with the square of the length.
    word = operator[:32].lower()
    near = _SYNONYMS.get(word) or next(
        iter(difflib.get_close_matches(word, _OPERATORS, n=1, cutoff=0.5)), None
    )
    known = f"The operators are {', '.join(_OPERATORS)} (RFC 31)."
    remedy = f"Did you mean {near}? {known}" if near else known
    return BadInput(f"unknown operator {quoted(operator)}", where, remedy)


def _strings(values: list[object], where: str, noun: str, example: str) -> list[str]:
    texts: list[str] = []
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise BadInput(
                f"{noun} is a string, not {json_kind(value)}",
                f"{where}[{index}]",
                f"Write {example}.",
            )
        texts.append(value)
    return texts


def _properties(values: list[object], where: str) -> Properties:
    required: set[str] = set()
    forbidden: set[str] = set()
    for index, text in enumerate(_strings(values, where, "a property", '["efa", "^spot"]')):
        name = text.removeprefix("^")
        check_property(name, f"{where}[{index}]")
        (required if name == text else forbidden).add(name)
    return Properties(frozenset(required), frozenset(forbidden))


def check_property(name: str, where: str) -> None:
    """Raise :class:`BadInput` unless ``name`` can be a property (RFC 20).

    Stricter than the RFC in one point: unprintable characters are refused as well, since
    properties are shown in terminals and logs.
    """
    if not name:
        raise BadInput("a property name is empty", where, "Name the property or leave it out.")
    bad = next((c for c in name if c in ILLEGAL_IN_PROPERTY or not c.isprintable()), None)
    if bad is not None:
        raise BadInput(
            f"the property {quoted(name)} contains {bad!r}",
            where,
            f"A property has no {' '.join(ILLEGAL_IN_PROPERTY)} and only printable characters.",
        )


def _joined(operands: tuple[Constraint, ...], word: str) -> str:
    if not operands:
        return _ANYTHING
    phrases = [operand.phrase() for operand in operands]
    return phrases[0] if len(phrases) == 1 else word.join(map(_grouped, phrases))


def _grouped(phrase: str) -> str:
    return f"({phrase})" if " and " in phrase or " or " in phrase else phrase


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
