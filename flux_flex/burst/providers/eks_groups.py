"""A burst's node group, and the launch template that it needs for placement and EFA, as questions.

    group_name("cluster0", "hpc-0")                         # flux-flex-cluster0-hpc-0
    aws.ask("eks", "create_nodegroup", **group_question(config, rental, "cluster0", template))

Pure functions. Sources:
https://docs.aws.amazon.com/eks/latest/APIReference/API_CreateNodegroup.html,
https://docs.aws.amazon.com/eks/latest/userguide/launch-templates.html (what may not be in both),
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa-start.html (interfaces of several cards).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.minicluster import BURST_LABEL
from flux_flex.burst.minicluster_options import MAX_NAME
from flux_flex.burst.providers import Rental
from flux_flex.burst.providers.eks_config import EksConfig

INSTANCE_LABEL = "flux-flex.io/instance"
NAME_PREFIX = "flux-flex-"

_LONGEST_NAME = 63
_BURST = re.compile(rf"[a-z]([-a-z0-9]{{0,{MAX_NAME - 2}}}[a-z0-9])?")
_CAPACITY = {"on-demand": "ON_DEMAND", "spot": "SPOT"}


def group_name(identity: str, burst: str) -> str:
    """Name of a burst's node group: ``flux-flex-<identity>-<burst>``.

    Where that is too long for EKS, or has a '.', a digest stands for the identity. Two instances
    could still come to one name, so it is the tags that say whose a group is.
    """
    name = f"{NAME_PREFIX}{identity}-{burst}"
    if len(name) <= _LONGEST_NAME and "." not in name:
        return name
    digest = hashlib.sha256(f"{identity}/{burst}".encode()).hexdigest()[:8]
    return f"{NAME_PREFIX}{digest}-{burst}"[:_LONGEST_NAME]


def tags_of(identity: str, burst: str) -> dict[str, str]:
    """The tags of all that is made for a burst, which are its nodes' labels, too."""
    return {BURST_LABEL: burst, INSTANCE_LABEL: identity}


def listed_tags(identity: str, burst: str) -> list[dict[str, str]]:
    """The same in EC2's form."""
    return [{"Key": key, "Value": value} for key, value in tags_of(identity, burst).items()]


def read_tags(described: Mapping[str, Any]) -> dict[str, str]:
    """The tags of what EC2 or EKS described, whichever form they have."""
    tags = described.get("tags") or described.get("Tags") or {}
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    return {str(one.get("Key")): str(one.get("Value")) for one in tags}


def burst_of(described: Mapping[str, Any], identity: str) -> str:
    """The burst that something was made for by this instance; empty for what others made.

    Tags are copied, by people and by AWS's own templates, and anybody may write them: what has a
    name must have that of its burst, and a burst is called as a MiniCluster can be.
    """
    tags = read_tags(described)
    burst = tags.get(BURST_LABEL, "")
    if tags.get(INSTANCE_LABEL) != identity or not _BURST.fullmatch(burst):
        return ""
    name = described.get("nodegroupName") or described.get("LaunchTemplateName")
    return burst if name in (None, group_name(identity, burst)) else ""


def group_question(
    config: EksConfig, rental: Rental, identity: str, template: Mapping[str, str]
) -> dict[str, object]:
    """What CreateNodegroup is asked; ``template`` in EKS's words, empty for none.

    No clientRequestToken: boto3 makes one for each call and its retries. One made of the burst's
    name would come back with the next burst of that name, and be answered with the old group; from
    call to call it is the group's name that keeps it single.
    """
    question: dict[str, object] = {
        "clusterName": config.cluster,
        "nodegroupName": group_name(identity, rental.burst),
        "scalingConfig": scaling(rental.nodes),
        "subnets": [*config.subnets],
        "instanceTypes": [rental.type],
        "nodeRole": config.node_role,
        "capacityType": _CAPACITY[config.capacity],
        "labels": {**config.labels, **tags_of(identity, rental.burst)},
        "tags": tags_of(identity, rental.burst),
    }
    more: dict[str, object] = {
        "amiType": config.ami_type,
        "taints": config.eks_taints,
        "launchTemplate": dict(template),
        "diskSize": 0 if template else config.disk_gib,
    }
    return question | {key: value for key, value in more.items() if value}


def scaling(nodes: int) -> dict[str, int]:
    """So many nodes, and no autoscaler may make it less: all of them were rented."""
    return {"minSize": nodes, "maxSize": nodes, "desiredSize": nodes}


def needs_template(config: EksConfig, node_type: NodeType) -> bool:
    """Whether nodes need a launch template of ours."""
    if config.launch_template:
        return False
    has_efa = config.efa and node_type.efa > 0
    return bool(has_efa or config.placement_group or config.security_groups)


def template_data(
    config: EksConfig, node_type: NodeType, cluster_group: str, identity: str, burst: str
) -> dict[str, object]:
    """LaunchTemplateData of a burst; ``cluster_group`` is the cluster's security group.

    EKS adds that group by itself only where a template names none.
    """
    groups = [cluster_group, *config.security_groups]
    data: dict[str, object] = {
        # As EKS has it in templates of its own.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": listed_tags(identity, burst)}],
    }
    if config.efa and node_type.efa:
        data["NetworkInterfaces"] = _efa_interfaces(node_type.efa, groups)
    else:
        data["SecurityGroupIds"] = groups
    if config.placement_group:
        data["Placement"] = {"GroupName": config.placement_group}
    if config.disk_gib:
        # Bottlerocket's second disk has what grows: images and containers.
        device = "/dev/xvdb" if config.ami_type.startswith("BOTTLEROCKET") else "/dev/xvda"
        disk = {"VolumeSize": config.disk_gib, "VolumeType": "gp3", "DeleteOnTermination": True}
        data["BlockDeviceMappings"] = [{"DeviceName": device, "Ebs": disk}]
    return data


def _efa_interfaces(count: int, groups: list[str]) -> list[dict[str, object]]:
    """One EFA interface for each network card: the first is device 0, all others device 1."""
    return [
        {
            "NetworkCardIndex": card,
            "DeviceIndex": min(card, 1),
            "InterfaceType": "efa",
            "Groups": groups,
            "DeleteOnTermination": True,
        }
        for card in range(count)
    ]
