"""What runs where: states and jobs of hosts, as a scripted and as a real instance tell them."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import RpcError
from flux_flex.host.instance import JobInfo, JobState
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.network import NetworkPlace, NetworkTree, Span
from flux_flex.topology.standing import EMPTY, Standing, placed_job, standing_of


def r(ranks: str = "", cores: str = "0-3", nodelist: str = "") -> dict[str, Any]:
    """R of some ranks of hosts n0, n1, …; of nothing without ranks, as Flux writes it."""
    lite = [{"rank": ranks, "children": {"core": cores}}] if ranks else []
    hosts = [nodelist or (f"n[{ranks}]" if ranks else "")]
    execution = {"R_lite": lite, "nodelist": hosts, "starttime": 0.0, "expiration": 0.0}
    return {"version": 1, "execution": execution}


class Telling(MemoryInstance):
    """An instance in memory that also says what is down, drained and allocated."""

    def __init__(
        self,
        known: Any,
        down: Any = None,
        allocated: Any = None,
        drain: Any = None,
    ) -> None:
        super().__init__(known)
        drained = {} if drain is None else drain
        self.answers: dict[str, Any] = {
            "resource.sched-status": {"all": known, "down": down, "allocated": allocated},
            "resource.status": {"R": known, "drain": drained, "online": "0-3"},
        }
        self.asked: list[JobState | None] = []

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]:
        answer: Mapping[str, object] = self.answers[topic]
        return answer

    def jobs(self, state: JobState | None = None) -> Sequence[JobInfo]:
        self.asked.append(state)
        return super().jobs(state)


class Refusing(Telling):
    """One that refuses to give R."""

    def __init__(self, refusal: FlexError) -> None:
        super().__init__(r("0-3"))
        self.refusal = refusal

    def allocation(self, jobid: int) -> Mapping[str, object]:
        raise self.refusal


def test_a_host_is_free_partly_or_allocated_drained_or_down() -> None:
    some = {"R_lite": [
        {"rank": "1", "children": {"core": "0-1"}}, {"rank": "2", "children": {"core": "0-3"}},
    ], "nodelist": ["n[1-2]"], "starttime": 0.0, "expiration": 0.0}  # fmt: skip
    instance = Telling(
        r("0-4"),
        down=r("3-4"),
        allocated={"version": 1, "execution": some},
        drain={"3": {"timestamp": 1.0, "reason": "bad"}},
    )
    assert standing_of(instance).states == {
        "n0": "free",
        "n1": "partly",
        "n2": "allocated",
        "n3": "drained",
        "n4": "down",
    }


def test_several_ranks_on_one_host_are_one_host() -> None:
    known = r("0-3", nodelist="a,a,b,b")
    told = Telling(known, down=r("0", nodelist="a"), allocated=r("1-2", nodelist="a,b"))
    assert standing_of(told).states == {"a": "allocated", "b": "partly"}


def test_jobs_that_run_are_on_their_hosts_and_only_they_are_asked_for() -> None:
    instance = Telling(r("0-3"), allocated=r("0-1"))
    one, two, three = (instance.submit({}) for _ in range(3))
    instance.start(one, r("0-1"))
    instance.start(two, r("1", cores="3"))
    instance.start(three, r("2"))
    instance.finish(three)
    instance.submit({})
    standing = standing_of(instance)
    assert standing.jobs == {"n0": (one,), "n1": (one, two)}
    assert standing.hosts_of(one) == ("n0", "n1")
    assert standing.hosts_of(three) == ()
    assert instance.asked == [JobState.RUN]


@pytest.mark.parametrize(
    "refusal", [BadInput("no such job"), RpcError("not yours", errno=errno.EPERM)]
)
def test_a_job_that_has_just_ended_or_is_not_ours_to_see_is_left_out(refusal: FlexError) -> None:
    instance = Refusing(refusal)
    instance.start(instance.submit({}), r("0"))
    assert standing_of(instance).jobs == {}


def test_a_broker_that_does_not_answer_is_no_job_that_has_ended() -> None:
    instance = Refusing(RpcError("timed out", errno=errno.ETIMEDOUT))
    instance.start(instance.submit({}), r("0"))
    with pytest.raises(FlexError, match="timed out"):
        standing_of(instance)


@pytest.mark.parametrize(
    ("topic", "answer", "where"),
    [
        ("resource.sched-status", {"all": 5}, "resource.sched-status: all"),
        ("resource.sched-status", {"all": {}, "down": None}, "resource.sched-status: all"),
        ("resource.status", {}, "resource.status: drain"),
        ("resource.status", {"drain": [3]}, "resource.status: drain"),
        ("resource.status", {"drain": {"x": {}}}, "resource.status: drain"),
    ],
)
def test_an_answer_of_another_shape_is_refused_with_its_place(
    topic: str, answer: Any, where: str
) -> None:
    instance = Telling(r("0-3"))
    instance.answers[topic] = answer
    with pytest.raises(FlexError) as got:
        standing_of(instance)
    assert got.value.where.startswith(where)


def test_an_instance_of_nothing_has_no_states() -> None:
    assert standing_of(Telling(None)) == EMPTY


# -- one job -------------------------------------------------------------------------------------


TREE = NetworkTree.from_places(
    [
        NetworkPlace(f"n{i}", ("top", f"leaf{i // 2}"), f"i-{i}", "c7i.large", "use2-az1")
        for i in range(4)
    ]
)
RUNNING = Standing(jobs={"x": (58,), "n3": (7, 58), "n0": (58,), "y": (9,)})


@pytest.mark.parametrize("text", ["58", "0x3a", "ƒ21", "f21"])
def test_a_job_is_found_by_any_spelling_with_its_hosts_in_the_order_of_the_tree(text: str) -> None:
    job = placed_job(TREE, RUNNING, text)
    assert (job.jobid, job.hosts, job.elsewhere) == (58, ("n0", "n3"), ("x",))
    assert job.span == Span(layers=(1, 2), diameter=4, mean_hops=4.0)


def test_a_job_may_have_no_host_in_the_tree() -> None:
    job = placed_job(TREE, RUNNING, "9")
    assert (job.hosts, job.elsewhere, job.span.diameter) == ((), ("y",), 0)


@pytest.mark.parametrize("text", ["1", "hello", "", "ƒ\x1b[31m", "9" * 10_000])
def test_a_job_that_does_not_run_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(BadInput) as got:
        placed_job(TREE, RUNNING, text)
    assert got.value.where == "--job"
    assert "flux jobs" in got.value.remedy
    assert len(str(got.value)) < 300


def test_without_an_instance_a_job_is_refused_because_nothing_knows_it() -> None:
    with pytest.raises(BadInput) as got:
        placed_job(TREE, EMPTY, "58")
    assert "instance" in got.value.remedy


# -- a real Flux ---------------------------------------------------------------------------------


QUESTIONS = """
import json, subprocess
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.topology.standing import standing_of
def flux(*words):
    return subprocess.run(["flux", *words], check=True, capture_output=True, text=True).stdout
