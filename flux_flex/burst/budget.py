"""Whether a burst may let its jobs start: what it then costs at the worst is within the budget.

A decision reckons when jobs start; the scheduler may start them later, or others in their place,
and nodes are paid for all the while. So before rented nodes are opened, it is reckoned again what
every burst will have cost if what may start there now runs to its time limit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from flux_flex.burst.config import BurstConfig
from flux_flex.burst.ledger import Book, Entry, State
from flux_flex.burst.snapshot import Queue, Running


class Purse:
    """What the budget leaves, burst by burst, at one moment.

    ``limits_s`` has the time limits of jobs that wait, by id; ``ranks`` those of each burst.
    """

    def __init__(
        self,
        book: Book,
        queue: Queue,
        config: BurstConfig,
        ranks: Mapping[str, Collection[int]],
        limits_s: Mapping[int, float],
    ) -> None:
        self._queue = queue
        self._config = config
        self._ranks = ranks
        self._limits_s = limits_s
        spent_usd = book.spent_usd(queue.now_s - config.limits.period, queue.now_s)
        self._taken_usd = spent_usd + sum(self._worst_usd(one) for one in book.bursts.values())

    def opens(self, entry: Entry) -> bool:
        """Whether the jobs that wait for a burst that is up may start now; if so, they count."""
        budget = self._config.limits.budget
        more = self._worst_usd(entry, opened=True) - self._worst_usd(entry)
        if budget is not None and self._taken_usd + more > budget:
            return False
        self._taken_usd += more
        return True

    def _worst_usd(self, entry: Entry, *, opened: bool = False) -> float:
        """What a burst costs from now on if what runs, or may start, runs to its time limit."""
        now_s, queue = self._queue.now_s, self._queue
        ranks = self._ranks.get(entry.burst, ())
        ends_s = (job.end_s or math.inf for job in queue.running if _is_on(job, ranks))
        end_s = max(ends_s, default=now_s)
        if opened:
            # The scheduler may take any job that waits.
            end_s = max(end_s, now_s + self._longest_s(job.jobid for job in queue.pending))
        elif entry.state in (State.INTENDED, State.ASKED):
            own = (job for job in entry.jobs if job in queue.jobs)
            end_s = max(entry.boot_by_s, now_s) + self._longest_s(own)
        left_s = max(end_s, now_s) - now_s + self._config.idle_timeout + self._config.release
        return entry.cost_per_hour_usd * left_s / 3600

    def _longest_s(self, jobs: Iterable[int]) -> float:
        """The longest time limit of some jobs; those that run by now count as 0."""
        running = {job.jobid for job in self._queue.running}
        waiting = (job for job in jobs if job not in running)
        return max((self._limits_s.get(job, math.inf) for job in waiting), default=0.0)


def _is_on(job: Running, ranks: Collection[int]) -> bool:
    return any(target.rank in ranks for target in job.resources.ranks)
