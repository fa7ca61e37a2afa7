"""What runs where: the state of each host and the jobs on it, as a running instance tells it.

    standing = standing_of(FluxInstance())
    standing.states["compute0"]          # "allocated"
    standing.jobs["compute0"]            # (1234, 1240), in the order of submission
    placed_job(network, standing, "ƒvYw4PR").span

Offline only the tree is known, and the standing is EMPTY.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.instance import JobInfo, JobState
from flux_flex.model.idset import parse_idset
from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.model.network import NetworkTree, Span
from flux_flex.model.quoting import json_kind
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r_at

HostState = Literal["free", "partly", "allocated", "drained", "down"]
STATES: tuple[HostState, ...] = get_args(HostState)

_SCHED_STATUS = "resource.sched-status"
_STATUS = "resource.status"


@dataclass(frozen=True)
class Standing:
    """What runs where.

    states  of each host of which one is known: ``free``; ``partly`` or ``allocated``, where some
            or all of its cores and gpus are in use; ``drained``, also while jobs still end on
            it; or ``down``
    jobs    ids of the jobs that run on a host, in the order of submission
    """

    states: Mapping[str, HostState] = field(default_factory=dict)
    jobs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def hosts_of(self, jobid: int) -> tuple[str, ...]:
        """The hosts that a job runs on; none where it does not run."""
        return tuple(host for host, jobids in self.jobs.items() if jobid in jobids)


EMPTY = Standing()


@dataclass(frozen=True)
class PlacedJob:
    """A running job on the network.

    hosts       those in the tree, in its order
    elsewhere   those of which no place is known
    span        of ``hosts``
    """

    jobid: int
    hosts: tuple[str, ...]
    elsewhere: tuple[str, ...]
    span: Span


class Asked(Protocol):
    """What is asked of a running instance; host/flux_instance.py has the real one."""

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]:
        """Ask a service. Raises FlexError."""
        ...

    def jobs(self, state: JobState | None = None) -> Sequence[JobInfo]:
        """The jobs in a state, in the order of submission."""
        ...

    def allocation(self, jobid: int) -> Mapping[str, object]:
        """R of a job. Raises BadInput where there is none."""
        ...


def placed_job(tree: NetworkTree, standing: Standing, text: str) -> PlacedJob:
    """Where a job is that somebody named by its id, in any spelling.

    Raises BadInput for what is no id, and for a job that runs on no host.
    """
    try:
        jobid = parse_jobid(text)
    except BadInput as error:
        raise error.at("--job") from None
    hosts = standing.hosts_of(jobid)
    if not hosts:
        what = f"no job {f58(jobid)} runs on any host"
        remedy = "use an id of `flux jobs --filter=running`"
        if standing == EMPTY:
            remedy = "ask inside the instance that it runs in: without one only places are known"
        raise BadInput(what, "--job", remedy)
    its = set(hosts)
    placed = tuple(host for host in tree.hosts if host in its)
    elsewhere = tuple(host for host in hosts if host not in tree)
    return PlacedJob(jobid, placed, elsewhere, tree.span(placed))


def standing_of(instance: Asked) -> Standing:
    """What runs where in a running instance, by one question for each running job and two more.

    Jobs that end meanwhile, and those of others where only the owner may look at them, are left
    out. Hosts that are excluded from scheduling have no state. Raises FlexError where the
    instance does not answer, or with something else.
    """
    answer = instance.rpc(_SCHED_STATUS, nodeid=0)
    known, down, allocated = (
        parse_r_at(answer.get(key), f"{_SCHED_STATUS}: {key}")
        for key in ("all", "down", "allocated")
    )
    drained = _drained(instance.rpc(_STATUS, nodeid=0).get("drain"))
    states = _states(known, {item.rank for item in down.ranks}, drained, allocated)
    return Standing(states, _jobs(instance))


def _states(
    known: ResourceSet, down: set[int], drained: set[int], allocated: ResourceSet
) -> dict[str, HostState]:
    """The state of each host, of which several ranks may be on one."""
    by_host: dict[str, list[RankResources]] = {}
    for item in known.ranks:
        by_host.setdefault(item.host, []).append(item)
    used = {item.rank: len(item.cores) + len(item.gpus) for item in allocated.ranks}
    states: dict[str, HostState] = {}
    for host, items in by_host.items():
        # Where only some of its ranks are out of use, the others say what the host is.
        usable = [item for item in items if item.rank not in down and item.rank not in drained]
        if not usable:
            states[host] = "drained" if any(item.rank in drained for item in items) else "down"
            continue
        n_used = sum(used.get(item.rank, 0) for item in usable)
        n_all = sum(len(item.cores) + len(item.gpus) for item in usable)
        states[host] = "free" if not n_used else "partly" if n_used < n_all else "allocated"
    return states


def _jobs(instance: Asked) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for job in instance.jobs(JobState.RUN):
        place = f"job {f58(job.jobid)}: R"
        try:
            resources = instance.allocation(job.jobid)
        except BadInput:
            continue  # it has just ended
        except FlexError as error:
            if getattr(error, "errno", 0) != errno.EPERM:
                raise
            continue  # it is not ours to look at
        for host in _hosts(parse_r_at(resources, place)):
            found.setdefault(host, []).append(job.jobid)
    return {host: tuple(jobids) for host, jobids in found.items()}


def _hosts(resources: ResourceSet) -> Iterable[str]:
    return dict.fromkeys(item.host for item in resources.ranks)


def _drained(value: object) -> set[int]:
    place = f"{_STATUS}: drain"
    if not isinstance(value, Mapping):
        what = f"the answer has {json_kind(value)} where an object should be"
        raise FlexError(what, place, "flux-flex knows flux-core 0.88; tell us of a newer one")
    try:
        return {rank for ranks in value for rank in parse_idset(ranks)}
    except BadInput as error:
        raise error.at(place) from None
