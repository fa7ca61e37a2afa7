"""A job's span: what its first rank shows and keeps, what it costs, and that it fails no job."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flux_flex.config import TopologyConfig
from flux_flex.errors import FlexError
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.jobid import f58, job_kvs_key
from flux_flex.topology import jobs
from flux_flex.topology.jobs import KEY, first_rank, record_span
from flux_flex.topology.site import KVS_KEY

RECORDED = Path(__file__).resolve().parents[2] / "examples" / "burst-queue"
JOBID = 0x2F2C0000_0002


def recorded() -> dict[str, Any]:
    parts = ("describe-instances", "describe-instance-topology")
    return {
        key: value
        for part in parts
        for key, value in json.loads((RECORDED / f"{part}.json").read_text()).items()
    }


def located(zones: Mapping[str, Sequence[str]], zone: str = "us-east-2b") -> dict[str, Any]:
    """The topology of hosts that are called by their instance ids, by their network nodes."""
    return {
        "Instances": [
            {"InstanceId": host, "InstanceType": "t3.micro", "AvailabilityZone": zone,
             "NetworkNodes": list(nodes)}
            for host, nodes in zones.items()
        ]
    }  # fmt: skip


def r_of(hosts: Sequence[str], ranks: str = "") -> dict[str, Any]:
    lite = [{"rank": ranks or f"0-{len(hosts) - 1}", "children": {"core": "0"}}]
    execution = {"R_lite": lite, "nodelist": list(hosts), "starttime": 0, "expiration": 0}
    return {"version": 1, "execution": execution}


class Broker(MemoryInstance):
    """An instance in memory that also says which of its ranks asks."""

    at_rank = 0

    def rank(self) -> int:
        return self.at_rank


@pytest.fixture
def told() -> Broker:
    """An instance that was told of the sixteen recorded hosts."""
    made = Broker({})
    made.kvs_put(KVS_KEY, recorded())
    return made


def run(instance: MemoryInstance, hosts: Sequence[str], ranks: str = "") -> None:
    instance.submit({"attributes": {}}, jobid=JOBID)
    instance.start(JOBID, r_of(hosts, ranks))


def config(file: Path | str = "/nonexistent") -> TopologyConfig:
    return TopologyConfig(file=str(file))


def memo(instance: MemoryInstance) -> object:
    return instance.jobs()[0].memo.get("flex.span")


def kept(instance: MemoryInstance) -> Any:
    return instance.kvs_get(job_kvs_key(JOBID, KEY))


# -- what is recorded ------------------------------------------------------------------------------


def test_the_memo_counts_network_nodes_layer_by_layer_and_hops(told: MemoryInstance) -> None:
    run(told, ["compute7", "compute15", "compute13"])
    record_span(told, JOBID, config())
    assert memo(told) == "nn1:1 nn2:1 nn3:2 4 hops"


def test_the_kvs_keeps_where_each_host_was(told: MemoryInstance) -> None:
    run(told, ["compute7", "compute13"])
    record_span(told, JOBID, config())
    assert set(kept(told)) == {"version", "hosts", "span", "unplaced"}
    assert kept(told)["version"] == 1
    assert kept(told)["span"] == {"layers": [1, 1, 2], "diameter": 4, "mean_hops": 4.0}
    assert kept(told)["unplaced"] == []
    assert kept(told)["hosts"]["compute7"] == {
        "network_nodes": ["nn-a4c123b1612dd272d", "nn-1371c17149d439536", "nn-fae923d5a4fd12aab"],
        "zone": "us-east-2b",
        "zone_id": "use2-az2",
        "region": "us-east-2",
        "instance_id": "i-0c3fc1626e53a1304",
        "instance_type": "hpc7a.12xlarge",
        "capacity_block": "",
    }


def test_hosts_without_a_known_place_are_counted_and_named(told: MemoryInstance) -> None:
    run(told, ["compute7", "laptop", "compute15", "desk"])
    record_span(told, JOBID, config())
    assert memo(told) == "nn1:1 nn2:1 nn3:1 2 hops 2 unplaced"
    assert kept(told)["unplaced"] == ["laptop", "desk"]


def test_a_job_of_which_no_host_is_known_has_no_span_but_says_so(told: MemoryInstance) -> None:
    run(told, ["laptop", "desk"])
    record_span(told, JOBID, config())
    assert memo(told) == "2 unplaced"
    assert kept(told) == {"version": 1, "hosts": {}, "span": None, "unplaced": ["laptop", "desk"]}


def test_zones_are_said_where_they_are_several_or_all_that_is_known() -> None:
    instance = Broker({})
    near = located({"i-1": [], "i-2": []})
    instance.kvs_put(KVS_KEY, near)
    run(instance, ["i-1", "i-2"])
    record_span(instance, JOBID, config())
    assert memo(instance) == "zones:1 2 hops"
    near["Instances"] += located({"i-3": ["nn-1"]}, "us-west-2a")["Instances"]
    instance.kvs_put(KVS_KEY, near)
    instance.submit({"attributes": {}}, jobid=JOBID + 1)
    instance.start(JOBID + 1, r_of(["i-1", "i-3"]))
    record_span(instance, JOBID + 1, config())
    assert str(instance.jobs()[1].memo["flex.span"]).startswith("regions:2 zones:2 nn1:1 ")


def test_ranks_that_share_a_host_are_one_host(told: MemoryInstance) -> None:
    run(told, ["compute7", "compute7", "compute15"])
    record_span(told, JOBID, config())
    assert memo(told) == "nn1:1 nn2:1 nn3:1 2 hops"


def test_recording_twice_is_recording_once(told: MemoryInstance) -> None:
    run(told, ["compute7", "compute13"])
    record_span(told, JOBID, config())
    before = kept(told)
    record_span(told, JOBID, config())
    assert kept(told) == before


# -- what is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [["compute7"], ["compute7"] * 4])
def test_a_job_of_one_host_has_no_span(
    told: MemoryInstance, hosts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(told, hosts)
    record_span(told, JOBID, config())
    assert memo(told) is None
    with pytest.raises(FlexError):
        kept(told)
    assert caplog.messages == []


def test_where_the_site_knows_nothing_nothing_is_recorded_or_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    instance = Broker({})
    run(instance, ["compute7", "compute13"])
    record_span(instance, JOBID, config(tmp_path / "none.json"))
    assert memo(instance) is None
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[" * 100_000, "[]", '{"Instances": {}}', "\x1b[2J", '{"a": 1}',
        '{"Instances": [], "NextToken": "x"}',
        json.dumps(located({"compute7": ["$(reboot)"]})),
        json.dumps(located({"compute7": ["nn"] * 99})),
        # One network node below two others: each entry is well formed, the whole is no tree.
        json.dumps(located({"compute7": ["nn-a", "nn-x"], "compute13": ["nn-b", "nn-x"]})),
        json.dumps(located({"compute7": ["nn-a", "nn-a"], "compute13": ["nn-a"]})),
    ],
)  # fmt: skip
def test_a_hostile_topology_fails_no_job_and_is_a_printable_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    file = tmp_path / "topology.json"
    file.write_text(text)
    file.chmod(0o644)
    instance = Broker({})
    run(instance, ["compute7", "compute13"])
    with caplog.at_level(logging.INFO):
        record_span(instance, JOBID, config(file))
    (line,) = caplog.messages
    assert line.startswith(f"the span of job {f58(JOBID)} is not recorded: ")
    assert line.isprintable()
    assert len(line) < 600
    assert memo(instance) is None
    with pytest.raises(FlexError):
        kept(instance)


@pytest.mark.parametrize("method", ["allocation", "kvs_get", "kvs_put", "memo"])
@pytest.mark.parametrize("error", [FlexError("no answer", "kvs"), OSError(5, "gone"), KeyError(1)])
def test_trouble_with_the_instance_fails_no_job(
    told: MemoryInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: Exception,
) -> None:
    run(told, ["compute7", "compute13"])

    def fail(*_: object) -> object:
        raise error

    monkeypatch.setattr(told, method, fail)
    record_span(told, JOBID, config())
    assert len(caplog.messages) == 1


def test_what_interrupts_a_prolog_is_not_held_up(
    told: MemoryInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(BaseException):
        """As the prolog's own."""

    def stop(*_: object) -> object:
        raise Stop

    run(told, ["compute7", "compute13"])
    monkeypatch.setattr(told, "memo", stop)
    with pytest.raises(Stop):
        record_span(told, JOBID, config())


