"""`flux submit --burst`: what it makes of a jobspec, and how such a job fares under fcfs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import Any

import pytest
from flux_site import FCFS, LONG_S, ROOT, opened

PLUGINS = ROOT / "etc" / "flux" / "plugins"

pytestmark = [
    pytest.mark.flux,
    pytest.mark.skipif(
        shutil.which("flux") is None,
        reason="flux is not on PATH: install Flux, or add its bin to PATH",
    ),
]


def flux(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FLUX_CLI_PLUGINPATH": str(PLUGINS)}
    return subprocess.run(["flux", *words], env=env, capture_output=True, text=True, timeout=LONG_S)


def dry_run(*words: str) -> Any:
    done = flux("submit", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("options", "user"),
    [
        ([], None),
        (["--burst"], {"burstable": True, "flex": {"held": True}}),
        (["--burst=best-effort"], {"burstable": "best-effort", "flex": {"held": True}}),
        (["--burst", "--urgency=20"], {"burstable": True}),
        (["--burst", "--urgency=hold"], {"burstable": True}),
    ],
)
def test_burst_marks_the_job_and_leaves_its_command_alone(options: list[str], user: object) -> None:
    jobspec = dry_run(*options, "--dry-run", "-N1", "sleep", "--burst")
    assert jobspec["attributes"].get("user") == user
    assert jobspec["tasks"][0]["command"] == ["sleep", "--burst"]


def test_another_word_than_best_effort_is_refused() -> None:
    done = flux("submit", "--burst=foo", "--dry-run", "-N1", "true")
    assert done.returncode != 0
    assert "foo" in done.stderr


def test_under_fcfs_a_job_that_would_be_refused_is_held_until_its_nodes_are_up() -> None:
    with opened(FCFS) as site:
        site.env["FLUX_CLI_PLUGINPATH"] = str(PLUGINS)
        refused = site.submit("-N2", "--requires=small", "true")
        site.flux("job", "wait-event", "--timeout=50", refused, "clean")
        assert "unsatisfiable" in site.flux("job", "eventlog", refused)
        site.serve()
        job = site.flux("submit", "--burst", "-t1m", "-N2", "--requires=small", "true")
        here = site.flux("submit", "--burst", "-t1m", "-N1", "-n1", "true")
        person = site.flux("submit", "--urgency=hold", "-t1m", "-N1", "-n1", "true")
        for one in (job, here):
            site.flux("job", "wait-event", "--timeout=50", one, "clean")
        assert site.flux("jobs", "-no", "{status} {nodelist}", job) == "COMPLETED burst-0-[0-1]"
        urgencies = site.flux("job", "eventlog", "--format=json", job)
        assert [one for one in urgencies.splitlines() if '"urgency":16' in one]
        assert site.state(here) == "COMPLETED"
        assert site.flux("jobs", "-no", "{state} {urgency}", person) == "SCHED 0"
        site.flux("cancel", person)
        site.wait_for("gone")
        assert site.nothing_is_left()
        assert site.end_serving(signal.SIGTERM) == 0
