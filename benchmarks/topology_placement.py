"""What a NetworkTree answers in a second, and how near policy topology places jobs.

Hosts are numbered at random on the tree, since EC2 gives instances in no order of the network. So
a graph without network nodes, ``flat``, is what a scheduler has that was told nothing.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from benchmarks.topology_answers import KIND, Cluster, instances_of
from flux_flex.match import Matcher, open_matcher
from flux_flex.model.graph import graph_from_r
from flux_flex.model.network import NetworkPlace, NetworkTree, Span
from flux_flex.topology.annotate import graph_of, resources_of
from flux_flex.topology.answers import InstanceShape
from flux_flex.topology.mapping import Network

SETS = (2, 64, 1024)
NEAREST = (2, 16, 64)
JOBS = (2, 4, 8, 16, 32, 64)
BUSY = (0.3, 0.5, 0.7)
WAYS = ("topology", "first", "flat", "random", "nearest")


def network_of(cluster: Cluster) -> Network:
    """The network of a cluster, without the answers, the hosts in order of their numbers."""
    placed = sorted(instances_of(cluster), key=lambda one: one.number)
    places = [
        NetworkPlace(f"compute{one.number}", one.nodes, one.instance_id, KIND, "us-east-2b")
        for one in placed
    ]
    return Network(tuple(places), shapes={KIND: InstanceShape(KIND, cluster.cores, 0, 0)})


# -- queries -------------------------------------------------------------------------------------


def queries(cluster: Cluster, seconds: float, found: dict[str, object]) -> Iterator[str]:
    """Queries in a second of processor time, each kind asked for about ``seconds`` of it."""
    tree = network_of(cluster).tree
    rng = random.Random(1)
    hosts = list(tree.hosts)
    free = rng.sample(hosts, len(hosts) // 2)
    yield f"{cluster.words}; for nearest half of them, at random, are free"
    kinds: list[tuple[str, Callable[[], object]]] = []
    pairs = [rng.sample(hosts, 2) for _ in range(1000)]
    kinds.append(("hops", lambda: tree.hops(*rng.choice(pairs))))
    for count in SETS:
        if count > len(hosts):
            continue
        sets = [rng.sample(hosts, count) for _ in range(100)]
        kinds.append((f"span of {count:,}", partial(_any_span, tree, sets, rng)))
    for count in NEAREST:
        kinds.append((f"nearest {count}", partial(tree.nearest, free, count)))
    for title, ask in kinds:
        found[title] = rate = _rate(ask, seconds)
        yield f"{title:<14}{rate:>10,.0f} a second{1e3 / rate:>12.3f} ms each"


def _any_span(tree: NetworkTree, sets: Sequence[list[str]], rng: random.Random) -> Span:
    return tree.span(rng.choice(sets))


def _rate(ask: Callable[[], object], seconds: float) -> float:
    ask()
    asked, began = 0, time.process_time()
    while (took := time.process_time() - began) < seconds or asked < 3:
        for _ in range(1 + asked // 10):  # the clock is not asked each time
            ask()
            asked += 1
    return asked / took


# -- placement -----------------------------------------------------------------------------------


@dataclass
class Hops:
    """Mean hops between two nodes of a job, one number for each state, by how it was placed.

    topology, first   by these policies, on a graph that has the network nodes
    flat              by policy first, on the graph of an R
    random            any free nodes
    nearest           the free hosts that are nearest to each other, by NetworkTree
    """

    topology: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    flat: list[float] = field(default_factory=list)
    random: list[float] = field(default_factory=list)
    nearest: list[float] = field(default_factory=list)

    @property
    def n_nearest(self) -> int:
        """In how many states policy topology found the optimum."""
        pairs = zip(self.topology, self.nearest, strict=True)
        return sum(abs(one - other) < 1e-9 for one, other in pairs)

    def line(self) -> str:
        topology, *others = (fmean(getattr(self, way)) for way in WAYS[:4])
        hops = "".join(f"{one:>9.3f}" for one in (topology, *others))
        ratios = "".join(f"{topology / one:>8.2f}" for one in others)
        return f"{hops}   {ratios}   {self.n_nearest:>6} of {len(self.topology)}"


def placing(cluster: Cluster, seeds: int, found: dict[str, object]) -> Iterator[str]:
    """Whole-node jobs where some nodes are busy at random: a table by how many, and by job."""
    placements = hops_of_jobs(cluster, seeds)
    yield f"{cluster.words}, {seeds} random states a line; mean hops between two nodes of a job"
    yield f"{'':11}{'':36}   {'topology /':<24}   {'topology'}"
    yield (
        f"{'busy nodes':>11}" + "".join(f"{way:>9}" for way in WAYS[:4]) + "   "
        f"{'first':>8}{'flat':>8}{'random':>8}   is nearest"
    )
    for (busy, count), hops in placements.items():
        yield f"{busy:>5.0%} {count:>5}{hops.line()}"
        found[f"{busy:.0%} busy, {count} nodes"] = {way: fmean(getattr(hops, way)) for way in WAYS}
    whole = Hops()
    for hops in placements.values():
        for name, values in vars(hops).items():
            getattr(whole, name).extend(values)
    yield f"{'all':>11}{whole.line()}"


def hops_of_jobs(cluster: Cluster, seeds: int) -> dict[tuple[float, int], Hops]:
    """By the part of the nodes that is busy, and by the nodes of a job."""
    network = network_of(cluster)
    tree, graph = network.tree, graph_of(network)
    matchers = {way: open_matcher(graph, policy=way) for way in ("topology", "first")}
    matchers["flat"] = open_matcher(graph_from_r(resources_of(network)), policy="first")
    sizes = [count for count in JOBS if count <= cluster.n_hosts * (1 - max(BUSY))]
    found = {(busy, count): Hops() for busy in BUSY for count in sizes}
    for seed in range(seeds):
        for busy in BUSY:
            rng = random.Random(f"{seed} {busy}")
            taken = sorted(rng.sample(range(cluster.n_hosts), int(cluster.n_hosts * busy)))
            free = [host for rank, host in enumerate(tree.hosts) if rank not in set(taken)]
            for matcher in matchers.values():
                matcher.mark_ranks(taken, up=False)
            for count in sizes:
                picked = {name: _picked(one, count) for name, one in matchers.items()}
                picked["random"] = rng.sample(free, count)
                picked["nearest"] = tree.nearest(free, count)
                for name, hosts in picked.items():
                    getattr(found[busy, count], name).append(tree.span(hosts).mean_hops)
            for matcher in matchers.values():
                matcher.mark_ranks(taken, up=True)
    return found


def _picked(matcher: Matcher, count: int) -> Sequence[str]:
    """The hosts of a job of whole nodes, which gives them back."""
    match = matcher.allocate(_whole_nodes(count), jobid=1)
    matcher.cancel(1)
    return match.hosts


def _whole_nodes(count: int) -> str:
    slot = {"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}
    node = {"type": "node", "count": count, "exclusive": True, "with": [slot]}
    task = {"command": ["app"], "slot": "task", "count": {"per_slot": 1}}
    attributes = {"system": {"duration": 3600}}
    return json.dumps(
        {"version": 1, "resources": [node], "tasks": [task], "attributes": attributes}
    )
