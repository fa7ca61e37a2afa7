"""The queue of a running instance at one moment: what waits, what runs, which nodes are there.

    queue = read_queue(instance, known, depth=32, also=jobs_of_bursts)

Jobspecs and allocations seldom change, so ``known`` keeps them between decisions, and a decision
costs one listing of jobs however long they have been waiting. The listing has the time limits as
they are now.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from flux_flex.burst.select import PendingJob
from flux_flex.errors import FlexError
from flux_flex.host.instance import Instance, JobInfo, JobState
from flux_flex.model.burst_request import check_burst_request
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.model.quoting import one_line
from flux_flex.model.rv1 import ResourceSet, parse_r
from flux_flex.model.targets import Targets

# Memo of a job that was held for us and has been let go: it is not let go again.
LET_GO = "flex.let_go"

# What `flux submit` gives, and what a job counts as that is only held until its nodes are up.
_DEFAULT_PRIORITY = 16

# How many jobs beyond the depth are looked at in one step, so that thousands do not stop it: those
# that are held for us, those that are held and whose jobspecs are read to know that, and the
# longest, which the budget has to cover.
_MOST_HELD = 128
_MOST_READ = 256
_MOST_LONG = 128


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs: its R, and until when it may, 0.0 for without limit."""

    jobid: int
    resources: ResourceSet
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits, be it decided about or not: its time limit, inf for none, and its jobspec
    where that has been read."""

    jobid: int
    limit_s: float
    jobspec: Jobspec | None


@dataclass
class Known:
    """Jobspecs and allocations by job, as long as the jobs are there. ``senseless`` says why a
    jobspec is refused, and in ``told`` are those of them that ask for rented nodes."""

    jobspecs: dict[int, Jobspec] = field(default_factory=dict)
    senseless: dict[int, str] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    running: dict[int, Running] = field(default_factory=dict)

    def keep(self, jobids: Set[int]) -> None:
        """Forget all other jobs."""
        self.jobspecs = {job: spec for job, spec in self.jobspecs.items() if job in jobids}
        self.senseless = {job: why for job, why in self.senseless.items() if job in jobids}
        self.told &= jobids
        self.running = {job: one for job, one in self.running.items() if job in jobids}


@dataclass(frozen=True)
class Queue:
    """An instance at one moment. ``jobs`` are all that wait or run, by id; ``down`` are ranks whose
    brokers are not there, ``drained`` says why of others; ``held`` are jobs that the controller
    is to let go. ``waiting`` are all that may start when nodes are there, the longest first, and
    ``senseless`` says of jobs that ask for rented nodes why nobody can tell what they want."""

    now_s: float
    resources: ResourceSet
    down: frozenset[int]
    drained: Mapping[int, str]
    jobs: Mapping[int, JobInfo]
    running: tuple[Running, ...]
    pending: tuple[PendingJob, ...]
    held: frozenset[int] = frozenset()
    waiting: tuple[Waiting, ...] = ()
    senseless: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def _rank_of(self) -> Mapping[str, int]:
        return {target.host: target.rank for target in self.resources.ranks}

    def ranks_of(self, hosts: Iterable[str]) -> tuple[int, ...]:
        """The ranks of those of the hosts that R has, in their order."""
        return tuple(self._rank_of[host] for host in hosts if host in self._rank_of)

    @cached_property
    def targets(self) -> Targets:
        """All nodes of R, to ask what meets a constraint."""
        return Targets(self.resources.ranks)

    @cached_property
    def _met(self) -> dict[int, int]:
        return {}

    def meeting(self, job: Waiting) -> int:
        """The bits of those targets that a job may be given; of all where that is not known."""
        if job.jobspec is None:
            return self.targets.all
        if job.jobid not in self._met:
            self._met[job.jobid] = self.targets.matching(job.jobspec.constraint)
        return self._met[job.jobid]


def read_queue(
    instance: Instance,
    known: Known,
    *,
    depth: int,
    queue: str = "",
    also: Collection[int] = frozenset(),
) -> Queue:
    """The queue with the first ``depth`` jobs that wait, in the scheduler's order.

    Beyond those it has the jobs in ``also``, which nodes are rented for and whose jobspecs are
    read anew, and jobs that are held for us. Jobs of the queue of that name may burst without
    saying so. A job whose jobspec or R cannot be read now, or makes no sense, is passed over.
    Raises FlexError where the instance does not answer.
    """
    listed = [*instance.jobs(JobState.SCHED), *instance.jobs(JobState.RUN)]
    jobs = {job.jobid: job for job in listed}
    known.keep(jobs.keys())
    waiting = sorted(
        (job for job in jobs.values() if job.state is JobState.SCHED),
        key=lambda job: (-_priority(job), job.t_submit, job.jobid),
    )
    reading = _Reading(instance, known, queue, also)
    chosen = reading.chosen(waiting, depth)
    limits = reading.limits(waiting)
    return Queue(
        now_s=instance.now(),
        resources=parse_r(instance.resources()),
        down=frozenset(instance.down()),
        drained=instance.drained(),
        jobs=jobs,
        running=_running(instance, jobs.values(), known),
        pending=tuple(reading.pending(job) for job in chosen),
        held=frozenset(job.jobid for job in chosen if reading.is_held(job)),
        waiting=limits,
        senseless={job: known.senseless[job] for job in known.told},
    )


def is_held_for_us(spec: Jobspec) -> bool:
    """Whether `flux submit --burst` submitted the job: held until it is decided about."""
    flex = spec.user.get("flex")
    return spec.burstable and isinstance(flex, Mapping) and flex.get("held") is True


class _Reading:
    """One look at the jobs that wait: which of them are decided about, and what they ask for."""

    def __init__(self, instance: Instance, known: Known, queue: str, also: Collection[int]) -> None:
        self._instance = instance
        self._known = known
        self._queue = queue
        self._also = also
        self._asked: set[int] = set()  # what one answer lacks is not asked for twice in a step

    def chosen(self, waiting: Sequence[JobInfo], depth: int) -> list[JobInfo]:
        """The jobs to decide about, of those that wait in the scheduler's order."""
        self._refresh(waiting)
        self._learn([job for job in waiting if job.jobid in self._also])
        self._learn([job for job in waiting if _may_be_held(job)], _MOST_READ)
        taken = {job.jobid for job in waiting if job.jobid in self._also and self._may_run(job)}
        taken |= {job.jobid for job in self._fairly([job for job in waiting if self.is_held(job)])}
        left = depth
        for place, job in enumerate(waiting):
            if left <= 0:
                break
            if job.urgency and not self._is_read(job):
                self._learn(waiting[place : place + depth])
            if job.jobid not in taken and job.urgency and self._may_run(job):
                taken.add(job.jobid)
                left -= 1
        return [job for job in waiting if job.jobid in taken]

    def limits(self, waiting: Iterable[JobInfo]) -> tuple[Waiting, ...]:
        """All that may start when nodes are there, the longest first. Of those the jobspecs are
        read, so that what could not start there is in nobody's way."""
        free = [
            job for job in waiting if job.urgency or (job.jobid in self._also and self.is_held(job))
        ]
        free.sort(key=lambda job: -self._limit_s(job))
        self._learn(free[:_MOST_LONG])
        specs = self._known.jobspecs
        return tuple(Waiting(job.jobid, self._limit_s(job), specs.get(job.jobid)) for job in free)

    def is_held(self, job: JobInfo) -> bool:
        """Whether the job is held for us. One that we have let go, a person holds again."""
        spec = self._known.jobspecs.get(job.jobid)
        return _may_be_held(job) and spec is not None and is_held_for_us(spec)

    def pending(self, job: JobInfo) -> PendingJob:
        spec = self._known.jobspecs[job.jobid]
        is_for_bursts = self._queue and spec.system.get("queue") == self._queue
        if is_for_bursts and "burstable" not in {**spec.system, **spec.user}:  # it may say no
            spec = replace(spec, user={**spec.user, "burstable": True})
        return PendingJob(
            job.jobid, spec, job.user, _priority(job), job.t_submit, job.t_estimate,
            held=self.is_held(job),
        )  # fmt: skip

    def _may_run(self, job: JobInfo) -> bool:
        """Whether it can be decided about: its jobspec is known, and no person holds it."""
        return job.jobid in self._known.jobspecs and (job.urgency > 0 or self.is_held(job))

    def _fairly(self, held: Iterable[JobInfo]) -> list[JobInfo]:
        """As many as are looked at in one step: of each user the first, then the second …"""
        turn: Counter[str] = Counter()
        ordered: list[tuple[int, int, JobInfo]] = []
        for place, job in enumerate(held):
            turn[job.user] += 1
            ordered.append((turn[job.user], place, job))
        return [job for *_, job in sorted(ordered, key=lambda one: one[:2])[:_MOST_HELD]]

    def _limit_s(self, job: JobInfo) -> float:
        limit_s = job.duration_s
        if limit_s is None:
            spec = self._known.jobspecs.get(job.jobid)
            limit_s = spec.duration_s if spec is not None else None
        return limit_s or math.inf

    def _refresh(self, waiting: Iterable[JobInfo]) -> None:
        """Read anew what nodes are rented for, and what has another time limit by now."""
        specs = self._known.jobspecs
        old = [
            job.jobid
            for job in waiting
            if job.jobid in specs
            and (
                job.jobid in self._also or job.duration_s not in (None, specs[job.jobid].duration_s)
            )
        ]
        self._read(old[:_MOST_READ])

    def _learn(self, jobs: Iterable[JobInfo], most: int | None = None) -> None:
        """Read the jobspecs of the first jobs that are not known yet."""
        self._read([job.jobid for job in jobs if not self._is_read(job)][:most])

    def _is_read(self, job: JobInfo) -> bool:
        known = self._known
        return any(job.jobid in some for some in (known.jobspecs, known.senseless, self._asked))

    def _read(self, jobids: Sequence[int]) -> None:
        if not jobids:
            return
        known = self._known
        self._asked.update(jobids)
        for jobid, document in self._instance.jobspecs(jobids).items():
            try:
                spec = parse_jobspec(document)
                check_burst_request(document)
                known.jobspecs[jobid] = spec
                known.senseless.pop(jobid, None)
                known.told.discard(jobid)
            except FlexError as error:
                known.jobspecs.pop(jobid, None)
                known.senseless[jobid] = one_line(error)
                if self._asks_for_nodes(document):
                    known.told.add(jobid)

    def _asks_for_nodes(self, document: object) -> bool:
        """Whether a jobspec that is refused as a whole says that the job may burst."""
        attributes = _below(document, "attributes")
        places = [_below(attributes, "system"), _below(attributes, "user")]
        return any(_below(one, "burstable") for one in places) or bool(
            self._queue and _below(places[0], "queue") == self._queue
        )


def _running(instance: Instance, jobs: Iterable[JobInfo], known: Known) -> tuple[Running, ...]:
    """Those of the jobs that run and have an R."""
    running = {job.jobid: job for job in jobs if job.state is JobState.RUN}
    new = instance.allocations([job for job in running if job not in known.running])
    for jobid, R in new.items():
        resources, start_s = parse_r(R), running[jobid].t_run or instance.now()
        known.running[jobid] = Running(jobid, resources, start_s, 0.0)
    found = [known.running[jobid] for jobid in running if jobid in known.running]
    return tuple(replace(one, end_s=_end_s(running[one.jobid], one)) for one in found)


def _end_s(job: JobInfo, running: Running) -> float:
    """Until when a job may run, which `flux update` changes; 0.0 for without limit."""
    end_s = job.expires_s or running.resources.expiration
    return end_s or (running.start_s + job.duration_s if job.duration_s else 0.0)


def _may_be_held(job: JobInfo) -> bool:
    return job.urgency == 0 and not job.memo.get(LET_GO)


def _priority(job: JobInfo) -> int:
    return job.priority if job.urgency else _DEFAULT_PRIORITY


def _below(table: object, key: str) -> object:
    return table.get(key) if isinstance(table, Mapping) else None
