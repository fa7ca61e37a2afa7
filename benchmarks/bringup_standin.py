"""The stand-in Usernetes by itself: its make targets with nothing of flux-flex in between.

:meth:`Standin.up` and :meth:`Standin.down` are the critical path, what no orchestration can beat:
everything that does not need another step's result runs beside it, and nobody waits for a clock.
:meth:`Standin.slow_up` and :meth:`Standin.slow_down` are the same with the waits of the scripts
that sites use now: those of the `usernetes` package 0.0.11 (start-control-plane, start-worker,
clean), which a prolog in bash calls.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bringup_docker import Failed, docker, remove_project
from flux_flex.usernetes.node import host_address
from flux_flex.usernetes.ports import is_free
from flux_flex.usernetes.tree import copy_tree

STANDIN = Path(__file__).parents[1] / "tests" / "standin"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
LEAD_STEPS = ("kubeadm-init", "install-flannel", "kubeconfig", "join-command")
# The package sleeps after each of these, and its loops sleep before they look.
SLEPT_AFTER = ("up", "kubeadm-init")
WAIT_S = 5.0

_SERVICES = ("PORT_ETCD", "PORT_KUBE_APISERVER", "PORT_KUBELET", "PORT_FLANNEL")
# Outside of what flux-flex leases, and of what the kernel gives to whoever asks for any port.
_PORTS = range(20000, 29000)


@dataclass(frozen=True)
class StandinNode:
    """One node: its copy of the tree, and what its make targets see."""

    folder: Path
    environment: dict[str, str]

    @property
    def project(self) -> str:
        return self.environment["COMPOSE_PROJECT_NAME"]


class Standin:
    """Clusters of ``ranks`` nodes out of a template, one after the other."""

    def __init__(self, template: Path, folder: Path, ranks: int) -> None:
        self.template = template
        self.folder = folder
        self.ranks = ranks
        self.nodes: list[StandinNode] = []
        self.took: dict[str, list[float]] = {}
        self._count = 0
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self._why = ""

    def lay_out(self) -> None:
        """Directories for the next cluster; no part of what is timed."""
        self._count += 1
        free = (port for port in _PORTS if is_free(port))
        address = host_address("localhost")
        for index in range(self.ranks):
            name = f"benchmark-{os.getpid()}-{self._count}-{index}"
            folder = self.folder / name
            folder.mkdir(mode=0o700, parents=True)
            target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:  # as flux-flex copies it, so that the engine has one cache for both
                copy_tree(self.template, target, uid=os.geteuid(), gid=os.getegid())
            finally:
                os.close(target)
            environment = {
                "PATH": PATH,
                "HOME": os.path.expanduser("~"),
                "LANG": "C.UTF-8",
                "CONTAINER_ENGINE": "docker",
                "COMPOSE": "docker-compose",
                "HOSTNAME": "n0",
                "HOST_IP": address,
                "NODE_NAME": f"u7s-n0-{index}",
                "NODE_SUBNET": f"10.99.{(os.getpid() + index) % 256}.0/24",
                "COMPOSE_PROJECT_NAME": f"{name}-{secrets.token_hex(3)}",
                **{service: str(next(free)) for service in _SERVICES},
            }
            self.nodes.append(StandinNode(folder, environment))

    # -- the critical path -----------------------------------------------------------------------

    def up(self) -> float:
        """Bring the cluster up; how long it took, in seconds."""
        self.lay_out()
        invited = threading.Event()

        def lead() -> None:
            try:
                for target in ("up", *LEAD_STEPS):
                    self.make(self.nodes[0], target)
                self._invite()
            finally:
                invited.set()

        def worker(node: StandinNode) -> None:
            self.make(node, "up")
            invited.wait()
            self.make(node, "kubeadm-join")

        began = time.monotonic()
        self._all([lead, *(_bound(worker, node) for node in self.nodes[1:])])
        if self.ranks > 1:
            self.make(self.nodes[0], "sync-external-ip")
        return time.monotonic() - began

    def down(self) -> float:
        """Take it away; how long it took, in seconds."""
        began = time.monotonic()
        self._all([_bound(self.make, node, "down-v") for node in self.nodes])
        took = time.monotonic() - began
        self._forget()
        return took

    # -- with fixed waits ------------------------------------------------------------------------

    def slow_up(self) -> float:
        """The same with the fixed waits; about half a minute more."""
        self.lay_out()
        invited = threading.Event()
        joined: list[StandinNode] = []

        def lead() -> None:
            try:
                for target in ("up", *LEAD_STEPS):
                    self.make(self.nodes[0], target)
                    if target in SLEPT_AFTER:
                        self._pause()
                self._invite()
            finally:
                invited.set()
            while self.ranks > 1:
                self._pause()
                if len(joined) == self.ranks - 1:
                    self._pause()
                    self.make(self.nodes[0], "sync-external-ip")
                    break

        def worker(node: StandinNode) -> None:
            self.make(node, "up")
            self._pause()
            while not invited.is_set():
                self._pause()
            self.make(node, "kubeadm-join")
            joined.append(node)

        began = time.monotonic()
        self._all([lead, *(_bound(worker, node) for node in self.nodes[1:])])
        return time.monotonic() - began

    def slow_down(self) -> float:
        """Teardown as the scripts do it, which leaves volumes and images behind."""

        def clean(node: StandinNode) -> None:
            container = f"{node.project}_node_1"
            docker("stop", container)
            docker("rm", container)
            docker("network", "rm", f"{node.project}_default")

        began = time.monotonic()
        self._all([_bound(clean, node) for node in self.nodes])
        took = time.monotonic() - began
        self._forget()
        return took

    # -- what these are made of ------------------------------------------------------------------

    def make(self, node: StandinNode, target: str) -> None:
        """Run one target of one node. Raises Failed."""
        began = time.monotonic()
        with (node.folder / "log").open("ab") as log, self._mutex:
            if self._stopped.is_set():
                raise Failed("another step failed")
            child = subprocess.Popen(
                ["make", "--no-print-directory", target],
                cwd=node.folder, env=node.environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            self._alive.add(child)
        code = child.wait()
        with self._mutex:
            self._alive.discard(child)
        if code:
            said = (node.folder / "log").read_text(errors="replace")[-500:]
            self._why = self._why or f"make {target}: exit code {code}: {said}"
            self._stopped.set()
            raise Failed(self._why)
        self.took.setdefault(target, []).append(time.monotonic() - began)

    def median(self, target: str) -> float:
        """How long a target took, in the middle of all times so far."""
        return statistics.median(self.took[target])

    def close(self) -> None:
        """Remove what was made, wherever it stopped."""
        self._forget()

    def _pause(self) -> None:
        if self._stopped.wait(WAIT_S):
            raise Failed("another step failed")

    def _stop(self) -> None:
        """End what runs, and let nothing more begin."""
        with self._mutex:
            self._stopped.set()
            for child in self._alive:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    def _invite(self) -> None:
        for node in self.nodes[1:]:
            shutil.copy(self.nodes[0].folder / "join-command", node.folder)

    def _all(self, works: Sequence[Callable[[], None]]) -> None:
        """Do all at once. Raises the first failure, once all have ended."""
        with ThreadPoolExecutor(len(works)) as pool:
            futures = [pool.submit(work) for work in works]
            try:
                for future in futures:
                    future.result()
            except Failed:
                raise Failed(self._why) from None
            except KeyboardInterrupt:
                self._stop()
                raise

    def _forget(self) -> None:
        for node in self.nodes:
            remove_project(node.project)
            shutil.rmtree(node.folder, ignore_errors=True)
        self.nodes.clear()


def timeline(standin: Standin) -> float:
    """What :meth:`Standin.slow_up` would take, from the targets' times as they were measured."""
    up = standin.median("up")
    slept = sum(WAIT_S for target in ("up", *LEAD_STEPS) if target in SLEPT_AFTER)
    invited = up + sum(map(standin.median, LEAD_STEPS)) + slept
    if standin.ranks == 1:
        return invited
    joined = polled(up, invited) + standin.median("kubeadm-join")
    return polled(invited, joined) + WAIT_S + standin.median("sync-external-ip")


def polled(began: float, ready: float) -> float:
    """When a loop that began then, and sleeps before each look, sees what is there at ``ready``."""
    seen = began + WAIT_S
    while seen < ready:
        seen += WAIT_S
    return seen


def _bound(work: Callable[..., None], *args: object) -> Callable[[], None]:
    return lambda: work(*args)
