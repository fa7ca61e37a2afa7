"""The fluxion engine with the real fluxion, where there is one; else these tests are skipped.

FLUX_FLEX_LIBREAPI names its libreapi_cli.so, or ``flux`` is on PATH.
"""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fluxion_library_here import NEEDS_FLUXION
from match_help import ask, cores, spec, whole_nodes

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.match.fluxion import FluxionMatcher
from flux_flex.match.fluxion_library import Library
from flux_flex.match.matcher import read_graph
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import jgf_document
from flux_flex.model.rv1 import RankResources, ResourceSet

GOLDEN = Path(__file__).parents[1] / "golden" / "fluxion-matches.jsonl.gz"


pytestmark = NEEDS_FLUXION


def sockets(nodes: int = 2) -> ResourceGraph:
    """Nodes of two sockets, each with a core0 and a core1."""
    builder = GraphBuilder()
    cluster = builder.add(Vertex("cluster", "cluster0"))
    for n in range(nodes):
        node = builder.add(Vertex("node", f"node{n}", n, rank=n), cluster)
        for s in range(2):
            socket = builder.add(Vertex("socket", f"socket{s}", s, rank=n), node)
            for c in range(2):
                builder.add(Vertex("core", f"core{c}", c, rank=n), socket)
    return builder.build()


def network() -> ResourceGraph:
    """cluster > nn1 > nn2 > nn3 > two nodes of two cores."""
    builder = GraphBuilder()
    above = builder.add(Vertex("cluster", "cluster0"))
    for kind in ("nn1", "nn2", "nn3"):
        above = builder.add(Vertex(kind, f"{kind}-0"), above)
    for n in range(2):
        node = builder.add(Vertex("node", f"node{n}", n, rank=n), above)
        for c in range(2):
            builder.add(Vertex("core", f"core{c}", c, rank=n), node)
    return builder.build()


def test_the_version_of_what_was_found_is_told() -> None:
    matcher = FluxionMatcher(uniform_graph(1, 1))
    assert matcher.version.startswith("flux-sched ")
    assert ", flux-core 0." in matcher.version


def recorded() -> Iterator[dict[str, Any]]:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def replayed(matcher: FluxionMatcher, op: dict[str, Any], jobids: dict[int, int]) -> dict[str, Any]:
    """An op's result in the words of the recording, which takes plain allocate's busy for both."""
    if op["op"] == "cancel":
        matcher.cancel(jobids.pop(op["jobid"]))
        return {"status": "ok"}
    if op["op"] == "satisfy":
        fits = matcher.satisfiable(op["jobspec"])
        return {"status": "satisfiable" if fits else "unsatisfiable"}
    try:
        reserve = op["op"] == "allocate_orelse_reserve"
        match = (matcher.reserve if reserve else matcher.allocate)(op["jobspec"])
    except Busy:
        return {"status": "busy"}
    except Unsatisfiable:
        return {"status": "unsatisfiable" if reserve else "busy"}
    jobids[op["result"].get("jobid", 0)] = match.jobid
    vertices = {path: list(held) for path, held in match.vertices.items()}
    return {"status": "reserved" if match.reserved else "allocated", "at": match.at,
            "vertices": vertices}  # fmt: skip


@pytest.mark.skipif(
    not GOLDEN.exists(), reason="no tests/golden/fluxion-matches.jsonl.gz: check the clone"
)
def test_what_was_recorded_is_answered_again() -> None:
    different = []
    for case in recorded():
        matcher = FluxionMatcher(read_graph(case["graph"]), case["policy"])
        jobids: dict[int, int] = {}
        for place, op in enumerate(case["ops"]):
            told = {k: v for k, v in op["result"].items() if k in ("status", "at", "vertices")}
            if replayed(matcher, op, jobids) != told:
                different.append((case["case"], place))
                break
        matcher.close()
    assert different == []


