"""How long it takes to read EC2's answers and to write what the formats need.

Each format is written in a process of its own: ``python -m benchmarks.topology_writing FORM
FOLDER``. Seconds are of processor time, so that what else runs on the machine counts little. Memory
is the process's high-water mark, less what it was after the imports.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.topology_answers import (
    INSTANCES,
    TOPOLOGY,
    TYPES,
    Cluster,
    child,
    peak_mib,
    write_answers,
)
from flux_flex.model.jgf import jgf_document
from flux_flex.topology.annotate import annotated_r, graph_of, resources_of, write
from flux_flex.topology.answers import Answers, read_answers
from flux_flex.topology.mapping import Network, network_of_instances

FORMS = ("jgf", "r", "slurm", "dot", "aws")
_BEST_OF = 5

_T = TypeVar("_T")


@dataclass
class Steps:
    """What was done, with seconds and the MiB that the process had grown by at the end of it."""

    before_mib: float = field(default_factory=peak_mib)
    taken: list[tuple[str, float, float]] = field(default_factory=list)

    def do(self, title: str, what: Callable[[], _T], times: int = 1) -> _T:
        best = float("inf")
        for _ in range(times):
            began = time.process_time()
            found = what()
            best = min(best, time.process_time() - began)
        self.taken.append((title, best, peak_mib() - self.before_mib))
        return found


@dataclass(frozen=True)
class Written:
    """What one process did: its steps, the size of the text, and its SHA-256."""

    steps: list[list[Any]]
    bytes: int
    sha256: str


def writing(cluster: Cluster, found: dict[str, object]) -> Iterator[str]:
    """A table of the steps, for one cluster."""
    with tempfile.TemporaryDirectory() as name:
        write_answers(cluster, Path(name))
        size = (Path(name) / TOPOLOGY).stat().st_size / 2**20
        written = {form: _in_child(form, name) for form in ("read", *FORMS)}
    unit = written["read"].steps[0][1]
    yield f"{cluster.words} of {cluster.cores} cores; topology answer of {size:.1f} MiB"
    yield f"{'':<34}{'seconds':>9} {'x json.load':>12} {'MiB at the peak':>16} {'MiB of text':>12}"
    for form, one in written.items():
        steps = one.steps
        if form != "read":
            # What only reads is the same in each process, and is shown once.
            steps = [step for step in steps if step[0].startswith(f"{form}:")]
            whole = sum(step[1] for step in steps)
            of_text = f"{one.bytes / 2**20:12.1f}"
            yield _row(f"write {form}", whole, unit, steps[-1][2]) + of_text
            if len(steps) == 1:
                continue
            steps = [[f"  {title}", seconds, mib] for title, seconds, mib in steps]
        for title, seconds, mib in steps:
            yield _row(title, seconds, unit, mib)
    graph, document, text = (step[1] for step in written["jgf"].steps[-3:])
    yield f"write jgf takes {(graph + document + text) / text:.1f} x its json.dumps"
    found[f"{cluster.cores} cores"] = {form: asdict(one) for form, one in written.items()}


def _row(title: str, seconds: float, unit: float, mib: float) -> str:
    return f"{title:<34}{seconds:>9.3f} {seconds / unit:>12,.1f} {mib:>16,.0f} "


def twice(folder: str, found: dict[str, object], forms: Sequence[str] = FORMS) -> Iterator[str]:
    """Whether the same files give the same bytes, in processes that hash texts differently."""
    for form in forms:
        digests = {_in_child(form, folder, seed).sha256 for seed in ("1", "2")}
        found[form] = sorted(digests)
        verdict = "identical" if len(digests) == 1 else "DIFFERENT"
        yield f"{form:<6} {verdict}  {' '.join(sorted(digests))}"


def _in_child(form: str, folder: str, seed: str = "random") -> Written:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    return Written(**child("benchmarks.topology_writing", form, folder, environment=environment))


# -- in the process ------------------------------------------------------------------------------


def _main(form: str, folder: Path) -> None:
    steps = Steps()
    answers, network = _read(steps, folder, _BEST_OF if form == "read" else 1)
    if form == "read":
        # Nearly all of an annotated R is the graph under its scheduling key; this is the rest.
        plain = resources_of(network).to_r()
        steps.do(
            "R with properties, no graph", lambda: annotated_r(plain, network, scheduling=False)
        )
    text = "" if form == "read" else _text(steps, form, answers, network)
    sizes = len(text), hashlib.sha256(text.encode()).hexdigest()
    print(json.dumps(asdict(Written([list(step) for step in steps.taken], *sizes))))


def _read(steps: Steps, folder: Path, times: int) -> tuple[Answers, Network]:
    def loaded(name: str) -> tuple[str, object]:
        with (folder / name).open(encoding="utf-8") as file:
            return name, json.load(file)

    if (folder / TOPOLOGY).exists():
        steps.do("json.load of the topology", lambda: loaded(TOPOLOGY), times)
    names = [name for name in (INSTANCES, TOPOLOGY, TYPES) if (folder / name).exists()]
    names = names or [path.name for path in sorted(folder.iterdir())]
    documents = steps.do("json.load of all answers", lambda: [*map(loaded, names)], times)
    answers = steps.do("read_answers", lambda: read_answers(documents), times)
    network = steps.do("network_of_instances", lambda: network_of_instances(answers), times)
    steps.do("NetworkTree", lambda: Network(network.places).tree, times)
    return answers, network


def _text(steps: Steps, form: str, answers: Answers, network: Network) -> str:
    """What ``write`` does, in steps for the two that are large."""

    def text(document: object) -> str:
        return json.dumps(document, separators=(",", ":")) + "\n"

    if form == "jgf":
        graph = steps.do("jgf: graph", lambda: graph_of(network))
        document = steps.do("jgf: document", lambda: jgf_document(graph))
        return steps.do("jgf: json.dumps", lambda: text(document))
    if form == "r":
        plain = steps.do("r: plain", lambda: resources_of(network).to_r())
        document = steps.do("r: annotated", lambda: annotated_r(plain, network))
        return steps.do("r: json.dumps", lambda: text(document))
    if form == "aws":
        return steps.do("aws:", lambda: text(answers.document()))
    return steps.do(f"{form}:", lambda: write(form, network))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