# -- what it costs ---------------------------------------------------------------------------------

COST = """
import sys
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.topology.jobs import record_span
class Config: file = {file!r}; host_map = ""
instance = MemoryInstance({{}})
instance.submit({{}}, jobid=1)
lite = [{{"rank": {ranks!r}, "children": {{"core": "0"}}}}]
nodes = {{"R_lite": lite, "nodelist": {hosts!r}, "starttime": 0, "expiration": 0}}
instance.start(1, {{"version": 1, "execution": nodes}})
record_span(instance, 1, Config)
print(sorted({{"numpy", "pydantic", "yaml"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(("hosts", "knows", "paid"), [(1, True, False), (2, False, False),
                                                      (2, True, True)])  # fmt: skip
def test_numpy_is_imported_only_for_several_hosts_of_a_site_with_a_topology(
    tmp_path: Path, hosts: int, knows: bool, paid: bool
) -> None:
    file = tmp_path / "topology.json"
    if knows:
        file.write_text(json.dumps(located({"n0": ["nn-1"], "n1": ["nn-1"]})))
        file.chmod(0o644)
    names = [f"n{number}" for number in range(hosts)]
    ranks = ",".join(str(number) for number in range(hosts))
    code = COST.format(file=str(file), ranks=ranks, hosts=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("numpy" in done.stdout) is paid, done.stdout + done.stderr


def test_what_the_instance_was_told_is_read_once(
    told: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(told, ["compute7", "compute13"])
    read: list[str] = []
    get = told.kvs_get
    monkeypatch.setattr(told, "kvs_get", lambda key: read.append(key) or get(key))
    record_span(told, JOBID, config())
    assert read == [KVS_KEY]
    assert memo(told) == "nn1:1 nn2:1 nn3:2 4 hops"


def test_hosts_that_the_instance_was_told_by_a_map_have_a_place() -> None:
    instance = Broker({})
    hosts = {"first": "i-1", "second": "i-2"}
    document = {**located({"i-1": ["nn-1"], "i-2": ["nn-1"]}), "HostMap": hosts}
    instance.kvs_put(KVS_KEY, document)
    run(instance, ["first", "second"])
    record_span(instance, JOBID, config())
    assert memo(instance) == "nn1:1 2 hops"


# -- the program -----------------------------------------------------------------------------------


@pytest.fixture
def program(told: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The program's instance, on which a job of the ranks 2 and 3 runs."""
    (tmp_path / "flex.toml").write_text('[topology]\nfile = "/nonexistent"\n')
    (tmp_path / "flex.toml").chmod(0o644)
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(tmp_path / "flex.toml"))
    monkeypatch.setenv("FLUX_JOB_ID", f58(JOBID))
    monkeypatch.setattr(jobs, "FluxInstance", lambda: told)
    for name in ("setitimer", "signal", "pthread_sigmask"):  # this process is to live on
        monkeypatch.setattr(jobs.signal, name, lambda *_: None)
    monkeypatch.setattr(jobs.logging, "basicConfig", lambda **_: None)
    run(told, ["compute7", "compute13"], "2-3")
    return told


