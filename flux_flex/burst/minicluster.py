"""The MiniCluster custom resource of one burst, as plain data and as YAML.

A burst onto Kubernetes is one MiniCluster whose brokers join an instance that already runs. The
Flux Operator makes an indexed Job from it: pod *i* has the host name ``<name>-<i>``, and that
is the host name under which the lead broker already lists it as down. Hence the MiniCluster
carries the burst's id as its name, and the list of hosts must be the lead's own, in its order:
a broker's place in that list is its rank.

    options = MiniClusterOptions(
        image="ghcr.io/example/flux:0.88",        # same flux-core MAJOR.MINOR as the lead
        lead=LeadBroker(address="203.0.113.7", port=30093, name="lead", size=1),
        curve_secret="burst-curve", munge_secret="burst-munge",
    )
    manifest = minicluster_manifest(
        "burst-0", nodes=4, cores_per_node=96, gpus_per_node=0, memory_gib=384, efa=1,
        node_type="hpc6a.48xlarge", jobs=["ƒ2XwYQ37M"], options=options)
    print(manifest_yaml(manifest))

Here are the manifest, the brokers' configuration in it and what a pod asks of its node. The
options, and what is refused of them, are in :mod:`flux_flex.burst.minicluster_options`.

Sources: https://flux-framework.org/flux-operator/getting_started/custom-resource-definition.html
and flux-config-bootstrap(5). What the operator does with the keys was read in its sources (June
2026, v1alpha2) where its documentation is silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import yaml

from flux_flex.burst.minicluster_options import (
    INSTANCE_TYPE_LABEL,
    JOBS_ANNOTATION,
    MAX_NAME,
    BurstSlot,
    LeadBroker,
    MiniClusterOptions,
    check_hosts,
    check_options,
    check_shape,
    ip_address,
    job_list,
)
from flux_flex.model.hostlist import format_hostlist

__all__ = [
    "MAX_NAME",
    "BurstSlot",
    "LeadBroker",
    "MiniClusterOptions",
    "kube_reserved_millicpu",
    "manifest_yaml",
    "minicluster_manifest",
    "schedulable_memory_mib",
    "schedulable_millicpu",
]

API_VERSION = "flux-framework.org/v1alpha2"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
BURST_LABEL = "flux-flex.io/burst"
GPU_RESOURCE = "nvidia.com/gpu"
EFA_RESOURCE = "vpc.amazonaws.com/efa"

FLUX_MOUNT = "/mnt/flux"
CURVE_MOUNT = "/mnt/flux-flex/curve"
MUNGE_MOUNT = "/mnt/flux-flex/munge"
# Not the operator's own `config/curve/curve.cert`: see `_install_secrets`.
CURVE_CERT = f"{FLUX_MOUNT}/config/curve/burst.cert"


def kube_reserved_millicpu(cores: int) -> int:
    """Thousandths of a cpu that the kubelet of an EKS node of ``cores`` cpus keeps back.

    6 % of the first cpu, 1 % of the second, 0.5 % of the next two and 0.25 % of each more: the
    rule of EKS's node images, as Karpenter also applies it (aws/karpenter-provider-aws,
    pkg/providers/instancetype/types.go, kubeReservedResources).
    """
    reserved = 0.0
    for first, last, millicpu in ((0, 1, 60), (1, 2, 10), (2, 4, 5), (4, cores, 2.5)):
        reserved += max(0, min(cores, last) - first) * millicpu
    return math.ceil(reserved)


def schedulable_millicpu(cores: int) -> int:
    """What one pod may ask of an empty EKS node of ``cores`` cpus, in thousandths of a cpu.

    A pod that asks for every cpu is never scheduled. Besides the kubelet's share, 250 are left
    for the requests of daemon sets (aws-node, kube-proxy and the device plugins ask for ~160).
    """
    return cores * 1000 - kube_reserved_millicpu(cores) - 250


def schedulable_memory_mib(memory_gib: float, cores: int) -> int:
    """What one pod may ask of an empty EKS node with ``memory_gib`` of memory, in MiB.

    Taken off: 7.5 % that the hypervisor and the kernel keep (Karpenter's default), kube-reserved
    of 255 MiB + 11 MiB for each possible pod (110, or 250 from 30 cpus on), 100 MiB of eviction
    threshold, 256 MiB for daemon sets. Small nodes allow fewer pods, so half is always asked.
    """
    advertised = memory_gib * 1024
    pods = 110 if cores < 30 else 250
    left = advertised * (1 - 0.075) - (255 + 11 * pods) - 100 - 256
    return math.floor(max(left, advertised / 2))


def minicluster_manifest(
    burst_id: str,
    nodes: int,
    cores_per_node: int,
    gpus_per_node: int,
    memory_gib: float,
    efa: int,
    node_type: str,
    jobs: Sequence[str],
    options: MiniClusterOptions,
) -> dict[str, object]:
    """The MiniCluster (``flux-framework.org/v1alpha2``) for one burst.

    ``nodes`` pods, one to a node of type ``node_type`` (the value of the well-known label
    ``node.kubernetes.io/instance-type``); ``cores_per_node`` cpus as Kubernetes counts them,
    ``gpus_per_node`` NVIDIA devices, ``efa`` interfaces and ``memory_gib`` GiB, each of one
    node. ``jobs``: ids of the jobs that it is rented for, in any of Flux's spellings.

    Raises :class:`BadInput` for anything that Kubernetes, Flux or the operator's shell scripts
    would refuse or misread, before any of it is sent.
    """
    slots = options.slots or (BurstSlot(burst_id, nodes),)
    check_shape(burst_id, nodes, cores_per_node, gpus_per_node, memory_gib, efa, node_type)
    check_options(options)
    check_hosts(burst_id, nodes, options.lead, slots)
    labels = {MANAGED_BY_LABEL: "flux-flex", BURST_LABEL: burst_id}
    metadata: dict[str, object] = {
        "name": burst_id,
        "namespace": options.namespace,
        "labels": labels,
    }
    if jobs:
        metadata["annotations"] = {JOBS_ANNOTATION: job_list(jobs)}
    container = {
        "image": options.image,
        **({"command": options.command} if options.command else {}),
        "runFlux": True,
        "commands": {"pre": _install_secrets(options)},
        "volumes": _secret_volumes(options),
        "resources": _resources(cores_per_node, gpus_per_node, memory_gib, efa),
    }
    spec = {
        # No minSize: the operator would make it the quorum, which only rank 0 may set.
        "size": nodes,
        "maxSize": nodes,
        "tasks": nodes * cores_per_node,
        "flux": _flux(options, slots),
        "pod": {"labels": dict(labels), "nodeSelector": {INSTANCE_TYPE_LABEL: node_type}},
        "containers": [container],
    }
    return {"apiVersion": API_VERSION, "kind": "MiniCluster", "metadata": metadata, "spec": spec}


def manifest_yaml(manifest: dict[str, object]) -> str:
    """``manifest`` as one YAML document: keys in their given order, block style, no anchors."""
    return yaml.dump(
        manifest,
        Dumper=_BlockDumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=100,
    )


class _BlockDumper(yaml.SafeDumper):
    """Writes text of several lines as a literal block, as people do, and equal maps twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_BlockDumper.add_representer(str, _text)


def _flux(options: MiniClusterOptions, slots: Sequence[BurstSlot]) -> dict[str, object]:
    lead = options.lead
    flux: dict[str, object] = {
        # Use the image's own Flux; the init container then only writes configuration, and
        # needs no second image to be pulled.
        "container": {"disable": True, "image": options.image, "mountPath": FLUX_MOUNT},
        # The operator starts brokers with tbon.fanout=256. A rented broker must not become the
        # parent of another one, nor have one for a parent: the lead is all that it can reach.
        "topology": "kary:0",
        "brokerConfig": _broker_config(lead, slots),
        "bursting": {
            "leadBroker": {
                "address": lead.address,
                "port": lead.port,
                "name": lead.name,
                "size": lead.size,
            },
            "clusters": [{"name": slot.name, "size": slot.size} for slot in slots],
        },
    }
    if options.munge_secret:
        flux["mungeSecret"] = options.munge_secret
    return flux


def _broker_config(lead: LeadBroker, slots: Sequence[BurstSlot]) -> str:
    """The burst brokers' broker.toml.

    The operator would write one from ``bursting``, but with a lead address its v1alpha2 prints
    ``bind="tcp://eth0:%!s(int32=8050)"`` and no hosts (pkg/flux/view.go formats five places with
    four values), so no broker could start from it. ``brokerConfig`` replaces it as a whole.

    No bind and no connect for other hosts: in a flat tree only rank 0 is connected to.
    """
    address = ip_address(lead.address)
    ipv6 = address is not None and address.version == 6
    endpoint = (
        f"tcp://[{lead.address}]:{lead.port}" if ipv6 else f"tcp://{lead.address}:{lead.port}"
    )
    hosts = [f'{{ host = "{lead.name}", connect = "{endpoint}" }}']
    if lead.others:
        hosts.append(f'{{ host = "{format_hostlist(lead.others)}" }}')
    elif lead.size > 1:
        hosts.append(f'{{ host = "{lead.name}-{_span(1, lead.size - 1)}" }}')
    hosts += [f'{{ host = "{slot.name}-{_span(0, slot.size - 1)}" }}' for slot in slots]
    # noverify: hwloc in a container often sees no gpu, and Flux would drain the rented node for
    # the missing device; that it is the right type is what the node selector is for.
    return "\n".join(
        [
            "[access]",
            "allow-guest-user = true",
            "allow-root-owner = true",
            "",
            "[resource]",
            "noverify = true",
            "",
            "[bootstrap]",
            f'curve_cert = "{CURVE_CERT}"',
            *(["enable_ipv6 = true"] if ipv6 else []),
            "hosts = [",
            *(f"  {host}," for host in hosts),
            "]",
            "",
        ]
    )


def _span(first: int, last: int) -> str:
    return f"[{first}-{last}]" if last > first else str(first)


def _secret_volumes(options: MiniClusterOptions) -> dict[str, object]:
    volumes: dict[str, object] = {
        "flux-flex-curve": {
            "secretName": options.curve_secret,
            "path": CURVE_MOUNT,
            "readOnly": True,
        }
    }
    # `flux.mungeSecret` is in the API, but no code of the v1alpha2 operator reads it.
    if options.munge_secret:
        volumes["flux-flex-munge"] = {
            "secretName": options.munge_secret,
            "path": MUNGE_MOUNT,
            "readOnly": True,
        }
    return volumes


def _install_secrets(options: MiniClusterOptions) -> str:
    """Shell that runs in each pod after the operator's own set-up and before its broker.

    `flux.curveCert` would put the certificate itself into the manifest, from there into a
    ConfigMap, the operator's log and the pod's log. A Secret's volume keeps it out of all of
    them. It is copied, since the operator mounts Secrets readable by everyone and flux-core
    refuses such a certificate; and to a name of its own, since at `curve.cert` the operator
    leaves one that it made up, with which a failed copy would go unnoticed.
    """
    steps = [f"install -D -m 0400 {CURVE_MOUNT}/curve.cert {CURVE_CERT} || exit 1"]
    if options.munge_secret:
        # munged wants its key to be its own and private, and nothing else starts it here.
        steps += [
            "if command -v munged >/dev/null 2>&1; then",
            f"  install -m 0400 -o munge -g munge {MUNGE_MOUNT}/munge.key /etc/munge/munge.key &&",
            "    install -d -m 0755 -o munge -g munge /run/munge &&",
            "    runuser -u munge -- munged || exit 1",
            "fi",
        ]
    return "\n".join(steps)


def _resources(cores: int, gpus: int, memory_gib: float, efa: int) -> dict[str, object]:
    memory = f"{schedulable_memory_mib(memory_gib, cores)}Mi"
    devices = {
        resource: str(count)
        for resource, count in ((GPU_RESOURCE, gpus), (EFA_RESOURCE, efa))
        if count
    }
    # No cpu limit: it would have to be below the node's cpus, and the kernel would then stop
    # every rank of a job that uses all of them for a part of each 100 ms. The request alone
    # keeps a second pod off the node.
    return {
        "requests": {"cpu": f"{schedulable_millicpu(cores)}m", "memory": memory, **devices},
        "limits": {"memory": memory, **devices},
    }
