"""Which instance a host is, and what to call an instance: from EC2's answers to places.

network = network_of_hosts(answers, ["compute0", "ip-10-0-0-7"])
network.places       # NetworkPlace for each host found, in the order of the hosts
network.unmapped     # the hosts of which EC2 says nothing
network.claimed      # the hosts by whose name several instances go: never guessed
network.tree         # the NetworkTree of the places
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from flux_flex.errors import BadInput
from flux_flex.model.network import NetworkPlace, NetworkTree
from flux_flex.topology.answers import (
    INSTANCES,
    TOPOLOGY,
    Answers,
    Ec2Instance,
    InstanceShape,
    Located,
    read_instances,
    read_topology,
)

# What instances can be called where no Flux says what its hosts are called.
NAMINGS = ("dns", "id", "ip", "tag")

_DIGITS = re.compile(r"([0-9]{1,18})")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Network:
    """Hosts with their places, and the hosts for which no place is known.

    places      one for each host found, in the order in which the hosts were given
    unmapped    hosts that no instance goes by, or whose instance the topology does not list
    claimed     hosts that several instances go by, with the ids of these
    shapes      what the instance types have, as far as EC2 was asked
    """

    places: tuple[NetworkPlace, ...]
    unmapped: tuple[str, ...] = ()
    claimed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: Mapping[str, InstanceShape] = field(default_factory=dict)

    @cached_property
    def tree(self) -> NetworkTree:
        """Raises BadInput where the places make no tree."""
        return NetworkTree.from_places(self.places)


def network_of_hosts(
    answers: Answers, hosts: Iterable[str], host_map: Mapping[str, str] | None = None
) -> Network:
    """Find the instance of each host, and where it sits.

    ``host_map`` gives the instance ids of hosts that say it themselves nowhere, and goes before
    everything else. Without it a host goes by its instance's id, PrivateDnsName (whole, or its
    first label), PrivateIpAddress or Name tag; instances that have ended go by nothing. A host
    given twice is one host. An instance whose NetworkNodes is empty (its type has none) is placed
    in its zone with no network nodes.
    """
    wanted = dict.fromkeys(hosts)
    claims: dict[str, set[str]] = {host: {host} for host in wanted if host in answers.located}
    for one in answers.instances.values():
        for name in () if one.is_gone else one.names & wanted.keys():
            claims.setdefault(name, set()).add(one.instance_id)
    claims.update({host: {i} for host, i in (host_map or {}).items() if host in wanted})
    found: list[NetworkPlace] = []
    unmapped: list[str] = []
    claimed: dict[str, tuple[str, ...]] = {}
    for host in wanted:
        ids = sorted(claims.get(host, ()))
        located = answers.located.get(ids[0]) if len(ids) == 1 else None
        if located is not None:
            found.append(_place(host, located))
        elif len(ids) > 1:
            claimed[host] = tuple(ids)
        else:
            unmapped.append(host)
    return Network(_with_one_name_a_zone(found), tuple(unmapped), claimed, answers.shapes)


def network_of_instances(
    answers: Answers, naming: str = "dns", host_map: Mapping[str, str] | None = None
) -> Network:
    """All located instances, in the order of their names, numbers in these as numbers.

    An instance in ``host_map``, which gives the instance ids of hosts, is called what it is there.
    ``naming`` says what a host is called: ``dns`` the first label of its private DNS name, which
    is its host name in EC2; ``ip`` its private address; ``tag`` its Name tag; or ``id``. An
    instance that has no such name, one that is no host name, one that another instance has too,
    or one that means something else here (another's id, a network node, a zone, a region) is
    called by its id: whoever may set a tag shall not take another's place. Instances that the
    topology does not list are ``unmapped``, by id.
    """
    mapped = {instance_id: host for host, instance_id in (host_map or {}).items()}
    names = {i: mapped.get(i) or _called(answers.instances.get(i), naming) for i in answers.located}
    taken = Counter(names.values())
    reserved = _reserved(answers)
    places = []
    for i, located in answers.located.items():
        name = names[i]
        is_good = taken[name] == 1 and name not in reserved and _HOST.fullmatch(name)
        places.append(_place(name if is_good else i, located))
    places.sort(key=lambda place: _by_number(place.host))
    unmapped = sorted(
        i for i, one in answers.instances.items() if i not in answers.located and not one.is_gone
    )
    return Network(_with_one_name_a_zone(places), tuple(unmapped), shapes=answers.shapes)


def _reserved(answers: Answers) -> set[str]:
    """What is no name for an instance, since something else goes by it on the network."""
    found = {*answers.located, *answers.instances}
    for one in answers.located.values():
        found.update(one.network_nodes, (one.zone, one.zone_id, one.region))
    return found


def read_places(instances: object, topology: object, hosts: Sequence[str]) -> Network:
    """The places of hosts in two recorded answers; ``instances`` may be None.

    Raises BadInput when an answer is malformed or only its first page, or when two instances
    claim one of the hosts. ``where`` is the call and the key path, like
    ``describe-instance-topology: Instances[3].NetworkNodes``.
    """
    located: dict[str, Located] = {}
    read_topology(topology, TOPOLOGY, located)
    known: dict[str, Ec2Instance] = {}
    if instances is not None:
        read_instances(instances, INSTANCES, known)
    network = network_of_hosts(Answers(known, located), hosts)
    for host, ids in network.claimed.items():
        raise BadInput(
            f"host {host!r} is claimed by the instances {', '.join(ids)}",
            INSTANCES,
            "record only the instances of this cluster, or give them distinct Name tags",
        )
    return network


def _place(host: str, located: Located) -> NetworkPlace:
    return NetworkPlace(
        host=host,
        network_nodes=located.network_nodes,
        instance_id=located.instance_id,
        instance_type=located.instance_type,
        zone=located.zone,
        zone_id=located.zone_id,
        region=located.region,
        capacity_block=located.capacity_block,
    )


def _called(one: Ec2Instance | None, naming: str) -> str:
    if one is None:
        return ""
    names = {"dns": one.dns_name.partition(".")[0], "ip": one.address, "tag": one.name_tag}
    return names.get(naming, "")


def _by_number(name: str) -> tuple[list[str | int], str]:
    """A key that has compute2 before compute10. Texts and numbers take turns, so they compare."""
    parts = _DIGITS.split(name)
    return [int(part) if turn % 2 else part for turn, part in enumerate(parts)], name


def _with_one_name_a_zone(places: Sequence[NetworkPlace]) -> tuple[NetworkPlace, ...]:
    """Each account has names of its own for the zones, but their ids are the same in all. Where
    two accounts disagree, a zone is called by its id."""
    ids: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for place in places:
        if place.zone_id:
            ids.setdefault(place.zone, set()).add(place.zone_id)
            names.setdefault(place.zone_id, set()).add(place.zone)
    return tuple(
        replace(place, zone=place.zone_id)
        if len(ids.get(place.zone, ())) > 1 or len(names.get(place.zone_id, ())) > 1
        else place
        for place in places
    )
