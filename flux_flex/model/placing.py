"""Network nodes put into a graph: between its root and the nodes that sit below them.

The graph may be that of an R, or a site's own JGF. Its levels above the nodes are those of a
NetworkTree afterwards: ``region`` (if several), ``zone``, and ``nn1`` (top) to ``nnN``. Placing a
graph again replaces these levels.

All nodes are N levels deep then, as fluxion needs it: it gathers slots of nodes from one depth
only. Where EC2 gives fewer layers, vertices of our own fill up: below a leaf one for all of its
hosts; for a host with no network node at all one of its own in each layer, since nothing is known
to be near it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flux_flex.errors import BadInput
from flux_flex.model.graph import NODE, GraphBuilder, ResourceGraph, Vertex
from flux_flex.model.network import NetworkPlace, NetworkTree
from flux_flex.model.quoting import quoted

# The zone of nodes that the network does not know.
UNPLACED = "unplaced"

_LEVEL = re.compile(r"region|zone|nn[1-9][0-9]*")


def place_nodes(
    graph: ResourceGraph,
    network: NetworkTree,
    *,
    properties: Mapping[str, frozenset[str]] | None = None,
    memory_mib: Mapping[str, int] | None = None,
) -> ResourceGraph:
    """The graph with its node vertices below the network nodes of their hosts, found by name.

    Nodes that the network does not know are in the zone ``unplaced``. ``properties`` are added to
    the nodes of these hosts, and ``memory_mib`` as a vertex of type ``memory`` where a node has
    none. Vertices are numbered anew; their ranks, sizes and local ids stay.

    Raises BadInput where nodes are in something else already, such as racks, where containers
    share nodes, and where two vertices would have one path.
    """
    if graph.same is not None:
        what = "containers share nodes in this graph, so they have no place of their own"
        raise BadInput(what, graph.names[0], "give a graph that is a tree")
    nodes = graph.of_type(NODE).tolist()
    _refuse_other_levels(graph, nodes)
    builder = GraphBuilder()
    root = builder.add(_vertex(graph, 0))
    placed = _add_network(builder, root, _filled_up(network, [graph.names[node] for node in nodes]))
    for child in graph.children(0):
        if graph.type_name(child) != NODE and not _LEVEL.fullmatch(graph.type_name(child)):
            _copy(graph, child, builder, root)
    for node in nodes:
        host = graph.names[node]
        more = (properties or {}).get(host, frozenset())
        number = _copy(graph, node, builder, placed[host], more)
        size = (memory_mib or {}).get(host, 0)
        if size and not any(graph.type_name(child) == "memory" for child in graph.children(node)):
            rank = int(graph.rank[node])
            builder.add(Vertex("memory", "memory0", size=size, unit="MiB", rank=rank), number)
    found = builder.build()
    _refuse_shared_paths(found)
    return found


def _filled_up(network: NetworkTree, hosts: Sequence[str]) -> NetworkTree:
    """A tree of these hosts in which each has as many network nodes above it."""
    wanted = set(hosts)
    places = [place for place in network.places if place.host in wanted]
    wanted -= {place.host for place in places}
    has_regions = len({place.region for place in places} - {""}) > 1
    region = f"{UNPLACED}-region" if has_regions else ""
    places += [
        NetworkPlace(host, (), "", "", UNPLACED, region=region)
        for host in dict.fromkeys(hosts)
        if host in wanted
    ]
    layers = max((len(place.network_nodes) for place in places), default=0)
    return NetworkTree.from_places([_padded(place, layers) for place in places])


def _padded(place: NetworkPlace, layers: int) -> NetworkPlace:
    nodes = place.network_nodes
    leaf = nodes[-1] if nodes else place.host
    more = tuple(f"{leaf}.nn{layer}" for layer in range(len(nodes) + 1, layers + 1))
    return replace(place, network_nodes=nodes + more)


def _add_network(builder: GraphBuilder, root: int, network: NetworkTree) -> dict[str, int]:
    """Add the network nodes below ``root``; return the vertex that each host goes below."""
    above = [root]  # above[d] is what a branch of depth d hangs from
    numbers: dict[str, int] = {}
    placed: dict[str, int] = {}
    n_upper = 2 if network.regions else 1
    for branch in network:
        if branch.kind == "host":
            placed[branch.name] = above[branch.depth]
            continue
        del above[branch.depth + 1 :]
        is_layer = branch.kind == "network node"
        kind = f"nn{branch.depth - n_upper + 1}" if is_layer else branch.kind
        vertex = Vertex(kind, branch.name, numbers.get(kind, 0))
        numbers[kind] = vertex.local_id + 1
        above.append(builder.add(vertex, above[branch.depth]))
    return placed


def _refuse_other_levels(graph: ResourceGraph, nodes: list[int]) -> None:
    checked = {0, -1}
    for node in nodes:
        above = int(graph.parent[node])
        while above not in checked:
            kind = graph.type_name(above)
            if not _LEVEL.fullmatch(kind):
                what = f"node {quoted(graph.names[node])} is in {quoted(graph.names[above])}"
                remedy = f"take the level {quoted(kind)} out: a node can be in one tree only"
                raise BadInput(f"{what} already", graph.path(above), remedy)
            checked.add(above)
            above = int(graph.parent[above])


def _copy(
    graph: ResourceGraph,
    top: int,
    builder: GraphBuilder,
    above: int,
    properties: frozenset[str] = frozenset(),
) -> int:
    """Copy a subtree; the number that its top has in the builder."""
    numbers: dict[int, int] = {int(graph.parent[top]): above}
    for vertex in range(top, int(graph.end[top])):
        more = properties if vertex == top else frozenset()
        new = _vertex(graph, vertex, more)
        numbers[vertex] = builder.add(new, numbers[int(graph.parent[vertex])])
    return numbers[top]


def _vertex(graph: ResourceGraph, number: int, properties: frozenset[str] = frozenset()) -> Vertex:
    return Vertex(
        type=graph.type_name(number),
        name=graph.names[number],
        local_id=int(graph.local_id[number]),
        size=int(graph.size[number]),
        rank=int(graph.rank[number]),
        unit=graph.units.get(number, ""),
        properties=graph.properties.get(number, frozenset()) | properties,
    )


def _refuse_shared_paths(graph: ResourceGraph) -> None:
    seen: set[tuple[int, str]] = set()
    for above, name in zip(graph.parent.tolist(), graph.names, strict=True):
        if (above, name) in seen:
            what = f"two vertices would be called {quoted(name)}"
            raise BadInput(what, graph.path(above), "give the hosts other names")
        seen.add((above, name))
