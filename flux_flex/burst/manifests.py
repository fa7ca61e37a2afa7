"""MiniCluster manifests for the bursts of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from flux_flex.burst.config import BurstConfig
from flux_flex.burst.decide import Order
from flux_flex.burst.minicluster import (
    BurstSlot,
    LeadBroker,
    MiniClusterOptions,
    manifest_yaml,
    minicluster_manifest,
)
from flux_flex.errors import BadInput
from flux_flex.model.jobid import f58


def manifests(
    orders: Sequence[Order], config: BurstConfig, hosts: Sequence[str]
) -> list[tuple[str, str]]:
    """(file name, YAML text) for each burst; ``hosts`` are those of this system, by rank.

    A lead broker that is not the first of them is taken to be one more, before them. All bursts
    of one call share the lead broker's list of hosts, in their order. Raises BadInput where the
    configuration has no ``minicluster``, or has one that no manifest can be made from.
    """
    said = config.minicluster
    if said is None:
        raise BadInput("the key is missing", "burst.minicluster", "say what manifests need")
    others = tuple(hosts[1:] if hosts and hosts[0] == said.lead.name else hosts)
    options = MiniClusterOptions(
        image=said.image,
        lead=LeadBroker(said.lead.address, said.lead.port, said.lead.name, len(others) + 1, others),
        curve_secret=said.curve_secret,
        munge_secret=said.munge_secret,
        namespace=said.namespace,
        command=said.command,
        slots=tuple(BurstSlot(order.burst, order.nodes) for order in orders),
    )
    try:
        return [(f"{order.burst}.yaml", _manifest(order, options)) for order in orders]
    except BadInput as error:
        raise error.at("burst.minicluster") from None


def _manifest(order: Order, options: MiniClusterOptions) -> str:
    node_type = order.node_type
    manifest = minicluster_manifest(
        burst_id=order.burst,
        nodes=order.nodes,
        cores_per_node=node_type.cores,
        gpus_per_node=node_type.gpus,
        memory_gib=node_type.memory_gib,
        efa=node_type.efa,
        node_type=node_type.name,
        jobs=[f58(placed.job.jobid) for placed in order.placed],
        options=options,
    )
    return manifest_yaml(manifest)
