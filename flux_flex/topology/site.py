"""What the site knows of its own network, without asking EC2: for prologs and the amender.

It is told to a running instance by ``flux-flex topology tell``, and stands in its key-value store;
or the administrator keeps it in a file, ``topology.file`` of flex.toml. Both are EC2's answers in
the shape of ``flux-flex topology fetch --format aws``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from flux_flex.config import TopologyConfig, read_trusted
from flux_flex.errors import BadInput
from flux_flex.host.instance import Instance
from flux_flex.topology.answers import Answers, read_answers
from flux_flex.topology.mapping import Network, network_of_hosts

# Where `tell` puts it in the instance's key-value store.
KVS_KEY = "flex.topology"

# 100,000 instances of 600 bytes each.
MOST_BYTES = 64 << 20


def site_network(
    config: TopologyConfig, hosts: Iterable[str], instance: Instance | None = None
) -> Network | None:
    """The places of hosts as the site knows them; None where it knows nothing.

    What the instance was told goes before the file. Raises BadInput where either is malformed, or
    somebody else than root and this user could have written the file.
    """
    answers = site_answers(config, instance)
    if answers is None:
        return None
    return network_of_hosts(answers, hosts, read_host_map(config.host_map))


def site_answers(config: TopologyConfig, instance: Instance | None = None) -> Answers | None:
    """What the site knows, as EC2 answered it; None where it knows nothing. Raises BadInput."""
    answers = _told(instance) if instance is not None else None
    return answers or _kept(Path(config.file))


def read_host_map(path: str) -> dict[str, str]:
    """Hosts with their instance ids from a JSON object in a file; empty for an empty path."""
    if not path:
        return {}
    try:
        found = _json(read_trusted(Path(path), MOST_BYTES), path)
    except FileNotFoundError:
        raise BadInput("no such file", path, "name a file that exists") from None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise BadInput("no map of hosts", path, 'write {"compute0": "i-0123456789abcdef0"}')
    return found


def _told(instance: Instance) -> Answers | None:
    try:
        document = instance.kvs_get(KVS_KEY)
    except BadInput:
        return None  # there is no such key
    place = f"KVS key {KVS_KEY}"
    if not isinstance(document, Mapping):
        raise BadInput("no answers of EC2", place, "run flux-flex topology tell again")
    return read_answers([(place, dict(document))])


def _kept(path: Path) -> Answers | None:
    try:
        text = read_trusted(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    return read_answers([(str(path), _json(text, str(path)))])


def _json(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("not JSON", place, "write the file again") from None
