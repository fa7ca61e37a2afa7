"""FluxInstance against a scripted `flux` package, and against a real instance if there is one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import RpcError
from flux_flex.host.flux_instance import FluxInstance, enclosing_instance
from flux_flex.host.instance import Event, Instance, JobInfo, JobState

R = {
    "version": 1,
    "execution": {
        "R_lite": [{"rank": "0-1", "children": {"core": "0-3"}}],
        "nodelist": ["n[0-1]"],
        "starttime": 0,
        "expiration": 0,
    },
}
JOB = {"id": 7, "state": 16, "userid": 0, "urgency": 16, "priority": 16, "t_submit": 5.0}


class Future:
    """An answer, or an exception that is raised when it is waited for."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.waited: float | None = None

    def wait_for(self, timeout: float) -> Future:
        self.waited = timeout
        return self

    def get(self) -> Any:
        assert self.waited is not None, "waited without a deadline"
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class KVSDir:
    """What a directory of the KVS is read as."""


class FakeFlux:
    """The parts of the flux package that FluxInstance uses, with scripted answers."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any, int | None]] = []
        self.jobs: Any = []
        self.store: dict[str, Any] = {}
        self.refusal: Exception | None = None

    def rpc(self, topic: str, payload: Any = None, nodeid: int | None = None) -> Future:
        json.dumps(payload)
        self.asked.append((topic, payload, nodeid))
        if topic == "job-list.list":
            return Future(self.jobs if isinstance(self.jobs, OSError) else {"jobs": self.jobs})
        unknown = OSError(errno.ENOSYS, "Unknown service method")
        return Future(self.answers.get(topic, unknown))

    def connect(self, uri: str = "") -> FakeFlux:
        if uri == "local:///nowhere":
            raise FileNotFoundError(errno.ENOENT, "Unable to connect to Flux")
        return self

    def lookup(self, handle: Any, key: str, *, deadline_s: float) -> str:
        assert deadline_s > 0, "waited without a deadline"
        if self.refusal:
            raise self.refusal
        if key not in self.store:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        value = self.store[key]
        if isinstance(value, KVSDir):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        return value if isinstance(value, str) else json.dumps(value)

    def transaction(self, handle: Any) -> FakeFlux:
        return self

    def put(self, key: str, value: Any) -> None:
        self.store[key] = json.loads(json.dumps(value))

    def unlink(self, key: str) -> None:
        self.store.pop(key, None)

    def commit_async(self) -> Future:
        return Future(self.refusal)


@pytest.fixture
def flux(monkeypatch: pytest.MonkeyPatch) -> FakeFlux:
    fake = FakeFlux()
    modules = {name: types.ModuleType(name) for name in ("flux", "flux.kvs", "flux.job")}
    modules["flux"].__dict__.update(Flux=fake.connect)
    modules["flux.kvs"].__dict__.update(KVSTxn=fake.transaction)
    monkeypatch.setattr("flux_flex.host.flux_instance.lookup", fake.lookup)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.fixture
def instance(flux: FakeFlux) -> FluxInstance:
    return FluxInstance()


def test_it_is_an_instance(instance: FluxInstance) -> None:
    as_interface: Instance = instance
    assert as_interface.now() > 1_500_000_000


def test_missing_bindings_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flux", None)
    with pytest.raises(FlexError, match="Python bindings") as got:
        FluxInstance()
    assert got.value.remedy


def test_broker_that_is_not_there_is_told_with_its_address(flux: FakeFlux) -> None:
    with pytest.raises(RpcError, match="Unable to connect") as got:
        FluxInstance("local:///nowhere")
    assert got.value.where == "local:///nowhere"
    assert got.value.errno == errno.ENOENT
    assert "FLUX_URI" in got.value.remedy


def test_enclosing_instance_is_that_of_flux_uri_and_none_outside(
    flux: FakeFlux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLUX_URI", raising=False)
    assert enclosing_instance() is None
    monkeypatch.setenv("FLUX_URI", "local:///run/flux/local")
    assert isinstance(enclosing_instance(), FluxInstance)
    monkeypatch.setitem(sys.modules, "flux", None)
    assert enclosing_instance() is None


def test_rpc_passes_payload_and_rank_and_an_empty_answer_is_empty(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    flux.answers["a.b"] = None
    assert instance.rpc("a.b") == {}
    assert instance.rpc("a.b", {"x": 1}, nodeid=0) == {}
    assert flux.asked == [("a.b", None, None), ("a.b", {"x": 1}, 0)]


def test_refusal_keeps_its_errno_wherever_it_is_placed(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    with pytest.raises(RpcError, match="Unknown service method") as got:
        instance.rpc("no.such")
    assert (got.value.errno, got.value.where) == (errno.ENOSYS, "no.such")
    assert "flux module list" in got.value.remedy
    placed = got.value.at("here")
    assert (placed.errno, placed.where) == (errno.ENOSYS, "here: no.such")
    flux.answers["late"] = OSError(errno.ETIMEDOUT, None)
    with pytest.raises(RpcError, match="timed out"):
        instance.rpc("late")
    flux.answers["odd"] = OSError()
    with pytest.raises(RpcError) as odd:
        instance.rpc("odd")
    assert odd.value.errno == errno.EIO


@pytest.mark.parametrize("answer", [5, [], "x", ValueError("no JSON"), RecursionError("deep")])
def test_answer_that_is_no_object_is_refused(
    flux: FakeFlux, instance: FluxInstance, answer: Any
) -> None:
    flux.answers["a.b"] = answer
    with pytest.raises(FlexError) as got:
        instance.rpc("a.b")
    assert got.value.where == "a.b"


def test_payload_that_is_no_json_is_bad_input(instance: FluxInstance) -> None:
    with pytest.raises(BadInput, match="no JSON"):
        instance.rpc("a.b", {"x": object()})


def test_modules_are_those_of_the_lead_broker(flux: FakeFlux, instance: FluxInstance) -> None:
    flux.answers["module.list"] = {"mods": [{"name": "kvs"}, {"name": "sched-simple"}]}
    assert instance.modules() == {"kvs", "sched-simple"}
    assert flux.asked == [("module.list", None, 0)]


def test_resources_are_checked_before_they_are_believed(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    flux.answers["resource.status"] = {"R": R, "drain": {}}
    assert instance.resources() == R
    for bad in (None, 5, {}, {"version": 1}, {**R, "version": 2}):
        flux.answers["resource.status"] = {"R": bad}
        with pytest.raises(FlexError) as got:
            instance.resources()
        assert "resource.status" in got.value.where


def test_jobs_come_in_order_of_submission_without_those_that_cannot_start(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    flux.jobs = [
        {**JOB, "id": 3, "t_submit": 9.0, "state": 64, "t_run": 10.0, "t_inactive": 11.0},
        {**JOB, "id": 2, "t_submit": 5.0, "state": 8},
        {**JOB, "id": 1, "t_submit": 5.0, "state": 32, "t_run": 6.0},
        {**JOB, "id": 4, "state": 2},
        {**JOB, "id": 5, "state": 4},
    ]
    jobs = instance.jobs()
    assert [(job.jobid, job.state.value) for job in jobs] == [
        (1, "RUN"), (2, "SCHED"), (3, "INACTIVE"),
    ]  # fmt: skip
    assert (jobs[2].t_run, jobs[2].t_inactive, jobs[1].t_run) == (10.0, 11.0, None)
    assert [job.jobid for job in instance.jobs(JobState.RUN)] == [1]
    (_, asked, _) = flux.asked[-1]
    assert (asked["max_entries"], asked["constraint"]) == (0, {"states": [16 + 32]})
    assert "annotations" in asked["attrs"]


def test_job_shows_user_priority_and_memo_with_dotted_keys(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    memo = {"flex": {"topology": {"nn1": "a"}, "cost": 3, "none": {}}, "b": None}
    annotations = {"sched": {"x": 1}, "user": memo}
    flux.jobs = [{**JOB, "priority": 50_000, "annotations": annotations}]
    (job,) = instance.jobs()
    dotted = {"flex.topology.nn1": "a", "flex.cost": 3, "flex.none": {}, "b": None}
    assert job == JobInfo(7, JobState.RUN, "root", 16, 50_000, 5.0, memo=dotted)
    for stranger in (4_294_967_290, 1 << 80):
        flux.jobs = [{**JOB, "userid": stranger}]
        assert instance.jobs()[0].user == str(stranger)


@pytest.mark.parametrize(
    ("shown", "duration_s", "expires_s"),
    [
        ({"duration": 60.0, "expiration": 1.7e9}, 60.0, 1.7e9),
        ({"duration": 0.0, "expiration": 9223372036.0}, 0.0, None),
        ({"duration": 1e300, "expiration": 0.0}, None, None),
        ({"duration": 10**400, "expiration": float("inf")}, None, None),
        ({"duration": float("nan"), "expiration": float("nan")}, None, None),
        ({}, None, None),
    ],
)
def test_job_shows_its_time_limit_and_its_end_whatever_its_user_asked_for(
    flux: FakeFlux,
    instance: FluxInstance,
    shown: dict[str, Any],
    duration_s: float | None,
    expires_s: float | None,
) -> None:
    flux.jobs = [{**JOB, **shown}]
    (job,) = instance.jobs()
    assert (job.duration_s, job.expires_s) == (duration_s, expires_s)


def test_instance_without_jobs_has_none(flux: FakeFlux, instance: FluxInstance) -> None:
    assert instance.jobs() == []
    flux.jobs = OSError(errno.EPERM, "no")
    with pytest.raises(RpcError, match="no"):
        instance.jobs()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", None), ("id", "7"), ("state", "RUN"), ("state", True), ("userid", 1.5),
        ("t_submit", None), ("t_submit", float("nan")), ("t_submit", 10**30), ("t_run", "now"),
        ("urgency", []), ("duration", "1h"), ("expiration", []), ("annotations", 5),
        ("annotations", {"user": "x"}),
    ],
)  # fmt: skip
def test_listing_of_another_shape_is_refused(
    flux: FakeFlux, instance: FluxInstance, key: str, value: Any
) -> None:
    flux.jobs = [{**JOB, key: value}]
    with pytest.raises(FlexError) as got:
        instance.jobs()
    assert got.value.where.startswith("job-list.list")


def test_deep_memo_of_a_user_is_read_without_recursion(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    flux.jobs = [{**JOB, "annotations": {"user": deep}}]
    (key,) = instance.jobs()[0].memo
    assert key.count("a") == 5000


def test_jobspec_and_allocation_are_looked_up_decoded_and_current(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    flux.answers["job-info.lookup"] = {"id": 7, "jobspec": {"version": 1}, "R": R}
    assert instance.jobspec(7) == {"version": 1}
    assert instance.allocation(7) == R
    assert flux.asked[0][1] == {"id": 7, "keys": ["jobspec"], "flags": 3}
    for bad in ({}, {"jobspec": "x", "R": {"version": 1}}):
        flux.answers["job-info.lookup"] = bad
        for ask in (instance.jobspec, instance.allocation, instance.eventlog):
            with pytest.raises(FlexError, match=r"^job ƒ8"):
                ask(7)


def test_unknown_job_is_bad_input_with_its_name(flux: FakeFlux, instance: FluxInstance) -> None:
    flux.answers["job-info.lookup"] = OSError(errno.ENOENT, "R: key not found")
    with pytest.raises(BadInput, match="key not found") as got:
        instance.allocation(7)
    assert got.value.where == "job ƒ8"
    assert "once the job runs" in got.value.remedy
    flux.answers["job-info.lookup"] = OSError(errno.EPERM, "no")
    with pytest.raises(RpcError, match="job ƒ8: job-info"):
        instance.jobspec(7)
    with pytest.raises(BadInput):
        instance.jobspec(-1)


def test_eventlog_is_read_line_by_line(flux: FakeFlux, instance: FluxInstance) -> None:
    lines = [
        '{"timestamp":1.5,"name":"submit","context":{"urgency":16}}',
        '{"timestamp":2,"name":"x"}',
    ]
    flux.answers["job-info.lookup"] = {"eventlog": "\n".join(lines) + "\n"}
    assert instance.eventlog(7) == (Event(1.5, "submit", {"urgency": 16}), Event(2.0, "x"))
    for bad in ("{", "[]", '{"name":"x"}', '{"timestamp":1}', "[" * 100_000):
        flux.answers["job-info.lookup"] = {"eventlog": bad}
        with pytest.raises(FlexError, match="eventlog"):
            instance.eventlog(7)


def test_memo_nests_dotted_keys(flux: FakeFlux, instance: FluxInstance) -> None:
    flux.answers["job-manager.memo"] = None
    instance.memo(7, {"flex.topology": "x", "flex.cost": None, "b": 1})
    payload = {"flex": {"topology": "x", "cost": None}, "b": 1}
    assert flux.asked[-1][1] == {"id": 7, "memo": payload, "volatile": False}
    for clash in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a..b": 1}, {"": 1}):
        with pytest.raises(BadInput):
            instance.memo(7, clash)
    flux.answers["job-manager.memo"] = OSError(errno.ENOENT, "unknown job id")
    with pytest.raises(BadInput, match="unknown job id"):
        instance.memo(7, {"a": 1})


def test_kvs_keys_are_set_read_and_removed(flux: FakeFlux, instance: FluxInstance) -> None:
    instance.kvs_put("a.b", {"x": [1]})
    assert instance.kvs_get("a.b") == {"x": [1]}
    instance.kvs_put("a.b", None)
    with pytest.raises(BadInput, match="No such file"):
        instance.kvs_get("a.b")
    flux.store["text"] = "no JSON"
    assert instance.kvs_get("text") == "no JSON"
    flux.store["dir"] = KVSDir()
    with pytest.raises(BadInput, match="directory"):
        instance.kvs_get("dir")
    for key in ("", ".", "a..b", ".a", "a."):
        with pytest.raises(BadInput, match="is no key"):
            instance.kvs_get(key)
        with pytest.raises(BadInput, match="is no key"):
            instance.kvs_put(key, 1)
    with pytest.raises(BadInput, match="no JSON"):
        instance.kvs_put("a", object())
    flux.refusal = OSError(errno.EPERM, "no")
    for ask in (lambda: instance.kvs_put("a", 1), lambda: instance.kvs_get("a")):
        with pytest.raises(RpcError):
            ask()


def test_drain_overwrites_the_reason_and_undrain_wants_a_drained_rank(
    flux: FakeFlux, instance: FluxInstance
) -> None:
    flux.answers.update({"resource.drain": None, "resource.undrain": None})
    instance.drain([3], "burst over")
    instance.undrain([3])
    assert flux.asked == [
        ("resource.drain", {"targets": "3", "reason": "burst over", "mode": "overwrite"}, 0),
        ("resource.undrain", {"targets": "3"}, 0),
    ]
    flux.answers["resource.drain"] = OSError(errno.EINVAL, "idset is out of range")
    with pytest.raises(BadInput, match="rank 77"):
        instance.drain([77], "x")
    flux.answers["resource.undrain"] = OSError(errno.EEXIST, "rank 1 not drained")
    with pytest.raises(BadInput, match="not drained"):
        instance.undrain([1])


def test_drained_ranks_have_their_reasons(flux: FakeFlux, instance: FluxInstance) -> None:
    drain = {"2-3": {"timestamp": 1.0, "reason": "b"}, "0": {"timestamp": 1.0, "reason": None}}
    flux.answers["resource.status"] = {"drain": drain}
    assert list(instance.drained().items()) == [(0, ""), (2, "b"), (3, "b")]
    for bad in (None, {"0-": {}}, {"0": 5}, {"0": {"reason": 5}}):
        flux.answers["resource.status"] = {"drain": bad}
        with pytest.raises(FlexError):
            instance.drained()


# -- a real instance -------------------------------------------------------------------------------

# Runs inside the instance; prints one line of JSON.
CALLS = """
import json, sys, time
import flux, flux.job
from flux_flex.errors import FlexError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.instance import JobState

