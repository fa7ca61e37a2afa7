"""The fluxion engine without fluxion: finding the library, folding graphs, reading its errors."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from match_help import ask, plant, spec

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.match import fluxion_library
from flux_flex.match.fluxion import FluxionMatcher
from flux_flex.match.fluxion_graphs import (
    fold,
    levels_between,
    skipped_levels,
    vertices_of_r,
)
from flux_flex.match.fluxion_library import Context, Library, Operation, open_library
from flux_flex.model.graph import GraphBuilder, ResourceGraph, Vertex, uniform_graph
from flux_flex.model.jgf import paths_of
from flux_flex.model.jobspec import parse_jobspec
from flux_flex.model.rv1 import RankResources, ResourceSet

FLUX_VARIABLES = ("FLUX_FLEX_LIBREAPI", "FLUX_PREFIX", "FLUX_MODULE_PATH")


def sockets(nodes: int = 2) -> ResourceGraph:
    """Nodes of two sockets, each with a core0 and a core1."""
    node = {"socket0": {"core": 2}, "socket1": {"core": 2}}
    return plant({"cluster": {f"node{n}": node for n in range(nodes)}})


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
