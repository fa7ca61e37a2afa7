"""A cluster for bursts, as an eksctl ClusterConfig to read and change: nothing here applies it.

    text = eksctl_config(ClusterPlan("hpc", "us-east-2", ("us-east-2a", "us-east-2b")), groups)

One managed node group for each node type that has slots, without nodes to begin with, and a small
one for CoreDNS and the Flux Operator. The provider ``eks`` makes node groups of its own, one for
each burst; those here show role, subnets and EFA security groups to take over into flex.toml, and
serve the provider ``kubernetes`` with a cluster autoscaler. They have no taints, which the pods of
that provider do not tolerate; ``burst.eks.taints`` are those of the groups of the provider ``eks``.
What else flex.toml says there and eksctl would do otherwise is named in the file's first lines.

Source: https://docs.aws.amazon.com/eks/latest/eksctl/schema.html (eksctl.io/v1alpha5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.slots import Slot
from flux_flex.errors import BadInput

_HEAD = """\
# An EKS cluster for bursts, written by flux-flex burst eksctl-config. Nothing has been made of it.
# Read it, change it, and then: eksctl create cluster -f FILE
#
# The control plane and the nodes of the group "system" cost money from then on, whether there are
# bursts or not; the other groups begin with no nodes.
"""
_LEFT_OUT = """\
#
# Not in here, of [burst.eks] in flex.toml: {keys}.
# The node groups that flux-flex makes for bursts have that.
"""
_SYSTEM = "system"
_CLUSTER = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,99}")


@dataclass(frozen=True)
class ClusterPlan:
    """What a site chooses.

    zones            availability zones of the cluster, at least two; rented nodes are in the first
    placement_group  one that exists, for the rented nodes; empty: eksctl makes one for EFA groups
    efa              whether types that have EFA get it
    spot             whether rented nodes are spot instances
    system_type      node type of the one node that is always there
    left_out         keys of [burst.eks] that bursts' own node groups follow, and those here do not
    """

    name: str
    region: str
    zones: tuple[str, ...]
    placement_group: str = ""
    efa: bool = True
    spot: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    disk_gib: int = 0
    system_type: str = "m7i.large"
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlotGroup:
    """A node type, and how many nodes of it there can be at once."""

    type: NodeType
    most_nodes: int


def groups_of(slots: Sequence[Slot], types: Sequence[NodeType]) -> list[SlotGroup]:
    """One for each type that has slots, in their order. Raises BadInput for an unknown type."""
    known = {one.name: one for one in types}
    most: dict[str, int] = {}
    for slot in slots:
        if slot.type not in known:
            what = f"the catalogue has no node type {slot.type!r}"
            raise BadInput(what, f"slot {slot.name}", f"it has: {', '.join(known)}")
        most[slot.type] = most.get(slot.type, 0) + slot.nodes
    return [SlotGroup(known[name], nodes) for name, nodes in most.items()]


def eksctl_config(plan: ClusterPlan, groups: Sequence[SlotGroup]) -> str:
    """The ClusterConfig as YAML. Raises BadInput for what eksctl would refuse."""
    _check(plan)
    document = {
        "apiVersion": "eksctl.io/v1alpha5",
        "kind": "ClusterConfig",
        "metadata": {"name": plan.name, "region": plan.region},
        "availabilityZones": [*plan.zones],
        # So that the controller's role can be let in by an access entry.
        "accessConfig": {"authenticationMode": "API_AND_CONFIG_MAP"},
        "managedNodeGroups": [_system(plan), *(_rented(plan, one) for one in groups)],
    }
    text: str = yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)
    left_out = _LEFT_OUT.format(keys=", ".join(plan.left_out)) if plan.left_out else ""
    return _HEAD + left_out + text


def _check(plan: ClusterPlan) -> None:
    if not _CLUSTER.fullmatch(plan.name):
        remedy = "use letters, digits and '-', at most 100"
        raise BadInput(f"{plan.name[:60]!r} is no name of a cluster", "cluster", remedy)
    if len({*plan.zones}) < 2:
        raise BadInput("a cluster needs two zones", "zones", "the nodes are in the first of them")
    for zone in plan.zones:
        if not zone.startswith(plan.region) or zone == plan.region:
            what = f"{zone[:60]!r} is no zone of {plan.region}"
            raise BadInput(what, "zones", f"such as {plan.region}a")


def _system(plan: ClusterPlan) -> dict[str, object]:
    return {
        "name": _SYSTEM,
        "instanceType": plan.system_type,
        "minSize": 1,
        "maxSize": 2,
        "desiredCapacity": 1,
        "privateNetworking": True,
    }


def _rented(plan: ClusterPlan, group: SlotGroup) -> dict[str, object]:
    has_efa = plan.efa and group.type.efa > 0
    document: dict[str, object] = {
        "name": group.type.name.replace(".", "-"),
        "instanceType": group.type.name,
        "minSize": 0,
        "maxSize": group.most_nodes,
        "desiredCapacity": 0,
        # EFA has no public addresses; nodes that are near to each other are in one zone.
        "privateNetworking": True,
        "availabilityZones": [plan.zones[0]],
    }
    more: dict[str, object] = {
        "efaEnabled": has_efa,
        "placement": {"groupName": plan.placement_group} if plan.placement_group else None,
        "spot": plan.spot,
        "volumeSize": plan.disk_gib,
        "labels": dict(plan.labels),
    }
    return document | {key: value for key, value in more.items() if value}
