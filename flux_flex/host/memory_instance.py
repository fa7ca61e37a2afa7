"""MemoryInstance: an Instance in memory, for simulations and tests.

It keeps the books and decides nothing: whoever drives it says when a job starts and where.

    >>> instance = MemoryInstance(R)
    >>> jobid = instance.submit(jobspec, user="alice")
    >>> instance.advance(10); instance.start(jobid, R); instance.advance(70)
    >>> instance.finish(jobid)
"""

from __future__ import annotations

import copy
import signal
import threading
from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flux_flex.errors import BadInput
from flux_flex.host.instance import Event, EventStream, JobInfo, JobState

DEFAULT_URGENCY = 16


@dataclass(slots=True)
class _Job:
    jobid: int
    jobspec: Mapping[str, object]
    user: str
    urgency: int
    priority: int
    t_submit: float
    state: JobState = JobState.SCHED
    t_run: float | None = None
    t_inactive: float | None = None
    allocation: Mapping[str, object] | None = None
    memo: dict[str, object] = field(default_factory=dict)
    eventlog: list[Event] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, float, int]:
        """Sorts the queue: the highest priority first, then by submission (RFC 30)."""
        return -self.priority, self.t_submit, self.jobid


class MemoryInstance:
    """Queue, R, KVS and eventlogs of one instance, with a clock that only :meth:`advance` moves."""

    def __init__(self, resources: Mapping[str, object], now: float = 0.0) -> None:
        self._resources = resources
        self._now = now
        self._jobs: dict[int, _Job] = {}
        self._queue: list[tuple[tuple[int, float, int], int]] = []
        self._kvs: dict[str, object] = {}
        self._drained: dict[int, str] = {}
        self._down: set[int] = set()
        self._last_jobid = 0
        # Eventlogs are followed from other threads, as those of Flux from other hosts.
        self._logs: dict[str, list[Event]] = {}
        self._grown = threading.Condition()

    # -- the Instance interface ----------------------------------------------------------------

    def now(self) -> float:
        return self._now

    def resources(self) -> Mapping[str, object]:
        return self._resources

    def jobs(self, state: JobState | None = None) -> Sequence[JobInfo]:
        return [_info(job) for job in self._jobs.values() if state in (None, job.state)]

    def jobspec(self, jobid: int) -> Mapping[str, object]:
        return self._job(jobid).jobspec

    def allocation(self, jobid: int) -> Mapping[str, object]:
        allocation = self._job(jobid).allocation
        if allocation is None:
            raise BadInput(f"job {jobid} has no R yet", "", "ask again once it runs")
        return allocation

    def jobspecs(self, jobids: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        return {job: self._jobs[job].jobspec for job in jobids if job in self._jobs}

    def allocations(self, jobids: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        jobs = [(jobid, self._jobs[jobid]) for jobid in jobids if jobid in self._jobs]
        return {jobid: job.allocation for jobid, job in jobs if job.allocation is not None}

    def eventlog(self, jobid: int) -> Sequence[Event]:
        return tuple(self._job(jobid).eventlog)

    def memo(self, jobid: int, fields: Mapping[str, object]) -> None:
        job = self._job(jobid)
        self._post(job, "memo", dict(fields))
        for key, value in fields.items():
            if value is None:
                job.memo.pop(key, None)
            else:
                job.memo[key] = value

    def kvs_get(self, key: str) -> object:
        if key not in self._kvs:
            raise BadInput(f"no key {key!r} in the KVS", "", "put it first")
        return copy.deepcopy(self._kvs[key])

    def kvs_put(self, key: str, value: object) -> None:
        words = key.split(".")
        if not all(words):
            raise BadInput(f"{key!r} is no key", "", "use words with single dots between them")
        for gone in [name for name in self._kvs if f"{name}.".startswith(f"{key}.")]:
            del self._kvs[gone]
        with self._grown:
            for gone in [name for name in self._logs if f"{name}.".startswith(f"{key}.")]:
                del self._logs[gone]
        if value is None:
            return
        for depth in range(1, len(words)):
            # What was a value becomes a directory.
            self._kvs.pop(".".join(words[:depth]), None)
        self._kvs[key] = copy.deepcopy(value)

    def post(self, key: str, name: str, context: Mapping[str, object]) -> None:
        with self._grown:
            event = Event(self._now, name, copy.deepcopy(dict(context)))
            self._logs.setdefault(key, []).append(event)
            self._grown.notify_all()

    def log(self, key: str) -> Sequence[Event]:
        return copy.deepcopy(self._logs.get(key, []))

    def watch(self, key: str) -> EventStream:
        return Following(self, key)

    def set_urgency(self, jobid: int, urgency: int) -> None:
        if not 0 <= urgency <= 31:
            raise BadInput(f"an urgency of {urgency}", f"job {jobid}", "use 0 to 31 (RFC 21)")
        job = self._job(jobid)
        if job.state is not JobState.SCHED:
            what = f"job {jobid} is in {job.state.value}"
            raise BadInput(what, "", "set that of a job that waits")
        self._queue.remove((job.order, jobid))
        job.urgency = job.priority = urgency
        insort(self._queue, (job.order, jobid))
        self._post(job, "urgency", {"urgency": urgency})

    def raise_exception(self, jobid: int, kind: str, note: str) -> None:
        job = self._job(jobid)
        self._post(job, "exception", {"type": kind, "severity": 0, "note": note})

    def drain(self, ranks: Collection[int], reason: str) -> None:
        self._drained.update(dict.fromkeys(ranks, reason))

    def undrain(self, ranks: Collection[int]) -> None:
        for rank in ranks:
            if rank not in self._drained:
                raise BadInput(f"rank {rank} is not drained", "", "undrain what is drained")
        for rank in ranks:
            del self._drained[rank]

    def down(self) -> Collection[int]:
        return frozenset(self._down)

    def drained(self) -> Mapping[int, str]:
        return dict(self._drained)

    def eventlog_at(self, key: str, start: int, timeout_s: float) -> Sequence[Event]:
        """The entries from ``start`` on of what :meth:`post` wrote, waiting for the first."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._logs.get(key, ())) > start, timeout_s)
            return self._logs.get(key, [])[start:]

    def all_keys(self) -> Sequence[str]:
        """Every key of the KVS."""
        return sorted({*self._kvs, *self._logs})

    # -- what makes things happen ----------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Move the clock. Raises BadInput backwards."""
        if now < self._now:
            raise BadInput(f"time runs backwards, from {self._now} to {now}", "", "advance only")
        self._now = now

    def lose(self, ranks: Iterable[int]) -> None:
        """The brokers of these ranks go down."""
        self._down.update(ranks)

    def join(self, ranks: Iterable[int]) -> None:
        """The brokers of these ranks come up."""
        self._down.difference_update(ranks)

    def submit(
        self,
        jobspec: Mapping[str, object],
        *,
        user: str = "user",
        urgency: int = DEFAULT_URGENCY,
        priority: int | None = None,
        jobid: int | None = None,
        t_submit: float | None = None,
    ) -> int:
        """Put a job into the queue; ``t_submit`` may lie in the past. Returns its id.

        The queue goes by ``priority``, which is the urgency unless a priority plugin says more.
        """
        if jobid is None:
            jobid = self._last_jobid + 1
        if jobid in self._jobs:
            raise BadInput(f"job {jobid} exists already", "", "give each job an id of its own")
        if not 0 <= urgency <= 31:
            raise BadInput(f"an urgency of {urgency}", f"job {jobid}", "use 0 to 31 (RFC 21)")
        self._last_jobid = max(self._last_jobid, jobid)
        when = self._now if t_submit is None else t_submit
        job = _Job(jobid, jobspec, user, urgency, urgency if priority is None else priority, when)
        self._jobs[jobid] = job
        insort(self._queue, (job.order, jobid))
        context: dict[str, object] = {"user": user, "urgency": urgency, "version": 1}
        job.eventlog.append(Event(when, "submit", context))
        job.eventlog.append(Event(when, "validate"))
        job.eventlog.append(Event(when, "depend"))
        job.eventlog.append(Event(when, "priority", {"priority": job.priority}))
        return jobid

    def queue(self) -> Iterator[int]:
        """Ids of the jobs that wait, in the order in which they are to be considered."""
        return (jobid for _, jobid in self._queue)

    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    def start(self, jobid: int, R: Mapping[str, object], *, t_run: float | None = None) -> None:
        """Run a waiting job on ``R`` (RFC 20)."""
        job = self._job(jobid)
        if job.state is not JobState.SCHED:
            raise BadInput(f"job {jobid} is in {job.state.value}", "", "start a job that waits")
        self._queue.remove((job.order, jobid))
        job.state, job.allocation = JobState.RUN, R
        job.t_run = self._now if t_run is None else t_run
        self._post(job, "alloc", {})
        self._post(job, "start", {})

    def finish(self, jobid: int, status: int = 0) -> None:
        """End a running job with a wait status."""
        job = self._job(jobid)
        if job.state is not JobState.RUN:
            raise BadInput(f"job {jobid} is in {job.state.value}", "", "finish a job that runs")
        self._end(job, status)

    def cancel(self, jobid: int, note: str = "") -> None:
        """Take a job that waits or runs out of the instance with a fatal exception."""
        job = self._job(jobid)
        if job.state is JobState.INACTIVE:
            raise BadInput(f"job {jobid} is inactive", "", "cancel a job that waits or runs")
        self._post(job, "exception", {"type": "cancel", "severity": 0, "note": note})
        if job.state is JobState.RUN:
            self._end(job, signal.SIGTERM)
            return
        self._queue.remove((job.order, jobid))
        job.state, job.t_inactive = JobState.INACTIVE, self._now
        self._post(job, "clean", {})

    def _end(self, job: _Job, status: int) -> None:
        job.state, job.t_inactive = JobState.INACTIVE, self._now
        self._post(job, "finish", {"status": int(status)})
        self._post(job, "release", {"ranks": "all", "final": True})
        self._post(job, "free", {})
        self._post(job, "clean", {})

    def _job(self, jobid: int) -> _Job:
        job = self._jobs.get(jobid)
        if job is None:
            raise BadInput(f"no job {jobid}", "", "use the id of a job of this instance")
        return job

    def _post(self, job: _Job, name: str, context: Mapping[str, object]) -> None:
        job.eventlog.append(Event(self._now, name, context))


class Following:
    """An EventStream over a log in memory."""

    def __init__(self, instance: MemoryInstance, key: str) -> None:
        self._instance = instance
        self._key = key
        self._seen = 0

    def next(self, timeout_s: float) -> Event | None:
        entries = self._instance.eventlog_at(self._key, self._seen, timeout_s)
        self._seen += bool(entries)
        return entries[0] if entries else None


def _info(job: _Job) -> JobInfo:
    return JobInfo(
        jobid=job.jobid,
        state=job.state,
        user=job.user,
        urgency=job.urgency,
        priority=job.priority,
        t_submit=job.t_submit,
        t_run=job.t_run,
        t_inactive=job.t_inactive,
        memo=dict(job.memo),
        duration_s=_duration(job.jobspec),
        expires_s=_expiration(job.allocation),
    )


def _duration(jobspec: Mapping[str, object]) -> float | None:
    found = _below(jobspec, "attributes", "system", "duration")
    return _seconds(found) if found is not None else 0.0


def _expiration(allocation: Mapping[str, object] | None) -> float | None:
    return _seconds(_below(allocation, "execution", "expiration")) or None


def _below(table: object, *keys: str) -> object:
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e300 else None
