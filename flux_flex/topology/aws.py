"""The places of hosts on the EC2 network, from what the EC2 API answered.

Read here are recorded answers, decoded JSON as the AWS command line prints it::

    aws ec2 describe-instances --output json > instances.json
    aws ec2 describe-instance-topology --output json > topology.json

    mapping = read_places(instances, topology, ["compute0", "compute1"])
    mapping.places      # NetworkPlace for each host found, in the order of the hosts
    mapping.unmapped    # the hosts of which EC2 says nothing

The shapes are those of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html and
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTopology.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flux_flex.errors import BadInput
from flux_flex.model.network import MAX_LAYERS, NetworkPlace

_INSTANCES = "describe-instances"
_TOPOLOGY = "describe-instance-topology"

# What ids, types and zones may look like. Looser than EC2's own ids, tight enough that a name
# can later stand in a label, a path of the resource graph or a line of a terminal.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")

# EC2 lists an instance for about an hour after its end, with its tags: the Name of a node that
# was replaced would be claimed by the dead instance and by its successor.
_GONE = frozenset({"shutting-down", "terminated"})


@dataclass(frozen=True, slots=True)
class Mapping:
    """Hosts with their places, and the hosts for which no place is known.

    places      one for each mapped host, in the order in which the hosts were given
    unmapped    hosts that no instance goes by, or whose instance the topology does not list
    """

    places: tuple[NetworkPlace, ...]
    unmapped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Located:
    """What the topology says of one instance; ``network_nodes`` top first, may be empty."""

    instance_id: str
    instance_type: str
    network_nodes: tuple[str, ...]
    zone: str


def read_places(instances: object, topology: object, hosts: Sequence[str]) -> Mapping:
    """Find the instance of each host and where it sits.

    ``instances`` is the decoded answer of describe-instances, or None: then only hosts that are
    called by their instance id are found. ``topology`` is that of describe-instance-topology. A
    host goes by its instance's id, PrivateDnsName (whole, or its first label), PrivateIpAddress
    or Name tag. A host given twice is one host. An instance whose NetworkNodes is empty (its type
    has none) is placed in its zone with no network nodes.

    Raises BadInput when an answer is malformed or only its first page, or when two instances
    claim one of the hosts. ``where`` is the call and the key path, like
    ``describe-instance-topology: Instances[3].NetworkNodes``.
    """
    located = _read_topology(topology)
    wanted = dict.fromkeys(hosts)
    claims: dict[str, set[str]] = {host: {host} for host in wanted if host in located}
    if instances is not None:
        for instance_id, names in _read_names(instances):
            for name in names & wanted.keys():
                claims.setdefault(name, set()).add(instance_id)

    places: list[NetworkPlace] = []
    unmapped: list[str] = []
    for host in wanted:
        found = located.get(_only_claim(host, claims.get(host, set())))
        if found is None:
            unmapped.append(host)
            continue
        places.append(
            NetworkPlace(
                host, found.network_nodes, found.instance_id, found.instance_type, found.zone
            )
        )
    return Mapping(tuple(places), tuple(unmapped))


def _only_claim(host: str, instance_ids: set[str]) -> str:
    """The id of the one instance that goes by ``host``; empty when there is none."""
    if len(instance_ids) > 1:
        raise BadInput(
            f"host {host!r} is claimed by the instances {', '.join(sorted(instance_ids))}",
            _INSTANCES,
            "record only the instances of this cluster, or give them distinct Name tags",
        )
    return next(iter(instance_ids), "")


def _read_topology(answer: object) -> dict[str, _Located]:
    located: dict[str, _Located] = {}
    for index, item in enumerate(_listed(answer, "Instances", _TOPOLOGY)):
        where = f"{_TOPOLOGY}: Instances[{index}]"
        record = _object(item, where)
        found = _Located(
            instance_id=_word(record, "InstanceId", where),
            instance_type=_word(record, "InstanceType", where),
            network_nodes=_network_nodes(record, where),
            zone=_word(record, "AvailabilityZone", where),
        )
        if located.setdefault(found.instance_id, found) != found:
            raise BadInput(
                f"instance {found.instance_id} is listed before with other values",
                where,
                "record the topology again, in one call",
            )
    return located


def _network_nodes(record: dict[str, Any], where: str) -> tuple[str, ...]:
    where = f"{where}.NetworkNodes"
    nodes = record.get("NetworkNodes", [])
    if not isinstance(nodes, list):
        raise _not_a("list", nodes, where)
    if len(nodes) > MAX_LAYERS:
        raise BadInput(
            f"{len(nodes)} network nodes", where, f"at most {MAX_LAYERS} layers are accepted"
        )
    return tuple(_checked_word(node, f"{where}[{layer}]") for layer, node in enumerate(nodes))


def _read_names(answer: object) -> Iterator[tuple[str, set[str]]]:
    """Each living instance's id with every name that a host may know it by."""
    for outer, item in enumerate(_listed(answer, "Reservations", _INSTANCES)):
        at_reservation = f"{_INSTANCES}: Reservations[{outer}]"
        members = _object(item, at_reservation).get("Instances", [])
        if not isinstance(members, list):
            raise _not_a("list", members, f"{at_reservation}.Instances")
        for inner, member in enumerate(members):
            where = f"{at_reservation}.Instances[{inner}]"
            record = _object(member, where)
            instance_id = _word(record, "InstanceId", where)
            state = _object(record.get("State", {}), f"{where}.State")
            if _text(state, "Name", f"{where}.State") not in _GONE:
                yield instance_id, _names(instance_id, record, where)