def test_ten_thousand_matches_do_not_grow_the_process() -> None:
    matcher = FluxionMatcher(uniform_graph(64, 8))
    texts = [json.dumps(cores(4)), json.dumps(whole_nodes(2, 60)), json.dumps(whole_nodes(65))]

    def rounds(n: int) -> None:
        for text in itertools.islice(itertools.cycle(texts), n):
            matcher.satisfiable(text)
            try:
                matcher.cancel(matcher.allocate(text).jobid)
            except Unsatisfiable:
                continue

    rounds(1_500)
    gc.collect()
    before = resident_kib()
    rounds(15_000)  # two of three match
    gc.collect()
    # 10,000 answers are 8 MB of text, and as many jobs that fluxion remembers another 2 MB.
    assert resident_kib() - before < 512


def test_contexts_are_given_back() -> None:
    graph = uniform_graph(128, 16)

    def opened_and_dropped(n: int) -> None:
        for _ in range(n):
            FluxionMatcher(graph).fork()
        gc.collect()

    opened_and_dropped(5)
    before = resident_kib()
    opened_and_dropped(10)
    assert resident_kib() - before < 8_192  # each is 10 MB


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def test_never_is_told_from_not_now() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 4), "low")
    held = matcher.allocate(whole_nodes(2))
    for question in (matcher.allocate, matcher.reserve):
        with pytest.raises(Busy):
            question(cores(1))
        with pytest.raises(Unsatisfiable):
            question(whole_nodes(3))
        with pytest.raises(Unsatisfiable, match="no fpga"):
            question(spec(ask("slot", 1, ask("fpga"))))
    assert matcher.satisfiable(cores(8))
    assert not matcher.satisfiable(cores(9))
    assert not matcher.satisfiable(spec(ask("slot", 1, ask("fpga"))))
    matcher.cancel(held.jobid)
    assert matcher.allocate(cores(8)).amount("core") == 8


def test_jobids_are_the_callers() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 4))
    assert matcher.allocate(cores(1), jobid=4711).jobid == 4711
    with pytest.raises(BadInput, match="4711 holds resources already"):
        matcher.allocate(cores(1), jobid=4711)
    assert matcher.reserve(cores(1)).jobid == 1
    assert set(matcher.holders) == {4711, 1}
    assert matcher.info(4711).amount("core") == 1
    with pytest.raises(BadInput, match="job 5 holds nothing"):
        matcher.cancel(5)


def test_a_job_of_another_graph_can_be_loaded_after_this_one() -> None:
    # Fluxion learns the types of the first graph of a process, and must be taught others.
    FluxionMatcher(uniform_graph(1, 1))
    builder = GraphBuilder()
    cluster = builder.add(Vertex("cluster", "cluster0"))
    builder.add(Vertex("quantum", "quantum0"), cluster)
    assert FluxionMatcher(builder.build()).satisfiable(spec(ask("slot", 1, ask("quantum"))))


def test_a_reservation_and_a_later_start_meet() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 4), "low")
    matcher.allocate(whole_nodes(2, 10))
    reserved = matcher.reserve(whole_nodes(1, 10))
    assert (reserved.at, reserved.reserved) == (10, True)
    with pytest.raises(Busy):
        matcher.allocate(whole_nodes(2, 10), at=15)
    later = matcher.allocate(whole_nodes(1, 10), at=14.5)
    assert (later.at, later.reserved) == (15, False)
    assert later.hosts != reserved.hosts
    after = matcher.reserve(whole_nodes(2, 10), at=15)
    assert (after.at, after.reserved) == (25, True)
    # And what was given for later is held in the present's view too.
    assert matcher.reserve(whole_nodes(2, 10)).at == 35


def test_an_allocation_made_elsewhere_is_in_the_way() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 4), "low")
    R = ResourceSet((RankResources(0, "node0", (0, 1, 2, 3), ()),)).to_r()
    matcher.update(7, R, at=0, duration=30)
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]
    assert matcher.reserve(cores(1)).at == 30
    with pytest.raises(Busy, match="held by job 7 already"):
        matcher.update(8, R, at=20, duration=0)
    matcher.cancel(7)
    assert matcher.allocate(cores(1, 20)).at == 0


