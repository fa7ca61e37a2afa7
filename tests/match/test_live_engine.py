"""Engine live: what is asked of a running instance, what its answers mean, and that asking is all.

The first half scripts the instance and always runs. The second half starts real ones, one under
fluxion and one under sched-simple, and needs `flux` on PATH.
"""

from __future__ import annotations

import copy
import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.host.flux_instance import RpcError
from flux_flex.match import live
from flux_flex.match.live import LiveFluxion, LiveFromR, LiveMatcher, open_live
from flux_flex.model.rv1 import ResourceSet, parse_r

T0 = 1_000_000.0
FLUXION = frozenset({"sched-fluxion-resource", "sched-fluxion-feasibility"})
SIMPLE = frozenset({"sched-simple"})

Answer = Mapping[str, Any] | FlexError | Callable[[Any], Mapping[str, Any]]


def r(ranks: str = "", cores: str = "0-3", *, gpus: str = "", expiration: float = 0.0) -> Any:
    """R of some ranks of hosts n0, n1, …; of nothing without ranks, as Flux writes it."""
    entries = []
    if ranks:
        children = {"core": cores, **({"gpu": gpus} if gpus else {})}
        entries = [{"rank": ranks, "children": children}]
    return {
        "version": 1,
        "execution": {
            "R_lite": entries,
            "nodelist": [f"n[{ranks}]" if ranks else ""],
            "starttime": 0.0,
            "expiration": expiration,
        },
    }


def standing(all_: Any = None, down: Any = None, allocated: Any = None) -> dict[str, Any]:
    return {"all": all_ or r("0-3"), "down": down or r(), "allocated": allocated or r()}


def matched(R: Any, at: Any = 1_000_000, status: str = "MATCHED") -> dict[str, Any]:
    text = R if isinstance(R, str) else json.dumps(R)
    return {"jobid": -1, "status": status, "overhead": 0.0, "R": text, "at": at}


def refused(number: int, what: str = "no") -> RpcError:
    return RpcError(what, "", "", number)


class Scripted:
    """An instance that answers from a script and notes what it was asked."""

    def __init__(self, modules: frozenset[str], answers: dict[str, Answer]) -> None:
        self.loaded = modules
        self.answers: dict[str, Answer] = {live.STATUS: standing(), **answers}
        self.asked: list[tuple[str, Any]] = []

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]:
        self.asked.append((topic, payload))
        answer = self.answers.get(topic, refused(errno.ENOSYS, "no such service"))
        if callable(answer):
            return answer(payload)
        if isinstance(answer, FlexError):
            raise answer
        return answer

    def modules(self) -> frozenset[str]:
        return self.loaded

    def now(self) -> float:
        return T0


def by_command(**answers: Answer) -> Callable[[Any], Mapping[str, Any]]:
    """Answers of sched-fluxion-resource.match by command."""

    def answer(payload: Any) -> Mapping[str, Any]:
        found = answers.get(payload["cmd"], refused(errno.EINVAL, "Invalid argument"))
        if isinstance(found, FlexError):
            raise found
        assert isinstance(found, Mapping)
        return found

    return answer


def nodes(n: int, cores: int = 4, duration: float = 60.0) -> dict[str, Any]:
    """A jobspec for n nodes with some cores in each."""
    core = {"type": "core", "count": cores}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    return {
        "version": 1,
        "resources": [{"type": "node", "count": n, "with": [slot]}],
        "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": duration}},
    }


def fluxion(match: Answer, feasible: Answer | None = None, **more: Answer) -> LiveMatcher:
    answers = {live.MATCH: match, live.FEASIBILITY: {} if feasible is None else feasible, **more}
    return open_live(Scripted(FLUXION, answers))


def simple(answers: dict[str, Answer] | None = None) -> LiveMatcher:
    return open_live(Scripted(SIMPLE, answers or {}))


def script(matcher: LiveMatcher) -> Scripted:
    instance = matcher._instance
    assert isinstance(instance, Scripted)
    return instance


# -- fluxion ---------------------------------------------------------------------------------------


def test_fluxion_is_asked_where_it_is_loaded() -> None:
    matcher = open_live(Scripted(FLUXION, {}))
    assert isinstance(matcher, LiveFluxion)
    assert matcher.note == ""
    assert matcher.graph.total("core") == 16


