"""EC2, asked where instances sit: which there are, their topology, and what their types have.

    answers = fetch(Selection(groups=("blue",)), Account(region="us-east-2"))

The calls are those of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html,
.../API_DescribeInstanceTopology.html and .../API_DescribeInstanceTypes.html. Profiles, session
tokens, roles and AWS_ENDPOINT_URL are boto3's business; it is imported when EC2 is asked.
"""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from flux_flex.errors import BadInput, FlexError
from flux_flex.topology import aws_errors
from flux_flex.topology.answers import (
    INSTANCES,
    MOST_NAME,
    REGION,
    TOPOLOGY,
    TYPES,
    Answers,
    Ec2Instance,
    InstanceShape,
    Located,
    read_instances,
    read_topology,
    read_types,
)
from flux_flex.topology.aws_errors import NoSuchGroup, NothingFound

__all__ = ["Account", "NoSuchGroup", "NothingFound", "Patience", "Progress", "Selection", "fetch"]

Progress = Callable[[str, int, int | None], None]
"""Told what is being fetched, how many there are by now, and of how many (None: unknown)."""

# The API's own limits. DescribeInstances names none for ids; its guide says at most 1000.
_IDS = 100
_GROUPS = 100
_TYPES = 100
_FILTER_VALUES = 200
_INSTANCES_PAGE = 1000
_TOPOLOGY_PAGE = 100

# A hundred times the pages of 20,000 instances: what has more never ends.
_MOST_PAGES = 20_000
_TRIES = 6
_RESTARTS = 3
# Of each type that has no topology so far, so many instances are asked for once more.
_PROBES = 5
# After so many answers that bring nothing new, what is missing is not late.
_IDLE_ANSWERS = 3

_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_HOST_LABEL = re.compile(r"[A-Za-z0-9-]{1,63}")
_RUNNING = "running"

_T = TypeVar("_T")
_Page = dict[str, Any]
_Filters = list[dict[str, object]]


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


@dataclass(frozen=True)
class Account:
    """As whom, and where; empty for what boto3 finds: variables, then ~/.aws, then the instance."""

    profile: str = ""
    region: str = ""


@dataclass(frozen=True)
class Patience:
    """Seconds: to connect, for one answer, and the first pause before late ones are asked again.

    How often a call is tried is AWS_MAX_ATTEMPTS or ``max_attempts`` of the profile, else 6.
    """

    connect_s: float = 5.0
    read_s: float = 30.0
    pause_s: float = 0.5


