"""The whole under a real Flux: ``flux start -s4``, its own perilog plugin, a real engine.

Run them with ``make test-flux``. The instance is the user's own, so prolog and epilog run as that
user; what root adds to it is tested in trust/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from usernetes_site import ROOT, STANDIN, trusted

pytestmark = [
    pytest.mark.flux,
    pytest.mark.docker,
    pytest.mark.skipif(
        shutil.which("flux") is None,
        reason="flux is not on PATH: install Flux, or add its bin to PATH",
    ),
    pytest.mark.skipif(
        shutil.which("docker-compose") is None or not Path("/bin/busybox").exists(),
        reason="needs docker-compose and a static busybox",
    ),
]

ASK = "--setattr=attributes.user.usernetes=yes"


class System:
    """A Flux of four brokers with flux-flex installed in it, each use of it a new instance."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = folder / "template"
        # Into a root of our own, so that the Flux that is here is not touched.
        self.system = folder / "root" / "etc" / "flux" / "system"
        shutil.copytree(STANDIN, self.template)
        shutil.copy("/bin/busybox", self.template / "busybox")
        trusted(self.template)
        installed = subprocess.run(
            ["sh", str(ROOT / "scripts" / "install-scripts.sh"), "--python", sys.executable],
            capture_output=True, text=True, env={**os.environ, "DESTDIR": str(folder / "root")},
        )  # fmt: skip
        self.installed = installed.stdout + installed.stderr
        assert installed.returncode == 0, self.installed
        self.config = self.system.parent / "flex.toml"
        (validator,) = (folder / "root").rglob("flux-flex-validator.py")
        self.config.write_text(
            f'[usernetes]\ntemplate = "{self.template}"\ncontainer_engine = "docker"\n'
            'compose = "docker-compose"\n'
        )
        (self.system / "conf.d").mkdir(exist_ok=True)
        (self.system / "conf.d" / "flux.toml").write_text(
            '[job-manager]\nplugins = [{load = "perilog.so"}]\n'
            f'[job-manager.prolog]\ncommand = ["{self.system}/prolog.d/50-flux-flex"]\n'
            "per-rank = true\n"
            f'[job-manager.epilog]\ncommand = ["{self.system}/epilog.d/50-flux-flex"]\n'
            "per-rank = true\n"
            f'[ingest.validator]\nplugins = ["jobspec", "{validator}"]\n'
        )

    def run(self, script: str, *, size: int = 4, **environ: str) -> str:
        """What a script prints inside a new instance."""
        done = subprocess.run(
            ["flux", "start", f"-s{size}", f"--config-path={self.system}/conf.d",
             "bash", "-c", script],
            capture_output=True, text=True, timeout=100,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "FLUX_FLEX_CONFIG": str(self.config),
                "FLUX_FLEX_STATE": str(self.folder / "state"),
                **environ,
            },
        )  # fmt: skip
        self.said = done.stdout + done.stderr
        return done.stdout

    def left(self) -> list[str]:
        """Records, leases, and what docker has of ours."""
        found = [str(path) for path in (self.folder / "state" / "usernetes").glob("*")]
        leases = json.loads((self.folder / "state" / "leases.json").read_text())
        found += [str(one) for one in (*leases["ports"], *leases["subnets"])]
        for words in (["ps", "-aq"], ["network", "ls", "-q"], ["volume", "ls", "-q"]):
            named = subprocess.run(
                ["docker", *words, "--filter", "name=usernetes-"], capture_output=True, text=True
            )
            found += named.stdout.split()
        return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no docker daemon answers: start dockerd")
    return System(tmp_path_factory.mktemp("system"))


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_job_of_four_nodes_finds_its_cluster_and_leaves_nothing(
    system: System, locale: str
) -> None:
    said = system.run(
        f"""
        flux run -N4 {ASK} bash -c '
            test -s "$(usernetes attr kubeconfig)" && test -d "$(usernetes attr workdir)" &&
            eval "$(usernetes env kubeconfig)" && test -s "$KUBECONFIG" && echo found'
        flux jobs -a -no '{{status}} {{user.flex.usernetes}}'
        id=$(flux job id --to=kvs $(flux job last)); flux kvs ls $id | tr ' ' '\\n' | grep flex
        flux resource drain -no '{{nodelist}}'
        """,
        LC_ALL=locale,
    )
    assert said.split() == ["found"] * 4 + ["COMPLETED", "down"], system.said
    assert system.left() == []
    assert not list(Path("/tmp").glob("usernetes-*"))


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_batch_job_and_what_runs_inside_it_find_the_cluster(system: System, locale: str) -> None:
    said = system.run(
        f"""
        cat >{system.folder}/inner.sh <<'END'
#!/bin/bash
test -s "$(usernetes attr kubeconfig)" && echo batch
flux run -N2 bash -c 'test -s "$(usernetes attr kubeconfig)" && echo run'
END
        id=$(flux batch -N2 {ASK} --output={system.folder}/out {system.folder}/inner.sh)
        flux job wait-event -t 60 $id clean
        cat {system.folder}/out
        """,
        LC_ALL=locale,
    )
    assert sorted(said.split()[-3:]) == ["batch", "run", "run"], system.said
    assert system.left() == []


