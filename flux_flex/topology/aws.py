"""EC2, asked where instances sit: which there are, their topology, and what their types have.

    answers = fetch(Selection(groups=("blue",)), Account(region="us-east-2"))

The calls are those of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html,
.../API_DescribeInstanceTopology.html and .../API_DescribeInstanceTypes.html. How they are made, by
whom, and what becomes of ids that vanish meanwhile is in :mod:`flux_flex.topology.aws_calls`.
"""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from flux_flex.errors import BadInput
from flux_flex.topology import aws_errors
from flux_flex.topology.answers import (
    INSTANCES,
    MOST_NAME,
    TOPOLOGY,
    Answers,
    Ec2Instance,
    InstanceShape,
    Located,
    read_instances,
    read_topology,
    read_types,
)
from flux_flex.topology.aws_calls import (
    Account,
    Caller,
    Filters,
    Page,
    Patience,
    Progress,
    batches,
    open_client,
)
from flux_flex.topology.aws_errors import NoSuchGroup, NothingFound

__all__ = ["Account", "NoSuchGroup", "NothingFound", "Patience", "Progress", "Selection", "fetch"]

# The API's own limits.
_GROUPS = 100
_TYPES = 100
_FILTER_VALUES = 200
_INSTANCES_PAGE = 1000
_TOPOLOGY_PAGE = 100

# Of each type that has no topology so far, so many instances are asked for once more.
_PROBES = 5
# After so many answers that bring nothing new, what is missing is not late.
_IDLE_ANSWERS = 3

_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_RUNNING = "running"

_AS_FOUND, _USUAL = Account(), Patience()

_T = TypeVar("_T")


@dataclass(frozen=True)
class Selection:
    """Which instances: those of the ids and hosts, in one of the groups, that pass all filters.

    instance_ids   ids that have to exist
    groups         names of placement groups, literally
    filters        filters of DescribeInstances with their values, in which ``*`` and ``?`` stand
                   for text; https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Filter.html
    hosts          what hosts of an R are called: ids, private DNS names or their first labels,
                   private IPv4 addresses, Name tags. A host need not be found

    What is empty does not restrict; an empty selection is all instances of the region.
    """

    instance_ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        filters = [f"{name}={','.join(values)}" for name, values in self.filters]
        parts = zip(
            ("id", "host", "group", "filter"),
            (self.instance_ids, self.hosts, self.groups, filters),
            strict=True,
        )
        said = [f"{name} {_few(values)}" for name, values in parts if values]
        return "; ".join(said) or "all of the region"


def fetch(
    selection: Selection,
    account: Account = _AS_FOUND,
    *,
    progress: Progress | None = None,
    max_wait_s: float = 20.0,
    patience: Patience = _USUAL,
) -> Answers:
    """What EC2 says of the selected instances; those that have ended are left out.

    EC2 is eventually consistent: running instances that the topology leaves out are asked for
    again, with pauses that double, for ``max_wait_s`` in all, or until three answers bring nothing
    new. Of a type that no located instance has, five are asked for after the first pause; if none
    is located then, the type has no topology and is not waited for. What is still missing is not
    in ``located``.

    Raises NothingFound where no instance is selected, NoSuchGroup, which is one, for an unknown
    group, BadInput for an unknown id, profile or region, and FlexError for what AWS or the network
    refuses. Types that EC2 does not know are not in ``shapes``.
    """
    client, region = open_client(account, patience)
    with closing(client):
        caller = Caller(
            client, region, progress or (lambda *_: None), frozenset(selection.instance_ids)
        )
        instances = _find(caller, selection)
        located = _locate(caller, selection, instances)
        if not instances:
            remedy = "check region, account and names; aws ec2 describe-instances shows all"
            what = f"no instance matches: {selection}"
            raise NothingFound(what, aws_errors.place(INSTANCES, region), remedy)
        _await_late(caller, instances, located, max_wait_s, patience.pause_s)
        shapes = _shapes(caller, instances.values())
    here = {i: one for i, one in instances.items() if i not in caller.vanished}
    # What started between the calls has no names yet.
    located = {i: one for i, one in located.items() if i in here}
    return Answers(here, located, shapes)


# -- what is asked -------------------------------------------------------------------------------


def _find(caller: Caller, selection: Selection) -> dict[str, Ec2Instance]:
    """The instances of the selection that have not ended, by id."""
    found: dict[str, Ec2Instance] = {}

    def read(pages: Iterable[tuple[Page, str]]) -> None:
        for page, where in pages:
            _add(read_instances, page, where, found)
            caller.progress("instances", len(found), None)

    ids = dict.fromkeys([*selection.instance_ids, *filter(_ID.fullmatch, selection.hosts)])
    hosts = [host for host in dict.fromkeys(selection.hosts) if host not in ids]
    of_user: Filters = [{"Name": name, "Values": [*values]} for name, values in selection.filters]
    for groups in batches(dict.fromkeys(selection.groups), _GROUPS) or [[]]:
        filters = [*of_user]
        if groups:
            filters.append({"Name": "placement-group-name", "Values": [*map(_literal, groups)]})
        if ids:
            read(caller.of_ids(INSTANCES, "Reservations", list(ids), filters))
        for one in _filters_of_hosts(hosts):
            read(caller.all_pages(INSTANCES, "Reservations", _question([*filters, one])))
        if not (ids or selection.hosts):
            read(caller.all_pages(INSTANCES, "Reservations", _question(filters)))
    return {i: one for i, one in found.items() if not one.is_gone}


