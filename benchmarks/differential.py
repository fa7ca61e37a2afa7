"""Embedded and fluxion asked the same: ``python -m benchmarks.differential --seed 1 --cases 300``.

Each case is a random graph (cluster, perhaps zones, racks, nodes, perhaps sockets; cores, gpus and
pools of memory; properties) and a random sequence of allocate, allocate_orelse_reserve, satisfy
and cancel. Most cases name every level below their first vertex, which fluxion 0.54 can match by
itself; every fourth may skip levels, for which FluxionMatcher folds them, and is counted apart. A
case ends where the engines first differ, since they hold different things from there on. It is
then made smaller as long as they still differ in the same way, and printed as JSON of the shape of
tests/golden. Exits 1 where a status or a time differs; needs libreapi_cli.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from flux_flex.errors import Busy, FlexError, Unsatisfiable
from flux_flex.match import open_matcher
from flux_flex.match.fluxion import FLUXION_POLICIES, FluxionMatcher
from flux_flex.match.fluxion_library import open_library
from flux_flex.match.matcher import POLICIES, Matcher
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex
from flux_flex.model.jgf import jgf_document

Tree = dict[str, Any]  # a vertex: the fields of Vertex, and "with", the vertices below
Op = dict[str, Any]  # as in tests/golden, but a cancel says "of": the place of the op it cancels

BOTH = tuple(policy for policy in POLICIES if policy in FLUXION_POLICIES)
PROPERTIES = ("arm", "efa", "spot", "ssd")
SKIPPING_SHARE = 0.25
TRIALS = 600  # of smaller cases, for one that differs


@dataclass(frozen=True)
class Case:
    policy: str
    tree: Tree
    ops: list[Op]
    skips: bool


@dataclass(frozen=True)
class Difference:
    """At the place of an op, in status, at or vertices, what each engine answered."""

    place: int
    what: str
    embedded: dict[str, Any]
    fluxion: dict[str, Any]

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.what, self.embedded["status"], self.fluxion["status"]


# -- random cases ----------------------------------------------------------------------------------


def random_case(rng: random.Random, policy: str) -> Case:
    tree = _random_tree(rng)
    types = [kind for kind in ("cluster", "zone", "rack", "node", "socket") if _has(tree, kind)]
    leaves = [kind for kind in ("core", "gpu", "memory") if _has(tree, kind)]
    skips = rng.random() < SKIPPING_SHARE
    ops: list[Op] = []
    for place in range(rng.randint(2, 12)):
        if place and rng.random() < 0.12:
            ops.append({"op": "cancel", "of": rng.randrange(place)})
            continue
        name = rng.choices(["allocate", "allocate_orelse_reserve", "satisfy"], [5, 4, 1])[0]
        ops.append({"op": name, "jobspec": _random_jobspec(rng, types, leaves, skips)})
    return Case(policy, tree, ops, skips)


def _random_tree(rng: random.Random) -> Tree:
    count = {
        "zone": rng.choice([0, 0, 0, 1, 2]),
        "rack": rng.choice([0, 1, 2, 3]),
        "node": rng.randint(1, 4),
        "socket": rng.choice([0, 0, 1, 2]),
        "core": rng.randint(1, 4),
        "gpu": rng.choice([0, 0, 1, 2]),
        "memory": rng.choice([0, 0, 1, 2]),
    }
    levels = [kind for kind in ("zone", "rack", "node", "socket") if count[kind]]
    numbers: Counter[str] = Counter()
    root = _vertex("cluster", 0, -1)

    def grow(above: Tree, depth: int, rank: int) -> None:
        if depth == len(levels):
            for kind in ("core", "gpu", "memory"):
                for _ in range(count[kind]):
                    leaf = _vertex(kind, numbers[kind], rank)
                    numbers[kind] += 1
                    if kind == "memory":
                        leaf |= {"size": rng.choice([1, 2, 4]), "unit": "GB"}
                    above["with"].append(leaf)
            return
        for number in range(count[levels[depth]]):
            kind = levels[depth]
            if kind == "node":
                numbers.update(
                    core=-numbers["core"], gpu=-numbers["gpu"], memory=-numbers["memory"]
                )
                below = _vertex(kind, numbers[kind], numbers[kind])
                below["properties"] = [name for name in PROPERTIES if rng.random() < 0.2]
            else:
                below = _vertex(kind, number if kind == "socket" else numbers[kind], rank)
            numbers[kind] += 1
            above["with"].append(below)
            grow(below, depth + 1, below["rank"])

    grow(root, 0, -1)
    return root


def _vertex(kind: str, number: int, rank: int) -> Tree:
    name = f"{kind}{number}"
    return {"type": kind, "name": name, "local_id": number, "rank": rank, "with": []}


def _has(tree: Tree, kind: str) -> bool:
    return tree["type"] == kind or any(_has(below, kind) for below in tree["with"])


def _random_jobspec(
    rng: random.Random, types: list[str], leaves: list[str], skips: bool
) -> dict[str, Any]:
    """A chain of levels with a slot somewhere in it and leaves at its end."""
    first = rng.choices(range(len(types) + 1), [1] + [2] * (len(types) - 1) + [4])[0]
    chain = types[first:]
    if skips and chain:
        chain = [kind for kind in chain if rng.random() < 0.6] or [rng.choice(chain)]
    request: list[dict[str, Any]] = []
    for kind in leaves:
        if kind == "core" or rng.random() < 0.3:
            request.append({"type": kind, "count": rng.choice([1, 1, 2, 3])})
    slot_above = rng.randint(0, len(chain))
    for place in range(len(chain), -1, -1):
        if place == slot_above:
            request = [
                {"type": "slot", "count": _random_count(rng), "label": "task", "with": request}
            ]
        if place:
            level = {"type": chain[place - 1], "count": _random_count(rng), "with": request}
            if chain[place - 1] == "node" and rng.random() < 0.3:
                level["exclusive"] = True
            if chain[place - 1] == "cluster" or place - 1 >= slot_above:
                level["count"] = 1 if chain[place - 1] == "cluster" else rng.choice([1, 1, 2])
            request = [level]
    system: dict[str, Any] = {"duration": rng.choice([0, 10, 50, 100, 3600])}
    if rng.random() < 0.25 and not (skips and "node" not in chain):
        system["constraints"] = _random_constraint(rng)
    return {
        "version": 9999,
        "resources": request,
        "attributes": {"system": system},
        "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
    }


def _random_count(rng: random.Random) -> int | dict[str, Any]:
    if rng.random() < 0.85:
        return rng.choice([1, 1, 1, 2, 2, 3, 4])
    least = rng.choice([1, 2])
    return {"min": least, "max": least + rng.randint(0, 3), "operator": "+", "operand": 1}


def _random_constraint(rng: random.Random) -> dict[str, Any]:
    one, two = rng.sample(PROPERTIES, 2)
    return rng.choice(
        [
            {"properties": [one]},
            {"properties": [f"^{one}"]},
            {"not": [{"properties": [one]}]},
            {"and": [{"properties": [one]}, {"properties": [f"^{two}"]}]},
            {"or": [{"properties": [one]}, {"properties": [two]}]},
        ]
    )


# -- asking both -----------------------------------------------------------------------------------


def graph_of(tree: Tree) -> ResourceGraph:
    builder = GraphBuilder()

    def add(vertex: Tree, above: int | None) -> None:
        fields = {key: value for key, value in vertex.items() if key not in ("with", "properties")}
        held = frozenset(vertex.get("properties", ()))
        number = builder.add(Vertex(**fields, properties=held), above)
        for below in vertex["with"]:
            add(below, number)

    add(tree, None)
    return builder.build()


def ask(matcher: Matcher, op: Op, jobids: dict[int, int], place: int) -> dict[str, Any]:
    """One op's result, as in tests/golden. ``jobids`` of the ops that hold something."""
    try:
        if op["op"] == "cancel":
            jobid = jobids.pop(op["of"], None)
            if jobid is None:
                return {"status": "nothing"}
            matcher.cancel(jobid)
            return {"status": "ok"}
        if op["op"] == "satisfy":
            fits = matcher.satisfiable(op["jobspec"])
            return {"status": "satisfiable" if fits else "unsatisfiable"}
        given = matcher.allocate if op["op"] == "allocate" else matcher.reserve
        match = given(op["jobspec"])
    except Busy:
        return {"status": "busy"}
    except Unsatisfiable:
        return {"status": "unsatisfiable"}
    except FlexError as error:
        return {"status": "refused", "what": error.what}
    except Exception as error:  # noqa: BLE001 - a fault that is looked for, and shrunk
        return {"status": "crashed", "what": repr(error)}
    jobids[place] = match.jobid
    status = "reserved" if match.reserved else "allocated"
    vertices = {path: list(held) for path, held in match.vertices.items()}
    return {"status": status, "at": match.at, "vertices": vertices}


