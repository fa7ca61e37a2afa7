"""What a decision sees of a running instance: its queue, what runs, and what is rented.

    queue = read_queue(instance, known, depth=32)
    snapshot = snapshot_of(queue, book, slots, types, config)

Jobspecs and allocations do not change, so ``known`` keeps them between decisions, and a decision
costs one listing of jobs however long they have been waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig
from flux_flex.burst.ledger import Book, Entry, State
from flux_flex.burst.market import rented_matcher
from flux_flex.burst.plan import QueuePolicy, Rented, Snapshot
from flux_flex.burst.select import PendingJob
from flux_flex.burst.slots import Slot, rooms_of
from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.host.instance import Instance, JobInfo, JobState
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.graph import graph_from_r
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

# A job that should be over by now, and is not: how much longer it is taken to need.
_OVERDUE_S = 60.0
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
        if queue and spec.system.get("queue") == queue and not spec.burstable:
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


def snapshot_of(
    queue: Queue,
    book: Book,
    slots: Sequence[Slot],
    types: Mapping[str, NodeType],
    config: BurstConfig,
    queue_policy: QueuePolicy = "fcfs",
    closed: Mapping[tuple[str, str], str] | None = None,
) -> Snapshot:
    """All that a decision knows, from the instance and the ledger."""
    placeholders = {rank for slot in slots for rank in slot.ranks}
    taken = {job for entry in book.bursts.values() for job in entry.jobs}
    return Snapshot(
        now_s=queue.now_s,
        local=_local(queue, placeholders),
        pending=[job for job in queue.pending if job.jobid not in taken],
        rented=[
            rented
            for entry in book.bursts.values()
            if (rented := _rented(entry, queue, slots, types)) is not None
        ],
        spent_usd=book.spent_usd(queue.now_s - config.limits.period, queue.now_s),
        config=config,
        queue_policy=queue_policy,
        rooms=rooms_of(slots, book),
        closed=closed or {},
        flux_tells=True,
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


# -- what is rented ------------------------------------------------------------------------------


def _rented(
    entry: Entry,
    queue: Queue,
    slots: Sequence[Slot],
    types: Mapping[str, NodeType],
) -> Rented | None:
    """A burst with the jobs that run on it or wait for it; None where it takes no more jobs."""
    node_type = types.get(entry.rental.type)
    if node_type is None:
        return None
    nodes = entry.rental.nodes
    matcher = rented_matcher(node_type, nodes)
    matcher.advance(queue.now_s)
    slot = next((one for one in slots if one.name == entry.burst), None)
    number = {rank: i for i, rank in enumerate(slot.ranks[:nodes])} if slot else {}
    busy_until_s = queue.now_s
    for job in queue.running:
        there = tuple(
            RankResources(number[one.rank], f"{node_type.name}-{number[one.rank]}", *held)
            for one in job.resources.ranks
            if one.rank in number and (held := _within(one, node_type))
        )
        _hold(matcher, job, there, queue.now_s)
        busy_until_s = max(busy_until_s, job.end_s if there else 0.0)
    ready_s = queue.now_s if entry.state is State.UP else max(entry.boot_by_s, queue.now_s)
    by_id = {job.jobid: job for job in queue.pending}
    for jobid in entry.jobs:
        if jobid in by_id:
            try:
                match = matcher.reserve(by_id[jobid].jobspec, jobid, ready_s)
            except (Busy, Unsatisfiable):
                continue
            busy_until_s = max(busy_until_s, match.at + by_id[jobid].jobspec.duration_s)
    leaving = entry.state in (State.LEAVING, State.RELEASING)
    if leaving:  # it is paid for until it is gone, and takes no job
        ready_s = float("inf")
    return Rented(
        burst=entry.burst,
        provider=entry.provider,
        node_type=node_type,
        nodes=nodes,
        requested_s=entry.intended_s,
        ready_s=ready_s,
        busy_until_s=busy_until_s,
        user=entry.user,
        matcher=matcher,
    )


def _within(
    target: RankResources, node_type: NodeType
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What a job holds of a rented node, where the catalogue says that the node has it."""
    cores = tuple(i for i in target.cores if i < node_type.cores)
    gpus = tuple(i for i in target.gpus if i < node_type.gpus)
    return (cores, gpus) if cores or gpus else None
