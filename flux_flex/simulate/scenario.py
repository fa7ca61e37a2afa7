"""Scenarios: the file that says what to simulate, read together with the files it names.

The YAML is validated by :class:`ScenarioFile`; :func:`load_scenario` then reads what it points to
and returns a :class:`Scenario` of plain objects. Paths are relative to the scenario's own file.
Every error names the file and the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flux_flex.burst.catalog import parse_catalog
from flux_flex.burst.config import BurstConfig, parse_burst_config
from flux_flex.burst.select import PendingJob
from flux_flex.errors import BadInput
from flux_flex.fields import Duration
from flux_flex.model.graph import ResourceGraph
from flux_flex.model.jgf import graph_of_r, parse_jgf
from flux_flex.model.network import NetworkTree
from flux_flex.model.placing import place_nodes
from flux_flex.model.rv1 import parse_r
from flux_flex.pydantic_errors import bad_input
from flux_flex.simulate.files import read_json, read_yaml
from flux_flex.simulate.queue_dump import RunningJob, read_dump
from flux_flex.simulate.submissions import Submission, read_submissions

_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

PathText = Annotated[str, Field(min_length=1, max_length=4096)]


class SystemFiles(BaseModel):
    """The system as it is: an R or a JGF file."""

    model_config = _CONFIG

    R: PathText | None = Field(default=None, description="an R file, as `flux resource R` prints")
    jgf: PathText | None = Field(default=None, description="a JGF file, instead of R")

    @model_validator(mode="after")
    def _just_one(self) -> SystemFiles:
        if (self.R is None) == (self.jgf is None):
            raise ValueError("give either R or jgf")
        return self


class TopologyFiles(BaseModel):
    """EC2's answers about the system's hosts, as `aws ec2 … --output json` prints them."""

    model_config = _CONFIG

    instances: PathText = Field(description="a describe-instances answer")
    topology: PathText = Field(description="a describe-instance-topology answer")


class QueueFiles(BaseModel):
    """The queue: a dump of a Flux queue, or a list of submissions."""

    model_config = _CONFIG

    jobs: PathText | None = Field(default=None, description="`flux jobs -a --json`")
    jobspecs: PathText | None = Field(default=None, description="one {id, jobspec} a line")
    submissions: PathText | None = Field(default=None, description="a YAML list of submissions")
    policy: Literal["fcfs", "easy", "conservative"] = Field(
        default="fcfs", description="the scheduler's queue policy: fcfs, easy or conservative"
    )
    depth: int = Field(
        default=32, ge=1, le=100_000, description="how far the scheduler looks past a blocked job"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> QueueFiles:
        dump = self.jobs is not None and self.jobspecs is not None
        half = (self.jobs is None) != (self.jobspecs is None)
        if half or dump == (self.submissions is not None):
            raise ValueError("give jobs and jobspecs, or else submissions")
        return self


def _loose_float(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class ScenarioFile(BaseModel):
    """The keys of a scenario file."""

    model_config = _CONFIG

    name: str = Field(default="", max_length=200, description="a title for the report")
    system: SystemFiles = Field(description="the system: R or jgf")
    topology: TopologyFiles | None = Field(default=None, description="EC2's network topology")
    queue: QueueFiles = Field(description="the queue: jobs and jobspecs, or submissions")
    match_policy: Literal[
        "first", "low", "high", "lonode", "hinode", "lonodex", "hinodex", "locality", "topology"
    ] = Field(default="lonode", description="which of several free nodes to prefer, as in fluxion")
    horizon: Duration | None = Field(
        default=None, description="when to stop, after the start; default: when all jobs ended"
    )
    now: Annotated[float, BeforeValidator(_loose_float)] | None = Field(
        default=None, description="the moment of a queue dump, in seconds since the epoch"
    )
    burst: dict[str, object] = Field(description="the burst configuration")


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a simulation starts from. Times are seconds after ``epoch_s``, the start."""

    name: str
    path: Path
    graph: ResourceGraph = field(repr=False)
    network: NetworkTree | None = field(repr=False)
    running: tuple[RunningJob, ...] = field(repr=False)
    submissions: tuple[Submission, ...] = field(repr=False)
    queue_policy: Literal["fcfs", "easy", "conservative"]
    queue_depth: int
    match_policy: str
    horizon_s: float | None
    epoch_s: float
    burst: BurstConfig = field(repr=False)

    def pending(self) -> list[PendingJob]:
        """The jobs that wait at the start."""
        return [item.pending() for item in self.submissions if item.submitted_s <= 0]


