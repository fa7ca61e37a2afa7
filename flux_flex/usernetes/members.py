"""Who takes part: the nodes of a job's R, in the order of their ranks, the lead first.

Test instances run several brokers on one host, so a member is a rank, and the members that share
a host are counted: they need names, directories and ports of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.rv1 import parse_r

# RFC 1123, and capitals, which some sites have. Nothing that a shell or make would read.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
                   r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")  # fmt: skip
_LONGEST_HOST = 253
# The kernel takes no longer name for a container.
_LONGEST_NAME = 63


@dataclass(frozen=True)
class Member:
    """One node of a cluster. ``local_index`` counts the members on its host, from 0."""

    index: int
    rank: int
    host: str
    local_index: int

    @property
    def is_lead(self) -> bool:
        return self.index == 0

    @property
    def node_name(self) -> str:
        """What Kubernetes calls it: as Usernetes does, and apart where hosts are shared."""
        name = f"u7s-{self.host.lower()}" + (f"-{self.local_index}" if self.local_index else "")
        if len(name) <= _LONGEST_NAME:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:10]
        return f"{name[: _LONGEST_NAME - 11].rstrip('.-')}-{digest}"


def members_of(R: Mapping[str, object], limit: int | None = None) -> tuple[Member, ...]:
    """The members of a job's cluster: the first ``limit`` of its nodes, all without a limit.

    Raises FlexError for an R that makes no sense and for a host name that is none.
    """
    try:
        ranks = sorted(parse_r(R).ranks, key=lambda one: one.rank)[:limit]
    except BadInput as error:
        raise error.at("R") from None
    seen: Counter[str] = Counter()
    members = []
    for index, one in enumerate(ranks):
        check_host(one.host)
        members.append(Member(index, one.rank, one.host, seen[one.host.lower()]))
        seen[one.host.lower()] += 1
    return tuple(members)


def check_host(host: str) -> None:
    """Raise FlexError for what is no host name (RFC 1123)."""
    if len(host) > _LONGEST_HOST or not _HOST.fullmatch(host):
        raise FlexError(f"{host[:60]!r} is no host name", "R", "give the host a name of RFC 1123")
