"""flux-flex match: the exit code is the answer, and each format can be read back."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flux_flex
from flux_flex.cli import main
from flux_flex.model.jgf import parse_jgf
from flux_flex.model.rv1 import parse_r


def r_of(ranks: str, cores: str, hosts: str) -> dict[str, Any]:
    return {
        "version": 1,
        "execution": {
            "R_lite": [{"rank": ranks, "children": {"core": cores}}],
            "nodelist": [hosts],
            "starttime": 0,
            "expiration": 0,
        },
    }


def nodes_job(count: int, cores: int = 4) -> dict[str, Any]:
    core = {"type": "core", "count": cores}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    return {
        "version": 1,
        "resources": [{"type": "node", "count": count, "with": [slot]}],
        "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 60}},
    }


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "R.json"
    path.write_text(json.dumps(r_of("0-3", "0-7", "node[0-3]")))
    return path


def job(folder: Path, spec: object) -> str:
    path = folder / "job.json"
    path.write_text(json.dumps(spec))
    return str(path)


def test_request_that_fits_ends_with_0(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["match", job(tmp_path, nodes_job(2)), "--graph", str(graph), "--policy", "low"]) == 0
    )
    out = capsys.readouterr().out
    assert "node0" in out
    assert "node1" in out
    assert "node2" not in out
    assert "core x 4" in out


def test_request_for_what_is_in_use_ends_with_1(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = tmp_path / "busy.json"
    busy.write_text(json.dumps(r_of("2-3", "0-7", "node[2-3]")))
    argv = ["match", "--graph", str(graph), "--busy", str(busy)]
    assert main([*argv, job(tmp_path, nodes_job(3))]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "in use" in err
    assert main([*argv, job(tmp_path, nodes_job(2))]) == 0


def test_request_that_never_fits_ends_with_2(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["match", job(tmp_path, nodes_job(5)), "--graph", str(graph)]) == 2
    assert capsys.readouterr().out == ""


def test_cores_in_two_busy_sets_are_bad_input_and_not_a_no(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = tmp_path / "busy.json"
    busy.write_text(json.dumps(r_of("2", "0-7", "node2")))
    argv = ["match", job(tmp_path, nodes_job(1)), "--graph", str(graph)]
    assert main([*argv, "--busy", str(busy), "--busy", str(busy)]) == 3
    err = capsys.readouterr().err
    assert "busy.json" in err
    assert "node2/core0" in err


@pytest.mark.parametrize("text", ["[]", json.dumps(r_of("9", "0", "node9")), "{"])
def test_busy_set_of_another_system_ends_with_3(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    busy = tmp_path / "busy.json"
    busy.write_text(text)
    argv = ["match", job(tmp_path, nodes_job(1)), "--graph", str(graph), "--busy", str(busy)]
    assert main(argv) == 3
    assert "busy.json" in capsys.readouterr().err


def test_unknown_policy_ends_with_3_and_the_known_ones(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["match", job(tmp_path, nodes_job(1)), "--graph", str(graph), "--policy", "best"]
    assert main(argv) == 3
    assert "first, low, high" in capsys.readouterr().err


def test_policy_decides_which_nodes(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["match", job(tmp_path, nodes_job(1, 8)), "--graph", str(graph), "--format", "json"]
    assert main([*argv, "--policy", "high"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == ["node3"]
    assert main([*argv, "--policy", "low"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == ["node0"]


def test_format_r_is_read_back_as_the_cores_that_were_given(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "match",
        job(tmp_path, nodes_job(2)),
        "--graph",
        str(graph),
        "--format",
        "R",
        "--policy",
        "low",
    ]
    assert main(argv) == 0
    ranks = parse_r(json.loads(capsys.readouterr().out)).ranks
    assert [(item.rank, item.host, item.cores) for item in ranks] == [
        (0, "node0", (0, 1, 2, 3)),
        (1, "node1", (0, 1, 2, 3)),
    ]


def test_format_jgf_is_read_back_and_serves_as_a_graph(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = job(tmp_path, nodes_job(2))
    assert main(["match", name, "--graph", str(graph), "--format", "jgf"]) == 0
    text = capsys.readouterr().out
    found = parse_jgf(json.loads(text))
    assert (len(found.of_type("node")), found.total("core")) == (2, 8)
    part = tmp_path / "part.json"
    part.write_text(text)
    assert main(["match", name, "--graph", str(part)]) == 0
    assert main(["match", job(tmp_path, nodes_job(3)), "--graph", str(part)]) == 2


def test_format_json_has_paths_with_amounts(
    tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["match", job(tmp_path, nodes_job(1, 1)), "--graph", str(graph), "--format", "json"]
    assert main([*argv, "--policy", "low"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "at": 0,
        "duration": 60.0,
        "nodes": ["node0"],
        "vertices": {
            "/cluster0/node0/core0": [1, True],
            "/cluster0/node0": [1, False],
            "/cluster0": [1, False],
        },
    }


def test_jobspec_comes_from_standard_input(
    graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(nodes_job(1))))
    assert main(["match", "-", "--graph", str(graph)]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("version: ["))
    assert main(["match", "-", "--graph", str(graph)]) == 3
    assert "standard input: line" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert main(["match", "-", "--graph", str(graph)]) == 3
    assert "standard input: not UTF-8" in capsys.readouterr().err


def test_r_of_a_graph_without_ranks_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["cluster", "node", "core"]
    nodes = [{"id": i, "metadata": {"type": kind}} for i, kind in enumerate(kinds)]
    edges = [{"source": i, "target": i + 1} for i in range(2)]
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"graph": {"nodes": nodes, "edges": edges}}))
    argv = ["match", job(tmp_path, nodes_job(1, 1)), "--graph", str(graph)]
    assert main([*argv, "--format", "json"]) == 0
    capsys.readouterr()
    assert main([*argv, "--format", "R"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "graph.json" in err
    assert "has no rank" in err


def test_names_of_a_graph_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["cluster", "node", "core"]
    nodes = [
        {"id": i, "metadata": {"type": kind, "name": f"[red]{kind}"}}
        for i, kind in enumerate(kinds)
    ]
    edges = [{"source": i, "target": i + 1} for i in range(2)]
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"graph": {"nodes": nodes, "edges": edges}}))
    name = job(tmp_path, nodes_job(1, 1))
    assert main(["match", name, "--graph", str(graph)]) == 0
    assert "[red]node" in capsys.readouterr().out  # as it is, no markup
    nodes[1]["metadata"]["name"] = "\x1b[2J"  # type: ignore[index]
    graph.write_text(json.dumps({"graph": {"nodes": nodes, "edges": edges}}))
    assert main(["match", name, "--graph", str(graph)]) == 3
    assert "\x1b" not in capsys.readouterr().err


def test_without_a_graph_and_an_instance_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FLUX_URI", raising=False)
    assert main(["match", job(tmp_path, nodes_job(1))]) == 3
    assert "--graph: no graph, and no running instance to ask" in capsys.readouterr().err


@pytest.mark.flux
@pytest.mark.skipif(
    shutil.which("flux") is None, reason="flux is not on PATH: install Flux, or add its bin to PATH"
)
def test_inside_an_instance_the_instance_is_asked(tmp_path: Path) -> None:
    words = [
        *(
            "flux",
            "start",
            "--conf=fake-resources.nnodes=3",
            "--conf=fake-resources.cores-per-node=8",
        ),
        *("flux", "python", "-c", "import sys, flux_flex.cli as c; sys.exit(c.main())"),
        *("match", job(tmp_path, nodes_job(2))),
    ]
    path = os.pathsep.join([str(Path(flux_flex.__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "fake" in found.stdout