def load_scenario(path: Path) -> Scenario:
    """Read a scenario and all files that it names. Raises BadInput."""
    document = read_yaml(path)
    try:
        found = ScenarioFile.model_validate(document)
    except ValidationError as error:
        raise bad_input(error, ScenarioFile).at(str(path)) from None
    folder = path.parent
    burst = _burst_config(found.burst, folder, path)
    resources = _system(found.system, folder)
    network = _network(found.topology, folder, resources)
    graph = _with_network(found.system, folder, network, path) if network else resources
    running, submissions, epoch_s = _queue(found, folder, graph, path)
    return Scenario(
        name=found.name or path.stem,
        path=path,
        graph=graph,
        network=network,
        running=running,
        submissions=submissions,
        queue_policy=found.queue.policy,
        queue_depth=found.queue.depth,
        match_policy=found.match_policy,
        horizon_s=found.horizon,
        epoch_s=epoch_s,
        burst=burst,
    )


def _burst_config(value: dict[str, object], folder: Path, path: Path) -> BurstConfig:
    """The burst configuration, with the catalogs that its providers name put in their places."""
    providers = value.get("providers")
    if isinstance(providers, list):
        filled = [_with_catalog(p, folder, path, i) for i, p in enumerate(providers)]
        value = {**value, "providers": filled}
    try:
        return parse_burst_config(value)
    except BadInput as error:
        where = f"burst.{error.where}" if error.where else "burst"
        raise type(error)(error.what, f"{path}: {where}", error.remedy) from None


def _with_catalog(provider: object, folder: Path, path: Path, number: int) -> object:
    if not isinstance(provider, dict) or "catalog" not in provider:
        return provider
    place = f"{path}: burst.providers[{number}]"
    name = provider["catalog"]
    if not isinstance(name, str):
        raise BadInput("not a path", f"{place}.catalog", "name a catalog file")
    if "types" in provider:
        raise BadInput("both catalog and types", place, "give one of them")
    file = folder / name
    try:
        catalog = parse_catalog(read_yaml(file))
    except BadInput as error:
        raise error if error.where.startswith(str(file)) else error.at(str(file)) from None
    rest = {key: item for key, item in provider.items() if key != "catalog"}
    return {**rest, "types": list(catalog.types)}


def _system(files: SystemFiles, folder: Path) -> ResourceGraph:
    if files.jgf is not None:
        path = folder / files.jgf
        try:
            return parse_jgf(read_json(path))
        except BadInput as error:
            raise _in_file(error, path) from None
    return _graph_of_r(folder / (files.R or ""), None)


def _graph_of_r(path: Path, network: NetworkTree | None) -> ResourceGraph:
    try:
        graph = graph_of_r(parse_r(read_json(path)))
        return place_nodes(graph, network) if network else graph
    except BadInput as error:
        raise _in_file(error, path) from None


def _network(files: TopologyFiles | None, folder: Path, graph: ResourceGraph) -> NetworkTree | None:
    if files is None:
        return None
    from flux_flex.topology.mapping import read_places  # only scenarios with a topology need it

    instances, topology = (folder / name for name in (files.instances, files.topology))
    hosts = [graph.names[v] for v in graph.once(graph.of_type("node"))]
    answers = read_json(instances), read_json(topology)
    try:
        return NetworkTree.from_places(read_places(*answers, hosts).places)
    except BadInput as error:
        file = instances if error.where.startswith("describe-instances") else topology
        raise error.at(str(file)) from None


def _with_network(
    files: SystemFiles, folder: Path, network: NetworkTree, path: Path
) -> ResourceGraph:
    if files.R is None:
        what, remedy = "a JGF says itself where its nodes are", "use R, or leave topology out"
        raise BadInput(what, f"{path}: system.jgf", remedy)
    return _graph_of_r(folder / files.R, network)


def _queue(
    found: ScenarioFile, folder: Path, graph: ResourceGraph, path: Path
) -> tuple[tuple[RunningJob, ...], tuple[Submission, ...], float]:
    queue = found.queue
    if queue.submissions is not None:
        if found.now is not None:
            raise BadInput("only a queue dump has a moment", f"{path}: now", "leave it out")
        return (), read_submissions(folder / queue.submissions), 0.0
    jobs, jobspecs = folder / (queue.jobs or ""), folder / (queue.jobspecs or "")
    return read_dump(jobs, jobspecs, graph, found.now)


def _in_file(error: BadInput, path: Path) -> BadInput:
    """The error with the file in front, unless it is there already."""
    named = error.where.startswith(str(path))
    return error if named else BadInput(error.what, str(error.at(str(path)).where), error.remedy)
