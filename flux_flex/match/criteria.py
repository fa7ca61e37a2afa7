"""Criteria: fluxion's expressions for ``find``, asked of a graph and the jobs on it.

    status=up  and  (sched-now=free or jobid-alloc=ƒ5)  property=arm

Terms stand between blanks, with ``and`` (which may be left out) or ``or`` between them. Both bind
alike, so they are worked out from left to right; parentheses group. The terms are:

    status=up|down             down is what was marked, and all below it
    sched-now=allocated|free   held by a job that runs, and all below it
    sched-future=reserved|free held by a job that starts later, and all below it
    jobid-alloc=, jobid-reserved=   what that job holds for itself, running or starting later
    jobid-span=, jobid-tag=    what it shares as well: of span only what contains something
    property=                  a property of the vertex itself, mostly a node
    names=                     vertex names, as a hostlist (RFC 29)
    agfilter=true|false        all or nothing; the counts that fluxion adds are not resources

Follows flux-sched 0.54, resource/evaluators, as observed. That one reads only properties without
capital letters; here each is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from flux_flex.errors import BadInput
from flux_flex.match.matcher import Match
from flux_flex.model.graph import BoolArray, ResourceGraph
from flux_flex.model.hostlist import expand_hostlist
from flux_flex.model.jobid import parse_jobid
from flux_flex.model.quoting import quoted

_WORD = re.compile(r"\s*([()]|[^\s()]+)")
_DEEPEST = 64

_CHOICES = {
    "status": ("up", "down"),
    "sched-now": ("allocated", "free"),
    "sched-future": ("reserved", "free"),
    "agfilter": ("true", "t", "false", "f"),
}
_OTHERS = ("jobid-alloc", "jobid-reserved", "jobid-span", "jobid-tag", "property", "names")


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What criteria are asked of: ``up[v]`` (None: all are), and the ``running`` and ``later`` jobs
    by id."""

    graph: ResourceGraph
    up: BoolArray | None
    running: Mapping[int, Match]
    later: Mapping[int, Match]


def meeting(criteria: str, standing: Standing) -> BoolArray:
    """Which vertices meet criteria, shape (n_vertices,). Raises BadInput for what are none."""
    words = _words(criteria)
    met, rest = _any_of(words, 0, standing, criteria, 0)
    if rest < len(words):
        raise _wrong("a ) without its (", criteria)
    return met


def _words(criteria: str) -> list[str]:
    if not isinstance(criteria, str) or len(criteria) > 1 << 16:
        raise BadInput("no text of at most 64 KiB", "criteria", "use terms such as status=up")
    return _WORD.findall(criteria)


def _any_of(
    words: list[str], place: int, standing: Standing, criteria: str, depth: int
) -> tuple[BoolArray, int]:
    """What a sequence of terms means, from one word up to the end or a closing parenthesis."""
    if depth > _DEEPEST:
        raise _wrong(f"more than {_DEEPEST} parentheses within each other", criteria)
    met: BoolArray | None = None
    while place < len(words) and words[place] != ")":
        either = False
        if met is not None and words[place] in ("and", "or"):
            either = words[place] == "or"
            place += 1
        if place < len(words) and words[place] == "(":
            one, place = _any_of(words, place + 1, standing, criteria, depth + 1)
            if place == len(words):
                raise _wrong("a ( without its )", criteria)
        elif place < len(words) and words[place] != ")":
            one = _term(words[place], standing, criteria)
        else:
            raise _wrong("a term is missing at the end", criteria)
        place += 1
        met = one if met is None else met | one if either else met & one
    if met is None:
        raise _wrong("a term is missing", criteria)
    return met, place


def _term(word: str, standing: Standing, criteria: str) -> BoolArray:
    key, equals, value = word.partition("=")
    choices = _CHOICES.get(key)
    if not equals or (choices is None and key not in _OTHERS):
        raise _wrong(f"{quoted(word)} is no term", criteria)
    if choices is not None:
        if value.lower() not in choices:
            raise _wrong(f"{key} is one of {', '.join(choices)}", criteria)
        return _STATES[key](standing, value.lower())
    if not value and key != "names":
        raise _wrong(f"{key} of nothing", criteria)
    try:
        meaning = _of_job if key.startswith("jobid") else _named
        return meaning(key, value, standing)
    except BadInput as error:
        raise error.at(f"criteria {quoted(criteria)}") from None


def _status(standing: Standing, value: str) -> BoolArray:
    up = np.ones(len(standing.graph), dtype=bool) if standing.up is None else standing.up
    return up if value == "up" else ~up


def _now(standing: Standing, value: str) -> BoolArray:
    held = _held(standing.graph, standing.running)
    return held if value == "allocated" else ~held


def _future(standing: Standing, value: str) -> BoolArray:
    held = _held(standing.graph, standing.later)
    return held if value == "reserved" else ~held


def _all_or_nothing(standing: Standing, value: str) -> BoolArray:
    return np.full(len(standing.graph), value.startswith("t"))


_STATES: dict[str, Callable[[Standing, str], BoolArray]] = {
    "status": _status,
    "sched-now": _now,
    "sched-future": _future,
    "agfilter": _all_or_nothing,
}


def _held(graph: ResourceGraph, matches: Mapping[int, Match]) -> BoolArray:
    """What jobs hold for themselves, with all below it."""
    depth = np.zeros(len(graph) + 1, dtype=np.int64)
    for match in matches.values():
        for vertices, _, exclusive in match.picked:
            if exclusive:
                np.add.at(depth, vertices, 1)
                np.subtract.at(depth, graph.end[vertices], 1)
    held: BoolArray = np.cumsum(depth[:-1]) > 0
    held[graph.aliases(np.flatnonzero(held))] = True
    return held


def _of_job(key: str, value: str, standing: Standing) -> BoolArray:
    jobid = parse_jobid(value)
    met = np.zeros(len(standing.graph), dtype=bool)
    jobs = {} if key == "jobid-reserved" else dict(standing.running)
    jobs |= {} if key == "jobid-alloc" else standing.later
    match = jobs.get(jobid)
    if match is None:
        return met
    if key in ("jobid-span", "jobid-tag"):
        met[list(match.chosen)] = True
        if key == "jobid-span":
            met &= standing.graph.end > np.arange(len(met)) + 1
        return met
    for vertices, _, exclusive in match.picked:
        if exclusive:
            met[vertices] = True
    return met


def _named(key: str, value: str, standing: Standing) -> BoolArray:
    graph = standing.graph
    met = np.zeros(len(graph), dtype=bool)
    if key == "property":
        wanted = {value, value.lower()}
        met[[v for v, held in graph.properties.items() if not wanted.isdisjoint(held)]] = True
    elif value:
        wanted = set(expand_hostlist(value))
        met[[v for v, name in enumerate(graph.names) if name in wanted]] = True
    return met


def _wrong(what: str, criteria: str) -> BadInput:
    remedy = "use terms such as status=up or sched-now=allocated, with and, or, ( )"
    return BadInput(what, f"criteria {quoted(criteria)}", remedy)
