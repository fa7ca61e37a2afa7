"""JSON Graph Format in fluxion's dialect: read into a ResourceGraph, and written from one.

A vertex is ``{"id": "4", "metadata": {"type": "node", "name": "node0", "paths": ...}}``; an edge
says ``"subsystem": "containment"`` in newer files and ``"name": {"containment": "contains"}`` in
older ones, and both are read. The metadata keys are those of fluxion's JGF reader
(flux-sched, resource/readers/resource_reader_jgf). Ids may be any text; order comes from edges.

Of a vertex's metadata the keys that a ResourceGraph has are kept, and the values of its properties;
any other key (``status``, say, or a site's own) is ignored and not written again.

A vertex may be contained in several others, as a node is that containers share. Then each of its
paths becomes a vertex of the ResourceGraph; written, it is one again, with all its edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.model.graph import (
    NODE,
    Properties,
    ResourceGraph,
    Vertex,
    graph_from_r,
    lay_out,
    values_of,
)
from flux_flex.model.quoting import clipped_int, quoted
from flux_flex.model.rv1 import ResourceSet

# Numbers above cannot be told apart in JSON, nor could sums of them be kept in 64 bits.
MAX_SIZE = 1 << 53

# A few edges can make any number of paths. These are enough for three containers that each hold
# all of 16,384 nodes with 64 cores and 4 gpus. Steps are from each path's end up to the root.
MAX_PATHS = 4_000_000
MAX_STEPS = 16_000_000

# Both dialects at once: each fluxion reads its own key and ignores the other.
_CONTAINS = {"subsystem": "containment", "name": {"containment": "contains"}}


def parse_jgf(value: object) -> ResourceGraph:
    """Read a decoded JGF document, a mapping with ``graph.nodes`` and ``graph.edges``.

    Raises BadInput, with the place, for missing keys, repeated ids, edges to or from vertices
    that do not exist, a second root, a repeated edge, a cycle, two vertices of one path, for more
    paths of shared vertices than ``MAX_PATHS``, and sizes that add up to more than ``MAX_SIZE``.
    """
    graph = _mapping(_mapping(value, "").get("graph"), "graph")
    nodes = _list(graph.get("nodes"), "graph.nodes")
    if not nodes:
        raise BadInput("no vertices", "graph.nodes", "describe at least one vertex")
    index: dict[str, int] = {}
    vertices = []
    for i, item in enumerate(nodes):
        place = f"graph.nodes[{i}]"
        identity, vertex = _vertex(item, place)
        if identity in index:
            what = f"the id {quoted(identity)} is used by graph.nodes[{index[identity]}] already"
            raise BadInput(what, f"{place}.id", "give each vertex an id of its own")
        index[identity] = i
        vertices.append(vertex)
    children = _containment(_list(graph.get("edges", []), "graph.edges"), index)
    return _unfolded(vertices, children, list(index))


def has_graph(resources: ResourceSet) -> bool:
    """Whether an R has a graph under its scheduling key, which may also be another scheduler's."""
    return isinstance(resources.scheduling, Mapping) and "graph" in resources.scheduling


def graph_of_r(resources: ResourceSet) -> ResourceGraph:
    """The graph of an R: the one under its scheduling key, if there is one, as fluxion has it.

    Raises BadInput where that graph is malformed or has other nodes than R, and as
    :func:`~flux_flex.model.graph.graph_from_r` does.
    """
    if not has_graph(resources):
        return graph_from_r(resources)
    try:
        graph = parse_jgf(resources.scheduling)
    except BadInput as error:
        raise error.at("scheduling") from None
    nodes = graph.once(graph.of_type(NODE)).tolist()
    told = {(int(graph.rank[node]), graph.names[node]) for node in nodes}
    if told != {(target.rank, target.host) for target in resources.ranks}:
        what, remedy = "other nodes than R has", "write both anew, or take the scheduling key out"
        raise BadInput(what, "scheduling.graph.nodes", remedy)
    return graph


def jgf_document(graph: ResourceGraph, kept: Sequence[int] | None = None) -> dict[str, object]:
    """The JGF of a graph, or of those of its vertices in ``kept`` and the edges among them.

    Aliases are one vertex in it, with the edges of all and the path of the first.
    """
    shown = range(len(graph)) if kept is None else sorted(kept)
    present = set(shown)
    same = range(len(graph)) if graph.same is None else graph.same.tolist()
    first: dict[int, int] = {}
    for v in shown:
        first.setdefault(same[v], v)
    parent = graph.parent.tolist()
    ends = dict.fromkeys((same[parent[v]], same[v]) for v in shown if parent[v] in present)
    ids = {identity: str(identity) for identity in first}
    edges = [{"source": ids[above], "target": ids[v], "metadata": _CONTAINS} for above, v in ends]
    return {"graph": {"nodes": _node_entries(graph, first, ids), "edges": edges}}


