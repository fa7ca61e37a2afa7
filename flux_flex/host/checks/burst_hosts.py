"""doctor's checks of what rented brokers join by: R, [bootstrap], the lead's port, and secrets."""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence

from flux_flex.errors import BadInput
from flux_flex.host.checks.findings import Finding, Problem, judged
from flux_flex.host.checks.survey import Secret, Survey
from flux_flex.host.checks.tables import at, from_json, listed
from flux_flex.model.hostlist import expand_hostlist
from flux_flex.model.idset import parse_idset
from flux_flex.model.rv1 import ResourceSet, parse_r

_CONFIGURE = (
    "flux-flex burst configure --r OWN_R    # the R of the own hosts alone\n"
    "# then start the instance anew with what it wrote"
)
_TOPOLOGY = "kary:0"
_BIND = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[^:/]+):([0-9]{1,5})")
_LOOPBACK = re.compile(r"(127\.[0-9.]+|localhost|\[?::1\]?)", re.IGNORECASE)
_MOST_NAMED = 4


def hosts(survey: Survey) -> Finding:
    """R and [bootstrap] have every host that may be rented, at the same places."""
    name, broker = "burst-hosts", survey.broker
    if broker.trouble:
        return judged(name, [broker.trouble], "")
    wanted = survey.settings.burst.slots
    R, trouble = _r_of(survey)
    if R is None:
        return Finding(name, "unknown", trouble)
    ranks = {target.host: target.rank for target in R.ranks}
    properties = {target.host: target.properties for target in R.ranks}
    placeholders = {host: slot.type for slot in wanted for host in slot.hosts}
    lacking = [host for host in placeholders if host not in ranks]
    problems = [*_told(lacking, "R lacks")]
    unlike = [h for h, kind in placeholders.items() if h in ranks and kind not in properties[h]]
    problems += _told(unlike, "R was made for other types: no property with the type's name on")
    problems += _bootstrap_problems(survey, ranks, [h for h in placeholders if h in ranks])
    problems += _verified(survey, R, placeholders)
    count = f"{len(placeholders)} hosts of {len(wanted)} bursts"
    return judged(name, problems, f"R and [bootstrap] have the {count}")


def _r_of(survey: Survey) -> tuple[ResourceSet | None, str]:
    """R of the instance, or that of the file it would use; or why there is none to be seen."""
    broker = survey.broker
    if broker.live:
        said = survey.rpc("resource.status")
        value, place = at(said.answer, "R"), said.why or "resource.status"
    else:
        place = str(at(broker.table, "resource", "path") or "")
        if not place:
            return None, f"{broker.place}: no resource.path"
        text = survey.machine.find_text(place)
        if text is None:
            return None, f"{place} cannot be read"
        value = from_json(text)
    try:
        return parse_r(value), ""
    except BadInput as error:
        return None, f"{place}: {error.where}: {error.what}" if value else f"no R: {place}"


