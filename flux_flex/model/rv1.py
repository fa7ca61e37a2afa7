"""R version 1: which resources a Flux instance or a job has (RFC 20).

R names execution targets by broker rank, folds those that look alike, and keeps the host names
in a list beside them. Here it becomes one small record for each rank:

    >>> execution = {
    ...     "R_lite": [{"rank": "0-1", "children": {"core": "0-7"}}],
    ...     "nodelist": ["compute[0-1]"],
    ... }
    >>> r = parse_r({"version": 1, "execution": execution})
    >>> r.ranks[1].host, len(r.ranks[1].cores)
    ('compute1', 8)

The n-th host of ``nodelist`` is the n-th rank in ascending order, whatever the order of
``R_lite``. Keys that RFC 20 does not name are ignored, as it reserves them for later versions;
a resource type other than ``core`` and ``gpu`` is refused, because leaving it out would change
what the R says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flux_flex.errors import BadInput
from flux_flex.model.constraints import check_property
from flux_flex.model.hostlist import expand_nodelist, format_hostlist
from flux_flex.model.idset import MAX_EXPANDED, format_idset, parse_idset
from flux_flex.model.quoting import clipped_int, json_kind, quoted

_TYPES = ("core", "gpu")
_CHILD = re.compile(r"(?P<type>[A-Za-z_-]+)(?P<ids>[0-9]+|\[[0-9,-]*\])")
_SUMMARY_REMEDY = "Flux writes rank[12-14]/core[0-7],gpu0, with a space between such items."


@dataclass(frozen=True, slots=True)
class RankResources:
    """One execution target.

    ``rank`` is the broker rank and ``host`` its host name, which several ranks may share;
    ``cores`` and ``gpus`` are logical ids, ascending; ``properties`` are names (RFC 31).
    """

    rank: int
    host: str
    cores: tuple[int, ...]
    gpus: tuple[int, ...]
    properties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceSet:
    """A parsed R.

    ``ranks`` ascend when :func:`parse_r` made them; ``starttime`` and ``expiration`` are seconds
    since the Unix epoch, 0.0 for unset. ``scheduling`` is the scheduler's own data and
    ``attributes`` what others keep in R; both are opaque and not copied. ``nslots`` is the number
    of slots when R is an allocation, otherwise None.
    """

    ranks: tuple[RankResources, ...]
    starttime: float = 0.0
    expiration: float = 0.0
    scheduling: object | None = field(default=None, hash=False)
    nslots: int | None = None
    attributes: object | None = field(default=None, hash=False)

    def to_r(self) -> dict[str, object]:
        """R version 1 as a JSON object; :func:`parse_r` gives this resource set back.

        Ranks with the same cores and gpus share one ``R_lite`` entry, and entries are in order
        of their lowest rank. Raises :class:`BadInput` when a host name or rank is invalid.
        """
        ordered = sorted(self.ranks, key=lambda target: target.rank)
        execution: dict[str, object] = {
            "R_lite": _r_lite(ordered),
            "starttime": self.starttime,
            "expiration": self.expiration,
            "nodelist": [format_hostlist([t.host for t in ordered])] if ordered else [],
        }
        if self.nslots is not None:
            execution["nslots"] = self.nslots
        properties: dict[str, list[int]] = {}
        for target in ordered:
            for name in target.properties:
                properties.setdefault(name, []).append(target.rank)
        if properties:
            execution["properties"] = {
                name: format_idset(ranks) for name, ranks in sorted(properties.items())
            }
        r: dict[str, object] = {"version": 1, "execution": execution}
        if self.scheduling is not None:
            r["scheduling"] = self.scheduling
        if self.attributes is not None:
            r["attributes"] = self.attributes
        return r


def parse_r(value: object) -> ResourceSet:
    """The resource set in ``value``, a decoded R version 1 object.

    Raises :class:`BadInput` with the key's path when the version is not 1, a required key is
    missing or of the wrong type, an idset or hostlist is malformed, a rank comes twice, there
    are not as many hosts as ranks, a property names a rank that is not there, a time is not a
    finite number from 0 up or R expires before it starts, or when it expands to more than
    :data:`~flux_flex.model.idset.MAX_EXPANDED` ranks, to more ids in distinct idsets of
    cores and gpus, or to more properties of ranks.
    """
    r = _object(value, "R")
    _check_version(r)
    execution = _object(_required(r, "execution", "R"), "execution")
    children = _parse_r_lite(_required(execution, "R_lite", "execution"))
    ranks = sorted(children)
    hosts = _parse_hosts(execution, len(ranks))
    properties = _parse_properties(execution.get("properties"), children)
    starttime = _seconds(execution, "starttime")
    expiration = _seconds(execution, "expiration")
    if starttime and expiration and expiration <= starttime:
        raise BadInput(
            f"R expires at {expiration} but starts at {starttime}",
            "execution.expiration",
            "Make it later than starttime, or 0 for no end.",
        )
    scheduling, attributes = (
        None if r.get(key) is None else _object(r[key], key) for key in ("scheduling", "attributes")
    )
    return ResourceSet(
        tuple(
            RankResources(rank, host, *children[rank], tuple(properties.get(rank, ())))
            for rank, host in zip(ranks, hosts, strict=True)
        ),
        starttime,
        expiration,
        scheduling,
        _parse_nslots(execution.get("nslots")),
        attributes,
    )


def parse_r_at(value: object, place: str) -> ResourceSet:
    """As :func:`parse_r`, where null stands for no resources; errors name the place."""
    if value is None:
        return ResourceSet(())
    try:
        return parse_r(value)
    except BadInput as error:
        raise error.at(place) from None


def parse_resource_summary(
    text: str,
) -> list[tuple[tuple[int, ...], dict[str, tuple[int, ...]]]]:
    """Flux's one-line form of R, as in ``rank[0-1]/core[0-7],gpu0 rank2/core[0-3]``.

    One pair for each item, in order: its ranks, and the ids of each type (``core``, ``gpu``)
    that every one of those ranks has. Raises :class:`BadInput` when an item is malformed, a
    type is unknown or comes twice in an item, a rank comes in two items, or the ranks or
    the distinct idsets of children are more than
    :data:`~flux_flex.model.idset.MAX_EXPANDED` ids.
    """
    if not isinstance(text, str):
        raise BadInput(f"it is {json_kind(text)}, not a string", "resources", _SUMMARY_REMEDY)
    rank_idsets, child_idsets = _Idsets(), _Idsets()
    taken: dict[int, int] = {}
    items: list[tuple[tuple[int, ...], dict[str, tuple[int, ...]]]] = []
    for index, item in enumerate(text.split()):
        where = f"resources item {index + 1} {quoted(item)}"
        target, slash, rest = item.partition("/")
        matched = _CHILD.fullmatch(target)
        if not slash or matched is None or matched["type"] != "rank":
            raise BadInput("it is not rank<ids>/<children>", where, _SUMMARY_REMEDY)
        ranks = rank_idsets.parse(matched["ids"], where)
        _take(ranks, index, taken, where, lambda earlier: f"resources item {earlier + 1}")
        items.append((ranks, _summary_children(rest, child_idsets, where)))
    return items


class _Idsets:
    """Parses idsets of one kind in one document, each distinct text once, within one limit.

    A hostile R of a megabyte can repeat ``0-999999`` a hundred thousand times; sharing the tuple
    keeps that cheap, and the limit holds for what is left.
    """

    __slots__ = ("_ids", "_total")

    def __init__(self) -> None:
        self._ids: dict[str, tuple[int, ...]] = {}
        self._total = 0

    def parse(self, value: object, where: str) -> tuple[int, ...]:
        if not isinstance(value, str):
            raise BadInput(
                f"an idset is a string, not {json_kind(value)}", where, 'Write it quoted: "0-3".'
            )
        known = self._ids.get(value)
        if known is not None:
            return known
        try:
            ids = parse_idset(value)
        except BadInput as error:
            raise error.at(where) from None
        self._total += len(ids)
        if self._total > MAX_EXPANDED:
            raise BadInput(
                f"the idsets up to here stand for more than {MAX_EXPANDED:,} ids",
                where,
                "Name only the ids that exist.",
            )
        self._ids[value] = ids
        return ids


def _r_lite(ordered: list[RankResources]) -> list[dict[str, object]]:
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for target in ordered:
        alike.setdefault((target.cores, target.gpus), []).append(target.rank)
    entries: list[dict[str, object]] = []
    for (cores, gpus), ranks in alike.items():
        children = {"core": format_idset(cores)}  # required by RFC 20, even when there is none
        if gpus:
            children["gpu"] = format_idset(gpus)
        entries.append({"rank": format_idset(ranks), "children": children})
    return entries


def _object(value: object, where: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise BadInput(f"it is {json_kind(value)}, not an object", where, "See RFC 20 for R.")
    return value


def _required(mapping: Mapping[object, object], key: str, where: str) -> object:
    if key not in mapping:
        raise BadInput(f"the key {key} is missing", where, f"RFC 20 requires {key}.")
    return mapping[key]


def _check_version(r: Mapping[object, object]) -> None:
    version = _required(r, "version", "R")
    if isinstance(version, int) and not isinstance(version, bool):
        if version == 1:
            return
        shown = clipped_int(version)
    else:
        shown = quoted(version) if isinstance(version, str) else json_kind(version)
    raise BadInput(
        f"R version {shown} is not known, only 1 is",
        "version",
        "Get R from `flux resource R` or `flux job info JOBID R`.",
    )


def _parse_r_lite(value: object) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The (cores, gpus) of each rank."""
    if not isinstance(value, list):
        raise BadInput(
            f"it is {json_kind(value)}, not a list",
            "execution.R_lite",
            'Write [{"rank": "0-3", "children": {"core": "0-7"}}].',
        )
    rank_idsets, child_idsets = _Idsets(), _Idsets()
    children: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    taken: dict[int, int] = {}
    for index, item in enumerate(value):
        where = f"execution.R_lite[{index}]"
        entry = _object(item, where)
        ranks = rank_idsets.parse(_required(entry, "rank", where), f"{where}.rank")
        if not ranks:
            raise BadInput("it names no rank", f"{where}.rank", "Name one or leave the entry out.")
        _take(ranks, index, taken, f"{where}.rank", lambda earlier: f"execution.R_lite[{earlier}]")
        found = _parse_children(
            _required(entry, "children", where), child_idsets, f"{where}.children"
        )
        children.update(dict.fromkeys(ranks, found))
    return children


