"""Slots: hosts that an instance lists as down, set aside for nodes that may be rented.

A job can only wait for hosts that R has, so what could be rented stands in R from the beginning.
A slot is filled by one burst at a time, whose brokers come under the slot's host names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flux_flex.burst.ledger import Book
from flux_flex.errors import BadInput
from flux_flex.model.rv1 import ResourceSet

REASON = "flux-flex: the burst ends"
# Rented nodes are drained except while a job that they are for waits. So nobody else's job runs
# there, and what a burst costs is what was decided.
KEPT = "flux-flex: kept for jobs that burst"


@dataclass(frozen=True, slots=True)
class Slot:
    """``hosts`` and ``ranks``, one each for ``nodes`` nodes of a type; ``name`` is a burst's id."""

    name: str
    type: str
    hosts: tuple[str, ...]
    ranks: tuple[int, ...] = ()

    @property
    def nodes(self) -> int:
        return len(self.hosts)


def placed_slots(slots: Sequence[Slot], resources: ResourceSet) -> tuple[Slot, ...]:
    """The slots with the ranks that R gives their hosts. Raises BadInput for a host not in R."""
    ranks = {target.host: target.rank for target in resources.ranks}
    found = []
    for slot in slots:
        missing = [host for host in slot.hosts if host not in ranks]
        if missing:
            what = f"the instance's R does not have {missing[0]}"
            raise BadInput(what, f"slot {slot.name}", "write it with flux-flex burst configure")
        found.append(Slot(slot.name, slot.type, slot.hosts, tuple(ranks[h] for h in slot.hosts)))
    return tuple(found)


def usable_slots(slots: Iterable[Slot], drained: Mapping[int, str]) -> tuple[Slot, ...]:
    """The slots without the hosts that were drained for reasons that are not ours."""
    found = []
    for slot in slots:
        pairs = [
            (host, rank)
            for host, rank in zip(slot.hosts, slot.ranks, strict=True)
            if drained.get(rank, KEPT) in (KEPT, REASON)
        ]
        hosts, ranks = tuple(host for host, _ in pairs), tuple(rank for _, rank in pairs)
        found.append(Slot(slot.name, slot.type, hosts, ranks))
    return tuple(slot for slot in found if slot.hosts)


def free_slot(slots: Iterable[Slot], book: Book, node_type: str, nodes: int) -> Slot | None:
    """The smallest slot of a type that takes so many nodes and that no burst is in."""
    fitting = [
        slot
        for slot in slots
        if slot.type == node_type and slot.nodes >= nodes and slot.name not in book.bursts
    ]
    return min(fitting, key=lambda slot: slot.nodes, default=None)


def largest_of(slots: Iterable[Slot]) -> dict[str, int]:
    """By node type, how many nodes its largest slot takes."""
    found: dict[str, int] = {}
    for slot in slots:
        found[slot.type] = max(found.get(slot.type, 0), slot.nodes)
    return found


def rooms_of(slots: Iterable[Slot], book: Book) -> dict[str, list[int]]:
    """By node type, how many nodes each slot takes that no burst is in."""
    found: dict[str, list[int]] = {}
    for slot in slots:
        if slot.name not in book.bursts:
            found.setdefault(slot.type, []).append(slot.nodes)
    return found