def test_allocate_asks_without_allocating_and_finds_the_vertices_of_the_answer() -> None:
    got = r("2-3", "1-2", expiration=1_000_060)
    matcher = fluxion(matched(got))
    match = matcher.allocate(nodes(2, cores=2))
    topic, payload = script(matcher).asked[-1]
    assert (topic, payload["cmd"], payload["jobid"]) == (live.MATCH, "without_allocating", -1)
    assert json.loads(payload["jobspec"]) == nodes(2, cores=2)
    assert match.hosts == ["n2", "n3"]
    assert match.vertices["/cluster0/n2/core1"] == (1, True)
    assert match.vertices["/cluster0/n2"] == (1, False)
    assert match.amount("core") == 4
    assert (match.at, match.duration_s, match.reserved, match.jobid) == (T0, 60.0, False, -1)
    assert match.to_r()["execution"]["R_lite"] == got["execution"]["R_lite"]  # type: ignore[index]


def test_gpus_are_found_too_and_the_job_keeps_the_callers_id() -> None:
    matcher = fluxion(
        matched(r("1", "0", gpus="1")), **{live.STATUS: standing(r("0-1", gpus="0-1"))}
    )
    match = matcher.allocate(nodes(1, cores=1), jobid=7)
    assert match.jobid == 7
    assert "/cluster0/n1/gpu1" in match.vertices
    assert match.amount("gpu") == 1


def test_job_without_a_limit_has_none_and_an_instance_that_ends_shortens_the_others() -> None:
    endless = matched(r("0", expiration=9_223_372_036))
    assert fluxion(endless).allocate(nodes(1, duration=0)).duration_s == 0
    cut = matched(r("0", expiration=1_000_030))
    assert fluxion(cut).allocate(nodes(1, duration=60)).duration_s == 30
    assert fluxion(matched(r("0"))).allocate(nodes(1, duration=60)).duration_s == 60


def test_busy_is_not_now_and_feasibility_tells_it_from_never() -> None:
    busy = refused(errno.EBUSY)
    with pytest.raises(Busy):
        fluxion(busy).allocate(nodes(1))
    with pytest.raises(Unsatisfiable):
        fluxion(busy, refused(errno.ENODEV, "Unsatisfiable request")).allocate(nodes(99))
    with pytest.raises(Unsatisfiable):
        fluxion(refused(errno.ENODEV)).allocate(nodes(99))


def test_reserve_is_allocate_where_that_does_and_the_future_where_it_does_not() -> None:
    now = fluxion(by_command(without_allocating=matched(r("0"))))
    assert not now.reserve(nodes(1)).reserved
    later = fluxion(
        by_command(
            without_allocating=refused(errno.EBUSY),
            without_allocating_future=matched(r("0"), at=1_000_100),
        )
    )
    match = later.reserve(nodes(1))
    assert (match.reserved, match.at) == (True, 1_000_100.0)


def test_reserve_that_no_time_suits_is_busy_or_never() -> None:
    both = by_command(
        without_allocating=refused(errno.EBUSY), without_allocating_future=refused(errno.EBUSY)
    )
    with pytest.raises(Busy):
        fluxion(both).reserve(nodes(1))
    with pytest.raises(Unsatisfiable):
        fluxion(both, refused(errno.ENODEV)).reserve(nodes(1))


def test_older_fluxion_without_the_command_is_told_from_a_jobspec_that_it_cannot_read() -> None:
    only_now = by_command(without_allocating=refused(errno.EBUSY))
    with pytest.raises(FlexError, match="no match command without_allocating_future") as old:
        fluxion(only_now).reserve(nodes(1))
    assert "0.54" in old.value.remedy
    with pytest.raises(FlexError, match=r"no match command without_allocating\n"):
        fluxion(by_command()).allocate(nodes(1))
    unread = refused(errno.EINVAL, 'Internal match error: Missing key "tasks"')
    with pytest.raises(BadInput, match='Missing key "tasks"'):
        fluxion(by_command(), unread).allocate(nodes(1))
    with pytest.raises(Unsatisfiable):
        fluxion(by_command(), refused(errno.ENODEV)).allocate(nodes(1))