instance = FluxInstance()
seen = {"modules": sorted(instance.modules()), "no_jobs": len(instance.jobs())}

def refused(name, call, *args):
    try:
        call(*args)
    except FlexError as error:
        seen[name] = [type(error).__name__, str(error), getattr(error, "errno", 0)]

def submit(n, *more):
    spec = flux.job.JobspecV1.from_command(["true"], num_tasks=n, num_nodes=n, duration=60)
    spec.setattr("system.exec.test.run_duration", "100s")
    return int(flux.job.submit(flux.Flux(), spec))

handle = flux.Flux()
first, second, third = submit(2), submit(99), submit(4)
flux.job.event_wait(handle, first, "start")
flux.job.event_wait(handle, second, "clean", raiseJobException=False)
flux.job.event_wait(handle, third, "priority")
seen["ids"] = [first, second, third]

def states():
    return [(job.jobid, job.state.value) for job in instance.jobs()]

deadline = time.monotonic() + 20
while time.monotonic() < deadline:  # job-list hears of it a moment later
    if [state for _, state in states()] == ["RUN", "INACTIVE", "RUN"]:
        break
    time.sleep(0.05)
seen["states"] = states()
handle.rpc(
    "job-manager.update", {"id": first, "updates": {"attributes.system.duration": 7200.0}}
).get()
while time.monotonic() < deadline:
    updated = instance.jobs()[0]
    seen["limit"] = [updated.duration_s, updated.expires_s and updated.expires_s - updated.t_run]
    if updated.duration_s != 60:
        break
    time.sleep(0.05)
