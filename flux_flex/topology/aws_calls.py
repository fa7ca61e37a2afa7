"""EC2's calls: a client of one region, pages to their end, and ids that vanish between them.

    client, region = open_client(Account(region="us-east-2"), Patience())
    caller = Caller(client, region, progress, named=frozenset())
    for page, where in caller.all_pages("describe-instances", "Reservations", {}):
        ...

Profiles, session tokens, roles and AWS_ENDPOINT_URL are boto3's business; it is imported when a
client is opened. What is asked, and what the answers mean, is in :mod:`flux_flex.topology.aws`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from flux_flex.errors import FlexError
from flux_flex.topology import aws_errors
from flux_flex.topology.answers import REGION, TYPES

Progress = Callable[[str, int, int | None], None]
"""Told what is being fetched, how many there are by now, and of how many (None: unknown)."""

# DescribeInstanceTopology's limit. DescribeInstances names none; its guide says at most 1000.
_IDS = 100
# A hundred times the pages of 20,000 instances: what has more never ends.
_MOST_PAGES = 20_000
_TRIES = 6
_RESTARTS = 3

_HOST_LABEL = re.compile(r"[A-Za-z0-9-]{1,63}")

_T = TypeVar("_T")
Page = dict[str, Any]
Filters = list[dict[str, object]]


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


class _Vanished(Exception):
    """EC2 does not know, or no longer knows, some of the ids or types."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names


@dataclass
class Caller:
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
        self, call: str, key: str, ids: Sequence[str], filters: Filters | None = None
    ) -> Iterator[tuple[Page, str]]:
        """The pages for some ids, each with its place; ids that EC2 does not know are dropped.

        EC2 refuses a whole call for one such id, so the rest is asked for again. Raises BadInput
        where the user named the id.
        """
        for batch in batches(ids, _IDS):
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

    def of_types(self, types: list[str]) -> list[tuple[Page, str]]:
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
    ) -> Iterator[tuple[Page, str]]:
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
    ) -> Iterator[tuple[Page, str]]:
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

    def _ask(self, call: str, question: Mapping[str, object]) -> Page:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        where = aws_errors.place(call, self.region)
        try:
            page: Page = getattr(self.client, call.replace("-", "_"))(**question)
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


def open_client(account: Account, patience: Patience) -> tuple[Any, str]:
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


def batches(values: Iterable[_T], most: int) -> list[list[_T]]:
    """The values in lists of at most ``most``."""
    rest = iter(values)
    return list(iter(lambda: list(islice(rest, most)), []))
