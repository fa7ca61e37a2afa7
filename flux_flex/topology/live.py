"""A running instance is told where its hosts sit: its key-value store, and its fluxion.

    told = tell(FluxInstance(), answers, network)

Fluxion's vertices take properties while it runs (sched-fluxion-resource.set_property), so
``--requires`` works at once. Levels of the graph need R to say so when the instance starts.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.graph import NODE
from flux_flex.model.jgf import graph_of_r, paths_of
from flux_flex.model.network import NetworkPlace
from flux_flex.model.rv1 import parse_r
from flux_flex.topology.answers import Answers
from flux_flex.topology.mapping import Network, network_of_hosts
from flux_flex.topology.site import KVS_KEY, read_told, told_document

FLUXION = "sched-fluxion-resource"
SET = f"{FLUXION}.set_property"
REMOVE = f"{FLUXION}.remove_property"

# R as the resource module keeps it, with the scheduling key, which its RPCs leave out.
_R_KEY = "resource.R"


class HasR(Protocol):
    """What R is read of."""

    def resources(self) -> Mapping[str, object]: ...

    def kvs_get(self, key: str) -> object: ...


class Told(HasR, Protocol):
    """What is needed of an instance; host/flux_instance.py has the real one."""

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]: ...

    def modules(self) -> Collection[str]: ...

    def kvs_put(self, key: str, value: object) -> None: ...


def tell(instance: Told, answers: Answers, network: Network) -> int | None:
    """Tell an instance where the hosts of ``network`` sit. How many properties fluxion got.

    None where the scheduler is not fluxion, which alone takes properties while it runs. What an
    earlier call told and no longer holds is removed, of hosts without a place too. Brokers that
    share a host share its properties. Raises FlexError for what a broker refuses: only the owner of
    an instance may tell it anything.
    """
    hosts = {place.host: place.instance_id for place in network.places}
    document = told_document(answers.only(hosts.values()), hosts)
    told = _tell_fluxion(instance, network) if FLUXION in instance.modules() else None
    # Last, for it says what fluxion has to be rid of next time: where fluxion refuses in between,
    # another call does all of it again.
    instance.kvs_put(KVS_KEY, document)
    return told


def whole_r(instance: HasR) -> Mapping[str, object]:
    """R of the whole instance, with the scheduling key where there is one.

    The KVS has R as it was when the instance began. Where other ranks or hosts have come since, R
    is what the resource module says now, without that key, which would say nothing of them. Raises
    FlexError where the instance does not answer.
    """
    now = instance.resources()
    try:
        kept = instance.kvs_get(_R_KEY)
        if _ranks(kept) != _ranks(now):
            return now
    except BadInput:  # no such key, or no R
        return now
    assert isinstance(kept, Mapping)
    return kept


def refuses_unknown_properties(instance: Told) -> bool:
    """Whether jobs are checked at submission by fluxion's feasibility service, which has a graph
    of its own that takes no properties: it then refuses jobs that require what was told."""
    try:
        found: object = instance.rpc("config.get", nodeid=0)
    except FlexError:
        return False
    for word in ("ingest", "validator", "plugins"):
        found = found.get(word) if isinstance(found, Mapping) else None
    return isinstance(found, list) and "feasibility" in found


def _by_property(places: Iterable[NetworkPlace]) -> dict[tuple[str, str], list[str]]:
    """Hosts by property: its name is what a job requires, its value says what it is."""
    found: dict[tuple[str, str], list[str]] = {}
    for place in places:
        pairs = [(name, f"nn{layer}") for layer, name in enumerate(place.network_nodes, start=1)]
        pairs += [
            (place.zone, "zone"),
            (place.capacity_block, "capacity-block"),
            (place.instance_type, "instance-type"),
        ]
        for name, value in pairs:
            if name:
                found.setdefault((name, value), []).append(place.host)
    return found


def _ranks(R: object) -> tuple[tuple[int, str], ...]:
    return tuple((target.rank, target.host) for target in parse_r(R).ranks)


def _tell_fluxion(instance: Told, network: Network) -> int:
    """Remove what no longer holds, set what does. How many properties were set."""
    paths = _paths(instance)
    wanted, before = _by_property(network.places), _by_property(_told_before(instance, paths))
    now: dict[str, set[str]] = {}
    for (name, _), hosts in wanted.items():
        now.setdefault(name, set()).update(hosts)
    for (name, _), hosts in before.items():
        stale = [host for host in hosts if host not in now.get(name, ())]
        _remove(instance, name, [path for host in stale for path in paths.get(host, ())])
    told = 0
    for (name, value), hosts in wanted.items():
        known = [path for host in hosts for path in paths.get(host, ())]
        _set(instance, f"{name}={value}", known)
        told += len(known)
    return told


def _paths(instance: HasR) -> dict[str, list[str]]:
    """The containment paths of each host's nodes in fluxion's graph, each path once.

    Fluxion calls the nodes of all ranks of a host alike, and a property that is set by their path
    is set on all of them.
    """
    resources = parse_r(whole_r(instance))
    scheduling = resources.scheduling
    # The paths of nodes do not depend on what is in these.
    bare = {target.host: replace(target, cores=(), gpus=()) for target in resources.ranks}
    if not isinstance(scheduling, Mapping) or "graph" not in scheduling:
        resources = replace(resources, ranks=tuple(bare.values()))
    elif len(bare) < len(resources.ranks):
        return _stated_paths(scheduling["graph"])
    graph = graph_of_r(resources)
    nodes = graph.once(graph.of_type(NODE)).tolist()
    found: dict[str, list[str]] = {}
    for node, path in zip(nodes, paths_of(graph, nodes), strict=True):
        found.setdefault(graph.names[node], []).append(path)
    return found


def _stated_paths(graph: object) -> dict[str, list[str]]:
    """The same of a JGF where ranks share a host: two nodes of one path, which fluxion takes, are
    no ResourceGraph. What states no path is left out."""
    found: dict[str, dict[str, None]] = {}
    vertices = graph.get("nodes") if isinstance(graph, Mapping) else None
    for vertex in vertices if isinstance(vertices, list) else ():
        match vertex:
            case {
                "metadata": {"type": "node", "name": str(name), "paths": {"containment": str(p)}}
            }:
                found.setdefault(name, {})[p] = None
    return {name: list(paths) for name, paths in found.items()}


def _told_before(instance: HasR, hosts: Iterable[str]) -> tuple[NetworkPlace, ...]:
    """Where hosts sat when the instance was last told; nothing if it never was.

    All that were told then: their own map has them. Before there was one, ``hosts`` by name.
    """
    try:
        answers, told = read_told(instance.kvs_get(KVS_KEY))
    except BadInput:
        return ()
    return network_of_hosts(answers, told or hosts, told).places


def _set(instance: Told, keyval: str, paths: Sequence[str]) -> None:
    """Set one property of many vertices; one at a time where fluxion takes no list."""
    if not paths:
        return
    try:
        instance.rpc(SET, {"sp_resource_path": list(paths), "sp_keyval": keyval}, nodeid=0)
    except FlexError as error:
        if getattr(error, "errno", 0) not in (errno.EPROTO, errno.EINVAL):
            raise
        for path in paths:
            instance.rpc(SET, {"sp_resource_path": path, "sp_keyval": keyval}, nodeid=0)


def _remove(instance: Told, name: str, paths: Sequence[str]) -> None:
    for path in paths:
        instance.rpc(REMOVE, {"resource_path": path, "key": name}, nodeid=0)
