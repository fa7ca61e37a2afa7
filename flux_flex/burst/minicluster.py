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

Sources: https://flux-framework.org/flux-operator/getting_started/custom-resource-definition.html,
flux-config-bootstrap(5), and RFC 1035/1123 for the names. What the operator does with the keys
was read in its sources (June 2026, v1alpha2) where its documentation is silent.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from flux_flex.errors import BadInput

API_VERSION = "flux-framework.org/v1alpha2"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
BURST_LABEL = "flux-flex.io/burst"
JOBS_ANNOTATION = "flux-flex.io/jobs"
GPU_RESOURCE = "nvidia.com/gpu"
EFA_RESOURCE = "vpc.amazonaws.com/efa"

# Kubernetes allows an Indexed Job at most 10^5 pods with plain completions.
MAX_NODES = 100_000
# The operator names a volume `<name>-entrypoint`, and a volume's name is a label of 63 characters.
MAX_NAME = 63 - len("-entrypoint")
MAX_ANNOTATION_BYTES = 256 * 1024

FLUX_MOUNT = "/mnt/flux"
CURVE_MOUNT = "/mnt/flux-flex/curve"
MUNGE_MOUNT = "/mnt/flux-flex/munge"
# Not the operator's own `config/curve/curve.cert`: see `_install_secrets`.
CURVE_CERT = f"{FLUX_MOUNT}/config/curve/burst.cert"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_JOB_ID = re.compile(r"[ƒ0-9A-Za-z.]{1,64}")
_IMAGE = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9][A-Za-z0-9-]*)*(:[0-9]{1,5})?/)?"  # registry[:port]/
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_SECRET_LIKE = re.compile(
    r"secret-key|PRIVATE KEY|\bA(KI|SI)A[0-9A-Z]{16}\b|(password|passwd|secret|token)\s*[=:]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LeadBroker:
    """The broker of rank 0 that a burst joins.

    ``address``: DNS name or IP address that the rented nodes can reach. ``port``: TCP port there.
    ``name``: its short host name. ``size``: brokers of its own instance, itself included, that
    come before the first burst slot in its list of hosts.
    """

    address: str
    port: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class BurstSlot:
    """Hosts ``<name>-0`` to ``<name>-<size - 1>``, set aside in the lead's list of hosts."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class MiniClusterOptions:
    """The administrator's part of a MiniCluster; nothing in it is secret, secrets go by name.

    ``image``: container image that holds Flux; flux-core refuses a broker whose MAJOR.MINOR
    differs from the lead's.
    ``curve_secret``: Kubernetes Secret with the key ``curve.cert``, the lead's certificate.
    ``munge_secret``: Secret with the key ``munge.key``; empty if the lead does not use munge.
    ``command``: single line, empty for brokers that only join. Flux runs an initial program on
    rank 0 alone, so a joined broker has no use for one.
    ``slots``: every burst slot in the lead's list of hosts, in its order; empty says that this
    burst is the only one, and as large as its slot.
    """

    image: str
    lead: LeadBroker
    curve_secret: str
    munge_secret: str
    namespace: str = "default"
    command: str = ""
    slots: tuple[BurstSlot, ...] = ()


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
    _check_shape(burst_id, nodes, cores_per_node, gpus_per_node, memory_gib, efa, node_type)
    _check_options(options)
    _check_hosts(burst_id, nodes, options.lead, slots)
    labels = {MANAGED_BY_LABEL: "flux-flex", BURST_LABEL: burst_id}
    metadata: dict[str, object] = {
        "name": burst_id,
        "namespace": options.namespace,
        "labels": labels,
    }
    if jobs:
        metadata["annotations"] = {JOBS_ANNOTATION: _job_list(jobs)}
    container = {
        "image": options.image,
        "command": options.command,
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
    address = _ip_address(lead.address)
    ipv6 = address is not None and address.version == 6
    endpoint = (
        f"tcp://[{lead.address}]:{lead.port}" if ipv6 else f"tcp://{lead.address}:{lead.port}"
    )
    hosts = [f'{{ host = "{lead.name}", connect = "{endpoint}" }}']
    if lead.size > 1:
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


def _check_shape(
    burst_id: str,
    nodes: int,
    cores: int,
    gpus: int,
    memory_gib: float,
    efa: int,
    node_type: str,
) -> None:
    _check_burst_name(burst_id, "burst id")
    _check_count(nodes, "nodes", 1, MAX_NODES)
    _check_count(cores, "cores_per_node", 1, 10_000)
    _check_count(gpus, "gpus_per_node", 0, 1_000)
    _check_count(efa, "efa", 0, 1_000)
    # `not <=` also refuses NaN.
    if isinstance(memory_gib, bool) or not 0.25 <= memory_gib <= 2**20:
        raise BadInput(
            f"{memory_gib!r} is not the memory of a node",
            "memory_gib",
            "Give the node type's memory in GiB, from 0.25 to 1048576.",
        )
    if not _LABEL_VALUE.fullmatch(node_type):
        raise BadInput(
            f"{_shown(node_type)} is not a node type",
            "node_type",
            f"Use the value of the nodes' label {INSTANCE_TYPE_LABEL}, as in hpc6a.48xlarge.",
        )


def _check_options(options: MiniClusterOptions) -> None:
    if len(options.image) > 512 or not _IMAGE.fullmatch(options.image):
        raise BadInput(
            f"{_shown(options.image)} is not an image reference",
            "image",
            "Write [registry[:port]/]name[:tag][@sha256:digest], without credentials.",
        )
    _check_name(options.namespace, "namespace")
    _check_secret_name(options.curve_secret, "curve_secret")
    if options.munge_secret:
        _check_secret_name(options.munge_secret, "munge_secret")
    _check_command(options.command)
    lead = options.lead
    _check_address(lead.address)
    _check_count(lead.port, "lead.port", 1, 65535)
    _check_name(lead.name, "lead.name")
    _check_count(lead.size, "lead.size", 1, MAX_NODES)
    for place, slot in enumerate(options.slots):
        _check_burst_name(slot.name, f"slots[{place}].name")
        _check_count(slot.size, f"slots[{place}].size", 1, MAX_NODES)


def _check_hosts(burst_id: str, nodes: int, lead: LeadBroker, slots: Sequence[BurstSlot]) -> None:
    """The burst has its slot, and no host is listed twice: Flux would merge the two and shift
    the ranks of all that follow."""
    sizes = {slot.name: slot.size for slot in slots}
    if sizes.get(burst_id, 0) < nodes:
        raise BadInput(
            f"the lead's hosts set aside {sizes.get(burst_id, 0)} for {burst_id}, not {nodes}",
            "slots",
            "List the slots as in the lead's [bootstrap] hosts, and burst into one that fits.",
        )
    total = lead.size + sum(slot.size for slot in slots)
    _check_count(total, "lead.size plus slots", 1, MAX_NODES + 1)
    hosts = [lead.name, *(f"{lead.name}-{rank}" for rank in range(1, lead.size))]
    hosts += [f"{slot.name}-{host}" for slot in slots for host in range(slot.size)]
    seen: set[str] = set()
    for host in hosts:
        if host in seen:
            raise BadInput(
                f"the host {host} is listed twice",
                "slots",
                "Give the lead and each slot names that do not meet.",
            )
        seen.add(host)


def _check_count(count: int, where: str, low: int, high: int) -> None:
    if type(count) is not int or not low <= count <= high:
        raise BadInput(f"{_shown(count)} is not a count", where, f"Use {low} to {high}.")


def _check_name(name: str, where: str) -> None:
    if not _LABEL.fullmatch(name):
        raise BadInput(
            f"{_shown(name)} is not a DNS-1123 label",
            where,
            "Use up to 63 of a-z, 0-9 and '-', with a letter or digit at each end.",
        )


def _check_burst_name(name: str, where: str) -> None:
    # A Service gets the name too, and those must begin with a letter (RFC 1035).
    if not _LABEL.fullmatch(name) or name[0].isdigit() or len(name) > MAX_NAME:
        raise BadInput(
            f"{_shown(name)} cannot name a MiniCluster",
            where,
            f"Use up to {MAX_NAME} of a-z, 0-9 and '-', from a letter to a letter or digit.",
        )


def _check_secret_name(name: str, where: str) -> None:
    # The value is not shown: whoever gets this wrong may have pasted the secret itself.
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise BadInput(
            "not the name of a Kubernetes Secret",
            where,
            "Create the Secret with kubectl and give its DNS-1123 name, never its content.",
        )


def _check_command(command: str) -> None:
    if not command.isprintable() or len(command) > 4096 or re.search(r'["`$\\]', command):
        raise BadInput(
            "the command is not one plain line",
            "command",
            'The operator pastes it between "…" in a script: no control characters, no " ` $ or '
            "\\, at most 4096 characters. Put the rest into a script in the image.",
        )
    if _SECRET_LIKE.search(command):
        raise BadInput(
            "the command seems to contain a secret",
            "command",
            "A manifest is readable by many: let the program read the secret from a file.",
        )


def _ip_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _check_address(address: str) -> None:
    ip = _ip_address(address)
    if ip is None:
        labels = address.split(".")
        # As in RFC 1123, a last label of digits would be a mistyped IPv4 address.
        good = len(address) <= 253 and not labels[-1].isdigit()
        good = good and all(_LABEL.fullmatch(label.lower()) for label in labels)
        # str.lower() maps a few letters outside ASCII onto ASCII (the kelvin sign, for one).
        good = good and address.isascii()
    else:
        # A zone (fe80::1%eth0) means nothing on another host, and % is a token to Flux.
        good = "%" not in address and not ip.is_unspecified and not ip.is_multicast
    if not good:
        raise BadInput(
            f"{_shown(address)} is not a host name or an IP address",
            "lead.address",
            "Give the address at which the rented nodes reach the lead broker, without the port.",
        )


def _job_list(jobs: Sequence[str]) -> str:
    if isinstance(jobs, str):
        raise BadInput("one text instead of a list of job ids", "jobs", "Pass a list.")
    for job in jobs:
        if not _JOB_ID.fullmatch(job):
            raise BadInput(
                f"{_shown(job)} is not a job id",
                "jobs",
                "Use an id as `flux jobs` prints it, as in ƒ2XwYQ37M.",
            )
    # An annotation, since label values are ASCII and F58 ids are not.
    joined = ",".join(jobs)
    if len(JOBS_ANNOTATION) + len(joined.encode()) > MAX_ANNOTATION_BYTES:
        raise BadInput(
            f"{len(jobs)} job ids do not fit into an annotation",
            "jobs",
            f"Kubernetes allows {MAX_ANNOTATION_BYTES} bytes: burst for fewer jobs at a time.",
        )
    return joined


def _shown(value: object) -> str:
    """``value`` for a message: escaped, and short however long it is."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
