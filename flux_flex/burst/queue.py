"""The queue of a running instance at one moment: what waits, what runs, which nodes are there.

    queue = read_queue(instance, known, depth=32)

Jobspecs and allocations do not change, so ``known`` keeps them between decisions, and a decision
costs one listing of jobs however long they have been waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from flux_flex.burst.select import PendingJob
from flux_flex.errors import FlexError
from flux_flex.host.instance import Instance, JobInfo, JobState
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.model.rv1 import ResourceSet, parse_r

# What `flux submit` gives, and what a job counts as that is only held until its nodes are up.
_DEFAULT_PRIORITY = 16


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs: its R, and until when it may, 0.0 for without limit."""

    jobid: int
    resources: ResourceSet
    start_s: float
    end_s: float


@dataclass
class Known:
    """Jobspecs and allocations by job, as long as the jobs are there."""

    jobspecs: dict[int, Jobspec | None] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)

    def keep(self, jobids: Collection[int]) -> None:
        """Forget all other jobs."""
        self.jobspecs = {job: spec for job, spec in self.jobspecs.items() if job in jobids}
        self.running = {job: one for job, one in self.running.items() if job in jobids}


@dataclass(frozen=True)
class Queue:
    """An instance at one moment. ``jobs`` are all that wait or run, by id; ``down`` are ranks whose
    brokers are not there, ``drained`` says why of others; ``held`` are jobs that the controller
    is to let go."""

    now_s: float
    resources: ResourceSet
    down: frozenset[int]
    drained: Mapping[int, str]
    jobs: Mapping[int, JobInfo]
    running: tuple[Running, ...]
    pending: tuple[PendingJob, ...]
    held: frozenset[int] = frozenset()

    @cached_property
    def _rank_of(self) -> Mapping[str, int]:
        return {target.host: target.rank for target in self.resources.ranks}

    def ranks_of(self, hosts: Iterable[str]) -> tuple[int, ...]:
        """The ranks of those of the hosts that R has, in their order."""
        return tuple(self._rank_of[host] for host in hosts if host in self._rank_of)


def read_queue(instance: Instance, known: Known, *, depth: int, queue: str = "") -> Queue:
    """The queue with the first ``depth`` jobs that wait, in the scheduler's order.

    Jobs of the queue of that name may burst without saying so. A job whose jobspec or R cannot be
    read any more, or makes no sense, is passed over. Raises FlexError where the instance does not
    answer.
    """
    listed = [*instance.jobs(JobState.SCHED), *instance.jobs(JobState.RUN)]
    jobs = {job.jobid: job for job in listed}
    known.keep(jobs.keys())
    waiting = sorted(
        (job for job in jobs.values() if job.state is JobState.SCHED),
        key=lambda job: (-_priority(job), job.t_submit, job.jobid),
    )
    pending: list[PendingJob] = []
    held: set[int] = set()
    for place, job in enumerate(waiting):
        if len(pending) >= depth:
            break
        if job.jobid not in known.jobspecs:
            _learn(instance, waiting[place : place + depth], known)
        spec = known.jobspecs[job.jobid]
        if spec is None or (job.urgency == 0 and not is_held_for_us(spec)):
            continue  # held by a person
        if job.urgency == 0:
            held.add(job.jobid)
        is_for_bursts = queue and spec.system.get("queue") == queue
        if is_for_bursts and "burstable" not in {**spec.system, **spec.user}:  # it may say no
            spec = replace(spec, user={**spec.user, "burstable": True})
        pending.append(
            PendingJob(job.jobid, spec, job.user, _priority(job), job.t_submit, job.t_estimate)
        )
    return Queue(
        now_s=instance.now(),
        resources=parse_r(instance.resources()),
        down=frozenset(instance.down()),
        drained=instance.drained(),
        jobs=jobs,
        running=_running(instance, jobs.values(), known),
        pending=tuple(pending),
        held=frozenset(held),
    )


def is_held_for_us(spec: Jobspec) -> bool:
    """Whether `flux submit --burst` submitted the job: held until it is decided about."""
    flex = spec.user.get("flex")
    return spec.burstable and isinstance(flex, Mapping) and flex.get("held") is True


def _running(instance: Instance, jobs: Iterable[JobInfo], known: Known) -> tuple[Running, ...]:
    """Those of the jobs that run and have an R."""
    running = {job.jobid: job for job in jobs if job.state is JobState.RUN}
    new = instance.allocations([job for job in running if job not in known.running])
    for jobid, R in new.items():
        job, resources = running[jobid], parse_r(R)
        start_s = job.t_run or instance.now()
        end_s = resources.expiration
        if not end_s:
            _learn(instance, [job], known)
            spec = known.jobspecs[jobid]
            limit_s = spec.duration_s if spec is not None else 0.0
            end_s = start_s + limit_s if limit_s else 0.0
        known.running[jobid] = Running(jobid, resources, start_s, end_s)
    return tuple(known.running[jobid] for jobid in running if jobid in known.running)


def _learn(instance: Instance, jobs: Iterable[JobInfo], known: Known) -> None:
    """Read the jobspecs of jobs that are not known yet; None for one that makes no sense."""
    new = [job.jobid for job in jobs if job.jobid not in known.jobspecs]
    found = instance.jobspecs(new)
    for jobid in new:
        try:
            known.jobspecs[jobid] = parse_jobspec(found[jobid]) if jobid in found else None
        except FlexError:
            known.jobspecs[jobid] = None


def _priority(job: JobInfo) -> int:
    return job.priority if job.urgency else _DEFAULT_PRIORITY
