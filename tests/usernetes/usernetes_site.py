"""A site for tests: a few hosts, an instance in memory that processes share, prologs as processes.

What Flux's perilog plugin does is done here in its place: a prolog on each rank, SIGTERM for all of
them when the job gets a fatal exception, and then an epilog on each rank. The Usernetes tree is
the one of paper (quick, no engine needed), or the stand-in over a real docker.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from flux_flex.errors import FlexError
from flux_flex.host.instance import EventStream
from flux_flex.host.memory_instance import Following, MemoryInstance
from flux_flex.model.jobid import f58
from flux_flex.usernetes.state import Record, State

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAPER = HERE / "paper"
STANDIN = HERE.parent / "standin"
JOBID = 0x2F2C0000_0001
PATIENCE_S = 60.0
STOPPED = (1, -signal.SIGTERM)  # as a prolog, or as a Python that has not begun


class Server:
    """Serves one MemoryInstance to the processes of a test, over a Unix socket.

    Without a key: the listener shakes hands one by one, and waits for ever for a client that a
    signal stops half-way. The socket lies where nobody else can write.
    """

    def __init__(self, instance: MemoryInstance, address: str) -> None:
        self.instance = instance
        self._listener = Listener(address, family="AF_UNIX")
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        with suppress(OSError):  # wakes the thread that accepts
            Client(self._listener.address, family="AF_UNIX").close()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError, EOFError):
                connection = self._listener.accept()
                threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection, suppress(EOFError, OSError):
            while True:
                method, args = connection.recv()
                try:
                    answer = getattr(self.instance, method)(*args)
                except FlexError as error:
                    answer = error
                connection.send(answer)


class Remote:
    """The instance of a test in another process. A connection for each call: threads share it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def watch(self, key: str) -> EventStream:
        return Following(self, key)  # type: ignore[arg-type]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: object) -> Any:
            with Client(self._address, family="AF_UNIX") as connection:
                connection.send((method, args))
                answer = connection.recv()
            if isinstance(answer, FlexError):
                raise answer
            return answer

        return call


def r_of(hosts: Sequence[str]) -> dict[str, Any]:
    """An R with one rank for each host, which may repeat."""
    return {
        "version": 1,
        "execution": {
            "R_lite": [{"rank": f"0-{len(hosts) - 1}", "children": {"core": "0-3"}}],
            "nodelist": list(hosts),
            "starttime": 0,
            "expiration": 0,
        },
    }


def jobspec_of(user: Mapping[str, object], duration: float = 0) -> dict[str, Any]:
    return {
        "version": 1,
        "resources": [{"type": "node", "count": 1, "with": []}],
        "tasks": [],
        "attributes": {"system": {"duration": duration}, "user": dict(user)},
    }