@pytest.mark.parametrize(
    "below",
    [ask("slot", 4, ask("core")), ask("slot", 2, ask("socket", 1, ask("core", 2)))],
    ids=["skipped", "named"],
)
def test_what_is_allocated_for_later_is_free_until_then(below: dict[str, Any]) -> None:
    # Fluxion by itself takes what it is told is allocated later for a job that overruns.
    matcher = FluxionMatcher(sockets(1), "low")
    R = ResourceSet((RankResources(0, "node0", (0, 1), ()),)).to_r()
    matcher.update(7, R, at=100, duration=100)
    request = spec(ask("node", 1, below), duration=50)
    assert matcher.allocate(request).at == 0
    after = matcher.reserve(request)
    assert (after.at, after.reserved) == (50, True)
    with pytest.raises(Busy):
        matcher.allocate(request)
    assert matcher.reserve(request).at == 200
    with pytest.raises(Unsatisfiable):
        matcher.reserve(spec(ask("node", 2, ask("slot", 1, ask("core"))), duration=50))


def test_a_part_of_a_job_is_given_back_by_rank() -> None:
    matcher = FluxionMatcher(uniform_graph(3, 4), "low")
    job = matcher.allocate(whole_nodes(2))
    first = ResourceSet((RankResources(0, "node0", (0, 1, 2, 3), ()),)).to_r()
    assert not matcher.partial_cancel(job.jobid, first)
    assert matcher.info(job.jobid).hosts == ["node1"]
    assert matcher.allocate(whole_nodes(2, 5)).hosts == ["node0", "node2"]
    with pytest.raises(BadInput, match="holds nothing there"):
        matcher.partial_cancel(job.jobid, first)
    second = ResourceSet((RankResources(1, "node1", (0,), ()),)).to_r()
    assert matcher.partial_cancel(job.jobid, second)
    assert job.jobid not in matcher.holders


def test_nothing_starts_on_what_is_down() -> None:
    matcher = FluxionMatcher(uniform_graph(3, 4), "low")
    matcher.mark_path("/cluster0/node0", up=False)
    matcher.mark_ranks("2", up=False)
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    assert matcher.satisfiable(whole_nodes(3))
    down = {matcher.graph.names[v] for v in matcher.found("status=down")}
    assert {"node0", "node2"} <= down
    assert "node1" not in down
    # A view that is opened later knows it as well.
    with pytest.raises(Busy):
        matcher.allocate(cores(1, 5), at=100)
    matcher.mark([0], up=True)
    assert matcher.allocate(whole_nodes(2)).hosts == ["node0", "node2"]
    with pytest.raises(BadInput, match="a part of a node"):
        matcher.mark_path("/cluster0/node0/core0", up=False)
    with pytest.raises(BadInput, match="no such vertex"):
        matcher.mark_path("/cluster0/node9", up=False)


def test_a_job_is_found_by_the_id_its_caller_knows() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 1), "low")
    matcher.allocate(cores(1), jobid=900)
    names = [matcher.graph.names[v] for v in matcher.found("jobid-alloc=900")]
    assert names == ["cluster0", "node0", "core0"]
    assert matcher.found("jobid-alloc=1") == []
    with pytest.raises(FlexError, match="invalid criteria"):
        matcher.found("what ever")


@pytest.mark.parametrize("clone", [True, False])
def test_a_fork_goes_its_own_way(clone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = FluxionMatcher(uniform_graph(2, 4), "low")
    job = matcher.allocate(whole_nodes(1))
    matcher.mark_path("/cluster0/node1", up=False)
    if not clone:
        has = Library.has
        monkeypatch.setattr(Library, "has", lambda self, name: name != "clone" and has(self, name))
    twin = matcher.fork()
    twin.cancel(job.jobid)
    twin.mark_ranks("0-1", up=True)
    assert twin.allocate(whole_nodes(2)).hosts == ["node0", "node1"]
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    matcher.close()
    with pytest.raises(Busy):
        twin.allocate(cores(1))
    with pytest.raises(Busy):  # closed, it loads the graph again, with what it holds
        matcher.allocate(cores(1))


def test_a_burst_arrives_and_leaves() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 2), "low")
    local = matcher.allocate(whole_nodes(2))
    part = jgf_document(uniform_graph(4, 2))
    matcher.add_subgraph(part)
    away = matcher.allocate(whole_nodes(2))
    assert away.hosts == ["node2", "node3"]
    assert local.hosts == matcher.info(local.jobid).hosts == ["node0", "node1"]
    with pytest.raises(BadInput, match=f"job {away.jobid} holds a part of it"):
        matcher.remove_subgraph("/cluster0/node2")
    matcher.cancel(away.jobid)
    for path in ("/cluster0/node2", "/cluster0/node3"):
        matcher.remove_subgraph(path)
    assert not matcher.satisfiable(whole_nodes(3))
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    matcher.add_subgraph(part)
    assert matcher.allocate(spec(ask("cluster", 1, ask("core", 1, exclusive=True)))).nodes == [7]
    matcher.cancel(local.jobid)
    assert len(matcher.allocate(whole_nodes(3)).hosts) == 3