def _node_entries(
    graph: ResourceGraph, first: Mapping[int, int], ids: Mapping[int, str]
) -> list[dict[str, object]]:
    """One entry for each number in ``first``, which gives the vertex that it describes."""
    shown = np.fromiter(first.values(), dtype=np.int64, count=len(first))
    # Whole columns, and each path from its parent's: a graph may have a million vertices.
    columns = (graph.type_of, graph.local_id, graph.uniq_id, graph.rank, graph.size)
    numbers = zip(*(column[shown].tolist() for column in columns), strict=True)
    paths = paths_of(graph, shown.tolist())
    entries: list[dict[str, object]] = []
    for (identity, vertex), (code, local_id, uniq_id, rank, size), path in zip(
        first.items(), numbers, paths, strict=True
    ):
        kind = graph.types[code]
        metadata: dict[str, object] = {
            "type": kind,
            "basename": kind,
            "name": graph.names[vertex],
            "id": local_id,
            "uniq_id": uniq_id,
            "rank": rank,
            "exclusive": False,
            "unit": graph.units.get(vertex, ""),
            "size": size,
            "paths": {"containment": path},
        }
        if vertex in graph.properties:
            held = graph.properties[vertex]
            values = values_of(held)
            metadata["properties"] = {name: values.get(name, "") for name in sorted(held)}
        entries.append({"id": ids[identity], "metadata": metadata})
    return entries


def _vertex(value: object, place: str) -> tuple[str, Vertex]:
    item = _mapping(value, place)
    identity = _identity(item.get("id"))
    if identity is None:
        raise BadInput("a vertex without an id", f"{place}.id", "give it a text or a number")
    metadata = _mapping(item.get("metadata"), f"{place}.metadata")
    place = f"{place}.metadata"
    kind = _name(metadata.get("type"), f"{place}.type")
    local_id = _whole(metadata.get("id", 0), f"{place}.id", least=-1)
    name = metadata.get("name")
    if name is None:
        basename = _name(metadata.get("basename", kind), f"{place}.basename")
        name = f"{basename}{local_id}"
    return identity, Vertex(
        type=kind,
        name=_name(name, f"{place}.name"),
        local_id=local_id,
        size=_whole(metadata.get("size", 1), f"{place}.size", least=0),
        rank=_whole(metadata.get("rank", -1), f"{place}.rank", least=-1),
        unit=_unit(metadata.get("unit", ""), f"{place}.unit"),
        uniq_id=_whole(metadata.get("uniq_id", -1), f"{place}.uniq_id", least=-1),
        properties=_properties(metadata.get("properties"), f"{place}.properties"),
    )


def _properties(value: object, place: str) -> frozenset[str]:
    """Properties are a mapping of name to value, kept where it is text; older files have a list."""
    if value is None:
        return frozenset()
    if isinstance(value, (Mapping, list)) and all(isinstance(key, str) for key in value):
        pairs = value.items() if isinstance(value, Mapping) else ()
        values = {key: text for key, text in pairs if isinstance(text, str) and text}
        return Properties(value, values) if values else frozenset(value)
    raise BadInput("properties that are not names", place, 'use {"efa": ""}')


def _containment(edges: list[object], index: Mapping[str, int]) -> list[list[int]]:
    """Children by vertex, from the containment edges."""
    children: list[list[int]] = [[] for _ in index]
    seen: set[tuple[int, int]] = set()
    ids = list(index)
    for i, value in enumerate(edges):
        place = f"graph.edges[{i}]"
        item = _mapping(value, place)
        source, target = (_end(item, key, index, place) for key in ("source", "target"))
        if not _contains(item, place):
            continue
        if (source, target) in seen:
            what = f"vertex {quoted(ids[target])} is contained in {quoted(ids[source])} twice"
            raise BadInput(what, place, "keep one containment edge between two vertices")
        seen.add((source, target))
        children[source].append(target)
    return children


def _end(item: Mapping[str, object], key: str, index: Mapping[str, int], place: str) -> int:
    identity = _identity(item.get(key))
    number = None if identity is None else index.get(identity)
    if number is None:
        what = "an edge to nowhere" + (
            "" if identity is None else f": there is no vertex {quoted(identity)}"
        )
        raise BadInput(what, f"{place}.{key}", "name the id of a vertex in graph.nodes")
    return number


