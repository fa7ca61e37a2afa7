"""doctor's checks of what flex.toml says of bursting: the tables, and the catalogue of node types.

They need the room burst/; the others for bursting are in host/checks/.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points

from flux_flex.burst.catalog import Catalog
from flux_flex.burst.providers import ENTRY_POINTS
from flux_flex.cli.burst_site import OURS, kubernetes_config
from flux_flex.cli.catalog import named_catalog
from flux_flex.config import BurstSettings, slots_of
from flux_flex.errors import BadInput
from flux_flex.host.checks.findings import Finding, Problem, judged
from flux_flex.host.checks.survey import BrokerConfig, BurstSlot, Secret
from flux_flex.host.checks.survey import BurstSettings as SurveyedBurst
from flux_flex.host.checks.tables import at

# On-demand prices change by the month at most; what is older was forgotten.
STALE_DAYS = 90

_DOCS = "docs/bursting.md"


def is_configured(burst: BurstSettings) -> bool:
    """Whether flex.toml says that this site bursts."""
    return bool(burst.provider or burst.slots)


def surveyed(burst: BurstSettings, file: str) -> SurveyedBurst:
    """What the checks of host/ depend on. ``file`` is the path of flex.toml."""
    return SurveyedBurst(
        file=file,
        provider=burst.provider,
        queue=burst.queue,
        slots=tuple(BurstSlot(slot.type, slot.hosts) for slot in slots_of(burst)),
        lead_name=burst.lead.name,
        lead_address=burst.lead.address,
        lead_port=burst.lead.port,
        secrets=tuple(_secrets(burst)),
    )


def _secrets(burst: BurstSettings) -> Iterator[Secret]:
    if burst.provider in ("local", "fluxburst"):
        yield _certificate(burst.local.curve_cert)
    if burst.provider in ("kubernetes", "eks"):
        table = burst.kubernetes
        if isinstance(path := table.get("curve_cert"), str):
            yield _certificate(path)
        if isinstance(path := table.get("munge_key"), str) and path:
            yield Secret("munge key", path, "# copy the key of the instance's hosts there")
        if isinstance(path := table.get("kubeconfig"), str):
            yield Secret("kubeconfig", path, "# put one there whose rights are those of the docs")


def _certificate(path: str) -> Secret:
    remedy = f"flux keygen {shlex.quote(path)}    # as the instance's owner"
    return Secret("certificate", path, remedy, is_certificate=True)


# -- the tables ------------------------------------------------------------------------------------


def config(burst: BurstSettings, broker: BrokerConfig | None = None) -> Finding:
    """[burst] names a provider that there is, its table can be used, and nothing is left out.

    ``broker``: the configuration of the instance, if there is one to be asked."""
    problems = [*_left_out(burst), *_provider_problems(burst)]
    limits = burst.limits
    if limits.budget is None and limits.nodes is None and limits.cost_per_hour is None:
        remedy = '# in flex.toml\n[burst.limits]\nbudget = 200    # dollars in each period, "30d"'
        what = "no limit is set: who may submit may spend as much as there are slots"
        problems.append(Problem(what, remedy, "warning"))
    # With queues a site has thought of it; which of them keep others off is not to be seen here.
    table = broker.table if broker and broker.live and not broker.trouble else None
    if limits.budget and table is not None and not at(table, "queues"):
        what = "without queues, anybody's longer job may come to run on nodes that jobs burst to"
        remedy = f"# give own hosts a queue that requires them: {_DOCS}, Rented nodes are drained"
        problems.append(Problem(what, remedy, "warning"))
    bursts = len(slots_of(burst))
    return judged("burst", problems, f"provider {burst.provider}, room for {bursts} bursts")


def _left_out(burst: BurstSettings) -> Iterator[Problem]:
    needed: Mapping[str, tuple[object, str]] = {
        "provider": (burst.provider, f"who rents: {', '.join(OURS)}"),
        "[[burst.slots]]": (burst.slots, "a table for each type of nodes"),
        "lead.name": (burst.lead.name, "the lead broker's host, as R has it"),
        "lead.address": (burst.lead.address, "an address that rented nodes can reach"),
    }
    for key, (value, meaning) in needed.items():
        if not value:
            yield Problem(f"{key} is not set", f"# in flex.toml, [burst]: {key}, {meaning}")


def _provider_problems(burst: BurstSettings) -> Iterator[Problem]:
    name = burst.provider
    try:
        _parse_provider(burst)
    except BadInput as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        yield Problem(f"the table of {name}: {what}", f"# in flex.toml: {error.remedy or _DOCS}")
    known = {*OURS, *(one.name for one in entry_points(group=ENTRY_POINTS))}
    if name and name not in known:
        remedy = f"# in flex.toml: provider is one of {', '.join(sorted(known))}"
        yield Problem(f"no provider is called {name}", remedy)
    port = burst.kubernetes.get("lead", {})
    if name in ("kubernetes", "eks") and isinstance(port, Mapping):
        theirs = port.get("port", burst.lead.port)
        if theirs != burst.lead.port and not port.get("service"):
            what = f"kubernetes.lead.port is {theirs}, and burst.lead.port {burst.lead.port}"
            remedy = "# rented brokers connect to the first, the lead listens on the second"
            yield Problem(what, remedy, "warning")


def _parse_provider(burst: BurstSettings) -> None:
    """Raise BadInput where the provider's table cannot be used. Nobody is asked."""
    if burst.provider in ("kubernetes", "eks"):
        kubernetes_config(burst)
    if burst.provider == "eks":
        from flux_flex.burst.providers.eks_config import parse_eks_config

        parse_eks_config(burst.eks)
    if burst.provider == "fluxburst":
        from flux_flex.burst.providers.fluxburst import parse_fluxburst_config

        parse_fluxburst_config(burst.fluxburst)