def fetch(
    selection: Selection,
    account: Account = Account(),
    *,
    progress: Progress | None = None,
    max_wait_s: float = 20.0,
    patience: Patience = Patience(),
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
    client, region = _open(account, patience)
    with closing(client):
        caller = _Caller(
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
    return Answers(here, located, shapes, has_instances=True)


# -- what is asked -------------------------------------------------------------------------------


def _find(caller: _Caller, selection: Selection) -> dict[str, Ec2Instance]:
    """The instances of the selection that have not ended, by id."""
    found: dict[str, Ec2Instance] = {}

    def read(pages: Iterable[tuple[_Page, str]]) -> None:
        for page, where in pages:
            _add(read_instances, page, where, found)
            caller.progress("instances", len(found), None)

    ids = dict.fromkeys([*selection.instance_ids, *filter(_ID.fullmatch, selection.hosts)])
    hosts = [host for host in dict.fromkeys(selection.hosts) if host not in ids]
    of_user: _Filters = [{"Name": name, "Values": [*values]} for name, values in selection.filters]
    for groups in _batches(dict.fromkeys(selection.groups), _GROUPS) or [[]]:
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
    caller: _Caller, selection: Selection, instances: Mapping[str, Ec2Instance]
) -> dict[str, Located]:
    """Where the instances sit, as far as the topology says.

    DescribeInstanceTopology knows few filters, so filtered instances are asked for by their ids.
    """
    located: dict[str, Located] = {}
    running = [i for i, one in instances.items() if one.state == _RUNNING]

    def read(pages: Iterable[tuple[_Page, str]]) -> None:
        for page, where in pages:
            _add(read_topology, page, where, located)
            caller.progress("topology", min(len(located), len(running)), len(running))

    if selection.instance_ids or selection.hosts or selection.filters:
        read(caller.of_ids(TOPOLOGY, "Instances", running))
    elif selection.groups:
        # Even where no instance is in them: this call tells unknown groups from empty ones.
        for groups in _batches(dict.fromkeys(selection.groups), _GROUPS):
            question = {"GroupNames": groups, "MaxResults": _TOPOLOGY_PAGE}
            read(caller.all_pages(TOPOLOGY, "Instances", question))
    elif running:
        read(caller.all_pages(TOPOLOGY, "Instances", {"MaxResults": _TOPOLOGY_PAGE}))
    return located


def _await_late(
    caller: _Caller,
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


def _shapes(caller: _Caller, instances: Iterable[Ec2Instance]) -> dict[str, InstanceShape]:
    """What the types of the instances have."""
    shapes: dict[str, InstanceShape] = {}
    types = sorted({one.instance_type for one in instances} - {""})
    for batch in _batches(types, _TYPES):
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
        for batch in _batches(values, _FILTER_VALUES):
            yield {"Name": name, "Values": batch}


def _question(filters: _Filters) -> dict[str, object]:
    question: dict[str, object] = {"MaxResults": _INSTANCES_PAGE}
    return question | ({"Filters": filters} if filters else {})


def _add(
    read: Callable[[object, str, dict[str, _T]], None],
    page: _Page,
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


# -- how it is asked -----------------------------------------------------------------------------


class _Vanished(Exception):
    """EC2 does not know, or no longer knows, some of the ids or types."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names


@dataclass
class _Caller:
    """A client of one region that follows pages and drops ids that vanish.

    named      ids that have to exist: EC2 not knowing one of them is an error
    vanished   ids that EC2 did not know, or no longer knows
    """

    client: Any
    region: str
    progress: Progress
    named: Set[str]
    vanished: set[str] = field(default_factory=set)
    _n_pages: dict[str, int] = field(default_factory=dict)

    def of_ids(
        self, call: str, key: str, ids: Sequence[str], filters: _Filters | None = None
    ) -> Iterator[tuple[_Page, str]]:
        """The pages for some ids, each with its place; ids that EC2 does not know are dropped.

        EC2 refuses a whole call for one such id, so the rest is asked for again. Raises BadInput
        where the user named the id.
        """
        for batch in _batches(ids, _IDS):
            left = batch
            while left:
                question: dict[str, object] = {"InstanceIds": left}
                try:
                    pages = list(
                        self._pages(call, key, question | ({"Filters": filters} if filters else {}))
                    )
                except _Vanished as gone:
                    left = self._without(left, gone.names, aws_errors.place(call, self.region))
                    continue
                yield from pages
                break

    def of_types(self, types: list[str]) -> list[tuple[_Page, str]]:
        """The pages for some types; EC2 refuses a whole call for one that it does not know.

        Such types are dropped, all where it does not say which: few formats need their shapes.
        """
        left, n_before = types, 0
        while left and len(left) != n_before:
            try:
                return list(self._pages(TYPES, "InstanceTypes", {"InstanceTypes": left}))
            except _Vanished as unknown:
                n_before, left = len(left), [one for one in left if one not in unknown.names]
        return []

    def all_pages(
        self, call: str, key: str, question: Mapping[str, object]
    ) -> Iterator[tuple[_Page, str]]:
        """The pages of a question that names no ids, each with its place.

        Even then EC2 may fail for an instance that ends between two pages
        (https://github.com/aws/aws-sdk-java/issues/911): the question is asked again from its
        beginning, so pages may come twice.
        """
        for _ in range(_RESTARTS):
            try:
                yield from self._pages(call, key, question)
            except _Vanished:
                continue
            return
        what = "instances end faster than EC2 can list them"
        raise FlexError(what, aws_errors.place(call, self.region), "try again")

    def _without(self, asked: list[str], unknown: frozenset[str], where: str) -> list[str]:
        dropped = [one for one in asked if one in unknown]
        refused = [one for one in dropped if one in self.named]
        if refused:
            raise aws_errors.unknown_ids(refused, where)
        if not dropped:
            what = "EC2 does not know an instance, and does not say which"
            raise FlexError(what, where, "ask for fewer instances at a time")
        self.vanished.update(dropped)
        return [one for one in asked if one not in unknown]

    def _pages(
        self, call: str, key: str, question: Mapping[str, object]
    ) -> Iterator[tuple[_Page, str]]:
        token = ""
        while True:
            n_pages = self._n_pages[call] = self._n_pages.get(call, 0) + 1
            where = f"{aws_errors.place(call, self.region)}: page {n_pages}"
            page = self._ask(call, {**question, **({"NextToken": token} if token else {})})
            if not isinstance(page.get(key), list):
                raise aws_errors.not_ec2(f"the answer has no {key}", where)
            before, token = token, page.pop("NextToken", "")
            yield page, where
            if not token:
                return
            if token == before or n_pages >= _MOST_PAGES:
                raise aws_errors.not_ec2("the pages do not end", where)

    def _ask(self, call: str, question: Mapping[str, object]) -> _Page:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        where = aws_errors.place(call, self.region)
        try:
            page: _Page = getattr(self.client, call.replace("-", "_"))(**question)
        except ClientError as error:
            unknown = aws_errors.unknown_names(error)
            if unknown is not None:
                raise _Vanished(unknown) from None
            raise aws_errors.explained(error, call, self.region) from None
        except BotoCoreError as error:
            raise aws_errors.explained(error, call, self.region) from None
        except ResponseParserError:
            raise aws_errors.not_ec2("the answer is not XML", where) from None
        except (ValueError, TypeError, AttributeError, LookupError):
            # What botocore's parser trips over in XML that is not of EC2's making.
            raise aws_errors.not_ec2("the answer is XML, but not EC2's", where) from None
        return page


def _open(account: Account, patience: Patience) -> tuple[Any, str]:
    """A client of EC2 with the region that it is of."""
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    region = account.region
    try:
        core = botocore.session.get_session()
        # Times are not used, and reading them takes as long as all the rest; the AWS command line
        # leaves them as text in this way, too.
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        session = boto3.session.Session(
            profile_name=account.profile or None,
            region_name=account.region or None,
            botocore_session=core,
        )
        region = session.region_name or _region_of_this_machine(core)
        if not region:
            raise aws_errors.no_region()
        # botocore lets a line's end pass.
        if not _HOST_LABEL.fullmatch(region):
            raise aws_errors.bad_region(region)
        retries: dict[str, object] = {"mode": "adaptive"}
        if core.get_config_variable("max_attempts") is None:
            retries["total_max_attempts"] = _TRIES
        config = Config(
            retries=retries,
            connect_timeout=patience.connect_s,
            read_timeout=patience.read_s,
            user_agent_extra="flux-flex",
        )
        return session.client("ec2", region_name=region, config=config), region
    except (BotoCoreError, ValueError) as error:
        raise aws_errors.explained(error, "aws", region or "") from None


def _region_of_this_machine(core: Any) -> str:
    """The region that the instance metadata service tells; empty outside of EC2.

    Tries once, for a second each for the token and the zone, unless the metadata variables of AWS
    say otherwise. AWS_EC2_METADATA_DISABLED is heeded.
    """
    from botocore.utils import IMDSRegionProvider

    # botocore takes the last letter off the zone, which leaves us-west-2-lax-1 of a Local Zone.
    found = REGION.match(IMDSRegionProvider(core).provide() or "")
    return found[0] if found else ""


# -- pieces --------------------------------------------------------------------------------------


def _batches(values: Iterable[_T], most: int) -> list[list[_T]]:
    rest = iter(values)
    return list(iter(lambda: list(islice(rest, most)), []))


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
