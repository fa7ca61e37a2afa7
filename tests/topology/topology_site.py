"""Recorded answers, networks made of them, and the engines that are to load what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flux_flex.model.network import NetworkPlace
from flux_flex.topology.answers import Answers, InstanceShape, read_answers
from flux_flex.topology.mapping import Network, network_of_hosts

ROOT = Path(__file__).resolve().parents[2]
BURST = ROOT / "examples" / "burst-queue"
EXAMPLES = ROOT / "examples" / "topology"
FILES = (
    BURST / "describe-instances.json",
    BURST / "describe-instance-topology.json",
    EXAMPLES / "describe-instance-types.json",
)
HOSTS = [f"compute{rank}" for rank in range(16)]


def recorded() -> Answers:
    return read_answers([(path.name, json.loads(path.read_text())) for path in FILES])


def recorded_r() -> Any:
    return json.loads((BURST / "R.json").read_text())


def recorded_network() -> Network:
    return network_of_hosts(recorded(), HOSTS)


def place(host: str, *above: str, zone: str = "us-east-2b", **more: str) -> NetworkPlace:
    return NetworkPlace(host, above, f"i-{host}", "t", zone, **more)


def network(*places: NetworkPlace, cores: int = 2, gpus: int = 0, memory: int = 0) -> Network:
    return Network(places, shapes={"t": InstanceShape("t", cores, gpus, memory)})