# -- the catalogue ---------------------------------------------------------------------------------


def catalog(burst: BurstSettings, today: datetime.date) -> Finding:
    """The catalogue can be read, has the types of all slots, and its prices are of these days."""
    name = "burst-catalog"
    if not burst.catalog:
        remedy = '# in flex.toml, [burst]\ncatalog = "/etc/flux/catalog.yaml"'
        return Finding(name, "missing", "burst.catalog is not set", remedy)
    try:
        found = named_catalog(burst.catalog)
    except BadInput as error:
        remedy = error.remedy or f"# write {burst.catalog}: {_DOCS}"
        return Finding(name, "missing", f"{error.where}: {error.what}", remedy)
    fine = f"{burst.catalog}: {len(found.types)} types, prices of {found.date}, {found.region}"
    return judged(name, [*_catalog_problems(burst, found, today)], fine)


def _catalog_problems(
    burst: BurstSettings, found: Catalog, today: datetime.date
) -> Iterator[Problem]:
    wanted = {slot.type: None for slot in burst.slots}
    known = {kind.name for kind in found.types}
    lacking = [name for name in [*wanted, *burst.limits.types] if name not in known]
    if lacking:
        types = ", ".join(dict.fromkeys(lacking))
        yield Problem(f"{burst.catalog} lacks {types}", _update(burst, found, lacking))
    age = (today - found.date).days
    if age > STALE_DAYS or age < -1:
        when = f"{age} days old" if age > 0 else "of the future"
        what = f"its prices are {when}, of {found.date}"
        yield Problem(what, _update(burst, found, [*wanted]), "warning")
    region = burst.eks.get("region")
    if burst.provider == "eks" and region and region != found.region:
        what = f"its prices are of {found.region}, and burst.eks.region is {region}"
        yield Problem(what, _update(burst, found, [*wanted]), "warning")


def _update(burst: BurstSettings, found: Catalog, types: list[str]) -> str:
    if burst.provider != "eks":
        return f"# look them up anew in {burst.catalog}, with the date"
    region = str(burst.eks.get("region") or found.region)
    words = ["--region", region, "--types", *dict.fromkeys(types), "--file", burst.catalog]
    return f"flux-flex catalog update {shlex.join(words)}"
