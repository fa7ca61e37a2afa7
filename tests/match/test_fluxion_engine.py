"""The fluxion engine: how the library is found, what it is asked, and what comes back."""

from __future__ import annotations

import ctypes
import errno
import gc
import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from match_help import ask, cores, spec, whole_nodes

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.match import fluxion_library
from flux_flex.match.fluxion import FluxionMatcher
from flux_flex.match.fluxion_graphs import (
    fold,
    graft,
    levels_between,
    prune,
    skipped_levels,
    vertices_of_r,
)
from flux_flex.match.fluxion_library import Context, Library, Operation, open_library
from flux_flex.match.matcher import read_graph
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import jgf_document, paths_of
from flux_flex.model.jobspec import parse_jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet

GOLDEN = Path(__file__).parents[1] / "golden" / "fluxion-matches.jsonl.gz"
FLUX_VARIABLES = ("FLUX_FLEX_LIBREAPI", "FLUX_PREFIX", "FLUX_MODULE_PATH")


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


# -- finding the library ---------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Flux: nothing in the environment, an empty directory as PATH."""
    for name in FLUX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fluxion_library.ctypes.util, "find_library", lambda name: None)
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_where_there_is_no_fluxion_the_error_says_what_was_looked_for_where(bare: Path) -> None:
    with pytest.raises(FlexError) as caught:
        open_library()
    said = str(caught.value)
    for words in ("libreapi_cli.so", "FLUX_FLEX_LIBREAPI is not set", "FLUX_PREFIX: not set",
                  "pkg-config: no pkg-config", "ldconfig: no libreapi_cli.so in its cache",
                  "PATH: no flux on it", "install flux-sched"):  # fmt: skip
        assert words in said


def test_every_place_that_was_tried_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bare / "pkg-config", 'test "$*" = "--variable=libdir flux-core" && echo /opt/pkg/lib64')
    script(bare / "flux", "exit 1")
    monkeypatch.setenv("FLUX_PREFIX", "/opt/prefix")
    monkeypatch.setenv("FLUX_MODULE_PATH", "/opt/here/lib/flux/modules")
    with pytest.raises(FlexError) as caught:
        open_library()
    for place in ("/opt/prefix/lib/flux/", "/opt/prefix/lib64/flux/", "/opt/here/lib/flux/",
                  "/opt/pkg/lib64/flux/", f"{bare.parent.resolve()}/lib/flux/"):  # fmt: skip
        assert f"{place}libreapi_cli.so" in caught.value.what


