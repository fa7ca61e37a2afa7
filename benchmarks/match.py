"""How fast a match is: ``python -m benchmarks.match [SECTION…]``.

    ratio    milliseconds a match, embedded and fluxion in one run, both given the jobspec as text
    load     reading the JGF of 4,096 nodes, and the peak memory of a process that does only that
    large    16,384 nodes of 64 cores and 4 gpus: load, then 1,000 mixed matches on each policy
    reserve  1,000 reservations behind 500 running jobs on 4,096 nodes
    growth   milliseconds a match from 256 to 16,384 nodes
    hops     how near policy topology places jobs, against first, lonode and random

Without fluxion on the machine its columns are empty. The machine is noisy: only ratios within one
run say something.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flux_flex.match import Matcher
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.match.fluxion import FluxionMatcher
from flux_flex.match.fluxion_library import available
from flux_flex.match.matcher import POLICIES
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import jgf_document, parse_jgf

Opener = Callable[[ResourceGraph, str], Matcher]


def cores(slots: int, each: int = 1, duration: int = 3600) -> str:
    """A jobspec, as text, of slots of cores."""
    return _jobspec([_slot(slots, each)], duration)


def nodes(count: int, duration: int = 3600, each: int = 1) -> str:
    """A jobspec, as text, of whole nodes."""
    node = {"type": "node", "count": count, "exclusive": True, "with": [_slot(1, each)]}
    return _jobspec([node], duration)


def _slot(count: int, each: int) -> dict[str, object]:
    core = {"type": "core", "count": each}
    return {"type": "slot", "count": count, "label": "task", "with": [core]}


def _jobspec(resources: list[dict[str, object]], duration: int) -> str:
    task = {"command": ["app"], "slot": "task", "count": {"per_slot": 1}}
    system = {"duration": duration}
    return json.dumps(
        {"version": 1, "resources": resources, "tasks": [task], "attributes": {"system": system}}
    )


def milliseconds(matcher: Matcher, jobspec: str, times: int) -> float:
    """The mean time of a match, after one that warms up."""
    matcher.allocate(jobspec)
    began = time.perf_counter()
    for _ in range(times):
        matcher.allocate(jobspec)
    return (time.perf_counter() - began) / times * 1e3


def ratio() -> Iterator[str]:
    yield f"{'nodes':>6} {'policy':<8} {'job':<14} {'embedded':>9} {'fluxion':>9}  of fluxion's"
    for count in (1024, 4096):
        graph = uniform_graph(count, 16)
        for policy in ("low", "high", "lonode", "hinode", "first"):
            for title, jobspec, times in (
                ("one core", cores(1), 200),
                ("4 whole nodes", nodes(4), min(200, count // 8)),
            ):
                ours = milliseconds(EmbeddedMatcher(graph, policy), jobspec, times)
                theirs = None
                if available() is not None:
                    few = times if policy == "first" else 12
                    theirs = milliseconds(FluxionMatcher(graph, policy), jobspec, few)
                yield f"{count:>6} {policy:<8} {title:<14} {ours:>6.3f} ms {_against(ours, theirs)}"


def _against(ours: float, theirs: float | None) -> str:
    if theirs is None:
        return "       -"
    part = f"1/{theirs / ours:.0f}" if theirs > 2 * ours else f"{ours / theirs:.2f}"
    return f"{theirs:>6.3f} ms  {part}"


def load() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.json"
        path.write_text(json.dumps(jgf_document(uniform_graph(4096, 16))), encoding="utf-8")
        yield from _loads(path)


def _loads(path: Path) -> Iterator[str]:
    for engine in ("embedded", "fluxion"):
        if engine == "fluxion" and available() is None:
            yield "fluxion   not on this machine"
            continue
        words = [sys.executable, "-m", "benchmarks.match", "--only-load", engine, str(path)]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        seconds, mebibytes = found.stdout.split()
        yield f"{engine:<9} {float(seconds):6.2f} s   {float(mebibytes):7.0f} MiB at the peak"


def only_load(engine: str, path: str) -> None:
    """In a process of its own: load the text of a graph, print seconds and MiB at the peak."""
    text = Path(path).read_text(encoding="utf-8")
    began = time.perf_counter()
    if engine == "fluxion":
        from flux_flex.match.fluxion_library import Context, open_library

        Context(open_library(), text, "low", ["cluster", "node", "core"])
    else:
        EmbeddedMatcher(parse_jgf(json.loads(text)), "low")
    took = time.perf_counter() - began
    # Not ru_maxrss, in which a process begins with what its parent had.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(took, int(peak_kib) / 1024)


def large() -> Iterator[str]:
    began = time.perf_counter()
    graph = uniform_graph(16384, 64, 4)
    yield f"{'load':<9} {time.perf_counter() - began:6.1f} s   {len(graph):,} vertices"
    for policy in POLICIES:
        start = time.perf_counter()
        matcher = EmbeddedMatcher(graph, policy)
        rng = random.Random(1)
        for _ in range(1000):
            matcher.allocate(_mixed(rng))
        took = time.perf_counter() - start
        yield f"{policy:<9} {took:6.1f} s   {took:6.3f} ms a match"
        del matcher
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield f"{'in all':<9} {time.perf_counter() - began:6.1f} s   {peak:,.0f} MiB at the peak"


def _mixed(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return nodes(rng.choice([1, 2, 4, 8, 16]))
    return cores(rng.choice([1, 2, 4, 16, 64]), rng.choice([1, 2, 4]))


def reserve() -> Iterator[str]:
    def filled(open_engine: Opener, reservations: int) -> float:
        graph = uniform_graph(4096, 16)
        matcher = open_engine(graph, "low")
        rng = random.Random(2)
        for _ in range(500):
            matcher.allocate(nodes(8, rng.randrange(600, 86400)))
        jobs = [nodes(rng.choice([4, 16, 128]), rng.randrange(600, 7200)) for _ in range(1000)]
        began = time.perf_counter()
        for job in jobs[:reservations]:
            matcher.reserve(job)
        return (time.perf_counter() - began) / reservations * 1e3

    yield f"embedded, 1,000 reservations: {filled(EmbeddedMatcher, 1000):.3f} ms each"
    if available() is not None:
        ours, theirs = filled(EmbeddedMatcher, 200), filled(FluxionMatcher, 200)
        yield f"the first 200: {ours:.3f} ms {_against(ours, theirs)}"


def growth() -> Iterator[str]:
    yield f"{'nodes':>6}  " + "".join(f"{policy:>10}" for policy in POLICIES) + "   (one core, ms)"
    for count in (256, 1024, 4096, 16384):
        graph = uniform_graph(count, 16)
        each = [milliseconds(EmbeddedMatcher(graph, p), cores(1), 100) for p in POLICIES]
        yield f"{count:>6}  " + "".join(f"{ms:>10.3f}" for ms in each)


def hops(states: int = 200) -> Iterator[str]:
    """Mean pairwise hops of what each policy picks on fragmented states of a three-layer tree."""
    graph = _three_layers()
    rng = random.Random(3)
    sums: dict[str, list[float]] = {name: [] for name in ("topology", "first", "lonode", "random")}
    worse = 0
    for _ in range(states):
        busy = [nodes(1)] * int(len(graph.of_type("node")) * rng.uniform(0.2, 0.7))
        taken = rng.sample(graph.of_type("node").tolist(), len(busy))
        count = rng.choice([2, 4, 8, 16, 32])
        picked = {}
        for policy in ("topology", "first", "lonode"):
            matcher = EmbeddedMatcher(graph, policy)
            matcher.mark(taken, up=False)
            picked[policy] = matcher.allocate(nodes(count)).nodes
        free = sorted(set(graph.of_type("node").tolist()) - set(taken))
        picked["random"] = rng.sample(free, count)
        found = {name: mean_hops(graph, chosen) for name, chosen in picked.items()}
        worse += any(found["topology"] > other + 1e-9 for other in found.values())
        for name, value in found.items():
            sums[name].append(value)
    for name, values in sums.items():
        yield f"{name:<9} {float(np.mean(values)):6.3f} hops between two nodes of a job, on average"
    yield f"topology was worse than another in {worse} of {states} states"


def _three_layers() -> ResourceGraph:
    builder = GraphBuilder()
    root = builder.add(Vertex("cluster", "cluster0"))
    number = 0
    for a in range(4):
        top = builder.add(Vertex("nn1", f"nn1-{a}", a), root)
        for b in range(4):
            middle = builder.add(Vertex("nn2", f"nn2-{b}", 4 * a + b), top)
            for c in range(4):
                leaf = builder.add(Vertex("nn3", f"nn3-{c}", 16 * a + 4 * b + c), middle)
                for _ in range(8):
                    node = Vertex("node", f"node{number}", number, rank=number)
                    above = builder.add(node, leaf)
                    builder.add(Vertex("core", "core0", 0, rank=number), above)
                    number += 1
    return builder.build()


def mean_hops(graph: ResourceGraph, chosen: list[int]) -> float:
    """Edges between two of some vertices, averaged over all pairs."""
    count = len(chosen)
    if count < 2:
        return 0.0
    below: dict[int, int] = {}
    for vertex in chosen:
        while vertex > 0:
            below[vertex] = below.get(vertex, 0) + 1
            vertex = int(graph.parent[vertex])
    return sum(n * (count - n) for n in below.values()) / (count * (count - 1) / 2)


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "ratio": ratio,
    "load": load,
    "large": large,
    "reserve": reserve,
    "growth": growth,
    "hops": hops,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast a match is.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--only-load", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_load:
        only_load(*options.only_load)
        return
    for name in options.sections or SECTIONS:
        print(f"== {name}", flush=True)
        for line in SECTIONS[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
