"""The manifests of a plan's orders."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from burst_snapshots import config, job, node_type

from flux_flex.burst.config import BurstConfig
from flux_flex.burst.decide import Order
from flux_flex.burst.manifests import manifests
from flux_flex.burst.market import alone
from flux_flex.errors import BadInput
from flux_flex.model.jobid import f58

SAID = {
    "image": "ghcr.io/example/flux:0.88",
    "lead": {"address": "203.0.113.7", "port": 8050, "name": "lead0"},
    "curve_secret": "flux-curve",
}
HOSTS = ["lead0", *(f"compute{i}" for i in range(1, 16))]


def setup(**changes: Any) -> BurstConfig:
    return config(minicluster={**SAID, **changes})


def order(burst: str = "burst-0", nodes: int = 2, jobid: int = 1, **kind: Any) -> Order:
    std = node_type(**kind)
    return Order(burst, "eks", std, nodes, 360.0, alone(job(jobid, nodes), std, 360.0).placed)


def _broker_config(text: str) -> str:
    return str(yaml.safe_load(text)["spec"]["flux"]["brokerConfig"])


def test_each_order_has_one_manifest_named_after_its_burst() -> None:
    made = manifests([order("burst-3", 2), order("burst-4", 5)], setup(), hosts=HOSTS)
    assert [name for name, _ in made] == ["burst-3.yaml", "burst-4.yaml"]
    documents = [yaml.safe_load(text) for _, text in made]
    assert [document["kind"] for document in documents] == ["MiniCluster"] * 2
    assert [document["spec"]["size"] for document in documents] == [2, 5]


def test_bursts_of_one_plan_share_the_list_of_hosts_in_their_order() -> None:
    made = manifests([order("burst-3", 2), order("burst-4", 5)], setup(), hosts=HOSTS)
    first, second = (_broker_config(text) for _, text in made)
    assert first == second
    assert 0 < first.index("burst-3") < first.index("burst-4")
    ((_, single),) = manifests([order("burst-3", 2)], setup(), hosts=HOSTS)
    assert "burst-4" not in single


def test_manifest_names_jobs_node_type_lead_and_secrets() -> None:
    ordered = order(jobid=77, name="hpc7a.96xlarge", cores=192)
    ((_, text),) = manifests([ordered], setup(munge_secret="flux-munge"), hosts=HOSTS)
    for word in (f58(77), "hpc7a.96xlarge", "203.0.113.7", "flux-curve", "flux-munge", "lead0"):
        assert word in text
    assert yaml.safe_load(text)["spec"]["flux"]["bursting"]["leadBroker"]["size"] == 16


def test_brokers_of_the_system_are_listed_by_their_own_names_in_the_order_of_ranks() -> None:
    ((_, text),) = manifests([order("burst-3", 2)], setup(), hosts=HOSTS)
    listed = _broker_config(text)
    assert '{ host = "lead0", connect = "tcp://203.0.113.7:8050" }' in listed
    assert listed.index('"lead0"') < listed.index('"compute[1-15]"') < listed.index('"burst-3-')


def test_a_lead_beside_the_system_comes_before_all_of_its_hosts() -> None:
    ((_, text),) = manifests([order("burst-3", 2)], setup(), hosts=["node7", "node9"])
    assert '{ host = "node[7,9]" }' in _broker_config(text)
    assert yaml.safe_load(text)["spec"]["flux"]["bursting"]["leadBroker"]["size"] == 3


def test_no_orders_make_no_manifests() -> None:
    assert manifests([], setup(), hosts=HOSTS[:1]) == []


def test_without_the_minicluster_key_the_place_is_named() -> None:
    with pytest.raises(BadInput) as refused:
        manifests([order()], config(), hosts=HOSTS[:1])
    assert refused.value.where == "burst.minicluster"
    assert refused.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ""},
        {"curve_secret": "Not A Name"},
        {"namespace": "Not A Name"},
        {"lead": {"address": "", "name": "lead0"}},
    ],
)
def test_what_no_manifest_can_be_made_from_is_placed_below_burst_minicluster(
    changes: dict[str, object],
) -> None:
    with pytest.raises(BadInput) as refused:
        manifests([order()], setup(**changes), hosts=HOSTS[:1])
    assert refused.value.where.startswith("burst.minicluster")
