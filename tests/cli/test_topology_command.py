"""flux-flex topology: what is fetched offline, merged and written, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "topology"))

from ec2_endpoint import Endpoint, Fault, Machine, Shape, Step, isolate

from flux_flex.cli import main, topology
from flux_flex.errors import BadInput
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jgf import jgf_document, parse_jgf
from flux_flex.topology import aws, standing

ROOT = Path(__file__).resolve().parents[2]
BURST = ROOT / "examples" / "burst-queue"
R = str(BURST / "R.json")
ANSWERS = [
    str(BURST / "describe-instances.json"),
    str(BURST / "describe-instance-topology.json"),
    str(ROOT / "examples" / "topology" / "describe-instance-types.json"),
]
OFFLINE = ["topology", "fetch", "--offline", *ANSWERS]


@pytest.fixture(autouse=True)
def _no_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine, no credentials, and no instance around the tests."""
    config = tmp_path / "flex.toml"
    config.write_text(
        f'[topology]\nfile = "{tmp_path}/topology.json"\ncache = "{tmp_path}/cache"\n'
    )
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(config))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in [*os.environ]:
        if name.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_PROFILE", "FLUX_URI")):
            monkeypatch.delenv(name)


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*argv]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*argv]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_jgf_is_the_format_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    graph = parse_jgf(json.loads(printed(capsys, *OFFLINE)))
    assert graph.total("node") == 16
    assert graph.total("core") == 16 * 24
    assert graph.total("nn3") == 4


def test_the_hosts_of_an_r_keep_their_ranks_and_cores(capsys: pytest.CaptureFixture[str]) -> None:
    graph = parse_jgf(json.loads(printed(capsys, *OFFLINE, "--r", R)))
    ranks = {graph.names[v]: int(graph.rank[v]) for v in graph.of_type("node").tolist()}
    assert ranks == {f"compute{rank}": rank for rank in range(16)}
    assert graph.total("core") == 16 * 8


def test_an_r_gets_properties_and_a_graph_unless_it_is_not_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole: Any = json.loads(printed(capsys, *OFFLINE, "--r", R, "--format", "r"))
    bare: Any = json.loads(printed(capsys, *OFFLINE, "--r", R, "--format", "r", "--no-scheduling"))
    assert "graph" in whole.pop("scheduling")
    assert whole == bare
    assert bare["execution"]["properties"]["us-east-2b"] == "0-15"


def test_a_site_s_own_graph_is_merged_by_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "graph.json"
    own.write_text(json.dumps(jgf_document(uniform_graph(4, 2, 1, prefix="compute"))))
    graph = parse_jgf(json.loads(printed(capsys, *OFFLINE, "--jgf", str(own))))
    assert [graph.total(kind) for kind in ("node", "gpu", "nn1")] == [4, 4, 1]


def test_the_aws_format_is_read_again_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    assert main([*OFFLINE, "--format", "aws", "--file", str(kept)]) == 0
    assert "16 hosts written" in capsys.readouterr().err
    again = printed(capsys, "topology", "fetch", "--offline", str(kept), "--names", "tag")
    assert again == printed(capsys, *OFFLINE, "--names", "tag")


def test_the_site_s_file_serves_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OFFLINE, "--format", "aws", "--file", f"{tmp_path}/topology.json"]) == 0
    assert "compute7" in printed(capsys, "topology", "show", "--r", R)


@pytest.mark.parametrize(
    ("naming", "host"),
    [("dns", "ip-10-0-0-17"), ("id", "i-0c3fc1626e53a1304"), ("ip", "10.0.0.17"),
     ("tag", "compute7")],
)  # fmt: skip
def test_instances_are_called_as_is_asked(
    naming: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, *OFFLINE, "--names", naming, "--instance", "i-0c3fc1626e53a1304")
    graph = parse_jgf(json.loads(out))
    assert [graph.names[v] for v in graph.of_type("node")] == [host]