def _locate(
    caller: Caller, selection: Selection, instances: Mapping[str, Ec2Instance]
) -> dict[str, Located]:
    """Where the instances sit, as far as the topology says.

    DescribeInstanceTopology knows few filters, so filtered instances are asked for by their ids.
    """
    located: dict[str, Located] = {}
    running = [i for i, one in instances.items() if one.state == _RUNNING]

    def read(pages: Iterable[tuple[Page, str]]) -> None:
        for page, where in pages:
            _add(read_topology, page, where, located)
            caller.progress("topology", min(len(located), len(running)), len(running))

    if selection.instance_ids or selection.hosts or selection.filters:
        read(caller.of_ids(TOPOLOGY, "Instances", running))
    elif selection.groups:
        # Even where no instance is in them: this call tells unknown groups from empty ones.
        for groups in batches(dict.fromkeys(selection.groups), _GROUPS):
            question = {"GroupNames": groups, "MaxResults": _TOPOLOGY_PAGE}
            read(caller.all_pages(TOPOLOGY, "Instances", question))
    elif running:
        read(caller.all_pages(TOPOLOGY, "Instances", {"MaxResults": _TOPOLOGY_PAGE}))
    return located


def _await_late(
    caller: Caller,
    instances: Mapping[str, Ec2Instance],
    located: dict[str, Located],
    max_wait_s: float,
    pause_s: float,
) -> None:
    """Ask again for running instances that the topology left out; see :func:`fetch`."""
    deadline = time.monotonic() + max_wait_s
    is_first, n_idle = True, 0
    while n_idle < _IDLE_ANSWERS and (left_s := deadline - time.monotonic()) > 0:
        known = {one.instance_type for one in located.values()}
        missing: dict[str, list[str]] = {}
        for i, one in instances.items():
            if one.state == _RUNNING and i not in located and i not in caller.vanished:
                missing.setdefault(one.instance_type, []).append(i)
        probes = _PROBES if is_first else 0
        ids = [i for kind, all_of in missing.items()
               for i in (all_of if kind in known else all_of[:probes])]  # fmt: skip
        if not ids:
            return
        n_missing = sum(map(len, missing.values()))
        caller.progress("late topology", len(instances) - n_missing, len(instances))
        threading.Event().wait(min(pause_s, left_s))
        n_before = len(located)
        for page, where in caller.of_ids(TOPOLOGY, "Instances", ids):
            _add(read_topology, page, where, located)
        n_idle = n_idle + 1 if len(located) == n_before else 0
        pause_s *= 2
        is_first = False


def _shapes(caller: Caller, instances: Iterable[Ec2Instance]) -> dict[str, InstanceShape]:
    """What the types of the instances have."""
    shapes: dict[str, InstanceShape] = {}
    types = sorted({one.instance_type for one in instances} - {""})
    for batch in batches(types, _TYPES):
        for page, where in caller.of_types(batch):
            _add(read_types, page, where, shapes)
            caller.progress("types", len(shapes), len(types))
    return shapes


def _filters_of_hosts(hosts: Sequence[str]) -> Iterator[dict[str, object]]:
    """Filters that find the instances of hosts by address, private DNS name and Name tag."""
    names = [one for one in hosts if one.isprintable() and 0 < len(one) <= MOST_NAME]
    addresses = [name for name in names if _is_ipv4(name)]
    called = [name for name in names if not _is_ipv4(name)]
    dns = [_literal(name) for name in called]
    dns += [f"{_literal(name)}.*" for name in called if "." not in name]
    tags = [_literal(name) for name in names]
    by = {"private-ip-address": addresses, "private-dns-name": dns, "tag:Name": tags}
    for name, values in by.items():
        for batch in batches(values, _FILTER_VALUES):
            yield {"Name": name, "Values": batch}


def _question(filters: Filters) -> dict[str, object]:
    question: dict[str, object] = {"MaxResults": _INSTANCES_PAGE}
    return question | ({"Filters": filters} if filters else {})


def _add(
    read: Callable[[object, str, dict[str, _T]], None],
    page: Page,
    where: str,
    found: dict[str, _T],
) -> None:
    """Read one page into what was found. What is said later holds: states change between pages."""
    fresh: dict[str, _T] = {}
    try:
        read(page, where, fresh)
    except BadInput as error:
        # The reader's remedies are for recorded answers.
        raise aws_errors.not_ec2(error.what, error.where) from None
    found.update(fresh)


# -- pieces --------------------------------------------------------------------------------------


def _literal(text: str) -> str:
    """Text as a filter value that matches only itself: ``*``, ``?`` and ``\\`` are escaped."""
    return re.sub(r"([\\*?])", r"\\\1", text)


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _few(values: Sequence[str]) -> str:
    shown = ", ".join(aws_errors.clean(one, 60) for one in values[:5])
    return f"{shown}, … ({len(values)})" if len(values) > 5 else shown
