"""doctor's checks of a site that bursts: the scheduler, the controller, and the option --burst."""

from __future__ import annotations

import errno
import json
import re
import shlex
from collections.abc import Iterator, Mapping

from flux_flex.host.checks.findings import Finding, Problem, judged
from flux_flex.host.checks.survey import WITHOUT_CWD, Survey
from flux_flex.host.checks.tables import at, listed
from flux_flex.host.scheduling import QMANAGER, Scheduling, scheduling_of

MODULE = "flex-burst"

_ENOUGH = "--setattr=burstable is enough, --burst works too"
_NO_INSTANCE = "no broker answers: ask inside the instance, or with FLUX_URI"
_PLUGIN = re.compile(r"^FlexBurst loaded from (/.*)$", re.MULTILINE)
_BY_HAND = "flux submit --urgency=hold --setattr=burstable --setattr=user.flex.held=true"
_BROKERMOD = f"{WITHOUT_CWD} import flux.brokermod"


def _scheduling(survey: Survey) -> Scheduling | None:
    return scheduling_of(lambda topic: survey.rpc(topic).answer, survey.broker.table)


def scheduler(survey: Survey) -> Finding:
    """Which scheduler and policy there are, and so what users write."""
    name = "burst-scheduler"
    if not survey.broker.live:
        return Finding(name, "unknown", _NO_INSTANCE)
    found = _scheduling(survey)
    if found is None:
        return Finding(name, "unknown", "the broker does not say which modules it has")
    if not found.scheduler:
        what, remedy = "no scheduler is loaded", "flux dmesg -H    # says why"
        return Finding(name, "missing", what, remedy)
    return judged(name, [*_queue_problems(survey, found)], _what_users_write(survey, found))


def _what_users_write(survey: Survey, found: Scheduling) -> str:
    if found.waits() is None:
        return f"{found.scheduler}, of which little is known here: users write --burst"
    configured = at(survey.broker.table, "queues")
    queues = sorted(configured) if isinstance(configured, Mapping) else []
    policies = ", ".join(f"{queue}: {found.policy_of(queue)}" for queue in queues)
    told = f"{found.scheduler}, queue-policy {policies or found.policy_of()}"
    refusing = [queue for queue in queues if not found.waits(queue)]
    if not queues:
        refuses = "refuses jobs for hosts that are down: users write --burst"
        return f"{told}: {_ENOUGH}" if found.waits() else f"{told} {refuses}"
    if not refusing:
        return f"{told}: {_ENOUGH}"
    return f"{told}: users write --burst in {', '.join(refusing)}, where fcfs refuses such jobs"


def _queue_problems(survey: Survey, found: Scheduling) -> Iterator[Problem]:
    """Jobs of burst.queue are not held, so that queue has to let them wait."""
    queue = survey.settings.burst.queue
    if not queue:
        return
    if at(survey.broker.table, "queues", queue) is None:
        place = f"# in {survey.broker.file} on every node, then restart the instance"
        lines = f"{place}\n[queues.{json.dumps(queue)}]    # or another queue as burst.queue"
        yield Problem(f"burst.queue is {queue}, which the instance does not have", lines)
    elif found.waits(queue) is False:
        what = f"jobs in {queue} may burst without --burst, but its queue-policy fcfs refuses them"
        owner = found.parents.get(queue, queue)
        others = {**found.own, owner: "easy"}
        policies = " ".join(f"{name}:{policy}" for name, policy in sorted(others.items()))
        lines = (
            f"# in {survey.broker.file}, then restart the instance\n"
            f"[{QMANAGER}]\nqueue-policy-per-queue = {json.dumps(policies)}"
        )
        yield Problem(what, lines, "warning")


# -- the controller --------------------------------------------------------------------------------


def controller(survey: Survey) -> Finding:
    """A controller answers, decides, knows these slots, and no provider is set aside."""
    name = "burst-controller"
    if not survey.broker.live:
        return Finding(name, "unknown", _NO_INSTANCE)
    said = survey.rpc(f"{MODULE}.status")
    if said.answer is None and said.errno == errno.EPERM:
        what = "one runs, and answers the instance's owner alone"
        return Finding(
            name, "unknown", what, "flux getattr security.owner    # run this as that user"
        )
    if said.answer is None and said.errno != errno.ENOSYS:
        return Finding(name, "unknown", f"it does not answer: {said.why}", "flux dmesg -H")
    if said.answer is None:
        return _no_controller(survey)
    status, is_module = said.answer, _is_module(survey)
    problems = [*_trouble_of(survey, status, is_module)]
    bursts = at(status, "bursts")
    states = bursts.values() if isinstance(bursts, Mapping) else ()
    count = sum(number for number in states if isinstance(number, int))
    how = f"module {MODULE}" if is_module else "burst serve"
    return judged(name, problems, f"{how}, deciding, {count} bursts")