def test_a_placement_group_is_chosen_among_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, *OFFLINE, "--group", "hpc-pg", "--format", "slurm")
    assert out.count("Nodes=") == 4
    err = refusal(capsys, *OFFLINE, "--group", "hpc-pg", "other")
    assert "--group: the files have no instance in a placement group 'other'" in err


def test_instances_without_a_topology_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = json.loads(Path(ANSWERS[1]).read_text())
    gone = topology["Instances"].pop()["InstanceId"]
    path = tmp_path / "topology.json"
    path.write_text(json.dumps(topology))
    assert main(["topology", "fetch", "--offline", ANSWERS[0], str(path), ANSWERS[2]]) == 0
    assert f"no place known: {gone}" in capsys.readouterr().err


def test_slurm_has_hosts_in_the_order_of_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, *OFFLINE, "--names", "tag", "--format", "slurm")
    assert "Nodes=compute[0,4,9,14]\n" in out


# -- hosts without a place -----------------------------------------------------------------------


@pytest.fixture
def larger(tmp_path: Path) -> str:
    """An R with two hosts more than EC2 knows of."""
    document = json.loads(Path(R).read_text())
    document["execution"]["R_lite"][0]["rank"] = "0-17"
    document["execution"]["nodelist"] = ["compute[0-15]", "login", "lead"]
    path = tmp_path / "R.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_hosts_without_a_place_are_named_and_strict_refuses_them(
    larger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*OFFLINE, "--r", larger]) == 0
    out, err = capsys.readouterr()
    assert "no place known: login, lead" in err
    assert parse_jgf(json.loads(out)).total("node") == 18
    assert "2 hosts have no place" in refusal(capsys, *OFFLINE, "--r", larger, "--strict")


def test_one_host_is_not_told_as_several(
    larger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "hosts.json"
    chart.write_text('{"login": "i-0c3fc1626e53a1304"}')
    argv = [*OFFLINE, "--r", larger, "--host-map", str(chart)]
    assert "1 host has no place" in refusal(capsys, *argv, "--strict")
    target = str(tmp_path / "one")
    one = ["--instance", "i-0c3fc1626e53a1304", "--format", "slurm", "--file", target]
    assert main([*OFFLINE, *one]) == 0
    assert f"1 host written to {target}" in capsys.readouterr().err


def test_a_host_map_that_is_named_need_not_be_the_administrator_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "hosts.json"
    chart.write_text('{"compute1": "i-0c3fc1626e53a1304"}')
    chart.chmod(0o664)
    printed(capsys, *OFFLINE, "--r", R, "--host-map", str(chart))
    config = tmp_path / "site.toml"
    config.write_text(f'[topology]\nhost_map = "{chart}"\n')
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(config))
    assert "others can write it" in refusal(capsys, *OFFLINE, "--r", R)


def test_the_name_of_a_file_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*OFFLINE, "--file", f"{tmp_path}/\x1b[2J\u202eevil"]) == 0
    err = capsys.readouterr().err
    assert "/?[2J?evil" in err
    assert err.replace("\n", "").isprintable()


def test_a_host_map_says_which_instance_a_host_is(
    larger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "hosts.json"
    chart.write_text('{"login": "i-0c3fc1626e53a1304", "compute7": "i-none"}')
    assert main([*OFFLINE, "--r", larger, "--host-map", str(chart), "--format", "slurm"]) == 0
    out, err = capsys.readouterr()
    assert "no place known: compute7, lead" in err
    assert "login" in out


def test_two_instances_of_one_name_are_told_and_neither_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = json.loads(Path(ANSWERS[0]).read_text())
    first, second = answers["Reservations"][0]["Instances"][:2]
    second["Tags"] = first["Tags"]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(answers))
    argv = [
        "topology",
        "fetch",
        "--offline",
        str(path),
        *ANSWERS[1:],
        "--r",
        R,
        "--format",
        "slurm",
    ]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert f"several instances are called compute7: {second['InstanceId']}" in err
    assert "[2,5,15]" in out
    assert "2 hosts have no place" in refusal(capsys, *argv, "--strict")


