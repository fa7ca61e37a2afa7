"""What a job asks of Usernetes, in the ``attributes.user`` of its jobspec.

    flux run --setattr=attributes.user.usernetes=yes …
    flux run --setattr=attributes.user.usernetes.kubernetes.nodes=2 …

``usernetes`` is yes or no, or a mapping of the options below, which implies yes. Users write it,
so nothing in it is believed before it has been through :func:`usernetes_request`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_flex.errors import BadInput
from flux_flex.model.quoting import brief, json_kind, quoted

PLACE = "attributes.user.usernetes"
DEBUG = "usernetes_debug"
MOST_PORTS = 16

_YES = frozenset({"yes", "true", "on", "1"})
_NO = frozenset({"no", "false", "off", "0", ""})
_KNOWN_BESIDE = ("usernetes", DEBUG)
_OPTIONS = ("kubernetes", "image", "ports")
_LIMITS = ("nodes", "cpus", "memory")

# A reference as registries take it: host, path, tag and digest. No space, quote or $ is in it.
_IMAGE = re.compile(r"[a-z0-9]+(?:[._:/-]{1,2}[A-Za-z0-9]+)*(?:@sha256:[0-9a-f]{64})?")
_LONGEST_IMAGE = 255
_MEMORY = re.compile(r"([1-9][0-9]{0,15})([kKmMgGtT]?)(?:i?[bB])?")
_UNIT_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class UsernetesRequest:
    """A cluster that a job wants.

    ``nodes``: how many of the job's nodes take part, from the first on; None for all.
    ``cpus`` and ``memory_bytes``: the most that each Kubernetes node may use; None for no limit.
    ``image``: the base image of the nodes; empty for that of the Usernetes tree.
    ``ports``: ports of the Kubernetes nodes that become reachable on their hosts.
    ``debug``: keep the cluster of a failed bring-up for a while.
    """

    nodes: int | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    image: str = ""
    ports: tuple[int, ...] = ()
    debug: bool = False


def usernetes_request(jobspec: Mapping[str, object]) -> UsernetesRequest | None:
    """What a jobspec asks for, or None where it asks for no cluster.

    Raises BadInput with the key path for anything that cannot be meant: an unknown key (with the
    nearest known one), a value of the wrong kind or out of range.
    """
    attributes = jobspec.get("attributes")
    user = attributes.get("user") if isinstance(attributes, Mapping) else None
    if not isinstance(user, Mapping):
        return None
    for key in user:
        if isinstance(key, str) and key.startswith("usernetes") and key not in _KNOWN_BESIDE:
            raise _unknown(key, _KNOWN_BESIDE, "attributes.user")
    debug = _switch(user.get(DEBUG, False), f"attributes.user.{DEBUG}")
    wanted = user.get("usernetes", False)
    if isinstance(wanted, Mapping):
        return _options(wanted, debug)
    return UsernetesRequest(debug=debug) if _switch(wanted, PLACE) else None


def _options(wanted: Mapping[str, object], debug: bool) -> UsernetesRequest:
    _check_keys(wanted, _OPTIONS, PLACE)
    place = f"{PLACE}.kubernetes"
    limits = wanted.get("kubernetes", {})
    if not isinstance(limits, Mapping):
        raise BadInput(f"{json_kind(limits)}", place, f"give a mapping of {', '.join(_LIMITS)}")
    _check_keys(limits, _LIMITS, place)
    return UsernetesRequest(
        nodes=_nodes(limits.get("nodes"), f"{place}.nodes"),
        cpus=_cpus(limits.get("cpus"), f"{place}.cpus"),
        memory_bytes=_memory(limits.get("memory"), f"{place}.memory"),
        image=_image(wanted.get("image", ""), f"{PLACE}.image"),
        ports=_ports(wanted.get("ports", ()), f"{PLACE}.ports"),
        debug=debug,
    )


def _switch(value: object, place: str) -> bool:
    if value is None or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    # Anything else may be a list, of which a set cannot even be asked.
    word = value.strip().lower() if isinstance(value, str) else "neither"
    if word in _YES or word in _NO:
        return word in _YES
    raise BadInput(f"{brief(value)} is neither yes nor no", place, "say yes, or leave it away")


def _nodes(value: object, place: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise BadInput(f"{brief(value)} is no number of nodes", place, "give a number from 1 on")
    return value


def _cpus(value: object, place: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.01 <= value <= 100_000:  # type: ignore[operator]
        raise BadInput(f"{brief(value)} is no number of CPUs", place, "give a number such as 4")
    return float(value)  # type: ignore[arg-type]


def _memory(value: object, place: str) -> int | None:
    """Bytes, from a number or from text such as ``8g`` or ``8GiB``."""
    if value is None:
        return None
    is_count = isinstance(value, int) and not isinstance(value, bool)
    found = _MEMORY.fullmatch(brief(value) if is_count else value if type(value) is str else "")
    size = int(found[1]) * _UNIT_BYTES[found[2].lower()] if found else 0
    if not 6 << 20 <= size <= 1 << 50:
        raise BadInput(f"{brief(value)} is no size of memory", place, "give a size such as 8g")
    return size


def _image(value: object, place: str) -> str:
    if value == "":
        return ""
    is_name = isinstance(value, str) and len(value) <= _LONGEST_IMAGE and _IMAGE.fullmatch(value)
    if not is_name:
        remedy = "give a reference such as docker.io/kindest/node:v1.35.0"
        raise BadInput(f"{brief(value)} is no image", place, remedy)
    return str(value)


def _ports(value: object, place: str) -> tuple[int, ...]:
    ports = value if isinstance(value, (list, tuple)) else [value]
    if len(ports) > MOST_PORTS:
        raise BadInput(f"{len(ports)} ports", place, f"give {MOST_PORTS} at the most")
    for number, port in enumerate(ports):
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise BadInput(f"{brief(port)} is no port", f"{place}[{number}]", "give 1 to 65535")
    if len(set(ports)) < len(ports):
        raise BadInput("a port comes twice", place, "give each once")
    return tuple(ports)


def _check_keys(found: Mapping[str, object], known: Sequence[str], place: str) -> None:
    for key in found:
        if key not in known:
            raise _unknown(key, known, place)


def _unknown(key: object, known: Sequence[str], place: str) -> BadInput:
    text = str(key)
    nearest = difflib.get_close_matches(text[:60], known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
    return BadInput(f"unknown key {quoted(text)}", place, remedy)
