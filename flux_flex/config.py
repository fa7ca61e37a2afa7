"""``flex.toml``, the site's configuration: validated once, every key with a default and a sentence.

    config = load_config()              # FLUX_FLEX_CONFIG, else /etc/flux/flex.toml, else defaults
    config.usernetes.deadlines.total    # seconds

The IMP hands only ``FLUX_*`` variables to a prolog, hence the name of the variable. A prolog that
runs as root believes the file only if nobody else can write it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator

from flux_flex.errors import BadInput
from flux_flex.fields import STRICT, Duration
from flux_flex.pydantic_errors import bad_input

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PATH = "/etc/flux/flex.toml"
PATH_VARIABLE = "FLUX_FLEX_CONFIG"

# A configuration is a page; what is larger is another file.
_MOST_BYTES = 1 << 20

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_FEWEST_PORTS = 8
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*")
_MOST_PLACEHOLDERS = 100_000

Deadline = Annotated[Duration, Field(gt=0, le=86400)]


def _unlimited(value: object) -> object:
    return None if value == "unlimited" else value


def _by_provider(value: object) -> object:
    return None if value == "" else value


# TOML has no null, and 0 has to mean that nothing may be rented.
Unlimited = BeforeValidator(_unlimited)
MostNodes = Annotated[Annotated[int, Field(ge=0, le=100_000)] | None, Unlimited]
MostDollars = Annotated[Annotated[float, Field(ge=0, le=1e9)] | None, Unlimited]


class Deadlines(BaseModel):
    """The most that each step of a bring-up may take on one node, in seconds."""

    model_config = STRICT

    prepare: Deadline = Field(
        default=60.0, description="the directory, the tree, ports and a subnet"
    )
    up: Deadline = Field(default=600.0, description="the node's container, image included")
    kubeadm_init: Deadline = Field(
        default=300.0, alias="kubeadm-init", description="the control plane"
    )
    install_flannel: Deadline = Field(
        default=120.0, alias="install-flannel", description="the pod network"
    )
    kubeconfig: Deadline = Field(default=60.0, description="writing the kubeconfig")
    join_command: Deadline = Field(
        default=60.0, alias="join-command", description="a token for the workers"
    )
    wait_lead: Deadline = Field(
        default=1200.0, alias="wait-lead", description="until a worker hears how to join"
    )
    kubeadm_join: Deadline = Field(
        default=300.0, alias="kubeadm-join", description="joining, repeated tries included"
    )
    kubeadm_reset: Deadline = Field(
        default=60.0, alias="kubeadm-reset", description="undoing a join before the next try"
    )
    wait_workers: Deadline = Field(
        default=1200.0, alias="wait-workers", description="until the lead has seen all workers join"
    )
    sync_external_ip: Deadline = Field(
        default=120.0, alias="sync-external-ip", description="the nodes' addresses"
    )
    total: Deadline = Field(
        default=1200.0, description="the whole bring-up; keep it under Flux's prolog timeout"
    )
    teardown: Deadline = Field(
        default=45.0, description="taking it all away; keep it under Flux's kill-timeout"
    )

    def of(self, step: str) -> float:
        """The deadline of a step by its name, such as ``kubeadm-init``."""
        seconds: float = getattr(self, step.replace("-", "_"))
        return seconds


class UsernetesConfig(BaseModel):
    """How jobs get their Kubernetes."""

    model_config = STRICT

    template: str = Field(
        default="", description="the Usernetes tree; empty for that of the usernetes package"
    )
    container_engine: Literal["", "docker", "podman", "nerdctl"] = Field(
        default="", description="docker, podman or nerdctl; empty to detect it as Usernetes does"
    )
    compose: str = Field(
        default="", description="the compose command, such as docker-compose; empty for the usual"
    )
    workdir: str = Field(default="/tmp", description="parent of usernetes-<jobid>")  # noqa: S108
    ports: str = Field(default="30000-32767", description="host ports that clusters may lease")
    subnets: str = Field(
        default="10.100.0.0/16", description="an IPv4 network; each node gets a /24 of it"
    )
    path: str = Field(
        default="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        description="PATH of the make targets, which run as the job's user",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="more variables for the make targets, such as QUICK"
    )
    join_tries: int = Field(
        default=5, ge=1, le=100, description="how often a worker tries to join before it fails"
    )
    debug_max: Duration = Field(
        default=3600.0, description="the longest that usernetes_debug keeps a failed cluster"
    )
    deadlines: Deadlines = Field(default=Deadlines(), description="seconds for each step")

    @field_validator("template", "workdir")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return _absolute_path(path)

    @field_validator("ports")
    @classmethod
    def _a_range(cls, ports: str) -> str:
        found = _PORTS.fullmatch(ports)
        if found is None or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
            raise ValueError("should be a range within 1024-65535 such as 30000-32767")
        if int(found[2]) - int(found[1]) + 1 < _FEWEST_PORTS:
            raise ValueError(f"should have room for at least {_FEWEST_PORTS} ports")
        return ports

    @field_validator("subnets")
    @classmethod
    def _a_network(cls, subnets: str) -> str:
        try:
            network = ipaddress.IPv4Network(subnets)
        except ValueError:
            network = None
        if network is None or not 8 <= network.prefixlen <= 24:
            raise ValueError("should be an IPv4 network of /8 to /24 such as 10.100.0.0/16")
        return subnets

    @field_validator("environment")
    @classmethod
    def _variables(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise ValueError(f"{name[:40]!r} is no environment variable")
        return environment

    @property
    def port_range(self) -> range:
        first, last = self.ports.split("-")
        return range(int(first), int(last) + 1)


class TopologyConfig(BaseModel):
    """How flux-flex learns where hosts sit on the network of EC2."""

    model_config = STRICT

    region: str = Field(
        default="", description="the region; empty for that of the environment or profile"
    )
    profile: str = Field(default="", description="the AWS profile; empty for the usual credentials")
    file: str = Field(
        default="/etc/flux/topology.json",
        description="what `flux-flex topology fetch --format aws` wrote; prologs read it",
    )
    cache: str = Field(
        default="", description="directory of EC2's answers; empty for ~/.cache/flux-flex/topology"
    )
    cache_age: Duration = Field(
        default=3600.0, description="how old an answer may be to be used again"
    )
    host_map: str = Field(
        default="", description="a JSON file of host names with their instance ids"
    )

    @field_validator("file", "cache", "host_map")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return _absolute_path(path)


class BurstLimits(BaseModel):
    """What may be rented at the most; None for a limit that does not apply."""

    model_config = STRICT

    nodes: MostNodes = Field(default=None, description="nodes rented at once")
    cost_per_hour: MostDollars = Field(default=None, description="dollars an hour, all nodes")
    budget: MostDollars = Field(default=None, description="dollars in one period")
    period: Duration = Field(default=30 * 86400.0, gt=0, description="the budget's period")
    per_user: MostNodes = Field(
        default=None, description="nodes rented at once for the jobs of one user"
    )
    types: tuple[str, ...] = Field(
        default=(), strict=False, description="node types that may be rented; empty for all"
    )
    hours: str = Field(
        default="",
        description="when to rent, such as 20:00-06:00, the lead's local time; empty for always",
    )

    @field_validator("hours")
    @classmethod
    def _a_time_of_day(cls, hours: str) -> str:
        found = _HOURS.fullmatch(hours)
        if hours and (found is None or hours[:5] == hours[6:]):
            raise ValueError("should be two times of day such as 20:00-06:00")
        return hours

    @property
    def minutes(self) -> tuple[int, int] | None:
        """``hours`` as minutes after midnight, first and end; the end may be the smaller one."""
        found = _HOURS.fullmatch(self.hours)
        if found is None:
            return None
        return int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])


class BurstSlots(BaseModel):
    """Placeholders of one node type: bursts of equal size, named ``<name>-0`` and so on."""

    model_config = STRICT

    # From a letter on, as a MiniCluster of that name has to be.
    name: str = Field(
        pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="burst k is NAME-k, its hosts NAME-k-0, NAME-k-1, ...; small letters, digits,"
        " '-', at most 40",
    )
    type: str = Field(min_length=1, max_length=63, description="a node type of the catalogue")
    bursts: int = Field(ge=1, le=100, description="how many bursts of it there can be at once")
    nodes: int = Field(ge=1, le=4096, description="nodes of each burst, at the most")


class BurstLead(BaseModel):
    """The broker that rented brokers join."""

    model_config = STRICT

    address: str = Field(
        default="", description="a host name or IP address that rented nodes can reach"
    )
    port: int = Field(default=8050, ge=1, le=65535, description="its TCP port")
    name: str = Field(default="", description="host name of the lead broker, as R has it")

    @field_validator("address")
    @classmethod
    def _reachable(cls, address: str) -> str:
        try:
            ip = ipaddress.ip_address(address) if address else None
        except ValueError:
            # A last label of digits would be a mistyped IPv4 address (RFC 1123).
            good = _HOST.fullmatch(address) and not address.rpartition(".")[2].isdigit()
        else:
            # A zone (fe80::1%eth0) means nothing on another host, and % is a token to Flux.
            good = ip is None or not ("%" in address or ip.is_unspecified or ip.is_multicast)
        if not good or len(address) > 253:
            raise ValueError("should be a host name or an IP address, without the port")
        return address

    @field_validator("name")
    @classmethod
    def _a_host(cls, name: str) -> str:
        if name and (len(name) > 253 or not _HOST.fullmatch(name)):
            raise ValueError("should be a host name")
        return name


class BurstLocal(BaseModel):
    """The provider ``local``: brokers on the lead's own machine, to try bursting out."""

    model_config = STRICT

    rundir: str = Field(
        default="", description="where its brokers live; empty for a folder in the lead's rundir"
    )
    flux: str = Field(default="flux", min_length=1, description="the flux command")
    cores: int = Field(
        default=0, ge=0, le=4096, description="cores of each broker; 0 for those of its type"
    )
    curve_cert: str = Field(
        default="/etc/flux/system/curve.cert",
        min_length=1,
        description="the certificate of all brokers, made by flux keygen",
    )

    @field_validator("rundir", "curve_cert")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return _absolute_path(path)


