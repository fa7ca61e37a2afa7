"""The way in to the lead broker: one port, open to the cluster's own addresses while bursts are.

    ingress.open("hpc-0", group, sources, port)    # rules with the burst's tag
    ingress.close("hpc-0", others)                 # revoked, or handed on to a burst that is there

EC2 has only one rule of a kind in a group, so bursts share them: the tag names the burst that holds
a rule, and when that burst goes while others are there, the rule is tagged with one of these. A
rule of the same kind that somebody else made does as well, and is never touched; but not one of
another instance, which revokes it when its own bursts have gone.

Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AuthorizeSecurityGroupIngress.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from flux_flex.burst.minicluster import BURST_LABEL
from flux_flex.burst.providers.eks_aws import Aws, AwsRefusal
from flux_flex.burst.providers.eks_groups import (
    INSTANCE_LABEL,
    burst_of,
    listed_tags,
    read_tags,
)
from flux_flex.errors import FlexError
from flux_flex.topology.aws_errors import clean

_DUPLICATE = "InvalidPermission.Duplicate"
_GONE = frozenset(
    {"InvalidSecurityGroupRuleId.NotFound", "InvalidPermission.NotFound", "InvalidGroup.NotFound"}
)


class Ingress:
    """Rules of the lead broker's security group that were made by one instance."""

    def __init__(self, aws: Aws, identity: str) -> None:
        self._aws = aws
        self._identity = identity
        # Bursts that are let in and may not be listed yet; two of them may come and go at once.
        self._inside: set[str] = set()
        self._lock = threading.Lock()

    def open(self, burst: str, group: str, sources: Sequence[str], port: int) -> None:
        """Let ``sources``, security groups and networks, connect to the group's TCP port."""
        with self._lock:
            self._inside.add(burst)
            for source in sources:
                self._allow(burst, group, source, port)

    def close(self, burst: str, others: Callable[[], Collection[str]]) -> None:
        """Nobody is let in for this burst any more; ``others`` tells which bursts are there."""
        with self._lock:
            self._inside.discard(burst)
            held = [one for one in self._rules() if burst_of(one, self._identity) == burst]
            there = {*others()} - {burst} if held else set()
            heir = min(there or self._inside, default="")
            for rule in held:
                if heir:
                    self._hand_on(rule, heir)
                else:
                    self._revoke(rule)

    def holders(self) -> set[str]:
        """The bursts that rules are tagged with."""
        return {burst_of(rule, self._identity) for rule in self._rules()} - {""}

    def _allow(self, burst: str, group: str, source: str, port: int) -> None:
        said = f"flux-flex {self._identity}: brokers of rented nodes"[:255]
        rule: dict[str, object] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
        if source.startswith("sg-"):
            rule["UserIdGroupPairs"] = [{"GroupId": source, "Description": said}]
        elif ":" in source:
            rule["Ipv6Ranges"] = [{"CidrIpv6": source, "Description": said}]
        else:
            rule["IpRanges"] = [{"CidrIp": source, "Description": said}]
        tags = listed_tags(self._identity, burst)
        try:
            # One at a time: EC2 refuses all of a call for one rule that is there already.
            self._aws.ask(
                "ec2",
                "authorize_security_group_ingress",
                GroupId=group,
                IpPermissions=[rule],
                TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": tags}],
            )
        except AwsRefusal as error:
            if error.code != _DUPLICATE:
                raise
            self._check_stays(group, source, port)

    def _check_stays(self, group: str, source: str, port: int) -> None:
        """Raise FlexError where the rule that is there will be revoked by another instance."""
        filters = [{"Name": "group-id", "Values": [group]}]
        key = "SecurityGroupRules"
        for rule in self._aws.pages("ec2", "describe_security_group_rules", key, Filters=filters):
            owner = read_tags(rule).get(INSTANCE_LABEL)
            if owner and owner != self._identity and _lets_in(rule, source, port):
                what = (
                    f"the instance {clean(owner, 63)} lets {source} in, until its bursts have gone"
                )
                raise FlexError(what, group, "give each lead broker a security group of its own")

    def _rules(self) -> list[Mapping[str, Any]]:
        """All of this instance, in whichever group: that in the configuration may have changed."""
        filters = [{"Name": f"tag:{INSTANCE_LABEL}", "Values": [self._identity]}]
        key = "SecurityGroupRules"
        return [*self._aws.pages("ec2", "describe_security_group_rules", key, Filters=filters)]

    def _hand_on(self, rule: Mapping[str, Any], burst: str) -> None:
        tags = [{"Key": BURST_LABEL, "Value": burst}]
        rules = [rule["SecurityGroupRuleId"]]
        try:
            self._aws.ask("ec2", "create_tags", Resources=rules, Tags=tags)
        except AwsRefusal as error:
            if error.code not in _GONE:
                raise

    def _revoke(self, rule: Mapping[str, Any]) -> None:
        try:
            self._aws.ask(
                "ec2",
                "revoke_security_group_ingress",
                GroupId=rule["GroupId"],
                SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]],
            )
        except AwsRefusal as error:
            if error.code not in _GONE:
                raise


def _lets_in(rule: Mapping[str, Any], source: str, port: int) -> bool:
    """Whether EC2 would call a rule for that source and port a duplicate of this one."""
    found = (
        rule.get("CidrIpv4"), rule.get("CidrIpv6"),
        (rule.get("ReferencedGroupInfo") or {}).get("GroupId"),
    )  # fmt: skip
    return not rule.get("IsEgress") and rule.get("FromPort") == port and source in found
