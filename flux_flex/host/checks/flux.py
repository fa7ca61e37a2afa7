"""doctor's checks of Flux: itself, its Python bindings, and the configuration around a prolog."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from flux_flex.errors import BadInput
from flux_flex.host.checks.child import ask_child
from flux_flex.host.checks.findings import Finding, Problem, judged, judged_lines
from flux_flex.host.checks.survey import WITHOUT_CWD, Survey
from flux_flex.host.checks.tables import at, listed
from flux_flex.model.duration import format_duration, parse_duration

SCRIPT = "50-flux-flex"
PERILOG = "perilog.so"

_SIDES = ("prolog", "epilog")
_VERSION = re.compile(r"core:\s*(([0-9]+)\.([0-9]+)[0-9A-Za-z.+-]*)")
# The first version that runs the scripts of prolog.d.
_FIRST_WITH_FOLDERS = (0, 78)
_ELSEWHERE = ("/opt/flux/bin", "/usr/local/bin", "/usr/bin")
_DOCS = "https://flux-framework.readthedocs.io/projects/flux-core/en/latest/guide/build.html"
_BINDINGS_S = 15.0

# Of perilog.so, in seconds (flux-config-job-manager(5)).
_PROLOG_TIMEOUT_S = 1800.0
_KILL_TIMEOUT_S = 60.0


def flux(survey: Survey) -> Finding:
    """The flux command and its version."""
    machine = survey.machine
    place = machine.which("flux")
    if place is None:
        folder = next((f for f in _ELSEWHERE if machine.which("flux", f)), "")
        remedy = f"export PATH={folder}:$PATH" if folder else f"install flux-core: {_DOCS}"
        what = f"not on PATH, but in {folder}" if folder else "there is no flux on PATH"
        return Finding("flux", "missing", what, remedy)
    answer = survey.flux_version
    found = _VERSION.search(answer.out)
    if not answer.ok or found is None:
        why = answer.why if not answer.ok else "it tells no version"
        return Finding("flux", "missing", f"{place} does not work: {why}", f"{place} version")
    if (int(found[2]), int(found[3])) < _FIRST_WITH_FOLDERS:
        what = f"{found[1]} runs no scripts in prolog.d"
        return Finding("flux", "warning", what, f"update flux-core to 0.78 or later: {_DOCS}")
    return Finding("flux", "found", f"{found[1]}, {place}")


def flux_instance(survey: Survey) -> Finding:
    """Whether a broker answers: the one of FLUX_URI, or that of the system."""
    machine = survey.machine
    if machine.which("flux") is None:
        return Finding("flux-instance", "skipped", "there is no flux on PATH")
    uri = machine.environ.get("FLUX_URI", "")
    whose = uri or "the system's"
    answer = machine.ask(["flux", "getattr", "size"])
    if answer.ok:
        size = answer.out.strip()
        nodes = "1 broker" if size == "1" else f"{size} brokers"
        return Finding("flux-instance", "found", f"{whose}, {nodes}")
    remedy = (
        "flux overlay status"
        if uri
        else f"{survey.as_root('systemctl start flux')}    # or work in a `flux start`"
    )
    return Finding("flux-instance", "warning", f"{whose}: {answer.why}", remedy)


def flux_python(survey: Survey) -> Finding:
    """Flux's Python bindings, in this Python or where Flux keeps them."""
    name = "flux-python"
    machine = survey.machine
    if machine.which("flux") is None:
        return Finding(name, "skipped", "there is no flux on PATH")
    version = _VERSION.search(survey.flux_version.out)
    wanted = version[1] if version else ""
    install = f"{sys.executable} -m pip install flux-python=={wanted or 'VERSION'}"
    said = ask_child(machine, "bindings", _BINDINGS_S)
    if "error" in said:
        what = f"this Python cannot import them: {said['error']}"
        remedy = str(said.get("remedy") or install).replace("==VERSION", f"=={wanted or 'VERSION'}")
        if machine.ask(["flux", "python", "-c", f"{WITHOUT_CWD} import flux.job"]).ok:
            return Finding(name, "warning", f"only `flux python` has them; {what}", remedy)
        return Finding(name, "missing", what, remedy)
    for of, told in (("the wheel", said.get("wheel")), ("the library", said.get("library"))):
        if told and wanted and told != wanted:
            what = f"{of} is of version {told}, flux of {wanted}"
            return Finding(name, "missing", what, install)
    return Finding(name, "found", f"{said.get('library')}, {said.get('file')}")