def test_satisfiable_asks_the_feasibility_service_and_else_the_matcher() -> None:
    matcher = fluxion({}, {})
    assert matcher.satisfiable(nodes(1))
    assert script(matcher).asked[-1] == (live.FEASIBILITY, {"jobspec": nodes(1)})
    assert not fluxion({}, refused(errno.ENODEV)).satisfiable(nodes(99))
    gone = refused(errno.ENOSYS)
    assert fluxion(by_command(satisfiability={}), gone).satisfiable(nodes(1))
    assert not fluxion(by_command(satisfiability=refused(errno.ENODEV)), gone).satisfiable(nodes(9))


@pytest.mark.parametrize("number", [errno.EPERM, errno.ETIMEDOUT, errno.EPROTO, errno.ENOSYS])
def test_other_refusals_come_through_as_they_are(number: int) -> None:
    error = refused(number)
    for ask in (
        lambda: fluxion(error).allocate(nodes(1)),
        lambda: fluxion(by_command(satisfiability=error), error).satisfiable(nodes(1)),
        lambda: fluxion({}, **{live.FIND: error}).find("status=up"),
        lambda: open_live(Scripted(FLUXION, {live.STATUS: error})),
        lambda: simple({live.JOBS: error}).reserve(nodes(1)),
    ):
        with pytest.raises(RpcError) as got:
            ask()
        assert got.value.errno == number


def test_fluxion_answers_for_now_only() -> None:
    matcher = fluxion(matched(r("0")))
    assert matcher.allocate(nodes(1), at=T0 + 0.9).at == T0
    for at in (T0 + 100, float("inf"), float("nan")):
        with pytest.raises(BadInput, match="answers for now"):
            matcher.allocate(nodes(1), at=at)
        with pytest.raises(BadInput, match="answers for now"):
            matcher.reserve(nodes(1), at=at)


def test_find_gives_resources_and_null_is_no_resources() -> None:
    matcher = fluxion({}, **{live.FIND: {"R": r("1-2")}})
    assert [item.rank for item in parse_r(matcher.find("status=up")).ranks] == [1, 2]
    assert script(matcher).asked[-1][1]["criteria"] == "status=up"
    assert fluxion({}, **{live.FIND: {"R": None}}).find("status=down") == ResourceSet(()).to_r()
    with pytest.raises(BadInput, match="blah"):
        fluxion({}, **{live.FIND: refused(errno.EINVAL)}).find("blah")


def test_node_that_joined_since_is_looked_up_once_more() -> None:
    matcher = fluxion(matched(r("4")))
    before = matcher.graph
    script(matcher).answers[live.STATUS] = standing(r("0-4"))
    match = matcher.allocate(nodes(1))
    assert match.hosts == ["n4"]
    assert len(matcher.graph) == len(before) + 5


def test_graph_stays_the_same_while_the_instance_does() -> None:
    matcher = fluxion({}, **{live.FIND: {"R": None}})
    before = matcher.graph
    matcher._standing()
    assert matcher.graph is before


HOSTILE_R = [
    r("9"), r("0", "9"), r("0", "0", gpus="0"), "", " \n", "{", "[" * 5000, "null x", "[]",
    '"R"', "12", json.dumps({"version": 2}), json.dumps(r("0")).replace("n[0]", "m[0]"),
    json.dumps(r("0")).replace('"0-3"', '"0-4294967290"'),
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE_R, ids=range(len(HOSTILE_R)))
def test_answer_that_names_what_is_not_there_is_refused(answer: Any) -> None:
    with pytest.raises(FlexError) as got:
        fluxion(matched(answer)).allocate(nodes(1))
    assert live.MATCH in got.value.where


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "ALLOCATED"), ("status", "RESERVED"), ("status", None), ("status", {"a": []}),
        ("R", None), ("R", 5), ("R", r("0")), ("at", None), ("at", "now"), ("at", -1),
        ("at", True), ("at", 1 << 70), ("at", 1.5),
    ],
)  # fmt: skip
def test_answer_of_another_shape_is_refused(key: str, value: Any) -> None:
    with pytest.raises(FlexError):
        fluxion({**matched(r("0")), key: value}).allocate(nodes(1))


