"""Spans of jobs under a real Flux and its own perilog plugin; the Usernetes tree is that of paper.

All brokers of a test instance are on one host, so its R is configured, with hosts of other names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from usernetes_site import PAPER, ROOT, topology_of, trusted

pytestmark = [
    pytest.mark.flux,
    pytest.mark.skipif(
        shutil.which("flux") is None,
        reason="flux is not on PATH: install Flux, or add its bin to PATH",
    ),
]

ASK = "--setattr=attributes.user.usernetes=yes"
PLACES = {
    "c0": ["nn-top", "nn-left", "nn-leaf0"],
    "c1": ["nn-top", "nn-left", "nn-leaf0"],
    "c2": ["nn-top", "nn-right", "nn-leaf1"],
}


class Instance:
    """flux-flex in a root of its own, and test instances that run all of its prolog.d."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = folder / "root" / "etc" / "flux" / "system"
        installed = subprocess.run(
            ["sh", str(ROOT / "scripts" / "install-scripts.sh"), "--span", "--python",
             sys.executable],
            capture_output=True, text=True, env={**os.environ, "DESTDIR": str(folder / "root")},
        )  # fmt: skip
        assert installed.returncode == 0, installed.stdout + installed.stderr
        template = folder / "template"
        shutil.copytree(PAPER, template, ignore=shutil.ignore_patterns("bin"))
        trusted(template)
        shutil.copytree(PAPER / "bin", folder / "bin")
        (folder / "work").mkdir()
        self.topology = folder / "topology.json"
        self.config = self.system.parent / "flex.toml"
        self.config.write_text(
            f'[usernetes]\ntemplate = "{template}"\ncontainer_engine = "podman"\n'
            f'compose = "podman-compose"\nworkdir = "{folder}/work"\n'
            f'path = "{folder}/bin:/usr/local/bin:/usr/bin:/bin"\n'
            f'[topology]\nfile = "{self.topology}"\n'
        )
        (self.system / "conf.d").mkdir()
        (self.system / "conf.d" / "flux.toml").write_text(
            '[job-manager]\nplugins = [{load = "perilog.so"}]\n'
            f'[job-manager.prolog]\ncommand = ["{self.all_of("prolog")}"]\nper-rank = true\n'
            f'[job-manager.epilog]\ncommand = ["{self.all_of("epilog")}"]\nper-rank = true\n'
            "[resource]\nnoverify = true\n"
            '[[resource.config]]\nhosts = "c[0-3]"\ncores = "0"\n'
        )

    def all_of(self, kind: str) -> Path:
        """A program that runs all scripts of prolog.d or epilog.d, as Flux's own does."""
        script = self.folder / kind
        script.write_text(
            f'#!/bin/sh\nfor one in {self.system}/{kind}.d/*; do "$one" || exit 1; done\n'
        )
        script.chmod(0o755)
        return script

    def run(self, script: str, size: int = 4) -> str:
        done = subprocess.run(
            ["flux", "start", f"-s{size}", f"--config-path={self.system}/conf.d",
             "bash", "-eu", "-c", script],
            capture_output=True, text=True, timeout=100,
            env={
                **os.environ,
                "FLUX_FLEX_CONFIG": str(self.config),
                "FLUX_FLEX_STATE": str(self.folder / "state"),
                "LC_ALL": "C.UTF-8",
            },
        )  # fmt: skip
        self.said = done.stdout + done.stderr
        assert done.returncode == 0, self.said
        return done.stdout


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path)


SHOW = "flux jobs -a -no '{name} {status} {user.flex.usernetes} | {user.flex.span}' | sort"


def test_flux_jobs_shows_the_span_of_plain_jobs_and_of_those_with_a_cluster(
    instance: Instance,
) -> None:
    instance.topology.write_text(json.dumps(topology_of(PLACES)))
    instance.topology.chmod(0o644)
    said = instance.run(
        f"""
        flux run --job-name=a-plain -N2 --requires=rank:0-1 true
        flux run --job-name=b-one -N1 true
        flux run --job-name=c-late -N3 --requires=rank:1-3 true
        flux run --job-name=d-cluster -N3 --requires=rank:0-2 {ASK} true
        flux job info $(flux job last) flex-topology >{instance.folder}/kept
        {SHOW}
        id=$(flux job id --to=kvs $(flux job last)); flux kvs ls -1 $id | grep flex
        flux resource drain -no '{{nodelist}}'
        """
    )
    assert [line.rstrip() for line in said.splitlines()] == [
        "a-plain COMPLETED  | nn1:1 nn2:1 nn3:1 2 hops",
        "b-one COMPLETED  |",
        "c-late COMPLETED  | nn1:1 nn2:2 nn3:2 6 hops 1 unplaced",
        "d-cluster COMPLETED down | nn1:1 nn2:2 nn3:2 6 hops",
        "flex-topology",
    ], instance.said
    kept = json.loads((instance.folder / "kept").read_text())
    assert kept["span"] == {"layers": [1, 2, 2], "diameter": 6, "mean_hops": 4.667}
    assert kept["hosts"]["c2"]["network_nodes"] == PLACES["c2"]


def test_an_instance_that_was_told_of_its_network_needs_no_file(instance: Instance) -> None:
    told = json.dumps(topology_of(PLACES))
    said = instance.run(
        f"""
        flux kvs put flex.topology='{told}'
        flux run --job-name=a -N3 --requires=rank:0-2 true; {SHOW}
        """
    )
    assert said.strip() == "a COMPLETED  | nn1:1 nn2:2 nn3:2 6 hops", instance.said


def test_a_hostile_topology_fails_no_job_and_drains_no_node(instance: Instance) -> None:
    instance.topology.write_text('{"Instances": [{"InstanceId": "$(reboot)"}]}')
    instance.topology.chmod(0o644)
    said = instance.run(
        f"""
        flux run --job-name=a -N2 true; flux run --job-name=b -N2 {ASK} true; {SHOW}
        flux resource drain -no '{{nodelist}}'
        flux dmesg | grep -c 'is not recorded'
        """
    )
    assert said.split("\n")[:2] == ["a COMPLETED  | ", "b COMPLETED down | "], instance.said
    assert said.split()[-1] == "3", instance.said
