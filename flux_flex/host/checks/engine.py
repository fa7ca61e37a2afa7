"""doctor's checks of what the make targets of Usernetes run: engine, compose, make and jq.

They run as the job's user with the PATH of flex.toml, so that is where commands are looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from flux_flex.host.checks.container import Engine
from flux_flex.host.checks.findings import Finding, Problem, judged
from flux_flex.host.checks.machine import Answer
from flux_flex.host.checks.survey import Survey
from flux_flex.host.engines import COMPOSE

_SETUP = {"docker": "dockerd-rootless-setuptool.sh", "nerdctl": "containerd-rootless-setuptool.sh"}
_PACKAGE = {"docker": "docker.io", "nerdctl": "nerdctl", "podman": "podman"}
_TOML = "# in flex.toml"


def engine(survey: Survey) -> Finding:
    """Which engine there is, whether it answers, and whether it is rootless."""
    path, machine = survey.settings.path, survey.machine
    found = survey.engine
    if found is None:
        remedy = survey.package_command("podman", "podman-compose")
        what = f"neither docker, nerdctl nor podman in {path}"
        return Finding("engine", "missing", what, _or_elsewhere(survey, "docker", remedy))
    name, setup = found.name, _SETUP.get(found.name, "")
    rootless_setup = f"{setup} install" if setup and machine.which(setup, path) else ""
    if machine.uid == 0 and rootless_setup and found.complaint:
        what = f"{name} ({found.why}) is each user's own: root has none"
        return Finding("engine", "unknown", what, "flux-flex doctor --check engine    # as a user")
    if found.complaint:
        return Finding(
            "engine",
            "missing",
            f"{name} ({found.why}) does not answer: {found.complaint}",
            rootless_setup or _start(survey, found),
        )
    what = f"{name} {found.version} ({found.why})"
    if found.rootful:
        docs = "# rootless: https://docs.docker.com/engine/security/rootless/"
        rootful = f"{what}, rootful: who may use it is as good as root"
        return Finding("engine", "warning", rootful, rootless_setup or docs)
    rootless = "rootless" if found.rootless else "rootful for root, each user has an own one"
    return Finding("engine", "found", f"{what}, {rootless}")


def _start(survey: Survey, found: Engine) -> str:
    if found.name == "docker" and "permission denied" in found.complaint:
        user = survey.machine.user
        return f"# makes {user} as good as root\n{survey.as_root(f'usermod -aG docker {user}')}"
    services = {"docker": "docker", "nerdctl": "containerd"}
    if found.name in services and survey.machine.which(found.name, survey.settings.path):
        return survey.as_root(f"systemctl start {services[found.name]}")
    if survey.machine.which(found.name, survey.settings.path):
        return f"{found.name} info"
    return _or_elsewhere(survey, found.name, survey.package_command(_PACKAGE[found.name]))


def _or_elsewhere(survey: Survey, command: str, otherwise: str) -> str:
    """Where our own PATH has a command that the make targets would not find, the line for them."""
    place = survey.machine.which(command)
    if place is None:
        return otherwise
    folder = place.rpartition("/")[0]
    return f'{_TOML}\n[usernetes]\npath = "{folder}:{survey.settings.path}"'


def engine_compose(survey: Survey) -> Finding:
    """The compose command of the engine works."""
    name = "engine-compose"
    set_command = survey.settings.compose
    if set_command:
        answer = _version(survey, set_command.split())
        if answer.ok:
            return Finding(name, "found", f"{set_command} (flex.toml): {_number(answer)}")
        return Finding(name, "missing", f"{set_command}: {answer.why}", f"{set_command} version")
    found = survey.engine
    if found is None:
        return Finding(name, "skipped", "no engine")
    complaints = []
    for command in COMPOSE[found.name]:
        answer = _version(survey, command.split())
        if answer.ok:
            return Finding(name, "found", f"{command}: {_number(answer)}")
        complaints.append(f"{command}: {answer.why}")
    package = {"docker": "docker-compose"}.get(found.name, COMPOSE[found.name][-1].split()[0])
    return Finding(name, "missing", "; ".join(complaints), survey.package_command(package))


def _version(survey: Survey, words: Sequence[str]) -> Answer:
    return survey.machine.ask([*words, "version"], path=survey.settings.path)


def _number(answer: Answer) -> str:
    lines = answer.out.strip().splitlines()
    return lines[0][:80] if lines else "it works"


def engine_tools(survey: Survey) -> Finding:
    """make and jq, which Usernetes' Makefile calls."""
    problems = []
    for tool in ("make", "jq"):
        if survey.machine.which(tool, survey.settings.path) is None:
            remedy = _or_elsewhere(survey, tool, survey.package_command(tool))
            problems.append(Problem(f"no {tool} in {survey.settings.path}", remedy))
    return judged("engine-tools", problems, "make and jq")