def test_status_that_says_allocated_is_told_in_so_many_words() -> None:
    with pytest.raises(FlexError, match="'ALLOCATED' to a question that must not allocate"):
        fluxion(matched(r("0"), status="ALLOCATED")).allocate(nodes(1))


@pytest.mark.parametrize("modules", [FLUXION, SIMPLE])
@pytest.mark.parametrize(
    "answer",
    [{"all": 5}, {"all": r("0-3"), "down": "x"}, {"all": {"version": 1}}, {"all": r("0,0")}],
)
def test_standing_of_another_shape_is_refused(modules: frozenset[str], answer: Any) -> None:
    with pytest.raises(FlexError) as got:
        open_live(Scripted(modules, {live.STATUS: answer}))
    assert live.STATUS in got.value.where


@pytest.mark.parametrize("modules", [FLUXION, SIMPLE])
def test_instance_keeps_its_own_books(modules: frozenset[str]) -> None:
    matcher = open_live(Scripted(modules, {}))
    with pytest.raises(FlexError, match="gives and takes its resources itself") as got:
        matcher.cancel(5)
    assert (got.value.where, "flux cancel" in got.value.remedy) == ("job 5", True)
    with pytest.raises(FlexError, match="gives and takes its resources itself"):
        matcher.update(5, r("0"), 0, 0)


@pytest.mark.parametrize("modules", [FLUXION, SIMPLE])
def test_malformed_jobspec_is_refused_before_anything_is_asked(modules: frozenset[str]) -> None:
    matcher = open_live(Scripted(modules, {}))
    asked = len(script(matcher).asked)
    for bad in ("{]", {"version": 3}, "version: 1\nresources: []"):
        for question in (matcher.allocate, matcher.reserve, matcher.satisfiable):
            with pytest.raises(BadInput):
                question(bad)
    assert len(script(matcher).asked) == asked


def test_jobspec_that_is_no_json_is_refused_by_name() -> None:
    spec = nodes(1)
    spec["attributes"]["user"] = {"when": {1, 2}}
    with pytest.raises(BadInput, match="not JSON"):
        fluxion(matched(r("0"))).allocate(spec)


# -- sched-simple, and any other scheduler ---------------------------------------------------------


def running(*jobs: tuple[int, Any], state: int = 16) -> dict[str, Answer]:
    """What job-manager and job-info say of jobs that run."""
    allocations = dict(jobs)

    def lookup(payload: Any) -> Mapping[str, Any]:
        found = allocations[payload["id"]]
        if isinstance(found, FlexError):
            raise found
        return {"id": payload["id"], "R": found}

    listed = [{"id": jobid, "state": state} for jobid in allocations]
    return {live.JOBS: {"jobs": [{"id": 99, "state": 8}, *listed]}, live.LOOKUP: lookup}


def test_without_fluxion_the_answer_is_worked_out_and_says_so() -> None:
    matcher = simple()
    assert isinstance(matcher, LiveFromR)
    assert matcher.note == (
        "sched-simple answers no such questions: worked out from R and what is allocated"
    )
    other = open_live(Scripted(frozenset({"sched-mine"}), {}))
    assert other.note.startswith("the scheduler answers no such questions")


def test_idle_instance_matches_and_holds_nothing_afterwards() -> None:
    matcher = simple()
    for _ in range(3):
        match = matcher.allocate(nodes(4))
        assert match.hosts == ["n0", "n1", "n2", "n3"]
        assert (match.at, match.jobid, match.reserved) == (T0, -1, False)
    assert {topic for topic, _ in script(matcher).asked} == {live.STATUS}


def test_what_is_allocated_or_down_is_not_offered() -> None:
    matcher = simple({live.STATUS: standing(None, r("0"), r("2"))})
    assert matcher.allocate(nodes(2)).hosts == ["n1", "n3"]
    with pytest.raises(Busy):
        matcher.allocate(nodes(3))
    with pytest.raises(Unsatisfiable):
        matcher.allocate(nodes(5))
    assert matcher.satisfiable(nodes(4))
    assert not matcher.satisfiable(nodes(5))


