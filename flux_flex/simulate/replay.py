"""The replay: a queue under a virtual clock, with or without bursting.

Events wait in one heap: jobs come in and end, rented nodes idle too long. After all events of a
moment comes a scheduling point: the local queue starts what fits, by its policy, and then
:func:`~flux_flex.burst.decide.decide` is asked, and what it orders is done. Nothing here draws a
random number or reads a clock, so a scenario always gives the same outcome.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from flux_flex.burst.decide import Decision, Order, Plan, QueuePolicy, Rented, Snapshot, decide
from flux_flex.burst.market import Placed, rented_matcher
from flux_flex.burst.select import PendingJob
from flux_flex.errors import Busy
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.match import Match
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.simulate.queue_dump import RunningJob
from flux_flex.simulate.scenario import Scenario
from flux_flex.simulate.submissions import Submission

# Events of one moment are taken in this order: what ends makes room for what begins.
_ENDS, _GOES, _BEGINS, _COMES = range(4)

LOCAL = ""


@dataclass(slots=True)
class JobRecord:
    """What became of a job. Times in seconds after the start, None for what did not happen.

    ``where`` is the burst it ran on, empty for here; ``nodes`` are node names, ``share`` the part
    of each that it held. ``refused``: it could never start here, and nothing was rented for it.
    """

    jobid: int
    name: str
    user: str
    submitted_s: float
    start_s: float | None = None
    end_s: float | None = None
    where: str = LOCAL
    nodes: tuple[str, ...] = ()
    share: float = 1.0
    running_before: bool = False
    refused: bool = False


@dataclass(slots=True)
class BurstRecord:
    """A burst from its request until its nodes are gone. ``cost_usd`` counts all that time."""

    order: Order
    user: str
    requested_s: float
    ended_s: float | None = None
    jobs: list[int] = field(default_factory=list)

    def paid_s(self, until_s: float) -> float:
        """For how long its nodes were paid by ``until_s``, which is not before the request."""
        return (until_s if self.ended_s is None else self.ended_s) - self.requested_s

    def cost_usd(self, until_s: float) -> float:
        """What it has cost by ``until_s``."""
        hourly_usd = self.order.nodes * self.order.node_type.price_per_hour_usd
        return hourly_usd * self.paid_s(until_s) / 3600


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that happened until ``end_s``: the horizon, or else when the last job began or ended or
    the last burst went. Jobs that would come after it have no record.

    ``decisions`` are (seconds, decision), in order: for each job that was weighed its first
    verdict, and each one that differed from the last."""

    records: tuple[JobRecord, ...]
    bursts: tuple[BurstRecord, ...]
    decisions: tuple[tuple[float, Decision], ...]
    end_s: float


Progress = Callable[[int, int], None]


def replay(scenario: Scenario, *, bursting: bool, progress: Progress | None = None) -> Outcome:
    """Run a scenario to its end or horizon. ``progress`` is told (jobs done, jobs in all)."""
    return _Replay(scenario, bursting, progress).run()


@dataclass(slots=True)
class _Active:
    """A burst that is going on, with the matcher of its nodes."""

    record: BurstRecord
    matcher: EmbeddedMatcher
    idle_since: int = 0  # counts; an idle timer that finds another number is out of date


