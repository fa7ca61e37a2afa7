"""What the site knows of its network: which answers go first, and which instance a host is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from topology_site import HOSTS, recorded, recorded_network

from flux_flex.config import TopologyConfig
from flux_flex.errors import BadInput
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.topology.site import (
    KVS_KEY,
    read_told,
    site_answers,
    site_known,
    site_network,
    told_document,
)

IDS = [place.instance_id for place in recorded_network().places]


def telling(hosts: dict[str, str]) -> MemoryInstance:
    """An instance that was told that its hosts are these instances."""
    instance = MemoryInstance({})
    instance.kvs_put(KVS_KEY, told_document(recorded(), hosts))
    return instance


def site(where: Path, file: object = None, host_map: object = None) -> TopologyConfig:
    """A configuration whose files have these values, and are not there for None."""
    paths = {"file": where / "topology.json", "host_map": where / "hosts.json"}
    for name, value in (("file", file), ("host_map", host_map)):
        if value is not None:
            paths[name].write_text(json.dumps(value))
            paths[name].chmod(0o644)
    more = {"host_map": str(paths["host_map"])} if host_map is not None else {}
    return TopologyConfig(file=str(paths["file"]), **more)


def instance_of(config: TopologyConfig, host: str, instance: MemoryInstance) -> str:
    network = site_network(config, [host], instance)
    assert network is not None
    return network.places[0].instance_id if network.places else ""


def test_what_is_told_is_read_back_with_its_map() -> None:
    hosts = dict(zip(HOSTS, IDS, strict=True))
    document = json.loads(json.dumps(told_document(recorded(), hosts)))
    assert read_told(document) == (recorded(), hosts)


def test_a_host_is_what_flex_toml_says_else_what_was_told_else_what_its_name_says(
    tmp_path: Path,
) -> None:
    instance = telling({"compute1": IDS[7], "compute2": IDS[8]})
    config = site(tmp_path, host_map={"compute2": IDS[9]})
    assert instance_of(config, "compute0", instance) == IDS[0]
    assert instance_of(config, "compute1", instance) == IDS[7]
    assert instance_of(config, "compute2", instance) == IDS[9]


def test_a_host_of_no_name_that_ec2_knows_is_found_by_what_was_told(tmp_path: Path) -> None:
    assert instance_of(site(tmp_path), "login", telling({"login": IDS[3]})) == IDS[3]
    assert instance_of(site(tmp_path), "login", telling({})) == ""


def test_the_map_that_was_told_says_nothing_of_the_file(tmp_path: Path) -> None:
    config = site(tmp_path, file=told_document(recorded(), {"login": IDS[3]}))
    assert site_known(config) == (recorded(), {})
    assert site_known(config, MemoryInstance({})) == (recorded(), {})


def test_what_was_told_goes_before_the_file_which_is_not_read_then(tmp_path: Path) -> None:
    config = site(tmp_path, file="no answers")
    assert site_known(config, telling({"login": IDS[3]})) == (recorded(), {"login": IDS[3]})
    assert site_answers(config, telling({})) == recorded()
    with pytest.raises(BadInput):
        site_known(config, MemoryInstance({}))


def test_a_site_that_knows_nothing_says_so(tmp_path: Path) -> None:
    config = site(tmp_path)
    assert site_known(config, MemoryInstance({})) is None
    assert site_answers(config) is None
    assert site_network(config, HOSTS, MemoryInstance({})) is None


@pytest.mark.parametrize(
    "hosts",
    [
        None, [], "text", 1, {"compute0": None}, {"compute0": 1}, {"compute0": ["i-1"]},
        {"compute0": {"a": 1}}, {"compute0": ""}, {"compute0": "i-elsewhere"},
        {"compute0": "\x1b[2J"}, {"": IDS[0]}, {"\x1b[2J": IDS[0]}, {"a\nb": IDS[0]},
        {"\u202ea": IDS[0]}, {"x" * 256: IDS[0]},
    ],
)  # fmt: skip
def test_a_map_that_makes_no_sense_is_bad_input_with_its_place(
    tmp_path: Path, hosts: object
) -> None:
    instance = MemoryInstance({})
    instance.kvs_put(KVS_KEY, {**recorded().document(), "HostMap": hosts})
    with pytest.raises(BadInput) as caught:
        site_known(site(tmp_path), instance)
    assert caught.value.where.startswith(f"KVS key {KVS_KEY}: HostMap")
    assert caught.value.remedy
    assert str(caught.value).replace("\n", " ").isprintable()


@pytest.mark.parametrize("document", [None, 1, "text", [], {}, {"HostMap": {}}])
def test_what_is_no_answer_of_ec2_is_bad_input(document: Any) -> None:
    with pytest.raises(BadInput):
        read_told(document)