def compare(case: Case, tally: Counter[str] | None = None) -> Difference | None:
    """Where the engines first differ. ``tally`` counts what agreed, op by op."""
    tally = Counter() if tally is None else tally
    graph = graph_of(case.tree)
    embedded = open_matcher(graph, engine="embedded", policy=case.policy)
    fluxion = FluxionMatcher(graph, case.policy)
    mine: dict[int, int] = {}
    its: dict[int, int] = {}
    for place, op in enumerate(case.ops):
        theirs = ask(fluxion, op, its, place)
        if theirs["status"] == "refused":
            tally["refused"] += 1
            continue
        ours = ask(embedded, op, mine, place)
        tally["ops"] += 1
        for what in ("status", "at", "vertices"):
            if ours.get(what) != theirs.get(what):
                tally[f"{what} differs"] += 1
                return Difference(place, what, ours, theirs)
            tally[what] += what in ours
    return None


# -- making a difference smaller -------------------------------------------------------------------


def shrink(case: Case, found: Difference) -> tuple[Case, Difference]:
    """The smallest case that still differs in the same way, as far as single steps lead."""
    trials = 0
    case = replace(case, ops=case.ops[: found.place + 1])
    while True:
        for smaller in _smaller(case):
            trials += 1
            if trials > TRIALS:
                return case, found
            try:
                other = compare(smaller)
            except FlexError:  # no graph any more
                continue
            if other is not None and other.kind == found.kind:
                case, found = replace(smaller, ops=smaller.ops[: other.place + 1]), other
                break
        else:
            return case, found


