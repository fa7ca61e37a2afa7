"""What an instance is started with so that brokers may join it later: its R, hosts and options.

    R = placeholder_r(own_r, "lead", slots, catalog.types)      # own hosts, then the placeholders
    lead_toml(hosts_of(R), lead, CERTIFICATE, "/etc/flux/R")    # broker.toml of the own hosts
    follower_toml(hosts_of(R), lead, CERTIFICATE)               # broker.toml of every rented node

A job can only wait for hosts that R has, and a broker only join as a host of ``[bootstrap]``, so
both name every node that may ever be rented. Until its broker comes, such a host is down. A
broker's place in the list of hosts is its rank, so all brokers need the same list.

Sources: flux-config-bootstrap(5), flux-config-resource(5), flux-config-tbon(5) and
flux-broker-attributes(7) of flux-core 0.88, and what a real one does (tests/burst).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.minicluster_options import ip_address
from flux_flex.errors import BadInput
from flux_flex.model.hostlist import format_hostlist
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

_OWN_R = "give the R of the instance's own hosts, as `flux R encode` or `flux resource R` write it"


class Slot(Protocol):
    """Room for one burst of a node type; the burst's hosts in order of rank."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def hosts(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Lead:
    """The broker that the others join: its host name in R, and where they reach it.

    ``address`` is a host name or an IP address without the port, ``port`` a TCP port.
    """

    name: str
    address: str
    port: int = 8050

    @property
    def endpoint(self) -> str:
        """Where brokers connect to, for ZeroMQ."""
        return f"tcp://{self._host}:{self.port}"

    @property
    def bind(self) -> str:
        """Where the lead listens: everywhere, unless nothing but this machine can reach it.

        The address that others use is often that of a load balancer, or of NAT.
        """
        address = ip_address(self.address)
        here = address is not None and address.is_loopback
        return f"tcp://{self._host if here else '*'}:{self.port}"

    @property
    def ipv6(self) -> bool:
        address = ip_address(self.address)
        return address is not None and address.version == 6

    @property
    def _host(self) -> str:
        return f"[{self.address}]" if self.ipv6 else self.address


# -- R -------------------------------------------------------------------------------------------


def placeholder_r(
    R: object, lead: str, slots: Sequence[Slot], types: Iterable[NodeType]
) -> dict[str, object]:
    """R with the hosts of all slots after its own, in order of rank.

    A placeholder has the cores and gpus of its slot's type, and as properties the type's name
    and the type's own ``properties``. ``lead`` is the host of rank 0.

    Raises BadInput where R is no R, does not begin with the lead, leaves out a rank, has two
    brokers on one host or a placeholder among its hosts, or carries a graph for the scheduler,
    which would not have the placeholders; and for a type that ``types`` lacks.
    """
    own = parse_r(R)
    _check_own(own, lead)
    known = {node_type.name: node_type for node_type in types}
    ranks = [*own.ranks]
    for slot in slots:
        if slot.type not in known:
            what = f"the catalogue has no node type {slot.type!r}"
            raise BadInput(what, f"slot {slot.name}", f"it has: {', '.join(known)}")
        ranks += _placeholders(slot, known[slot.type], len(ranks))
    _check_hosts(target.host for target in ranks)
    return ResourceSet(tuple(ranks), own.starttime, own.expiration).to_r()


def hosts_of(R: object) -> tuple[str, ...]:
    """The hosts of R in order of rank. Raises BadInput where R is no R."""
    return tuple(target.host for target in parse_r(R).ranks)


def with_cores(node_type: NodeType, cores: int) -> NodeType:
    """The type with so many cores, for brokers that only stand for such nodes; 0 leaves it."""
    if not cores:
        return node_type
    return node_type.model_copy(update={"cores": cores, "vcpus": cores})


def _placeholders(slot: Slot, node_type: NodeType, first_rank: int) -> list[RankResources]:
    cores, gpus = tuple(range(node_type.cores)), tuple(range(node_type.gpus))
    properties = tuple(dict.fromkeys((node_type.name, *node_type.properties)))
    return [
        RankResources(rank, host, cores, gpus, properties)
        for rank, host in enumerate(slot.hosts, first_rank)
    ]