def test_part_of_a_node_that_is_free_is_offered() -> None:
    matcher = simple({live.STATUS: standing(r("0"), None, r("0", "0-2"))})
    match = matcher.allocate(nodes(1, cores=1))
    assert set(match.vertices) == {"/cluster0/n0/core3", "/cluster0/n0", "/cluster0"}
    with pytest.raises(Busy):
        matcher.allocate(nodes(1, cores=2))


def test_reserve_waits_for_the_first_job_that_ends() -> None:
    jobs = running((1, r("0-1", expiration=T0 + 50)), (2, r("2-3", expiration=T0 + 20)))
    matcher = simple({live.STATUS: standing(None, None, r("0-3")), **jobs})
    match = matcher.reserve(nodes(2))
    assert (match.hosts, match.at, match.reserved) == (["n2", "n3"], T0 + 20, True)
    assert matcher.reserve(nodes(3)).at == T0 + 50
    assert matcher.allocate(nodes(2), at=T0 + 30).hosts == ["n2", "n3"]


def test_reserve_is_busy_behind_a_job_without_a_limit_and_behind_housekeeping() -> None:
    full = standing(None, None, r("0-3"))
    with pytest.raises(Busy):
        simple({live.STATUS: full, **running((1, r("0-3")))}).reserve(nodes(1))
    with pytest.raises(Busy):
        simple({live.STATUS: full, **running()}).reserve(nodes(1))


def test_job_beyond_its_end_goes_at_any_moment() -> None:
    jobs = running((1, r("0-3", expiration=T0 - 5)), state=32)
    match = simple({live.STATUS: standing(None, None, r("0-3")), **jobs}).reserve(nodes(1))
    assert (match.reserved, match.at) == (True, T0 + 1)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EPERM])
def test_job_that_cannot_be_looked_up_holds_without_an_end(number: int) -> None:
    jobs = running((1, refused(number)), (2, r("3", expiration=T0 + 9)))
    matcher = simple({live.STATUS: standing(None, None, r("0-3")), **jobs})
    assert matcher.reserve(nodes(1)).hosts == ["n3"]
    with pytest.raises(Busy):
        matcher.reserve(nodes(2))


def test_two_jobs_of_one_core_and_a_job_on_a_lost_node_do_not_stand_in_the_way() -> None:
    # Job 1 has released rank 0 to job 2, and job 3 runs on a rank that has been excluded since.
    jobs = running(
        (1, r("0-1", expiration=T0 + 10)),
        (2, r("0", expiration=T0 + 20)),
        (3, r("7", expiration=T0 + 30)),
    )
    matcher = simple({live.STATUS: standing(r("0-1"), r("7"), r("0-1,7")), **jobs})
    assert matcher.reserve(nodes(2)).at == T0 + 10
    with pytest.raises(Busy):
        matcher.allocate(nodes(1))


def test_graph_follows_the_instance() -> None:
    matcher = simple()
    assert not matcher.satisfiable(nodes(5))
    script(matcher).answers[live.STATUS] = standing(r("0-4"))
    assert matcher.satisfiable(nodes(5))
    assert matcher.allocate(nodes(5)).hosts[-1] == "n4"


def test_find_knows_criteria_without_fluxion() -> None:
    matcher = simple({live.STATUS: standing(None, r("0"), r("2")), **running((7, r("2")))})
    words = ("status=up", "status=down", "sched-now=allocated", "jobid-alloc=7", "names=n3")
    ranks = {word: [item.rank for item in parse_r(matcher.find(word)).ranks] for word in words}
    assert list(ranks.values()) == [[1, 2, 3], [0], [2], [2], [3]]
    with pytest.raises(BadInput, match="is no term") as got:
        matcher.find("status = up")
    assert "status=up" in got.value.remedy


def test_a_running_instance_keeps_its_books_and_its_graph() -> None:
    matcher = simple()
    for refused_call in (
        lambda: matcher.partial_cancel(1, r("0")),
        lambda: matcher.info(1),
        lambda: matcher.mark_path("/cluster0", up=False),
        lambda: matcher.mark_ranks("0", up=False),
        lambda: matcher.add_subgraph({}),
        lambda: matcher.remove_subgraph("/cluster0/n0"),
    ):
        with pytest.raises(FlexError, match="a running instance"):
            refused_call()