def _names(instance_id: str, record: dict[str, Any], where: str) -> set[str]:
    dns_name = _text(record, "PrivateDnsName", where)
    names = {instance_id, dns_name, dns_name.partition(".")[0]}
    names.add(_text(record, "PrivateIpAddress", where))
    tags = record.get("Tags", [])
    if not isinstance(tags, list):
        raise _not_a("list", tags, f"{where}.Tags")
    for index, item in enumerate(tags):
        at_tag = f"{where}.Tags[{index}]"
        tag = _object(item, at_tag)
        if tag.get("Key") == "Name":
            names.add(_text(tag, "Value", at_tag))
    # A stopped instance has empty names, which must not match a host called "".
    names.discard("")
    return names


def _listed(answer: object, key: str, call: str) -> list[Any]:
    record = _object(answer, call)
    if key not in record:
        raise BadInput(
            f"the key {key} is missing", call, f"save the whole output of aws ec2 {call} as JSON"
        )
    if record.get("NextToken"):
        raise BadInput(
            "this is one page of several",
            f"{call}: NextToken",
            "record all pages: run the command without --max-items and --no-paginate",
        )
    members = record[key]
    if not isinstance(members, list):
        raise _not_a("list", members, f"{call}: {key}")
    return members


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _not_a("object", value, where)
    return value


def _word(record: dict[str, Any], key: str, where: str) -> str:
    if key not in record:
        raise BadInput(f"the key {key} is missing", where, "record the answer again, unfiltered")
    return _checked_word(record[key], f"{where}.{key}")


def _checked_word(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _not_a("string", value, where)
    if not _WORD.fullmatch(value):
        raise BadInput(
            f"{value[:60]!r} is not an EC2 name",
            where,
            "letters, digits, '-', '_', '.' and ':' only, 128 characters at most",
        )
    return value


def _text(record: dict[str, Any], key: str, where: str) -> str:
    """The string under ``key``; empty when EC2 leaves the key out or gives null."""
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _not_a("string", value, f"{where}.{key}")
    return value


def _not_a(kind: str, value: object, where: str) -> BadInput:
    return BadInput(
        f"expected a JSON {kind}, found {type(value).__name__}",
        where,
        "give the output of the AWS command line unchanged (--output json, no --query)",
    )
