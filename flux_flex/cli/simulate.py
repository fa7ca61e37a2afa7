"""``flux-flex simulate``: replay a scenario without and with bursting, and report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from flux_flex.cli.console import console, print_json, word
from flux_flex.cli.manifests import check_manifests_possible, manifest_files
from flux_flex.cli.tables import decisions_table, left_out, summary_table
from flux_flex.simulate.document import Document, simulation_document
from flux_flex.simulate.files import write_all
from flux_flex.simulate.replay import Outcome, replay
from flux_flex.simulate.scenario import Scenario, load_scenario
from flux_flex.simulate.timeline import timeline
from flux_flex.simulate.timeline_svg import timeline_svg


def run(options: argparse.Namespace) -> int:
    """Run the command; 0, or a FlexError."""
    scenario = load_scenario(Path(options.scenario))
    if options.out:
        check_manifests_possible(scenario)
    plain, burst = _replays(scenario)
    document = simulation_document(scenario, plain, burst)
    # Everything is made before anything is written, so that an error leaves no half of it.
    files = []
    if options.out:
        orders = [record.order for record in burst.bursts]
        files += manifest_files(scenario, orders, Path(options.out))
    if options.svg:
        files.append((Path(options.svg), timeline_svg(timeline(scenario, plain, burst))))
    write_all(files)
    if options.json:
        print_json(document)
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


def _print(document: Document, files: list[tuple[Path, str]]) -> None:
    report: dict[str, Any] = document
    out = console()
    system = report["scenario"]
    out.print(
        word(
            f"{system['name']}: {system['nodes']} nodes, {system['cores']} cores, "
            f"{system['running']} jobs running, {system['submissions']} in the queue"
        )
    )
    out.print()
    decisions = [row for row in report["decisions"] if row["burstable"]]
    others = {row["id"] for row in report["decisions"]} - {row["id"] for row in decisions}
    if decisions:
        timed = any(row["at_s"] > 0 for row in decisions)
        out.print(decisions_table(decisions, width=out.width, with_time=timed))
    else:
        out.print("no job was weighed: none may burst, or each started at once")
    if others:
        out.print(f"{len(others)} more were weighed but may not burst; --json has them too")
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
            out.print(word(f"timeline   {path}"), soft_wrap=True)
    for folder, count in folders.items():
        kind = "manifest " if count == 1 else "manifests"
        out.print(word(f"{kind}  {folder}/burst-*.yaml ({count})"), soft_wrap=True)
