"""LiveMatcher: the questions of the Matcher, asked of a running instance.

    matcher = open_live(FluxInstance())
    matcher.allocate(jobspec).hosts       # where it would run now; nothing is allocated
    matcher.note                          # how the answers come about, where fluxion is not asked

Under fluxion the instance's own scheduler answers, by its own policy: the RPCs match (commands
without_allocating and without_allocating_future, since flux-sched 0.54), find, and feasibility.
Under any other scheduler the answer is worked out by the embedded matcher from one RPC of
flux-core, resource.sched-status: R without what is excluded, what is down or drained, and what
is allocated. Either way a question changes nothing in the instance, and jobs that wait in its
queue are not looked at. Times are seconds since the epoch.
"""

from __future__ import annotations

import errno
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.embedded.engine import read_jobspec
from flux_flex.match.holdings import vertices_of
from flux_flex.match.matcher import GraphLike, JobspecLike, Match
from flux_flex.model.graph import NODE, IntArray, ResourceGraph, graph_from_r
from flux_flex.model.jobspec import Jobspec
from flux_flex.model.quoting import json_kind, quoted
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r_at

FLUXION = "sched-fluxion-resource"
MATCH = f"{FLUXION}.match"
FIND = f"{FLUXION}.find"
# Registered by sched-fluxion-feasibility (ENODEV: never), and by sched-simple (EOVERFLOW: never).
FEASIBILITY = "feasibility.check"
STATUS = "resource.sched-status"
JOBS = "job-manager.list"
LOOKUP = "job-info.lookup"

NOW, FUTURE, EVER = "without_allocating", "without_allocating_future", "satisfiability"

# Which job a Match is for when the caller names none, as fluxion says it.
NO_JOB = -1
_SOMEBODY = -2

# Flags of job-info.lookup (decode R, and apply updates of its expiration), and the states of
# jobs that hold resources: RUN and CLEANUP (RFC 21).
_DECODED_AND_CURRENT = 1 | 2
_HOLDING = 16 | 32

# Fluxion's clock ticks whole seconds: a start that the caller calls now may be this much later.
_GRACE_S = 1.0


class Rpc(Protocol):
    """What is asked of a running instance; host/flux_instance.py has the real one."""

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]:
        """Ask a service. Raises a FlexError whose ``errno`` is what the service answered."""
        ...

    def modules(self) -> Collection[str]:
        """The names of the loaded modules."""
        ...

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


def open_live(instance: Rpc) -> LiveMatcher:
    """The matcher of a running instance: fluxion itself where it is loaded.

    Raises FlexError where the instance does not answer or its R makes no graph.
    """
    modules = instance.modules()
    if FLUXION in modules:
        return LiveFluxion(instance)
    return LiveFromR(instance, "sched-simple" if "sched-simple" in modules else "the scheduler")


@dataclass(frozen=True, slots=True)
class _Standing:
    """What resource.sched-status says: all that can be allocated, and what of it is not free."""

    all: ResourceSet
    down: ResourceSet
    allocated: ResourceSet


