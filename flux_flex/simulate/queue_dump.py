"""A dump of a Flux queue: what `flux jobs -a --json` and `flux job info ID jobspec` said.

Jobs that ran at that moment hold their resources until their expiration; those that waited for
the scheduler are the queue. Jobs that are held (priority 0) or wait for another job (DEPEND) are
left out: nothing in the dump says when they may start. Nor does it say when it was made, but each
running job's start and runtime do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_flex.errors import BadInput
from flux_flex.model.graph import NODE, ResourceGraph
from flux_flex.model.idset import parse_idset
from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r, parse_resource_summary
from flux_flex.simulate.files import read_json, read_text
from flux_flex.simulate.submissions import Submission, runtime_of

_WAITING = frozenset({"PRIORITY", "SCHED"})
_RUNNING = frozenset({"RUN"})
DEFAULT_PRIORITY = 16


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that ran when the queue was dumped. Times are seconds after that moment, so
    ``started_s`` is not above 0; ``end_s`` is inf for a job without a time limit."""

    jobid: int
    name: str
    user: str
    submitted_s: float
    started_s: float
    end_s: float
    R: Mapping[str, object]

    @property
    def duration_s(self) -> float:
        """From start to end; 0 for a job without a time limit, as in a jobspec."""
        return 0.0 if math.isinf(self.end_s) else self.end_s - self.started_s


def read_dump(
    jobs_path: Path, jobspecs_path: Path, graph: ResourceGraph, now: float | None
) -> tuple[tuple[RunningJob, ...], tuple[Submission, ...], float]:
    """Read a dump: (running jobs, waiting jobs, the moment in seconds since the epoch).

    Raises BadInput, with file and job, for jobs without jobspec, unknown ranks and bad times.
    """
    entries = _jobs(read_json(jobs_path), jobs_path)
    jobspecs = _jobspecs(jobspecs_path)
    moment = _moment(entries, jobs_path) if now is None else now
    running, waiting = [], []
    for number, entry in enumerate(entries):
        place = f"{jobs_path}: jobs[{number}]"
        state = entry.get("state")
        if state in _RUNNING:
            running.append(_running(entry, place, graph, moment))
        elif state in _WAITING:
            job = _waiting(entry, place, jobspecs, jobspecs_path, moment)
            waiting += [job] if job.priority > 0 else []
    _check_disjoint(running, jobs_path)
    seen: set[int] = set()
    for jobid in [job.jobid for job in running] + [job.jobid for job in waiting]:
        if jobid in seen:
            raise BadInput(f"job {f58(jobid)} is listed twice", str(jobs_path), "list it once")
        seen.add(jobid)
    return tuple(running), tuple(waiting), moment


def _jobs(document: object, path: Path) -> list[Mapping[str, object]]:
    jobs = document.get("jobs") if isinstance(document, Mapping) else None
    if not isinstance(jobs, list) or not all(isinstance(job, Mapping) for job in jobs):
        raise BadInput("no list of jobs", f"{path}: jobs", "dump with `flux jobs -a --json`")
    return jobs


def _jobspecs(path: Path) -> dict[int, Jobspec]:
    found: dict[int, Jobspec] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            raise BadInput("not valid JSON", place, "write one JSON object a line") from None
        if not isinstance(item, Mapping) or not isinstance(item.get("id"), str):
            raise BadInput("no id", place, 'write {"id": "ƒ…", "jobspec": {…}}')
        try:
            found[parse_jobid(item["id"])] = parse_jobspec(item.get("jobspec"))
        except BadInput as error:
            raise error.at(f"{place} (job {item['id'][:20]})") from None
    return found


def _moment(entries: list[Mapping[str, object]], path: Path) -> float:
    """When the dump was made: a running job's start plus its runtime, else the last event."""
    moments = [
        _number(e, "t_run", f"{path}: jobs[{i}]") + _number(e, "runtime", f"{path}: jobs[{i}]")
        for i, e in enumerate(entries)
        if e.get("state") in _RUNNING and "runtime" in e
    ]
    if not moments:
        moments = [_number(e, "t_submit", f"{path}: jobs[{i}]") for i, e in enumerate(entries)]
    return max(moments, default=0.0)


def _running(
    entry: Mapping[str, object], place: str, graph: ResourceGraph, moment: float
) -> RunningJob:
    expiration = _number(entry, "expiration", place, default=0.0)
    end_s = expiration - moment if expiration else math.inf
    if end_s <= 0:
        # Past its limit, but still there: Flux is about to end it.
        end_s = 1.0
    return RunningJob(
        jobid=_jobid(entry, place),
        name=str(entry.get("name", "")),
        user=str(entry.get("username", entry.get("userid", ""))),
        submitted_s=_number(entry, "t_submit", place) - moment,
        started_s=min(0.0, _number(entry, "t_run", place) - moment),
        end_s=end_s,
        R=_allocation(entry, place, graph),
    )


