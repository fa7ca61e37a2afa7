"""EC2's answers, read strictly: which instances there are, where they sit, what their types have.

An answer is decoded JSON in the API's own shape, as the AWS command line prints it::

    aws ec2 describe-instances --output json > instances.json
    aws ec2 describe-instance-topology --output json > topology.json
    aws ec2 describe-instance-types --output json --instance-types hpc7a.96xlarge > types.json

    answers = read_answers([("instances.json", instances), ("topology.json", topology)])
    answers.document()      # all of it again as one object, with the keys that are read here

One object may hold several answers, since each has a key of its own: ``Reservations``,
``Instances``, ``InstanceTypes``. The shapes are those of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html,
.../API_DescribeInstanceTopology.html and .../API_DescribeInstanceTypes.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flux_flex.errors import BadInput
from flux_flex.model.network import MAX_LAYERS

INSTANCES = "describe-instances"
TOPOLOGY = "describe-instance-topology"
TYPES = "describe-instance-types"

# What ids, types and zones may look like. Looser than EC2's own ids, tight enough that a name
# can later stand in a label, a path of the resource graph or a line of a terminal.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")

# us-east-2b, us-gov-west-1a, and the Local Zone us-west-2-lax-1a: the region comes first.
REGION = re.compile(r"[a-z]{2,8}(?:-[a-z]+)+?-[0-9]+")

_T = TypeVar("_T")

# A name of a host (RFC 1035) has 255 characters at most; longer tags name nothing.
MOST_NAME = 255

_MOST_CORES = 65_536
_MOST_MIB = 1 << 40

# EC2 lists an instance for about an hour after its end, with its tags: the Name of a node that
# was replaced would be claimed by the dead instance and by its successor.
_GONE = frozenset({"shutting-down", "terminated"})

# The topology lists running instances only. A recorded answer need not tell the state.
_RUNNING = frozenset({"running", ""})


@dataclass(frozen=True, slots=True)
class Ec2Instance:
    """One instance of describe-instances; what EC2 does not say is empty."""

    instance_id: str
    instance_type: str
    state: str
    dns_name: str
    address: str
    name_tag: str

    @property
    def is_gone(self) -> bool:
        return self.state in _GONE

    @property
    def names(self) -> frozenset[str]:
        """All that a host may know it by: id, private DNS name, whole and short, address, Name."""
        short = self.dns_name.partition(".")[0]
        names = {self.instance_id, self.dns_name, short, self.address, self.name_tag}
        # A stopped instance has empty names, which must not match a host called "".
        return frozenset(names - {""})


@dataclass(frozen=True, slots=True)
class Located:
    """What the topology says of one instance; ``network_nodes`` top first, may be empty."""

    instance_id: str
    instance_type: str
    network_nodes: tuple[str, ...]
    zone: str
    zone_id: str = ""
    group: str = ""
    capacity_block: str = ""

    @property
    def region(self) -> str:
        """The region that the zone's name begins with; empty where it has another form."""
        found = REGION.match(self.zone)
        return found[0] if found else ""


@dataclass(frozen=True, slots=True)
class InstanceShape:
    """What an instance type has: physical cores, gpus, and memory in MiB."""

    name: str
    cores: int
    gpus: int
    memory_mib: int


@dataclass(frozen=True)
class Answers:
    """All that EC2 answered, by instance id and by instance type.

    Without an answer of describe-instances, ``instances`` is empty, and only hosts that are called
    by their instance id can be found.
    """

    instances: Mapping[str, Ec2Instance] = field(default_factory=dict)
    located: Mapping[str, Located] = field(default_factory=dict)
    shapes: Mapping[str, InstanceShape] = field(default_factory=dict)

    def only(self, instance_ids: Iterable[str]) -> Answers:
        """What is said of some instances, and of their types."""
        wanted = set(instance_ids)
        located = {i: one for i, one in self.located.items() if i in wanted}
        types = {one.instance_type for one in located.values()}
        return replace(
            self,
            instances={i: one for i, one in self.instances.items() if i in wanted},
            located=located,
            shapes={name: shape for name, shape in self.shapes.items() if name in types},
        )

    def types_without_topology(self) -> tuple[str, ...]:
        """Types of which instances run and none is located, sorted: EC2 has no topology of some.

        A single instance that is missing may only be late; a whole type is not worth waiting for.
        """
        located = {one.instance_type for one in self.located.values()}
        running = {one.instance_type for one in self.instances.values() if one.state in _RUNNING}
        return tuple(sorted(running - located - {""}))

    def document(self) -> dict[str, object]:
        """One JSON object in the API's shape, sorted, that :func:`read_answers` reads back."""
        return {
            "Reservations": [
                {"Instances": [_instance_entry(one)]} for _, one in sorted(self.instances.items())
            ],
            "Instances": [_located_entry(one) for _, one in sorted(self.located.items())],
            "InstanceTypes": [_shape_entry(one) for _, one in sorted(self.shapes.items())],
        }