# -- levels that a request skips, with the real one ------------------------------------------------


def test_sockets_between_node_and_core_may_be_skipped() -> None:
    matcher = FluxionMatcher(sockets(), "low")
    three = matcher.allocate(spec(ask("node", 1, ask("slot", 1, ask("core", 3)))))
    assert three.vertices == {
        "/cluster0": (1, False),
        "/cluster0/node0": (1, False),
        "/cluster0/node0/socket0": (1, False),
        "/cluster0/node0/socket0/core0": (1, True),
        "/cluster0/node0/socket0/core1": (1, True),
        "/cluster0/node0/socket1": (1, False),
        "/cluster0/node0/socket1/core0": (1, True),
    }
    # The views with and without sockets know of each other's jobs.
    with_sockets = spec(ask("node", 1, ask("slot", 1, ask("socket", 1, ask("core", 2)))))
    for _ in range(2):
        assert matcher.allocate(with_sockets).hosts == ["node1"]
    with pytest.raises(Busy):
        matcher.allocate(spec(ask("node", 1, ask("slot", 1, ask("core", 2)))))
    matcher.cancel(three.jobid)
    assert matcher.allocate(with_sockets).hosts == ["node0"]


def test_a_socket_held_with_one_core_of_it_keeps_the_other_where_sockets_are_folded() -> None:
    matcher = FluxionMatcher(sockets(1), "low")
    matcher.allocate(spec(ask("slot", 1, ask("socket", 1, ask("core", 1)))))
    got = matcher.allocate(spec(ask("node", 1, ask("slot", 1, ask("core", 2)))))
    assert "/cluster0/node0/socket1" in got.vertices
    assert "/cluster0/node0/socket0" not in got.vertices


def test_a_whole_node_has_its_sockets_whole_though_they_were_folded() -> None:
    matcher = FluxionMatcher(sockets(), "low")
    got = matcher.allocate(spec(ask("node", 1, ask("slot", 1, ask("core", 1)), exclusive=True)))
    assert got.vertices["/cluster0/node0/socket0"] == (1, True)
    assert len(got.chosen) == 8


@pytest.mark.parametrize(
    "request_",
    [
        ask("nn2", 1, ask("node", 1, ask("slot", 1, ask("core", 2)))),
        ask("cluster", 1, ask("node", 1, exclusive=True)),
        ask("nn3", 1, ask("slot", 1, ask("node", 1, ask("core", 2)))),
    ],
    ids=["nn2-node", "cluster-node", "nn3-node"],
)
def test_network_layers_may_be_skipped(request_: dict[str, Any]) -> None:
    matcher = FluxionMatcher(network(), "low")
    got = matcher.allocate(spec(request_))
    assert got.hosts == ["node0"]
    assert got.vertices["/cluster0/nn1-0/nn2-0/nn3-0"] == (1, False)
    assert matcher.reserve(spec(request_)).hosts == ["node1"]


def test_nodes_may_not_be_skipped_where_a_constraint_speaks_of_them() -> None:
    matcher = FluxionMatcher(sockets(), "low")
    request = ask("cluster", 1, ask("slot", 1, ask("core", 1)))
    assert matcher.allocate(spec(request)).amount("core") == 1
    with pytest.raises(FlexError, match="its constraint may speak of"):
        matcher.allocate(spec(request, constraints={"hostlist": ["node1"]}))
