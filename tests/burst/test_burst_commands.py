"""`flux-flex burst`: reap while something is rented, budget, and clusters as flex.toml says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from burst_site import World
from flux_site import CATALOG

from flux_flex.burst.service import Service
from flux_flex.cli import burst as command
from flux_flex.cli import burst_site, main
from flux_flex.config import PATH_VARIABLE
from flux_flex.errors import FlexError

EKS = """
[burst]
provider = "eks"
catalog = "{catalog}"
[[burst.slots]]
name = "s"
type = "{type}"
bursts = 1
nodes = 2
[burst.eks]
{keys}
"""


class Meanwhile:
    """A provider beside whose answer the controller rents."""

    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self) -> Any:
        self.world.submit(4)
        self.world.run(30)
        return self.world.provider.observe()

    def release(self, burst: str) -> None:
        self.world.provider.release(burst)

    def close(self) -> None:
        pass


def test_reap_leaves_what_is_rented_while_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(command, "FluxInstance", lambda: world.instance)
    monkeypatch.setattr(burst_site, "open_provider", lambda *_: Meanwhile(world))
    monkeypatch.setattr("flux_flex.config.load_config", lambda *_: None)
    command.run(argparse.Namespace(action="reap", yes=True))
    assert "small-0" in world.provider.rented


@pytest.mark.parametrize(("budget", "told"), [(0.0, "of $0.00 in"), (None, "$0.00 in"), (5, "$5")])
def test_a_budget_of_nothing_is_shown_as_a_limit(
    budget: object, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"spent": 0.0, "period": 3600.0, "cost_per_hour": 0.0, "budget": budget}
    monkeypatch.setattr(command, "_asked", lambda *_: answer)
    assert main(["burst", "budget"]) == 0
    said = capsys.readouterr().out
    assert told in said
    assert (" of " in said) == (budget is not None)


def test_what_the_controller_is_in_trouble_with_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> Any:
        raise FlexError("credentials have expired", "scripted")

    world = World()
    monkeypatch.setattr(world.provider, "observe", refused)
    monkeypatch.setattr(
        command, "_asked", lambda topic, *_: Service(world.controller).topics[topic]({})
    )
    world.run(60)
    assert main(["burst", "status"]) == 0
    said = capsys.readouterr().out
    assert "trouble    scripted: does not say what it has: credentials have expired" in said


def test_drain_of_all_says_how_renting_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    monkeypatch.setattr(
        command, "_asked", lambda topic, *_: Service(world.controller).topics[topic]({})
    )
    assert main(["burst", "drain"]) == 0
    assert "nothing more is rented until: flux-flex burst start" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "deciding", "told"),
    [
        ([], True, "renting where it is worth it\n"),
        (["--provider", "local"], True, "local is trusted again\n"),
        (
            ["--provider", "local"],
            False,
            "local is trusted again\nnothing more is rented until: flux-flex burst start\n",
        ),
    ],
)
def test_start_says_whether_anything_is_rented_again(
    words: list[str],
    deciding: bool,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "_asked", lambda *_: {"deciding": deciding})
    assert main(["burst", "start", *words]) == 0
    assert capsys.readouterr().out == told
    assert main(["burst", "start", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deciding": deciding}


# -- eksctl-config ---------------------------------------------------------------------------------

Config = Callable[[str], int]


@pytest.fixture
def eksctl(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The command, with these keys in [burst.eks]."""
    catalog, file = tmp_path / "catalog.yaml", tmp_path / "flex.toml"
    catalog.write_text(CATALOG.replace("network_gbps: 10,", "network_gbps: 100, efa: 1,"))
    monkeypatch.setenv(PATH_VARIABLE, str(file))

    def run(keys: str) -> int:
        file.write_text(EKS.format(catalog=catalog, type="small", keys=keys))
        file.chmod(0o600)
        words = ["--name", "hpc", "--region", "us-east-2", "--zones", "us-east-2a", "us-east-2b"]
        return main(["burst", "eksctl-config", *words])

    return run


def group_of(text: str) -> dict[str, Any]:
    return next(
        one for one in yaml.safe_load(text)["managedNodeGroups"] if one["name"] == "small"
    )  # fmt: skip


def test_the_cluster_has_nodes_as_the_table_of_eks_says(
    eksctl: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = 'capacity = "spot"\nefa = true\nplacement_group = "near"\ndisk_gib = 90\n'
    assert eksctl(keys + 'cluster = "hpc"\nregion = "us-east-2"\nlabels = {team = "a"}') == 0
    said = capsys.readouterr().out
    group = group_of(said)
    assert (group["spot"], group["efaEnabled"], group["volumeSize"]) == (True, True, 90)
    assert group["placement"] == {"groupName": "near"}
    assert group["labels"] == {"team": "a"}
    assert "Not in here" not in said


def test_nodes_have_no_efa_where_the_table_of_eks_does_not_say_so(
    eksctl: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eksctl("") == 0
    assert not {"efaEnabled", "spot"} & group_of(capsys.readouterr().out).keys()


def test_what_the_cluster_does_not_follow_is_named_in_its_first_lines(
    eksctl: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eksctl('taints = ["a=b:NoSchedule"]\nami_type = "AL2023_x86_64_STANDARD"') == 0
    said = capsys.readouterr().out
    assert "# Not in here, of [burst.eks] in flex.toml: taints, ami_type." in said
    assert group_of(said)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('cluster = "other"', "burst.eks.cluster is other"),
        ('region = "eu-west-1"', "burst.eks.region is eu-west-1"),
        ('capacity = "cheap"', "burst.eks: capacity"),
    ],
)
def test_a_table_of_another_cluster_or_without_sense_is_refused(
    eksctl: Config, keys: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eksctl(keys) == 3
    captured = capsys.readouterr()
    assert (captured.out, told in captured.err) == ("", True), captured.err


def test_slots_of_another_provider_make_no_cluster(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, file = tmp_path / "catalog.yaml", tmp_path / "flex.toml"
    catalog.write_text(CATALOG)
    file.write_text(EKS.format(catalog=catalog, type="small", keys="").replace('"eks"', '"local"'))
    file.chmod(0o600)
    monkeypatch.setenv(PATH_VARIABLE, str(file))
    words = ["--name", "hpc", "--region", "us-east-2", "--zones", "us-east-2a", "us-east-2b"]
    assert main(["burst", "eksctl-config", *words]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{file}: burst.provider: the slots are for local" in said.err


def test_burst_without_a_flex_toml_says_where_it_looked_and_how_to_name_another(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    monkeypatch.setattr("flux_flex.config.DEFAULT_PATH", str(tmp_path / "none.toml"))
    assert main(["burst", "configure", "--r", "own.json"]) == 3
    said = capsys.readouterr().err
    assert f"{tmp_path / 'none.toml'}: no such file" in said
    assert f"export {PATH_VARIABLE}=FILE" in said


def test_catalogue_that_is_not_there_is_told_by_the_key_that_names_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flex.toml"
    file.write_text(EKS.format(catalog="/nowhere/catalog.yaml", type="small", keys=""))
    file.chmod(0o600)
    monkeypatch.setenv(PATH_VARIABLE, str(file))
    words = ["--name", "hpc", "--region", "us-east-2", "--zones", "us-east-2a", "us-east-2b"]
    assert main(["burst", "eksctl-config", *words]) == 3
    said = capsys.readouterr().err
    assert f"{file}: burst.catalog: /nowhere/catalog.yaml: no such file" in said
    assert "scenario" not in said