class _Replay:
    def __init__(self, scenario: Scenario, bursting: bool, progress: Progress | None) -> None:
        self.scenario = scenario
        self.bursting = bursting
        self.progress = progress
        self.now = 0.0
        self.local = EmbeddedMatcher(scenario.graph, scenario.match_policy)
        self.instance = MemoryInstance({}, now=-math.inf)
        self.submissions = {item.jobid: item for item in scenario.submissions}
        self.records: dict[int, JobRecord] = {}
        self.queue: list[tuple[tuple[int, float, int], PendingJob]] = []
        self.misfits: dict[int, PendingJob] = {}  # never fit here, may still burst
        self.burstable = 0
        self.active: dict[str, _Active] = {}
        self.bursts: list[BurstRecord] = []
        self.ended_costs: deque[tuple[float, float]] = deque()
        self.spent_ended_usd = 0.0
        self.decisions: list[tuple[float, Decision]] = []
        self.verdicts: dict[int, str] = {}
        self.events: list[tuple[float, int, int, Callable[[], None]]] = []
        self.serial = 0
        self.done = 0
        self.last_s = 0.0  # when something last began or ended
        self.blocked: tuple[int, int] | None = None
        self.weighed: tuple[object, ...] | None = None

    def run(self) -> Outcome:
        for running in self.scenario.running:
            self._hold(running)
        for item in sorted(self.scenario.submissions, key=lambda item: item.submitted_s):
            self._at(max(0.0, item.submitted_s), _COMES, partial(self._come, item))
        horizon_s = math.inf if self.scenario.horizon_s is None else self.scenario.horizon_s
        for now in self._moments(horizon_s):
            self.now = now
            self.local.advance(now)
            self.instance.advance(now)
            self._take_events()
            self._scheduling_point()
        end_s = self.last_s if math.isinf(horizon_s) else horizon_s
        records = sorted(self.records.values(), key=lambda one: (one.submitted_s, one.jobid))
        return Outcome(tuple(records), tuple(self.bursts), tuple(self.decisions), end_s)

    # -- the clock ---------------------------------------------------------------------------------

    def _at(self, when: float, kind: int, action: Callable[[], None]) -> None:
        if when < math.inf:
            self.serial += 1
            heapq.heappush(self.events, (when, kind, self.serial, action))

    def _moments(self, horizon_s: float) -> Iterator[float]:
        while self.events and self.events[0][0] <= horizon_s:
            yield self.events[0][0]

    def _take_events(self) -> None:
        while self.events and self.events[0][0] <= self.now:
            heapq.heappop(self.events)[3]()

    # -- what happens -------------------------------------------------------------------------

    def _hold(self, running: RunningJob) -> None:
        """A job that runs already holds what it holds until its expiration."""
        match = self.local.update(running.jobid, running.R, running.started_s, running.duration_s)
        record = JobRecord(
            running.jobid,
            running.name,
            running.user,
            running.submitted_s,
            running.started_s,
            nodes=tuple(match.hosts),
            share=_share(match),
            running_before=True,
        )
        self.records[running.jobid] = record
        self._at(running.end_s, _ENDS, partial(self._end_local, running.jobid))

    def _come(self, item: Submission) -> None:
        job = item.pending()
        self.records[job.jobid] = JobRecord(job.jobid, job.jobspec.name, job.user, item.submitted_s)
        self.instance.submit(
            job.jobspec.raw,
            user=job.user,
            priority=job.priority,
            jobid=job.jobid,
            t_submit=item.submitted_s,
        )
        if self.local.satisfiable(job.jobspec):
            insort(self.queue, (job.order, job), key=lambda entry: entry[0])
        elif self.bursting and job.jobspec.burstable:
            self.misfits[job.jobid] = job
        else:
            # As Flux does: a job that could never start is refused when it is submitted.
            self.records[job.jobid].refused = True
            self.instance.cancel(job.jobid, note="unsatisfiable request")
            self._count_done()
            return
        self.burstable += job.jobspec.burstable

    def _end_local(self, jobid: int) -> None:
        if jobid in self.local.holders:
            self.local.cancel(jobid)
        self._end(jobid)

    def _end(self, jobid: int) -> None:
        record = self.records[jobid]
        record.end_s = self.now
        self.last_s = self.now
        if not record.running_before:
            self.instance.finish(jobid)
            self._count_done()

    def _count_done(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, len(self.submissions))

    # -- the local scheduler ---------------------------------------------------------------------

    def _scheduling_point(self) -> None:
        self._schedule()
        while self.bursting and self.burstable:
            looked_at = self._looked_at()
            if looked_at == self.weighed:
                return
            if not self._act(decide(self._snapshot())):
                self.weighed = looked_at
                return
            # What leaves the queue may free the way for those behind it.
            self._schedule()

    def _looked_at(self) -> tuple[object, ...]:
        """All that a decision depends on but the time. Where this is as it was when nothing was
        worth renting, nothing is now: the time that passed made the wait here shorter, and
        neither the boot of rented nodes nor what they cost less. All that is missed is the moment
        from which a deferred job may as well stay."""
        return (
            self.local.version,
            len(self.misfits),
            [entry[1].jobid for entry in self.queue[: self.scenario.burst.depth]],
            [(burst, one.matcher.version) for burst, one in self.active.items()],
            len(self.ended_costs),
        )

    def _forget_old_costs(self) -> None:
        """The budget's period moves on: what ended before it no longer counts."""
        while self.ended_costs and self.ended_costs[0][0] <= self.now:
            self.spent_ended_usd -= self.ended_costs.popleft()[1]

    def _schedule(self) -> None:
        policy: QueuePolicy = self.scenario.queue_policy
        if policy == "fcfs":
            while self.queue and self._started(self.queue[0][1]):
                del self.queue[0]
            return
        held: list[int] = []
        started: list[int] = []
        for place, (_, job) in enumerate(self.queue[: self.scenario.queue_depth]):
            if held and policy == "easy":
                if self._started(job):
                    started.append(place)
                continue
            match = self._reserved(job)
            if match is None or match.reserved:
                held += [job.jobid] if match else []
            else:
                self._begin_local(job, match)
                started.append(place)
        for jobid in held:
            self.local.cancel(jobid)
        for place in reversed(started):
            del self.queue[place]

    def _started(self, job: PendingJob) -> bool:
        """Start a job now if it fits, and leave the queue to the caller."""
        if self.blocked == (job.jobid, self.local.version):
            return False  # nothing has changed since it did not fit
        try:
            match = self.local.allocate(job.jobspec, job.jobid, self.now)
        except Busy:
            self.blocked = (job.jobid, self.local.version)
            return False
        self._begin_local(job, match)
        return True

    def _reserved(self, job: PendingJob) -> Match | None:
        try:
            return self.local.reserve(job.jobspec, job.jobid, self.now)
        except Busy:
            return None

    def _begin_local(self, job: PendingJob, match: Match) -> None:
        record = self.records[job.jobid]
        record.start_s = self.last_s = self.now
        record.nodes, record.share = tuple(match.hosts), _share(match)
        self.burstable -= job.jobspec.burstable
        self.instance.start(job.jobid, match.to_r())
        self._at(self._end_of(job, self.now), _ENDS, partial(self._end_local, job.jobid))

    def _end_of(self, job: PendingJob, start_s: float) -> float:
        return start_s + self.submissions[job.jobid].runtime_s

    # -- bursting -------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        running_usd = sum(one.record.cost_usd(self.now) for one in self.active.values())
        return Snapshot(
            now_s=self.now,
            local=self.local,
            pending=[
                *self.misfits.values(),
                *(job for _, job in self.queue[: self.scenario.burst.depth]),
            ],
            rented=[_rented(one, self.now) for one in self.active.values()],
            spent_usd=self.spent_ended_usd + running_usd,
            config=self.scenario.burst,
            queue_policy=self.scenario.queue_policy,
            next_burst=len(self.bursts),
        )

    def _act(self, plan: Plan) -> int:
        """Do what was decided; return how many jobs left the queue for rented nodes."""
        for decision in plan.decisions:
            self._remember(decision)
        moved: set[int] = set()
        for order in plan.orders:
            user = order.placed[0].job.user
            record = BurstRecord(order, user, self.now)
            self.bursts.append(record)
            matcher = rented_matcher(order.node_type, order.nodes)
            matcher.advance(self.now)
            self.active[order.burst] = _Active(record, matcher)
            moved |= self._assign(order.burst, order.placed)
        for burst, placed in plan.joined.items():
            moved |= self._assign(burst, placed)
        if moved:
            self.queue = [entry for entry in self.queue if entry[1].jobid not in moved]
            for jobid in moved:
                self.misfits.pop(jobid, None)
        return len(moved)

    def _remember(self, decision: Decision) -> None:
        """Keep each verdict when it is first reached, and when it changes."""
        if self.verdicts.get(decision.job.jobid) != decision.verdict:
            self.verdicts[decision.job.jobid] = decision.verdict
            self.decisions.append((self.now, decision))

    def _assign(self, burst: str, placed: tuple[Placed, ...]) -> set[int]:
        active = self.active[burst]
        active.idle_since += 1
        for one in placed:
            job = one.job
            match = active.matcher.allocate(job.jobspec, job.jobid, one.start_s)
            active.record.jobs.append(job.jobid)
            self.burstable -= job.jobspec.burstable
            self._at(one.start_s, _BEGINS, partial(self._begin_rented, burst, job, match))
        return {one.job.jobid for one in placed}

    def _begin_rented(self, burst: str, job: PendingJob, match: Match) -> None:
        record = self.records[job.jobid]
        record.start_s = self.last_s = self.now
        record.where = burst
        record.nodes = tuple(f"{burst}-{int(match.graph.rank[v])}" for v in match.nodes)
        record.share = _share(match)
        self.instance.start(job.jobid, match.to_r())
        self._at(self._end_of(job, self.now), _ENDS, partial(self._end_rented, burst, job.jobid))

    def _end_rented(self, burst: str, jobid: int) -> None:
        active = self.active[burst]
        active.matcher.advance(self.now)
        if jobid in active.matcher.holders:
            active.matcher.cancel(jobid)
        self._end(jobid)
        if not active.matcher.holders:
            active.idle_since += 1
            mark = active.idle_since
            goes_s = self.now + self.scenario.burst.idle_timeout
            self._at(goes_s, _GOES, partial(self._go, burst, mark))

    def _go(self, burst: str, mark: int) -> None:
        """Rented nodes that idled for the whole timeout go."""
        active = self.active[burst]
        if active.idle_since != mark:
            return
        del self.active[burst]
        active.record.ended_s = self.last_s = self.now
        cost = active.record.cost_usd(self.now)
        self.spent_ended_usd += cost
        # A job that waits for the budget is looked at again once this no longer counts.
        forgotten_s = self.now + self.scenario.burst.limits.period
        self.ended_costs.append((forgotten_s, cost))
        self._at(forgotten_s, _GOES, self._forget_old_costs)


def _rented(active: _Active, now: float) -> Rented:
    order = active.record.order
    busy_until = max(
        (active.matcher.end_of(jobid) for jobid in active.matcher.holders), default=now
    )
    return Rented(
        burst=order.burst,
        provider=order.provider,
        node_type=order.node_type,
        nodes=order.nodes,
        requested_s=active.record.requested_s,
        ready_s=order.ready_s,
        busy_until_s=busy_until,
        user=active.record.user,
        matcher=active.matcher,
    )


def _share(match: Match) -> float:
    """The part of its nodes' cores that a match holds, above 0 and at most 1."""
    graph = match.graph
    cores = graph.of_type("core")
    ends = [(node, int(graph.end[node])) for node in match.nodes]
    within = int(np.diff(np.searchsorted(cores, ends), axis=1).sum()) if ends else 0
    return min(1.0, match.amount("core") / within) or 1.0 if within else 1.0
