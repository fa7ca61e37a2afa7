"""What install-scripts.sh --burst puts in place, under a real Flux: loaded, used, taken away."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flux_site import FCFS, LONG_S, ROOT, Site, needs_module_python, opened

pytestmark = [
    pytest.mark.flux,
    pytest.mark.skipif(
        shutil.which("flux") is None,
        reason="flux is not on PATH: install Flux, or add its bin to PATH",
    ),
    *needs_module_python(),
]


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    """The folder that stands for /etc/flux; afterwards nothing of ours is in it."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" != -I ] || shift\n'
        f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    flux = shutil.which("flux")
    assert flux
    where = ["/etc/flux/system", str(Path(flux).resolve().parents[1])]
    env = {**os.environ, "DESTDIR": str(tmp_path), "PYTHON": str(python)}
    script = str(ROOT / "scripts" / "install-scripts.sh")

    def run(*options: str) -> None:
        done = subprocess.run(
            [script, *options, *where], env=env, capture_output=True, text=True, timeout=LONG_S
        )
        assert done.returncode == 0, done.stderr

    run("--burst")
    yield tmp_path / "etc" / "flux"
    run("--uninstall")
    assert not [path for path in (tmp_path / "etc").rglob("*") if not path.is_dir()]


def test_instance_loads_the_controller_takes_burst_and_ends_clean(etc: Path) -> None:
    env = {
        # Flux's Python is told by the installed module alone where flux_flex is.
        "PYTHONPATH": "",
        "FLUX_MODPROBE_PATH_APPEND": str(etc / "modprobe"),
        "FLUX_CLI_PLUGINPATH": str(etc / "cli" / "plugins"),
    }
    with opened(FCFS + "[flex-burst]\n", env=env) as site:
        assert "flex-burst" in site.flux("module", "list")
        job = site.flux("submit", "--burst", "-t1m", "-N2", "--requires=small", "true")
        site.flux("job", "wait-event", "--timeout=50", job, "clean")
        assert site.flux("jobs", "-no", "{status} {nodelist}", job) == "COMPLETED burst-0-[0-1]"
        site.wait_for("gone")
        told = told_by_doctor(site)
        del told["burst-catalog"]  # its prices grow stale with the years
        assert told == {
            "config": ("found", ""),
            "flux-python": ("found", ""),
            "burst": ("warning", ""),
            "burst-scheduler": ("found", "fcfs"),
            "burst-hosts": ("found", ""),
            "burst-lead": ("found", ""),
            "burst-secrets": ("found", ""),
            "burst-controller": ("found", "module flex-burst"),
            "burst-option": ("found", str(etc)),
        }
        # That the broker ends with 0, with the module still loaded, is seen to on the way out.
        assert site.is_served()


WORDS = ("fcfs", "module flex-burst")


def told_by_doctor(site: Site) -> dict[str, tuple[str, str]]:
    """What doctor says of bursting there: the status, and which of the words or paths it tells."""
    env = {**site.env, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "flux_flex", "doctor", "--check", "burst", "--json"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=LONG_S)
    places = [word for word in env["FLUX_CLI_PLUGINPATH"].split(":") if word]
    known = [*WORDS, *(str(Path(place).parents[1]) for place in places)]
    return {
        one["name"]: (one["status"], next((word for word in known if word in one["what"]), ""))
        for one in json.loads(done.stdout)["findings"]
    }


def test_instance_without_the_table_is_left_alone(etc: Path) -> None:
    env = {"PYTHONPATH": "", "FLUX_MODPROBE_PATH_APPEND": str(etc / "modprobe")}
    with opened(FCFS, env=env) as site:
        assert "flex-burst" not in site.flux("module", "list")
        assert not site.is_served()
