"""Where hosts sit on the network: a tree of EC2 network nodes, and how far apart hosts are on it.

EC2 tells for each instance the network nodes above it, top first (``NetworkNodes`` of
DescribeInstanceTopology,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTopology.html).
Above the top network node stands the zone, above the zones of several regions the region, and
above all one nameless root, so any two hosts are joined somewhere::

    tree = NetworkTree.from_places(places)
    tree.hops("compute0", "compute7")        # 2 under one leaf, 4 one layer up, ...
    tree.span(["compute0", "compute7"])      # Span(layers=(1, 1, 2), diameter=4, mean_hops=4.0)
    tree.nearest(free_hosts, 4)              # the four of them that are nearest to each other

Hops are the edges of the path between two hosts, so they are a metric. A host of which only the
zone is known (EC2 gives no network nodes for some instance types) must not look close to
anything: it hangs from its zone by an edge as long as the tree's deepest branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flux_flex.errors import BadInput
from flux_flex.model.closeness import closest
from flux_flex.model.quoting import quoted

# EC2 gives three or four layers today. The bound keeps the (n_hosts, n_layers) array small
# whatever a recorded answer claims.
MAX_LAYERS = 32

_ABSENT = -1
_ROOT = 0

Kind = Literal["region", "zone", "network node", "host"]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NetworkPlace:
    """One host and the network nodes above it. What is not known of the last three is empty.

    host            name that Flux knows the host by
    network_nodes   ids of the network nodes, top first; empty when only the zone is known
    instance_id     EC2 instance id
    instance_type   EC2 instance type
    zone            availability zone
    zone_id         the zone's id, which is the same in all accounts
    region          the region
    capacity_block  the Capacity Block of an UltraServer: hosts of one share an accelerator domain
    """

    host: str
    network_nodes: tuple[str, ...]
    instance_id: str
    instance_type: str
    zone: str
    zone_id: str = ""
    region: str = ""
    capacity_block: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """How much of the network a set of hosts takes up.

    layers      distinct network nodes above the hosts in each layer, top first
    diameter    hops between the two hosts furthest apart; 0 for fewer than two hosts
    mean_hops   hops averaged over all pairs of different hosts; 0.0 for fewer than two hosts
    """

    layers: tuple[int, ...]
    diameter: int
    mean_hops: float


@dataclass(frozen=True, slots=True)
class Branch:
    """One line of a drawing: ``depth`` is 0 at the top, ``hosts`` counts the hosts at or below."""

    name: str
    kind: Kind
    depth: int
    hosts: int


class NetworkTree:
    """Root, zones, network nodes and hosts; made by :meth:`from_places`, never changed after.

    Regions stand above the zones if there are several. Iterating yields a :class:`Branch` for
    each region, zone, network node and host in depth-first order, siblings in the order in which
    the places first named them.
    """

    __slots__ = (
        "_above", "_depth", "_host_ids", "_last_edge", "_names", "_parents", "_upper", "_vertex",
        "places",
    )  # fmt: skip

    def __init__(
        self,
        places: tuple[NetworkPlace, ...],
        names: tuple[str, ...],
        parents: Ids,
        above: Ids,
        upper: int,
    ) -> None:
        """``above[host, column]``: vertex ids, absent ones -1 at the end; ``upper`` is how many
        columns come before the network nodes: the zone, or region and zone."""
        self.places = places
        self._upper = upper
        self._host_ids = {place.host: index for index, place in enumerate(places)}
        self._names = names
        self._parents = parents
        self._vertex = {name: index for index, name in enumerate(names) if index != _ROOT}
        self._above = above
        self._depth: Ids = (above != _ABSENT).sum(axis=1, dtype=np.int64)
        # Length in hops of the edge from each host to the lowest vertex known above it.
        n_layers = max(above.shape[1] - upper, 0)
        self._last_edge: Ids = np.where(self._depth > upper, 1, n_layers + 1).astype(np.int64)

    @classmethod
    def from_places(cls, places: Sequence[NetworkPlace]) -> NetworkTree:
        """The tree that the places describe; depths may differ, zones and regions may be several.

        Raises BadInput when a host is placed twice, a name is empty, a name stands for two
        things (host, network node, zone, region), a network node or zone has two different
        parents, some hosts have a region and others none where there are several, or a host has
        more than 32 network nodes above it. ``where`` names the host and its instance:
        ``host compute0 (i-0123456789abcdef0)``.
        """
        names: list[str] = [""]
        parents: list[int] = [_ROOT]
        seen: dict[str, int] = {}
        regions = {place.region for place in places} - {""}
        has_regions = len(regions) > 1
        zones = dict.fromkeys([*(place.zone for place in places), *sorted(regions)])
        chains: list[list[int]] = []
        for index, place in enumerate(places):
            _refuse_bad_names(place, zones, index)
            upper = _upper_names(place) if has_regions else (place.zone,)
            chain: list[int] = []
            parent = _ROOT
            for name in (*upper, *place.network_nodes):
                vertex = seen.get(name)
                if vertex is None:
                    vertex = seen[name] = len(names)
                    names.append(name)
                    parents.append(parent)
                elif parents[vertex] != parent:
                    raise _two_parents(name, names[parents[vertex]], names[parent], place)
                chain.append(vertex)
                parent = vertex
            chains.append(chain)
        _refuse_shared_names(places, seen, zones)
        n_upper = 2 if has_regions else 1
        width = max((len(chain) for chain in chains), default=n_upper)
        above = np.full((len(places), width), _ABSENT, dtype=np.int64)
        for row, chain in enumerate(chains):
            above[row, : len(chain)] = chain
        ids = np.asarray(parents, dtype=np.int64)
        return cls(tuple(places), tuple(names), ids, above, n_upper)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts, in the order of the places."""
        return tuple(self._host_ids)

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones, in the order in which the places first name them."""
        return self._names_in_column(self._upper - 1)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions where there are several, in the order in which the places name them."""
        return self._names_in_column(0) if self._upper > 1 else ()

    @property
    def domains(self) -> dict[str, tuple[str, ...]]:
        """The hosts of each accelerator domain, by Capacity Block, both as first named."""
        found: dict[str, list[str]] = {}
        for place in self.places:
            if place.capacity_block:
                found.setdefault(place.capacity_block, []).append(place.host)
        return {block: tuple(hosts) for block, hosts in found.items()}

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The network nodes of each layer, top layer first, as first named by the places."""
        return tuple(
            self._names_in_column(layer) for layer in range(self._upper, self._above.shape[1])
        )

    def parent_of(self, name: str) -> str | None:
        """What ``name`` hangs from: network node, zone or region; None at the top.

        Raises BadInput when the tree has no host, network node or zone of that name.
        """
        row = self._host_ids.get(name)
        if row is not None:
            return self._names[int(self._above[row, self._depth[row] - 1])]
        vertex = self._vertex.get(name)
        if vertex is None:
            raise BadInput(
                f"no host, network node or zone is called {name!r}",
                remedy=self._known_hosts(),
            )
        parent = int(self._parents[vertex])
        return None if parent == _ROOT else self._names[parent]

    def place(self, host: str) -> NetworkPlace:
        """Where a host is. Raises BadInput when it is not in the tree."""
        return self.places[int(self._rows((host,))[0])]

    def __contains__(self, host: object) -> bool:
        return host in self._host_ids

    def hops(self, host_a: str, host_b: str) -> int:
        """Edges between two hosts: 0 for one host, 2 under one leaf, 2 more each layer up.

        Raises BadInput when a host is not in the tree.
        """
        row_a, row_b = self._rows((host_a,)), self._rows((host_b,))
        return int(self._hops_from(int(row_a[0]), row_b)[0])

    def span(self, hosts: Iterable[str]) -> Span:
        """How far a set of hosts is spread; a host named twice counts once.

        Takes time in proportion to hosts times layers: each edge is crossed by the pairs with
        one host on either side of it, so pairs are counted and not listed.
        Raises BadInput when a host is not in the tree.
        """
        rows = np.unique(self._rows(hosts))
        n_hosts = len(rows)
        above = self._above[rows]
        n_vertices = len(self._names)
        used = [np.bincount(column[column != _ABSENT], minlength=n_vertices) for column in above.T]
        layers = tuple(int(np.count_nonzero(count)) for count in used[self._upper :])
        if n_hosts < 2:
            return Span(layers, 0, 0.0)
        crossings = sum(int((count * (n_hosts - count)).sum()) for count in used)
        crossings += int(self._last_edge[rows].sum()) * (n_hosts - 1)
        # On a tree the host furthest from any host is one end of a longest path.
        end = int(rows[np.argmax(self._hops_from(int(rows[0]), rows))])
        diameter = int(self._hops_from(end, rows).max())
        return Span(layers, diameter, crossings / (n_hosts * (n_hosts - 1) / 2))

    def nearest(self, free: Iterable[str], n_hosts: int) -> tuple[str, ...]:
        """The ``n_hosts`` of the free hosts with the fewest hops in all between each other.

        They come in the order of the places. The answer is exact up to 512 hosts; beyond, it is
        made of portions that each are. Of equally near sets the one that leaves the smallest rest
        under the network nodes that it uses is taken. Raises BadInput when a host is not in the
        tree, or when there are not as many of them.
        """
        rows = np.unique(self._rows(free))
        if not 0 <= n_hosts <= len(rows):
            what = f"{n_hosts} hosts of {len(rows)} that are free"
            raise BadInput(what, remedy="ask for at most as many as are free")
        if not n_hosts:
            return ()
        if n_hosts == len(rows):
            return tuple(self.places[row].host for row in rows.tolist())
        rows = self._without_spare(rows, n_hosts)
        parent, vertices = self._with_hosts(rows)
        share = closest(parent, vertices, np.ones(len(rows), dtype=np.int64), n_hosts)
        return tuple(self.places[row].host for row in rows[share > 0].tolist())

    def __iter__(self) -> Iterator[Branch]:
        below: list[list[int]] = [[] for _ in self._names]
        for vertex in range(1, len(self._names)):
            below[int(self._parents[vertex])].append(vertex)
        hosts_at: list[list[str]] = [[] for _ in self._names]
        kinds: tuple[Kind, ...] = ("region", "zone") if self._upper > 1 else ("zone",)
        for host, row in self._host_ids.items():
            hosts_at[int(self._above[row, self._depth[row] - 1])].append(host)
        present = self._above[self._above != _ABSENT]
        n_below = np.bincount(present, minlength=len(self._names))

        pending = [(vertex, 0) for vertex in reversed(below[_ROOT])]
        while pending:
            vertex, depth = pending.pop()
            kind: Kind = kinds[depth] if depth < len(kinds) else "network node"
            yield Branch(self._names[vertex], kind, depth, int(n_below[vertex]))
            for host in hosts_at[vertex]:
                yield Branch(host, "host", depth + 1, 1)
            pending.extend((child, depth + 1) for child in reversed(below[vertex]))

    def _without_spare(self, rows: Ids, n_hosts: int) -> Ids:
        """The hosts without those that are one too many: of hosts below one zone by a long edge
        any is as good as any other, and each edge costs :meth:`nearest` a chain of vertices."""
        left: dict[int, int] = {}
        kept = []
        for row in rows.tolist():
            if self._last_edge[row] > 1:
                zone = int(self._above[row, self._depth[row] - 1])
                left[zone] = left.get(zone, n_hosts) - 1
                if left[zone] < 0:
                    continue
            kept.append(row)
        return np.asarray(kept, dtype=np.int64)

    def _with_hosts(self, rows: Ids) -> tuple[Ids, Ids]:
        """Parents of the tree's vertices with those of some hosts after them, and the hosts'
        vertices, shape ``(len(rows),)``. An edge of several hops is a chain of vertices."""
        parents: list[int] = self._parents.tolist()
        parents[_ROOT] = -1
        vertices = []
        for row in rows.tolist():
            above = int(self._above[row, self._depth[row] - 1])
            for _ in range(int(self._last_edge[row])):
                parents.append(above)
                above = len(parents) - 1
            vertices.append(above)
        return np.asarray(parents, dtype=np.int64), np.asarray(vertices, dtype=np.int64)

    def _names_in_column(self, column: int) -> tuple[str, ...]:
        vertices = np.unique(self._above[:, column])
        return tuple(self._names[vertex] for vertex in vertices if vertex != _ABSENT)

    def _rows(self, hosts: Iterable[str]) -> Ids:
        rows = []
        for host in hosts:
            row = self._host_ids.get(host)
            if row is None:
                raise BadInput(
                    f"host {host!r} has no place on the network", remedy=self._known_hosts()
                )
            rows.append(row)
        return np.asarray(rows, dtype=np.int64)

    def _hops_from(self, row: int, others: Ids) -> Ids:
        """Hops from one host to each of ``others``, shape ``(len(others),)``."""
        same = (self._above[others] == self._above[row]) & (self._above[row] != _ABSENT)
        shared = np.cumprod(same, axis=1, dtype=np.int64).sum(axis=1)
        up = self._depth[row] - shared + self._last_edge[row]
        down = self._depth[others] - shared + self._last_edge[others]
        hops: Ids = np.where(others == row, 0, up + down)
        return hops

    def _known_hosts(self) -> str:
        known = list(self._host_ids)
        if not known:
            return "the tree has no hosts"
        shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
        return f"known hosts ({len(known)}): {shown}"


def _at(place: NetworkPlace) -> str:
    """Where an error is: people know a host by its name, not by its number among the places."""
    host = place.host if place.host.isprintable() and len(place.host) <= 80 else quoted(place.host)
    return f"host {host} ({place.instance_id})" if place.instance_id else f"host {host}"


def _refuse_bad_names(place: NetworkPlace, zones: dict[str, None], index: int) -> None:
    if not place.host:
        raise BadInput("the host name is empty", f"places[{index}].host", "give each its host")
    if not place.zone:
        raise BadInput("the host has no zone", _at(place), "give each place its zone")
    if place.zone == place.region:
        raise BadInput(f"{place.zone!r} is both a region and a zone", _at(place), "name both")
    if len(place.network_nodes) > MAX_LAYERS:
        raise BadInput(
            f"{len(place.network_nodes)} network nodes above one host",
            _at(place),
            f"EC2 gives a handful; at most {MAX_LAYERS} are accepted",
        )
    for name in place.network_nodes:
        if not name:
            raise BadInput("the name of a network node is empty", _at(place), "leave it out")
        if name in zones:
            raise BadInput(
                f"{name!r} is both a zone and a network node",
                _at(place),
                "network nodes are ids like nn-0123456789abcdef0",
            )


def _upper_names(place: NetworkPlace) -> tuple[str, str]:
    if not place.region:
        what = "the host has no region, and others have several"
        raise BadInput(what, _at(place), "give each place its region")
    return place.region, place.zone


def _refuse_shared_names(
    places: Sequence[NetworkPlace], vertices: dict[str, int], zones: dict[str, None]
) -> None:
    first: dict[str, NetworkPlace] = {}
    for place in places:
        if place.host in first:
            before = first[place.host].instance_id
            what = f"{place.host!r} has a place already" + (f", that of {before}" if before else "")
            raise BadInput(what, _at(place), "place each host once")
        if place.host in vertices:
            kind = "zone or region" if place.host in zones else "network node"
            what = f"{place.host!r} is both a host and a {kind}"
            raise BadInput(what, _at(place), "give hosts names of their own")
        first[place.host] = place


def _two_parents(name: str, first: str, second: str, place: NetworkPlace) -> BadInput:
    return BadInput(
        f"{name!r} is below {second!r} here and below {first!r} elsewhere",
        _at(place),
        "a network node has one parent; ask EC2 again for all instances at once",
    )
