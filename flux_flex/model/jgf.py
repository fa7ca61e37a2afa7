"""JSON Graph Format in fluxion's dialect: read into a ResourceGraph, and written from one.

A vertex is ``{"id": "4", "metadata": {"type": "node", "name": "node0", "paths": ...}}``; an edge
says ``"subsystem": "containment"`` in newer files and ``"name": {"containment": "contains"}`` in
older ones, and both are read. The metadata keys are those of fluxion's JGF reader
(flux-sched, resource/readers/resource_reader_jgf). Ids may be any text; order comes from edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flux_flex.errors import BadInput
from flux_flex.model.graph import ResourceGraph, Vertex, lay_out
from flux_flex.model.quoting import clipped_int, quoted

# Numbers above cannot be told apart in JSON, nor could sums of them be kept in 64 bits.
MAX_SIZE = 1 << 53


def parse_jgf(value: object) -> ResourceGraph:
    """Read a decoded JGF document, a mapping with ``graph.nodes`` and ``graph.edges``.

    Raises BadInput, with the place, for missing keys, repeated ids, edges to or from vertices
    that do not exist, a second root or parent, a cycle, two vertices of one path, and for sizes
    that add up to more than ``MAX_SIZE``.
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
    children, parent = _containment(_list(graph.get("edges", []), "graph.edges"), index)
    return _tree(vertices, children, parent, list(index))


def jgf_document(graph: ResourceGraph, kept: Sequence[int] | None = None) -> dict[str, object]:
    """The JGF of a graph, or of those of its vertices in ``kept`` and the edges among them."""
    shown = range(len(graph)) if kept is None else sorted(kept)
    present = set(shown)
    edges = [
        {
            "source": str(int(graph.parent[v])),
            "target": str(v),
            "metadata": {"subsystem": "containment"},
        }
        for v in shown
        if int(graph.parent[v]) in present
    ]
    return {"graph": {"nodes": [_node_entry(graph, v) for v in shown], "edges": edges}}


def _node_entry(graph: ResourceGraph, vertex: int) -> dict[str, object]:
    kind = graph.type_name(vertex)
    metadata: dict[str, object] = {
        "type": kind,
        "basename": kind,
        "name": graph.names[vertex],
        "id": int(graph.local_id[vertex]),
        "uniq_id": int(graph.uniq_id[vertex]),
        "rank": int(graph.rank[vertex]),
        "exclusive": False,
        "unit": graph.units.get(vertex, ""),
        "size": int(graph.size[vertex]),
        "paths": {"containment": graph.path(vertex)},
    }
    if vertex in graph.properties:
        metadata["properties"] = dict.fromkeys(sorted(graph.properties[vertex]), "")
    return {"id": str(vertex), "metadata": metadata}


def _vertex(value: object, place: str) -> tuple[str, Vertex]:
    item = _mapping(value, place)
    identity = _identity(item.get("id"))
    if identity is None:
        raise BadInput("a vertex without an id", f"{place}.id", "give it a text or a number")
    metadata = _mapping(item.get("metadata"), f"{place}.metadata")
    place = f"{place}.metadata"
    kind = _name(metadata.get("type"), f"{place}.type")
    local_id = _whole(metadata.get("id", 0), f"{place}.id", least=-1)
    name = metadata.get("name", f"{metadata.get('basename', kind)}{local_id}")
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
    """Properties are a mapping of name to (ignored) value; older files have a list."""
    if value is None:
        return frozenset()
    if isinstance(value, (Mapping, list)) and all(isinstance(key, str) for key in value):
        return frozenset(value)
    raise BadInput("properties that are not names", place, 'use {"efa": ""}')


def _containment(
    edges: list[object], index: Mapping[str, int]
) -> tuple[list[list[int]], dict[int, int]]:
    """Children by vertex, and each vertex's parent, from the containment edges."""
    children: list[list[int]] = [[] for _ in index]
    parent: dict[int, int] = {}
    ids = list(index)
    for i, value in enumerate(edges):
        place = f"graph.edges[{i}]"
        item = _mapping(value, place)
        source, target = (_end(item, key, index, place) for key in ("source", "target"))
        if not _contains(item, place):
            continue
        if target in parent:
            what = f"vertex {quoted(ids[target])} has two parents"
            both = f"{quoted(ids[parent[target]])} and {quoted(ids[source])}"
            raise BadInput(f"{what}, {both}", place, "keep one containment edge into each vertex")
        parent[target] = source
        children[source].append(target)
    return children, parent


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


def _tree(
    vertices: list[Vertex], children: list[list[int]], parent: dict[int, int], ids: list[str]
) -> ResourceGraph:
    roots = [i for i in range(len(vertices)) if i not in parent]
    if not roots:
        raise BadInput("a cycle: every vertex has a parent", "graph.edges", "leave one root")
    if len(roots) > 1:
        names = ", ".join(quoted(ids[i]) for i in roots[:3])
        what = f"{len(roots)} roots ({names}{', …' if len(roots) > 3 else ''})"
        raise BadInput(what, "graph.edges", "connect every vertex to one root")
    graph = lay_out(vertices, children, roots[0])
    if len(graph) < len(vertices):
        # With one root and one parent each, what the root does not reach goes round in a circle.
        lost = _on_a_cycle(parent, roots[0])
        what = f"a cycle through vertex {quoted(ids[lost])}"
        raise BadInput(what, "graph.edges", "remove one of the edges on it")
    _check_paths(graph)
    if sum(graph.size.tolist()) > MAX_SIZE:
        raise BadInput("sizes that add up to too much", "graph.nodes", f"stay below {MAX_SIZE}")
    return graph


def _on_a_cycle(parent: dict[int, int], root: int) -> int:
    """A vertex on a cycle, where there is one."""
    good = {root}
    for start in parent:
        trail: set[int] = set()
        vertex = start
        while vertex not in good and vertex not in trail:
            trail.add(vertex)
            vertex = parent[vertex]
        if vertex in trail:
            break
        good |= trail
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
