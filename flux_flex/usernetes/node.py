"""One node of a cluster being brought up: its steps, each of them recorded, timed and bounded.

    node = Node(cluster, member, host, held)    # held: the lock on its record
    node.prepare()                  # directory, tree, subnet
    node.take_ports(ports)
    node.up()
    node.make("kubeadm-init")

Before anything is made, the record says so; a teardown needs nothing but the record.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from flux_flex.config import UsernetesConfig
from flux_flex.errors import FlexError
from flux_flex.host.engines import Engine
from flux_flex.model.usernetes import UsernetesRequest
from flux_flex.usernetes.account import Account, run_as
from flux_flex.usernetes.members import Member
from flux_flex.usernetes.ports import Leases, PortTaken, is_free
from flux_flex.usernetes.registration import KUBEADM_CONFIG, with_registration
from flux_flex.usernetes.rendezvous import Aborted
from flux_flex.usernetes.state import Held, Record, State, process_start
from flux_flex.usernetes.steps import PROJECT_VARIABLE, Make, StepFailed, kill_marked
from flux_flex.usernetes.tree import Tree, copy_tree, find_template, read_tree
from flux_flex.usernetes.workdir import (
    Place,
    make_directory,
    make_links,
    place_of,
    read_file,
    write_file,
)

LOG = "bring-up.log"
PORTS_FILE = "ports.json"

# The names of the ports in the order in which they are leased, and their numbers in old trees.
SERVICES = {"etcd": 2379, "kube-apiserver": 6443, "kubelet": 10250, "flannel": 8472}

_MOST_SUBNETS = 4
# What docker, podman and nerdctl say of a subnet that a network has already.
_SUBNET_TAKEN = re.compile(r"overlap|subnet .* already (?:used|in use|exists)", re.IGNORECASE)

_OVERRIDE = "docker-compose.flux-flex.yaml"
_MOST_KUBECONFIG = 1 << 16

log = logging.getLogger("flux_flex.usernetes")


# Hears of each step as it begins.
StepListener = Callable[[Member, str], None]


@dataclass(frozen=True)
class Cluster:
    """What all nodes of a cluster agree on.

    ``identity`` is the F58 id, without its ƒ, of the job whose cluster it is, or of the job that
    the whole instance is; ``instance`` where it is none. ``told_job`` is the job that hears of
    the cluster's state; None for a cluster over a whole instance.
    """

    identity: str
    jobid: int | None
    key: str
    members: tuple[Member, ...]
    request: UsernetesRequest
    told_job: int | None = None
    instance: str = ""

    @property
    def lead(self) -> Member:
        return self.members[0]


@dataclass(frozen=True)
class Host:
    """What the node's host gives: configuration, state, leases, the user and the user's engine.

    ``labels`` say in Kubernetes where the host sits; none where the site does not know.
    """

    config: UsernetesConfig
    state: State
    leases: Leases
    account: Account
    engine: Engine
    labels: Mapping[str, str] = field(default_factory=dict)


class Node:
    """One member of a cluster, on its host, with the lock on its record held."""

    def __init__(
        self,
        cluster: Cluster,
        member: Member,
        host: Host,
        held: Held,
        on_step: StepListener | None = None,
    ) -> None:
        self.cluster = cluster
        self.member = member
        self.host = host
        self.held = held
        self._on_step = on_step
        self._end = time.monotonic() + host.config.deadlines.total
        self._place: Place = place_of(
            host.config.workdir, cluster.jobid, cluster.identity, member.local_index
        )
        self._directory = -1
        self._log = -1
        self._tree: Tree | None = None
        self._tried: list[str] = []
        self._shares_host = member.local_index > 0
        self.address = host_address(member.host)
        self.record = Record(
            name=f"{cluster.identity}.{member.rank}",
            jobid=cluster.jobid,
            rank=member.rank,
            host=member.host,
            uid=host.account.uid,
            lead=member.is_lead,
            key=cluster.key,
            instance=cluster.instance,
            pid=os.getpid(),
            pid_start=process_start(os.getpid()),
            began=time.time(),
            project=f"usernetes-{cluster.identity.lower()}-{member.rank}-{secrets.token_hex(3)}",
            engine=host.engine.kind,
            socket=host.engine.socket,
        )

    @property
    def tree(self) -> Tree:
        assert self._tree is not None, "prepare first"
        return self._tree

    # -- the steps -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the directory, put the tree there, give it to the user, and lease a subnet."""
        with self.step("prepare"):
            template = find_template(self.host.config.template)
            self._tree = read_tree(template)
            self._check_request()
            self._check_address()
            self._make_directory()
            account = self.host.account
            copy_tree(template, self._directory, uid=account.uid, gid=account.gid)
            if self.member.is_lead and self.host.labels:
                self._label_lead()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND
            self._log = os.open(LOG, flags, 0o600, dir_fd=self._directory)
            os.fchown(self._log, account.uid, account.gid)
            os.fchown(self._directory, account.uid, account.gid)
            self._lease_subnet()

    def choose_ports(self, avoid: Iterable[int] = ()) -> dict[str, int]:
        """Lease ports for the cluster, or for a member that shares its host. Raises FlexError."""
        if not self.tree.own_ports:
            self._exactly(SERVICES)
            return dict(SERVICES)
        names = [*SERVICES, *map(str, self.cluster.request.ports)]
        same_for = f"{self.cluster.identity}/{self.member.rank if self.shares_host else 0}"
        leased = self.host.leases.ports(
            self.record.name, len(names), same_for=same_for, avoid=avoid
        )
        return dict(zip(names, leased, strict=True))

    def take_ports(self, ports: Mapping[str, int]) -> None:
        """Have these ports: leased here, and told to make and to the user. Raises PortTaken."""
        if not (self.member.is_lead or self.shares_host):
            self._exactly(ports)
        self.note(ports=dict(ports))
        if self.cluster.request.ports:
            text = json.dumps({p: ports[str(p)] for p in self.cluster.request.ports}) + "\n"
            self.write(PORTS_FILE, text, mode=0o600)
        override = self._override(ports)
        if override:
            self.write(_OVERRIDE, json.dumps(override, indent=2) + "\n", mode=0o600)

    def up(self) -> None:
        """Start the node's container. Raises PortTaken where a port went to somebody else.

        A subnet that went to somebody else is this node's affair alone: it takes another.
        """
        for left in range(_MOST_SUBNETS - 1, -1, -1):
            try:
                self.make("up")
            except StepFailed as error:
                self.down()
                self._check_ports_free()
                if not left or not _SUBNET_TAKEN.search(error.what):
                    raise
                log.info("%s: %s: taken; trying another", self.member.node_name, self.record.subnet)
                self._lease_subnet()
            else:
                return

    def make(self, target: str, most_s: float = math.inf) -> None:
        """Run a make target as a step, for ``most_s`` seconds at the most. Raises StepFailed."""
        assert self.record.ports, "take ports first"
        make = Make(self._directory, self._log, self.host.account, self._environment())
        with self.step(target) as limit_s:
            make.run(target, min(limit_s, most_s))

    def down(self) -> None:
        """Remove the container, to begin again: the directory, and with it the log, stays."""
        kill_marked(self.record.project, 5.0)
        left = remove_containers(self.record, self.host, self.host.config.deadlines.teardown)
        if left:
            raise StepFailed(f"cannot be removed to begin again: {left[0]}", "up")

    # -- what steps are made of ------------------------------------------------------------------

    @contextmanager
    def step(self, name: str) -> Iterator[float]:
        """A step with a name: recorded before, a line in the log after; gives its seconds.

        Whatever fails in it comes out as StepFailed with the step's name.
        """
        limit_s = min(self.host.config.deadlines.of(name), self.left_s)
        if limit_s <= 0:
            raise StepFailed("the time for the whole bring-up is over", name)
        self.note(step=name)
        if self._on_step is not None:
            self._on_step(self.member, name)
        began = time.monotonic()
        try:
            yield limit_s
        except (StepFailed, PortTaken, Aborted):
            raise
        except FlexError as error:
            where = f"{error.where}: " if error.where else ""
            raise StepFailed(f"{where}{error.what}", name, error.remedy) from error
        except OSError as error:
            raise StepFailed(
                f"{error.filename or self._place.path}: {error.strerror}", name
            ) from error
        log.info("%s: %s took %.1f s", self.member.node_name, name, time.monotonic() - began)

    @property
    def shares_host(self) -> bool:
        """Whether another rank of the cluster is here, so that this one needs ports of its own."""
        return self._shares_host or any(
            other.key == self.cluster.key and other.instance == self.cluster.instance
            for other in self.host.state.records()
            if other.name != self.record.name
        )

    @property
    def left_s(self) -> float:
        """How much of the time for the whole bring-up is left, in seconds."""
        return self._end - time.monotonic()

    def note(self, **changes: object) -> None:
        """Write a change into the record."""
        self.record = self.record.model_copy(update=changes)
        self.held.write(self.record)

    def write(self, name: str, text: str, *, mode: int) -> None:
        """Put a file of the user's into the directory."""
        account = self.host.account
        write_file(self._directory, name, text, mode=mode, uid=account.uid, gid=account.gid)

    def read(self, name: str) -> str:
        """A file that a make target wrote into the directory. Raises FlexError."""
        uid = self.host.account.uid
        return read_file(self._directory, name, uid=uid, most=_MOST_KUBECONFIG)

    def remove_file(self, name: str) -> None:
        """Remove a file from the directory, where it is there."""
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            return

    def close(self) -> None:
        """Let go of the directory and the log."""
        for descriptor in (self._directory, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._directory = self._log = -1

    def _exactly(self, ports: Mapping[str, int]) -> None:
        try:
            self.host.leases.exactly(self.record.name, list(ports.values()))
        except PortTaken as error:
            if self.tree.own_ports:
                raise
            what = f"{error.where}: {error.what}, and this Usernetes tree has fixed ports"
            remedy = "set usernetes.template to a tree with PORT_KUBE_APISERVER and the like"
            raise FlexError(what, str(self.tree.path), remedy) from None

    def _make_directory(self) -> None:
        """The directory and its links. The record claims nothing that somebody else has."""
        users = self._users()
        self.note(workdir=self._place.path)
        try:
            self._directory, device, inode = make_directory(self._place, users)
        except FlexError:
            self.note(workdir="")
            if self._shares_host or not self.shares_host:
                raise
            # Brokers of other names, on this host too: they need what ranks of one name do.
            self._shares_host = True
            self._place = Place(f"{self._place.path}.rank{self.member.rank}", ())
            self._make_directory()
            return
        self.note(device=device, inode=inode, links=self._place.links)
        make_links(self._place, users)

    def _label_lead(self) -> None:
        """Have the lead register itself with its labels, if the tree is one that we know.

        In the directory's own copy, while nobody else can reach it.
        """
        try:
            text = with_registration(self.read(KUBEADM_CONFIG), self.host.labels)
        except FlexError as error:
            name = self.member.node_name
            log.info("%s: no topology labels: %s: %s", name, error.where, error.what)
        else:
            self.write(KUBEADM_CONFIG, text, mode=0o600)

    def _lease_subnet(self) -> None:
        """A subnet that this node has not tried yet."""
        if self.record.subnet:
            self._tried.append(self.record.subnet)
        subnet = self.host.leases.subnet(
            self.record.name,
            index=self.member.index,
            of=len(self.cluster.members),
            avoid=self._tried,
        )
        self.note(subnet=subnet)

    def _check_ports_free(self) -> None:
        for port in self.record.ports.values():
            if not is_free(port):
                what = "another program took it before the cluster could"
                raise PortTaken(what, f"port {port}")

    def _users(self) -> dict[str, str]:
        """Paths that other clusters of this host have, with whose they are."""
        found = {}
        for other in self.host.state.records():
            if other.name != self.record.name:
                whose = f"job ƒ{other.name.rpartition('.')[0]}"
                found.update(dict.fromkeys((other.workdir, *other.links), whose))
        return found

    def _check_request(self) -> None:
        if self.cluster.request.ports and not self.tree.own_ports:
            what = "a Usernetes tree with fixed ports, which cannot give a job ports of its own"
            raise FlexError(what, str(self.tree.path), "leave usernetes.ports away")

    def _check_address(self) -> None:
        is_alone = len({member.host for member in self.cluster.members}) == 1
        if ipaddress.ip_address(self.address).is_loopback and not is_alone:
            what = "this host has no address that the other hosts could reach it by"
            remedy = "give it a default route, or an address for its name"
            raise FlexError(what, self.member.host, remedy)

    def _override(self, ports: Mapping[str, int]) -> dict[str, object]:
        """What the request changes in the tree's compose file, as a file that compose merges."""
        request = self.cluster.request
        service: dict[str, object] = {}
        if request.image:
            service["build"] = {"context": ".", "args": {"BASE_IMAGE": request.image}}
        if request.cpus is not None:
            service["cpus"] = request.cpus
        if request.memory_bytes is not None:
            service["mem_limit"] = request.memory_bytes
        if request.ports:
            service["ports"] = [f"{ports[str(port)]}:{port}" for port in request.ports]
        return {"services": {"node": service}} if service else {}

    def _environment(self) -> dict[str, str]:
        """All that the make targets see: nothing of this process's own environment."""
        config, account, ports = self.host.config, self.host.account, self.record.ports
        overridden = bool(self._override(ports))
        files = {"COMPOSE_FILE": f"docker-compose.yaml:{_OVERRIDE}"} if overridden else {}
        return {
            **account.environment(config.path),
            **config.environment,
            **self.host.engine.environment(),
            **files,
            "HOSTNAME": self.member.host,
            "HOST_IP": self.address,
            "NODE_NAME": self.member.node_name,
            "NODE_SUBNET": self.record.subnet,
            "PORT_ETCD": str(ports["etcd"]),
            "PORT_KUBE_APISERVER": str(ports["kube-apiserver"]),
            "PORT_KUBELET": str(ports["kubelet"]),
            "PORT_FLANNEL": str(ports["flannel"]),
            PROJECT_VARIABLE: self.record.project,
        }


def remove_containers(record: Record, host: Host, timeout_s: float) -> list[str]:
    """Remove what the node's engine has of a cluster, as the user; what is left, with reasons."""
    environment = host.account.environment(host.config.path) | host.engine.environment()
    left: list[str] = run_as(
        host.account,
        lambda: host.engine.remove(record.project, timeout_s=timeout_s, environment=environment),
        path=host.config.path,
        deadline_s=timeout_s,
    )
    return left


def host_address(name: str) -> str:
    """The address that others reach this host by: where its default route begins, else its name's.

    No packet is sent: the kernel only says what it would put into one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = _address_of(name)
    return str(ipaddress.ip_address(address))


def _address_of(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError:
        return "127.0.0.1"
