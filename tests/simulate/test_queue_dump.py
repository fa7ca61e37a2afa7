"""A dump of a Flux queue: who runs where until when, who waits, and when that was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from flux_flex.model.graph import ResourceGraph, uniform_graph
from flux_flex.model.rv1 import parse_r
from flux_flex.simulate.queue_dump import RunningJob, read_dump
from flux_flex.simulate.submissions import Submission

GRAPH = uniform_graph(3, 4, gpus=2)
Dump = tuple[tuple[RunningJob, ...], tuple[Submission, ...], float]


def running(jobid: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": jobid, "name": "old", "username": "alice", "state": "RUN", "priority": 16,
        "t_submit": 900.0, "t_run": 950.0, "runtime": 50.0, "expiration": 5000.0,
        "annotations": {"sched": {"resource_summary": f"rank{jobid}/core[0-1]"}}, **more,
    }  # fmt: skip


def waiting(jobid: int, **more: Any) -> dict[str, Any]:
    return {"id": jobid, "state": "SCHED", "t_submit": 960.0, "username": "bob", **more}


def spec(name: str = "next") -> dict[str, Any]:
    core = {"type": "core", "count": 1}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    system = {"duration": 60, "job": {"name": name}}
    return {"version": 1, "resources": [slot], "attributes": {"system": system}}


def read(
    folder: Path,
    *entries: dict[str, Any],
    name: str = "next",
    now: float | None = None,
    graph: ResourceGraph = GRAPH,
) -> Dump:
    (folder / "jobs.json").write_text(json.dumps({"jobs": entries}))
    line = json.dumps({"id": "ƒ3", "jobspec": spec(name)}, ensure_ascii=False)
    (folder / "specs.jsonl").write_text(f"{line}\n\n", encoding="utf-8")
    return read_dump(folder / "jobs.json", folder / "specs.jsonl", graph, now)


def test_moment_is_a_running_jobs_start_and_runtime(tmp_path: Path) -> None:
    assert read(tmp_path, running())[2] == 1000.0


def test_moment_without_running_jobs_is_the_last_submission(tmp_path: Path) -> None:
    ended = {"id": 9, "state": "INACTIVE", "t_submit": 970.0}
    assert read(tmp_path, waiting(2), ended)[2] == 970.0


def test_moment_that_the_scenario_gives_goes_first(tmp_path: Path) -> None:
    (old,), _, moment = read(tmp_path, running(), now=1100.0)
    assert (moment, old.started_s, old.end_s) == (1100.0, -150.0, 3900.0)


def test_running_job_holds_what_the_scheduler_says_until_its_expiration(tmp_path: Path) -> None:
    (old,), waits, _ = read(tmp_path, running(2))
    assert waits == ()
    assert (old.submitted_s, old.started_s, old.end_s) == (-100.0, -50.0, 4000.0)
    assert (old.duration_s, old.name, old.user) == (4050.0, "old", "alice")
    (held,) = parse_r(old.R).ranks
    assert (held.rank, held.host, held.cores, held.gpus) == (2, "node2", (0, 1), ())


def test_running_job_without_a_summary_holds_its_ranks_whole(tmp_path: Path) -> None:
    (old,), _, _ = read(tmp_path, running(annotations={}, ranks="0,2"))
    held = parse_r(old.R).ranks
    assert [(one.rank, one.cores, one.gpus) for one in held] == [
        (0, (0, 1, 2, 3), (0, 1)),
        (2, (0, 1, 2, 3), (0, 1)),
    ]


def test_running_job_without_expiration_runs_for_ever(tmp_path: Path) -> None:
    (old,), _, _ = read(tmp_path, running(expiration=0.0))
    assert (old.end_s, old.duration_s) == (math.inf, 0.0)


def test_running_job_past_its_expiration_is_about_to_end(tmp_path: Path) -> None:
    (old,), _, _ = read(tmp_path, running(expiration=999.0))
    assert old.end_s == 1.0


def test_waiting_job_comes_with_its_jobspec_priority_and_estimate(tmp_path: Path) -> None:
    annotations = {"sched": {"t_estimate": 1500.0}}
    entry = waiting(2, priority=50_000, annotations=annotations)
    _, (job,), _ = read(tmp_path, running(), entry)
    assert (job.jobid, job.user, job.priority) == (2, "bob", 50_000)
    assert (job.submitted_s, job.flux_start_s, job.runtime_s) == (-40.0, 500.0, 60.0)
    assert job.jobspec.name == "next"


def test_jobs_that_may_not_start_yet_are_left_out(tmp_path: Path) -> None:
    held = waiting(2, priority=0)
    dependent = waiting(5, state="DEPEND")  # and so its jobspec is not missed
    ended = waiting(6, state="INACTIVE")
    _, waits, _ = read(tmp_path, running(), held, dependent, ended)
    assert waits == ()


def test_jobspec_is_found_by_number_or_f58_id(tmp_path: Path) -> None:
    entry = waiting(2)
    del entry["id"]
    _, (job,), _ = read(tmp_path, running(), {**entry, "jobid": "ƒ3"})
    assert job.jobid == 2


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x1d"])
def test_line_marks_within_a_name_end_no_line(tmp_path: Path, mark: str) -> None:
    _, (job,), _ = read(tmp_path, running(), waiting(2), name=f"a{mark}b")
    assert job.jobspec.name == f"a{mark}b"
