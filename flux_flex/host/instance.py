"""Instance: what flux-flex needs of a Flux instance, as a small interface.

Small on purpose: it can be read in a minute, and whoever implements it in memory has a whole
instance for tests. Times are seconds since the epoch, or on the clock of a simulation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class JobState(str, Enum):
    """The states of RFC 21 that a job passes through, as `flux jobs` spells them."""

    SCHED = "SCHED"
    RUN = "RUN"
    INACTIVE = "INACTIVE"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of an eventlog (RFC 18)."""

    timestamp: float
    name: str
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as a listing shows it. Times that have not come yet are None."""

    jobid: int
    state: JobState
    user: str
    urgency: int
    priority: int
    t_submit: float
    t_run: float | None = None
    t_inactive: float | None = None
    memo: Mapping[str, object] = field(default_factory=dict)
    t_estimate: float | None = None
    """When the scheduler says that it will start, where it says so."""
    duration_s: float | None = None
    """The time limit as it is now, 0.0 for none; None where the listing does not have it."""
    expires_s: float | None = None
    """Until when a job that runs may, as it is now; None for without an end, or not known."""


class EventStream(Protocol):
    """The entries of one eventlog, from its beginning, as they come."""

    def next(self, timeout_s: float) -> Event | None:
        """The next entry, or None if none came in time. Raises FlexError if the log ended."""
        ...


class Instance(Protocol):
    """What the rest of flux-flex asks of an instance. Unknown jobs and keys raise BadInput."""

    def now(self) -> float:
        """The time of this instance, in seconds."""
        ...

    def resources(self) -> Mapping[str, object]:
        """R (RFC 20) of the whole instance."""
        ...

    def jobs(self, state: JobState | None = None) -> Sequence[JobInfo]:
        """All jobs, or those in one state, in the order of submission."""
        ...

    def jobspec(self, jobid: int) -> Mapping[str, object]:
        """The jobspec as submitted."""
        ...

    def allocation(self, jobid: int) -> Mapping[str, object]:
        """R of a job that runs or ran."""
        ...

    def jobspecs(self, jobids: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        """The jobspecs of many jobs by id, without those of jobs that are not there any more."""
        ...

    def allocations(self, jobids: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        """R of many jobs by id, without those that have none, or none that makes sense."""
        ...

    def eventlog(self, jobid: int) -> Sequence[Event]:
        """The job's primary eventlog (RFC 21)."""
        ...

    def memo(self, jobid: int, fields: Mapping[str, object]) -> None:
        """Show ``fields`` with the job, as `flux job memo` does; None removes one."""
        ...

    def kvs_get(self, key: str) -> object:
        """A value of the instance's key-value store."""
        ...

    def kvs_put(self, key: str, value: object) -> None:
        """Set a key; None removes it with all below it."""
        ...

    def post(self, key: str, name: str, context: Mapping[str, object]) -> None:
        """Append an event to the eventlog (RFC 18) under a key, which is made if need be."""
        ...

    def log(self, key: str) -> Sequence[Event]:
        """The entries of the eventlog under a key so far; none where there is no such key."""
        ...

    def watch(self, key: str) -> EventStream:
        """Follow an eventlog, which need not be there yet."""
        ...

    def set_urgency(self, jobid: int, urgency: int) -> None:
        """Set the urgency (RFC 21) of a job that waits: 0 holds it, 16 is Flux's default."""
        ...

    def raise_exception(self, jobid: int, kind: str, note: str) -> None:
        """Post a fatal exception (RFC 21) on a job: it does not start, or it ends."""
        ...

    def drain(self, ranks: Collection[int], reason: str) -> None:
        """Keep new jobs from ranks. Those that are drained already get the new reason."""
        ...

    def undrain(self, ranks: Collection[int]) -> None:
        """Let jobs onto ranks again. Raises BadInput where one of them is not drained."""
        ...

    def down(self) -> Collection[int]:
        """Ranks whose brokers are not there."""
        ...

    def drained(self) -> Mapping[int, str]:
        """Drained ranks with their reasons."""
        ...