def read_answers(documents: Iterable[tuple[str, object]]) -> Answers:
    """Several answers as one; each comes with the file or call that it is from.

    Raises BadInput when an answer is malformed or only its first page, when an instance or a type
    is listed twice with different values, or when no document says where an instance sits.
    ``where`` is the place and the key path: ``topology.json: Instances[3].NetworkNodes``.
    """
    instances: dict[str, Ec2Instance] = {}
    located: dict[str, Located] = {}
    shapes: dict[str, InstanceShape] = {}
    says_where = False
    for place, document in documents:
        record = _object(document, place)
        if not record.keys() & {"Reservations", "Instances", "InstanceTypes"}:
            what = "none of the keys Reservations, Instances and InstanceTypes"
            raise BadInput(what, place, f"save the whole output of aws ec2 {TOPOLOGY} as JSON")
        if "Reservations" in record:
            read_instances(record, place, instances)
        if "Instances" in record:
            read_topology(record, place, located)
            says_where = True
        if "InstanceTypes" in record:
            read_types(record, place, shapes)
    if not says_where:
        what = f"no answer of {TOPOLOGY}, which says where instances sit"
        raise BadInput(what, "", f"add the output of aws ec2 {TOPOLOGY} --output json")
    return Answers(instances, located, shapes)


def merged(several: Iterable[Answers]) -> Answers:
    """The answers of several regions and accounts as one.

    They may overlap, and were not given at one moment: of an instance the later one is believed,
    since its state and its tags change. Raises BadInput where they disagree on where an instance
    sits, or on what a type has.
    """
    instances: dict[str, Ec2Instance] = {}
    located: dict[str, Located] = {}
    shapes: dict[str, InstanceShape] = {}
    for one in several:
        instances.update(one.instances)
        _add(located, one.located, TOPOLOGY)
        _add(shapes, one.shapes, TYPES)
    return Answers(instances, located, shapes)


def _add(found: dict[str, _T], more: Mapping[str, _T], call: str) -> None:
    for name, one in more.items():
        if found.setdefault(name, one) != one:
            what = f"two answers of EC2 disagree on {name}"
            raise BadInput(what, call, "ask again for all at one time, with --max-age 0")


# -- one answer each -----------------------------------------------------------------------------


def read_topology(answer: object, place: str, found: dict[str, Located]) -> None:
    """Add the instances of a describe-instance-topology answer to ``found``. Raises BadInput."""
    for index, item in enumerate(_listed(answer, "Instances", place)):
        where = f"{place}: Instances[{index}]"
        record = _object(item, where)
        one = Located(
            instance_id=_word(record, "InstanceId", where),
            instance_type=_word(record, "InstanceType", where),
            network_nodes=_network_nodes(record, where),
            zone=_word(record, "AvailabilityZone", where),
            zone_id=_word_or_empty(record, "ZoneId", where),
            group=_text(record, "GroupName", where)[:MOST_NAME],
            capacity_block=_word_or_empty(record, "CapacityBlockId", where),
        )
        if found.setdefault(one.instance_id, one) != one:
            raise _listed_twice(one.instance_id, where)


def read_instances(answer: object, place: str, found: dict[str, Ec2Instance]) -> None:
    """Add the instances of a describe-instances answer to ``found``. Raises BadInput."""
    for outer, item in enumerate(_listed(answer, "Reservations", place)):
        at_reservation = f"{place}: Reservations[{outer}]"
        members = _members(_object(item, at_reservation), "Instances", at_reservation)
        for inner, member in enumerate(members):
            where = f"{at_reservation}.Instances[{inner}]"
            one = _instance(_object(member, where), where)
            if found.setdefault(one.instance_id, one) != one:
                raise _listed_twice(one.instance_id, where)


def read_types(answer: object, place: str, found: dict[str, InstanceShape]) -> None:
    """Add the types of a describe-instance-types answer to ``found``. Raises BadInput."""
    for index, item in enumerate(_listed(answer, "InstanceTypes", place)):
        where = f"{place}: InstanceTypes[{index}]"
        record = _object(item, where)
        cpus = _part(record, "VCpuInfo", where)
        key = "DefaultCores" if "DefaultCores" in cpus else "DefaultVCpus"
        memory = _part(record, "MemoryInfo", where)
        one = InstanceShape(
            name=_word(record, "InstanceType", where),
            cores=_whole(cpus.get(key), f"{where}.VCpuInfo.{key}", 1, _MOST_CORES),
            gpus=_gpus(record, where),
            memory_mib=_whole(
                memory.get("SizeInMiB"), f"{where}.MemoryInfo.SizeInMiB", 0, _MOST_MIB
            ),
        )
        if found.setdefault(one.name, one) != one:
            raise _listed_twice(one.name, where)


