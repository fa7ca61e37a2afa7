"""``flux-flex match``: one question to a resource graph."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from flux_flex.cli.console import console, print_json, word
from flux_flex.errors import BadInput, Busy
from flux_flex.host.flux_instance import enclosing_instance
from flux_flex.match import Match, Matcher, open_matcher
from flux_flex.match.matcher import read_graph
from flux_flex.model.graph import ResourceGraph
from flux_flex.model.jgf import parse_jgf
from flux_flex.model.jobspec import load_jobspec
from flux_flex.simulate.files import read_json, read_text

# Below this many vertices a tree shows each; above, those of one kind share a line.
_FOLD_FROM = 4


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or Busy, Unsatisfiable or BadInput."""
    matcher = _matcher(options)
    for number, name in enumerate(options.busy, start=1):
        resources = _mapping(read_json(Path(name)), name)
        try:
            matcher.update(-number, resources, 0.0, 0.0)
        except BadInput as error:
            raise error.at(name) from None
        except Busy as error:
            what = f"{error.where} is in use already by another --busy"
            raise BadInput(what, name, "name each core and gpu once") from None
    place, text = _jobspec_text(options.jobspec)
    try:
        match = matcher.allocate(load_jobspec(text))
    except BadInput as error:
        raise error.at(place) from None
    if options.format == "R":
        _check_ranks(match, options.graph or "the running instance")
    _print(match, options.format)
    return 0


def _matcher(options: argparse.Namespace) -> Matcher:
    """Over the graph that is given, or else of the instance that the command runs in."""
    if options.graph:
        graph = _graph(Path(options.graph))
        return open_matcher(graph, engine=options.engine, policy=options.policy)
    instance = enclosing_instance()
    if instance is None:
        what = "no graph, and no running instance to ask"
        raise BadInput(what, "--graph", "give an R or a JGF file, or run inside an instance")
    engine = "live" if options.engine == "auto" else options.engine
    return open_matcher(engine=engine, policy=options.policy, instance=instance)


def _graph(path: Path) -> ResourceGraph:
    document = read_json(path)
    try:
        return read_graph(document) if isinstance(document, Mapping) else parse_jgf(document)
    except BadInput as error:
        raise error.at(str(path)) from None


def _check_ranks(match: Match, place: str) -> None:
    for node in match.nodes:
        if match.graph.rank[node] < 0:
            what = f"{match.graph.path(node)} has no rank, without which there is no R"
            raise BadInput(what, place, "give the graph ranks, or take another --format")


def _mapping(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadInput("not an R", place, "give R version 1 (RFC 20)")
    return value


def _jobspec_text(name: str) -> tuple[str, str]:
    if name != "-":
        return name, read_text(Path(name))
    try:
        return "standard input", sys.stdin.read()
    except UnicodeDecodeError:
        raise BadInput("not UTF-8", "standard input", "send text") from None


def _print(match: Match, form: str) -> None:
    if form == "tree":
        console().print(_tree(match))
        return
    print_json(match.to_jgf() if form == "jgf" else match.to_r() if form == "R" else _json(match))


def _json(match: Match) -> dict[str, object]:
    return {
        "at": match.at,
        "duration": match.duration_s,
        "nodes": match.hosts,
        "vertices": {path: list(found) for path, found in match.vertices.items()},
    }


def _tree(match: Match) -> Tree:
    chosen = match.chosen
    below: dict[int, list[int]] = {}
    for vertex in sorted(chosen):
        below.setdefault(int(match.graph.parent[vertex]), []).append(vertex)
    root = below[-1][0]
    tree = Tree(_line(match, [root], chosen))
    stack = [(tree, root)]
    while stack:
        branch, vertex = stack.pop()
        for group in _folded(match.graph, below.get(vertex, []), below):
            twig = branch.add(_line(match, group, chosen))
            if len(group) == 1:
                stack.append((twig, group[0]))
    return tree


def _folded(
    graph: ResourceGraph, vertices: list[int], below: Mapping[int, list[int]]
) -> list[list[int]]:
    """Siblings of one type with nothing below them together, where there are several."""
    groups: list[list[int]] = []
    leaves: dict[str, list[int]] = {}
    for vertex in vertices:
        if vertex in below:
            groups.append([vertex])
        else:
            leaves.setdefault(graph.type_name(vertex), []).append(vertex)
    for group in leaves.values():
        groups += [group] if len(group) >= _FOLD_FROM else [[vertex] for vertex in group]
    return groups


def _line(match: Match, group: list[int], chosen: Mapping[int, tuple[int, bool]]) -> Text:
    graph, vertex = match.graph, group[0]
    amount, exclusive = chosen[vertex]
    if len(group) > 1:
        total = sum(chosen[v][0] for v in group)
        return word(f"{graph.type_name(vertex)} x {total}", "green" if exclusive else "")
    size = f" ({amount} of {int(graph.size[vertex])})" if int(graph.size[vertex]) != 1 else ""
    shared = "" if exclusive else " shared"
    return word(f"{graph.names[vertex]}{size}{shared}", "green" if exclusive else "dim")