def submit(*words):  # the nodes are fake, so running is pretended, too
    job = flux("submit", *words, "--setattr=system.exec.test.run_duration=60s", "true").strip()
    flux("job", "wait-event", "-t", "30", job, "start")
    return job
whole, part = submit("-N2", "--exclusive"), submit("-n1", "-c1")
idle = sorted({host for host, state in standing_of(FluxInstance()).states.items()
               if state == "free"})
flux("resource", "drain", idle[0], "bad")
standing = standing_of(FluxInstance())
flux("cancel", "--all")
print("SEEN " + json.dumps({"states": standing.states, "jobs": standing.jobs, "idle": idle,
    "ids": [int(flux("job", "id", job)) for job in (whole, part)]}))
"""


@pytest.mark.flux
def test_a_real_instance_tells_what_runs_where(tmp_path: Path) -> None:
    if shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no running instance to ask")
    ask = ["flux", "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    found = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True)
    if found.stdout.strip() != "{}.{}".format(*sys.version_info[:2]):
        pytest.skip(f"flux python is {found.stdout.strip()}, another than that of the tests")
    script = tmp_path / "questions.py"
    script.write_text(inspect.cleandoc(QUESTIONS))
    root = str(Path(__file__).parents[2])
    packages = [path for path in sys.path if path.endswith("site-packages")]
    confs = ["--conf=fake-resources.nnodes=4", "--conf=fake-resources.cores-per-node=4"]
    done = subprocess.run(
        ["flux", "start", *confs, "flux", "python", str(script)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *packages])},
    )  # fmt: skip
    line = next((one for one in done.stdout.splitlines() if one.startswith("SEEN ")), None)
    assert line, done.stdout + done.stderr
    seen = json.loads(line[5:])
    whole, part = seen["ids"]
    told = [(state, seen["jobs"].get(host)) for host, state in seen["states"].items()]
    busy = [("allocated", [whole]), ("allocated", [whole]), ("partly", [part])]
    assert sorted(told, key=str) == sorted([*busy, ("drained", None)], key=str)
