"""flux-flex burst configure: the files, what it says, and what it refuses before it writes any."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from flux_flex.burst.bootstrap import hosts_of
from flux_flex.cli import main
from flux_flex.cli.burst_configure import configure
from flux_flex.errors import BadInput
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

CATALOG = Path(__file__).resolve().parents[2] / "examples" / "burst-queue" / "catalog.yaml"
FLEX = """
[burst]
provider = "{provider}"
catalog = "{catalog}"

[[burst.slots]]
name = "hpc7a"
type = "{type}"
bursts = 2
nodes = 2

[burst.lead]
name = "lead"
address = "203.0.113.7"

[burst.local]
cores = 3
curve_cert = "/etc/flux/a certificate"
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(tmp_path / "flex.toml"))
    set_up(tmp_path)
    ranks = [RankResources(rank, host, (0, 1), ()) for rank, host in enumerate(["lead", "own1"])]
    (tmp_path / "own.json").write_text(json.dumps(ResourceSet(tuple(ranks)).to_r()))
    return tmp_path / "conf"


def set_up(folder: Path, text: str = FLEX, **values: str) -> None:
    known = {"provider": "eks", "catalog": str(CATALOG), "type": "hpc7a.12xlarge", **values}
    (folder / "flex.toml").write_text(text.format(**known))


def run(out: Path, r: str = "own.json") -> int:
    return configure(argparse.Namespace(r=str(out.parent / r), out=str(out)))


def refused(out: Path, r: str = "own.json") -> BadInput:
    with pytest.raises(BadInput) as got:
        run(out, r)
    assert not out.exists()
    assert got.value.remedy
    return got.value


def test_the_files_go_together(out: Path) -> None:
    assert run(out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "R.json",
        "broker-burst.toml",
        "broker.toml",
    ]
    R = json.loads((out / "R.json").read_text())
    assert hosts_of(R) == ("lead", "own1", "hpc7a-0-0", "hpc7a-0-1", "hpc7a-1-0", "hpc7a-1-1")
    assert len(parse_r(R).ranks[-1].cores) == 24
    assert f'path = "{out}/R.json"' in (out / "broker.toml").read_text()
    for name in ("broker.toml", "broker-burst.toml"):
        text = (out / name).read_text()
        assert 'curve_cert = "/etc/flux/a certificate"' in text
        assert 'connect = "tcp://203.0.113.7:8050"' in text
    assert "R.json" not in (out / "broker-burst.toml").read_text()


def test_it_says_what_to_do_next(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(out)
    said = capsys.readouterr().out
    assert said.startswith("2 own hosts and 4 for 2 bursts")
    assert "flux keygen '/etc/flux/a certificate'" in said
    assert f"flux broker -Sbroker.quorum=2 --config-path={out}/broker.toml" in said
    joining = f"flux broker -Shostname=hpc7a-0-0 --config-path={out}/broker-burst.toml"
    assert joining in said
    assert "easy" in said


def test_brokers_of_this_machine_have_the_cores_that_it_has(out: Path) -> None:
    set_up(out.parent, provider="local")
    run(out)
    assert len(parse_r(json.loads((out / "R.json").read_text())).ranks[-1].cores) == 3


def test_written_again_it_is_the_same(out: Path) -> None:
    run(out)
    before = {path.name: path.read_text() for path in out.iterdir()}
    run(out)
    assert {path.name: path.read_text() for path in out.iterdir()} == before


def test_its_own_r_is_refused_for_the_hosts_that_it_has_already(out: Path) -> None:
    run(out)
    with pytest.raises(BadInput, match="hpc7a-0-0 is there twice") as got:
        run(out, "conf/R.json")
    assert got.value.where.startswith(str(out / "R.json"))


@pytest.mark.parametrize("key", ["slots", "catalog", "lead.name", "lead.address"])
def test_a_key_that_is_needed_is_named(out: Path, key: str) -> None:
    name = key.rpartition(".")[2]
    lines = FLEX.splitlines()
    if key == "slots":
        lines = FLEX.replace("[[burst.slots]]", "#").splitlines()
        lines = [line for line in lines if not line.startswith(("type", "bursts", "nodes"))]
        lines.remove('name = "hpc7a"')
    else:
        last = max(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
        del lines[last]
    set_up(out.parent, "\n".join(lines))
    assert refused(out).where == f"{out.parent / 'flex.toml'}: burst.{key}"


def test_a_type_that_the_catalogue_lacks_is_told_with_the_nearest(out: Path) -> None:
    set_up(out.parent, type="hpc7a.12large")
    error = refused(out)
    assert error.where == f"{out.parent / 'flex.toml'}: burst.slots"
    assert "hpc7a.12xlarge" in error.remedy


def test_a_catalogue_that_is_none_is_told_with_its_file(out: Path) -> None:
    catalog = out.parent / "catalog.yaml"
    catalog.write_text("types: []")
    set_up(out.parent, catalog=str(catalog))
    assert refused(out).where.startswith(str(catalog))


def test_an_r_that_is_none_is_told_with_its_file(out: Path) -> None:
    (out.parent / "bad.json").write_text("{}")
    assert refused(out, "bad.json").where.startswith(str(out.parent / "bad.json"))
    assert refused(out, "none.json").where.startswith(str(out.parent / "none.json"))


def test_a_cluster_to_review_is_printed_with_a_group_for_each_type(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--name", "hpc", "--region", "us-east-2", "--zones", "us-east-2a", "us-east-2b"]
    assert main(["burst", "eksctl-config", *argv]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["metadata"] == {"name": "hpc", "region": "us-east-2"}
    assert "hpc7a.12xlarge" in {group["instanceType"] for group in document["managedNodeGroups"]}