class LiveMatcher(ABC):
    """A Matcher of a running instance, from :func:`open_live`. Match.jobid is -1 for no job."""

    note: str = ""
    """How the answers come about, for people; empty where fluxion itself is asked."""

    def __init__(self, instance: Rpc) -> None:
        self._instance = instance
        self._known: ResourceSet | None = None
        self._standing()

    @property
    def graph(self) -> ResourceGraph:
        """The instance as it was when last asked; grows and shrinks with it."""
        return self._graph

    @abstractmethod
    def allocate(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        """What a job would get now; nothing is given. Raises Busy or Unsatisfiable."""

    @abstractmethod
    def reserve(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        """What a job would get now, or else the earliest time; nothing is held."""

    @abstractmethod
    def satisfiable(self, jobspec: JobspecLike) -> bool:
        """Whether the request could ever fit, were everything up and idle."""

    @abstractmethod
    def find(self, criteria: str) -> dict[str, Any]:
        """R of the resources that meet fluxion's criteria, such as ``status=up``."""

    def cancel(self, jobid: int) -> NoReturn:
        """Never: the instance keeps these books. Raises FlexError."""
        raise _not_ours(jobid, "use `flux cancel`, or play with a matcher of engine embedded")

    def update(
        self,
        jobid: int,
        R: Mapping[str, object],  # noqa: ARG002 - the Matcher's interface
        at: float,  # noqa: ARG002
        duration: float,  # noqa: ARG002
    ) -> NoReturn:
        """Never: the instance keeps these books. Raises FlexError."""
        raise _not_ours(jobid, "use `flux submit`, or play with a matcher of engine embedded")

    def partial_cancel(self, jobid: int, R: Mapping[str, object]) -> NoReturn:  # noqa: ARG002
        """Never: the instance keeps these books. Raises FlexError."""
        raise _not_ours(jobid, "use `flux cancel`, or play with a matcher of engine embedded")

    def info(self, jobid: int) -> NoReturn:
        """Never: the instance keeps these books. Raises FlexError."""
        raise _not_ours(jobid, "use `flux job info`, or find with jobid-alloc=")

    def mark_path(self, path: str, *, up: bool) -> NoReturn:  # noqa: ARG002
        """Never: the instance knows itself what is down. Raises FlexError."""
        raise _its_own(path, "use `flux resource drain`, or a matcher of engine embedded")

    def mark_ranks(self, ranks: str | Iterable[int], *, up: bool) -> NoReturn:  # noqa: ARG002
        """Never: the instance knows itself what is down. Raises FlexError."""
        raise _its_own("ranks", "use `flux resource drain`, or a matcher of engine embedded")

    def add_subgraph(self, subgraph: GraphLike, parent: str | None = None) -> NoReturn:  # noqa: ARG002
        """Never: the graph is the instance's. Raises FlexError."""
        raise _its_own("subgraph", "start brokers that join, or use engine embedded")

    def remove_subgraph(self, path: str) -> NoReturn:
        """Never: the graph is the instance's. Raises FlexError."""
        raise _its_own(path, "use `flux overlay disconnect`, or engine embedded")

    def _standing(self) -> _Standing:
        """Ask how things stand, and take a graph of it where R is another than before."""
        answer = self._instance.rpc(STATUS, nodeid=0)
        parts = [parse_r_at(answer.get(key), f"{STATUS}: {key}") for key in _Standing.__slots__]
        standing = _Standing(*parts)
        if standing.all != self._known:
            self._graph = graph_from_r(standing.all)
            self._known = standing.all
        return standing


class LiveFluxion(LiveMatcher):
    """Asks the fluxion of a running instance."""

    def allocate(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        spec = self._asked(jobspec, at)
        answer = self._ask(NOW, spec)
        if answer is None:
            self._refuse(spec, "the resources are in use")
        return self._match(answer, spec, jobid, reserved=False)

    def reserve(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        spec = self._asked(jobspec, at)
        answer = self._ask(NOW, spec)
        # Asked apart: the answer does not say what fluxion took for now, nor how it compares.
        later = answer is None
        if answer is None:
            answer = self._ask(FUTURE, spec)
        if answer is None:
            self._refuse(spec, "jobs without a time limit hold what is wanted, or it is down")
        return self._match(answer, spec, jobid, reserved=later)

    def satisfiable(self, jobspec: JobspecLike) -> bool:
        return self._feasible(read_jobspec(jobspec))

    def find(self, criteria: str) -> dict[str, Any]:
        try:
            answer = self._instance.rpc(FIND, {"criteria": criteria, "format": "rv1_nosched"})
        except FlexError as error:
            if _errno(error) != errno.EINVAL:
                raise
            remedy = "use terms such as status=up or sched-now=allocated, with and, or"
            raise BadInput("no criteria of fluxion", quoted(criteria), remedy) from error
        return parse_r_at(answer.get("R"), f"{FIND}: R").to_r()

    def _asked(self, jobspec: JobspecLike, at: float) -> Jobspec:
        now = self._instance.now()
        if not at <= now + _GRACE_S:
            what = f"a start at {at}, {at - now:.0f} s from now: a running fluxion answers for now"
            raise BadInput(what, "at", "leave it out, or ask a matcher of engine embedded")
        return read_jobspec(jobspec)

    def _ask(self, command: str, spec: Jobspec) -> Mapping[str, object] | None:
        """Fluxion's answer to a match command, None where it is busy."""
        payload = {"cmd": command, "jobid": NO_JOB, "jobspec": _text(spec)}
        try:
            return self._instance.rpc(MATCH, payload)
        except FlexError as error:
            number = _errno(error)
            if number == errno.EBUSY:
                return None
            if number == errno.ENODEV:
                raise _never() from error
            if number != errno.EINVAL:
                raise
            # The same errno for a jobspec that it cannot read, which feasibility explains, and
            # for a command that it does not know.
            if not self._feasible(spec):
                raise _never() from error
            what = f"this fluxion has no match command {command}"
            remedy = "update to flux-sched 0.54, or use engine fluxion or embedded"
            raise FlexError(what, MATCH, remedy) from error

    def _feasible(self, spec: Jobspec) -> bool:
        try:
            self._instance.rpc(FEASIBILITY, {"jobspec": json.loads(_text(spec))})
        except FlexError as error:
            number = _errno(error)
            if number in (errno.ENODEV, errno.EOVERFLOW):
                return False
            if number == errno.EINVAL:
                raise BadInput(error.what, "jobspec", "see RFC 14") from error
            if number != errno.ENOSYS:
                raise
            # Sites may leave the feasibility module out; the matcher knows as well.
            return self._feasible_by_match(spec)
        return True

    def _feasible_by_match(self, spec: Jobspec) -> bool:
        try:
            self._instance.rpc(MATCH, {"cmd": EVER, "jobid": NO_JOB, "jobspec": _text(spec)})
        except FlexError as error:
            if _errno(error) != errno.ENODEV:
                raise
            return False
        return True

    def _refuse(self, spec: Jobspec, busy: str) -> NoReturn:
        """Fluxion says busy for never too: the feasibility service tells them apart."""
        if not self._feasible(spec):
            raise _never()
        raise Busy(busy, remedy="ask again later")

    def _match(
        self, answer: Mapping[str, object], spec: Jobspec, jobid: int | None, *, reserved: bool
    ) -> Match:
        if answer.get("status") != "MATCHED":
            status = str(answer.get("status"))
            what = f"fluxion says {quoted(status)} to a question that must not allocate"
            raise FlexError(what, MATCH, "look for an allocation of no job in `flux resource list`")
        resources = _answered_r(answer.get("R"))
        start = answer.get("at")
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < 1 << 53:
            raise _senseless(start, "seconds", f"{MATCH}: at")
        duration_s = spec.duration_s
        if resources.expiration > start:
            # Where the instance itself ends earlier, fluxion shortens the job.
            duration_s = min(duration_s, resources.expiration - start)
        vertices = self._located(resources)
        picked = ((vertices, self.graph.size[vertices], True),)
        jobid = NO_JOB if jobid is None else jobid
        return Match(jobid, float(start), duration_s, reserved, picked, self.graph)

    def _located(self, resources: ResourceSet) -> IntArray:
        try:
            return vertices_of(self.graph, resources)
        except BadInput:
            # The instance may have grown since it was last asked.
            self._standing()
        try:
            return vertices_of(self.graph, resources)
        except BadInput as error:
            raise error.at(f"{MATCH}: R") from None


class LiveFromR(LiveMatcher):
    """Works the answers out, where the scheduler has no such RPCs."""

    def __init__(self, instance: Rpc, scheduler: str) -> None:
        self._empty: EmbeddedMatcher | None = None
        super().__init__(instance)
        self.note = (
            f"{scheduler} answers no such questions: worked out from R and what is allocated"
        )

    def allocate(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        spec = read_jobspec(jobspec)
        matcher = self._as_it_stands(with_ends=at > self._instance.now())
        return matcher.allocate(spec, NO_JOB if jobid is None else jobid, at)

    def reserve(self, jobspec: JobspecLike, jobid: int | None = None, at: float = 0) -> Match:
        spec = read_jobspec(jobspec)
        matcher = self._as_it_stands(with_ends=True)
        return matcher.reserve(spec, NO_JOB if jobid is None else jobid, at)

    def satisfiable(self, jobspec: JobspecLike) -> bool:
        spec = read_jobspec(jobspec)
        self._standing()
        return self._idle().satisfiable(spec)

    def find(self, criteria: str) -> dict[str, Any]:
        """R of what meets criteria; there are no reservations. Raises BadInput for bad ones."""
        # Who holds what takes a question a job, and only some criteria ask for it.
        return self._as_it_stands(with_ends="jobid" in criteria).find(criteria)

    def _idle(self) -> EmbeddedMatcher:
        """The embedded matcher of the graph, which every answer starts from."""
        if self._empty is None or self._empty.graph is not self.graph:
            self._empty = EmbeddedMatcher(self.graph)
        return self._empty

    def _as_it_stands(self, *, with_ends: bool) -> EmbeddedMatcher:
        """A matcher of our own in the state of the instance, to be asked once.

        ``with_ends`` looks up when each running job ends. What no job accounts for, such as
        nodes in housekeeping, is held without an end.
        """
        standing = self._standing()
        now = self._instance.now()
        matcher = self._idle().fork()
        matcher.advance(now)
        down = {item.rank for item in standing.down.ranks}
        nodes = self.graph.of_type(NODE).tolist()
        matcher.mark([v for v in nodes if int(self.graph.rank[v]) in down], up=False)
        held = _Held(standing)
        for jobid, resources in self._running() if with_ends else ():
            if part := held.take(resources):
                # A job beyond its end is about to go, and yet is in the way right now.
                left = max(resources.expiration - now, 1.0) if resources.expiration else 0.0
                matcher.update(jobid, part.to_r(), now, left)
        if rest := held.take(standing.allocated):
            matcher.update(_SOMEBODY, rest.to_r(), now, 0)
        return matcher

    def _running(self) -> Iterable[tuple[int, ResourceSet]]:
        """The jobs that hold resources, with their R."""
        jobs = self._instance.rpc(JOBS, {"max_entries": 0}).get("jobs")
        for jobid in _holding(jobs):
            payload = {"id": jobid, "keys": ["R"], "flags": _DECODED_AND_CURRENT}
            try:
                answer = self._instance.rpc(LOOKUP, payload)
            except FlexError as error:
                # It has just ended, or it is not ours to look at.
                if _errno(error) not in (errno.ENOENT, errno.EPERM):
                    raise
                continue
            yield jobid, parse_r_at(answer.get("R"), f"{LOOKUP}: R")


class _Held:
    """What is allocated and in the graph, given out once.

    A node may be lost or excluded while a job runs on it, and a job may have released a part of
    its R to another: neither must stand in the way of an answer.
    """

    def __init__(self, standing: _Standing) -> None:
        self._all = {(item.rank, item.host): item for item in standing.all.ranks}
        self._left = {
            (item.rank, item.host): (set(item.cores), set(item.gpus))
            for item in standing.allocated.ranks
        }

    def take(self, resources: ResourceSet) -> ResourceSet | None:
        """The part of ``resources`` that is held and was not taken yet; None for nothing."""
        ranks = []
        for item in resources.ranks:
            known = self._all.get((item.rank, item.host))
            left = self._left.get((item.rank, item.host))
            if known is None or left is None:
                continue
            cores, gpus = (
                ids & set(wanted) & set(there)
                for ids, wanted, there in zip(
                    left, (item.cores, item.gpus), (known.cores, known.gpus), strict=True
                )
            )
            left[0].difference_update(cores)
            left[1].difference_update(gpus)
            if cores or gpus:
                found = tuple(sorted(cores)), tuple(sorted(gpus))
                ranks.append(RankResources(item.rank, item.host, *found))
        return ResourceSet(tuple(ranks)) if ranks else None


def _text(spec: Jobspec) -> str:
    """The jobspec as JSON, which every Flux reads."""
    try:
        return json.dumps(spec.raw, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}", "jobspec", "use plain text and numbers") from None


def _answered_r(value: object) -> ResourceSet:
    place = f"{MATCH}: R"
    if not isinstance(value, str):
        raise _senseless(value, "R as text", place)
    if not value.strip():
        what = "the request matches, but fluxion does not say where: R lists cores and gpus only"
        raise FlexError(what, place, "ask for a core in each node, or use engine embedded")
    try:
        return parse_r_at(json.loads(value), place)
    except (ValueError, RecursionError):
        remedy = 'set match-format = "rv1_nosched" or "rv1" in [sched-fluxion-resource]'
        raise FlexError("the answer is no R (RFC 20)", place, remedy) from None


def _holding(jobs: object) -> list[int]:
    """The ids of the jobs in job-manager.list that hold resources."""
    if not isinstance(jobs, list):
        raise _senseless(jobs, "a list", f"{JOBS}: jobs")
    found = []
    for job in jobs:
        entry = job if isinstance(job, Mapping) else {}
        jobid, state = entry.get("id"), entry.get("state")
        if not isinstance(jobid, int) or not isinstance(state, int):
            raise _senseless(job, "a job with id and state", JOBS)
        if state & _HOLDING:
            found.append(jobid)
    return found


def _errno(error: FlexError) -> int:
    number = getattr(error, "errno", 0)
    return number if isinstance(number, int) else 0


def _never() -> Unsatisfiable:
    what = "no part of this instance could ever meet the request"
    return Unsatisfiable(what, remedy="ask for less, or for other resources or properties")


def _not_ours(jobid: int, remedy: str) -> FlexError:
    what = "a running instance gives and takes its resources itself"
    return FlexError(what, f"job {jobid}", remedy)


def _its_own(where: str, remedy: str) -> FlexError:
    return FlexError("a running instance says itself what it has", where, remedy)


def _senseless(value: object, wanted: str, place: str) -> FlexError:
    what = f"the answer has {json_kind(value)} where {wanted} should be"
    return FlexError(what, place, "flux-flex knows flux-core 0.88 and flux-sched 0.54")