def test_a_node_that_fails_is_named_and_nothing_is_drained(system: System) -> None:
    (system.template / "faults").write_text("kubeadm-join fail on=u7s-$(hostname)-2\n")
    hostname = subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip()
    (system.template / "faults").write_text(f"kubeadm-join fail on=u7s-{hostname.lower()}-2\n")
    settings = system.config
    before = settings.read_text()
    settings.write_text(before + "join_tries = 1\n")
    try:
        said = system.run(
            f"""
            flux run -N4 {ASK} true; echo "code $?"
            form="{{status}}|{{user.flex.usernetes}}|{{exception.type}}|{{exception.note}}"
            flux jobs -a -no "$form"
            echo "drained $(flux resource drain -no '{{nodelist}}')"
            """
        )
    finally:
        (system.template / "faults").unlink()
        settings.write_text(before)
    assert "code 1\n" in said
    assert "FAILED|failed: kubeadm-join|usernetes|" in said, system.said
    assert re.search(r"\(rank 2\): kubeadm-join: exit code 2: .*told to fail", said)
    assert said.rstrip().endswith("drained"), system.said
    assert system.left() == []


def test_cancelling_a_job_during_its_prolog_undoes_it(system: System) -> None:
    (system.template / "faults").write_text("install-flannel hang\n")
    try:
        said = system.run(
            f"""
            id=$(flux submit -N4 {ASK} true)
            until flux dmesg | grep -q 'kubeadm-init took'; do sleep 0.1; done
            flux cancel $id; flux job wait-event -t 60 $id clean >/dev/null
            flux jobs -a -no '{{status}} {{user.flex.usernetes}}'
            echo "drained $(flux resource drain -no '{{nodelist}}')"
            """
        )
    finally:
        (system.template / "faults").unlink()
    assert "CANCELED cancelled" in said, system.said
    assert said.rstrip().endswith("drained"), system.said
    assert system.left() == []


def test_wrong_options_are_refused_at_submission_with_the_nearest_key(system: System) -> None:
    said = system.run(
        """
        flux submit --setattr=attributes.user.usernetes.imag=x true 2>&1
        flux submit --setattr=attributes.user.usernetes_debgu=yes true 2>&1
        flux submit --setattr=attributes.user.usernetes=maybe true 2>&1
        flux submit true >/dev/null && echo accepted
        """,
        size=1,
    )
    first, second, third, fourth = said.splitlines()
    assert "did you mean 'image'?" in first
    assert "did you mean 'usernetes_debug'?" in second
    assert "neither yes nor no" in third
    assert fourth == "accepted"


def test_the_whole_instance_gets_a_cluster_by_one_command(system: System) -> None:
    said = system.run(
        """
        flux-flex usernetes up && flux-flex usernetes status --json
        flux-flex usernetes up && echo twice
        flux-flex usernetes down && flux-flex usernetes status
        """
    )
    start, end = said.index("{"), said.rindex("}") + 1
    nodes = json.loads(said[start:end])["nodes"]
    assert len(nodes) == 4, system.said
    assert {node["phase"] for node in nodes} == {"up"}
    assert "it has been brought up already" in said
    assert "twice" not in said
    assert said.rstrip().endswith("4 nodes are taken away\nno clusters"), system.said
    assert system.left() == []
