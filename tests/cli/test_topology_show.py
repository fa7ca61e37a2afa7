"""``topology show`` as it is printed, written and read by programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from flux_flex.cli import topology_show
from flux_flex.cli.topology_show import show
from flux_flex.errors import BadInput
from flux_flex.model.network import NetworkPlace
from flux_flex.topology.mapping import Network
from flux_flex.topology.standing import EMPTY, HostState, Standing

HOSTILE = "\x1b]0;owned\x07\x9b31m[red]\u202e"


def network(n_hosts: int, leaf: int = 8) -> Network:
    places = [
        NetworkPlace(
            f"n{i}", (f"top{i // leaf // 64}", f"mid{i // leaf // 8}", f"leaf{i // leaf}"),
            f"i-{i}", "c7i.large", "us-east-2a", "use2-az1", "us-east-2", f"cr-{i // leaf // 64}",
        )
        for i in range(n_hosts)
    ]  # fmt: skip
    return Network(tuple(places), ("login1",), {"bad": ("i-8", "i-9")})


def running(n_hosts: int) -> Standing:
    """The first two hosts have job 58, and the others are free."""
    states: dict[str, HostState] = {f"n{i}": "free" for i in range(n_hosts)}
    return Standing({**states, "n0": "allocated", "n1": "partly"}, {"n0": (58,), "n1": (57, 58)})


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"job": None, "svg": None, "json": False, "all": False, **given})


def test_a_tree_is_printed_plain_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(network(3), running(3), options()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 hosts, 1 zone, 3 network nodes; all c7i.large",
        "└── us-east-2a (use2-az1)  3 hosts: 1 free, 1 partly, 1 allocated",
        "    └── top0  3 hosts: 1 free, 1 partly, 1 allocated",
        "        └── mid0  3 hosts: 1 free, 1 partly, 1 allocated",
        "            └── leaf0  3 hosts: 1 free, 1 partly, 1 allocated",
        "                ├── n0  allocated  ƒ21",
        "                ├── n1  partly allocated  ƒz ƒ21",
        "                └── n2  free",
        "accelerator domain cr-0  3 hosts: 1 free, 1 partly, 1 allocated  n[0-2]",
        "no place known: login1 (1 host)",
        "no place known: bad, which is claimed by i-8, i-9",
    ]


@pytest.mark.parametrize("job", [None, "58"])
def test_a_thousand_hosts_can_be_read(capsys: pytest.CaptureFixture[str], job: str | None) -> None:
    show(network(1_000), running(1_000), options(job=job))
    said = capsys.readouterr().out.splitlines()
    assert len(said) <= 120
    assert said[0].startswith("1,000 hosts, 1 zone, 143 network nodes")
    assert said[-1] == "--all shows each host"


def test_all_shows_each_of_a_thousand(capsys: pytest.CaptureFixture[str]) -> None:
    show(network(1_000), running(1_000), options(all=True))
    assert capsys.readouterr().out.count("  free\n") == 998


def test_thousands_of_lines_are_the_same_tree_without_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(network(100), running(100), options(all=True))
    by_rich = capsys.readouterr().out
    monkeypatch.setattr(topology_show, "_MOST_COLOURED", 5)
    show(network(100), running(100), options(all=True))
    assert capsys.readouterr().out == by_rich


def test_the_job_is_marked_and_its_span_is_said_last(capsys: pytest.CaptureFixture[str]) -> None:
    show(network(16), running(16), options(job="ƒ21", all=True))
    said = capsys.readouterr().out.splitlines()
    assert sum("── * n" in line for line in said) == 2
    assert said[-1] == (
        "* job ƒ21: 2 hosts under 1 leaf (nn3), 1 nn2, 1 nn1; at most 2 hops, 2.0 on average"
    )


def test_a_job_that_does_not_run_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match="no job"):
        show(network(3), running(3), options(job="99", svg=str(tmp_path / "n.svg")))
    with pytest.raises(BadInput, match="no job"):
        show(network(3), EMPTY, options(job="58", json=True))
    assert capsys.readouterr().out == ""
    assert not [*tmp_path.iterdir()]


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    place = NetworkPlace(HOSTILE, (f"nn{HOSTILE}",), HOSTILE, HOSTILE, f"z{HOSTILE}")
    shape = Network((place,), (HOSTILE,), {HOSTILE: (HOSTILE,)})
    standing = Standing({HOSTILE: "free"}, {HOSTILE: (58,)})
    for given in ({}, {"all": True}, {"job": "58"}, {"json": True}):
        show(shape, standing, options(**given))
        said = capsys.readouterr().out
        assert said.replace("\n", "").isprintable()
        assert "red]" in said


def test_names_in_a_large_tree_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology_show, "_MOST_COLOURED", 0)
    place = NetworkPlace(HOSTILE, (f"nn{HOSTILE}",), HOSTILE, HOSTILE, f"z{HOSTILE}")
    show(Network((place,)), EMPTY, options(all=True))
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert said.count("red]") >= 3


def test_a_picture_is_written_beside_the_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made" / "network.svg"
    show(network(16), running(16), options(svg=str(target), job="58"))
    assert target.read_text(encoding="utf-8").startswith("<svg ")
    said = capsys.readouterr().out
    assert said.startswith("16 hosts")
    assert said.replace("\n", "").endswith(f"drawing  {target}".replace("\n", ""))
    assert [one.name for one in target.parent.iterdir()] == ["network.svg"]


def test_a_picture_that_cannot_be_written_is_refused_and_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match="directory"):
        show(network(3), EMPTY, options(svg=str(tmp_path)))
    assert capsys.readouterr().out == ""


def test_json_has_everything_in_flat_lists(capsys: pytest.CaptureFixture[str]) -> None:
    show(network(9), running(9), options(json=True, job="58"))
    document = json.loads(capsys.readouterr().out)
    hosts = document.pop("hosts")
    assert document == {
        "format": "flux-flex-topology",
        "version": 1,
        "zones": [{"zone": "us-east-2a", "zone_id": "use2-az1", "region": "us-east-2"}],
        "network_nodes": [
            {"id": "top0", "layer": 1, "parent": "us-east-2a"},
            {"id": "mid0", "layer": 2, "parent": "top0"},
            {"id": "leaf0", "layer": 3, "parent": "mid0"},
            {"id": "leaf1", "layer": 3, "parent": "mid0"},
        ],
        "domains": [{"capacity_block": "cr-0", "hosts": [f"n{i}" for i in range(9)]}],
        "job": {
            "jobid": "ƒ21",
            "id": 58,
            "hosts": ["n0", "n1"],
            "elsewhere": [],
            "span": {"layers": [1, 1, 1], "diameter": 2, "mean_hops": 2.0},
        },
        "unmapped": ["login1"],
        "claimed": {"bad": ["i-8", "i-9"]},
    }
    assert len(hosts) == 9
    assert hosts[1] == {
        "host": "n1",
        "instance_id": "i-1",
        "instance_type": "c7i.large",
        "zone": "us-east-2a",
        "zone_id": "use2-az1",
        "region": "us-east-2",
        "network_nodes": ["top0", "mid0", "leaf0"],
        "capacity_block": "cr-0",
        "state": "partly",
        "jobs": [57, 58],
    }


def test_json_has_null_for_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    show(Network((NetworkPlace("a", (), "i-1", "", "az1"),)), EMPTY, options(json=True))
    document = json.loads(capsys.readouterr().out)
    assert document["zones"] == [{"zone": "az1", "zone_id": None, "region": None}]
    (host,) = document["hosts"]
    assert [key for key, value in host.items() if value is None] == [
        "instance_type", "zone_id", "region", "capacity_block", "state",
    ]  # fmt: skip
    assert (host["network_nodes"], host["jobs"], document["job"]) == ([], [], None)


def test_json_never_folds(capsys: pytest.CaptureFixture[str]) -> None:
    show(network(1_000), running(1_000), options(json=True))
    assert len(json.loads(capsys.readouterr().out)["hosts"]) == 1_000