@pytest.mark.parametrize(
    "jobs",
    [None, 5, {}, [5], [{}], [{"id": 1}], [{"id": "1", "state": 16}], [{"id": 1, "state": "R"}]],
)
def test_listing_of_another_shape_is_refused(jobs: Any) -> None:
    with pytest.raises(FlexError) as got:
        simple({live.JOBS: {"jobs": jobs}}).reserve(nodes(1))
    assert live.JOBS in got.value.where


def test_allocation_of_another_shape_is_refused() -> None:
    broken = copy.deepcopy(r("0"))
    broken["execution"]["R_lite"] = 5
    with pytest.raises(FlexError) as got:
        simple(running((1, broken))).reserve(nodes(1))
    assert live.LOOKUP in got.value.where


# -- real instances --------------------------------------------------------------------------------

NNODES, CORES = 4, 4

# Runs inside the instance, under the Python that has Flux's bindings; prints one line of JSON.
QUESTIONS = """
import json, sys, time
import flux, flux.job
from flux_flex.errors import FlexError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.match.live import open_live
from flux_flex.model.rv1 import parse_r

nnodes = int(sys.argv[1])
instance = FluxInstance()
matcher = open_live(instance)
seen = {"note": matcher.note, "kind": type(matcher).__name__}

def say(name, question, *args, **more):
    try:
        got = question(*args, **more)
    except FlexError as error:
        seen[name] = type(error).__name__
    else:
        if hasattr(got, "hosts"):
            got = {"hosts": got.hosts, "cores": got.amount("core"), "at": got.at,
                   "duration": got.duration_s, "reserved": got.reserved, "R": got.to_r()}
        seen[name] = got

def allocated():
    return len(instance.rpc("resource.sched-status", nodeid=0)["allocated"]["execution"]["R_lite"])

def submit(spec, run_s):
    spec["attributes"]["system"]["exec"] = {"test": {"run_duration": f"{run_s}s"}}
    return flux.job.submit(flux.Flux(), json.dumps(spec))

def until(name, jobid):
    flux.job.event_wait(flux.Flux(), jobid, name, raiseJobException=False)

seen["now"] = time.time()
say("idle", matcher.allocate, nodes(2))
for i in range(5):
    say("idle_again", matcher.allocate, nodes(nnodes))
    say("idle_reserve", matcher.reserve, nodes(nnodes))
say("short", matcher.allocate, nodes(1, duration=0.5))
say("endless", matcher.allocate, nodes(1, duration=0))
say("impossible", matcher.allocate, nodes(99))
say("impossible_reserve", matcher.reserve, nodes(99))
say("impossible_satisfiable", matcher.satisfiable, nodes(99))
say("satisfiable", matcher.satisfiable, nodes(nnodes))
seen["allocated_by_asking"] = allocated()
say("found_allocated", lambda: len(parse_r(matcher.find("sched-now=allocated")).ranks))
say("found_up", lambda: len(parse_r(matcher.find("status=up")).ranks))
jobid = submit(nodes(nnodes, duration=500.0), 300)
until("alloc", jobid)
seen["expiration"] = instance.allocation(jobid)["execution"]["expiration"]
say("full", matcher.allocate, nodes(1, cores=1))
say("full_reserve", matcher.reserve, nodes(1, cores=1))
say("full_satisfiable", matcher.satisfiable, nodes(1, cores=1))
say("full_impossible", matcher.allocate, nodes(99))
say("full_found", lambda: len(parse_r(matcher.find("sched-now=allocated")).ranks))
flux.job.cancel(flux.Flux(), jobid)
until("clean", jobid)
instance.drain([0], "test")
deadline = time.monotonic() + 20
while time.monotonic() < deadline:  # the scheduler hears of it a moment later
    say("drained", matcher.allocate, nodes(nnodes - 1))
    say("drained_all", matcher.allocate, nodes(nnodes))
    if seen["drained_all"] == "Busy" and isinstance(seen["drained"], dict):
        break
    time.sleep(0.05)
say("drained_satisfiable", matcher.satisfiable, nodes(nnodes))
say("drained_down", lambda: [item.rank for item in parse_r(matcher.find("status=down")).ranks])
say("cancel", matcher.cancel, jobid)
print("SEEN " + json.dumps(seen))
"""