def test_one_host_in_two_regions_is_told_and_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    west: Any = [json.loads(Path(path).read_text()) for path in ANSWERS[:2]]
    for instance in west[0]["Reservations"][0]["Instances"] + west[1]["Instances"]:
        instance["InstanceId"] = "i-f" + instance["InstanceId"][3:]
    for located in west[1]["Instances"]:
        located["AvailabilityZone"] = "us-west-2a"
        located["ZoneId"] = "usw2-az1"
        located["NetworkNodes"] = [f"{node}f" for node in located["NetworkNodes"]]
    files = []
    for number, document in enumerate(west):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(document))
        files.append(str(path))
    both = ["topology", "fetch", "--offline", *ANSWERS, *files]
    assert "no instance has a place" in refusal(capsys, *both, "--r", R)
    graph = parse_jgf(json.loads(printed(capsys, *both, "--names", "id")))
    assert [graph.total(kind) for kind in ("region", "zone", "node")] == [2, 2, 32]


# -- which instances -----------------------------------------------------------------------------

BLUE, RED = (f"i-{k:017x}" for k in (1, 2))
FETCH = ["topology", "fetch", "--format", "slurm", "--names", "id", "--max-age", "0"]


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An EC2 with an instance in each of two placement groups."""
    with Endpoint([Machine(BLUE, group="blue"), Machine(RED, group="red")]) as started:
        isolate(monkeypatch, started.url)
        yield started


@pytest.fixture
def recorded(tmp_path: Path, ec2: Endpoint, capsys: pytest.CaptureFixture[str]) -> str:
    path = tmp_path / "recorded.json"
    assert main(["topology", "fetch", "--format", "aws", "--file", str(path)]) == 0
    capsys.readouterr()
    return str(path)


@pytest.mark.parametrize("is_offline", [False, True])
def test_a_group_narrows_what_is_named(
    recorded: str, is_offline: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--offline", recorded] if is_offline else ["--max-age", "0"]
    argv = ["topology", "fetch", "--format", "slurm", "--names", "id", *source]
    assert BLUE in printed(capsys, *argv, "--instance", BLUE, "--group", "blue")
    assert RED not in printed(capsys, *argv, "--instance", BLUE, "--group", "blue", "red")
    for ids in ([RED], [BLUE, RED]):
        err = refusal(capsys, *argv, "--instance", *ids, "--group", "blue")
        assert f"--instance: {RED} is not in group blue" in err
    assert "placement group" in refusal(capsys, *argv, "--group", "green")


@pytest.mark.usefixtures("ec2")
def test_an_id_that_a_filter_leaves_out_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*FETCH, "--instance", BLUE, RED, "--filter", "placement-group-name=red"]
    assert f"{BLUE} is not placement-group-name=red" in refusal(capsys, *argv)
    both = [*FETCH, "--region", "us-east-1", "us-east-2"]
    assert f"{BLUE} is not in group red" in refusal(
        capsys, *both, "--instance", BLUE, "--group", "red"
    )
    assert "has i-00000009, or" in refusal(capsys, *both, "--instance", BLUE, "i-00000009")


def without_group(group: str) -> dict[str, list[Step]]:
    """The first answers of an EC2 that has no such group."""
    nothing = b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
    message = f"The Placement Group '{group}' is unknown."
    return {
        "DescribeInstances": [Fault(status=200, body=nothing)],
        "DescribeInstanceTopology": [Fault("InvalidPlacementGroup.Unknown", message)],
    }


def test_one_of_several_regions_need_not_have_the_group(
    ec2: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [*FETCH, "--region", "us-east-1", "us-east-2", "--group"]
    ec2.script.update(without_group("blue"))
    assert BLUE in printed(capsys, *both, "blue")
    # The first region has no blue, and both have red: EC2 would refuse the two together.
    ec2.script.update(without_group("blue"))
    ec2.calls.clear()
    assert "i-[00000000000000001-00000000000000002]" in printed(capsys, *both, "blue", "red")
    asked = [params.listed("GroupName") for params in ec2.asked("DescribeInstanceTopology")]
    assert asked == [["blue"], ["blue"], ["red"], ["red"]]
    assert "'green' is unknown" in refusal(capsys, *both, "blue", "green")


def test_types_without_a_topology_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aws, "_PROBES", 0)  # nothing is late
    machines = [Machine(BLUE, "t3.micro", None), Machine(RED, "t2.nano", None)]
    with Endpoint(machines, [Shape("t3.micro"), Shape("t2.nano")]) as ec2:
        isolate(monkeypatch, ec2.url)
        err = refusal(capsys, *FETCH)
        assert "EC2 has no topology for t2.nano, t3.micro" in err
        assert "docs/topology.md, Regions" in err
        err = refusal(capsys, *FETCH, "--instance", BLUE)
        assert "EC2 has no topology for t3.micro\n" in err
    ended = [Machine(BLUE, "t3.micro", None, state="stopped")]
    with Endpoint(ended, [Shape("t3.micro")]) as ec2:
        isolate(monkeypatch, ec2.url)
        assert "no instance has a place" in refusal(capsys, *FETCH)


@pytest.mark.usefixtures("ec2")
def test_an_answer_from_the_cache_says_of_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["fetch"], ["fetch", "--region", "eu-west-1"]):
        assert main(["topology", *argv]) == 0
        assert "from the cache" not in capsys.readouterr().err
        assert main(["topology", *argv]) == 0
        region = argv[-1] if "--region" in argv else "us-east-2"
        assert re.search(
            rf"^flux-flex: EC2's answer of \S+ ago for {region}, from the cache; --max-age 0 asks",
            capsys.readouterr().err,
        )


# -- a running instance --------------------------------------------------------------------------


class Running:
    """An instance whose R has a graph of its own, and what it was told."""

    def __init__(self, R: object, told: object = None) -> None:
        self.kvs = {"resource.R": R, "flex.topology": told}

    def resources(self) -> dict[str, object]:
        R: Any = self.kvs["resource.R"]
        return {key: value for key, value in R.items() if key != "scheduling"}

    def kvs_get(self, key: str) -> object:
        if self.kvs.get(key) is None:
            raise BadInput("no such key", key)
        return self.kvs[key]


def test_a_running_instance_keeps_the_graph_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = json.loads(Path(R).read_text())
    own["scheduling"] = jgf_document(uniform_graph(16, 8, 2, prefix="compute"))
    monkeypatch.setattr(topology, "FluxInstance", lambda: Running(own))
    graph = parse_jgf(json.loads(printed(capsys, *OFFLINE, "--live")))
    assert [graph.total(kind) for kind in ("node", "gpu", "nn1")] == [16, 32, 1]


def test_hosts_that_were_told_by_a_map_are_shown_by_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = json.loads(Path(R).read_text())
    own["execution"]["nodelist"] = ["n[0-15]"]
    kept = tmp_path / "kept.json"
    assert main([*OFFLINE, "--format", "aws", "--file", str(kept)]) == 0
    told = json.loads(kept.read_text()) | {"HostMap": {"n3": "i-0c3fc1626e53a1304"}}
    monkeypatch.setattr(topology, "enclosing_instance", lambda: Running(own, told))
    monkeypatch.setattr(standing, "standing_of", lambda _: standing.EMPTY)

    def shown(*argv: str) -> dict[str, str]:
        document = json.loads(printed(capsys, "topology", "show", "--json", *argv))
        return {one["host"]: one["instance_id"] for one in document["hosts"]}

    assert shown() == {"n3": "i-0c3fc1626e53a1304"}
    (tmp_path / "map.json").write_text('{"n4": "i-0c3fc1626e53a1304"}')
    argv = ["--host-map", str(tmp_path / "map.json")]
    assert shown(*argv) == dict.fromkeys(("n3", "n4"), "i-0c3fc1626e53a1304")


# -- what is refused -----------------------------------------------------------------------------


def test_hostile_names_reach_neither_graph_nor_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = json.loads(Path(ANSWERS[0]).read_text())
    members = answers["Reservations"][0]["Instances"]
    for member, name in zip(
        members, ("x" * 10_240, "\x1b[2Jcompute0", "a/b", "../../etc"), strict=False
    ):
        member["Tags"] = [{"Key": "Name", "Value": name}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(answers))
    argv = ["topology", "fetch", "--offline", str(path), *ANSWERS[1:], "--names", "tag"]
    graph = parse_jgf(json.loads(printed(capsys, *argv)))
    names = {graph.names[v] for v in graph.of_type("node").tolist()}
    assert {member["InstanceId"] for member in members[:4]} <= names
    out = printed(capsys, "topology", "show", *argv[2:])
    assert "\x1b" not in out
    assert "x" * 300 not in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--offline", R], "none of the keys"),
        (["--offline", ANSWERS[0]], "no answer of describe-instance-topology"),
        (["--offline", "/nowhere.json"], "no such file"),
        ([*OFFLINE[2:], "--filter", "tag:a=b"], "--filter: files are read"),
        ([*OFFLINE[2:], "--region", "us-east-2"], "--region: files are read"),
        ([*OFFLINE[2:], "--r", R, "--instance", "i-1"], "says already which hosts"),
        ([*OFFLINE[2:], "--instance", "i-1"], "do not say where 'i-1' sits"),
        ([*OFFLINE[2:], "--r", R, "--jgf", R], "both say which hosts"),
        ([*OFFLINE[2:], "--r", R, "--names", "dns"], "--names: an R or a JGF says already what"),
        ([*OFFLINE[2:], "--no-scheduling"], "--no-scheduling: the format jgf has no"),
        ([*OFFLINE[2:], "--r", R, "--format", "aws", "--no-scheduling"], "the format aws has no"),
        ([*OFFLINE[2:], "--host-map", R], "no map of hosts"),
        ([*OFFLINE[2:], "--r", ANSWERS[0]], "JGF"),
        (["--offline", *ANSWERS[:2]], "nothing is known of the instance type"),
        (["--filter", "nonsense"], "is no filter"),
        (["--max-age", "soon", "--instance", "i-1"], "soon"),
    ],
)
def test_what_makes_no_sense_is_refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, "topology", "fetch", *argv)


def test_an_r_without_a_graph_to_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    racks = tmp_path / "racks.json"
    racks.write_text((ROOT / "examples" / "containers" / "graph.json").read_text())
    err = refusal(capsys, *OFFLINE, "--jgf", str(racks))
    assert str(racks) in err or "no instance has a place" in err


def test_ctrl_c_leaves_no_half_written_file(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, flux_flex.simulate.files as f\n"
        "real = os.replace\n"
        "f.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGINT)\n"
        "from flux_flex.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, *OFFLINE, "--file", str(tmp_path / "out.json")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert not [
        path.name for path in tmp_path.iterdir() if "out" in path.name or path.name[0] == "."
    ]


def test_show_as_json_has_the_tree_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(printed(capsys, "topology", "show", *OFFLINE[2:], "--r", R, "--json"))
    assert document["format"] == "flux-flex-topology"
    assert len(document["hosts"]) == 16


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--r", R, "--live"], "--r and --live both say which hosts"),
        (["--r", R, "--names", "id"], "--names: an R or a JGF says already what hosts are called"),
        (["--r", R, "--svg", "-"], "--svg: a picture is not written to standard output"),
    ],
)
def test_show_refuses_what_makes_no_sense(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, "topology", "show", *OFFLINE[2:], *argv)


def test_a_job_can_be_marked_only_in_a_running_instance(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no running instance" in refusal(capsys, "topology", "show", *OFFLINE[2:], "--job", "1")