class BurstSettings(BaseModel):
    """When the instance grows onto rented nodes, from whom, and how far."""

    model_config = STRICT

    provider: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9-]{0,30})?$",
        description="who rents, such as local; empty for no bursting",
    )
    threshold: Duration = Field(
        default=600.0, description="rent only where a job starts sooner by more than this"
    )
    idle_timeout: Duration = Field(
        default=300.0, description="how long rented nodes may idle before they go"
    )
    boot_deadline: Deadline = Field(
        default=600.0, description="how long rented nodes may take to join before they are given up"
    )
    release_deadline: Annotated[Deadline | None, BeforeValidator(_by_provider)] = Field(
        default=None,
        description="how long nodes are paid for after they have idled, which limits reckon with;"
        " empty for what is usual with the provider",
    )
    queue: str = Field(
        default="", description="jobs of this queue may burst without saying so; empty for none"
    )
    depth: int = Field(
        default=32, ge=1, le=100_000, description="how many pending jobs, from the head, to weigh"
    )
    catalog: str = Field(default="", description="the catalogue of node types, a YAML file")
    on_unload: Literal["keep", "drain"] = Field(
        default="keep", description="what becomes of rented nodes when the controller is unloaded"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="loopback port of Prometheus counters; 0 for none"
    )
    limits: BurstLimits = Field(default=BurstLimits(), description="what may be rented at the most")
    slots: tuple[BurstSlots, ...] = Field(
        default=(), strict=False, description="hosts that are set aside for rented nodes"
    )
    lead: BurstLead = Field(default=BurstLead(), description="the broker that rented brokers join")
    local: BurstLocal = Field(default=BurstLocal(), description="the provider local")
    kubernetes: dict[str, Any] = Field(
        default_factory=dict, description="the provider kubernetes; docs/bursting.md has its keys"
    )
    eks: dict[str, Any] = Field(
        default_factory=dict, description="the provider eks; docs/bursting.md has its keys"
    )
    fluxburst: dict[str, Any] = Field(
        default_factory=dict, description="the provider fluxburst; docs/bursting.md has its keys"
    )

    @field_validator("catalog")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return _absolute_path(path)

    @field_validator("slots")
    @classmethod
    def _names_do_not_overlap(cls, slots: tuple[BurstSlots, ...]) -> tuple[BurstSlots, ...]:
        for place, slot in enumerate(slots):
            for other in slots[:place]:
                short, long = sorted((slot.name, other.name), key=len)
                # The bursts of hpc7a are hpc7a-0 ..., and hpc7a-0-0 is a host of one of them.
                if re.fullmatch(r"(-[0-9]+)*", long.removeprefix(short)):
                    raise ValueError(f"the names {other.name} and {slot.name} overlap")
        total = sum(slot.bursts * slot.nodes for slot in slots)
        if total > _MOST_PLACEHOLDERS:
            raise ValueError(f"{total} hosts in all, more than {_MOST_PLACEHOLDERS}")
        return slots