def perilog(survey: Survey) -> Finding:
    """The broker runs a prolog and an epilog on each node of a job."""
    broker = survey.broker
    if broker.trouble:
        return judged("perilog", [broker.trouble], "")
    unloaded = [*_plugin_problems(survey)]
    problems = [*unloaded, *_imp_problems(survey)]
    for side in _SIDES:
        problems += _side_problems(survey, side)
    then = f"flux config reload{f' && flux jobtap load {PERILOG}' if unloaded else ''}"
    place = f"# in {broker.file} on every node, then: {then}"
    finding = judged_lines("perilog", problems, "prolog and epilog on each rank", place)
    return replace(finding, what=f"{broker.place}: {finding.what}")


def _plugin_problems(survey: Survey) -> Iterator[Problem]:
    configured = PERILOG in _plugin_names(survey)
    if survey.broker.live:
        told = survey.machine.ask(["flux", "jobtap", "list"])
        # Who is not the owner is not told; then the configuration is believed.
        if told.ok and PERILOG in {PurePosixPath(line).name for line in told.out.split()}:
            return
        if told.ok and configured:
            yield Problem(f"{PERILOG} is not loaded", f"flux jobtap load {PERILOG}")
            return
    if not configured:
        plugins = f'plugins = [{{ load = "{PERILOG}" }}]'
        if listed(at(survey.broker.table, "job-manager", "plugins")):
            plugins = f'# add {{ load = "{PERILOG}" }} to the plugins that are there'
        yield Problem(f"{PERILOG} is not loaded", f"[job-manager]\n{plugins}")


def _plugin_names(survey: Survey) -> set[str]:
    directives = listed(at(survey.broker.table, "job-manager", "plugins"))
    return {PurePosixPath(str(at(directive, "load"))).name for directive in directives}


def _imp_problems(survey: Survey) -> Iterator[Problem]:
    """The IMP is there, and the system instance does not know."""
    if not _imp(survey) and _imp_beside(survey):
        lines = f'[exec]\nimp = "{survey.libexec_dir}/flux-imp"'
        yield Problem("exec.imp is not set", lines)


def _imp(survey: Survey) -> str:
    """The IMP that the broker uses, or nothing."""
    return str(at(survey.broker.table, "exec", "imp") or "")


def _imp_beside(survey: Survey) -> bool:
    """Whether the files of a system instance are looked at, and Flux has an IMP."""
    return not survey.broker.live and survey.machine.exists(f"{survey.libexec_dir}/flux-imp")


def _side_problems(survey: Survey, side: str) -> Iterator[Problem]:
    table = at(survey.broker.table, "job-manager", side)
    lines = []
    if at(table, "per-rank") is not True:
        lines.append("per-rank = true")
    command = at(table, "command")
    if command is None and not _imp(survey) and not _imp_beside(survey):
        lines.append(f'command = ["{survey.system_dir}/{side}.d/{SCRIPT}"]')
    if lines:
        keys = " and ".join(line.partition(" ")[0] for line in lines)
        what = f"no {side}" if table is None else f"{side} without {keys}"
        yield Problem(what, "\n".join([f"[job-manager.{side}]", *lines]))
    own = _own_command(survey, side)
    if own and not any("flux-flex" in word or f"flux-run-{side}" in word for word in own):
        what = f"the {side} is {own[0]}: does it run flux-flex?"
        yield Problem(what, f"# have {own[0]} run {survey.system_dir}/{side}.d/{SCRIPT}", "warning")


