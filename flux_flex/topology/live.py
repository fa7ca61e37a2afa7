"""A running instance is told where its hosts sit: its key-value store, and its fluxion.

    told = tell(FluxInstance(), answers, network)

Fluxion's vertices take properties while it runs (sched-fluxion-resource.set_property), so
``--requires`` works at once. Levels of the graph need R to say so when the instance starts.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.graph import NODE
from flux_flex.model.jgf import graph_of_r, paths_of
from flux_flex.model.network import NetworkPlace
from flux_flex.model.rv1 import parse_r
from flux_flex.topology.answers import Answers, read_answers
from flux_flex.topology.mapping import Network, network_of_hosts
from flux_flex.topology.site import KVS_KEY

FLUXION = "sched-fluxion-resource"
SET = f"{FLUXION}.set_property"
REMOVE = f"{FLUXION}.remove_property"

# R as the resource module keeps it, with the scheduling key, which its RPCs leave out.
_R_KEY = "resource.R"


class Told(Protocol):
    """What is needed of an instance; host/flux_instance.py has the real one."""

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]: ...

    def modules(self) -> Collection[str]: ...

    def kvs_get(self, key: str) -> object: ...

    def kvs_put(self, key: str, value: object) -> None: ...


def tell(instance: Told, answers: Answers, network: Network) -> int | None:
    """Tell an instance where the hosts of ``network`` sit. How many properties fluxion got.

    None where the scheduler is not fluxion, which alone takes properties while it runs. What an
    earlier call told and no longer holds is removed. Raises FlexError for what a broker refuses:
    only the owner of an instance may tell it anything.
    """
    before = _told_before(instance, network)
    instance.kvs_put(KVS_KEY, answers.only(p.instance_id for p in network.places).document())
    if FLUXION not in instance.modules():
        return None
    paths = _paths(instance)
    wanted, stale = _by_property(network.places), _by_property(before)
    for (name, _), hosts in stale.items():
        now = {host for (other, _), some in wanted.items() if other == name for host in some}
        _remove(instance, name, [paths[h] for h in hosts if h in paths and h not in now])
    told = 0
    for (name, value), hosts in wanted.items():
        known = [paths[host] for host in hosts if host in paths]
        _set(instance, f"{name}={value}", known)
        told += len(known)
    return told


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


def _paths(instance: Told) -> dict[str, str]:
    """The containment path of each host's node in fluxion's graph."""
    try:
        R = instance.kvs_get(_R_KEY)
    except BadInput:
        R = instance.rpc("resource.status", nodeid=0).get("R")
    graph = graph_of_r(parse_r(R))
    nodes = graph.of_type(NODE).tolist()
    names = (graph.names[node] for node in nodes)
    return dict(zip(names, paths_of(graph, nodes), strict=True))


def _told_before(instance: Told, network: Network) -> tuple[NetworkPlace, ...]:
    """Where these hosts sat when the instance was last told; nothing if it never was."""
    try:
        document = instance.kvs_get(KVS_KEY)
        answers = read_answers([(KVS_KEY, document)])
    except BadInput:
        return ()
    ids = {place.host: place.instance_id for place in network.places}
    return network_of_hosts(answers, ids, ids).places


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
