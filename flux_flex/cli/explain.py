"""``flux-flex explain``: every alternative that was weighed for one job."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from flux_flex.cli.console import console, word
from flux_flex.cli.tables import alternatives_table, duration, wait
from flux_flex.errors import BadInput
from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.simulate.document import PLAN, SIMULATION, VERSION
from flux_flex.simulate.files import read_json


def run(options: argparse.Namespace) -> int:
    """Run the command; 0, or a FlexError."""
    path = Path(options.plan)
    document = _document(read_json(path), path)
    found = _find(document, options.jobid, path)
    try:
        shown = [_shown(decision) for decision in found]
    except (KeyError, TypeError, ValueError, AttributeError):
        place = f"{path}: decisions"
        raise BadInput("not a decision", place, "print the plan again") from None
    out = console()
    for number, lines in enumerate(shown):
        out.print(*([""] if number else []), *lines, sep="\n")
    return 0


def _document(value: object, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or value.get("format") not in (PLAN, SIMULATION):
        remedy = "give what `flux-flex plan --json` or `simulate --json` printed"
        raise BadInput("not a plan", str(path), remedy)
    if value.get("version") != VERSION:
        what = f"version {value.get('version')!r} of the format is not known"
        raise BadInput(what, f"{path}: version", f"this flux-flex reads version {VERSION}")
    return value


def _find(document: Mapping[str, Any], wanted: str, path: Path) -> list[Mapping[str, Any]]:
    """The decisions on a job, by id, else by name."""
    decisions = document.get("decisions")
    listed = decisions if isinstance(decisions, list) else []
    rows = [one for one in listed if isinstance(one, Mapping)]
    try:
        jobid = parse_jobid(wanted)
        found = [one for one in rows if one.get("id") == jobid]
    except BadInput:
        found = []
    found = found or [one for one in rows if one.get("name") == wanted]
    ids = {one["id"] for one in found if isinstance(one.get("id"), int)}
    if not found:
        jobs = ", ".join(sorted({str(one.get("jobid")) for one in rows})[:8])
        what = f"nothing was decided on job {wanted[:40]!r}"
        raise BadInput(what, str(path), f"it has decisions on: {jobs}" if jobs else "it is empty")
    if len(ids) > 1:
        some = ", ".join(f58(i) for i in sorted(ids)[:8])
        raise BadInput(f"{len(ids)} jobs are called {wanted!r}", str(path), f"use an id: {some}")
    return found


def _shown(decision: Mapping[str, Any]) -> list[RenderableType]:
    at_s, estimate_s = decision["at_s"], decision["flux_estimate_s"]
    when = f" after {duration(at_s)}" if at_s else ""
    here = wait(decision["start_here_s"], at_s)
    lines: list[RenderableType] = [
        word(f"{decision['name']} {decision['jobid']} of {decision['user']}"),
        word(f"{decision['verdict']}{when}: {decision['reason']}"),
        word(f"here: {here if here == 'never' else f'in {here}'}"),
    ]
    if estimate_s is not None:
        estimate = wait(estimate_s, at_s)
        lines.append(word(f"Flux's own estimate, with all that is ahead of it: in {estimate}"))
    if decision["alternatives"]:
        return [*lines, "", alternatives_table(decision)]
    return [*lines, word(f"nothing was weighed: {_why_not(decision)}")]


def _why_not(decision: Mapping[str, Any]) -> str:
    if not decision["burstable"]:
        return "the job may not burst"
    stays = decision["verdict"] == "stay"
    return "it starts here soon enough" if stays else str(decision["reason"])
