"""From flex.toml to what the controller goes by: limits, slots, node types, and the provider."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flux_flex.burst.bootstrap import Lead, follower_toml, hosts_of, with_cores
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig, Limits
from flux_flex.burst.config import Provider as ProviderConfig
from flux_flex.burst.controller import Settings
from flux_flex.burst.eksctl import ClusterPlan
from flux_flex.burst.plan import QueuePolicy
from flux_flex.burst.providers import ENTRY_POINTS, Provider
from flux_flex.burst.slots import Slot
from flux_flex.cli.catalog import named_catalog
from flux_flex.config import PATH_VARIABLE, BurstSettings, FlexConfig, slots_of
from flux_flex.errors import BadInput
from flux_flex.host.flux_answers import RpcError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.scheduling import Scheduling, scheduling_of
from flux_flex.pydantic_errors import bad_input

# How long nodes are paid for after they have idled away: draining, and the provider's own time.
# A node group of EKS takes long to go. Of a provider that is not ours nothing is known.
_RELEASE_S = {"local": 120.0, "kubernetes": 300.0, "eks": 1200.0}
_LONGEST_RELEASE_S = 1200.0

if TYPE_CHECKING:  # bring packages that only those providers need
    from flux_flex.burst.providers.fluxburst import FluxBurstConfig
    from flux_flex.burst.providers.kubernetes import KubernetesConfig

# Stand-ins for what a table [burst.eks] needs and nobody knows before there is a cluster.
_NOT_YET: Mapping[str, object] = {
    "cluster": "not-yet",
    "identity": "not-yet",
    "node_role": "arn:aws:iam::000000000000:role/not-yet",
    "subnets": ["subnet-00000000"],
}
_NOT_IN_CLUSTER = ("taints", "launch_template", "security_groups", "ami_type")

OURS = ("local", "kubernetes", "eks", "fluxburst")

# The policies that the start estimate knows, by what schedulers call theirs.
_POLICIES: dict[str, QueuePolicy] = {
    "fcfs": "fcfs", "easy": "easy", "conservative": "conservative", "hybrid": "conservative",
}  # fmt: skip


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """BadInput from within names the flex.toml, or says that there is none, first."""
    try:
        yield
    except BadInput as error:
        if error.where.startswith("/"):  # a file that flex.toml names, such as the catalogue
            raise
        if file.exists():
            raise error.at(str(file)) from None
        remedy = f"write one (docs/bursting.md), or name another: export {PATH_VARIABLE}=FILE"
        raise BadInput("no such file, and bursting needs one", str(file), remedy) from None


def types_of(site: FlexConfig) -> tuple[NodeType, ...]:
    """The node types that have slots, from the catalogue. Raises BadInput."""
    catalog = named_catalog(site.burst.catalog)
    names = dict.fromkeys(slot.type for slot in slots_of(site.burst))
    cores = site.burst.local.cores if site.burst.provider == "local" else 0
    try:
        return tuple(with_cores(catalog.get(name), cores) for name in names)
    except BadInput as error:
        raise error.at("burst.slots") from None


def slots_in(site: FlexConfig) -> tuple[Slot, ...]:
    """The slots of flex.toml, in the order of their ranks."""
    found = slots_of(site.burst)
    return tuple(Slot(slot.name, slot.type, tuple(slot.hosts)) for slot in found)


def settings_of(
    site: FlexConfig, queue_policy: QueuePolicy = "fcfs", *, waits: bool = False
) -> Settings:
    """What the controller goes by; ``waits`` as :func:`waits_of` says. Raises BadInput where
    flex.toml lacks something or contradicts itself."""
    burst = site.burst
    if not burst.provider:
        raise BadInput("it is not set", "burst.provider", "name who rents, such as local")
    if not burst.slots:
        remedy = "add a table [[burst.slots]] for each type of nodes"
        raise BadInput("it is not set", "burst.slots", remedy)
    limits = Limits(
        nodes=burst.limits.nodes,
        cost_per_hour=burst.limits.cost_per_hour,
        budget=burst.limits.budget,
        period=burst.limits.period,
        per_user=burst.limits.per_user,
        types=burst.limits.types or None,
    )
    rents = ProviderConfig(name=burst.provider, boot=burst.boot_deadline, types=types_of(site))
    try:
        config = BurstConfig(
            threshold=burst.threshold,
            idle_timeout=burst.idle_timeout,
            release=release_s_of(burst),
            depth=burst.depth,
            limits=limits,
            providers=(rents,),
        )
    except ValidationError as error:
        raise bad_input(error, BurstConfig).at("burst") from error
    slots = tuple(Slot(slot.name, slot.type, tuple(slot.hosts)) for slot in slots_of(site.burst))
    return Settings(
        config,
        slots,
        boot_deadline_s=burst.boot_deadline,
        queue_policy=queue_policy,
        queue=burst.queue,
        waits=waits,
        hours=burst.limits.minutes,
        minute_of=_local_minute,
    )


def release_s_of(burst: BurstSettings) -> float:
    """For how long nodes are paid for after they have idled, in seconds. Raises BadInput."""
    if burst.release_deadline is not None:
        return burst.release_deadline
    if burst.provider == "fluxburst":
        return _fluxburst_config(burst).release_deadline
    return _RELEASE_S.get(burst.provider, _LONGEST_RELEASE_S)


def _local_minute(seconds: float) -> int:
    """The minute of the day at a time, as the clock on the wall of the lead broker has it."""
    there = time.localtime(seconds)
    return there.tm_hour * 60 + there.tm_min


def queue_policy_of(instance: FluxInstance, queue: str = "") -> QueuePolicy:
    """The policy of the running scheduler for a queue, or for jobs that name none."""
    found = _scheduling(instance)
    return _POLICIES.get(found.policy_of(queue) if found else "", "fcfs")


def waits_of(instance: FluxInstance, queue: str = "") -> bool:
    """Whether the running scheduler lets jobs of a queue wait for hosts that are down; no, where
    that is not known."""
    found = _scheduling(instance)
    return bool(found and found.waits(queue))


def _scheduling(instance: FluxInstance) -> Scheduling | None:
    def ask(topic: str) -> Mapping[str, object] | None:
        try:
            return instance.rpc(topic, nodeid=0)
        except RpcError as error:
            if error.errno in (errno.ENOSYS, errno.EPERM):
                return None
            raise

    return scheduling_of(ask, instance.rpc("config.get", nodeid=0))


def open_provider(site: FlexConfig, instance: FluxInstance) -> Provider:
    """The provider that flex.toml names: one of ours, or one of an entry point. BadInput."""
    name = site.burst.provider
    if name == "local":
        from flux_flex.burst.providers.local import LocalProvider

        rundir, flux = _rundir(site, instance), site.burst.local.flux
        toml = _broker_toml(site, instance)
        return LocalProvider(types_of(site), toml, rundir=rundir, flux=flux)
    if name == "kubernetes":
        from flux_flex.burst.providers.kubernetes import KubernetesProvider

        config = kubernetes_config(site.burst)
        return KubernetesProvider(config, types_of(site), slots_in(site), config.identity)
    if name == "eks":
        return _eks(site)
    if name == "fluxburst":
        from flux_flex.burst.providers.fluxburst import FluxBurstProvider

        table = _fluxburst_config(site.burst)
        return FluxBurstProvider(table, types_of(site), broker_toml=_broker_toml(site, instance))
    return _third_party(name, types_of(site), site)


def _fluxburst_config(burst: BurstSettings) -> FluxBurstConfig:
    from flux_flex.burst.providers.fluxburst import parse_fluxburst_config

    with _of_table("burst.fluxburst"):
        return parse_fluxburst_config(burst.fluxburst)


@contextmanager
def _of_table(name: str) -> Iterator[None]:
    """BadInput from within names the table first."""
    try:
        yield
    except BadInput as error:
        raise error.at(name) from None


def _broker_toml(site: FlexConfig, instance: FluxInstance) -> str:
    """The configuration of rented brokers, as ``burst configure`` writes it."""
    burst = site.burst
    lead = Lead(burst.lead.name, burst.lead.address, burst.lead.port)
    return follower_toml(hosts_of(instance.resources()), lead, burst.local.curve_cert)


def kubernetes_config(burst: BurstSettings) -> KubernetesConfig:
    """The table ``[burst.kubernetes]``. Raises BadInput where it cannot be used, or lacks what only
    the provider eks does without."""
    from flux_flex.burst.providers.kubernetes import parse_kubernetes_config

    with _of_table("burst.kubernetes"):
        config = parse_kubernetes_config(burst.kubernetes)
    needed = {
        "kubeconfig": "name one whose user has the rights of docs/kubernetes-rbac.yaml",
        "identity": "choose a word that no other instance has, and keep it",
    }
    for key, remedy in needed.items():
        if burst.provider == "kubernetes" and not getattr(config, key):
            raise BadInput("it is not set", f"burst.kubernetes.{key}", remedy)
    return config


def _eks(site: FlexConfig) -> Provider:
    """Asks nothing of AWS yet. A kubeconfig that is given is used, else EKS itself is asked.

    What is rented outlives the lead broker, whose own identity does not: that of the table is used.
    """
    from flux_flex.burst.providers.eks import EksProvider
    from flux_flex.burst.providers.eks_access import eks_kube
    from flux_flex.burst.providers.eks_aws import Aws
    from flux_flex.burst.providers.eks_config import parse_eks_config
    from flux_flex.burst.providers.kubernetes import KubernetesProvider

    with _of_table("burst.eks"):
        config = parse_eks_config(site.burst.eks)
    aws = Aws(config.region, config.profile)
    kube = None if site.burst.kubernetes.get("kubeconfig") else eks_kube(aws, config.cluster)
    inner = KubernetesProvider(
        kubernetes_config(site.burst), types_of(site), slots_in(site), config.identity, kube,
        own_nodes=True, tolerations=config.tolerations,
    )  # fmt: skip
    port = site.burst.lead.port
    return EksProvider(config, types_of(site), inner, config.identity, port, aws)


def cluster_plan(
    burst: BurstSettings, name: str, region: str, zones: tuple[str, ...]
) -> ClusterPlan:
    """A cluster for `burst eksctl-config`, with nodes as ``[burst.eks]`` has them if it is used.

    What is known only when there is a cluster need not be in the table yet. Raises BadInput where
    the table cannot be used, or is of another cluster or region.
    """
    if burst.provider not in ("", "eks", "kubernetes"):
        remedy = 'set it to "eks", with slots of EC2 types, or name another file in '
        what = f"the slots are for {burst.provider}, which rents no nodes of EC2"
        raise BadInput(what, "burst.provider", remedy + PATH_VARIABLE)
    if burst.provider != "eks":
        return ClusterPlan(name, region, zones)
    from flux_flex.burst.providers.eks_config import parse_eks_config

    given = {key: value for key, value in burst.eks.items() if value not in ("", [])}
    with _of_table("burst.eks"):
        config = parse_eks_config({**_NOT_YET, **given})
    for option, key, word in (("--name", "cluster", name), ("--region", "region", region)):
        if key in given and given[key] != word:
            what = f"burst.eks.{key} is {given[key]} in flex.toml"
            raise BadInput(what, f"{option} {word[:60]}", f"use {option} {given[key]}")
    return ClusterPlan(
        name, region, zones, config.placement_group, config.efa, config.capacity == "spot",
        config.labels, config.disk_gib,
        left_out=tuple(key for key in _NOT_IN_CLUSTER if getattr(config, key)),
    )  # fmt: skip


def _rundir(site: FlexConfig, instance: FluxInstance) -> Path:
    if site.burst.local.rundir:
        return Path(site.burst.local.rundir)
    return Path(instance.attribute("rundir") or "/run/flux") / "flux-flex"


def _third_party(name: str, types: Sequence[NodeType], site: FlexConfig) -> Provider:
    found = [one for one in entry_points(group=ENTRY_POINTS) if one.name == name]
    if not found:
        known = [*OURS, *(one.name for one in entry_points(group=ENTRY_POINTS))]
        what = f"no provider is called {name!r}"
        raise BadInput(what, "burst.provider", f"use one of {', '.join(known)}")
    provider: Provider = found[0].load()(site.burst, types)
    return provider
