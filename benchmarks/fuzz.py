"""What malformed input does: ``python -m benchmarks.fuzz [--seed S] [--cases N]``.

Jobspecs and graphs that are good are spoilt, as text and as trees, and given to the parsers, and
what still parses to the matcher. Only FlexError may come out. Prints how many cases came to what,
the longest time of one, and the peak memory; ends with 1 if anything else came out.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable

from flux_flex.errors import FlexError
from flux_flex.match import open_matcher
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jgf import jgf_document, parse_jgf
from flux_flex.model.jobspec import decode, load_jobspec, parse_jobspec

SLOT = {
    "type": "slot",
    "count": 2,
    "label": "task",
    "with": [{"type": "core", "count": {"min": 1, "max": 4, "operator": "*", "operand": 2}}],
}
JOBSPEC = {
    "version": 1,
    "resources": [{"type": "node", "count": 2, "exclusive": True, "unit": "", "with": [SLOT]}],
    "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
    "attributes": {
        "system": {"duration": 60.0, "constraints": {"and": [{"ranks": ["0-3"]}, {"not": []}]}}
    },
}
GRAPH = jgf_document(uniform_graph(3, 2, 1, properties=["efa"]))

HOSTILE: list[object] = [
    None, True, False, 0, -1, 1, 2, 10**6, 10**18, 10**400, 1.5, -0.0, float("nan"), float("inf"),
    "", "\x00", "ƒ", "0-1000000000", "1,2", "[", "2-8:2:*", "a" * 5000, "../../etc", "\x1b[31m",
    [], {}, [[]], [None], {"": None}, {"min": 10**18, "max": 10**19}, {"type": "slot"},
]  # fmt: skip
GRAINS = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\",
    "\n",
    "\t",
    "-",
    "e",
    "9" * 30,
    "&a ",
    "*a",
    "!!",
]


def spoilt_tree(rng: random.Random, good: object) -> object:
    """A copy of a tree with one to four things in it replaced, removed, doubled or nested."""
    tree = copy.deepcopy(good)
    for _ in range(rng.randint(1, 4)):
        places = list(_places(tree))
        if not places:
            return rng.choice(HOSTILE)
        holder, key = rng.choice(places)
        what = rng.random()
        if what < 0.6:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif what < 0.75:
            del holder[key]
        elif what < 0.9 and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            deep: object = holder[key]
            for _ in range(rng.choice([1, 40, 2000])):
                deep = [deep] if rng.random() < 0.5 else {"with": deep}
            holder[key] = deep
    return tree


def _places(tree: object) -> list[tuple[object, object]]:
    """(container, key) of everything in a tree, by a stack: trees may be deep."""
    found, stack = [], [tree]
    while stack:
        one = stack.pop()
        keys = (
            list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        )
        for key in keys:
            found.append((one, key))
            stack.append(one[key])
    return found


def spoilt_text(rng: random.Random, text: str) -> str:
    """A text with one to six grains of sand in it, or cut off."""
    for _ in range(rng.randint(1, 6)):
        at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        what = rng.random()
        if what < 0.6:
            text = text[:at] + rng.choice(GRAINS) + text[at:]
        elif what < 0.8:
            text = text[:at] + text[min(at + 3, to) :]
        elif what < 0.9:
            text = text[:at] + text[at:to] + text[at:]
        else:
            text = text[:at]
    return text[:20_000]


def _jobspec_text(rng: random.Random) -> None:
    _ask(load_jobspec(spoilt_text(rng, json.dumps(JOBSPEC))))


def _jobspec_tree(rng: random.Random) -> None:
    _ask(parse_jobspec(spoilt_tree(rng, JOBSPEC)))


def _graph_text(rng: random.Random) -> None:
    open_matcher(parse_jgf(decode(spoilt_text(rng, json.dumps(GRAPH)))), engine="embedded")


def _graph_tree(rng: random.Random) -> None:
    matcher = open_matcher(parse_jgf(spoilt_tree(rng, GRAPH)), engine="embedded")
    matcher.satisfiable(JOBSPEC)


def _ask(jobspec: object) -> None:
    matcher = open_matcher(MATCHED, engine="embedded", policy="low")
    matcher.reserve(jobspec)  # type: ignore[arg-type]


MATCHED = uniform_graph(4, 8)

KINDS: dict[str, Callable[[random.Random], None]] = {
    "jobspecs as text": _jobspec_text,
    "jobspecs as trees": _jobspec_tree,
    "graphs as text": _graph_text,
    "graphs as trees": _graph_tree,
}


def run(title: str, seed: int, cases: int) -> bool:
    """Run one kind; whether only FlexError came out."""
    outcomes: Counter[str] = Counter()
    longest, good = 0.0, True
    for number in range(cases):
        began = time.perf_counter()
        try:
            KINDS[title](random.Random(f"{title} {seed} {number}"))
            outcomes["answered"] += 1
        except FlexError as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 - finding those is what this is for
            good = False
            outcomes[f"{type(error).__name__}!"] += 1
            if outcomes[f"{type(error).__name__}!"] == 1:
                print(f"{title}, seed {seed}, case {number}:", file=sys.stderr)
                traceback.print_exc(limit=-4)
        longest = max(longest, time.perf_counter() - began)
    said = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    print(f"{title:<18} {said}; at the longest {longest * 1e3:.0f} ms", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="What malformed input does.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=100_000, help="of each kind")
    options = parser.parse_args()
    good = [run(title, options.seed, options.cases) for title in KINDS]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak:.0f} MiB at the peak")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
