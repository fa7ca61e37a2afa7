"""What the site knows of its own network, without asking EC2: for prologs and the amender.

It is told to a running instance by ``flux-flex topology tell``, and stands in its key-value store;
or the administrator keeps it in a file, ``topology.file`` of flex.toml. Both are EC2's answers in
the shape of ``flux-flex topology fetch --format aws``; beside those that an instance was told stand
the instance ids of its hosts::

    {"Instances": […], "Reservations": […], "InstanceTypes": […], "HostMap": {"compute0": "i-…"}}

Nothing here brings numpy or pydantic along before something is known: a prolog need not pay for a
network of which nobody said anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flux_flex.errors import BadInput
from flux_flex.host.instance import Instance

if TYPE_CHECKING:
    from flux_flex.config import TopologyConfig
    from flux_flex.topology.answers import Answers
    from flux_flex.topology.mapping import Network

# Where `tell` puts it in the instance's key-value store.
KVS_KEY = "flex.topology"

# Where in that document the instance ids of the hosts are; EC2's answers have no such key.
HOST_MAP = "HostMap"

# 100,000 instances of 600 bytes each.
MOST_BYTES = 64 << 20

_LONGEST_HOST = 255


def site_network(
    config: TopologyConfig, hosts: Iterable[str], instance: Instance | None = None
) -> Network | None:
    """The places of hosts as the site knows them; None where it knows nothing.

    What the instance was told goes before the file, and is read once. A host is the instance that
    ``topology.host_map`` of flex.toml gives it, else the one that the instance was told, else the
    one that goes by its name. Raises BadInput where any of it is malformed, or somebody else than
    root and this user could have written a file.
    """
    known = site_known(config, instance)
    if known is None:
        return None
    # Here, for it brings numpy along.
    from flux_flex.topology.mapping import network_of_hosts

    answers, told = known
    return network_of_hosts(answers, hosts, {**told, **read_host_map(config.host_map)})


def site_known(
    config: TopologyConfig, instance: Instance | None = None
) -> tuple[Answers, dict[str, str]] | None:
    """What the site knows, as EC2 answered it, and which instance each host was told to be.

    The latter is empty for a file, and flex.toml's own map, which goes before it, is not in it.
    None where the site knows nothing. Raises BadInput.
    """
    found = _told(instance) if instance is not None else None
    if found is not None:
        return found
    answers = _kept(Path(config.file))
    return None if answers is None else (answers, {})


def site_answers(config: TopologyConfig, instance: Instance | None = None) -> Answers | None:
    """What the site knows, as EC2 answered it; None where it knows nothing. Raises BadInput."""
    known = site_known(config, instance)
    return None if known is None else known[0]


def told_document(answers: Answers, hosts: Mapping[str, str]) -> dict[str, object]:
    """What an instance is told: answers, and the instance id of each host, as JSON to be put.

    Without the ids nobody could find hosts again that EC2 knows by no name of theirs, nor tell
    which properties a host got that has become another instance since.
    """
    return {**answers.document(), HOST_MAP: dict(sorted(hosts.items()))}


def read_told(document: object) -> tuple[Answers, dict[str, str]]:
    """What :func:`told_document` made; the map is empty where there is none. Raises BadInput."""
    # Here, for it brings numpy along.
    from flux_flex.topology.answers import read_answers

    place, remedy = f"KVS key {KVS_KEY}", "run flux-flex topology tell again"
    if not isinstance(document, dict):
        raise BadInput("no answers of EC2", place, remedy)
    answers = read_answers([(place, document)])
    hosts = document.get(HOST_MAP, {})
    if not isinstance(hosts, dict) or not all(map(_is_host, hosts)):
        raise BadInput("no map of hosts to instance ids", f"{place}: {HOST_MAP}", remedy)
    for host, instance_id in hosts.items():
        if not isinstance(instance_id, str) or instance_id not in answers.located:
            what = "no instance whose place is told beside it"
            raise BadInput(what, f"{place}: {HOST_MAP}[{host!r}]", remedy)
    return answers, hosts


def read_host_map(path: str) -> dict[str, str]:
    """Hosts with their instance ids from a JSON object in a file; empty for an empty path."""
    if not path:
        return {}
    from flux_flex.config import read_trusted

    try:
        found = _json(read_trusted(Path(path), MOST_BYTES), path)
    except FileNotFoundError:
        raise BadInput("no such file", path, "name a file that exists") from None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise BadInput("no map of hosts", path, 'write {"compute0": "i-0123456789abcdef0"}')
    return found


def _told(instance: Instance) -> tuple[Answers, dict[str, str]] | None:
    try:
        document = instance.kvs_get(KVS_KEY)
    except BadInput:
        return None  # there is no such key
    return read_told(document)


def _kept(path: Path) -> Answers | None:
    if not os.path.lexists(path):
        return None
    from flux_flex.config import read_trusted

    try:
        text = read_trusted(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    # Here, for it brings numpy along.
    from flux_flex.topology.answers import read_answers

    return read_answers([(str(path), _json(text, str(path)))])


def _is_host(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_HOST and name.isprintable()


def _json(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("not JSON", place, "write the file again") from None
