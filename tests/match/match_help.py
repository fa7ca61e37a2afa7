"""Words that the matcher's tests share: requests in one line, and graphs of a few vertices."""

from collections.abc import Iterable, Mapping
from typing import Any

from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.embedded.engine import Match
from flux_flex.match.embedded.policies import POLICIES
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex

Tree = Mapping[str, Any]


def ask(kind: str, count: Any = 1, *below: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One vertex of a jobspec."""
    return {"type": kind, "count": count, **({"with": list(below)} if below else {}), **more}


def slot(count: Any, *below: dict[str, Any]) -> dict[str, Any]:
    return ask("slot", count, *below, label="task")


def spec(*resources: dict[str, Any], duration: float = 0, **system: Any) -> dict[str, Any]:
    """A jobspec of some resources; without a duration it runs for ever."""
    attributes = {"system": {"duration": duration, **system}}
    return {"version": 9999, "resources": list(resources), "tasks": [], "attributes": attributes}


def cores(n: int, duration: float = 0) -> dict[str, Any]:
    return spec(slot(n, ask("core")), duration=duration)


def whole_nodes(n: int, duration: float = 0, **system: Any) -> dict[str, Any]:
    return spec(ask("node", n, exclusive=True), duration=duration, **system)


def plant(tree: Tree) -> ResourceGraph:
    """A graph from nested mappings: ``{"cluster": {"node0": {"core": 4, "memory": [8, 8]}}}``.

    A key is a type with a number; a number n stands for n vertices of that type, a list for pools
    of those sizes, and a set of words in place of the number 0 for properties.
    """
    builder = GraphBuilder()
    (root, below), *rest = tree.items()
    assert not rest
    _grow(builder, builder.add(Vertex(root, f"{root}0")), below)
    return builder.build()


def _grow(builder: GraphBuilder, above: int, tree: Tree) -> None:
    for key, below in tree.items():
        kind = key.rstrip("0123456789")
        number = int(key[len(kind) :] or 0)
        if isinstance(below, int):
            for i in range(below):
                builder.add(Vertex(kind, f"{kind}{i}", i), above)
        elif isinstance(below, list):
            for i, size in enumerate(below):
                builder.add(Vertex(kind, f"{kind}{i}", i, size), above)
        else:
            held = frozenset(below.get("properties", ()))
            rank = number if kind == "node" else -1
            child = builder.add(Vertex(kind, key, number, rank=rank, properties=held), above)
            _grow(builder, child, {k: v for k, v in below.items() if k != "properties"})


def embedded(graph: ResourceGraph, policy: str = "lonode") -> EmbeddedMatcher:
    """The embedded engine, wherever the test runs; it fills node0, core by core, then node1."""
    assert policy in POLICIES
    return EmbeddedMatcher(graph, policy)


def nodes(n: int, **below: Any) -> ResourceGraph:
    """A cluster of equal nodes."""
    return plant({"cluster": {f"node{i}": below for i in range(n)}})


def names(match: Match) -> set[str]:
    """What was matched, by path without the cluster."""
    return {path.split("/", 2)[2] for path in match.vertices if path.count("/") > 1}


def vertex(graph: ResourceGraph, name: str) -> int:
    return graph.names.index(name)


def held_twice(matcher: EmbeddedMatcher, matches: Iterable[Match]) -> str:
    """By brute force, at every time at which something starts: what two of ``matches`` hold that
    only one of them may, or "" if there is no such thing."""
    live = [match for match in matches if match.jobid in matcher.holders]
    for time in {match.at for match in live}:
        running = [
            m for m in live if m.at <= time and (not m.duration_s or time < m.at + m.duration_s)
        ]
        owner: dict[int, int] = {}
        used: dict[int, int] = {}
        for match in running:
            for v, (_, exclusive) in match.chosen.items():
                if exclusive:
                    for inside in range(v, int(matcher.graph.end[v])):
                        if owner.setdefault(inside, match.jobid) != match.jobid:
                            return f"{matcher.graph.path(inside)} at {time}: exclusive twice"
        leaves = set(matcher.graph.leaf_types())
        for match in running:
            for v, (amount, _) in match.chosen.items():
                if owner.get(v, match.jobid) != match.jobid:
                    return f"{matcher.graph.path(v)} at {time}: used beside an exclusive holder"
                if matcher.graph.type_name(v) in leaves:
                    used[v] = used.get(v, 0) + amount
                    if used[v] > matcher.graph.size[v]:
                        return f"{matcher.graph.path(v)} at {time}: more than there is"
    return ""