def _trouble_of(survey: Survey, status: Mapping[str, object], is_module: bool) -> Iterator[Problem]:
    protected = at(status, "protected")
    for provider, why in protected.items() if isinstance(protected, Mapping) else ():
        start = f"flux-flex burst start --provider {shlex.quote(str(provider))}"
        what = f"nothing is rented from {provider} any more: {why}"
        yield Problem(what, f"{start}    # once it is mended")
    if at(status, "deciding") is False:
        yield Problem("it was stopped: nothing more is rented", "flux-flex burst start", "warning")
    slots, wanted = at(status, "slots", "total"), len(survey.settings.burst.slots)
    if slots != wanted:
        again = f"flux module remove {MODULE} && {_load(survey)}"
        remedy = again if is_module else "# end `flux-flex burst serve`, and start it again"
        what = f"it has {slots} slots, flex.toml {wanted}: it was started before a change"
        yield Problem(what, remedy, "warning")
    if is_module and not any(
        survey.machine.exists(f"{folder}/rc3.d/flux-flex.py") for folder in _modprobe(survey)
    ):
        what = "nothing that can be seen from here removes the module before the broker ends"
        yield Problem(f"{what}, which then ends with 1", _install(survey), "warning")


def _no_controller(survey: Survey) -> Finding:
    name, what = "burst-controller", "none runs: nothing is rented, nothing given back"
    if not survey.machine.ask(["flux", "python", "-c", _BROKERMOD]).ok:
        serve = "flux-flex burst serve    # as the instance's owner; start it again when it ends"
        told = f"{what}. This Flux loads no modules in Python"
        return Finding(name, "missing", told, serve)
    if not survey.machine.exists(_module_place(survey)):
        remedy = f"{_install(survey)}\n# or, as the instance's owner: flux-flex burst serve"
        return Finding(name, "missing", what, remedy)
    if isinstance(at(survey.broker.table, MODULE), Mapping):
        remedy = f"{_load(survey)}\nflux dmesg -H    # says why it is not loaded"
        return Finding(name, "missing", f"{what}. [{MODULE}] is configured", remedy)
    lines = [
        f"# in {survey.broker.file}, then: flux config reload && {_load(survey)}",
        f"[{MODULE}]",
        f"config = {json.dumps(survey.settings.burst.file)}",
    ]
    return Finding(name, "missing", what, "\n".join(lines))


def _is_module(survey: Survey) -> bool:
    modules = listed(at(survey.rpc("module.list").answer, "mods"))
    return any(at(one, "name") == MODULE for one in modules)


def _module_place(survey: Survey) -> str:
    return f"{survey.conf_dir}/modules/{MODULE}.py"


def _load(survey: Survey) -> str:
    return shlex.join(["flux", "module", "load", _module_place(survey), survey.settings.burst.file])


def _install(survey: Survey) -> str:
    return survey.as_root(f"scripts/install-scripts.sh --burst {survey.system_dir}")


def _modprobe(survey: Survey) -> list[str]:
    """Where a broker with our own environment looks for what it runs at its end."""
    environ = survey.machine.environ
    usual = environ.get("FLUX_MODPROBE_PATH", f"{survey.conf_dir}/modprobe")
    more = (environ.get(f"FLUX_MODPROBE_PATH_{side}", "") for side in ("PREPEND", "APPEND"))
    return [folder for path in (usual, *more) for folder in path.split(":") if folder]


# -- what users write ------------------------------------------------------------------------------


def option(survey: Survey) -> Finding:
    """flux submit has --burst, from a file that others cannot change."""
    name, machine = "burst-option", survey.machine
    answer = machine.ask(["flux", "submit", "--list-plugins"])
    if not answer.ok and "--list-plugins" in answer.err:
        what = "this Flux has no plugins of its commands, so no --burst"
        return Finding(name, "warning", what, f"# users write: {_BY_HAND}")
    if not answer.ok:
        lines = answer.err.strip().splitlines() or [answer.why]
        what = f"flux submit does not work: {lines[-1]}"
        return Finding(name, "missing", what, "flux submit --list-plugins")
    found = _PLUGIN.search(answer.out)
    if found is None:
        return _no_option(survey)
    try:
        mode = machine.path(found[1]).stat().st_mode
    except OSError:
        mode = 0
    if mode & 0o022:
        what, remedy = (
            f"others can write {found[1]}",
            survey.as_root(f"chmod go-w {shlex.quote(found[1])}"),
        )
        return Finding(name, "missing", what, remedy)
    return Finding(name, "found", f"flux submit --burst, from {found[1]}")


def _no_option(survey: Survey) -> Finding:
    """It is needed where the scheduler refuses, and good to have elsewhere."""
    place = f"{survey.conf_dir}/cli/plugins"
    there = survey.machine.exists(f"{place}/flux-flex-burst.py")
    override = "FLUX_CLI_PLUGINPATH_OVERRIDE"
    remedy = f"unset {override}" if override in survey.machine.environ and there else ""
    what = "flux submit has no --burst"
    found = _scheduling(survey) if survey.broker.live else None
    if found is not None and found.waits(survey.settings.burst.queue):
        told = f"{what}; --setattr=burstable is enough here"
        return Finding("burst-option", "warning", told, remedy or _install(survey))
    return Finding("burst-option", "missing", what, remedy or _install(survey))
