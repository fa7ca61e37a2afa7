"""Which pending jobs a decision looks at, and in which order.

The order is the scheduler's: by priority, the highest first, then by submission. A job may burst
if it says so (``--setattr=burstable``); the others are walked all the same, because they hold
resources here before those behind them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flux_flex.model.jobspec import Jobspec


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that waits.

    ``held``: it is held until it is decided about, and takes no other's place.
    ``submitted_s`` and ``flux_start_s``, the scheduler's own estimate of the start where it
    publishes one, are seconds on the snapshot's clock.
    """

    jobid: int
    jobspec: Jobspec
    user: str
    priority: int
    submitted_s: float
    flux_start_s: float | None = None
    held: bool = False

    @property
    def order(self) -> tuple[int, float, int]:
        """Sorts as the scheduler does."""
        return -self.priority, self.submitted_s, self.jobid


def within_depth(pending: Iterable[PendingJob], depth: int) -> list[PendingJob]:
    """The first ``depth`` jobs in the scheduler's order, and all that are held, cut after the last
    burstable one: what stands behind it changes no decision."""
    looked_at, left = [], depth
    for job in sorted(pending, key=lambda job: job.order):
        if job.held or left > 0:
            looked_at.append(job)
            left -= not job.held
    while looked_at and not looked_at[-1].jobspec.burstable:
        looked_at.pop()
    return looked_at
