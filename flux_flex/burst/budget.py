"""Whether a burst may let its jobs start: what it then costs at the worst is within the budget.

A decision reckons when jobs start; the scheduler may start them later, or others in their place,
and nodes are paid for all the while. So before rented nodes are opened, it is reckoned again what
every burst will have cost if what may start there now runs to its time limit. The decision to
rent goes by the same reckoning, so that nothing is rented that could not be opened.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from flux_flex.burst.config import BurstConfig
from flux_flex.burst.ledger import Book, Entry, State
from flux_flex.burst.market import nodes_asked
from flux_flex.burst.queue import Queue, Running
from flux_flex.burst.slots import Slot
from flux_flex.model.money import cost_of

_COMING = (State.INTENDED, State.ASKED)


class Purse:
    """What the budget leaves, burst by burst, at one moment."""

    def __init__(self, book: Book, queue: Queue, config: BurstConfig) -> None:
        self._queue = queue
        self._config = config
        self._coming_s = longest_coming(queue, book)
        spent_usd = book.spent_usd(queue.now_s - config.limits.period, queue.now_s)
        self._taken_usd = spent_usd + sum(self._worst_usd(one) for one in book.bursts.values())

    def opens(self, entry: Entry) -> bool:
        """Whether the jobs that wait for a burst that is up may start now; if so, they count."""
        budget = self._config.limits.budget
        if budget is None:
            return True
        more = self._worst_usd(entry, opened=True) - self._worst_usd(entry)
        # A sum that is no number is not within the budget.
        if more and not self._taken_usd + more <= budget:
            return False
        self._taken_usd += more
        return True

    def _worst_usd(self, entry: Entry, *, opened: bool = False) -> float:
        """What a burst costs from now on if what runs, or may start, runs to its time limit."""
        now_s, queue = self._queue.now_s, self._queue
        ranks = queue.ranks_of(entry.rental.hosts)
        ends_s = (job.end_s or math.inf for job in queue.running if _is_on(job, ranks))
        end_s = max(ends_s, default=now_s)
        if opened:
            # The scheduler may take any job that waits.
            up = len(queue.resources.ranks) - len(queue.down)
            end_s = max(end_s, now_s + _longest_s(queue, ranks, up))
        elif entry.state in _COMING:
            end_s = max(entry.boot_by_s, now_s) + self._coming_s[entry.burst]
        left_s = max(end_s, now_s) - now_s + self._config.idle_timeout + self._config.release
        return cost_of(entry.cost_per_hour_usd, left_s)


def longest_by_type(queue: Queue, book: Book, slots: Sequence[Slot]) -> dict[str, float]:
    """By node type, the longest time limit of a job that waits and may start on nodes of a free
    slot of it, once they are up; inf for one without a limit."""
    up = len(queue.resources.ranks) - len(queue.down)
    found: dict[str, float] = {}
    for slot in slots:
        if slot.name not in book.bursts:
            longest = _longest_s(queue, slot.ranks, up + slot.nodes)
            found[slot.type] = max(found.get(slot.type, 0.0), longest)
    return found


def longest_coming(queue: Queue, book: Book) -> dict[str, float]:
    """By burst that is not up yet, the longest time limit of a job that may start on it."""
    up = len(queue.resources.ranks) - len(queue.down)
    found = {}
    for burst, entry in book.bursts.items():
        if entry.state in _COMING:
            own = queue.ranks_of(entry.rental.hosts)
            found[burst] = _longest_s(queue, own, up + len(own))
    return found


def _longest_s(queue: Queue, ranks: Collection[int], nodes: int) -> float:
    """The longest time limit of the jobs that wait and may start on some of the ranks, where so
    many nodes are up in all; inf for one without a limit. What is not known of a job may be."""
    there = queue.targets.of_ranks(ranks)
    for job in queue.waiting:  # the longest first
        fits = job.jobspec is None or nodes_asked(job.jobspec) <= nodes
        if fits and queue.meeting(job) & there:
            return job.limit_s
    return 0.0


def _is_on(job: Running, ranks: Collection[int]) -> bool:
    return any(target.rank in ranks for target in job.resources.ranks)
