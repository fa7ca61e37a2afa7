"""What simulate, plan and explain say of the shipped example, to people and to programs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flux_flex.cli import main
from flux_flex.simulate.replay import replay
from flux_flex.simulate.scenario import load_scenario

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "burst-queue" / "scenario.yaml"
SCHEMA = ROOT / "docs" / "report-v1.schema.json"
COMMAND = Path(sys.executable).with_name("flux-flex")

Capture = pytest.CaptureFixture[str]


def document(capsys: Capture, *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def simulation_json() -> bytes:
    """What the installed command prints, in a process with one seed of Python's hashes."""
    return printed_with_hash_seed("1")


def printed_with_hash_seed(seed: str) -> bytes:
    env = {**os.environ, "PYTHONHASHSEED": seed}
    argv = [COMMAND, "simulate", str(EXAMPLE), "--json"]
    return subprocess.run(argv, env=env, capture_output=True, check=True).stdout


# -- the truth of the example ---------------------------------------------------------------------


def test_hero_starts_here_within_5_s_of_what_flux_itself_estimated(capsys: Capture) -> None:
    decisions = document(capsys, "plan", str(EXAMPLE))["decisions"]
    hero = next(row for row in decisions if row["name"] == "hero")
    assert hero["flux_estimate_s"] == pytest.approx(1.998 * 3600, abs=5)
    assert hero["start_here_s"] == pytest.approx(hero["flux_estimate_s"], abs=5)


def test_replay_without_bursting_starts_every_job_where_flux_estimated_it() -> None:
    scenario = load_scenario(EXAMPLE)
    records = {one.jobid: one for one in replay(scenario, bursting=False).records}
    estimates = {
        item.jobid: item.flux_start_s
        for item in scenario.submissions
        if item.flux_start_s is not None
    }
    assert len(estimates) == 8
    for jobid, estimate_s in estimates.items():
        assert records[jobid].start_s == pytest.approx(estimate_s, abs=5), records[jobid].name


def test_hero_bursts_onto_the_cheapest_type_with_efa_within_its_limits(capsys: Capture) -> None:
    decisions = document(capsys, "plan", str(EXAMPLE))["decisions"]
    hero = next(row for row in decisions if row["name"] == "hero")
    assert hero["verdict"] == "burst"
    chosen = hero["chosen"]
    assert (chosen["type"], chosen["nodes"], chosen["new_nodes"]) == ("hpc6id.32xlarge", 12, 12)
    # 12 nodes at $5.70 for a boot of 6 min, 6 hours and 5 min of idling
    assert chosen["cost_usd"] == pytest.approx(12 * 5.70 * (6 + 360 + 5) / 60, abs=1e-3)
    assert chosen["rejected"] == ""
    others = [one for one in hero["alternatives"] if one != chosen]
    assert len(others) == 5
    assert all(one["rejected"] for one in others)
    assert any("EFA" in one["rejected"] for one in others if one["type"] == "c7i.4xlarge")


def test_deferred_job_names_the_limit_and_what_is_left_of_it(capsys: Capture) -> None:
    decisions = document(capsys, "plan", str(EXAMPLE))["decisions"]
    osu = next(row for row in decisions if row["name"] == "osu")
    assert osu["verdict"] == "deferred"
    spent = sum(row["chosen"]["cost_usd"] for row in decisions[:2] if row["chosen"])
    assert f"leaves ${500 - spent:,.2f}" in osu["reason"]


# -- for programs ---------------------------------------------------------------------------------


def validator(kind: str) -> Any:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator({**schema["$defs"][kind], "$defs": schema["$defs"]})


@pytest.mark.parametrize(("command", "kind"), [("simulate", "simulation"), ("plan", "plan")])
def test_documents_have_exactly_the_keys_of_the_schema(
    capsys: Capture, command: str, kind: str
) -> None:
    report = document(capsys, command, str(EXAMPLE))
    check = validator(kind)
    check.validate(report)
    # The schema notices: what is missing, what is too much, what is of another kind.
    for harm in (
        lambda d: d.pop("bursts"),
        lambda d: d.update(more=1),
        lambda d: d["decisions"][0].pop("reason"),
        lambda d: d["decisions"][0].update(verdict="maybe"),
        lambda d: d["bursts"][0].update(nodes=0),
    ):
        harmed = json.loads(json.dumps(report))
        harm(harmed)
        assert not check.is_valid(harmed)


def test_two_runs_print_the_same_bytes(simulation_json: bytes) -> None:
    assert printed_with_hash_seed("2") == simulation_json