def _waiting(
    entry: Mapping[str, object],
    place: str,
    jobspecs: Mapping[int, Jobspec],
    jobspecs_path: Path,
    moment: float,
) -> Submission:
    jobid = _jobid(entry, place)
    jobspec = jobspecs.get(jobid)
    if jobspec is None:
        what = f"no jobspec for job {f58(jobid)}"
        raise BadInput(
            what, str(jobspecs_path), f"add what `flux job info {f58(jobid)} jobspec` says"
        )
    return Submission(
        jobid=jobid,
        jobspec=jobspec,
        user=str(entry.get("username", entry.get("userid", ""))),
        priority=int(_number(entry, "priority", place, default=DEFAULT_PRIORITY)),
        submitted_s=min(0.0, _number(entry, "t_submit", place) - moment),
        runtime_s=runtime_of(jobspec, None),
        flux_start_s=_estimate(entry, place, moment),
    )


def _estimate(entry: Mapping[str, object], place: str, moment: float) -> float | None:
    """The scheduler's own estimate of the start, where it annotates one."""
    annotations = entry.get("annotations")
    sched = annotations.get("sched") if isinstance(annotations, Mapping) else None
    if not isinstance(sched, Mapping) or "t_estimate" not in sched:
        return None
    return _number(sched, "t_estimate", f"{place}.annotations.sched") - moment


def _allocation(
    entry: Mapping[str, object], place: str, graph: ResourceGraph
) -> Mapping[str, object]:
    """R of a running job, from the scheduler's summary, else whole nodes by rank."""
    nodes = {int(graph.rank[v]): int(v) for v in graph.once(graph.of_type(NODE))}
    ranks: list[RankResources] = []
    for rank, cores, gpus in _held(entry, place, nodes, graph):
        node = nodes.get(rank)
        if node is None:
            raise BadInput(f"rank {rank} is not in the system", place, "give the R of that moment")
        has = dict(zip(("core", "gpu"), _all_of(node, graph), strict=True))
        for kind, ids in (("core", cores), ("gpu", gpus)):
            missing = sorted(set(ids).difference(has[kind]))
            if missing:
                what = f"rank {rank} has no {kind}{missing[0]}"
                raise BadInput(what, place, "give the R of that moment")
        ranks.append(RankResources(rank, graph.names[node], cores, gpus))
    return ResourceSet(tuple(sorted(ranks, key=lambda item: item.rank))).to_r()


def _check_disjoint(running: list[RunningJob], path: Path) -> None:
    """Refuse two running jobs on one core or gpu, which no moment of a queue has."""
    holder: dict[tuple[int, str, int], int] = {}
    for job in running:
        for item in parse_r(job.R).ranks:
            for kind, ids in (("core", item.cores), ("gpu", item.gpus)):
                for number in ids:
                    other = holder.setdefault((item.rank, kind, number), job.jobid)
                    if other != job.jobid:
                        what = f"jobs {f58(other)} and {f58(job.jobid)} both hold {kind}{number}"
                        place = f"{path}: rank {item.rank}"
                        raise BadInput(what, place, "dump the queue again, in one call")


def _held(
    entry: Mapping[str, object], place: str, nodes: Mapping[int, int], graph: ResourceGraph
) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    annotations = entry.get("annotations")
    sched = annotations.get("sched") if isinstance(annotations, Mapping) else None
    summary = sched.get("resource_summary") if isinstance(sched, Mapping) else None
    try:
        if isinstance(summary, str):
            return [
                (rank, children.get("core", ()), children.get("gpu", ()))
                for ranks, children in parse_resource_summary(summary)
                for rank in ranks
            ]
        ids = parse_idset(str(entry.get("ranks", "")))
    except BadInput as error:
        raise error.at(place) from None
    if not ids:
        raise BadInput("a running job without ranks", place, "dump with `flux jobs -a --json`")
    return [(rank, *_all_of(nodes.get(rank), graph)) for rank in ids]


def _all_of(node: int | None, graph: ResourceGraph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if node is None:
        return (), ()
    inside = range(node, int(graph.end[node]))
    cores, gpus = (
        tuple(int(graph.local_id[v]) for v in inside if graph.type_name(v) == kind)
        for kind in ("core", "gpu")
    )
    return cores, gpus


def _jobid(entry: Mapping[str, object], place: str) -> int:
    value = entry.get("id", entry.get("jobid"))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
        return value
    try:
        return parse_jobid(str(value))
    except BadInput as error:
        raise error.at(f"{place}.id") from None


def _number(
    entry: Mapping[str, object], key: str, place: str, default: float | None = None
) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise BadInput("not a number", f"{place}.{key}", "dump with `flux jobs -a --json`")
    return float(value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
