"""``flux-flex doctor``: what this machine has for flux-flex, what it lacks, and what mends that."""

from __future__ import annotations

import argparse
import datetime
import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

from rich.console import Console

from flux_flex.cli.console import console, plain_table, print_json, word
from flux_flex.config import DEFAULT_PATH, PATH_VARIABLE, BurstSettings, FlexConfig, load_config
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.checks import BURST_CHECKS, BURSTING, CHECKS, USERNETES, Check, look
from flux_flex.host.checks.findings import Finding, Status
from flux_flex.host.checks.machine import Machine
from flux_flex.host.checks.survey import Settings, Survey
from flux_flex.model.quoting import one_line, printable

FORMAT = "flux-flex-doctor"
VERSION = 1

_STYLE: dict[Status, str] = {
    "found": "green", "missing": "bold red", "warning": "yellow", "unknown": "yellow",
    "skipped": "dim",
}  # fmt: skip
# What is shown with the checks for bursting: without it none of them can be believed, or mended.
_BURST_TOO = ("config", "flux-python")
_LONGEST = 300
_MOST_LINES = 30


def run(options: argparse.Namespace) -> int:
    """Run the command: 0 if nothing that is needed is missing, else 1. BadInput for --check."""
    config, finding = _read_config()
    checks = _chosen(_all_checks(config, finding, options.check), options.check)
    survey = Survey(Machine(), _settings(config))
    findings = ((check, _plain(look(check, survey))) for check in checks)
    if options.json:
        told = list(findings)
        print_json(_document(told))
    else:
        told = _print(findings)
    return int(any(finding.status == "missing" for _, finding in told))


def _read_config() -> tuple[FlexConfig, Finding]:
    """flex.toml, or the defaults where it cannot be used, and what is to be said about it."""
    named = os.environ.get(PATH_VARIABLE)
    try:
        config = load_config()
    except FlexError as error:
        what = f"{error.where}: {error.what}"
        return FlexConfig(), Finding("config", "missing", what, error.remedy)
    there = named or os.path.exists(DEFAULT_PATH)
    what = (named or DEFAULT_PATH) if there else f"no {DEFAULT_PATH}: the defaults are used"
    return config, Finding("config", "found", what)


def _settings(config: FlexConfig) -> Settings:
    from flux_flex.cli.doctor_burst import surveyed

    usernetes = config.usernetes
    file = os.path.abspath(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    return Settings(
        container_engine=usernetes.container_engine,
        compose=usernetes.compose,
        path=usernetes.path,
        total_s=usernetes.deadlines.total,
        teardown_s=usernetes.deadlines.teardown,
        burst=surveyed(config.burst, file),
    )


def _all_checks(config: FlexConfig, finding: Finding, names: Sequence[str]) -> list[Check]:
    """Those of the machine, with those that rooms beyond host/ are needed for.

    Where the site does not burst, the checks for that are there only if some are asked for by name.
    """
    return [
        Check("config", USERNETES, lambda _: finding),
        *(check for check in CHECKS if check.needed_for == USERNETES),
        Check("template", USERNETES, lambda _: _template(config.usernetes.template)),
        *(check for check in CHECKS if check.needed_for == BURSTING),
        *_burst_checks(config.burst, finding, names),
    ]


def _burst_checks(burst: BurstSettings, read: Finding, names: Sequence[str]) -> list[Check]:
    from flux_flex.cli.doctor_burst import catalog, config, is_configured

    today = datetime.datetime.now(datetime.timezone.utc).date()
    checks = [
        Check("burst", BURSTING, lambda survey: config(burst, survey.broker)),
        Check("burst-catalog", BURSTING, lambda _: catalog(burst, today)),
        *BURST_CHECKS,
    ]
    if is_configured(burst):
        return checks
    unusable = "flex.toml cannot be used: see config"
    why = unusable if read.status == "missing" else "flex.toml names no provider: burst.provider"
    return [replace(check, look=_skipped(check.name, why)) for check in checks] if names else []


def _skipped(name: str, why: str) -> Callable[[Survey], Finding]:
    return lambda _: Finding(name, "skipped", why)


def _template(template: str) -> Finding:
    """The Usernetes tree that a job's directory is made from."""
    from flux_flex.usernetes.tree import find_template, read_tree

    try:
        tree = read_tree(find_template(template))
    except FlexError as error:
        return Finding("template", "missing", f"{error.where}: {error.what}", error.remedy)
    return Finding("template", "found", str(tree.path))


def _chosen(checks: Sequence[Check], names: Sequence[str]) -> list[Check]:
    """The checks that are named, in their own order. ``engine`` also names ``engine-tools``,
    and ``burst`` what no burst does without."""
    known = [check.name for check in checks]
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
            raise BadInput(f"no check {name[:40]!r}", "--check", remedy)
    families = tuple(f"{name}-" for name in names)
    chosen = []
    for check in checks:
        if not names or check.name in names or check.name.startswith(families):
            chosen.append(check)
        elif "burst" in names and check.name in _BURST_TOO:
            chosen.append(replace(check, needed_for=BURSTING))
    return chosen


def _plain(finding: Finding) -> Finding:
    """Without what could steer a terminal, and short: it may quote whatever a command printed."""
    lines = [printable(line)[:_LONGEST] for line in finding.remedy.splitlines()[:_MOST_LINES]]
    return replace(finding, what=one_line(finding.what, _LONGEST), remedy="\n".join(lines))


def _document(told: Sequence[tuple[Check, Finding]]) -> dict[str, object]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "findings": [
            {**asdict(finding), "needed_for": check.needed_for} for check, finding in told
        ],
    }


def _print(findings: Iterator[tuple[Check, Finding]]) -> list[tuple[Check, Finding]]:
    """Print each finding when it is there: some commands take seconds to answer."""
    out = console()
    told: list[tuple[Check, Finding]] = []
    for check, finding in findings:
        if not told or told[-1][0].needed_for != check.needed_for:
            out.print("\n" if told else "", end="")
            out.print(word(f"for {check.needed_for}:", "bold"))
        _print_finding(out, finding)
        told.append((check, finding))
    out.print()
    out.print(word(_summary([finding for _, finding in told])))
    return told


def _print_finding(out: Console, finding: Finding) -> None:
    table = plain_table()
    table.show_header = False
    for width in (8, 18, None):
        table.add_column(width=width, overflow="fold")
    table.add_row(
        word(finding.status, _STYLE[finding.status]), word(finding.name), word(finding.what)
    )
    out.print(table)
    for line in finding.remedy.splitlines():
        # Whole, however long, so that it can be copied.
        out.print(word(f"{'':12}{line}", "cyan"), soft_wrap=True)


def _summary(findings: Sequence[Finding]) -> str:
    names = {status: [f.name for f in findings if f.status == status] for status in _STYLE}
    told = [f"{len(having)} {status}" for status, having in names.items() if having]
    missing = ", ".join(names["missing"]) or "nothing that is needed"
    return f"{', '.join(told)}. Missing: {missing}."
