"""Where hosts sit, said in the words of those who should know it: one small writer for each.

    annotated_r(R, network)          R with properties, and a graph under its scheduling key
    graph_of(network)                instances as nodes of a graph, with cores, gpus and memory
    merged_jgf(document, network)    a site's own graph, its nodes below their network nodes
    write("slurm", network)          any of FORMATS as text
    amend(R)                         what Flux's own fake-resources calls

Jobs ask for a place by property (``--requires=nn-0123456789abcdef0``), or by structure, with a
jobspec that names ``nn3`` above ``node``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from flux_flex.config import load_config
from flux_flex.errors import BadInput
from flux_flex.model.graph import ResourceGraph, graph_from_r
from flux_flex.model.jgf import graph_of_r, jgf_document, parse_jgf
from flux_flex.model.network import NetworkPlace
from flux_flex.model.placing import place_nodes
from flux_flex.model.quoting import quoted
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r
from flux_flex.topology.answers import TYPES
from flux_flex.topology.dot import dot
from flux_flex.topology.mapping import Network
from flux_flex.topology.site import site_network
from flux_flex.topology.slurm import slurm_conf

FORMATS = ("jgf", "r", "slurm", "dot")


def write(form: str, network: Network) -> str:
    """The network alone in one of :data:`FORMATS`, as text that ends with a newline.

    Raises BadInput where EC2 was not asked about an instance type and ``form`` needs it.
    """
    writers: dict[str, Callable[[], str]] = {
        "jgf": lambda: _text(jgf_document(graph_of(network))),
        "r": lambda: _text(annotated_r(resources_of(network).to_r(), network)),
        "slurm": lambda: slurm_conf(network.tree),
        "dot": lambda: dot(network.tree),
    }
    return writers[form]()


def properties_of(place: NetworkPlace) -> frozenset[str]:
    """What a job may require of a host: its network nodes, zone, Capacity Block, instance type."""
    named = (*place.network_nodes, place.zone, place.capacity_block, place.instance_type)
    return frozenset(named) - {""}


# -- R -------------------------------------------------------------------------------------------


def annotated_r(
    R: Mapping[str, object], network: Network, *, scheduling: bool = True
) -> dict[str, object]:
    """R (RFC 20) with the properties of each rank's place, for ranks whose host has one.

    With ``scheduling`` the graph stands under its scheduling key, where fluxion looks for it: the
    graph that R has there already with the network nodes put in, or one made of R. Raises
    BadInput where R or its graph is malformed, or where its nodes are in something else.
    """
    resources = parse_r(R)
    places = {place.host: place for place in network.places}
    ranks = tuple(
        replace(
            target,
            properties=tuple(sorted({*target.properties, *properties_of(places[target.host])})),
        )
        if target.host in places
        else target
        for target in resources.ranks
    )
    found = replace(resources, ranks=ranks)
    if scheduling:
        found = replace(found, scheduling=jgf_document(_graph_of_r(found, network)))
    return found.to_r()


def _graph_of_r(resources: ResourceSet, network: Network) -> ResourceGraph:
    has_graph = resources.scheduling is not None
    return _placed(graph_of_r(resources), network, memory=not has_graph)


def amend(
    R: Mapping[str, object],
    hwloc_xml: str | None = None,  # noqa: ARG001 - Flux passes it by name
) -> dict[str, object]:
    """R with the site's topology, for ``fake-resources.amend-r`` of Flux's configuration.

    The hosts of R are looked for in ``topology.file`` of flex.toml. Raises BadInput where the
    site has no topology: whoever configured an amender wants to know.
    """
    config = load_config().topology
    network = site_network(config, [target.host for target in parse_r(R).ranks])
    if network is None:
        remedy = "write it with flux-flex topology fetch --format aws, or name it in flex.toml"
        raise BadInput("no such file", config.file, remedy)
    return annotated_r(R, network)


# -- graphs --------------------------------------------------------------------------------------


def graph_of(network: Network) -> ResourceGraph:
    """Instances as node vertices below their network nodes, ranks in the order of the hosts.

    Each has the cores, gpus and memory (in MiB) of its type. Raises BadInput where a type is
    not among ``network.shapes``.
    """
    return _placed(graph_from_r(resources_of(network)), network, memory=True)


def resources_of(network: Network) -> ResourceSet:
    """The instances as an R. Raises BadInput where EC2 was not asked about a type."""
    unknown = {place.instance_type for place in network.places} - network.shapes.keys()
    if unknown:
        names = " ".join(sorted(unknown)[:10])
        what = f"nothing is known of the instance type {quoted(min(unknown))}"
        remedy = f"add the output of aws ec2 {TYPES} --output json --instance-types {names}"
        raise BadInput(what, TYPES, remedy)
    ids = {
        name: (tuple(range(shape.cores)), tuple(range(shape.gpus)))
        for name, shape in network.shapes.items()
    }
    return ResourceSet(
        tuple(
            RankResources(rank, place.host, *ids[place.instance_type])
            for rank, place in enumerate(network.places)
        )
    )


def merged_jgf(document: object, network: Network) -> dict[str, object]:
    """A JGF with its nodes below their network nodes, found by host name.

    Raises BadInput where the document is no JGF, or its nodes are in something else already.
    """
    return jgf_document(_placed(parse_jgf(document), network))


def _placed(graph: ResourceGraph, network: Network, *, memory: bool = False) -> ResourceGraph:
    properties = {place.host: properties_of(place) for place in network.places}
    sizes = {
        place.host: network.shapes[place.instance_type].memory_mib
        for place in network.places
        if memory and place.instance_type in network.shapes
    }
    return place_nodes(graph, network.tree, properties=properties, memory_mib=sizes)


def _text(document: Mapping[str, object]) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"
