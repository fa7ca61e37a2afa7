"""Answers of EC2 as they would be for a cluster of any size, and what a process used."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INSTANCES, TOPOLOGY, TYPES = "instances.json", "topology.json", "types.json"
KIND = "hpc7a.96xlarge"
_MEMORY_MIB = 786_432


@dataclass(frozen=True)
class Cluster:
    """``layers``: network nodes below each of the layer above, top first, then hosts of a leaf."""

    layers: tuple[int, ...]
    cores: int

    @property
    def n_hosts(self) -> int:
        return math.prod(self.layers)

    @property
    def words(self) -> str:
        return f"{self.n_hosts:,} hosts ({' x '.join(map(str, self.layers))})"


@dataclass(frozen=True)
class Placed:
    """One instance: its number, id, and the network nodes above it."""

    number: int
    instance_id: str
    nodes: tuple[str, ...]

    @property
    def address(self) -> str:
        return f"10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}"

    @property
    def dns_name(self) -> str:
        return f"ip-{self.address.replace('.', '-')}.us-east-2.compute.internal"


def instances_of(cluster: Cluster) -> Iterator[Placed]:
    """The instances, numbered and listed in random order, as EC2 does; the same for each call."""
    rng = random.Random(0)
    ids: dict[tuple[int, ...], str] = {}
    numbers = rng.sample(range(cluster.n_hosts), cluster.n_hosts)
    found = []
    for number, at in zip(numbers, itertools.product(*map(range, cluster.layers)), strict=True):
        above = [at[:depth] for depth in range(1, len(at))]
        nodes = tuple(ids.setdefault(one, f"nn-{rng.getrandbits(68):017x}") for one in above)
        found.append(Placed(number, f"i-{rng.getrandbits(68):017x}", nodes))
    rng.shuffle(found)
    return iter(found)


def write_answers(cluster: Cluster, folder: Path) -> None:
    """Three files, as the AWS command line prints the answers."""
    placed = list(instances_of(cluster))
    answers: dict[str, dict[str, object]] = {
        INSTANCES: {"Reservations": [{"Instances": [_described(one)]} for one in placed]},
        TOPOLOGY: {"Instances": [_located(one) for one in placed]},
        TYPES: {"InstanceTypes": [_shape(cluster)]},
    }
    for name, answer in answers.items():
        (folder / name).write_text(json.dumps(answer, indent=1), encoding="utf-8")


def _described(one: Placed) -> dict[str, object]:
    return {
        "InstanceId": one.instance_id,
        "InstanceType": KIND,
        "State": {"Code": 16, "Name": "running"},
        "PrivateDnsName": one.dns_name,
        "PrivateIpAddress": one.address,
        "Placement": {"AvailabilityZone": "us-east-2b", "GroupName": "blue"},
        "Tags": [{"Key": "Name", "Value": f"compute{one.number}"}],
    }


def _located(one: Placed) -> dict[str, object]:
    return {
        "InstanceId": one.instance_id,
        "InstanceType": KIND,
        "GroupName": "blue",
        "NetworkNodes": list(one.nodes),
        "AvailabilityZone": "us-east-2b",
        "ZoneId": "use2-az2",
    }


def _shape(cluster: Cluster) -> dict[str, object]:
    return {
        "InstanceType": KIND,
        "VCpuInfo": {"DefaultVCpus": cluster.cores, "DefaultCores": cluster.cores},
        "MemoryInfo": {"SizeInMiB": _MEMORY_MIB},
    }


# -- processes -----------------------------------------------------------------------------------


def peak_mib() -> float:
    """The most memory that this process ever had."""
    # Not ru_maxrss, in which a process begins with what its parent had.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak_kib) / 1024


def child(module: str, *words: str, environment: Mapping[str, str] | None = None) -> Any:
    """What a module prints as JSON, run in a process of its own."""
    line = [sys.executable, "-m", module, *words]
    done = subprocess.run(
        line, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT
    )
    return json.loads(done.stdout)
