"""The controller in a real Flux: brokers join, jobs run on them, they go, whatever dies."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from burst_processes import eventually
from flux_site import EASY, HERE, MODULE, SIMPLE, Site, needs_module_python, opened

pytestmark = pytest.mark.flux

AS_A_MODULE = pytest.param("module", marks=needs_module_python())
NOTHING_TWICE = ["intend", "asked", "up", "leave", "release", "gone"]


def begin(site: Site, how: str) -> None:
    site.load() if how == "module" else site.serve()


@pytest.mark.parametrize(
    ("scheduler", "how"),
    [
        pytest.param(EASY, "serve", id="fluxion-serve"),
        pytest.param(SIMPLE, "module", id="simple-module", marks=needs_module_python()),
    ],
)
def test_jobs_that_wait_run_on_rented_nodes_which_go_when_they_idle(
    scheduler: str, how: str
) -> None:
    with opened(scheduler) as site:
        begin(site, how)
        there = site.submit("-N2", "--requires=small", "hostname")
        both = site.submit("-N2", "--requires=-host:burst-0-1", "hostname")
        for job in (there, both):
            site.flux("job", "wait-event", "--timeout=50", job, "clean")
        assert site.state(there) == site.state(both) == "COMPLETED"
        assert site.flux("jobs", "-no", "{nodelist}", there) == "burst-0-[0-1]"
        assert site.flux("jobs", "-no", "{nodelist}", both) == f"{HERE},burst-0-0"
        assert site.memo(there).startswith("burst: 2 x small, $0.72/h, ready in")
        site.wait_for("gone")
        assert site.nothing_is_left()
        assert site.events() == NOTHING_TWICE
        assert site.started() == 2
        if how == "module":
            site.unload()
            assert "flex-burst" not in site.flux("module", "list")
        else:
            assert site.end_serving(signal.SIGTERM) == 0


@pytest.mark.parametrize("how", ["serve", AS_A_MODULE])
def test_a_controller_that_ends_in_the_middle_of_a_boot_is_followed_by_one_that_adopts(
    how: str,
) -> None:
    with opened(gated=True, more='on_unload = "keep"') as site:
        begin(site, how)
        job = site.submit("-N2", "--requires=small", "true")
        site.wait_for("asked")
        if how == "module":
            site.unload()
        else:
            assert site.end_serving(signal.SIGKILL) == -signal.SIGKILL
        assert not site.is_served()
        begin(site, how)
        site.open_gate()
        site.flux("job", "wait-event", "--timeout=50", job, "clean")
        assert site.state(job) == "COMPLETED"
        assert site.flex("drain", "burst-0") == "draining burst-0"
        site.wait_for("gone")
        assert site.nothing_is_left()
        assert site.events() == NOTHING_TWICE
        assert site.started() == 2


def test_what_is_rented_can_be_asked_for_and_a_cancelled_job_gives_it_back() -> None:
    with opened(gated=True) as site:
        site.serve()
        job = site.submit("-N2", "--requires=small", "true")
        large = site.submit("-N3", "true")
        site.wait_for("asked")
        (burst,) = site.asked("list")["bursts"]
        assert (burst["burst"], burst["state"], burst["jobs"]) == ("burst-0", "asked", [job])
        status = site.asked("status")
        assert status["bursts"]["asked"] == 1
        assert status["slots"] == {"total": 1, "free": 0}
        explained = site.asked("explain", large)
        assert explained["verdict"] == "impossible"
        assert explained["reason"] == site.memo(large).removeprefix("impossible: ")
        assert explained["alternatives"][0]["nodes"] == 3
        assert site.asked("budget")["cost_per_hour"] == 0.72
        assert [one["name"] for one in site.asked("eventlog")["events"]] == ["intend", "asked"]
        site.flux("cancel", job, large)
        site.wait_for("gone")
        assert site.events() == ["intend", "asked", "release", "gone"]
        assert site.nothing_is_left()
        assert site.end_serving(signal.SIGINT) == 0


@pytest.mark.parametrize("how", [AS_A_MODULE])
def test_there_is_one_controller_and_drain_lets_its_jobs_end_after_it_has_gone(how: str) -> None:
    # The table has the instance load the module by itself.
    with opened(f"{EASY}[flex-burst]\n", more='on_unload = "drain"') as site:
        assert site.is_served()
        command = [sys.executable, "-m", "flux_flex", "burst", "serve"]
        second = subprocess.run(command, env=site.env, capture_output=True, text=True, timeout=60)
        assert second.returncode == 3
        assert "runs already" in second.stderr
        assert site.tried("flux", "module", "load", "--name=flex-burst", str(MODULE)).returncode
        job = site.submit("-N2", "--requires=small", "sleep", "4")
        site.wait_for("up")
        site.unload()
        assert site.flux("resource", "drain", "-no", "{nodelist}") == "burst-0-[0-1]"
        assert site.state(job) == "RUN"
        site.flux("job", "wait-event", "--timeout=50", job, "clean")
        assert site.state(job) == "COMPLETED"
        begin(site, how)
        site.wait_for("gone")
        eventually(site.nothing_is_left, "left")
        assert site.events() == NOTHING_TWICE
        assert site.asked("list") == {"bursts": []}


@pytest.mark.parametrize("how", [AS_A_MODULE])
def test_no_request_ends_the_module_and_with_it_the_instance(how: str) -> None:
    ask = "import flux, sys; print(flux.Flux().rpc(*sys.argv[1:]).wait_for(20).get())"
    with opened() as site:
        begin(site, how)
        for words in (["status"], ["drain", "[]"], ["drain", '{"burst": []}'], ["start", "no"]):
            site.flux("python", "-c", ask, f"flex-burst.{words[0]}", *words[1:])
        assert site.is_served()
        site.unload()


def test_serve_says_that_the_instance_has_ended() -> None:
    with opened() as site:
        site.serve()
        eventually(site.is_served, "served")
        site.broker.communicate()
        assert site.serving is not None
        assert site.serving.wait(60.0) == 3
        assert "the connection to the broker is lost" in site.log()
