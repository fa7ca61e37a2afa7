"""Network nodes put into a graph: between its root and the nodes that sit below them.

The graph may be that of an R, or a site's own JGF. Its levels above the nodes are those of a
NetworkTree afterwards: ``region`` (if several), ``zone``, and ``nn1`` (top) to ``nnN``. Placing a
graph again replaces these levels; what else a site has in a level of these types (a zone's burst
buffer, say) hangs from the root then.

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
from flux_flex.model.graph import (
    NODE,
    GraphBuilder,
    Properties,
    ResourceGraph,
    Vertex,
    values_of,
)
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
    stale: frozenset[str] = frozenset(),
    memory_mib: Mapping[str, int] | None = None,
) -> ResourceGraph:
    """The graph with its node vertices below the network nodes of their hosts, found by name.

    Nodes that the network does not know are in the zone ``unplaced``. Properties in ``stale`` are
    taken from all nodes, then ``properties`` are added to the nodes of these hosts, and
    ``memory_mib`` as a vertex of type ``memory`` where a node has none anywhere in it. Vertices are
    numbered anew; their ranks, sizes and local ids stay.

    Raises BadInput where the root is a node, where nodes are in something else already, such as
    racks, where containers share nodes, and where two vertices would have one path.
    """
    if graph.same is not None:
        what = "containers share nodes in this graph, so they have no place of their own"
        raise BadInput(what, graph.names[0], "give a graph that is a tree")
    if graph.type_name(0) == NODE:
        remedy = "put it below a vertex of type cluster"
        raise BadInput("the root is a node, which has no room above it", graph.path(0), remedy)
    nodes = graph.of_type(NODE).tolist()
    _refuse_other_levels(graph, nodes)
    vertices = _vertices(graph)
    builder = GraphBuilder()
    root = builder.add(vertices[0])
    placed = _add_network(builder, root, _filled_up(network, [graph.names[node] for node in nodes]))
    for vertex in _beside_the_nodes(graph):
        _copy(graph, vertices, vertex, builder, root)
    with_memory = set(graph.node_of[graph.of_type("memory")].tolist())
    for node in nodes:
        host = graph.names[node]
        more = (properties or {}).get(host, frozenset())
        held = vertices[node].properties
        kept = Properties((held - stale) | more, values_of(held))
        vertices[node] = replace(vertices[node], properties=kept)
        number = _copy(graph, vertices, node, builder, placed[host])
        size = (memory_mib or {}).get(host, 0)
        if size and node not in with_memory:
            rank = int(graph.rank[node])
            builder.add(Vertex("memory", "memory0", size=size, unit="MiB", rank=rank), number)
    found = builder.build()
    _refuse_shared_paths(found)
    return found


def levels_of(graph: ResourceGraph) -> frozenset[str]:
    """The names of all regions, zones and network nodes that a graph has."""
    kinds = [kind for kind in graph.types if _LEVEL.fullmatch(kind)]
    return frozenset(graph.names[v] for kind in kinds for v in graph.of_type(kind).tolist())


def _beside_the_nodes(graph: ResourceGraph) -> list[int]:
    """What hangs from the root or from a level that will be replaced, and is neither node nor
    level, in depth-first order."""
    found: list[int] = []
    waiting = [0]
    while waiting:
        vertex = waiting.pop()
        kind = graph.type_name(vertex)
        if vertex == 0 or _LEVEL.fullmatch(kind):
            waiting += reversed(graph.children(vertex))
        elif kind != NODE:
            found.append(vertex)
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
    graph: ResourceGraph, vertices: Sequence[Vertex], top: int, builder: GraphBuilder, above: int
) -> int:
    """Copy a subtree; the number that its top has in the builder."""
    last = int(graph.end[top])
    numbers: dict[int, int] = {int(graph.parent[top]): above}
    for vertex, parent in enumerate(graph.parent[top:last].tolist(), start=top):
        numbers[vertex] = builder.add(vertices[vertex], numbers[parent])
    return numbers[top]


def _vertices(graph: ResourceGraph) -> list[Vertex]:
    """The vertices of a graph as they were added, numbered anew by the graph that they go to."""
    # Whole columns: a graph has some hundred vertices for each node.
    columns = (graph.type_of, graph.local_id, graph.size, graph.rank)
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Vertex(
            type=graph.types[code],
            name=name,
            local_id=local_id,
            size=size,
            rank=rank,
            unit=graph.units.get(vertex, ""),
            properties=graph.properties.get(vertex, frozenset()),
        )
        for vertex, (name, (code, local_id, size, rank)) in enumerate(
            zip(graph.names, numbers, strict=True)
        )
    ]


def _refuse_shared_paths(graph: ResourceGraph) -> None:
    seen: dict[tuple[int, str], int] = {}
    for vertex, pair in enumerate(zip(graph.parent.tolist(), graph.names, strict=True)):
        before = seen.setdefault(pair, vertex)
        if before == vertex:
            continue
        one, other = graph.type_name(before), graph.type_name(vertex)
        what = f"two vertices would be called {quoted(pair[1])}, a {one} and a {other}"
        remedy = f"give the {other} another name"
        raise BadInput(what, graph.path(int(graph.parent[vertex])), remedy)