def _told(found: Sequence[str], what: str) -> Iterator[Problem]:
    if found:
        names = ", ".join(found[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")
        yield Problem(f"{what} {len(found)} hosts of flex.toml's slots: {names}", _CONFIGURE)


def _bootstrap_problems(
    survey: Survey, ranks: Mapping[str, int], placeholders: Sequence[str]
) -> Iterator[Problem]:
    """A broker's place in the list of hosts is its rank."""
    try:
        listed_hosts = _bootstrap_hosts(survey)
    except BadInput as error:
        yield Problem(f"[bootstrap] hosts: {error.what}", _CONFIGURE)
        return
    places = {host: place for place, host in enumerate(listed_hosts)}
    yield from _told([h for h in placeholders if h not in places], "[bootstrap] lacks")
    moved = [h for h in placeholders if h in places and places[h] != ranks[h]]
    yield from _told(moved, "[bootstrap] has, at other places than R,")


def _bootstrap_hosts(survey: Survey) -> list[str]:
    entries = listed(at(survey.broker.table, "bootstrap", "hosts"))
    return [host for entry in entries for host in expand_hostlist(str(at(entry, "host") or ""))]


def _verified(survey: Survey, R: ResourceSet, placeholders: Mapping[str, str]) -> Iterator[Problem]:
    """Rented brokers that look at their hardware (no ``noverify``) and so drained themselves."""
    drained = at(survey.rpc("resource.status").answer, "drain") if survey.broker.live else None
    hosts_at = {target.rank: target.host for target in R.ranks}
    found: list[str] = []
    for ranks, entry in drained.items() if isinstance(drained, Mapping) else ():
        if "missing" in str(at(entry, "reason")).lower():
            its = [hosts_at.get(rank, "") for rank in parse_idset(ranks)]
            found += [host for host in its if host in placeholders]
    if found:
        what = f"drained, since they have less than R says: {', '.join(found[:_MOST_NAMED])}"
        lines = "# in broker.toml of rented nodes\n[resource]\nnoverify = true"
        yield Problem(what, f"{lines}\n# then, here: flux resource undrain {','.join(found)}")


# -- the lead --------------------------------------------------------------------------------------


def lead(survey: Survey) -> Finding:
    """The lead listens where flex.toml says that rented brokers connect to. In form: nothing is
    connected to, since what matters is whether rented nodes can."""
    name, broker, burst = "burst-lead", survey.broker, survey.settings.burst
    if broker.trouble:
        return judged(name, [broker.trouble], "")
    if not burst.lead_name or not burst.lead_address:
        return Finding(name, "skipped", "flex.toml: burst.lead is not set")
    if not broker.live and not broker.table:
        return Finding(name, "unknown", broker.place)
    if at(broker.table, "bootstrap") is None:
        what = f"{broker.place}: no [bootstrap], so no broker can join"
        return Finding(name, "missing", what, _CONFIGURE)
    problems = [*_listening(survey), *_form(survey)]
    fine = f"{burst.lead_name} listens on port {burst.lead_port}, reached as {burst.lead_address}"
    return judged(name, problems, fine)


def _listening(survey: Survey) -> Iterator[Problem]:
    burst, bootstrap = survey.settings.burst, at(survey.broker.table, "bootstrap")
    first = next(iter(listed(at(bootstrap, "hosts"))), None)
    try:
        names = expand_hostlist(str(at(first, "host") or ""))
    except BadInput:
        names = []
    if names[:1] != [burst.lead_name]:
        what = f"[bootstrap] begins with {names[0] if names else 'nothing'}, not with the lead"
        yield Problem(f"{what} {burst.lead_name}", _CONFIGURE)
        return
    bind = str(at(first, "bind") or at(bootstrap, "default_bind") or "")
    port = str(at(bootstrap, "default_port") or "")
    found = _BIND.fullmatch(bind.replace("%p", port))
    if found is None:
        yield Problem(f"the lead listens at no port: bind is {bind or 'not set'}", _CONFIGURE)
        return
    if int(found[2]) != burst.lead_port:
        what = f"the lead listens on port {found[2]}, and burst.lead.port is {burst.lead_port}"
        yield Problem(what, _CONFIGURE)
    if burst.provider != "local" and _LOOPBACK.fullmatch(found[1]):
        yield Problem(f"the lead listens for this machine alone: {bind}", _CONFIGURE)


def _form(survey: Survey) -> Iterator[Problem]:
    burst, broker = survey.settings.burst, survey.broker
    if burst.provider != "local" and _LOOPBACK.fullmatch(burst.lead_address):
        remedy = '# in flex.toml\n[burst.lead]\naddress = "…"    # one that rented nodes can reach'
        yield Problem(f"rented nodes cannot reach {burst.lead_address}", remedy)
    topology = at(broker.table, "tbon", "topo")
    if broker.live:
        told = survey.machine.ask(["flux", "getattr", "tbon.topo"])
        topology = told.out.strip() if told.ok else topology
    if topology != _TOPOLOGY:
        what = f"tbon.topo is {topology or 'not set'}: rented brokers might not be the lead's own"
        lines = f'# in {broker.file} on every node, then restart the instance\n[tbon]\ntopo = "'
        yield Problem(f"{what} children", f'{lines}{_TOPOLOGY}"')


# -- secrets ---------------------------------------------------------------------------------------


def secrets(survey: Survey) -> Finding:
    """Certificate and keys are there, and the instance's owner alone can read them."""
    name, wanted = "burst-secrets", survey.settings.burst.secrets
    if not wanted:
        return Finding(name, "skipped", "the provider has none that is known here")
    problems = [problem for secret in wanted for problem in _secret_problems(survey, secret)]
    problems += _another_certificate(survey, wanted)
    told = ", ".join(f"{secret.what} {secret.path}" for secret in wanted)
    return judged(name, problems, told)


def _secret_problems(survey: Survey, secret: Secret) -> Iterator[Problem]:
    path = secret.path
    if not path.startswith("/"):
        remedy = f"# in flex.toml: the whole path of the {secret.what}"
        yield Problem(f"{path} is no absolute path", remedy)
        return
    try:
        about = survey.machine.path(path).stat()
    except FileNotFoundError:
        yield Problem(f"there is no {secret.what} {path}", secret.remedy)
        return
    except OSError as error:
        again = "sudo flux-flex doctor --check burst-secrets"
        yield Problem(f"{path} cannot be looked at: {error.strerror}", again, "unknown")
        return
    if not stat.S_ISREG(about.st_mode):
        yield Problem(f"{path} is not a file", secret.remedy)
        return
    if about.st_mode & 0o077:
        chmod = survey.as_root(f"chmod 0400 {shlex.quote(path)}")
        what = f"others can read or write {path}: its mode is {stat.S_IMODE(about.st_mode):04o}"
        yield Problem(what, f"{chmod}    # and make a new one: it may be known")
    owner = _owner(survey)
    if owner is not None and about.st_uid != owner:
        copy = survey.as_root(f"install -m 400 -o {owner} {shlex.quote(path)} COPY")
        what = f"{path} belongs to uid {about.st_uid}, and the instance to {owner}"
        yield Problem(what, f"{copy}    # and name the copy in flex.toml")


def _owner(survey: Survey) -> int | None:
    """The user that brokers and controller run as; None where no instance says so."""
    if not survey.broker.live:
        return None
    told = survey.machine.ask(["flux", "getattr", "security.owner"]).out.strip()
    return int(told) if told.isascii() and told.isdigit() else None


def _another_certificate(survey: Survey, wanted: Sequence[Secret]) -> Iterator[Problem]:
    """All brokers have to have one certificate. It is compared, and nothing of it kept or told."""
    own = at(survey.broker.table, "bootstrap", "curve_cert")
    rented = next((secret.path for secret in wanted if secret.is_certificate), "")
    if not isinstance(own, str) or not rented or own == rented:
        return
    try:
        same = survey.machine.read_bytes(own) == survey.machine.read_bytes(rented)
    except OSError:
        return  # told above, or not for this user to see
    if not same:
        remedy = f"# in flex.toml: curve_cert = {json.dumps(own)}"
        yield Problem(f"{rented} is another certificate than [bootstrap] has, {own}", remedy)
