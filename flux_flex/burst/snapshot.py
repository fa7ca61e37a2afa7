"""What a decision sees of a running instance: its queue, what runs, and what is rented.

snapshot = snapshot_of(queue, book, slots, types, config)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from flux_flex.burst.budget import longest_by_type, longest_coming
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig
from flux_flex.burst.ledger import Book, Entry, State
from flux_flex.burst.plan import Place, QueuePolicy, Rented, Snapshot
from flux_flex.burst.queue import Queue, Running
from flux_flex.burst.slots import Slot, largest_of, rooms_of
from flux_flex.errors import BadInput, Busy, FlexError
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.graph import graph_from_r
from flux_flex.model.rv1 import RankResources, ResourceSet

# A job that should be over by now, and is not: how much longer it is taken to need.
_OVERDUE_S = 60.0


def snapshot_of(
    queue: Queue,
    book: Book,
    slots: Sequence[Slot],
    types: Mapping[str, NodeType],
    config: BurstConfig,
    queue_policy: QueuePolicy = "fcfs",
    closed: Mapping[tuple[str, str], str] | None = None,
    *,
    waits: bool = False,
    usable: Sequence[Slot] | None = None,
) -> Snapshot:
    """All that a decision knows, from the instance and the ledger.

    ``usable`` are the slots that may be rented into, with those of their hosts that may; all if
    None.
    """
    usable = slots if usable is None else usable
    placeholders = {rank for slot in slots for rank in slot.ranks}
    for entry in book.bursts.values():  # its slot may have left the configuration
        placeholders.update(queue.ranks_of(entry.rental.hosts))
    taken = {job for entry in book.bursts.values() if not entry.is_leaving for job in entry.jobs}
    is_limited = config.limits.budget is not None
    coming_s = longest_coming(queue, book) if is_limited else {}
    return Snapshot(
        now_s=queue.now_s,
        local=_local(queue, placeholders),
        pending=[job for job in queue.pending if job.jobid not in taken],
        rented=[
            _rented(entry, queue, types, coming_s.get(entry.burst, 0.0))
            for entry in book.bursts.values()
        ],
        spent_usd=book.spent_usd(queue.now_s - config.limits.period, queue.now_s),
        config=config,
        queue_policy=queue_policy,
        rooms=rooms_of(usable, book),
        largest=largest_of(slots),
        closed=closed or {},
        longest_s=longest_by_type(queue, book, slots) if is_limited else {},
        flux_tells=True,
        resources=queue.resources,
        places=_places(slots, usable, book),
        waits=waits,
    )


# -- what is here --------------------------------------------------------------------------------


def _local(queue: Queue, placeholders: Collection[int]) -> EmbeddedMatcher:
    """The instance's own nodes that are up, with what runs there."""
    ranks = tuple(
        target
        for target in queue.resources.ranks
        if target.rank not in placeholders
        and target.rank not in queue.down
        and target.rank not in queue.drained
    )
    matcher = EmbeddedMatcher(graph_from_r(ResourceSet(ranks)), "lonode")
    matcher.advance(queue.now_s)
    own = {target.rank for target in ranks}
    for job in queue.running:
        here = tuple(target for target in job.resources.ranks if target.rank in own)
        _hold(matcher, job, here, queue.now_s)
    return matcher


def _hold(
    matcher: EmbeddedMatcher, job: Running, ranks: tuple[RankResources, ...], now_s: float
) -> None:
    if not ranks:
        return
    left_s = max(job.end_s - now_s, _OVERDUE_S) if job.end_s else 0.0
    try:
        matcher.update(job.jobid, ResourceSet(ranks).to_r(), now_s, left_s)
    except (BadInput, Busy):
        return  # it ended between two answers, and somebody else is there


# -- what is rented ------------------------------------------------------------------------------


def _rented(entry: Entry, queue: Queue, types: Mapping[str, NodeType], longest_s: float) -> Rented:
    """A burst with the jobs that run on it or wait for it, on the hosts that R has for it.

    When it is there, a job of ``longest_s`` may start on it.
    """
    own = set(queue.ranks_of(entry.rental.hosts))
    ranks = tuple(target for target in queue.resources.ranks if target.rank in own)
    matcher = EmbeddedMatcher(graph_from_r(ResourceSet(ranks)), "lonode")
    matcher.advance(queue.now_s)
    busy_until_s = queue.now_s
    for job in queue.running:
        there = tuple(target for target in job.resources.ranks if target.rank in own)
        _hold(matcher, job, there, queue.now_s)
        if there:
            busy_until_s = max(busy_until_s, job.end_s or math.inf)
    ready_s = queue.now_s if entry.state is State.UP else max(entry.boot_by_s, queue.now_s)
    waiting = {job.jobid: job.jobspec for job in queue.pending}
    for jobid in entry.jobs:
        if jobid in waiting and not entry.is_leaving:
            try:
                start_s = matcher.reserve(waiting[jobid], jobid, ready_s).at
            except (FlexError, ArithmeticError):
                continue  # it has no place there, and is paid for by whoever starts
            busy_until_s = max(busy_until_s, start_s + waiting[jobid].duration_s)
    if entry.is_leaving:  # it is paid for until it is gone, and takes no job
        ready_s = math.inf
    return Rented(
        burst=entry.burst,
        provider=entry.provider,
        node_type=types.get(entry.rental.type),
        nodes=entry.rental.nodes,
        requested_s=entry.intended_s,
        ready_s=ready_s,
        busy_until_s=busy_until_s,
        user=entry.user,
        matcher=matcher,
        at_most_s=0.0 if entry.is_leaving else ready_s + longest_s,
        hourly_usd=entry.cost_per_hour_usd,
    )


def _places(slots: Sequence[Slot], usable: Sequence[Slot], book: Book) -> dict[str, list[Place]]:
    """The slots by node type, each with the hosts that may be rented there."""
    whole = {slot.name: slot for slot in usable}
    found: dict[str, list[Place]] = {}
    for slot in slots:
        left = whole.get(slot.name)
        is_free = left is not None and slot.name not in book.bursts
        ranks = left.ranks if left is not None else slot.ranks
        found.setdefault(slot.type, []).append(Place(slot.name, ranks, is_free))
    return found
