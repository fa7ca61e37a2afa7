"""The engines that are present, for tests that run over all of them: the fixture ``engine``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flux_flex.match import open_matcher
from flux_flex.match.matcher import Matcher
from flux_flex.model.graph import ResourceGraph
from flux_flex.model.idset import format_idset
from flux_flex.model.rv1 import parse_r

Open = Callable[[ResourceGraph, str], Matcher]


def opened(name: str) -> Open:
    """How to open a matcher of an engine, by graph and policy."""
    return lambda graph, policy: open_matcher(graph, engine=name, policy=policy)


def ranks_of(R: Mapping[str, Any]) -> dict[int, str]:
    """An R in brief: by rank its cores, and after a + how many gpus."""
    return {
        item.rank: format_idset(item.cores) + (f"+{len(item.gpus)}" if item.gpus else "")
        for item in parse_r(R).ranks
    }