def test_summary_agrees_with_the_jobs_and_bursts_of_its_own_document(
    simulation_json: bytes,
) -> None:
    report = json.loads(simulation_json)
    figures, jobs, bursts = report["summary"]["with"], report["jobs"], report["bursts"]
    assert figures["makespan_s"] == max(job["end_s"] for job in jobs)
    assert figures["cost_usd"] == pytest.approx(sum(b["cost_usd"] for b in bursts), abs=0.01)
    paid_h = sum(b["nodes"] * (b["ended_s"] - b["requested_s"]) / 3600 for b in bursts)
    assert figures["rented_node_hours"] == pytest.approx(paid_h, abs=0.01)
    assert figures["bursts"] == len(bursts)
    assert figures["jobs_finished"] == report["scenario"]["submissions"] == 19
    plain = report["summary"]["without"]
    assert plain["makespan_s"] == max(job["without"]["end_s"] for job in jobs)
    assert (plain["cost_usd"], plain["bursts"]) == (0, 0)


def test_jobs_of_a_burst_ran_on_its_nodes_after_they_were_ready(simulation_json: bytes) -> None:
    report = json.loads(simulation_json)
    jobs = {job["jobid"]: job for job in report["jobs"]}
    for burst in report["bursts"]:
        for jobid in burst["jobs"]:
            assert jobs[jobid]["burst"] == burst["burst"]
            assert jobs[jobid]["start_s"] >= burst["ready_s"]
            assert jobs[jobid]["end_s"] <= burst["ended_s"]
    rented = {jobid for burst in report["bursts"] for jobid in burst["jobs"]}
    assert {jobid for jobid, job in jobs.items() if job["burst"]} == rented


def test_mean_hops_are_told_where_the_topology_is_known(simulation_json: bytes) -> None:
    jobs = {job["name"]: job for job in json.loads(simulation_json)["jobs"]}
    assert jobs["osu"]["burst"] == ""
    assert jobs["osu"]["mean_hops"] > 0
    assert jobs["hero"]["mean_hops"] is None  # rented nodes have no place yet
    assert jobs["postproc"]["mean_hops"] is None or "[" in jobs["postproc"]["nodes"]


def test_hosts_of_which_ec2_says_nothing_have_no_hops(tmp_path: Path, capsys: Capture) -> None:
    for file in EXAMPLE.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "describe-instance-topology.json").write_text('{"Instances": []}')
    jobs = document(capsys, "simulate", str(tmp_path / EXAMPLE.name))["jobs"]
    assert {job["mean_hops"] for job in jobs} == {None}


# -- for people -----------------------------------------------------------------------------------


