"""Submissions: jobs that come in one by one, from a YAML list.

- at: 0                  # seconds or a duration after the start
  user: alice
  count: 3               # as many copies
  runtime: 20m           # what it really takes; default: its whole duration
  urgency: 16
  jobspec: {version: 1, resources: [...], ...}     # or the path of a jobspec file
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flux_flex.burst.select import PendingJob
from flux_flex.errors import BadInput
from flux_flex.fields import Duration
from flux_flex.model.jobspec import Jobspec, load_jobspec, parse_jobspec
from flux_flex.pydantic_errors import bad_input
from flux_flex.simulate.files import read_text, read_yaml

MAX_SUBMISSIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to come. ``runtime_s`` is what it takes, at most its duration (inf: no end);
    ``priority`` is the scheduler's, the highest first."""

    jobid: int
    jobspec: Jobspec
    user: str
    priority: int
    submitted_s: float
    runtime_s: float
    flux_start_s: float | None = None

    def pending(self) -> PendingJob:
        """The job as a decision sees it, which does not know how long it will really take."""
        return PendingJob(
            self.jobid,
            self.jobspec,
            self.user,
            self.priority,
            self.submitted_s,
            self.flux_start_s,
        )


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    at: Duration = Field(default=0.0, description="when, after the start, like 10m")
    user: str = Field(
        default="user", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="who submits it"
    )
    count: int = Field(default=1, ge=1, le=MAX_SUBMISSIONS, description="how many copies")
    runtime: Duration | None = Field(default=None, description="what it really takes, like 20m")
    urgency: int = Field(
        default=16, ge=1, le=31, description="1 to 31, as in RFC 21; 0 would hold the job for ever"
    )
    jobspec: dict[str, object] | str = Field(description="a jobspec, or the path of one")


class _Document(BaseModel):
    """Only to find the nearest known key for a misspelt one."""

    submissions: list[_Entry]


def read_submissions(path: Path) -> tuple[Submission, ...]:
    """Read a list of submissions, numbered from 1. Raises BadInput."""
    document = read_yaml(path)
    if not isinstance(document, list) or not document:
        raise BadInput("not a list of submissions", str(path), "list entries with a jobspec each")
    try:
        entries = _Document.model_validate({"submissions": document}).submissions
    except ValidationError as error:
        raise bad_input(error, _Document).at(str(path)) from None
    if sum(entry.count for entry in entries) > MAX_SUBMISSIONS:
        raise BadInput("too many jobs", str(path), f"list at most {MAX_SUBMISSIONS}")
    found: list[Submission] = []
    for number, entry in enumerate(entries):
        jobspec = _jobspec(entry, path, f"submissions[{number}].jobspec")
        found += [
            Submission(
                jobid=len(found) + copy,
                jobspec=jobspec,
                user=entry.user,
                priority=entry.urgency,
                submitted_s=entry.at,
                runtime_s=runtime_of(jobspec, entry.runtime),
            )
            for copy in range(1, entry.count + 1)
        ]
    return tuple(found)


def runtime_of(jobspec: Jobspec, said_s: float | None) -> float:
    """How long a job runs: as said, at most its duration; inf for neither."""
    limit = jobspec.duration_s or math.inf
    return limit if said_s is None else min(said_s, limit)


def _jobspec(entry: _Entry, path: Path, place: str) -> Jobspec:
    if isinstance(entry.jobspec, Mapping):
        try:
            return parse_jobspec(entry.jobspec)
        except BadInput as error:
            raise error.at(f"{path}: {place}") from None
    file = path.parent / entry.jobspec
    text = read_text(file)
    try:
        return load_jobspec(text)
    except BadInput as error:
        raise error.at(str(file)) from None
