"""Labels that say on a Kubernetes node where it sits, under the names that EKS gives them.

    labels_of(place)["topology.k8s.aws/network-node-layer-1"]     # nn-… at the top of the network

The names are those of cloud-provider-aws, which counts layers from 1 at the top, so what finds its
way by them on EKS finds it on a job's own cluster too. A kubelet may give itself all of them:
those of kubernetes.io are on its list, and topology.k8s.aws is not kubernetes.io's.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from flux_flex.errors import FlexError
from flux_flex.host.instance import Instance
from flux_flex.model.quoting import one_line
from flux_flex.topology.site import site_network

if TYPE_CHECKING:  # the network brings numpy along, which a site without a topology need not pay
    from flux_flex.config import TopologyConfig
    from flux_flex.model.network import NetworkPlace

LAYER = "topology.k8s.aws/network-node-layer-"
ZONE_ID = "topology.k8s.aws/zone-id"
ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"

# What Kubernetes takes as the value of a label, but for the empty one, which says nothing.
_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

log = logging.getLogger("flux_flex.topology")


def labels_of(place: NetworkPlace) -> dict[str, str]:
    """The labels of a node by their names; what is unknown, or no value of a label, is left out.

    A layer that is left out keeps its number: those below it do not move up.
    """
    found = {f"{LAYER}{layer}": node for layer, node in enumerate(place.network_nodes, start=1)}
    found |= {
        ZONE_ID: place.zone_id,
        ZONE: place.zone,
        REGION: place.region,
        INSTANCE_TYPE: place.instance_type,
    }
    return {name: value for name, value in found.items() if _VALUE.fullmatch(value)}


def labels_of_host(config: TopologyConfig, host: str, instance: Instance) -> dict[str, str]:
    """The labels of a host as the site knows it; none where the site knows nothing of it.

    A topology that cannot be read is a line in the log: a node without labels is a node all the
    same.
    """
    try:
        network = site_network(config, [host], instance)
    except FlexError as error:
        log.warning("no topology labels: %s", one_line(error))
    except Exception as error:  # noqa: BLE001 - nor is a bug of ours a reason to fail a job
        log.warning("no topology labels: %s: %s", type(error).__name__, one_line(error))
    else:
        if network is not None and network.places:
            return labels_of(network.places[0])
    return {}