def _instance(record: dict[str, Any], where: str) -> Ec2Instance:
    state = _part(record, "State", where)
    return Ec2Instance(
        instance_id=_word(record, "InstanceId", where),
        instance_type=_word_or_empty(record, "InstanceType", where),
        state=_text(state, "Name", f"{where}.State")[:MOST_NAME],
        dns_name=_host_name(record, "PrivateDnsName", where),
        address=_host_name(record, "PrivateIpAddress", where),
        name_tag=_name_tag(record, where),
    )


def _name_tag(record: dict[str, Any], where: str) -> str:
    for index, item in enumerate(_members(record, "Tags", where)):
        at_tag = f"{where}.Tags[{index}]"
        tag = _object(item, at_tag)
        if tag.get("Key") == "Name":
            return _host_name(tag, "Value", at_tag)
    return ""


def _host_name(record: dict[str, Any], key: str, where: str) -> str:
    """A name that a host could have; empty for any other text: whoever may tag chooses it."""
    text = _text(record, key, where)
    return text if len(text) <= MOST_NAME and text.isprintable() else ""


def _network_nodes(record: dict[str, Any], where: str) -> tuple[str, ...]:
    nodes = _members(record, "NetworkNodes", where)
    where = f"{where}.NetworkNodes"
    if len(nodes) > MAX_LAYERS:
        raise BadInput(
            f"{len(nodes)} network nodes", where, f"at most {MAX_LAYERS} layers are accepted"
        )
    return tuple(_checked_word(node, f"{where}[{layer}]") for layer, node in enumerate(nodes))


def _gpus(record: dict[str, Any], where: str) -> int:
    info = _part(record, "GpuInfo", where)
    where = f"{where}.GpuInfo"
    gpus = [_object(one, f"{where}.Gpus") for one in _members(info, "Gpus", where)]
    return sum(_whole(gpu.get("Count"), f"{where}.Gpus", 0, _MOST_CORES) for gpu in gpus)


# -- written again -------------------------------------------------------------------------------


def _instance_entry(one: Ec2Instance) -> dict[str, object]:
    return {
        "InstanceId": one.instance_id,
        "InstanceType": one.instance_type,
        "State": {"Name": one.state},
        "PrivateDnsName": one.dns_name,
        "PrivateIpAddress": one.address,
        "Tags": [{"Key": "Name", "Value": one.name_tag}] if one.name_tag else [],
    }


def _located_entry(one: Located) -> dict[str, object]:
    entry: dict[str, object] = {
        "InstanceId": one.instance_id,
        "InstanceType": one.instance_type,
        "GroupName": one.group,
        "NetworkNodes": list(one.network_nodes),
        "AvailabilityZone": one.zone,
        "ZoneId": one.zone_id,
    }
    return entry | ({"CapacityBlockId": one.capacity_block} if one.capacity_block else {})


def _shape_entry(one: InstanceShape) -> dict[str, object]:
    entry: dict[str, object] = {
        "InstanceType": one.name,
        "VCpuInfo": {"DefaultCores": one.cores},
        "MemoryInfo": {"SizeInMiB": one.memory_mib},
    }
    return entry | ({"GpuInfo": {"Gpus": [{"Count": one.gpus}]}} if one.gpus else {})


# -- pieces of JSON ------------------------------------------------------------------------------


def _listed(answer: object, key: str, place: str) -> list[Any]:
    record = _object(answer, place)
    if key not in record:
        remedy = "save the whole output of the AWS command line as JSON"
        raise BadInput(f"the key {key} is missing", place, remedy)
    if record.get("NextToken"):
        raise BadInput(
            "this is one page of several",
            f"{place}: NextToken",
            "record all pages: run the command without --max-items and --no-paginate",
        )
    return _list(record[key], f"{place}: {key}")


def _members(record: dict[str, Any], key: str, where: str) -> list[Any]:
    """The list under ``key``; empty where it is left out or null, as some SDKs write what is."""
    value = record.get(key)
    return [] if value is None else _list(value, f"{where}.{key}")


def _part(record: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The object under ``key``; empty where it is left out or null."""
    value = record.get(key)
    return {} if value is None else _object(value, f"{where}.{key}")


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _not_a("list", value, where)
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _not_a("object", value, where)
    return value


def _word(record: dict[str, Any], key: str, where: str) -> str:
    if key not in record:
        raise BadInput(f"the key {key} is missing", where, "record the answer again, unfiltered")
    return _checked_word(record[key], f"{where}.{key}")


def _word_or_empty(record: dict[str, Any], key: str, where: str) -> str:
    return _checked_word(record[key], f"{where}.{key}") if record.get(key) else ""


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


def _whole(value: object, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        what = f"not a whole number from {least} to {most}"
        raise BadInput(what, where, "record the answer again, unfiltered")
    return value


def _not_a(kind: str, value: object, where: str) -> BadInput:
    return BadInput(
        f"expected a JSON {kind}, found {type(value).__name__}",
        where,
        "give the output of the AWS command line unchanged (--output json, no --query)",
    )


def _listed_twice(name: str, where: str) -> BadInput:
    what = f"{name} is listed before with other values"
    return BadInput(what, where, "record the answers again, at one time")
