"""The decision: which waiting jobs to rent nodes for, which type, how many, at what cost.

:func:`decide` is pure. It gets a :class:`Snapshot` that cannot change under it and returns a
:class:`Plan`: one :class:`Decision` for each job that was weighed, with every alternative and
why it was or was not taken, and the bursts to ask for. It acts on nothing.

For each job in the scheduler's order it asks the matcher when the job would start here, behind
all that is ahead of it and stays; then what each way of renting would take, cost and bring. A
job bursts when that is sooner by more than the threshold and within every limit; of several ways
it takes the cheapest. The jobs behind then find its place here free.

The nouns are in ``plan``, the ways of renting in ``ways``, the sentences in ``reasons``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flux_flex.burst import reasons
from flux_flex.burst.limits import Commitment, Headroom
from flux_flex.burst.market import Placed, asked_in_all, nodes_asked
from flux_flex.burst.plan import (
    Alternative,
    Decision,
    Order,
    Plan,
    QueuePolicy,
    Rented,
    Snapshot,
    Verdict,
)
from flux_flex.burst.select import PendingJob, within_depth
from flux_flex.burst.ways import Bursts, Way
from flux_flex.errors import Busy, FlexError, Unsatisfiable
from flux_flex.model.duration import format_duration
from flux_flex.model.jobid import f58
from flux_flex.model.quoting import one_line


def decide(snapshot: Snapshot) -> Plan:
    """Decide for every pending job within the configured depth. Pure: see the module."""
    return _Round(snapshot).plan()


@dataclass(frozen=True, slots=True)
class _Here:
    """When a job starts on this system (inf: no start is in sight), whether it could ever run
    there (``fits``), and that said for people."""

    start_s: float
    fits: bool
    said: str


class _Round:
    """One run of decide: the queue here as it would go on, and the room the limits still leave."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.at = snapshot
        self.config = snapshot.config
        self.local = snapshot.local.fork()
        self.local.advance(max(snapshot.now_s, self.local.now))
        self.earliest_s = snapshot.now_s  # nobody further back starts here before
        self.ahead: PendingJob | None = None  # nobody further back starts anywhere before it does
        self.bursts = Bursts(snapshot)
        self.room = Headroom(self.config.limits, snapshot.spent_usd)
        for commitment in self.bursts.commitments():
            self.room.commit(commitment)

    def plan(self) -> Plan:
        pending = within_depth(self.at.pending, self.config.depth)
        decisions = tuple(self._decide_next(job) for job in pending)
        joined = {burst: tuple(placed) for burst, placed in self.bursts.joined.items()}
        return Plan(decisions, tuple(self.bursts.orders.values()), joined)

    def _decide_next(self, job: PendingJob) -> Decision:
        """Decide for the next job of the queue, and leave its place here to it or to others."""
        try:
            here = self._reserve(job)
            decision = replace(self._decide(job, here), fits_here=here.fits)
        except (FlexError, ArithmeticError) as error:
            # One job that nobody can reckon with is not all jobs.
            why = f"nobody can tell what it takes: {one_line(error, 200)}"
            return Decision(job, "impossible", why, math.inf, fits_here=False)
        if self.ahead is None and decision.verdict != "burst" and self._is_in_the_way(job, here):
            self.ahead = job
        if decision.verdict == "burst":
            if job.jobid in self.local.holders:
                self.local.cancel(job.jobid)
        # Flux refuses a job that never fits, so that one holds nobody up.
        elif here.fits and self.at.queue_policy == "fcfs":
            self.earliest_s = here.start_s
            if self.earliest_s < math.inf:
                # For speed alone: what ends before is not walked past again for each job.
                self.local.advance(self.earliest_s)
        return decision

    # -- here ------------------------------------------------------------------------------------

    def _reserve(self, job: PendingJob) -> _Here:
        """Hold the job's place here, behind all that hold theirs.

        Where Flux has said when it starts the job, that is when it starts.
        """
        start_s, fits = math.inf, True
        told_s = self._told(job)
        try:
            if self.earliest_s < math.inf:
                earliest_s = max(self.earliest_s, told_s)
                start_s = self.local.reserve(job.jobspec, job.jobid, earliest_s).at
            else:
                fits = self.local.satisfiable(job.jobspec)
        except Unsatisfiable:
            fits = False
        except Busy:
            pass  # jobs without a time limit are in the way: no start is in sight
        start_s = told_s if told_s and fits else start_s
        return _Here(start_s, fits, reasons.start_here(start_s, self.at.now_s, fits=fits))

    def _told(self, job: PendingJob) -> float:
        """When Flux says that it starts the job; 0.0 where it does not say, or said it before."""
        told_s = job.flux_start_s if self.at.flux_tells else None
        return told_s if told_s is not None and told_s >= self.at.now_s else 0.0

    def _is_in_the_way(self, job: PendingJob, here: _Here) -> bool:
        """Whether the scheduler lets the job wait for hosts that are down, and all others wait
        behind it."""
        resources = self.at.resources
        if here.fits or job.held or resources is None or not self.at.waits:
            return False
        if self.at.queue_policy != "fcfs":
            return False
        answers = self.bursts.targets.answers(self.bursts.targets.matching(job.jobspec.constraint))
        there = [one for one, meets in zip(resources.ranks, answers, strict=True) if meets]
        return (
            max(nodes_asked(job.jobspec), 1) <= len(there)
            and asked_in_all(job.jobspec, "core") <= sum(len(one.cores) for one in there)
            and asked_in_all(job.jobspec, "gpu") <= sum(len(one.gpus) for one in there)
        )

    # -- one job ---------------------------------------------------------------------------------

    def _decide(self, job: PendingJob, here: _Here) -> Decision:
        local_s = here.start_s
        if not job.jobspec.burstable:
            if not here.fits:
                return Decision(job, "impossible", f"not burstable, and {here.said}", local_s)
            return Decision(job, "stay", f"not burstable, {here.said}", local_s)
        if self.ahead is not None:
            nodes = nodes_asked(self.ahead.jobspec)
            return Decision(job, "deferred", reasons.behind(f58(self.ahead.jobid), nodes), local_s)
        if local_s - self.at.now_s <= self.config.threshold:
            return Decision(job, "stay", here.said, local_s)
        if job.jobid in self.at.shunned:
            return Decision(job, "deferred", reasons.SHUNNED, local_s)
        if not job.jobspec.duration_s:
            why = "has no time limit, so what it would cost has no bound"
            return Decision(job, "impossible", why, local_s)
        useful_s = local_s - self.config.threshold
        ways = [self._weighed(way, local_s) for way in self.bursts.ways(job, useful_s)]
        ways.sort(key=lambda way: way.rank)
        best = next((way for way in ways if way.standing == "open"), None)
        if best is None:
            return self._refuse(job, here, ways)
        return self._take(job, here, best, ways)

    def _weighed(self, way: Way, local_s: float) -> Way:
        """The way, ruled out if it is not soon enough or beyond a limit."""
        start_s, threshold_s = way.seen.start_s, self.config.threshold
        if way.standing == "misfit":
            return way
        if local_s - start_s <= threshold_s:
            return way.rejected("late", reasons.too_late(start_s, local_s, threshold_s))
        refusal = self.room.refusal(way.commitment) if way.commitment else ""
        if refusal and way.commitment and not self._refused_as_decided(way, way.commitment):
            refusal = f"{refusal}, {reasons.at_worst(self.at.longest_s.get(way.seen.type, 0.0))}"
        return way.rejected("limited", refusal) if refusal else way

    def _refused_as_decided(self, way: Way, commitment: Commitment) -> bool:
        """Whether a limit stands in the way even if the job starts as it was decided."""
        return bool(self.room.refusal(replace(commitment, cost_usd=way.seen.cost_usd)))

    def _take(self, job: PendingJob, here: _Here, best: Way, ways: Sequence[Way]) -> Decision:
        self.bursts.take(best)
        if best.commitment is not None:
            self.room.commit(best.commitment)
        chosen = best.seen
        seen = tuple(
            replace(way.seen, rejected=reasons.outdone(way.seen, chosen))
            if way.standing == "open" and way is not best
            else way.seen
            for way in ways
        )
        reason = reasons.renting(chosen, self.at.now_s, here.start_s)
        return Decision(job, "burst", reason, here.start_s, chosen, seen)

    def _refuse(self, job: PendingJob, here: _Here, ways: Sequence[Way]) -> Decision:
        """No way was left: it is too late, beyond a limit, or no type fits."""
        seen = tuple(way.seen for way in ways)
        limited = [way.seen for way in ways if way.standing == "limited"]
        late = [way.seen for way in ways if way.standing == "late"]
        verdict: Verdict = "impossible"
        if limited:
            verdict, why = "deferred", limited[0].rejected
        elif late:
            there = format_duration(min(one.start_s for one in late) - self.at.now_s)
            verdict, why = "stay", f"{here.said}, rented nodes would be ready in {there}"
        else:
            why = reasons.no_type_fits(seen)
        return Decision(job, verdict, why, here.start_s, None, seen)


__all__ = [
    "Alternative",
    "Decision",
    "Order",
    "Placed",
    "Plan",
    "QueuePolicy",
    "Rented",
    "Snapshot",
    "Verdict",
    "decide",
]