def flux_python_or_skip() -> str:
    """PYTHONPATH for `flux python` to have this package and what it needs; or skip."""
    if shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no running instance to ask")
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    flux = subprocess.run(
        ["flux", "python", "-c", ask], capture_output=True, text=True, timeout=60, check=True
    )
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if flux.stdout.strip() != ours:
        pytest.skip(f"flux python is {flux.stdout.strip()}, the tests run on {ours}")
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *(path for path in sys.path if path.endswith("site-packages"))])


@pytest.fixture(scope="module", params=["fluxion", "sched-simple"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a real instance of four fake nodes answered to QUESTIONS, and its scheduler."""
    path = flux_python_or_skip()
    script = tmp_path_factory.mktemp("live") / "questions.py"
    script.write_text(f"from typing import Any\n{inspect.getsource(nodes)}\n{QUESTIONS}")
    confs = {"fake-resources.nnodes": NNODES, "fake-resources.cores-per-node": CORES}
    if request.param == "sched-simple":
        confs["modules.alternatives.sched"] = "sched-simple"
    command = ["flux", "start", *(f"--conf={key}={value}" for key, value in confs.items())]
    done = subprocess.run(
        [*command, "flux", "python", str(script), str(NNODES)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    line = next((x for x in done.stdout.splitlines() if x.startswith("SEEN ")), None)
    assert line, done.stdout + done.stderr
    if request.param == "fluxion" and "LiveFluxion" not in line:
        pytest.skip("this Flux has no fluxion: install flux-sched")
    return {**json.loads(line[5:]), "scheduler": request.param}


@pytest.mark.flux
def test_real_scheduler_is_recognised(seen: Any) -> None:
    if seen["scheduler"] == "fluxion":
        assert (seen["kind"], seen["note"]) == ("LiveFluxion", "")
    else:
        assert (seen["kind"], seen["note"].split()[0]) == ("LiveFromR", "sched-simple")


@pytest.mark.flux
def test_real_idle_instance_matches(seen: Any) -> None:
    idle = seen["idle"]
    assert (len(idle["hosts"]), idle["cores"], idle["reserved"]) == (2, 2 * CORES, False)
    assert all(host.startswith("fake") for host in idle["hosts"])
    assert abs(idle["at"] - seen["now"]) < 10
    assert idle["duration"] == 60
    assert len(seen["idle_again"]["hosts"]) == NNODES
    assert not seen["idle_reserve"]["reserved"]
    assert seen["short"]["duration"] == 0.5
    assert seen["endless"]["duration"] == 0


@pytest.mark.flux
def test_real_instance_allocates_nothing_by_being_asked(seen: Any) -> None:
    assert seen["allocated_by_asking"] == 0
    assert seen["found_allocated"] == 0
    # And all of it could be given to a job afterwards.
    assert seen["full_found"] == NNODES
    assert seen["found_up"] == NNODES


@pytest.mark.flux
def test_real_full_instance_is_busy_until_its_job_ends(seen: Any) -> None:
    assert seen["full"] == "Busy"
    assert seen["full_satisfiable"] is True
    later = seen["full_reserve"]
    assert later["reserved"]
    assert abs(later["at"] - seen["expiration"]) < 2


@pytest.mark.flux
def test_real_impossible_request_is_unsatisfiable(seen: Any) -> None:
    assert seen["impossible"] == seen["impossible_reserve"] == "Unsatisfiable"
    assert seen["full_impossible"] == "Unsatisfiable"
    assert seen["impossible_satisfiable"] is False
    assert seen["satisfiable"] is True


@pytest.mark.flux
def test_real_drained_node_is_not_offered_and_not_impossible(seen: Any) -> None:
    assert seen["drained"]["hosts"] == ["fake1", "fake2", "fake3"]
    assert seen["drained_all"] == "Busy"
    assert seen["drained_satisfiable"] is True
    assert seen["drained_down"] == [0]


@pytest.mark.flux
def test_real_instance_keeps_its_own_books(seen: Any) -> None:
    assert seen["cancel"] == "FlexError"
