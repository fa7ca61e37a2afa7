"""ResourceGraph: a containment tree as arrays in depth-first order.

Vertices are numbered so that everything below vertex ``v`` is the interval ``v + 1 .. end[v]``.
Sums over a subtree are then differences of prefix sums, and a set of vertices is an index array.
The graph itself never changes: who holds what, and when, is the planner's.

Containers may share nodes: then the containment is no tree, and a vertex stands here once for each
of its paths. These are its *aliases*, and ``same`` says which of them are one.

    >>> graph = uniform_graph(2, cores=4)
    >>> graph.path(2), graph.end[1] - 1
    ('/cluster0/node0/core0', 5)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flux_flex.errors import BadInput
from flux_flex.model.quoting import quoted
from flux_flex.model.rv1 import RankResources, ResourceSet

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NODE = "node"

# An R of a few bytes can stand for millions of cores; this is more than any system has of them.
MAX_VERTICES = 8_000_000


class Properties(frozenset[str]):
    """Names of properties with the ``values`` that some have in a JGF.

    Jobs ask for names, so to all that compare or combine them this is a set of names. The values
    are only kept for who writes the graph again, and go wherever the set goes.
    """

    values: Mapping[str, str]

    def __new__(
        cls, names: Iterable[str] = (), values: Mapping[str, str] | None = None
    ) -> Properties:
        found = super().__new__(cls, names)
        found.values = {name: text for name, text in (values or {}).items() if name in found}
        return found


def values_of(properties: frozenset[str]) -> Mapping[str, str]:
    """The values of properties that have any."""
    return properties.values if isinstance(properties, Properties) else {}


@dataclass(frozen=True, slots=True)
class Vertex:
    """One vertex as it is added to a graph.

    ``size`` is the pool's amount in ``unit`` (1 for a core); ``local_id`` is the number that
    policies order by; ``rank`` is the broker rank, -1 where none serves the vertex; ``uniq_id``
    is fluxion's own number of the vertex, -1 for its position in the graph.
    """

    type: str
    name: str
    local_id: int = 0
    size: int = 1
    rank: int = -1
    unit: str = ""
    properties: frozenset[str] = frozenset()
    uniq_id: int = -1


@dataclass(frozen=True, eq=False, slots=True)
class ResourceGraph:
    """Arrays over ``n`` vertices; index 0 is the root.

    ``parent[v]`` (-1 for the root), ``end[v]`` (one past the subtree), ``type_of[v]`` (index
    into ``types``), ``size[v]``, ``local_id[v]``, ``rank[v]`` and ``uniq_id[v]`` are int64 of
    shape (n,). ``same[v]``, int64 of shape (n,), is the first alias of what v stands for, v itself
    for most; None where no vertex has two paths.
    """

    types: tuple[str, ...]
    type_of: IntArray
    parent: IntArray
    end: IntArray
    size: IntArray
    local_id: IntArray
    rank: IntArray
    uniq_id: IntArray
    names: tuple[str, ...]
    units: Mapping[int, str]
    properties: Mapping[int, frozenset[str]]
    same: IntArray | None = None
    _of_type: dict[str, IntArray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def of_type(self, kind: str) -> IntArray:
        """All vertices of a type, in depth-first order; empty for an unknown type."""
        found = self._of_type.get(kind)
        if found is None:
            code = self.types.index(kind) if kind in self.types else -1
            found = np.flatnonzero(self.type_of == code)
            self._of_type[kind] = found
        return found

    @property
    def node_of(self) -> IntArray:
        """For each vertex the node that it is or lies in, -1 outside of nodes, shape (n,)."""
        found = self._of_type.get("")  # no type has the empty name
        if found is None:
            found = np.full(len(self), -1, dtype=np.int64)
            for node in self.of_type(NODE).tolist():
                found[node : self.end[node]] = node
            self._of_type[""] = found
        return found

    def type_name(self, vertex: int) -> str:
        return self.types[int(self.type_of[vertex])]

    def path(self, vertex: int) -> str:
        """The containment path, such as ``/cluster0/rack0/node1``."""
        names = []
        while vertex >= 0:
            names.append(self.names[vertex])
            vertex = int(self.parent[vertex])
        return "/" + "/".join(reversed(names))

    def children(self, vertex: int) -> list[int]:
        """Direct children in order."""
        found, child, last = [], vertex + 1, int(self.end[vertex])
        while child < last:
            found.append(child)
            child = int(self.end[child])
        return found

    def leaf_types(self) -> tuple[str, ...]:
        """Types whose vertices have nothing below them anywhere: what jobs consume. Nodes that
        containers share are used together even where nothing is known of what is in them."""
        inner = set(np.unique(self.type_of[self.end > np.arange(len(self)) + 1]).tolist())
        if self.same is not None and NODE in self.types:
            inner.add(self.types.index(NODE))
        return tuple(name for code, name in enumerate(self.types) if code not in inner)

    def total(self, kind: str) -> int:
        """The amount of a type in the whole graph."""
        return int(self.size[self.once(self.of_type(kind))].sum())

    def once(self, vertices: IntArray) -> IntArray:
        """Of some vertices those that are first aliases; all of them in a tree."""
        return vertices if self.same is None else vertices[self.same[vertices] == vertices]

    def aliases(self, vertices: IntArray) -> IntArray:
        """All aliases of some vertices, those of one vertex together."""
        if self.same is None:
            return vertices
        order = self._of_type.get("/aliases")  # no type has a slash in its name
        if order is None:
            order = self._of_type["/aliases"] = np.argsort(self.same, kind="stable")
            self._of_type["/firsts"] = self.same[order]
        firsts, wanted = self._of_type["/firsts"], self.same[vertices]
        low, high = (np.searchsorted(firsts, wanted, side) for side in ("left", "right"))
        found: IntArray = order[expand(low, high)]
        return found


def expand(low: IntArray, high: IntArray) -> IntArray:
    """The numbers of several ranges one after the other: (2, 5), (9, 11) to 2 3 4 9 10."""
    if low.size < 2:  # as in most calls
        return np.arange(low[0], high[0]) if low.size else low
    length = high - low
    before = np.cumsum(length) - length
    numbers: IntArray = np.arange(int(length.sum())) + np.repeat(low - before, length)
    return numbers


class GraphBuilder:
    """Collects vertices under their parents, then lays them out depth first.

    Vertices may be added in any order after their parent. ``add`` returns a handle that is
    only good for this builder; :meth:`build` numbers vertices anew.
    """

    def __init__(self) -> None:
        self._vertices: list[Vertex] = []
        self._children: list[Sequence[int]] = []

    def add(self, vertex: Vertex, parent: int | None = None) -> int:
        """Add a vertex below ``parent``; the first, without one, is the root."""
        if (parent is None) != (not self._vertices):
            raise BadInput("a graph has exactly one root", vertex.name, "add below a parent")
        number = len(self._vertices)
        self._vertices.append(vertex)
        self._children.append(())  # most are cores, which never need a list
        if parent is not None:
            below = self._children[parent]
            if isinstance(below, list):
                below.append(number)
            else:
                self._children[parent] = [number]
        return number

    def build(self) -> ResourceGraph:
        if not self._vertices:
            raise BadInput("a graph without vertices", "", "describe at least one node")
        return lay_out(self._vertices, self._children, root=0)


def lay_out(
    vertices: Sequence[Vertex], children: Sequence[Sequence[int]], root: int
) -> ResourceGraph:
    """Number what is below ``root`` depth first. ``children[i]`` lists positions, in order.

    What is below several parents is numbered below each; there must be no cycle.
    """
    order, parent, end = _depth_first(children, root)
    same = _first_of_each(order) if len(order) > len(vertices) else None
    placed = [vertices[i] for i in order]
    types = tuple(dict.fromkeys(vertex.type for vertex in placed))
    code = {name: number for number, name in enumerate(types)}
    uniq_id = [i if v.uniq_id < 0 else v.uniq_id for i, v in enumerate(placed)]
    return ResourceGraph(
        types=types,
        type_of=np.array([code[vertex.type] for vertex in placed], dtype=np.int64),
        parent=np.array(parent, dtype=np.int64),
        end=np.array(end, dtype=np.int64),
        size=np.array([vertex.size for vertex in placed], dtype=np.int64),
        local_id=np.array([vertex.local_id for vertex in placed], dtype=np.int64),
        rank=np.array([vertex.rank for vertex in placed], dtype=np.int64),
        uniq_id=np.array(uniq_id, dtype=np.int64)[slice(None) if same is None else same],
        same=same,
        names=tuple(vertex.name for vertex in placed),
        units={i: vertex.unit for i, vertex in enumerate(placed) if vertex.unit},
        properties={i: v.properties for i, v in enumerate(placed) if v.properties},
    )


def _first_of_each(order: Sequence[int]) -> IntArray:
    """For each position in ``order`` the first with the same content."""
    _, first, number = np.unique(np.array(order), return_index=True, return_inverse=True)
    found: IntArray = first[number]
    return found


def _depth_first(
    children: Sequence[Sequence[int]], root: int
) -> tuple[list[int], list[int], list[int]]:
    """Order, parent and end by a stack of our own: a chain of 100,000 vertices is legal."""
    order: list[int] = []
    parent: list[int] = []
    end: list[int] = []
    stack = [(root, -1)]
    while stack:
        vertex, above = stack.pop()
        if vertex < 0:  # a mark left below the children: the subtree of ~vertex ends here
            end[~vertex] = len(order)
            continue
        number = len(order)
        order.append(vertex)
        parent.append(above)
        end.append(0)
        stack.append((~number, -1))
        stack += [(child, number) for child in reversed(children[vertex])]
    return order, parent, end


def graph_from_r(resources: ResourceSet, *, cluster: str = "cluster0") -> ResourceGraph:
    """The graph of an R (RFC 20): a cluster of nodes, each with its cores and gpus.

    A node vertex is named after its host and numbered by its rank, as fluxion's own reader does.

    Raises BadInput for more than ``MAX_VERTICES`` vertices, and for two nodes of one name.
    """
    twice = [host for host, n in Counter(item.host for item in resources.ranks).items() if n > 1]
    if twice:
        what = f"host {quoted(twice[0])} has several ranks"
        raise BadInput(what, "execution.nodelist", "give each rank a host of its own")
    total = sum(1 + len(item.cores) + len(item.gpus) for item in resources.ranks)
    if total > MAX_VERTICES:
        what = f"{total} cores, gpus and nodes"
        raise BadInput(what, "execution.R_lite", f"describe at most {MAX_VERTICES}")
    builder = GraphBuilder()
    root = builder.add(Vertex("cluster", cluster))
    for item in resources.ranks:
        _add_node(builder, root, item)
    return builder.build()


def _add_node(builder: GraphBuilder, above: int, item: RankResources) -> None:
    rank = item.rank
    node = Vertex(NODE, item.host, rank, rank=rank, properties=frozenset(item.properties))
    number = builder.add(node, above)
    for kind, ids in (("core", item.cores), ("gpu", item.gpus)):
        for i in ids:
            builder.add(Vertex(kind, f"{kind}{i}", i, rank=rank), number)


def uniform_graph(
    nodes: int,
    cores: int,
    gpus: int = 0,
    *,
    prefix: str = "node",
    properties: Iterable[str] = (),
) -> ResourceGraph:
    """A cluster of equal nodes ``prefix0 .. prefix<nodes-1>``, for capacity that can be rented."""
    held = tuple(properties)
    ids = tuple(range(cores)), tuple(range(gpus))
    return graph_from_r(
        ResourceSet(
            tuple(RankResources(i, f"{prefix}{i}", ids[0], ids[1], held) for i in range(nodes))
        )
    )