def _identity(value: object) -> str | None:
    """An id as text, so that 4 and "4" are one; None for what is no id."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return clipped_int(value)
    return None


def _contains(item: Mapping[str, object], place: str) -> bool:
    """Whether an edge is containment downwards; ``in`` edges of old files point back up."""
    metadata = item.get("metadata")
    if metadata is None:
        return True
    metadata = _mapping(metadata, f"{place}.metadata")
    if "subsystem" in metadata:
        return metadata["subsystem"] == "containment"
    name = metadata.get("name", {"containment": "contains"})
    return isinstance(name, Mapping) and name.get("containment") == "contains"


def _unfolded(vertices: list[Vertex], children: list[list[int]], ids: list[str]) -> ResourceGraph:
    contained = set().union(*children)
    roots = [i for i in range(len(vertices)) if i not in contained]
    if not roots:
        raise BadInput("a cycle: every vertex has a parent", "graph.edges", "leave one root")
    if len(roots) > 1:
        names = ", ".join(quoted(ids[i]) for i in roots[:3])
        what = f"{len(roots)} roots ({names}{', …' if len(roots) > 3 else ''})"
        raise BadInput(what, "graph.edges", "connect every vertex to one root")
    _check_unfolding(children, roots[0], ids)
    graph = lay_out(vertices, children, roots[0])
    _check_paths(graph)
    if sum(graph.size.tolist()) > MAX_SIZE:
        raise BadInput("sizes that add up to too much", "graph.nodes", f"stay below {MAX_SIZE}")
    return graph


def _check_unfolding(children: list[list[int]], root: int, ids: list[str]) -> None:
    """Refuse cycles, and shared vertices with too many paths, before any path is made.

    Kahn's algorithm: a vertex is counted when all that contains it has been.
    """
    n = len(children)
    waiting = [0] * n  # edges into a vertex that have not been followed yet
    for below in children:
        for child in below:
            waiting[child] += 1
    is_tree = max(waiting) < 2
    paths, steps = [0] * n, [0] * n
    paths[root] = 1
    ready, counted, all_paths, all_steps = [root], 0, 0, 0
    while ready:
        vertex = ready.pop()
        counted += 1
        all_paths += paths[vertex]
        all_steps += steps[vertex]
        if not is_tree and (all_paths > MAX_PATHS or all_steps > MAX_STEPS):
            what = f"shared vertices with too many paths, more than {MAX_PATHS} or too deep"
            raise BadInput(what, "graph.edges", "let fewer containers share a vertex")
        for child in children[vertex]:
            paths[child] += paths[vertex]
            steps[child] += steps[vertex] + paths[vertex]
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    if counted < n:
        # All is below the one root or on a cycle, so what was never ready lies on or below one.
        what = f"a cycle through vertex {quoted(ids[_on_a_cycle(children, waiting)])}"
        raise BadInput(what, "graph.edges", "remove one of the edges on it")


def _on_a_cycle(children: list[list[int]], waiting: list[int]) -> int:
    """A vertex on a cycle, among those with edges that wait: each has such a parent."""
    parent = {child: i for i, below in enumerate(children) if waiting[i] for child in below}
    vertex = next(i for i, edges in enumerate(waiting) if edges)
    trail: set[int] = set()
    while vertex not in trail:
        trail.add(vertex)
        vertex = parent[vertex]
    return vertex


def _check_paths(graph: ResourceGraph) -> None:
    """Names below one parent must differ: a path names one vertex."""
    parents = graph.parent.tolist()
    twice = [pair for pair, n in Counter(zip(parents, graph.names, strict=True)).items() if n > 1]
    if twice:
        above, name = twice[0]
        what = f"two vertices are called {name!r} below {graph.path(above) if above >= 0 else '/'}"
        raise BadInput(what, "graph.nodes", "give each a name of its own")


def _mapping(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadInput("not a mapping", place, 'JGF is {"graph": {"nodes": […], "edges": […]}}')
    return value


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise BadInput("not a list", place, 'JGF is {"graph": {"nodes": […], "edges": […]}}')
    return value


def _name(value: object, place: str) -> str:
    if not isinstance(value, str) or not value or "/" in value or not value.isprintable():
        raise BadInput("not a name", place, "use printable text without a slash")
    if len(value) > 255:
        raise BadInput("a name of more than 255 characters", place, "shorten it")
    return value


def _unit(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise BadInput("a unit that is not text", place, 'use text, such as "GB"')
    return value


def _whole(value: object, place: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SIZE:
        raise BadInput(f"not a whole number from {least} up", place, "correct it")
    return value


def paths_of(graph: ResourceGraph, vertices: Iterable[int]) -> list[str]:
    """Containment paths of several vertices, each ancestor's path being built once."""
    known: dict[int, str] = {-1: ""}

    def path(vertex: int) -> str:
        trail = []
        while vertex not in known:
            trail.append(vertex)
            vertex = int(graph.parent[vertex])
        for below in reversed(trail):
            known[below] = f"{known[int(graph.parent[below])]}/{graph.names[below]}"
        return known[trail[0] if trail else vertex]

    return [path(int(vertex)) for vertex in vertices]