def _check_own(own: ResourceSet, lead: str) -> None:
    if own.scheduling is not None:
        what = "R has a graph for the scheduler, in which the placeholders would be missing"
        remedy = "give R without its key scheduling; topology fetch --r can then annotate the new R"
        raise BadInput(what, "R.scheduling", remedy)
    for place, target in enumerate(own.ranks):
        if target.rank != place:
            # Whatever came next would get a rank that a broker has already.
            raise BadInput(f"R leaves out rank {place}", "R.execution.R_lite", _OWN_R)
    if not own.ranks or own.ranks[0].host != lead:
        first = own.ranks[0].host if own.ranks else "nothing"
        remedy = "name the host of rank 0 in burst.lead.name; a lead that runs no jobs is excluded"
        raise BadInput(
            f"the lead is {lead}, but R begins with {first}",
            "R.execution.nodelist",
            f"{remedy} with resource.exclude, and is in R all the same",
        )


def _check_hosts(hosts: Iterable[str]) -> None:
    """Flux takes the first place of a host in the list, so another of that name never joins."""
    seen: set[str] = set()
    for host in hosts:
        if host in seen:
            raise BadInput(f"the host {host} is there twice", "R.execution.nodelist", _OWN_R)
        seen.add(host)


# -- configuration of brokers --------------------------------------------------------------------


def lead_toml(hosts: Sequence[str], lead: Lead, curve_cert: str, r_path: str) -> str:
    """broker.toml of the lead and the other own hosts: what bursting needs of it.

    ``hosts`` are those of R; ``curve_cert`` and ``r_path`` are paths, as the brokers see them.
    """
    return "\n".join(
        [
            "# For the own hosts: what bursting needs of the instance. Sites have more to say.",
            "[resource]",
            f"path = {_quoted(r_path)}",
            "",
            *_bootstrap(hosts, lead, curve_cert, bind=lead.bind),
            "",
        ]
    )


def follower_toml(hosts: Sequence[str], lead: Lead, curve_cert: str) -> str:
    """broker.toml of every rented node."""
    return "\n".join(
        [
            "# For rented hosts, which connect to the lead and to nobody else.",
            # hwloc in a container often sees no gpu, and Flux would drain the rented node.
            "[resource]",
            "noverify = true",
            "",
            *_bootstrap(hosts, lead, curve_cert),
            "",
        ]
    )


def _bootstrap(
    hosts: Sequence[str], lead: Lead, curve_cert: str, bind: str | None = None
) -> list[str]:
    """The tables of the overlay network. Raises BadInput where the lead is not the first host."""
    if not hosts or hosts[0] != lead.name:
        what = f"the lead is {lead.name}, which is not the first host"
        raise BadInput(what, "hosts", "name the host of rank 0 in burst.lead.name")
    first = {"host": lead.name, "connect": lead.endpoint}
    if bind is not None:
        first["bind"] = bind
    # One entry for each row of hosts that differ in their last number, as people would write it.
    rows = itertools.groupby(hosts[1:], key=lambda host: host.rstrip("0123456789"))
    entries = [first, *({"host": format_hostlist([*row])} for _, row in rows)]
    return [
        # Rented nodes can reach the lead, but rarely each other, so nobody else is a parent.
        "[tbon]",
        'topo = "kary:0"',
        "",
        "[bootstrap]",
        f"curve_cert = {_quoted(curve_cert)}",
        *(["enable_ipv6 = true"] if lead.ipv6 else []),
        "hosts = [",
        *(f"  {_inline(entry)}," for entry in entries),
        "]",
    ]


def _inline(entry: Mapping[str, str]) -> str:
    return f"{{ {', '.join(f'{key} = {_quoted(value)}' for key, value in entry.items())} }}"


def _quoted(text: str) -> str:
    """As a basic string of TOML, whose escapes JSON shares."""
    return json.dumps(text, ensure_ascii=False)


# -- options of brokers --------------------------------------------------------------------------


def lead_options(own: int, config_path: str) -> tuple[str, ...]:
    """What follows ``flux broker`` on the lead.

    By default rank 0 waits for every host in the list before it runs anything. ``own`` is how
    many brokers it has without the rented ones; a site may set a smaller quorum.
    """
    return f"-Sbroker.quorum={own}", f"--config-path={config_path}"


def follower_options(host: str, config_path: str, rundir: str = "") -> tuple[str, ...]:
    """What follows ``flux broker`` where a rented node comes as ``host``."""
    where = (f"-Srundir={rundir}",) if rundir else ()
    return f"-Shostname={host}", *where, f"--config-path={config_path}"