@pytest.mark.parametrize(("rank", "text"), [(2, "nn1:1 nn2:1 nn3:2 4 hops"), (3, None), (0, None)])
def test_only_the_first_rank_of_the_job_records(
    program: Broker, rank: int, text: str | None
) -> None:
    program.at_rank = rank
    assert jobs.main() == 0
    assert memo(program) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("FLUX_JOB_ID", value) for value in ("", "/nonexistent/x", "\x1b[2J", "ƒ0")),
        *(("FLUX_FLEX_CONFIG", value) for value in ("/nonexistent/x", "\x1b[2J", "ƒ0")),
    ],
)
def test_the_program_ends_well_whatever_its_environment(
    program: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
) -> None:
    program.at_rank = 2
    monkeypatch.setenv(name, value)
    assert jobs.main() == 0
    (line,) = caplog.messages
    assert line.isprintable()


def test_an_instance_that_does_not_answer_is_no_error(
    program: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> object:
        raise FlexError("no broker", "local:///run/flux")

    monkeypatch.setattr(jobs, "FluxInstance", gone)
    assert jobs.main() == 0
    assert "no broker" in caplog.text


HANGING = """
import ctypes, sys
from flux_flex.topology import jobs
jobs._MOST_S = 0.5
class Hanging:
    def __init__(self):
        ctypes.CDLL(None).sleep(300)
if "{how}" == "made up":
    jobs.FluxInstance = Hanging
sys.exit(jobs.main())
"""


def ignore_and_block() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})


@pytest.mark.parametrize("begin", [None, ignore_and_block])
@pytest.mark.parametrize("how", ["made up", pytest.param("real", marks=pytest.mark.flux)])
def test_an_instance_that_hangs_below_python_ends_the_program_in_time(
    how: str, begin: Callable[[], None] | None, tmp_path: Path
) -> None:
    if how == "real" and shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no library of its own to hang in")
    with socket.socket(socket.AF_UNIX) as broker:  # one that takes a call and never answers
        broker.bind(str(tmp_path / "local"))
        broker.listen()
        done = subprocess.run(
            [sys.executable, "-c", HANGING.format(how=how)], capture_output=True, text=True,
            timeout=60, preexec_fn=begin,
            env={**os.environ, "FLUX_URI": f"local://{tmp_path}/local", "FLUX_JOB_ID": f58(JOBID)},
        )  # fmt: skip
    assert done.returncode == -signal.SIGALRM, done.stdout + done.stderr


def test_the_first_rank_is_the_lowest_whatever_the_order_of_r() -> None:
    R = r_of(["a", "b", "c"])
    R["execution"]["R_lite"] = [
        {"rank": "7,9", "children": {"core": "0"}}, {"rank": "4", "children": {"core": "1"}},
    ]  # fmt: skip
    assert first_rank(R) == 4
