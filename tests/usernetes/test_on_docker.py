"""The same on a real engine, with the stand-in tree: what only an engine can show.

Run them with ``make test-docker``. All ranks share this machine, whose ports they publish on.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from usernetes_site import JOBID, STANDIN, STOPPED, Site

from flux_flex.usernetes.state import State

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        shutil.which("docker-compose") is None or not Path("/bin/busybox").exists(),
        reason="needs docker-compose and a static busybox: apt install docker-compose"
        " busybox-static",
    ),
]

OTHER = JOBID + (1 << 24)
LEAD = ("up", "kubeadm-init", "install-flannel", "kubeconfig", "join-command")
WORKER = ("up", "kubeadm-join")
CONTAINERD = [
    Path(f"/run/{where}/containerd.sock") for where in ("docker/containerd", "containerd")
]
LAYER = "topology.k8s.aws/network-node-layer-"
LABEL = "com.docker.compose.project"


def docker(*words: str) -> list[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


class DockerSite(Site):
    """A site whose engine is docker."""

    def engine_things(self) -> Iterator[str]:
        for host in (self.folder / "hosts").iterdir():
            if (host / "state").exists():
                self.seen += State(host / "state").records()
        projects = {record.project for record in self.seen}
        for kind, *words in (("container", "ps", "-a"), ("network", "network", "ls"),
                             ("volume", "volume", "ls")):  # fmt: skip
            for project in projects:
                found = docker(*words, "-q", "--filter", f"label={LABEL}={project}")
                yield from (f"{kind} {name}" for name in found)
        for name in docker("images", "--format", "{{.Repository}}"):
            if name.rpartition("_")[0] in projects:
                yield f"image {name}"

    def close(self) -> None:
        """Take away what a failing test left, too."""
        super().close()
        removing = {"container": ["rm", "-fv"], "network": ["network", "rm"],
                    "volume": ["volume", "rm", "-f"], "image": ["rmi"]}  # fmt: skip
        for thing in list(self.engine_things()):
            kind, name = thing.split()
            subprocess.run(["docker", *removing[kind], name], capture_output=True)


@pytest.fixture(scope="module", autouse=True)
def _docker_answers() -> None:
    done = subprocess.run(["docker", "info"], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip("no docker daemon answers: start dockerd")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DockerSite]:
    made = DockerSite(tmp_path, tree=STANDIN, engine="docker", compose="docker-compose")
    yield made
    made.close()


def test_four_ranks_come_up_and_leave_nothing(site: DockerSite) -> None:
    site.submit(["n0"] * 4)
    assert site.prologs(JOBID, 4) == [0] * 4, site.output()
    record = site.record(JOBID)
    assert record is not None
    nodes = docker("exec", f"{record.project}_node_1", "kubectl", "get", "nodes", "-o", "name")
    assert sorted(nodes) == ["node/u7s-n0", "node/u7s-n0-1", "node/u7s-n0-2", "node/u7s-n0-3"]
    assert len([x for x in site.left() if x.startswith("container")]) == 4
    assert site.epilogs(JOBID, 4) == [0] * 4, site.output()
    assert site.left() == []
    assert site.memo(JOBID) == "down"


@pytest.mark.parametrize("api", ["v1beta3", "v1beta4"])
def test_lead_and_worker_register_with_the_labels_of_their_places(
    site: DockerSite, api: str
) -> None:
    config = site.template / "kubeadm-config.yaml"
    config.write_text(config.read_text().replace("v1beta4", api))
    site.locate(n0=["nn-a", "nn-b"], n1=["nn-a", "nn-c"])
    site.submit(["n0", "n1"])
    # Hosts of two names that are one machine, and so one state and one table of leases.
    here = site.host("n0")
    shared = {"FLUX_FLEX_STATE": str(here / "state"), "FLUX_FLEX_CONFIG": str(here / "flex.toml")}
    running = [site.start("prolog", JOBID, rank, **shared) for rank in (0, 1)]
    assert site.watch_over(JOBID, running) == [0, 0], site.output()
    record = site.record(JOBID)
    assert record is not None
    lead = f"{record.project}_node_1"
    told = docker("exec", lead, "kubectl", "get", "nodes", "--show-labels")
    labels = dict(zip(told[::2], told[1::2], strict=True))
    common = "topology.k8s.aws/zone-id=use2-az2,topology.kubernetes.io/zone=us-east-2b"
    for name, leaf in (("u7s-n0", "nn-b"), ("u7s-n1", "nn-c")):
        assert f"{LAYER}1=nn-a,{LAYER}2={leaf},{common}" in labels[name]
    epilogs = [site.start("epilog", JOBID, rank, **shared) for rank in (0, 1)]
    assert [process.wait(60) for process in epilogs] == [0, 0], site.output()
    assert [one for one in site.left() if not one.endswith("flex-topology")] == []


@pytest.mark.parametrize("step", LEAD)
def test_killed_during_a_step_the_lead_leaves_nothing_after_the_epilog(
    site: DockerSite, step: str
) -> None:
    site.faults(f"{step} hang on=u7s-n0")
    site.submit(["n0", "n0"])
    lead, worker = (site.start("prolog", JOBID, rank) for rank in (0, 1))
    site.wait_for_step(JOBID, step)
    lead.kill()
    worker.terminate()
    assert lead.wait(30) == -signal.SIGKILL
    assert worker.wait(60) in STOPPED, site.output()
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert site.left() == []


def test_killed_while_it_waits_for_workers_the_lead_leaves_nothing_after_the_epilog(
    site: DockerSite,
) -> None:
    site.faults("kubeadm-join hang")
    site.submit(["n0", "n0"])
    lead, worker = (site.start("prolog", JOBID, rank) for rank in (0, 1))
    site.wait_for_step(JOBID, "kubeadm-join", rank=1)
    lead.kill()
    worker.terminate()
    assert lead.wait(30) == -signal.SIGKILL
    assert worker.wait(60) == 1, site.output()
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert site.left() == []


@pytest.mark.parametrize("step", WORKER)
def test_killed_during_a_step_a_worker_leaves_nothing_after_the_epilog(
    site: DockerSite, step: str
) -> None:
    site.faults(f"{step} hang on=u7s-n0-1")
    site.submit(["n0", "n0"])
    lead, worker = (site.start("prolog", JOBID, rank) for rank in (0, 1))
    site.wait_for_step(JOBID, step, rank=1)
    worker.kill()
    lead.terminate()
    assert worker.wait(30) == -signal.SIGKILL
    assert lead.wait(60) in STOPPED, site.output()
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert site.left() == []


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.4, 0.8, 1.2])
def test_killed_while_compose_is_at_work_nothing_is_left_either(
    site: DockerSite, delay_s: float
) -> None:
    site.submit()
    prolog = site.start("prolog", JOBID, 0)
    site.wait_for_step(JOBID, "up")
    with suppress(subprocess.TimeoutExpired):
        prolog.wait(delay_s)
    prolog.kill()
    prolog.wait()
    assert site.epilogs(JOBID, 1) == [0], site.output()
    assert site.left() == []


def test_cancelled_while_compose_is_at_work_the_prolog_undoes_it(site: DockerSite) -> None:
    site.submit(["n0", "n0"])
    running = [site.start("prolog", JOBID, rank) for rank in (0, 1)]
    site.wait_for_step(JOBID, "up")
    for process in running:
        process.terminate()
    assert {process.wait(60) for process in running} <= set(STOPPED), site.output()
    assert [one for one in site.left() if not one.startswith("record")] == []
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


def test_a_port_taken_between_lease_and_use_is_replaced(
    site: DockerSite, listener: socket.socket
) -> None:
    site.faults("up sleep 2 on=u7s-n0")
    site.submit(["n0", "n0"])
    running = [site.start("prolog", JOBID, rank) for rank in (0, 1)]
    site.wait_for_step(JOBID, "up")
    record = site.record(JOBID)
    assert record is not None
    taken = record.ports["kube-apiserver"]
    listener.bind(("0.0.0.0", taken))
    listener.listen()
    assert [process.wait(60) for process in running] == [0, 0], site.output()
    again = site.record(JOBID)
    assert again is not None
    assert taken not in again.ports.values()
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert site.left() == []


def test_a_worker_that_never_joins_fails_the_job_by_name(site: DockerSite) -> None:
    site.configure(deadlines="kubeadm-join = 1.0")
    site.faults("kubeadm-join hang on=u7s-n0-1")
    site.submit(["n0", "n0"])
    assert site.prologs(JOBID, 2) == [1, 1], site.output()
    assert site.exceptions(JOBID)[0].startswith("n0 (rank 1): kubeadm-join: took longer than 1 s")
    assert site.left() == []


def test_a_join_command_that_fails_twice_and_then_works_is_enough(site: DockerSite) -> None:
    site.faults("kubeadm-join fail-times 2")
    site.submit(["n0", "n0"])
    assert site.prologs(JOBID, 2) == [0, 0], site.output()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


@pytest.mark.parametrize("shift_s", [-3600, 3600])
def test_a_worker_whose_clock_is_an_hour_off_joins(site: DockerSite, shift_s: int) -> None:
    site.submit(["n0", "n0"])
    lead = site.start("prolog", JOBID, 0)
    patch = f"import time; real = time.time; time.time = lambda: real() + {shift_s}"
    worker = site.start("prolog", JOBID, 1, SITE_PATCH=patch)
    assert (lead.wait(60), worker.wait(60)) == (0, 0), site.output()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


def test_two_jobs_at_once_do_not_meet(site: DockerSite) -> None:
    for jobid in (JOBID, OTHER):
        site.submit(["n0", "n0"], jobid=jobid)
    running = [site.start("prolog", job, rank) for job in (JOBID, OTHER) for rank in (0, 1)]
    assert [process.wait(60) for process in running] == [0] * 4, site.output()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert len([x for x in site.left() if x.startswith("container")]) == 2
    assert site.epilogs(OTHER, 2) == [0, 0]
    assert site.left() == []


def test_a_dozen_clusters_live_on_one_host_at_once(site: DockerSite) -> None:
    jobs = [site.submit(jobid=JOBID + (n << 24)) for n in range(12)]
    running = [site.start("prolog", jobid, 0) for jobid in jobs]
    assert [process.wait(120) for process in running] == [0] * 12, site.output()
    assert len([x for x in site.left() if x.startswith("container")]) == 12
    epilogs = [site.start("epilog", jobid, 0) for jobid in jobs]
    assert [process.wait(120) for process in epilogs] == [0] * 12, site.output()
    assert site.left() == []


def test_the_same_epilog_twice_and_twice_at_once(site: DockerSite) -> None:
    site.submit()
    assert site.prologs(JOBID, 1) == [0], site.output()
    running = [site.start("epilog", JOBID, 0) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0], site.output()
    assert site.left() == []
    assert site.epilogs(JOBID, 1) == [0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk: run it as root")
def test_a_disk_that_is_full_fails_the_job_and_leaves_nothing(site: DockerSite) -> None:
    small = site.host("n0") / "tmp"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", small], check=True)
    try:
        site.submit()
        assert site.prologs(JOBID, 1) == [1], site.output()
        (note,) = site.exceptions(JOBID)
        assert "n0 (rank 0): prepare: " in note
        assert "No space left on device" in note
        assert site.left() == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_options_reach_the_container(site: DockerSite) -> None:
    limits = {"cpus": 0.5, "memory": "64m"}
    site.submit(user={"usernetes": {"kubernetes": limits, "ports": [8080]}})
    assert site.prologs(JOBID, 1) == [0], site.output()
    record = site.record(JOBID)
    assert record is not None
    form = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{json .HostConfig.PortBindings}}"
    cpus, memory, ports = docker("inspect", "-f", form, f"{record.project}_node_1")
    assert (int(cpus), int(memory)) == (500_000_000, 64 << 20)
    assert f'"8080/tcp":[{{"HostIp":"","HostPort":"{record.ports["8080"]}"}}]' in ports
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []


def test_no_argument_list_on_the_host_ever_has_the_token(site: DockerSite) -> None:
    site.faults("join-command sleep 0.2", "kubeadm-join sleep 0.2")
    site.submit(["n0", "n0"])
    running = [site.start("prolog", JOBID, rank) for rank in (0, 1)]
    seen: set[str] = set()
    while any(process.poll() is None for process in running):
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    seen.update(word.decode("utf-8", "replace") for word in words)
    assert [process.returncode for process in running] == [0, 0], site.output()
    text = (site.directory(JOBID) / "join-command").read_text()
    token = text.split("--token ")[1].split()[0]
    assert len(token) == 23
    assert any("kubeadm-join" in word for word in seen)
    assert [word for word in seen if token in word] == []
    assert token not in site.output()
    record = site.record(JOBID, 1)
    assert record is not None
    assert token not in (Path(record.workdir) / "bring-up.log").read_text()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


# -- an engine of the test's own ---------------------------------------------------------------


class Daemon:
    """A dockerd that a test may kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        # Not the folder's name: mkdtemp may end or double its `_`, which containerd refuses.
        self.namespace = f"flex-{secrets.token_hex(6)}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--data-root", "data", "--exec-root", "exec", "--pidfile", "pid"]
        paths = [w if w.startswith("--") else str(self.folder / w) for w in words]
        # A containerd in common with the daemon that is there: two of them get in each other's way.
        shared = next(path for path in CONTAINERD if path.exists())
        paths += ["--containerd", str(shared), "--containerd-namespace", self.namespace]
        paths += ["--containerd-plugins-namespace", f"{self.namespace}-plugins"]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                ["dockerd", "-H", f"unix://{self.socket}", "--bip", "172.29.250.1/24", *paths],
                stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + 60
        while not self.answers():
            assert time.monotonic() < end, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def answers(self) -> bool:
        done = subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", "info"], capture_output=True
        )
        return done.returncode == 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        (self.folder / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run an engine to kill: run it as root")
def test_an_engine_killed_and_restarted_between_prolog_and_epilog(
    site: DockerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="flex-"))
    daemon = Daemon(folder)
    daemon.start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon.socket}")
    site.patch = (
        f"import flux_flex.host.engines as e\ne.SYSTEM_SOCKETS = ({str(daemon.socket)!r},)\n"
    )
    try:
        site.submit()
        assert site.prologs(JOBID, 1) == [0], site.output()
        daemon.kill()
        assert site.epilogs(JOBID, 1) == [1]
        assert "docker does not answer" in site.output()
        daemon.start()
        assert any(one.startswith("container") for one in site.left())
        assert site.epilogs(JOBID, 1) == [0], site.output()
        assert site.left() == []
    finally:
        daemon.stop()
        subprocess.run(["umount", "-R", "-q", folder / "data"], check=False)
        shutil.rmtree(folder)
