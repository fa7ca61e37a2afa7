"""flux-flex doctor for sites that burst: flex.toml's tables, the catalogue, and when it looks."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flux_flex.cli import doctor
from flux_flex.cli.doctor_burst import STALE_DAYS, catalog, config, surveyed
from flux_flex.config import PATH_VARIABLE, BurstSettings, parse_config
from flux_flex.host.checks.machine import Answer, Machine
from flux_flex.host.checks.survey import BrokerConfig

CATALOG = """
source: a test
date: 2026-11-01
region: us-east-2
currency: USD
types:
  - {name: small, cores: 2, vcpus: 4, gpus: 0, memory_gib: 8, network_gbps: 10,
     price_per_hour_usd: 0.36}
"""
DAY = datetime.date(2026, 11, 23)
KUBERNETES = {
    "kubeconfig": "/etc/flux/kubeconfig",
    "identity": "cluster0",
    "image": "example/flux",
    "lead": {"name": "lead", "address": "203.0.113.7"},
    "curve_cert": "/etc/flux/curve.cert",
    "munge_key": "/etc/flux/munge.key",
}
EKS = {
    "cluster": "c",
    "identity": "cluster0",
    "node_role": "arn:aws:iam::123456789012:role/n",
    "subnets": ["subnet-0123456789abcdef0"],
}
NAMES = {
    "burst", "burst-catalog", "burst-scheduler", "burst-hosts", "burst-lead", "burst-secrets",
    "burst-controller", "burst-option",
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)
    return path


def settings(**keys: Any) -> BurstSettings:
    table = {
        "provider": "local",
        "slots": [{"name": "s", "type": "small", "bursts": 2, "nodes": 3}],
        "lead": {"name": "lead", "address": "203.0.113.7"},
        "limits": {"budget": 100},
        **keys,
    }
    return parse_config({"burst": table}).burst


# -- the tables ------------------------------------------------------------------------------------


def test_whole_table_is_found() -> None:
    finding = config(settings())
    assert (finding.status, finding.what) == ("found", "provider local, room for 2 bursts")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"provider": ""}, "provider is not set"),
        ({"slots": []}, "[[burst.slots]] is not set"),
        ({"lead": {}}, "lead.name is not set; lead.address is not set"),
        ({"provider": "ekz"}, "no provider is called ekz"),
        ({"provider": "kubernetes"}, "the table of kubernetes: burst.kubernetes: "),
        (
            {"provider": "kubernetes", "kubernetes": {**KUBERNETES, "identity": ""}},
            "burst.kubernetes.identity: it is not set",
        ),
        ({"provider": "fluxburst"}, "the table of fluxburst: "),
        ({"provider": "eks", "kubernetes": KUBERNETES}, "the table of eks: "),
    ],
)
def test_what_is_left_out_or_wrong_is_named_with_what_belongs_there(
    keys: Mapping[str, Any], told: str
) -> None:
    finding = config(settings(**keys))
    assert finding.status == "missing"
    assert told in finding.what
    assert finding.remedy


def test_tables_of_kubernetes_and_eks_are_found_as_their_providers_take_them() -> None:
    assert config(settings(provider="kubernetes", kubernetes=KUBERNETES)).status == "found"
    both = settings(provider="eks", kubernetes=KUBERNETES, eks=EKS)
    assert config(both).status == "found"


def test_without_any_limit_it_is_a_warning() -> None:
    finding = config(settings(limits={}))
    assert finding.status == "warning"
    assert "[burst.limits]" in finding.remedy
    assert config(settings(limits={"nodes": 3})).status == "found"


def test_a_budget_without_queues_is_a_warning_where_the_instance_can_be_asked() -> None:
    def broker(table: Mapping[str, Any], *, live: bool = True) -> BrokerConfig:
        return BrokerConfig("the running instance", "/etc/flux/flux.toml", live, table)

    finding = config(settings(), broker({}))
    assert finding.status == "warning"
    assert "without queues" in finding.what
    assert config(settings(), broker({"queues": {"batch": {}}})).status == "found"
    assert config(settings(), broker({}, live=False)).status == "found"
    assert config(settings(limits={"nodes": 3}), broker({})).status == "found"


def test_two_ports_of_one_lead_are_a_warning() -> None:
    lead = {**KUBERNETES["lead"], "port": 9000}  # type: ignore[dict-item]
    finding = config(settings(provider="kubernetes", kubernetes={**KUBERNETES, "lead": lead}))
    assert (finding.status, "9000" in finding.what) == ("warning", True)


def test_secrets_are_those_that_the_provider_uses() -> None:
    def paths(burst: BurstSettings) -> list[str]:
        return [secret.path for secret in surveyed(burst, "/etc/flux/flex.toml").secrets]

    assert paths(settings()) == ["/etc/flux/system/curve.cert"]
    assert paths(settings(provider="kubernetes", kubernetes=KUBERNETES)) == [
        "/etc/flux/curve.cert", "/etc/flux/munge.key", "/etc/flux/kubeconfig",
    ]  # fmt: skip
    assert paths(settings(provider="kubernetes", kubernetes={"curve_cert": 7})) == []
    assert paths(settings(provider="third")) == []


# -- the catalogue ---------------------------------------------------------------------------------


def test_catalogue_with_all_types_and_prices_of_these_days_is_found(place: Path) -> None:
    finding = catalog(settings(catalog=str(place)), DAY)
    assert finding.status == "found"
    assert finding.what.endswith("1 types, prices of 2026-11-01, us-east-2")


def test_catalogue_that_is_not_named_not_there_or_not_whole_is_missing(place: Path) -> None:
    assert catalog(settings(), DAY).what == "burst.catalog is not set"
    for text in (None, "types: [", "types: 3\n", CATALOG.replace("0.36", "-1")):
        place.unlink() if text is None else place.write_text(text)
        finding = catalog(settings(catalog=str(place)), DAY)
        assert finding.status == "missing"
        assert str(place) in finding.what
        assert finding.remedy


def test_type_that_the_catalogue_lacks_is_looked_up_by_the_remedy(place: Path) -> None:
    slots = [{"name": "s", "type": "hpc7a.12xlarge", "bursts": 1, "nodes": 1}]
    keys: dict[str, Any] = {"slots": slots, "catalog": str(place)}
    finding = catalog(settings(**keys), DAY)
    assert (finding.status, finding.what) == ("missing", f"{place} lacks hpc7a.12xlarge")
    finding = catalog(settings(**keys, provider="eks"), DAY)
    assert finding.remedy == (
        "flux-flex catalog update --region us-east-2 --types hpc7a.12xlarge "
        f"--file {place}"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("days", "status"),
    [(STALE_DAYS, "found"), (STALE_DAYS + 1, "warning"), (-1, "found"), (-2, "warning")],
)
def test_prices_grow_stale_and_none_is_of_the_future(place: Path, days: int, status: str) -> None:
    today = datetime.date(2026, 11, 1) + datetime.timedelta(days=days)
    assert catalog(settings(catalog=str(place)), today).status == status


def test_prices_of_another_region_than_the_clusters_are_a_warning(place: Path) -> None:
    burst = settings(catalog=str(place), provider="eks", eks={**EKS, "region": "eu-west-1"})
    finding = catalog(burst, DAY)
    assert (finding.status, "eu-west-1" in finding.what) == ("warning", True)
    assert "--region eu-west-1" in finding.remedy


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Writes flex.toml, runs doctor on a machine with nothing, and tells the findings by name."""

    def run(words: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> Answer:
        return Answer(1, err="it does not work")

    root = tmp_path / "root"
    root.mkdir()
    machine = Machine(root, {"PATH": "/usr/bin", "HOME": "/"}, run, 1000, "ann")
    monkeypatch.setattr(doctor, "Machine", lambda: machine)

    def asked(toml: str, *checks: str) -> dict[str, dict[str, Any]]:
        (tmp_path / "flex.toml").write_text(toml)
        (tmp_path / "flex.toml").chmod(0o644)
        monkeypatch.setenv(PATH_VARIABLE, str(tmp_path / "flex.toml"))
        doctor.run(argparse.Namespace(json=True, check=list(checks)))
        findings = json.loads(capsys.readouterr().out)["findings"]
        return {finding["name"]: finding for finding in findings}

    return asked


def test_site_that_does_not_burst_hears_nothing_of_it_unless_it_asks(ask: Any) -> None:
    assert not NAMES & ask("").keys()
    found = ask("", "burst")
    assert found.keys() == NAMES | {"config", "flux-python"}
    assert {found[name]["status"] for name in NAMES} == {"skipped"}


def test_file_that_cannot_be_used_is_missing_to_bursting_and_not_taken_for_one_without_it(
    ask: Any,
) -> None:
    found = ask('[burst]\nprovidr = "local"\n', "burst")
    assert (found["config"]["status"], found["config"]["needed_for"]) == ("missing", "bursting")
    assert "burst.providr: unknown key" in found["config"]["what"]
    assert {found[name]["what"] for name in NAMES} == {"flex.toml cannot be used: see config"}


def test_site_that_bursts_hears_all_of_it(ask: Any) -> None:
    found = ask('[burst]\nprovider = "local"\n')
    assert found.keys() > NAMES
    assert {found[name]["needed_for"] for name in NAMES} == {"bursting"}
    assert found["burst"]["status"] == found["burst-catalog"]["status"] == "missing"
    assert not [one for one in found.values() if "cannot be checked" in one["what"]]