def _take(
    ranks: tuple[int, ...],
    index: int,
    taken: dict[int, int],
    where: str,
    name: Callable[[int], str],
) -> None:
    """Note that item ``index`` has ``ranks``; refuse a rank that an earlier item has."""
    for rank in ranks:
        if rank in taken:
            raise BadInput(
                f"rank {rank} is already in {name(taken[rank])}",
                where,
                "Put all that a rank has into one item.",
            )
        taken[rank] = index


def _parse_children(
    value: object, idsets: _Idsets, where: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    children = _object(value, where)
    for kind in children:
        if kind not in _TYPES:
            raise _unknown_type(kind, where)
    # RFC 20 wants a core key always, but fluxion leaves it out when a job holds gpus alone.
    cores, gpus = (idsets.parse(children.get(kind, ""), f"{where}.{kind}") for kind in _TYPES)
    return cores, gpus


def _unknown_type(kind: object, where: str) -> BadInput:
    shown = quoted(kind) if isinstance(kind, str) else json_kind(kind)
    return BadInput(
        f"the resource type {shown} is unknown",
        where,
        "R version 1 has core and gpu; anything else belongs in the scheduling key.",
    )


def _parse_hosts(execution: Mapping[object, object], n_ranks: int) -> list[str]:
    where = "execution.nodelist"
    if not n_ranks and "nodelist" not in execution:  # an R of nothing: no node is down, say
        return []
    nodelist = _required(execution, "nodelist", "execution")
    if not isinstance(nodelist, list):
        raise BadInput(
            f"it is {json_kind(nodelist)}, not a list of hostlists", where, 'Write ["node[0-3]"].'
        )
    hosts = expand_nodelist(nodelist, where=where)
    if len(hosts) != n_ranks:
        raise BadInput(
            f"ranks and hosts disagree: {n_ranks} ranks, {len(hosts)} hosts",
            where,
            "Name one host for each rank of R_lite, in order of rank.",
        )
    return hosts


def _parse_properties(value: object, known: Mapping[int, object]) -> dict[int, list[str]]:
    """The property names of each rank that has any, sorted."""
    if value is None:
        return {}
    where = "execution.properties"
    total = 0
    of_rank: dict[int, list[str]] = {}
    idsets = _Idsets()
    for name, ids in _named(_object(value, where), where):
        place = f"{where}[{quoted(name)}]"
        ranks = idsets.parse(ids, place)
        total += len(ranks)
        if total > MAX_EXPANDED:
            raise BadInput(
                f"the ranks have more than {MAX_EXPANDED:,} properties in all",
                place,
                "Give each rank only the properties that jobs ask for.",
            )
        for rank in ranks:
            if rank not in known:
                raise BadInput(
                    f"rank {rank} is not in R_lite", place, "Name only ranks that R_lite has."
                )
            of_rank.setdefault(rank, []).append(name)
    return of_rank


def _named(properties: Mapping[object, object], where: str) -> list[tuple[str, object]]:
    """The properties and their idsets, in order of name."""
    named: list[tuple[str, object]] = []
    for name, ids in properties.items():
        if not isinstance(name, str):
            raise BadInput(
                f"a property name is a string, not {json_kind(name)}", where, "Quote the name."
            )
        check_property(name, where)
        named.append((name, ids))
    return sorted(named, key=lambda pair: pair[0])


def _seconds(execution: Mapping[object, object], key: str) -> float:
    """The time under ``key``, in seconds since the epoch; 0.0 when it is absent."""
    value = execution.get(key, 0.0)
    where = f"execution.{key}"
    remedy = "Write seconds since 1970-01-01 UTC, or 0 for none."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"a time is a number, not {json_kind(value)}", where, remedy)
    if isinstance(value, int) and value.bit_length() > 64:  # too long for float(), or to print
        raise BadInput("the time is no time on any calendar", where, remedy)
    if not math.isfinite(value) or value < 0:
        raise BadInput(f"{value} is not a finite number from 0 up", where, remedy)
    return float(value)


def _parse_nslots(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise BadInput(
            "the number of slots is not a whole number from 1 up",
            "execution.nslots",
            "Leave it out when R is not an allocation.",
        )
    return value


def _summary_children(text: str, idsets: _Idsets, where: str) -> dict[str, tuple[int, ...]]:
    children: dict[str, tuple[int, ...]] = {}
    position = 0
    while True:
        matched = _CHILD.match(text, position)
        if matched is None:
            raise BadInput(
                f"{quoted(text[position:])} is not a type with ids", where, _SUMMARY_REMEDY
            )
        kind = matched["type"]
        if kind not in _TYPES:
            raise _unknown_type(kind, where)
        if kind in children:
            raise BadInput(f"{kind} comes twice", where, "Put the ids into one idset.")
        children[kind] = idsets.parse(matched["ids"], where)
        position = matched.end()
        if position == len(text):
            return children
        if text[position] != ",":
            raise BadInput(
                f"{quoted(text[position:])} follows {kind} without a comma", where, _SUMMARY_REMEDY
            )
        position += 1
