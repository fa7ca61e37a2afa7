"""All checks of doctor that look at the machine, in the order in which they are told.

survey = Survey(Machine(), settings)
for check in CHECKS:
    finding = look(check, survey)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flux_flex.host.checks import (
    burst,
    burst_hosts,
    cloud,
    engine,
    flux,
    kernel,
    user,
)
from flux_flex.host.checks.findings import Finding
from flux_flex.host.checks.survey import Survey

USERNETES = "usernetes"
BURSTING = "bursting"


@dataclass(frozen=True)
class Check:
    """One question, by the name of its finding, and what the answer is needed for."""

    name: str
    needed_for: str
    look: Callable[[Survey], Finding]


CHECKS = (
    Check("flux", USERNETES, flux.flux),
    Check("flux-instance", USERNETES, flux.flux_instance),
    Check("flux-python", USERNETES, flux.flux_python),
    Check("perilog", USERNETES, flux.perilog),
    Check("perilog-owner", USERNETES, flux.perilog_owner),
    Check("perilog-timeouts", USERNETES, flux.perilog_timeouts),
    Check("scripts", USERNETES, flux.scripts),
    Check("imp", USERNETES, flux.imp),
    Check("validator", USERNETES, flux.validator),
    Check("engine", USERNETES, engine.engine),
    Check("engine-compose", USERNETES, engine.engine_compose),
    Check("engine-tools", USERNETES, engine.engine_tools),
    Check("cgroup", USERNETES, kernel.cgroup),
    Check("cgroup-delegation", USERNETES, kernel.cgroup_delegation),
    Check("modules", USERNETES, kernel.modules),
    Check("sysctls", USERNETES, kernel.sysctls),
    Check("subids", USERNETES, user.subids),
    Check("linger", USERNETES, user.linger),
    Check("state", USERNETES, user.state),
    Check("aws", BURSTING, cloud.aws),
    Check("crd", BURSTING, cloud.crd),
)

# For sites whose flex.toml says how they burst.
BURST_CHECKS = (
    Check("burst-scheduler", BURSTING, burst.scheduler),
    Check("burst-hosts", BURSTING, burst_hosts.hosts),
    Check("burst-lead", BURSTING, burst_hosts.lead),
    Check("burst-secrets", BURSTING, burst_hosts.secrets),
    Check("burst-controller", BURSTING, burst.controller),
    Check("burst-option", BURSTING, burst.option),
)


def look(check: Check, survey: Survey) -> Finding:
    """What the check finds; a check that stumbles has found nothing out, and stops no other."""
    try:
        return check.look(survey)
    except Exception as error:  # noqa: BLE001 - a machine may be broken in any way
        what = f"cannot be checked: {type(error).__name__}: {error}"
        return Finding(check.name, "unknown", what)