def test_a_pkg_config_that_hangs_is_left_behind(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(bare / "pkg-config", "exec /bin/sleep 60")
    monkeypatch.setattr(fluxion_library, "PKG_CONFIG_DEADLINE_S", 0.1)
    with pytest.raises(FlexError, match="timed out"):
        open_library()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_library_that_was_ordered_is_not_replaced_by_another(
    by: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = bare / "mine.so"
    monkeypatch.setenv("FLUX_PREFIX", "/opt/flux")
    if by == "environment":
        monkeypatch.setenv("FLUX_FLEX_LIBREAPI", str(ordered))
    with pytest.raises(FlexError, match=r"mine\.so") as caught:
        open_library(ordered if by == "argument" else None)
    assert caught.value.where == ("the given library" if by == "argument" else "FLUX_FLEX_LIBREAPI")


# -- folding ---------------------------------------------------------------------------------------


def test_a_level_between_two_that_are_named_is_skipped() -> None:
    between = levels_between(sockets())

    def skipped(*resources: dict[str, Any]) -> frozenset[str]:
        return skipped_levels(between, parse_jobspec(spec(*resources)))

    assert skipped(ask("node", 1, ask("slot", 1, ask("core")))) == {"socket"}
    assert skipped(ask("cluster", 1, ask("core"))) == {"node", "socket"}
    assert skipped(ask("slot", 1, ask("core"))) == frozenset()
    assert skipped(ask("node", 1, ask("socket", 1, ask("core")))) == frozenset()


def test_a_level_both_skipped_and_named_cannot_be_folded() -> None:
    request = parse_jobspec(spec(ask("node", 1, ask("core"), ask("socket", 1, ask("core")))))
    with pytest.raises(FlexError, match="skips the level socket in one place"):
        skipped_levels(levels_between(sockets()), request)


def test_of_switches_in_switches_the_nearest_counts() -> None:
    builder = GraphBuilder()
    above = builder.add(Vertex("cluster", "cluster0"))
    for kind, name in (("switch", "top"), ("rack", "rack0"), ("switch", "leaf"), ("node", "node0")):
        above = builder.add(Vertex(kind, name), above)
    between = levels_between(builder.build())
    assert between["switch", "node"] == frozenset()
    assert between["rack", "node"] == {"switch"}
    assert between["cluster", "node"] == {"switch", "rack"}


def test_folded_vertices_leave_their_contents_to_what_contains_them() -> None:
    graph = sockets(1)
    folded, kept = fold(graph, frozenset({"socket"}))
    assert folded.types == ("cluster", "node", "core")
    # Two cores of one node are called core0: the second gets its number in the whole graph.
    assert paths_of(folded, range(len(folded)))[2:] == [
        "/cluster0/node0/core0",
        "/cluster0/node0/core1",
        "/cluster0/node0/core0.6",
        "/cluster0/node0/core1.7",
    ]
    assert [graph.names[v] for v in kept] == [n.split(".")[0] for n in folded.names]
    assert np.array_equal(folded.local_id, graph.local_id[kept])


def test_nothing_folded_is_the_graph_itself() -> None:
    graph = sockets()
    folded, kept = fold(graph, frozenset())
    assert folded is graph
    assert np.array_equal(kept, np.arange(len(graph)))


def test_a_part_grafted_and_pruned_leaves_the_graph_as_it_was() -> None:
    two, three = uniform_graph(2, 2), uniform_graph(3, 2)
    grown, moved, added = graft(two, three)
    assert paths_of(grown, range(len(grown))) == paths_of(three, range(len(three)))
    assert paths_of(grown, moved) == paths_of(two, range(len(two)))
    assert [grown.names[v] for v in added] == ["node2", "core0", "core1"]
    left, moved = prune(grown, added[0])
    assert paths_of(left, range(len(left))) == paths_of(two, range(len(two)))
    assert moved[added].tolist() == [-1, -1, -1]


def test_a_part_of_another_cluster_or_with_nothing_new_is_refused() -> None:
    with pytest.raises(BadInput, match="hangs from /cluster1"):
        graft(uniform_graph(1, 1), read_graph(_renamed(uniform_graph(2, 1))))
    with pytest.raises(BadInput, match="in the graph already"):
        graft(uniform_graph(2, 1), uniform_graph(1, 1))
    with pytest.raises(BadInput, match="root cannot be removed"):
        prune(uniform_graph(1, 1), 0)


def _renamed(graph: ResourceGraph) -> dict[str, Any]:
    document: dict[str, Any] = jgf_document(graph)
    document["graph"]["nodes"][0]["metadata"]["name"] = "cluster1"
    return document


def test_an_r_of_another_system_is_refused() -> None:
    graph = uniform_graph(2, 2)
    good = ResourceSet((RankResources(1, "node1", (0, 1), ()),))
    assert [graph.path(v) for v in vertices_of_r(graph, good)] == [
        "/cluster0/node1/core0",
        "/cluster0/node1/core1",
    ]
    for rank, host, core, words in ((0, "node1", 0, "no node node1 of rank 0"),
                                    (1, "node1", 2, "has no core2")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            vertices_of_r(graph, ResourceSet((RankResources(rank, host, (core,), ()),)))


# -- errors, with a stand-in for the library -------------------------------------------------------


class StandIn(Library):
    """Functions that fail with a number and some words, and a count of what was not freed."""

    def __init__(self, number: int, words: bytes = b"", names: str = "match_with_jobid") -> None:
        self.path = Path("/stand/in.so")
        self.number = number
        self.names = {"new", "destroy", "get_err_msg", "clear_err_msg", *names.split()}
        self.left = [ctypes.create_string_buffer(words)] if words else []
        self.freed: list[int] = []
        self.satisfiable = True
        self._bound = {}

    def has(self, name: str) -> bool:
        return name in self.names

    def learn(self, types: Any) -> None: ...

    def function(self, name: str) -> Callable[..., Any]:
        if not self.has(name):
            return super().function(name)
        if name in ("new", "get_err_msg"):
            return lambda *_: ctypes.addressof(self.left[0]) if self.left else name == "new"
        if name == "initialize" or name.startswith(("destroy", "clear")):
            return lambda *_: 0
        if name == "match_satisfy":
            return self._satisfy
        return lambda *_: self._fail()

    def _satisfy(self, context: int, text: bytes, fits: Any, seconds: Any) -> int:
        ctypes.cast(fits, ctypes.POINTER(ctypes.c_bool))[0] = self.satisfiable
        return 0

    def _fail(self) -> int:
        ctypes.set_errno(self.number)
        return -1

    def taken(self, pointer: int | None) -> str:
        if not pointer:
            return ""
        self.freed.append(pointer)
        return ctypes.string_at(pointer).decode()


def context_on(library: Library) -> Context:
    context = object.__new__(Context)
    context.library = library
    context._pointer = 1
    return context


def test_errno_says_busy_never_or_what_fluxion_said() -> None:
    def match(library: StandIn) -> None:
        context_on(library).match(Operation.ALLOCATE, "{}", 1)

    with pytest.raises(Busy):
        match(StandIn(errno.EBUSY))
    with pytest.raises(Unsatisfiable):
        match(StandIn(errno.ENODEV))
    library = StandIn(errno.EINVAL, b"match: bad\n jobspec\n")
    with pytest.raises(FlexError, match="match: bad jobspec") as caught:
        match(library)
    assert type(caught.value) is FlexError
    assert caught.value.where == "fluxion: match_with_jobid"
    assert library.freed == [ctypes.addressof(library.left[0])]
    with pytest.raises(FlexError, match=os.strerror(errno.EPERM)):
        match(StandIn(errno.EPERM))
    with pytest.raises(FlexError, match="without a reason"):
        match(StandIn(0))


def test_an_old_library_is_asked_for_never_apart_from_not_now() -> None:
    library = StandIn(errno.EBUSY, names="match_allocate match_satisfy")
    context = context_on(library)
    with pytest.raises(Busy):
        context.match(Operation.ALLOCATE, "{}", 1)
    library.satisfiable = False
    assert not context.satisfiable("{}")
    with pytest.raises(Unsatisfiable):
        context.match(Operation.ALLOCATE, "{}", 1)
    with pytest.raises(Busy):
        context.match(Operation.RESERVE, "{}", 1)


def test_a_function_that_is_missing_is_named() -> None:
    with pytest.raises(FlexError, match="no reapi_cli_find") as caught:
        context_on(StandIn(0)).find("status=down")
    assert caught.value.where == "/stand/in.so"


def test_text_that_c_would_cut_short_is_refused() -> None:
    for text in ("a\0b", "\ud800"):
        with pytest.raises(BadInput):
            context_on(StandIn(0)).match(Operation.ALLOCATE, text, 1)


def test_a_policy_of_ours_alone_is_refused() -> None:
    with pytest.raises(BadInput, match="fluxion has no policy 'topology'"):
        FluxionMatcher(uniform_graph(1, 1), "topology")


# -- the real one ----------------------------------------------------------------------------------


def present() -> str:
    """ "" where libreapi_cli is found, else why not."""
    try:
        open_library()
    except FlexError as error:
        return error.what
    return ""


ABSENT = present()
real = [pytest.mark.flux, pytest.mark.skipif(bool(ABSENT), reason=ABSENT)]


def marked(test: Callable[..., Any]) -> Callable[..., Any]:
    for mark in real:
        test = mark(test)
    return test


@marked
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


@marked
@pytest.mark.skipif(not GOLDEN.exists(), reason="no tests/golden/fluxion-matches.jsonl.gz")
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


@marked
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


@marked
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


@marked
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


@marked
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


@marked
def test_a_job_of_another_graph_can_be_loaded_after_this_one() -> None:
    # Fluxion learns the types of the first graph of a process, and must be taught others.
    FluxionMatcher(uniform_graph(1, 1))
    builder = GraphBuilder()
    cluster = builder.add(Vertex("cluster", "cluster0"))
    builder.add(Vertex("quantum", "quantum0"), cluster)
    assert FluxionMatcher(builder.build()).satisfiable(spec(ask("slot", 1, ask("quantum"))))


@marked
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


@marked
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


@marked
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


@marked
def test_nothing_starts_on_what_is_down() -> None:
    matcher = FluxionMatcher(uniform_graph(3, 4), "low")
    matcher.mark_path("/cluster0/node0", up=False)
    matcher.mark_ranks("2,99", up=False)
    assert matcher.allocate(whole_nodes(1)).hosts == ["node1"]
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    assert matcher.satisfiable(whole_nodes(3))
    down = {matcher.graph.names[v] for v in matcher.find("status=down")}
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


@marked
def test_a_job_is_found_by_the_id_its_caller_knows() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 1), "low")
    matcher.allocate(cores(1), jobid=900)
    names = [matcher.graph.names[v] for v in matcher.find("jobid-alloc=900")]
    assert names == ["cluster0", "node0", "core0"]
    assert matcher.find("jobid-alloc=1") == []
    with pytest.raises(FlexError, match="invalid criteria"):
        matcher.find("what ever")


@marked
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


@marked
def test_a_burst_arrives_and_leaves() -> None:
    matcher = FluxionMatcher(uniform_graph(2, 2), "low")
    local = matcher.allocate(whole_nodes(2))
    part = jgf_document(uniform_graph(4, 2))
    matcher.add_subgraph(part)
    away = matcher.allocate(whole_nodes(2))
    assert away.hosts == ["node2", "node3"]
    assert local.hosts == matcher.info(local.jobid).hosts == ["node0", "node1"]
    with pytest.raises(Busy, match=f"job {away.jobid} holds a part of it"):
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


@marked
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


@marked
def test_a_socket_held_with_one_core_of_it_keeps_the_other_where_sockets_are_folded() -> None:
    matcher = FluxionMatcher(sockets(1), "low")
    matcher.allocate(spec(ask("slot", 1, ask("socket", 1, ask("core", 1)))))
    got = matcher.allocate(spec(ask("node", 1, ask("slot", 1, ask("core", 2)))))
    assert "/cluster0/node0/socket1" in got.vertices
    assert "/cluster0/node0/socket0" not in got.vertices


@marked
def test_a_whole_node_has_its_sockets_whole_though_they_were_folded() -> None:
    matcher = FluxionMatcher(sockets(), "low")
    got = matcher.allocate(spec(ask("node", 1, ask("slot", 1, ask("core", 1)), exclusive=True)))
    assert got.vertices["/cluster0/node0/socket0"] == (1, True)
    assert len(got.chosen) == 8


@marked
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


@marked
def test_nodes_may_not_be_skipped_where_a_constraint_speaks_of_them() -> None:
    matcher = FluxionMatcher(sockets(), "low")
    request = ask("cluster", 1, ask("slot", 1, ask("core", 1)))
    assert matcher.allocate(spec(request)).amount("core") == 1
    with pytest.raises(FlexError, match="its constraint may speak of"):
        matcher.allocate(spec(request, constraints={"hostlist": ["node1"]}))
