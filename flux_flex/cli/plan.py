"""``flux-flex plan``: one decision for a queue as it was dumped, without the clock."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flux_flex.burst.decide import Snapshot, decide
from flux_flex.cli.console import console, print_json
from flux_flex.cli.manifests import check_manifests_possible, manifest_files
from flux_flex.cli.simulate import print_files, print_left_out
from flux_flex.cli.tables import bursts_table, decisions_table, left_out
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.simulate.document import plan_document
from flux_flex.simulate.files import write_all
from flux_flex.simulate.scenario import Scenario, load_scenario


def run(options: argparse.Namespace) -> int:
    """Run the command; 0, or a FlexError."""
    scenario = load_scenario(Path(options.scenario))
    if options.out:
        check_manifests_possible(scenario)
    plan = decide(snapshot(scenario))
    document = plan_document(scenario, plan)
    files = manifest_files(scenario, plan.orders, Path(options.out)) if options.out else []
    write_all(files)
    if options.json:
        print_json(document)
    else:
        _print(document, [path for path, _ in files])
    return 0


def snapshot(scenario: Scenario) -> Snapshot:
    """The moment at which a scenario starts, with its running jobs in place."""
    local = EmbeddedMatcher(scenario.graph, scenario.match_policy)
    for job in scenario.running:
        local.update(job.jobid, job.R, job.started_s, job.duration_s)
    return Snapshot(
        now_s=0.0,
        local=local,
        pending=scenario.pending(),
        rented=(),
        spent_usd=0.0,
        config=scenario.burst,
        queue_policy=scenario.queue_policy,
    )


def _print(document: dict[str, Any], files: list[Path]) -> None:
    out = console()
    decisions, bursts = document["decisions"], document["bursts"]
    if not decisions:
        out.print("no job in the queue may burst")
        return
    out.print(decisions_table(decisions, width=out.width, with_time=False))
    print_left_out(left_out(decisions))
    out.print()
    if bursts:
        names = {row["jobid"]: row["name"] for row in decisions}
        out.print(bursts_table(bursts, names))
    else:
        out.print("nothing to rent")
    print_files(files)
