"""Labels of Kubernetes nodes by where they sit: EKS's names, and values that Kubernetes takes."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.config import TopologyConfig
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.network import NetworkPlace
from flux_flex.topology.labels import labels_of, labels_of_host
from flux_flex.topology.site import KVS_KEY

RECORDED = Path(__file__).resolve().parents[2] / "examples" / "burst-queue"


def place(*network_nodes: str, **more: str) -> NetworkPlace:
    known = {"instance_id": "i-1", "instance_type": "hpc7a.12xlarge", "zone": "us-east-2b", **more}
    return NetworkPlace("compute7", network_nodes, **known)


def recorded() -> dict[str, object]:
    parts = ("describe-instances", "describe-instance-topology")
    return {
        key: value
        for part in parts
        for key, value in json.loads((RECORDED / f"{part}.json").read_text()).items()
    }


@pytest.fixture
def instance() -> MemoryInstance:
    return MemoryInstance({})


def config(file: Path) -> TopologyConfig:
    return TopologyConfig(file=str(file))


def test_layers_are_counted_from_one_at_the_top_under_the_names_of_eks() -> None:
    whole = place("nn-top", "nn-mid", "nn-leaf", zone_id="use2-az2", region="us-east-2")
    assert labels_of(whole) == {
        "topology.k8s.aws/network-node-layer-1": "nn-top",
        "topology.k8s.aws/network-node-layer-2": "nn-mid",
        "topology.k8s.aws/network-node-layer-3": "nn-leaf",
        "topology.k8s.aws/zone-id": "use2-az2",
        "topology.kubernetes.io/zone": "us-east-2b",
        "topology.kubernetes.io/region": "us-east-2",
        "node.kubernetes.io/instance-type": "hpc7a.12xlarge",
    }


def test_what_is_not_known_has_no_label() -> None:
    assert labels_of(place()) == {
        "topology.kubernetes.io/zone": "us-east-2b",
        "node.kubernetes.io/instance-type": "hpc7a.12xlarge",
    }


@pytest.mark.parametrize("value", ["", "a:b", "-a", "a-", "a" * 64, "a b", "a,b=c", "${x}", 'a"\n'])
def test_what_kubernetes_takes_for_no_value_is_left_out_and_the_layers_stay(value: str) -> None:
    found = labels_of(place("nn-top", value, "nn-leaf", zone_id=value))
    assert found["topology.k8s.aws/network-node-layer-3"] == "nn-leaf"
    assert "topology.k8s.aws/network-node-layer-2" not in found
    assert "topology.k8s.aws/zone-id" not in found


@given(st.lists(st.text(), max_size=3), st.text())
def test_no_place_makes_a_value_that_a_script_or_yaml_would_read(
    nodes: list[str], other: str
) -> None:
    for value in labels_of(place(*nodes, zone=other, region=other, instance_type=other)).values():
        assert re.fullmatch("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)


def test_a_host_has_the_labels_of_its_instance(tmp_path: Path, instance: MemoryInstance) -> None:
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(recorded()))
    file.chmod(0o644)
    found = labels_of_host(config(file), "compute7", instance)
    assert found["topology.k8s.aws/network-node-layer-3"] == "nn-fae923d5a4fd12aab"
    assert found["topology.kubernetes.io/region"] == "us-east-2"


def test_what_the_instance_was_told_goes_before_the_file(
    tmp_path: Path, instance: MemoryInstance
) -> None:
    instance.kvs_put(KVS_KEY, recorded())
    (tmp_path / "topology.json").write_text("not read")
    found = labels_of_host(config(tmp_path / "topology.json"), "compute7", instance)
    assert found["topology.k8s.aws/zone-id"] == "use2-az2"


def test_a_host_that_the_instance_was_told_by_a_map_has_labels(instance: MemoryInstance) -> None:
    (one, *_) = recorded()["Instances"]  # type: ignore[misc]
    hosts = {"host-of-no-name": one["InstanceId"]}
    instance.kvs_put(KVS_KEY, {**recorded(), "HostMap": hosts})
    found = labels_of_host(config(Path("/nonexistent")), "host-of-no-name", instance)
    assert found["topology.k8s.aws/network-node-layer-3"] == one["NetworkNodes"][2]


@pytest.mark.parametrize("hosts", [[], None, {"compute7": 7}, {"compute7": "i-elsewhere"}])
def test_a_map_that_makes_no_sense_is_a_line_in_the_log(
    instance: MemoryInstance, caplog: pytest.LogCaptureFixture, hosts: object
) -> None:
    instance.kvs_put(KVS_KEY, {**recorded(), "HostMap": hosts})
    assert labels_of_host(config(Path("/nonexistent")), "compute7", instance) == {}
    (line,) = caplog.messages
    assert line.startswith("no topology labels: KVS key flex.topology: HostMap")
    assert line.isprintable()


def test_what_the_instance_was_told_is_read_once(
    instance: MemoryInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance.kvs_put(KVS_KEY, recorded())
    read: list[str] = []
    get = instance.kvs_get
    monkeypatch.setattr(instance, "kvs_get", lambda key: read.append(key) or get(key))
    assert labels_of_host(config(Path("/nonexistent")), "compute7", instance)
    assert read == [KVS_KEY]


COST = """
import sys
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.topology.labels import labels_of_host
class Config: file = "/nonexistent"; host_map = ""
assert labels_of_host(Config, "compute7", MemoryInstance({})) == {}
print(sorted({"numpy", "pydantic"} & set(sys.modules)))
"""


def test_a_site_that_knows_nothing_pays_for_no_network() -> None:
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_site_that_knows_nothing_gives_no_labels_and_says_nothing(
    tmp_path: Path, instance: MemoryInstance, caplog: pytest.LogCaptureFixture
) -> None:
    assert labels_of_host(config(tmp_path / "none.json"), "compute7", instance) == {}
    assert caplog.messages == []


def test_a_host_that_the_site_does_not_know_has_no_labels(instance: MemoryInstance) -> None:
    instance.kvs_put(KVS_KEY, recorded())
    assert labels_of_host(config(Path("/nonexistent")), "stranger", instance) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"Instances": 1}',
        '{"Instances": [{}]}',
        "\x00\x1b[2J",
    ],
)
def test_a_topology_that_makes_no_sense_is_a_line_in_the_log(
    tmp_path: Path, instance: MemoryInstance, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    file = tmp_path / "topology.json"
    file.write_text(text)
    file.chmod(0o644)
    with caplog.at_level(logging.INFO):
        assert labels_of_host(config(file), "compute7", instance) == {}
    (line,) = caplog.messages
    assert line.startswith(f"no topology labels: {file}")
    assert line.isprintable()


def test_a_file_that_others_can_write_is_not_believed(
    tmp_path: Path, instance: MemoryInstance, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(recorded()))
    file.chmod(0o666)
    assert labels_of_host(config(file), "compute7", instance) == {}
    assert "others can write it" in caplog.text