def topology_of(network_nodes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """EC2's answers for hosts by the network nodes above them, top first, in one zone."""
    ids = {host: f"i-{number:017x}" for number, host in enumerate(network_nodes, start=1)}
    placed: dict[str, object] = {"AvailabilityZone": "us-east-2b", "ZoneId": "use2-az2"}
    kind = {"InstanceType": "hpc7a.12xlarge"}
    found = [{"InstanceId": ids[host], "Tags": [{"Key": "Name", "Value": host}]} for host in ids]
    located = [
        {"InstanceId": ids[host], "NetworkNodes": list(nodes), **kind, **placed}
        for host, nodes in network_nodes.items()
    ]
    return {"Reservations": [{"Instances": found}], "Instances": located}


@dataclass
class Site:
    """Hosts that have a template and an engine in common, and a folder each for the rest.

    On paper they can be as many as a test likes. The ports of a real engine are those of this
    machine, so there the ranks of a job share one host.
    """

    folder: Path
    tree: Path = PAPER
    engine: str = "podman"
    compose: str = "podman-compose"
    processes: list[tuple[str, subprocess.Popen[str]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    patch: str = ""
    # Whether line coverage is taken in the processes, too: it costs each of them a third more.
    measured: bool = False

    def __post_init__(self) -> None:
        self.template = self.folder / "template"
        self.bin = self.folder / "bin"
        shutil.copytree(self.tree, self.template, ignore=shutil.ignore_patterns("bin"))
        shutil.copytree(PAPER / "bin", self.bin)
        if self.tree == STANDIN:
            shutil.copy("/bin/busybox", self.template / "busybox")
        trusted(self.template)
        # What the site knows of its network: nothing, until a test writes it.
        self.topology_file = self.folder / "topology.json"
        self.settings = self.deadlines = ""
        self.seen: list[Record] = []
        self.hosts: dict[int, Sequence[str]] = {}
        self.instance = MemoryInstance(r_of(["n0"]), now=time.time())
        self.address = str(self.folder / "instance")
        self.server = Server(self.instance, self.address)

    def configure(self, settings: str = "", deadlines: str = "") -> None:
        """Lines for flex.toml, on all hosts."""
        self.settings, self.deadlines = settings, deadlines

    def host(self, name: str) -> Path:
        """The folder of a host, with its flex.toml."""
        folder = self.folder / "hosts" / name
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "tmp").chmod(0o1777)
        path = f"{self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        config = folder / "flex.toml"
        config.write_text(
            f'[usernetes]\ntemplate = "{self.template}"\nworkdir = "{folder}/tmp"\n'
            f'container_engine = "{self.engine}"\ncompose = "{self.compose}"\n'
            f'path = "{path}"\n{self.settings}\n[usernetes.deadlines]\n{self.deadlines}\n'
            f'[topology]\nfile = "{self.topology_file}"\n'
        )
        config.chmod(0o644)
        return folder

    def faults(self, *lines: str) -> None:
        (self.template / "faults").write_text("".join(f"{line}\n" for line in lines))
        trusted(self.template)

    def locate(self, **network_nodes: Sequence[str]) -> None:
        """Say which network nodes are above each host, top first, as EC2 would."""
        self.topology_file.write_text(json.dumps(topology_of(network_nodes)))
        self.topology_file.chmod(0o644)

    def submit(
        self,
        hosts: Sequence[str] = ("n0",),
        user: Mapping[str, object] | None = None,
        jobid: int = JOBID,
        duration: float = 0,
    ) -> int:
        wanted = {"usernetes": "yes"} if user is None else user
        self.instance.submit(jobspec_of(wanted, duration), jobid=jobid)
        self.instance.start(jobid, r_of(hosts))
        self.hosts[jobid] = hosts
        return jobid

    # -- what perilog does -----------------------------------------------------------------------

    def start(self, which: str, jobid: int, rank: int, **environ: str) -> subprocess.Popen[str]:
        """Begin a prolog or an epilog on one rank."""
        host = self.host(self.hosts[jobid][rank])
        process = subprocess.Popen(
            [sys.executable, str(HERE / "rank.py"), which, str(jobid), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "FLUX_JOB_ID": f58(jobid),
                "FLUX_FLEX_CONFIG": str(host / "flex.toml"),
                "FLUX_FLEX_STATE": str(host / "state"),
                "SITE_ADDRESS": self.address,
                "SITE_PATCH": self.patch,
                **{k: v for k, v in os.environ.items() if self.measured and k.startswith("COV")},
                **environ,
            },
        )
        self.processes.append((f"{which} of {f58(jobid)} on rank {rank}", process))
        return process

    def prologs(self, jobid: int, ranks: int, *, epilogs: bool = True) -> list[int]:
        """Run the prologs of a job to their end, as perilog does. Their exit codes."""
        running = [self.start("prolog", jobid, rank) for rank in range(ranks)]
        codes = self.watch_over(jobid, running)
        if any(codes) and epilogs:
            assert self.epilogs(jobid, ranks) == [0] * ranks
        return codes

    def watch_over(self, jobid: int, running: Sequence[subprocess.Popen[str]]) -> list[int]:
        end = time.monotonic() + PATIENCE_S
        told = False
        while any(process.poll() is None for process in running):
            assert time.monotonic() < end, self.output()
            if not told and self.exceptions(jobid):
                told = True
                for process in running:
                    process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        return [process.returncode for process in running]

    def epilogs(self, jobid: int, ranks: int) -> list[int]:
        for rank in range(ranks):
            self.record(jobid, rank)  # whose things are looked for afterwards
        running = [self.start("epilog", jobid, rank) for rank in range(ranks)]
        return [process.wait(PATIENCE_S) for process in running]

    # -- what can be seen ------------------------------------------------------------------------

    def exceptions(self, jobid: int) -> list[str]:
        found = [e for e in self.instance.eventlog(jobid) if e.name == "exception"]
        return [str(event.context["note"]) for event in found]

    def memo(self, jobid: int) -> object:
        (job,) = (job for job in self.instance.jobs() if job.jobid == jobid)
        return job.memo.get("flex.usernetes")

    def state(self, host: str = "n0") -> Path:
        return self.folder / "hosts" / host / "state"

    def record(self, jobid: int, rank: int = 0) -> Record | None:
        state = self.state(self.hosts[jobid][rank])
        found = State(state).peek(f"{f58(jobid)[1:]}.{rank}") if state.exists() else None
        if found is not None:
            self.seen.append(found)
        return found

    def directory(self, jobid: int, rank: int = 0) -> Path:
        """Where the first rank of a host has its directory."""
        host = self.hosts[jobid][rank]
        return self.folder / "hosts" / host / "tmp" / f"usernetes-{f58(jobid).lower()}"

    def wait_for(self, truth: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not truth():
            assert time.monotonic() < end, self.output()
            time.sleep(0.005)

    def wait_for_step(self, jobid: int, step: str, rank: int = 0) -> None:
        def reached() -> bool:
            record = self.record(jobid, rank)
            return record is not None and record.step == step

        self.wait_for(reached)

    def output(self) -> str:
        """What the processes that have ended printed, for a failing test."""
        for label, process in self.processes:
            if process.poll() is not None and process.stdout and not process.stdout.closed:
                self.said.append(f"{label}: {process.stdout.read()}")
                process.stdout.close()
        return "\n".join(self.said)

    def left(self) -> list[str]:
        """Whatever of any cluster is still there, on any host."""
        found = [f"key {key}" for key in self.instance.all_keys()]
        for host in sorted((self.folder / "hosts").iterdir()):
            found += [f"directory {path.name}" for path in (host / "tmp").iterdir()]
            found += [f"process {pid}" for pid in marked_processes(host)]
            with suppress(FileNotFoundError):
                found += [f"record {name}" for name in State(host / "state").names()]
                leases = json.loads((host / "state" / "leases.json").read_text())
                found += [f"lease {name}" for kind in ("ports", "subnets") for name in leases[kind]]
        return found + list(self.engine_things())

    def engine_things(self) -> Iterator[str]:
        for path in sorted((self.bin / "engine").glob("*/*")):
            yield f"{path.parent.name} {path.name}"

    def close(self) -> None:
        for _, process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self.server.close()


def trusted(tree: Path) -> None:
    """Take from group and others the right to write, as an administrator would."""
    for path in [tree, *tree.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))


def marked_processes(host: Path) -> list[int]:
    """Processes that work for a cluster of a host."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if b"COMPOSE_PROJECT_NAME=usernetes-" in (entry / "environ").read_bytes() and str(
                    os.readlink(entry / "cwd")
                ).startswith(str(host)):
                    found.append(int(entry.name))
    return found
