"""``flux-flex explain``: every alternative that was weighed for one job."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    out = console()
    for i, decision in enumerate(found):
        if i:
            out.print()
        try:
            _print(decision)
        except (KeyError, TypeError, ValueError, AttributeError):
            place = f"{path}: decisions"
            raise BadInput("not a decision", place, "print the plan again") from None
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
    rows = [one for one in decisions if isinstance(one, Mapping)] if decisions else []
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


def _print(decision: Mapping[str, Any]) -> None:
    out = console()
    out.print(word(f"{decision['name']} {decision['jobid']} of {decision['user']}"))
    when = f" after {duration(decision['at_s'])}" if decision["at_s"] else ""
    out.print(word(f"{decision['verdict']}{when}: {decision['reason']}"))
    start_here = decision["start_here_s"]
    out.print(
        word(f"here: {'never' if start_here is None else 'in ' + wait(decision, 'start_here_s')}")
    )
    if decision["flux_estimate_s"] is not None:
        estimate = duration(max(0.0, decision["flux_estimate_s"] - decision["at_s"]))
        out.print(word(f"Flux's own estimate, with all that is ahead of it: in {estimate}"))
    if decision["alternatives"]:
        out.print()
        out.print(alternatives_table(decision))
    else:
        out.print("nothing was weighed: " + _why_not(decision), markup=False)


def _why_not(decision: Mapping[str, Any]) -> str:
    if decision["verdict"] == "stay" and not decision["reason"].startswith("not burstable"):
        return "it starts here soon enough"
    return "the job may not burst" if "burstable" in decision["reason"] else decision["reason"]
