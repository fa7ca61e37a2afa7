"""Which of many execution targets meet a constraint (RFC 31), asked of all of them at once.

    targets = Targets(resources.ranks)
    targets.matching(constraint)        # a set of bits: bit i for the target i
    targets.of_ranks([3, 4])            # the same, for some ranks

A constraint may have ten thousand terms and a system two thousand nodes, so each term is looked up
once, and what it leaves is joined as the bits of whole numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flux_flex.model.constraints import And, Constraint, Hosts, Not, Or, Properties, Ranks
from flux_flex.model.rv1 import RankResources

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Target:
    """What a constraint may ask about one target."""

    rank: int
    host: str
    properties: Collection[str]


class Targets:
    """Some execution targets, in an order that stays."""

    def __init__(self, targets: Iterable[RankResources | Target]) -> None:
        known = tuple(targets)
        self._count = len(known)
        self.all = (1 << len(known)) - 1
        self._hosts = _bits((one.host, i) for i, one in enumerate(known))
        self._ranks = _bits((one.rank, i) for i, one in enumerate(known))
        self._having = _bits((name, i) for i, one in enumerate(known) for name in one.properties)

    def of_ranks(self, ranks: Collection[int]) -> int:
        """The bits of some ranks."""
        return _found(self._ranks, ranks)

    def answers(self, bits: int) -> list[bool]:
        """Of each target, whether its bit is there."""
        found = [bit == "1" for bit in bin(bits)[:1:-1]]
        return (found + [False] * self._count)[: self._count]

    def matching(self, constraint: Constraint | None) -> int:
        """The bits of the targets that satisfy the constraint: of all, without one."""
        if constraint is None:
            return self.all
        if isinstance(constraint, Properties):
            found = self.all & ~_joined(self._having.get(name, 0) for name in constraint.forbidden)
            for name in constraint.required:
                found &= self._having.get(name, 0)
            return found
        if isinstance(constraint, Hosts):
            return _found(self._hosts, constraint.hosts)
        if isinstance(constraint, Ranks):
            return _found(self._ranks, constraint.ranks)
        if isinstance(constraint, Not):
            return self.all & ~self.matching(constraint.operand)
        if isinstance(constraint, Or):
            found = _joined(self.matching(operand) for operand in constraint.operands)
            return found if constraint.operands else self.all
        found = self.all
        for operand in constraint.operands if isinstance(constraint, And) else ():
            found &= self.matching(operand)
        return found


def count_of(bits: int) -> int:
    """How many bits there are."""
    return bin(bits).count("1")


def _bits(places: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    numbers: dict[_Key, list[int]] = {}
    for key, place in places:
        numbers.setdefault(key, []).append(place)
    return {key: _packed(found) for key, found in numbers.items()}


def _packed(places: list[int]) -> int:
    """The number with these bits, ascending, without a whole number for each of them."""
    octets = bytearray(places[-1] // 8 + 1)
    for place in places:
        octets[place // 8] |= 1 << place % 8
    return int.from_bytes(octets, "little")


def _found(bits: Mapping[_Key, int], keys: Collection[_Key]) -> int:
    if len(keys) > len(bits):  # a constraint may name a million
        wanted = frozenset(keys)
        return _joined(own for key, own in bits.items() if key in wanted)
    return _joined(bits.get(key, 0) for key in keys)


def _joined(some: Iterable[int]) -> int:
    found = 0
    for bits in some:
        found |= bits
    return found
