"""Whatever is wrong with what the commands read: one or two lines, exit code 3, nothing written."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flux_flex.cli import main

F58_A, F58_B = "ƒ2", "ƒ3"


def slot_of_cores(count: object = 1) -> list[dict[str, Any]]:
    core = {"type": "core", "count": 1}
    return [{"type": "slot", "count": count, "label": "task", "with": [core]}]


def jobspec(resources: object = None, duration: object = 3600.0) -> dict[str, Any]:
    return {
        "version": 1,
        "resources": slot_of_cores(4) if resources is None else resources,
        "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": duration, "burstable": 1}},
    }


def r_of(ranks: str = "0-1", hosts: str = "node[0-1]") -> dict[str, Any]:
    return {
        "version": 1,
        "execution": {
            "R_lite": [{"rank": ranks, "children": {"core": "0-3"}}],
            "nodelist": [hosts],
            "starttime": 0,
            "expiration": 0,
        },
    }


def running(jobid: int, summary: str) -> dict[str, Any]:
    return {
        "id": jobid, "name": "old", "username": "alice", "state": "RUN", "priority": 16,
        "t_submit": 900.0, "t_run": 950.0, "runtime": 50.0, "expiration": 5000.0,
        "annotations": {"sched": {"resource_summary": summary}},
    }  # fmt: skip


def waiting(jobid: int) -> dict[str, Any]:
    return {
        "id": jobid, "name": "next", "username": "alice", "state": "SCHED", "priority": 16,
        "t_submit": 960.0,
    }  # fmt: skip


def node_type() -> dict[str, Any]:
    return {
        "name": "c7i.4xlarge", "cores": 8, "vcpus": 16, "gpus": 0, "memory_gib": 32,
        "network_gbps": 6.25, "price_per_hour_usd": 0.714,
    }  # fmt: skip


class World:
    """A scenario that works, as files; each test breaks one thing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out, self.svg = folder / "written" / "out", folder / "written" / "time.svg"
        self.scenario: dict[str, Any] = {
            "system": {"R": "R.json"},
            "queue": {"jobs": "jobs.json", "jobspecs": "jobspecs.jsonl"},
            "burst": {
                "threshold": "1m",
                "providers": [{"name": "eks", "boot": "6m", "types": [node_type()]}],
                "minicluster": {
                    "image": "example.org/flux:1",
                    "lead": {"address": "lead.example.org", "port": 8050, "name": "node0"},
                    "curve_secret": "curve",
                },
            },
        }
        self.R = r_of()
        self.jobs = [running(1, "rank[0-1]/core[0-3]"), waiting(2)]
        self.jobspecs: list[dict[str, Any]] = [{"id": F58_B, "jobspec": jobspec()}]

    @property
    def provider(self) -> dict[str, Any]:
        found: dict[str, Any] = self.scenario["burst"]["providers"][0]
        return found

    def save(self) -> Path:
        lines = "".join(json.dumps(item) + "\n" for item in self.jobspecs)
        self.put("jobspecs.jsonl", lines)
        self.put("jobs.json", json.dumps({"jobs": self.jobs}))
        self.put("R.json", json.dumps(self.R))
        return self.put("scenario.yaml", yaml.safe_dump(self.scenario))

    def put(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], *words: str) -> str:
    """Run a command that has to refuse its input; return what it said."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert (code, out) == (3, ""), err
    assert err.startswith("flux-flex: ")
    assert 1 <= len(err.splitlines()) <= 2
    assert "Traceback" not in err
    assert "internal" not in err
    for word in words:
        assert word in err
    return err


def refuses_scenario(
    world: World, capsys: pytest.CaptureFixture[str], path: Path, *words: str
) -> None:
    """Neither simulate nor plan takes the scenario, and neither leaves a file behind."""
    before = sorted(world.folder.rglob("*"))
    out = ["--out", str(world.out)]
    refused(capsys, ["simulate", str(path), *out, "--svg", str(world.svg)], *words)
    refused(capsys, ["plan", str(path), *out, "--json"], *words)
    assert sorted(world.folder.rglob("*")) == before


def test_the_scenario_that_the_tests_break_works(world: World) -> None:
    argv = ["simulate", str(world.save()), "--out", str(world.out), "--svg", str(world.svg)]
    assert main(argv) == 0
    assert world.svg.exists()
    assert [path.name for path in world.out.iterdir()] == ["burst-0.yaml"]


def test_missing_scenario_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.folder / "nowhere.yaml"
    refuses_scenario(world, capsys, path, "nowhere.yaml", "no such file")


@pytest.mark.parametrize("name", ["R.json", "jobs.json", "jobspecs.jsonl"])
def test_missing_file_of_a_scenario_is_named(
    world: World, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = world.save()
    (world.folder / name).unlink()
    refuses_scenario(world, capsys, path, name, "no such file")


@pytest.mark.parametrize("name", ["scenario.yaml", "R.json", "jobs.json", "jobspecs.jsonl"])
def test_directory_instead_of_a_file_is_named(
    world: World, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = world.save()
    (world.folder / name).unlink()
    (world.folder / name).mkdir()
    refuses_scenario(world, capsys, path, name, "cannot be read")


@pytest.mark.parametrize("name", ["scenario.yaml", "R.json", "jobs.json", "jobspecs.jsonl"])
def test_file_that_is_not_utf8_is_named_with_the_byte(
    world: World, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = world.save()
    (world.folder / name).write_bytes(b"{\xff}")
    refuses_scenario(world, capsys, path, name, "UTF-8 at byte 1")


def test_path_with_a_null_character_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.scenario["system"]["R"] = "R\0.json"
    refuses_scenario(world, capsys, world.save(), "R?.json", "not a path")


def test_broken_yaml_is_placed_by_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.put("scenario.yaml", "name: x\nburst: [\n")
    refuses_scenario(world, capsys, path, "scenario.yaml: line 3")


@pytest.mark.parametrize("name", ["R.json", "jobs.json"])
def test_broken_json_is_placed_by_line_and_column(
    world: World, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = world.save()
    world.put(name, '{\n"version": }')
    refuses_scenario(world, capsys, path, f"{name}: line 2, column 12", "not valid JSON")


def test_json_nested_without_end_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.save()
    world.put("R.json", "[" * 200_000)
    refuses_scenario(world, capsys, path, "R.json", "not JSON that can be read")


def test_broken_line_of_jobspecs_is_placed_by_number(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.save()
    world.put("jobspecs.jsonl", '\n{"id": \n')
    refuses_scenario(world, capsys, path, "jobspecs.jsonl: line 2", "not valid JSON")


def test_line_of_jobspecs_without_id_is_placed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.jobspecs = [{"jobspec": jobspec()}]
    refuses_scenario(world, capsys, world.save(), "jobspecs.jsonl: line 1", "no id")


@pytest.mark.parametrize(
    ("misspell", "place", "nearest"),
    [
        (lambda s: s.update(match_polcy="low"), "match_polcy", "match_policy"),
        (lambda s: s["queue"].update(polcy="easy"), "queue.polcy", "policy"),
        (lambda s: s["burst"].update(treshold="1m"), "burst.treshold", "threshold"),
        (lambda s: s["burst"].update(limits={"nodse": 1}), "burst.limits.nodse", "nodes"),
        (
            lambda s: s["burst"]["providers"][0].update(bot="1m"),
            "burst.providers[0].bot",
            "boot",
        ),
        (
            lambda s: s["burst"]["minicluster"].update(curv_secret="x"),
            "burst.minicluster.curv_secret",
            "curve_secret",
        ),
    ],
)
def test_misspelt_key_is_answered_with_the_nearest(
    world: World, capsys: pytest.CaptureFixture[str], misspell: Any, place: str, nearest: str
) -> None:
    misspell(world.scenario)
    refuses_scenario(world, capsys, world.save(), f"scenario.yaml: {place}", f"{nearest!r}")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({**jobspec(), "resources": []}, ["resources", "without resources"]),
        ({k: v for k, v in jobspec().items() if k != "resources"}, ["without resources"]),
        (jobspec(slot_of_cores(-1)), ["resources[0].count", "1 or more"]),
        (
            jobspec([{"type": "node", "count": 10**6, "with": slot_of_cores()}]),
            ["1000000 nodes"],
        ),
        (jobspec(duration=float("nan")), ["attributes.system.duration", "nan"]),
        (jobspec(duration="1h"), ["attributes.system.duration"]),
        ("no jobspec", ["not a mapping"]),
    ],
)
def test_jobspec_that_cannot_be_is_placed_by_file_and_key(
    world: World, capsys: pytest.CaptureFixture[str], spec: Any, words: list[str]
) -> None:
    world.jobspecs = [{"id": F58_B, "jobspec": spec}]
    refuses_scenario(world, capsys, world.save(), "jobspecs.jsonl: line 1", F58_B, *words)

    graph, file = world.folder / "R.json", world.put("job.json", json.dumps(spec))
    refused(capsys, ["match", str(file), "--graph", str(graph)], "job.json", *words)

    world.scenario["queue"] = {"submissions": "list.yaml"}
    world.put("list.yaml", json.dumps([{"jobspec": "job.json"}]))
    refuses_scenario(world, capsys, world.save(), "job.json", *words)


def test_jobspec_within_submissions_is_placed_by_entry(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.scenario["queue"] = {"submissions": "list.yaml"}
    entries = [{"jobspec": jobspec()}, {"jobspec": jobspec(slot_of_cores(0))}]
    world.put("list.yaml", yaml.safe_dump(entries))
    place = "list.yaml: submissions[1].jobspec: resources[0].count"
    refuses_scenario(world, capsys, world.save(), place)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", ["not a list of submissions"]),
        ("a: b", ["not a list of submissions"]),
        ("- {jobspec: {version: 3}}", ["submissions[0].jobspec: version"]),
        ("- {jobspce: x}", ["submissions[0].jobspce", "'jobspec'"]),
        ("- {jobspec: gone.yaml}", ["gone.yaml", "no such file"]),
        ("- {jobspec: j, urgency: 0}", ["submissions[0].urgency", "1 to 31"]),
        ("- {jobspec: j, at: -1}", ["submissions[0].at"]),
        ("- {jobspec: j, runtime: .nan}", ["submissions[0].runtime"]),
        ("- {jobspec: j, count: 1000000}\n- {jobspec: j}", ["too many jobs"]),
    ],
)
def test_bad_submission_is_placed(
    world: World, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    world.scenario["queue"] = {"submissions": "list.yaml"}
    world.put("j", json.dumps(jobspec()))
    file = world.put("list.yaml", text)
    named = "gone.yaml" if "gone" in text else file.name
    refuses_scenario(world, capsys, world.save(), named, *words)


def jgf(edges: list[tuple[str, str]]) -> dict[str, Any]:
    kinds = {"0": "cluster", "1": "node", "2": "core", "3": "core"}
    return {
        "graph": {
            "nodes": [
                {"id": i, "metadata": {"type": kind, "name": f"{kind}{i}"}}
                for i, kind in kinds.items()
            ],
            "edges": [{"source": a, "target": b} for a, b in edges],
        }
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (jgf([("0", "1"), ("2", "3"), ("3", "2")]), ["graph.edges", "a cycle"]),
        (jgf([("0", "1"), ("1", "2"), ("2", "3"), ("3", "0")]), ["graph.edges", "a cycle"]),
        (jgf([("0", "1"), ("1", "2"), ("1", "9")]), ["graph.edges[2].target", "nowhere", "'9'"]),
        (jgf([("0", "1"), ("1", "2"), ("1", "2")]), ["graph.edges[2]", "'2'", "twice"]),
        (jgf([("0", "1"), ("1", "2"), ("2", "3"), ("3", "1")]), ["graph.edges", "a cycle"]),
        ({"graph": {"nodes": []}}, ["graph.nodes", "no vertices"]),
        ([], ["not a mapping"]),
    ],
)
def test_jgf_that_is_no_tree_is_placed_by_file_and_edge(
    world: World, capsys: pytest.CaptureFixture[str], document: Any, words: list[str]
) -> None:
    world.scenario["system"] = {"jgf": "graph.json"}
    graph = world.put("graph.json", json.dumps(document))
    refuses_scenario(world, capsys, world.save(), "graph.json", *words)
    job = world.put("job.json", json.dumps(jobspec()))
    refused(capsys, ["match", str(job), "--graph", str(graph)], "graph.json", *words)


def test_r_whose_ranks_and_hosts_disagree_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.R = r_of("0-1", "node[0-2]")
    path = world.save()
    refuses_scenario(world, capsys, path, "R.json: execution.nodelist", "2 ranks, 3 hosts")
    job, graph = world.put("job.json", json.dumps(jobspec())), world.folder / "R.json"
    refused(capsys, ["match", str(job), "--graph", str(graph)], "R.json", "2 ranks, 3 hosts")


def test_price_below_zero_is_placed_in_the_scenario(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.provider["types"][0]["price_per_hour_usd"] = -1
    place = "scenario.yaml: burst.providers[0].types[0].price_per_hour_usd"
    refuses_scenario(world, capsys, world.save(), place, "0 or more")


def test_price_below_zero_is_placed_in_the_catalog(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    del world.provider["types"]
    world.provider["catalog"] = "catalog.yaml"
    bad = {**node_type(), "price_per_hour_usd": -0.5}
    catalog = {
        "source": "x", "date": "2026-11-23", "region": "us-east-2", "currency": "USD",
        "types": [bad],
    }  # fmt: skip
    world.put("catalog.yaml", yaml.safe_dump(catalog))
    refuses_scenario(world, capsys, world.save(), "catalog.yaml: types[0].price_per_hour_usd")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"catalog": "c.yaml"}, ["providers[0]", "both catalog and types"]),
        ({"catalog": 3}, ["providers[0].catalog", "not a path"]),
        ({"types": []}, ["providers[0].types"]),
        ({"boot": "soon"}, ["providers[0].boot", "'soon'"]),
    ],
)
def test_provider_that_cannot_be_read_is_placed(
    world: World, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: list[str]
) -> None:
    world.provider.update(change)
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: burst.", *words)


def test_unknown_type_in_the_limits_is_answered_with_the_known(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.scenario["burst"]["limits"] = {"types": ["c9.huge"]}
    words = ["scenario.yaml: burst", "limits.types", "'c9.huge'", "c7i.4xlarge"]
    refuses_scenario(world, capsys, world.save(), *words)


@pytest.mark.parametrize("name", ["R.json.gz", "jobs.json.gz", "jobspecs.jsonl.gz"])
@pytest.mark.parametrize("harm", ["truncated", "not gzip", "flipped"])
def test_harmed_gzip_is_named(
    world: World, capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    queue = world.scenario["queue"]
    plain = name.removesuffix(".gz")
    key = {"R.json": "R", "jobs.json": "jobs", "jobspecs.jsonl": "jobspecs"}[plain]
    (world.scenario["system"] if key == "R" else queue)[key] = name
    path = world.save()
    whole = gzip.compress((world.folder / plain).read_bytes())
    harmed = {
        "truncated": whole[:-12],
        "not gzip": b"plain text",
        "flipped": whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:],
    }
    (world.folder / name).write_bytes(harmed[harm])
    said = "ends too soon" if harm == "truncated" else "not gzip"
    refuses_scenario(world, capsys, path, name, said, "again")


def test_whole_gzip_is_read(world: World) -> None:
    world.scenario["system"]["R"] = "R.json.gz"
    path = world.save()
    packed = gzip.compress((world.folder / "R.json").read_bytes())
    (world.folder / "R.json.gz").write_bytes(packed)
    assert main(["plan", str(path)]) == 0


def test_waiting_job_without_jobspec_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.jobspecs = [{"id": "ƒ9", "jobspec": jobspec()}]
    refuses_scenario(world, capsys, world.save(), "jobspecs.jsonl", f"job {F58_B}")


def test_job_listed_twice_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.jobs.append(waiting(2))
    refuses_scenario(world, capsys, world.save(), "jobs.json", F58_B, "twice")


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ("rank7/core0", ["jobs.json: jobs[0]", "rank 7 is not in the system"]),
        ("rank0/core9", ["jobs.json: jobs[0]", "rank 0 has no core9"]),
        ("rank0/gpu0", ["jobs.json: jobs[0]", "rank 0 has no gpu0"]),
        ("all of it", ["jobs.json: jobs[0]"]),
    ],
)
def test_running_job_on_what_the_system_has_not_is_placed(
    world: World, capsys: pytest.CaptureFixture[str], summary: str, words: list[str]
) -> None:
    world.jobs[0] = running(1, summary)
    refuses_scenario(world, capsys, world.save(), *words)


def test_running_job_without_ranks_is_placed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    del world.jobs[0]["annotations"]
    refuses_scenario(world, capsys, world.save(), "jobs.json: jobs[0]", "without ranks")


def test_running_job_on_a_rank_that_the_system_has_not_is_placed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.jobs[0] = {**running(1, ""), "annotations": {}, "ranks": "0,7"}
    refuses_scenario(world, capsys, world.save(), "jobs.json: jobs[0]", "rank 7 is not in")


def test_two_running_jobs_on_one_core_are_both_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.jobs = [running(1, "rank0/core[0-1]"), running(3, "rank[0-1]/core[1-2]"), waiting(2)]
    words = ["jobs.json: rank 0", F58_A, "ƒ4", "core1"]
    refuses_scenario(world, capsys, world.save(), *words)


@pytest.mark.parametrize("key", ["t_submit", "t_run", "runtime", "expiration"])
@pytest.mark.parametrize("value", ["soon", float("nan"), 10**400, True])
def test_time_in_a_dump_that_is_no_number_is_placed(
    world: World, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    world.jobs[0][key] = value
    refuses_scenario(world, capsys, world.save(), f"jobs.json: jobs[0].{key}", "not a number")


@pytest.mark.parametrize("value", ["zzz!", -1, 1 << 64, None])
def test_jobid_in_a_dump_that_is_none_is_placed(
    world: World, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    world.jobs[1]["id"] = value
    refuses_scenario(world, capsys, world.save(), "jobs.json: jobs[1].id")


@pytest.mark.parametrize("document", [[], {"jobs": [1]}, {"jobs": None}])
def test_dump_without_a_list_of_jobs_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], document: object
) -> None:
    path = world.save()
    world.put("jobs.json", json.dumps(document))
    refuses_scenario(world, capsys, path, "jobs.json: jobs", "no list of jobs")


@pytest.mark.parametrize("jobs", [[], [{**waiting(2), "state": "INACTIVE"}]])
def test_queue_in_which_nothing_waits_is_no_error(
    jobs: list[dict[str, Any]], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.jobs = jobs
    path = world.save()
    assert main(["plan", str(path)]) == 0
    assert "no job in the queue may burst" in capsys.readouterr().out
    assert main(["simulate", str(path)]) == 0


@pytest.mark.parametrize(
    ("queue", "word"),
    [
        ({"jobs": "jobs.json"}, "give jobs and jobspecs"),
        ({"jobs": "jobs.json", "jobspecs": "x", "submissions": "y"}, "give jobs and jobspecs"),
        ({}, "give jobs and jobspecs"),
        ({"submissions": "list.yaml", "depth": 0}, "queue.depth"),
    ],
)
def test_queue_is_a_dump_or_a_list(
    world: World, capsys: pytest.CaptureFixture[str], queue: dict[str, Any], word: str
) -> None:
    world.scenario["queue"] = queue
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: queue", word)


def test_system_is_an_r_or_a_jgf(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.scenario["system"] = {"R": "R.json", "jgf": "x.json"}
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: system", "either R or jgf")


def test_moment_is_only_for_a_dump(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.scenario["queue"] = {"submissions": "list.yaml"}
    world.scenario["now"] = 5
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: now", "dump")


def test_topology_of_a_jgf_is_refused_with_the_key(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.scenario["system"] = {"jgf": "graph.json"}
    world.put("graph.json", json.dumps(jgf([("0", "1"), ("1", "2"), ("1", "3")])))
    world.scenario["topology"] = {"instances": "i.json", "topology": "t.json"}
    world.put("i.json", '{"Reservations": []}')
    world.put("t.json", '{"Instances": []}')
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: system.jgf", "topology")


@pytest.mark.parametrize(("harmed", "call"), [("i.json", "instances"), ("t.json", "topology")])
def test_ec2_answer_that_is_none_is_named(
    world: World, capsys: pytest.CaptureFixture[str], harmed: str, call: str
) -> None:
    world.scenario["topology"] = {"instances": "i.json", "topology": "t.json"}
    world.put("i.json", '{"Reservations": []}')
    world.put("t.json", '{"Instances": []}')
    world.put(harmed, "{}")
    refuses_scenario(world, capsys, world.save(), f"{harmed}: describe-", call, "missing")


def test_out_without_minicluster_is_refused_before_any_work(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del world.scenario["burst"]["minicluster"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("flux_flex.cli.simulate.replay", never)
    monkeypatch.setattr("flux_flex.cli.plan.decide", never)
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: burst.minicluster", "missing")


def test_minicluster_of_which_no_manifest_can_be_made_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.scenario["burst"]["minicluster"]["namespace"] = "Not A Namespace"
    refuses_scenario(world, capsys, world.save(), "scenario.yaml: burst.minicluster")


def test_file_where_a_folder_should_be_stops_all_output(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.save()
    world.out.parent.mkdir()
    world.out.write_text("a file")
    refuses_scenario(world, capsys, path, "out/burst-0.yaml", "cannot be written")


def test_unwritable_timeline_keeps_the_manifests_from_being_written(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.save()
    world.svg.mkdir(parents=True)
    argv = ["simulate", str(path), "--out", str(world.out), "--svg", str(world.svg)]
    refused(capsys, argv, "time.svg", "a directory")
    assert list(world.svg.parent.iterdir()) == [world.svg]


def test_timeline_never_replaces_a_device(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.save()
    os.mkfifo(world.folder / "pipe")
    refused(capsys, ["simulate", str(path), "--svg", str(world.folder / "pipe")], "not a file")
    assert (world.folder / "pipe").is_fifo()


def test_manifests_of_another_run_are_not_mixed_with_ours(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.save()
    world.out.mkdir(parents=True)
    stale = world.out / "burst-7.yaml"
    stale.write_text("of another run")
    refuses_scenario(world, capsys, path, str(stale), "another run", "remove it")
    stale.unlink()
    argv = ["plan", str(path), "--out", str(world.out)]
    assert main(argv) == main(argv) == 0  # our own may be replaced


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["COMMAND"]),
        (["burn"], ["burn", "simulate"]),
        (["simulate"], ["SCENARIO"]),
        (["simulate", "x", "--sgv", "y"], ["--sgv"]),
        (["match", "--graph", "y"], ["JOBSPEC"]),
        (["match", "x", "--graph", "y", "--format", "xml"], ["xml", "jgf"]),
        (["explain", "x"], ["--plan"]),
    ],
)
def test_wrong_words_end_with_3_and_a_hint(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (3, "")
    assert len(err.splitlines()) == 2
    assert "--help" in err
    for word in words:
        assert word in err


@pytest.mark.parametrize("argv", [["simulate", "gone.yaml"], ["match"], ["frobnicate"]])
def test_the_installed_command_itself_ends_with_3_and_no_traceback(
    tmp_path: Path, argv: list[str]
) -> None:
    command = Path(sys.executable).with_name("flux-flex")
    done = subprocess.run([command, *argv], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("flux-flex: ")
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_file_that_tries_to_steer_the_terminal_is_quoted_harmlessly(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.jobspecs = [{"id": "ƒ\x1b[2J", "jobspec": jobspec()}]
    err = refused(capsys, ["plan", str(world.save())], "jobspecs.jsonl: line 1")
    assert "\x1b" not in err


def test_error_of_ours_is_told_from_bad_input(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.save()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("line one\nline two")

    monkeypatch.setattr("flux_flex.cli.plan.decide", broken)
    assert main(["plan", str(path)]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert "ZeroDivisionError: line one line two" in err
    assert len(err.splitlines()) == 2
    monkeypatch.setenv("FLUX_FLEX_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["plan", str(path)])


def test_file_that_would_fill_the_memory_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.scenario["system"]["R"] = "R.json.gz"
    path = world.save()
    (world.folder / "R.json.gz").write_bytes(gzip.compress(b" " * (5 << 20)))
    monkeypatch.setattr("flux_flex.simulate.files.MAX_BYTES", 4 << 20)
    refuses_scenario(world, capsys, path, "R.json.gz", "more than 4 MiB")
