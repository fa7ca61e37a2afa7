"""What the MiniCluster of a burst is asked for, and what of it is refused before it is sent.

The administrator's part as plain data, and the rules that it and the burst must keep: names as
Kubernetes allows them, counts in their bounds, one list of hosts without a host twice, and no
secret or shell syntax where a manifest would carry it on. The manifest that is made from it is in
:mod:`flux_flex.burst.minicluster`.

    options = MiniClusterOptions(
        image="ghcr.io/example/flux:0.88", lead=LeadBroker("203.0.113.7", 30093, "lead", 1),
        curve_secret="burst-curve", munge_secret="burst-munge")
    check_options(options)                                    # or raises BadInput
    check_hosts("burst-0", 4, options.lead, [BurstSlot("burst-0", 4)])

Source: RFC 1035/1123 for the names. What the operator does with them was read in its sources (June
2026, v1alpha2) where its documentation is silent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flux_flex.errors import BadInput

INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
JOBS_ANNOTATION = "flux-flex.io/jobs"

# Kubernetes allows an Indexed Job at most 10^5 pods with plain completions.
MAX_NODES = 100_000
# The operator names a volume `<name>-entrypoint`, and a volume's name is a label of 63 characters.
MAX_NAME = 63 - len("-entrypoint")
MAX_ANNOTATION_BYTES = 256 * 1024

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
    come before the first burst slot in its list of hosts. ``others``: the hosts of these in the
    order of their ranks, from 1; empty for a MiniCluster, whose hosts are ``<name>-1`` and so on.
    """

    address: str
    port: int
    name: str
    size: int
    others: tuple[str, ...] = ()


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


def check_shape(
    burst_id: str,
    nodes: int,
    cores: int,
    gpus: int,
    memory_gib: float,
    efa: int,
    node_type: str,
) -> None:
    """The rented nodes have a name, counts and sizes that Kubernetes takes, or BadInput."""
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


def check_options(options: MiniClusterOptions) -> None:
    """Every option is of its form, and none carries a secret or shell syntax, or BadInput."""
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
    if lead.others and len(lead.others) != lead.size - 1:
        what = f"{len(lead.others)} other hosts for {lead.size} brokers"
        raise BadInput(what, "lead.others", "Name the hosts of all ranks from 1.")
    for place, host in enumerate(lead.others):
        _check_address(host, f"lead.others[{place}]")
    for place, slot in enumerate(options.slots):
        _check_burst_name(slot.name, f"slots[{place}].name")
        _check_count(slot.size, f"slots[{place}].size", 1, MAX_NODES)


def check_hosts(burst_id: str, nodes: int, lead: LeadBroker, slots: Sequence[BurstSlot]) -> None:
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
    hosts = [lead.name, *(lead.others or (f"{lead.name}-{rank}" for rank in range(1, lead.size)))]
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


def ip_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is a host name, or nothing."""
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _check_address(address: str, where: str = "lead.address") -> None:
    ip = ip_address(address)
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
            where,
            "Give the address at which the rented nodes reach the lead broker, without the port.",
        )


def job_list(jobs: Sequence[str]) -> str:
    """The ids as the text of one annotation, or BadInput."""
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