def _own_command(survey: Survey, side: str) -> list[str]:
    """The command of a prolog or epilog that does not go through the IMP."""
    words = [str(word) for word in listed(at(survey.broker.table, "job-manager", side, "command"))]
    through_imp = len(words) > 1 and PurePosixPath(words[0]).name == "flux-imp"
    return [] if through_imp else words


def _runs_as_root(survey: Survey) -> bool:
    """Whether the IMP starts prolog or epilog: then they run as root, not as the owner."""
    own = all(_own_command(survey, side) for side in _SIDES)
    return bool(_imp(survey)) and not own


def perilog_owner(survey: Survey) -> Finding:
    """Root's prolog talks to the broker as its owner would."""
    name, broker = "perilog-owner", survey.broker
    if broker.trouble:
        return Finding(name, "skipped", broker.trouble.what)
    if not _runs_as_root(survey):
        return Finding(name, "skipped", "no IMP is configured: prologs run as the owner")
    if at(broker.table, "access", "allow-root-owner") is True:
        return Finding(name, "found", "access.allow-root-owner is true")
    what = "prologs run as root, which the broker takes for a guest"
    problem = Problem(what, "[access]\nallow-root-owner = true")
    return judged_lines(name, [problem], "", f"# in {broker.file}, then: flux config reload")


def perilog_timeouts(survey: Survey) -> Finding:
    """Flux's patience with prolog and epilog is longer than flux-flex's own deadlines."""
    name, broker = "perilog-timeouts", survey.broker
    if broker.trouble:
        return Finding(name, "skipped", broker.trouble.what)
    tables = {side: at(broker.table, "job-manager", side) for side in _SIDES}
    if not any(isinstance(table, dict) for table in tables.values()):
        return Finding(name, "skipped", "no prolog and no epilog are configured")
    problems: list[Problem] = []
    for side, table in tables.items():
        if not isinstance(table, dict):
            continue
        needed = {
            "timeout": ("total" if side == "prolog" else "teardown", _timeout_s(table, side)),
            "kill-timeout": ("teardown", _kill_timeout_s(table)),
        }
        for key, (deadline, allowed_s) in needed.items():
            problems += _too_short(survey, side, key, deadline, allowed_s)
    settings = survey.settings
    total, teardown = format_duration(settings.total_s), format_duration(settings.teardown_s)
    fine = f"longer than deadlines.total ({total}) and deadlines.teardown ({teardown})"
    place = f"# in {broker.file}, or where it is set now, then: flux config reload"
    return judged_lines(name, problems, fine, place)


def _too_short(
    survey: Survey, side: str, key: str, deadline: str, allowed_s: float | None
) -> Iterator[Problem]:
    needs_s = survey.settings.total_s if deadline == "total" else survey.settings.teardown_s
    if allowed_s is not None and allowed_s > needs_s:
        return
    raised_s = int(needs_s * 1.5) + 1
    value = f'"{raised_s}s"' if key == "timeout" else f"{raised_s}.0"
    remedy = f"[job-manager.{side}]\n{key} = {value}"
    if allowed_s is None:
        yield Problem(f"{side}: {key} makes no sense", remedy)
        return
    allowed, needs = format_duration(allowed_s), format_duration(needs_s)
    yield Problem(f"{side}: {key} {allowed} is not above deadlines.{deadline} {needs}", remedy)


def _timeout_s(table: dict[str, Any], side: str) -> float | None:
    """Infinity for no limit, None for what is no duration."""
    value = table.get("timeout", _PROLOG_TIMEOUT_S if side == "prolog" else 0)
    if isinstance(value, str) and value.strip().lower() in ("inf", "infinity"):
        return float("inf")
    try:
        return parse_duration(value) or float("inf")
    except BadInput:
        return None


def _kill_timeout_s(table: dict[str, Any]) -> float | None:
    value = table.get("kill-timeout", _KILL_TIMEOUT_S)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if value > 0 else _KILL_TIMEOUT_S


