"""Reports for programs: the JSON document of ``topology show``, version 1.

Its keys are described in docs/json.md. Lists are flat, and what is above something is named by its
id. What is not known is null, or empty where it is a list.
"""

from __future__ import annotations

from flux_flex.model.jobid import f58
from flux_flex.model.network import NetworkPlace, NetworkTree
from flux_flex.topology.mapping import Network
from flux_flex.topology.standing import PlacedJob, Standing

FORMAT = "flux-flex-topology"
VERSION = 1

Document = dict[str, object]


def topology_document(
    network: Network, standing: Standing, job: PlacedJob | None = None
) -> Document:
    """The report on a network, and on one job if it is given.

    Raises BadInput where the places make no tree.
    """
    tree = network.tree
    return {
        "format": FORMAT,
        "version": VERSION,
        "zones": _zones(network, tree),
        "network_nodes": [
            {"id": name, "layer": layer, "parent": tree.parent_of(name)}
            for layer, names in enumerate(tree.layers, start=1)
            for name in names
        ],
        "hosts": [_host(place, standing) for place in network.places],
        "domains": [
            {"capacity_block": block, "hosts": list(hosts)} for block, hosts in tree.domains.items()
        ],
        "job": None if job is None else _job(job),
        "unmapped": list(network.unmapped),
        "claimed": {host: list(ids) for host, ids in network.claimed.items()},
    }


def _zones(network: Network, tree: NetworkTree) -> list[Document]:
    first: dict[str, NetworkPlace] = {}
    for place in network.places:
        first.setdefault(place.zone, place)
    return [
        {
            "zone": zone,
            "zone_id": first[zone].zone_id or None,
            "region": first[zone].region or None,
        }
        for zone in tree.zones
    ]


def _host(place: NetworkPlace, standing: Standing) -> Document:
    return {
        "host": place.host,
        "instance_id": place.instance_id,
        "instance_type": place.instance_type or None,
        "zone": place.zone,
        "zone_id": place.zone_id or None,
        "region": place.region or None,
        "network_nodes": list(place.network_nodes),
        "capacity_block": place.capacity_block or None,
        "state": standing.states.get(place.host),
        "jobs": list(standing.jobs.get(place.host, ())),
    }


def _job(job: PlacedJob) -> Document:
    return {
        "jobid": f58(job.jobid),
        "id": job.jobid,
        "hosts": list(job.hosts),
        "elsewhere": list(job.elsewhere),
        "span": {
            "layers": list(job.span.layers),
            "diameter": job.span.diameter,
            "mean_hops": round(job.span.mean_hops, 3),
        },
    }