class FlexConfig(BaseModel):
    """The whole file."""

    model_config = STRICT

    usernetes: UsernetesConfig = Field(default=UsernetesConfig(), description="a cluster per job")
    topology: TopologyConfig = Field(
        default=TopologyConfig(), description="where hosts sit on the network"
    )
    burst: BurstSettings = Field(default=BurstSettings(), description="growing onto rented nodes")


@dataclass(frozen=True, slots=True)
class BurstSlot:
    """Room for one burst of a node type: ``hosts``, which R has, under the burst's ``name``."""

    name: str
    type: str
    hosts: tuple[str, ...]


def slots_of(burst: BurstSettings) -> tuple[BurstSlot, ...]:
    """Every slot, in the order of the file, which is that of the hosts' ranks."""
    return tuple(
        BurstSlot(burst, slot.type, tuple(f"{burst}-{host}" for host in range(slot.nodes)))
        for slot in burst.slots
        for burst in (f"{slot.name}-{k}" for k in range(slot.bursts))
    )


def config_path(path: str | Path | None = None) -> Path:
    """The file that :func:`load_config` reads, whether it is there or not."""
    return Path(path or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load_config(path: str | Path | None = None) -> FlexConfig:
    """The site's configuration; defaults where there is no file.

    ``path`` is a file that has to exist; without it the file of FLUX_FLEX_CONFIG, which has to
    exist too, or ``/etc/flux/flex.toml``, which need not. Raises BadInput with file and key,
    and for a file that somebody else than root and this process's user could have written.
    """
    named = path or os.environ.get(PATH_VARIABLE)
    place = config_path(path)
    try:
        text = read_trusted(place)
    except FileNotFoundError:
        if named:
            remedy = "give a file that exists" if path else f"set {PATH_VARIABLE} to one, or unset"
            raise BadInput("no such file", str(place), remedy) from None
        return FlexConfig()
    try:
        return parse_config(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"not TOML: {error}", str(place), "see https://toml.io") from None
    except RecursionError:
        raise BadInput("nested too deep", str(place), "see https://toml.io") from None
    except BadInput as error:
        raise error.at(str(place)) from None


def parse_config(document: Mapping[str, Any]) -> FlexConfig:
    """The configuration in a decoded document. Raises BadInput with the key path."""
    try:
        return FlexConfig.model_validate(document)
    except ValidationError as error:
        raise bad_input(error, FlexConfig) from error


def _absolute_path(path: str) -> str:
    if path and (not path.startswith("/") or ".." in path.split("/") or not path.isprintable()):
        raise ValueError("should be an absolute path without ..")
    return path


def read_trusted(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """The text of a file that only root and this user can write.

    Raises FileNotFoundError, and BadInput for what is no such file, or longer than ``most_bytes``.
    """
    try:
        # A pipe by that name would keep everybody waiting for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadInput("no regular file", str(path), "name a file")
            if status.st_uid not in (0, os.geteuid()):
                raise BadInput("belongs to somebody else", str(path), f"chown root {path}")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise BadInput("others can write it", str(path), f"chmod go-w {path}")
            content = file.read(most_bytes + 1)
            if len(content) > most_bytes:
                raise BadInput(f"more than {most_bytes} bytes", str(path), "name the right file")
            return content.decode("utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(error.strerror or "cannot be read", str(path), "make it readable") from None
    except UnicodeDecodeError:
        raise BadInput("not UTF-8", str(path), "save it as UTF-8") from None
