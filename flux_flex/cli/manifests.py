"""``--out DIR``: a MiniCluster manifest for each burst, where no others can be taken for ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flux_flex.burst.decide import Order
from flux_flex.burst.manifests import manifests
from flux_flex.errors import BadInput
from flux_flex.simulate.scenario import Scenario

_OURS = re.compile(r"burst-\d+\.yaml")


def check_manifests_possible(scenario: Scenario) -> None:
    """Refuse ``--out``, before any work, for a scenario that says nothing of manifests."""
    if scenario.burst.minicluster is None:
        place = f"{scenario.path}: burst.minicluster"
        remedy = "say which image, lead broker and secrets manifests need, or leave --out away"
        raise BadInput("the key is missing", place, remedy)


def manifest_files(
    scenario: Scenario, orders: Sequence[Order], folder: Path
) -> list[tuple[Path, str]]:
    """Paths below ``folder`` and texts, one for each burst.

    Raises BadInput where the folder holds manifests that these would not replace: whoever
    applies the folder would rent for bursts of another run.
    """
    try:
        made = manifests(orders, scenario.burst, _hosts(scenario)) if orders else []
    except BadInput as error:
        raise error.at(str(scenario.path)) from None
    names = {name for name, _ in made}
    for old in sorted(folder.glob("burst-*.yaml")):
        if _OURS.fullmatch(old.name) and old.name not in names:
            what = "a manifest of another run, which this one does not replace"
            raise BadInput(what, str(old), "remove it, or choose another directory")
    return [(folder / name, text) for name, text in made]


def _hosts(scenario: Scenario) -> list[str]:
    """The hosts of the system in the order of their ranks, as its brokers are listed."""
    graph = scenario.graph
    nodes = sorted(graph.once(graph.of_type("node")).tolist(), key=lambda v: int(graph.rank[v]))
    return [graph.names[v] for v in nodes]