def test_simulate_shows_jobs_that_may_burst_and_counts_the_others(capsys: Capture) -> None:
    assert main(["simulate", str(EXAMPLE)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "burst-queue: 16 nodes, 128 cores, 4 jobs running, 19 in the queue"
    assert any("hero" in line and "$422.94" in line for line in lines)
    assert not any(line.startswith("   0s  quick") for line in lines)
    assert "11 more were weighed but may not burst; --json has them too" in lines
    assert any(line.split() == ["without", "bursting", "with", "bursting"] for line in lines)
    assert max(map(len, lines)) <= 118


def test_plan_shows_every_job_that_was_weighed_and_the_bursts(capsys: Capture) -> None:
    assert main(["plan", str(EXAMPLE)]) == 0
    out = capsys.readouterr().out
    assert any(line.startswith("quick") for line in out.splitlines())
    assert any(line.startswith("burst-0") and "hero" in line for line in out.splitlines())


def test_row_of_a_deferred_job_shows_what_it_would_have_taken(capsys: Capture) -> None:
    assert main(["plan", str(EXAMPLE)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("osu"))
    assert "hpc6id.32xlarge" in row
    assert "$145.16" in row


def on_a_terminal(columns: int, *argv: str) -> list[str]:
    """The lines that a command leaves on a terminal of that width, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    env.pop("COLUMNS", None)
    with subprocess.Popen([COMMAND, *argv], stdout=theirs, stderr=theirs, env=env) as running:
        os.close(theirs)
        printed = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while chunk := os.read(ours, 65536):
                printed += chunk
        os.close(ours)
    assert running.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode()).replace("\r", "").split("\n")


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_reasons_can_be_read_on_a_terminal_of_that_width(columns: int) -> None:
    lines = on_a_terminal(columns, "plan", str(EXAMPLE))
    assert max(map(len, lines)) <= columns
    at = next(i for i, line in enumerate(lines) if line.startswith("osu"))
    start = lines[0].index("reason")
    following = [line[start : start + 60] for line in lines[at : at + 3]]
    assert "budget" in " ".join(following)
    assert "…" not in "".join(following)


def test_progress_is_shown_on_a_terminal_and_gone_at_the_end() -> None:
    lines = on_a_terminal(120, "simulate", str(EXAMPLE))
    assert any("with bursting" in line and "%" in line for line in lines)
    assert lines[-3].split() == ["jobs", "finished", "19", "19"] or "jobs finished" in lines[-2]


@pytest.mark.parametrize("wanted", ["hero", "ƒvYw4PR", "fvYw4PR", "35148267520"])
def test_explain_shows_all_that_was_weighed_by_id_or_name(
    tmp_path: Path, capsys: Capture, wanted: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(document(capsys, "plan", str(EXAMPLE))))
    assert main(["explain", wanted, "--plan", str(plan)]) == 0
    out = capsys.readouterr().out
    for words in ("hero ƒvYw4PR of root", "burst: 12 x", "here: in 2h", "Flux's own estimate"):
        assert words in out
    types = ("hpc7a.96xlarge", "hpc7a.12xlarge", "hpc6id.32xlarge", "c7i.4xlarge", "p5.48xlarge")
    for node_type in types:
        assert node_type in out
    assert out.count("chosen") == 1


def test_explain_reads_a_simulation_and_shows_each_verdict_in_turn(
    tmp_path: Path, capsys: Capture, simulation_json: bytes
) -> None:
    path = tmp_path / "simulation.json"
    path.write_bytes(simulation_json)
    assert main(["explain", "osu", "--plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.index("deferred: ") < out.index("stay after 1h06m: ")
    assert "nothing was weighed: it starts here soon enough" in out
    assert main(["explain", "quick", "--plan", str(path)]) == 0
    assert "nothing was weighed: the job may not burst" in capsys.readouterr().out


def decision(**changes: object) -> dict[str, Any]:
    return {
        "at_s": 0.0, "jobid": "ƒ2", "id": 1, "name": "one", "user": "alice", "burstable": True,
        "verdict": "impossible", "reason": "has no time limit", "submitted_s": 0.0,
        "start_here_s": None, "start_there_s": None, "flux_estimate_s": None, "chosen": None,
        "alternatives": [], **changes,
    }  # fmt: skip


def plan_of(*decisions: object, **changes: object) -> str:
    found = {"format": "flux-flex.plan", "version": 1, "decisions": list(decisions), **changes}
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "wanted", "words"),
    [
        ("not json", "x", ["plan.json: line 1", "not valid JSON"]),
        ("[]", "x", ["plan.json", "not a plan", "--json"]),
        ('{"format": "other"}', "x", ["not a plan"]),
        (plan_of(version=2), "x", ["plan.json: version", "reads version 1"]),
        (plan_of(decisions=7), "x", ["it is empty"]),
        (plan_of(decision()), "hero", ["'hero'", "it has decisions on: ƒ2"]),
        (plan_of(decision()), "ƒ3", ["'ƒ3'", "ƒ2"]),
        (plan_of(decision(), decision(id=2, jobid="ƒ3")), "one", ["2 jobs", "ƒ2, ƒ3"]),
        (plan_of({"id": 1, "name": "one"}), "one", ["plan.json: decisions", "not a decision"]),
        (plan_of(decision(at_s="now")), "one", ["not a decision"]),
        (plan_of(decision(alternatives=[3])), "one", ["not a decision"]),
    ],
)
def test_explain_refuses_what_it_cannot_explain(
    tmp_path: Path, capsys: Capture, text: str, wanted: str, words: list[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    assert main(["explain", wanted, "--plan", str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) <= 2
    for word in words:
        assert word in err


def test_explain_of_a_job_that_can_start_nowhere_says_never(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_of(decision()), encoding="utf-8")
    assert main(["explain", "one", "--plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert "here: never" in out
    assert "nothing was weighed: has no time limit" in out


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["simulate", "plan"])
def test_out_holds_one_minicluster_for_each_burst_and_nothing_else(
    tmp_path: Path, capsys: Capture, command: str
) -> None:
    out = tmp_path / "new" / "folder"
    bursts = document(capsys, command, str(EXAMPLE), "--out", str(out))["bursts"]
    assert sorted(path.name for path in out.iterdir()) == [f"burst-{i}.yaml" for i in range(7)]
    for burst in bursts:
        text = (out / f"{burst['burst']}.yaml").read_text(encoding="utf-8")
        manifest = yaml.safe_load(text)
        assert manifest["kind"] == "MiniCluster"
        assert manifest["apiVersion"] == "flux-framework.org/v1alpha2"
        assert manifest["spec"]["size"] == burst["nodes"]
    assert main([command, str(EXAMPLE), "--out", str(out)]) == 0
    assert f"{out}/burst-*.yaml (7)" in capsys.readouterr().out


def test_files_are_as_public_as_the_umask_says(tmp_path: Path, capsys: Capture) -> None:
    before = os.umask(0o027)
    try:
        assert main(["simulate", str(EXAMPLE), "--svg", str(tmp_path / "t.svg")]) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "t.svg").stat().st_mode & 0o777 == 0o640


def test_svg_is_well_formed_and_marks_rented_rows(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "timeline.svg"
    assert main(["simulate", str(EXAMPLE), "--svg", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    marked = [one for one in root.iter() if "rented" in one.get("class", "").split()]
    assert marked
    text = "".join(root.itertext())
    for words in ("hero", "burst-0", "hpc6id.32xlarge", "compute0"):
        assert words in text


def test_link_is_followed_and_stays_a_link(tmp_path: Path, capsys: Capture) -> None:
    real, link = tmp_path / "real.svg", tmp_path / "link.svg"
    real.write_text("old")
    link.symlink_to(real)
    assert main(["simulate", str(EXAMPLE), "--svg", str(link)]) == 0
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8").startswith("<")


# -- being stopped --------------------------------------------------------------------------------


def test_interrupted_replay_ends_with_130_and_writes_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flux_flex.simulate.replay._Replay._scheduling_point", interrupted)
    argv = ["simulate", str(EXAMPLE), "--out", str(tmp_path / "o"), "--svg", str(tmp_path / "s")]
    assert main(argv) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "flux-flex: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def interrupt_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """Ctrl-C in a call of ``os`` when it was made that often."""
    made: list[object] = []
    real: Callable[..., None] = getattr(os, name)

    def interrupted(*args: Any) -> None:
        made.append(args)
        if len(made) > calls:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(f"flux_flex.simulate.files.os.{name}", interrupted)


@pytest.mark.parametrize(
    ("call", "after"),
    [("mkdir", 0), ("mkdir", 1), ("fchmod", 0), ("fchmod", 3), ("replace", 0)],
)
def test_interrupted_writing_leaves_neither_files_nor_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, call, after)
        assert main(["plan", str(EXAMPLE), "--out", str(tmp_path / "a" / "b")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_interrupted_between_two_renames_leaves_only_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    assert main(["plan", str(EXAMPLE), "--out", str(whole)]) == 0
    some = tmp_path / "some"
    with monkeypatch.context() as patch:
        interrupt_after(patch, "replace", 3)
        assert main(["plan", str(EXAMPLE), "--out", str(some)]) == 130
    left = list(some.iterdir())
    assert len(left) == 3
    for path in left:
        assert path.read_text() == (whole / path.name).read_text()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_reader_that_leaves_early_is_no_error(options: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        argv = [COMMAND, "plan", str(EXAMPLE), *options]
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full: run it on Linux")
def test_output_that_is_full_is_told_and_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        argv = [COMMAND, "plan", str(EXAMPLE), "--json"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3
    assert "cannot print" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminal_without_the_letter_of_flux_gets_a_report_all_the_same(encoding: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    argv = [COMMAND, "plan", str(EXAMPLE)]
    told = subprocess.run(argv, env=env, capture_output=True, check=True)
    assert b"hero ?vYw4PR" in told.stdout
    printed = subprocess.run([*argv, "--json"], env=env, capture_output=True, check=True)
    assert json.loads(printed.stdout)["decisions"][0]["jobid"] == "ƒvYw4PR"


# -- hostile and odd queues -----------------------------------------------------------------------


def submissions(folder: Path, job_name: str, **more: object) -> Path:
    """A scenario of one node with one job of that name that runs and one that waits."""
    core = {"type": "core", "count": 1}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    system = {"duration": 36000, "job": {"name": job_name}, "burstable": 1}
    spec = {
        "version": 1,
        "resources": [{"type": "node", "count": 1, "exclusive": True, "with": [slot]}],
        "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": system},
    }
    (folder / "job.json").write_text(json.dumps(spec))
    resources = {
        "version": 1,
        "execution": {
            "R_lite": [{"rank": "0", "children": {"core": "0-3"}}], "nodelist": ["node0"],
            "starttime": 0, "expiration": 0,
        },
    }  # fmt: skip
    (folder / "R.json").write_text(json.dumps(resources))
    (folder / "list.yaml").write_text("[{jobspec: job.json, count: 2}]")
    node_type = {
        "name": "c7i.4xlarge", "cores": 8, "vcpus": 16, "gpus": 0, "memory_gib": 32,
        "network_gbps": 6.25, "price_per_hour_usd": 0.714,
    }  # fmt: skip
    scenario = {
        "system": {"R": "R.json"},
        "queue": {"submissions": "list.yaml"},
        "burst": {"providers": [{"name": "eks", "types": [node_type]}]},
        **more,
    }
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario))
    return folder / "scenario.yaml"


@pytest.mark.parametrize("name", ["\x1b[31mred\x07", "[bold]x[/bold]", "a\nb", "\ud800"])
def test_names_of_jobs_cannot_steer_the_terminal_or_break_a_report(
    tmp_path: Path, capsys: Capture, name: str
) -> None:
    path = submissions(tmp_path, name)
    svg = tmp_path / "t.svg"
    assert main(["simulate", str(path), "--svg", str(svg)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    shown = "".join(c if c.isprintable() else " " if c == "\n" else "?" for c in name)
    assert shown in out
    ET.fromstring(svg.read_text(encoding="utf-8"))
    assert document(capsys, "simulate", str(path))["jobs"][0]["name"] == name


def test_hostile_title_is_harmless(tmp_path: Path, capsys: Capture) -> None:
    path = submissions(tmp_path, "job", name="\x1b[2J[red]")
    assert main(["simulate", str(path)]) == 0
    assert capsys.readouterr().out.startswith("?[2J[red]: 1 nodes")


def test_queue_that_starts_at_once_says_that_nothing_was_weighed(
    tmp_path: Path, capsys: Capture
) -> None:
    path = submissions(tmp_path, "job")
    (tmp_path / "list.yaml").write_text("[{jobspec: job.json}]")
    assert main(["simulate", str(path)]) == 0
    assert "no job was weighed" in capsys.readouterr().out


def test_plan_without_a_job_that_may_burst_says_so(tmp_path: Path, capsys: Capture) -> None:
    path = submissions(tmp_path, "job")
    (tmp_path / "list.yaml").write_text("[{jobspec: job.json, at: 10}]")
    assert main(["plan", str(path)]) == 0
    assert capsys.readouterr().out == "no job in the queue may burst\n"


def test_plan_that_rents_nothing_says_so(tmp_path: Path, capsys: Capture) -> None:
    path = submissions(tmp_path, "job")
    (tmp_path / "list.yaml").write_text("[{jobspec: job.json}]")
    assert main(["plan", str(path), "--out", str(tmp_path / "o")]) == 3  # no minicluster
    capsys.readouterr()
    assert main(["plan", str(path)]) == 0
    assert "nothing to rent" in capsys.readouterr().out


def test_long_tables_are_cut_and_say_so(tmp_path: Path, capsys: Capture) -> None:
    burst = yaml.safe_load(submissions(tmp_path, "job").read_text())["burst"]
    path = submissions(tmp_path, "job", burst={**burst, "depth": 1000})
    (tmp_path / "list.yaml").write_text("[{jobspec: job.json, count: 71}]")
    assert main(["plan", str(path)]) == 0
    assert "… 11 more; --json has them all" in capsys.readouterr().out


def test_horizon_ends_the_report_with_jobs_unfinished(tmp_path: Path, capsys: Capture) -> None:
    path = submissions(tmp_path, "job", horizon="1h")
    report = document(capsys, "simulate", str(path))
    validator("simulation").validate(report)
    figures = report["summary"]["with"]
    assert (figures["jobs_finished"], figures["jobs_unfinished"]) == (0, 2)
    assert figures["cost_usd"] == pytest.approx(0.714)
    assert report["bursts"][0]["ended_s"] is None
    assert main(["simulate", str(path), "--svg", str(tmp_path / "t.svg")]) == 0
    assert "jobs not finished" in capsys.readouterr().out


def test_help_and_version_answer(capsys: Capture) -> None:
    for argv in (["--help"], ["--version"], ["simulate", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 0
        assert "flux-flex" in capsys.readouterr().out
