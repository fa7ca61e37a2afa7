"""``flux-flex simulate``: replay a scenario without and with bursting, and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from flux_flex.burst.manifests import manifests
from flux_flex.cli.console import console
from flux_flex.cli.tables import decisions_table, left_out, summary_table
from flux_flex.simulate.document import Document, simulation_document, to_json
from flux_flex.simulate.files import write_text
from flux_flex.simulate.replay import Outcome, replay
from flux_flex.simulate.scenario import Scenario, load_scenario
from flux_flex.simulate.timeline import timeline
from flux_flex.simulate.timeline_svg import timeline_svg


def run(options: argparse.Namespace) -> int:
    """Run the command; 0, or a FlexError."""
    scenario = load_scenario(Path(options.scenario))
    plain, burst = _replays(scenario)
    document = simulation_document(scenario, plain, burst)
    # Everything is made before anything is written, so that an error leaves no half of it.
    files = _files(options, scenario, plain, burst)
    for path, text in files:
        write_text(path, text)
    if options.json:
        sys.stdout.write(to_json(document))
    else:
        _print(document, files)
    return 0


def _replays(scenario: Scenario) -> tuple[Outcome, Outcome]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:

        def one(title: str, bursting: bool) -> Outcome:
            task = progress.add_task(title, total=len(scenario.submissions))
            told = _thinned(lambda done: progress.update(task, completed=done))
            return replay(scenario, bursting=bursting, progress=told)

        return one("without bursting", False), one("with bursting", True)


def _thinned(tell: Callable[[int], object]) -> Callable[[int, int], None]:
    """At most some hundred calls for a whole replay: telling costs more than a match."""

    def told(done: int, total: int) -> None:
        if done == total or done % max(1, total // 200) == 0:
            tell(done)

    return told


def _files(
    options: argparse.Namespace, scenario: Scenario, plain: Outcome, burst: Outcome
) -> list[tuple[Path, str]]:
    files = []
    if options.out:
        nodes = len(scenario.graph.of_type("node"))
        orders = [record.order for record in burst.bursts]
        made = manifests(orders, scenario.burst, nodes) if orders else []
        files += [(Path(options.out) / name, text) for name, text in made]
    if options.svg:
        files.append((Path(options.svg), timeline_svg(timeline(scenario, plain, burst))))
    return files


def _print(document: Document, files: list[tuple[Path, str]]) -> None:
    report: dict[str, Any] = document
    out = console()
    system = report["scenario"]
    out.print(
        f"{system['name']}: {system['nodes']} nodes, {system['cores']} cores, "
        f"{system['running']} jobs running, {system['submissions']} in the queue\n",
        markup=False,
    )
    decisions = report["decisions"]
    if decisions:
        timed = any(row["at_s"] > 0 for row in decisions)
        out.print(decisions_table(decisions, with_time=timed))
    else:
        out.print("no job in the queue may burst")
    print_left_out(left_out(decisions))
    out.print()
    out.print(summary_table(report["summary"]))
    print_files([path for path, _ in files])


def print_left_out(text: str) -> None:
    """Say what a table did not show, if anything."""
    if text:
        console().print(text)


def print_files(paths: list[Path]) -> None:
    """Say where the files are: folders with how many, and single ones."""
    if not paths:
        return
    out = console()
    out.print()
    folders: dict[Path, int] = {}
    for path in paths:
        if path.suffix == ".yaml":
            folders[path.parent] = folders.get(path.parent, 0) + 1
        else:
            out.print(f"timeline   {path}", markup=False)
    for folder, count in folders.items():
        kind = "manifest " if count == 1 else "manifests"
        out.print(f"{kind}  {folder}/burst-*.yaml ({count})", markup=False)