def scripts(survey: Survey) -> Finding:
    """flux-flex's scripts are among those that Flux runs, and nothing switches them off."""
    machine, folder = survey.machine, survey.system_dir
    own = [_own_command(survey, side) for side in _SIDES]
    if all(own):
        return Finding("scripts", "skipped", f"the broker runs {own[0][0]}, not {folder}/prolog.d")
    problems: list[Problem] = []
    for side in _SIDES:
        problems += _script_problems(survey, side)
        alone = f"{folder}/{side}"
        if machine.which(side, folder):
            remedy = survey.as_root(f"mv {alone} {alone}.d/00-site")
            problems.append(Problem(f"{alone} switches {alone}.d off", remedy))
    return judged("scripts", problems, f"{folder}/prolog.d/{SCRIPT} and epilog.d/{SCRIPT}")


def _script_problems(survey: Survey, side: str) -> Iterator[Problem]:
    place = f"{survey.system_dir}/{side}.d/{SCRIPT}"
    try:
        mode = survey.machine.path(place).stat().st_mode
    except FileNotFoundError:
        remedy = survey.as_root(f"scripts/install-scripts.sh {survey.system_dir}")
        yield Problem(f"no {place}", remedy)
        return
    if not mode & 0o111:
        yield Problem(f"{place} is not executable", survey.as_root(f"chmod 755 {place}"))
    elif mode & 0o022:
        yield Problem(f"others can write {place}", survey.as_root(f"chmod go-w {place}"))


def imp(survey: Survey) -> Finding:
    """The IMP may run prolog and epilog, and tells them which job they are for."""
    program = _imp(survey) or f"{survey.libexec_dir}/flux-imp"
    if not survey.machine.exists(program):
        return Finding("imp", "skipped", "there is no IMP on this machine")
    folder = f"{survey.conf_dir}/imp/conf.d"
    table, trouble = survey.read_tables(folder)
    if trouble:
        return judged("imp", [trouble], "")
    problems = []
    for side in _SIDES:
        allowed = at(table, "run", side)
        if not isinstance(allowed, dict):
            lines = [
                f"[run.{side}]",
                'allowed-users = ["flux"]',
                'allowed-environment = ["FLUX_*"]',
                f'path = "{survey.libexec_dir}/cmd/flux-run-{side}"',
            ]
            problems.append(Problem(f"the IMP may not run the {side}", "\n".join(lines)))
        elif "FLUX_*" not in listed(allowed.get("allowed-environment")):
            line = f'[run.{side}]\nallowed-environment = ["FLUX_*"]'
            problems.append(Problem(f"the {side} is not told which job it is for", line))
    fine = f"{folder}: it may run prolog and epilog"
    return judged_lines("imp", problems, fine, f"# in {folder}/imp.toml on every node")


def validator(survey: Survey) -> Finding:
    """Jobs with wrong attributes are refused when they are submitted."""
    usual = f"{survey.libexec_dir}/flux-flex-validator.py"
    plugins = [str(p) for p in listed(at(survey.broker.table, "ingest", "validator", "plugins"))]
    if survey.broker.trouble:
        return Finding("validator", "skipped", survey.broker.trouble.what)
    ours = next((plugin for plugin in plugins if "flux-flex" in plugin), "")
    if not ours:
        lines = [
            f"# in {survey.broker.file}, or where it is set now, then: flux config reload",
            "[ingest.validator]",
            f"plugins = {json.dumps([*(plugins or ['jobspec']), usual])}",
        ]
        what = "wrong attributes of a job are not refused when it is submitted"
        return Finding("validator", "warning", what, "\n".join(lines))
    if ours.startswith("/") and not survey.machine.exists(ours):
        remedy = survey.as_root(f"scripts/install-scripts.sh {survey.system_dir}")
        return Finding("validator", "missing", f"no {ours}: Flux refuses every job", remedy)
    if at(survey.broker.table, "ingest", "validator", "disable") is True:
        remedy = "# take `disable = true` out of [ingest.validator]"
        return Finding("validator", "warning", "validation is disabled", remedy)
    return Finding("validator", "found", ours)