def _smaller(case: Case) -> Iterator[Case]:
    for place in range(len(case.ops)):
        yield replace(case, ops=_without(case.ops, place))
    for path in _paths(case.tree):
        tree = copy.deepcopy(case.tree)
        *way, last = path
        above = tree
        for step in way:
            above = above["with"][step]
        del above["with"][last]
        yield replace(case, tree=tree)
    for place, op in enumerate(case.ops):
        for jobspec in _simpler(op["jobspec"]) if "jobspec" in op else ():
            ops = [*case.ops]
            ops[place] = {**op, "jobspec": jobspec}
            yield replace(case, ops=ops)


def _without(ops: list[Op], gone: int) -> list[Op]:
    """The ops without one, and without what cancels it; cancels point where they did."""
    left_out = {gone}
    for i, op in enumerate(ops):
        if op.get("of") in left_out:
            left_out.add(i)
    kept = [i for i in range(len(ops)) if i not in left_out]
    now = {old: new for new, old in enumerate(kept)}
    return [{**ops[i], "of": now[ops[i]["of"]]} if "of" in ops[i] else ops[i] for i in kept]


def _paths(tree: Tree) -> Iterator[tuple[int, ...]]:
    """The way to each vertex below the root, upper ones first."""
    for place, below in enumerate(tree["with"]):
        yield (place,)
        yield from ((place, *rest) for rest in _paths(below))


