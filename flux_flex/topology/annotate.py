"""Where hosts sit, said in the words of those who should know it: one small writer for each.

    annotated_r(R, network)          R with properties, and a graph under its scheduling key
    graph_document_of_r(R, network)  that graph alone
    graph_of(network)                instances as nodes of a graph, with cores, gpus and memory
    merged_jgf(document, network)    a site's own graph, its nodes below their network nodes
    write("slurm", network)          any of FORMATS as text
    amend(R)                         what Flux's own fake-resources calls

Jobs ask for a place by property (``--requires=nn-0123456789abcdef0``), or by structure, with a
jobspec that names ``nn3`` above ``node``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from flux_flex.config import load_config
from flux_flex.errors import BadInput
from flux_flex.model.graph import ResourceGraph, graph_from_r
from flux_flex.model.jgf import graph_of_r, has_graph, jgf_document, parse_jgf
from flux_flex.model.network import NetworkPlace
from flux_flex.model.placing import levels_of, place_nodes
from flux_flex.model.quoting import quoted
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r
from flux_flex.topology.answers import TYPES
from flux_flex.topology.dot import dot
from flux_flex.topology.mapping import Network
from flux_flex.topology.site import site_network
from flux_flex.topology.slurm import slurm_conf

FORMATS = ("jgf", "r", "slurm", "dot")

# EC2's ids of network nodes: no other property looks like one.
_NETWORK_NODE = re.compile(r"nn-[0-9a-f]{8,17}")


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
    graph that R has there already with the network nodes put in, or one made of R.

    R may have been annotated before, and its hosts may have moved since. So all ranks lose the
    properties that say where or on what a host is, before they are added anew: whatever is the
    name of a region, zone or network node in R's own graph; of a network node, zone, Capacity
    Block or instance type in ``network``; or has the form of a network node's id. What a site says
    of its hosts in other words stays.

    Raises BadInput where R or its graph is malformed, where its nodes are in something else, and
    with ``scheduling`` where the scheduling key is another scheduler's: it would be lost.
    """
    resources = parse_r(R)
    is_ours = has_graph(resources)
    if scheduling and resources.scheduling is not None and not is_ours:
        what = "R has what another scheduler than fluxion keeps there, and a graph would replace it"
        raise BadInput(what, "scheduling", "keep it with --no-scheduling, or take it out of R")
    graph = graph_of_r(resources) if scheduling or is_ours else None
    stale = _stale(resources, graph, network)
    properties = _properties(network)
    ranks = tuple(
        replace(
            target,
            properties=tuple(
                sorted({*target.properties} - stale | properties.get(target.host, frozenset()))
            ),
        )
        for target in resources.ranks
    )
    found = replace(resources, ranks=ranks)
    if scheduling and graph is not None:
        placed = _placed(graph, network, stale, memory=not is_ours)
        found = replace(found, scheduling=jgf_document(placed))
    return found.to_r()


def graph_document_of_r(R: Mapping[str, object], network: Network) -> dict[str, object]:
    """The JGF of an R with its nodes below their network nodes, as :func:`annotated_r` puts it
    under the scheduling key; what another scheduler has there does not matter.

    Raises BadInput where R or its graph is malformed, or where its nodes are in something else.
    """
    resources = parse_r(R)
    graph = graph_of_r(resources)
    stale = _stale(resources, graph, network)
    return jgf_document(_placed(graph, network, stale, memory=not has_graph(resources)))


def _stale(
    resources: ResourceSet | None, graph: ResourceGraph | None, network: Network
) -> frozenset[str]:
    """Properties that an earlier network, or this one, may have given; see :func:`annotated_r`."""
    held: set[str] = set()
    if resources is not None:
        held.update(name for target in resources.ranks for name in target.properties)
    if graph is not None:
        held.update(*graph.properties.values())
    told = frozenset[str]().union(network.shapes, *_properties(network).values())
    levels = levels_of(graph) if graph is not None else frozenset()
    return frozenset(name for name in held if _NETWORK_NODE.fullmatch(name)) | told | levels


def _properties(network: Network) -> dict[str, frozenset[str]]:
    return {place.host: properties_of(place) for place in network.places}


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
    return _placed(graph_from_r(resources_of(network)), network, frozenset(), memory=True)


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

    Nodes lose what an earlier network gave them, as ranks do in :func:`annotated_r`. Raises
    BadInput where the document is no JGF, or its nodes are in something else already.
    """
    graph = parse_jgf(document)
    return jgf_document(_placed(graph, network, _stale(None, graph, network)))


def _placed(
    graph: ResourceGraph, network: Network, stale: frozenset[str], *, memory: bool = False
) -> ResourceGraph:
    sizes = {
        place.host: network.shapes[place.instance_type].memory_mib
        for place in network.places
        if memory and place.instance_type in network.shapes
    }
    properties = _properties(network)
    return place_nodes(graph, network.tree, properties=properties, stale=stale, memory_mib=sizes)


def _text(document: Mapping[str, object]) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"