seen["running"] = [job.jobid for job in instance.jobs(JobState.RUN)]
seen["user"] = instance.jobs()[0].user
seen["resources"] = instance.resources()
seen["jobspec"] = instance.jobspec(first)
seen["allocation"] = instance.allocation(first)
seen["eventlog"] = [event.name for event in instance.eventlog(first)]
instance.memo(first, {"flex.topology": "nn1", "flex.cost": 2})
instance.memo(first, {"flex.cost": None})
while time.monotonic() < deadline:
    seen["memo"] = dict(instance.jobs()[0].memo)
    if seen["memo"]:
        break
    time.sleep(0.05)
instance.kvs_put("flex.a", {"x": 1})
seen["kvs"] = instance.kvs_get("flex.a")
refused("kvs_dir", instance.kvs_get, "flex")
instance.kvs_put("flex", None)
refused("kvs_gone", instance.kvs_get, "flex.a")
instance.drain([0], "first")
instance.drain([0], "second")
seen["drained"] = list(instance.drained().items())
instance.undrain([0])
seen["undrained"] = list(instance.drained().items())
refused("undrain", instance.undrain, [0])
refused("drain", instance.drain, [77], "x")
refused("no_R", instance.allocation, second)
refused("no_job", instance.jobspec, 5)
refused("no_memo", instance.memo, 5, {"a": 1})
refused("no_service", instance.rpc, "no.such")
# A version of the KVS that never comes.
version = {"rootseq": 1000000, "namespace": "primary"}
refused("late", FluxInstance(deadline_s=0.05).rpc, "kvs.wait-version", version)
print("SEEN " + json.dumps(seen))
"""


def in_real_flux(source: str, where: Path, *options: str, before: tuple[str, ...] = ()) -> Any:
    """Run a script inside a new instance; what it printed. Skips where there is no Flux."""
    if shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no real instance to talk to")
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    theirs = subprocess.run(
        ["flux", "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout.strip()  # fmt: skip
    if theirs != ours:
        pytest.skip(f"flux python is {theirs}, the tests run on {ours}")
    script = where / "calls.py"
    script.write_text(source)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *packages]),
    }
    done = subprocess.run(
        ["flux", "start", *options, *before, "flux", "python", str(script)],
        capture_output=True, text=True, timeout=120, env=env,
    )  # fmt: skip
    line = next((x for x in done.stdout.splitlines() if x.startswith("SEEN ")), None)
    assert line, done.stdout + done.stderr
    return json.loads(line[5:])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    confs = ("--conf=fake-resources.nnodes=4", "--conf=fake-resources.cores-per-node=4")
    found: Mapping[str, Any] = in_real_flux(CALLS, tmp_path_factory.mktemp("host"), *confs)
    return found


@pytest.mark.flux
def test_real_jobs_have_states_specs_allocations_and_eventlogs(seen: Mapping[str, Any]) -> None:
    first, second, third = seen["ids"]
    assert seen["no_jobs"] == 0
    assert seen["states"] == [[first, "RUN"], [second, "INACTIVE"], [third, "RUN"]]
    assert seen["running"] == [first, third]
    assert seen["jobspec"]["attributes"]["system"]["duration"] in (60, 7200)
    assert seen["limit"] == [7200.0, pytest.approx(7200.0, abs=5)]
    assert len(seen["allocation"]["execution"]["nodelist"]) == 1
    assert seen["eventlog"][:2] == ["submit", "validate"]
    assert "start" in seen["eventlog"]
    assert seen["memo"] == {"flex.topology": "nn1"}


@pytest.mark.flux
def test_real_instance_has_resources_modules_kvs_and_drained_ranks(seen: Mapping[str, Any]) -> None:
    assert {"kvs", "resource", "job-manager"} <= set(seen["modules"])
    (ranks,) = seen["resources"]["execution"]["R_lite"]
    assert ranks == {"rank": "0-3", "children": {"core": "0-3"}}
    assert seen["kvs"] == {"x": 1}
    assert seen["drained"] == [[0, "second"]]
    assert seen["undrained"] == []


@pytest.mark.flux
def test_real_refusals_are_bad_input_or_keep_their_errno(seen: Mapping[str, Any]) -> None:
    for name in ("kvs_dir", "kvs_gone", "undrain", "drain", "no_R", "no_job", "no_memo"):
        assert seen[name][0] == "BadInput", seen[name]
    assert (seen["no_service"][0], seen["no_service"][2]) == ("RpcError", errno.ENOSYS)
    assert (seen["late"][0], seen["late"][2]) == ("RpcError", errno.ETIMEDOUT)


@pytest.mark.flux
def test_real_scheduler_is_seen_from_every_rank(tmp_path: Path) -> None:
    source = (
        "import json\nfrom flux_flex.host.flux_instance import FluxInstance\n"
        "names = FluxInstance().modules()\n"
        "print('SEEN ' + json.dumps([n for n in names if n.startswith('sched')]))\n"
    )
    elsewhere = ("flux", "exec", "--rank=1")
    assert in_real_flux(source, tmp_path, "--test-size=2", before=elsewhere)