def _simpler(jobspec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    system = jobspec["attributes"]["system"]
    if "constraints" in system:
        yield {**jobspec, "attributes": {"system": {"duration": system["duration"]}}}
    if system["duration"] != 0:
        yield {**jobspec, "attributes": {"system": {**system, "duration": 0}}}
    for resources in _simpler_resources(jobspec["resources"]):
        yield {**jobspec, "resources": resources}


def _simpler_resources(items: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for place, item in enumerate(items):
        before, after = items[:place], items[place + 1 :]
        if before or after:
            yield before + after
        count = item["count"]
        if isinstance(count, dict):
            yield [*before, {**item, "count": count["min"]}, *after]
        elif count > 1:
            yield [*before, {**item, "count": count - 1}, *after]
        if item.get("exclusive"):
            yield [*before, {k: v for k, v in item.items() if k != "exclusive"}, *after]
        for below in _simpler_resources(item.get("with", [])):
            yield [*before, {**item, "with": below}, *after]


# -- the report ------------------------------------------------------------------------------------


def show(case: Case, found: Difference) -> str:
    document = {
        "policy": case.policy,
        "skips": case.skips,
        "differs": found.what,
        "embedded": found.embedded,
        "fluxion": found.fluxion,
        "graph": _brief_jgf(graph_of(case.tree)),
        "ops": case.ops,
    }
    return json.dumps(document)


def _brief_jgf(graph: ResourceGraph) -> dict[str, Any]:
    """JGF without what a reader can tell by itself."""
    document: dict[str, Any] = jgf_document(graph)
    told = {"size": 1, "unit": "", "rank": -1}
    for node in document["graph"]["nodes"]:
        metadata = node["metadata"]
        for key in ("basename", "uniq_id", "exclusive", "paths"):
            del metadata[key]
        node["metadata"] = {k: v for k, v in metadata.items() if told.get(k, ()) != v}
    for edge in document["graph"]["edges"]:
        del edge["metadata"]
    return document


def table(tallies: dict[tuple[str, bool], Counter[str]]) -> str:
    """Of the ops compared, how many agreed; at and vertices of those that gave something."""
    columns = ("ops", "status", "at", "vertices", "refused")
    lines = [f"{'policy':<10}{'levels':<10}" + "".join(f"{name:>22}" for name in columns)]
    for (policy, skips), tally in sorted(tallies.items()):
        cells = [str(tally["ops"])]
        for what in columns[1:4]:
            all_of_it = tally[what] + tally[f"{what} differs"]
            share = 100 * tally[what] / all_of_it if all_of_it else 100.0
            cells.append(f"{tally[what]}/{all_of_it} ({share:.2f} %)")
        cells.append(str(tally["refused"]))
        levels = "skipped" if skips else "named"
        lines.append(f"{policy:<10}{levels:<10}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.differential")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=300, help="for all policies together")
    parser.add_argument("--policy", action="append", choices=BOTH, help="may be repeated")
    parser.add_argument("--show", type=int, default=5, help="differences to shrink and print")
    options = parser.parse_args(arguments)
    try:
        print(f"embedded and fluxion of {open_library().version}", file=sys.stderr)
    except FlexError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    policies = options.policy or BOTH
    tallies: dict[tuple[str, bool], Counter[str]] = {}
    shown: Counter[tuple[str, str, bool]] = Counter()
    for number in range(options.cases):
        rng = random.Random(f"{options.seed}-{number}")
        case = random_case(rng, policies[number % len(policies)])
        found = compare(case, tallies.setdefault((case.policy, case.skips), Counter()))
        kind = (case.policy, found.what, case.skips) if found else None
        if found and kind and sum(shown.values()) < options.show:
            shown[kind] += 1
            print(f"case {options.seed}-{number}: {found.what}", file=sys.stderr)
            print(show(*shrink(case, found)))
    print(table(tallies))
    worst = sum(tally["status differs"] + tally["at differs"] for tally in tallies.values())
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
