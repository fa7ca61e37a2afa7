"""Counts that no graph has: the answer is no, whatever they multiply to."""

from __future__ import annotations

from typing import Any

import pytest

from flux_flex.errors import Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jobspec import parse_jobspec


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", ["node", "core", "cluster", "socket", "slot"])
def test_what_multiplies_beyond_64_bits_is_unsatisfiable(kind: str, *, exclusive: bool) -> None:
    core = {"type": "core", "count": 10**9, "exclusive": exclusive}
    some: dict[str, Any] = {"type": kind, "count": 200_000, "with": [core]}
    some |= {"label": "task"} if kind == "slot" else {"exclusive": exclusive}
    jobspec = parse_jobspec({"version": 9999, "resources": [some] * 400})
    matcher = EmbeddedMatcher(uniform_graph(4, 4, 1), "lonode")
    assert not matcher.satisfiable(jobspec)
    with pytest.raises(Unsatisfiable):
        matcher.reserve(jobspec, 1, 0.0)
