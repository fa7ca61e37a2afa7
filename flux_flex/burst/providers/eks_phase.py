"""How far a burst on EKS is, from its node group and from what is inside the cluster.

    group = observed_group("hpc-0", description)       # of DescribeNodegroup
    combined("hpc-0", group, inside, settled=True)     # READY only when both are

Pure functions. What EC2 cannot give now is told from what would fail again at once by the codes of
https://docs.aws.amazon.com/eks/latest/APIReference/API_Issue.html and, since
AsgInstanceLaunchFailures stands for any of them, by EC2's own codes and words in the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flux_flex.burst.providers import Observed, Phase
from flux_flex.topology.aws_errors import clean

_PHASES = {
    "CREATING": Phase.COMING,
    "UPDATING": Phase.COMING,
    "ACTIVE": Phase.READY,
    "CREATE_FAILED": Phase.FAILED,
    "DEGRADED": Phase.FAILED,
    "DELETING": Phase.LEAVING,
    # It is still there, and paid for: the next release tries again.
    "DELETE_FAILED": Phase.LEAVING,
}
_NO_CAPACITY_CODES = frozenset({"InstanceLimitExceeded", "InsufficientFreeAddresses"})
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_NO_CAPACITY_WORDS = re.compile(
    r"Insufficient(?:Instance|Host|ReservedInstance|Spot\w*)?Capacity|InsufficientFreeAddresses"
    r"|InstanceLimitExceeded|VcpuLimitExceeded|MaxSpotInstanceCountExceeded|SpotMaxPriceTooLow"
    r"|ReservationCapacityExceeded|UnfulfillableCapacity|no Spot capacity"
    r"|Server\.SpotInstance(?:Termination|Shutdown)"
    r"|not (?:currently )?have (?:sufficient|enough) .{0,120}(?:capacity|addresses)",
    re.IGNORECASE,
)


def lacks_capacity(code: str, message: str) -> bool:
    """Whether an issue or a refusal says that there is nothing to be had now."""
    return code in _NO_CAPACITY_CODES or bool(_NO_CAPACITY_WORDS.search(message))


def observed_group(burst: str, group: Mapping[str, Any]) -> Observed:
    """A node group as DescribeNodegroup tells of it.

    ``no_capacity`` may also stand beside READY: nodes are missing, and EC2 has none.
    """
    status = str(group.get("status") or "")
    nodes = int((group.get("scalingConfig") or {}).get("desiredSize") or 0)
    issues = (group.get("health") or {}).get("issues") or []
    said = [(str(one.get("code") or ""), str(one.get("message") or "")) for one in issues]
    reason = "; ".join(clean(f"{code}: {message}", 200) for code, message in said[:3])
    missing = any(lacks_capacity(code, message) for code, message in said)
    phase = _PHASES.get(status, Phase.COMING)
    if phase is Phase.COMING and missing:
        # EKS goes on trying for half an hour before it calls this CREATE_FAILED, and a job waits.
        phase = Phase.FAILED
    if phase is not Phase.READY and not reason:
        reason = f"its node group is {clean(status, 40)}"
    return Observed(burst, phase, nodes, reason, no_capacity=missing)


def combined(
    burst: str, group: Observed | None, inside: Observed | None, *, settled: bool
) -> Observed:
    """A burst from its node group and what the Kubernetes provider sees of it; None: not there.

    ``settled``: the nodes have been there for long enough that pods without one will get none.
    """
    if group is None:
        return _without_nodes(burst, inside)
    if inside is None:
        if group.phase is Phase.READY and not group.no_capacity:
            reason = group.reason or "its nodes are there, its MiniCluster is not yet"
            return replace(group, phase=Phase.COMING, reason=reason)
        return _failed_if_missing(group)
    for one in (group, inside):
        if one.phase is Phase.LEAVING:
            return replace(one, nodes=group.nodes)
    if group.phase is Phase.READY:
        return _with_nodes(group, inside, settled)
    return group


def _without_nodes(burst: str, inside: Observed | None) -> Observed:
    if inside is None:
        return Observed(burst, Phase.LEAVING, 0, "no nodes, but a rule or a launch template of it")
    if inside.phase is Phase.LEAVING:
        return inside
    return Observed(burst, Phase.FAILED, inside.nodes, "its node group is gone")


def _with_nodes(group: Observed, inside: Observed, settled: bool) -> Observed:
    if inside.phase is Phase.READY:
        return replace(group, no_capacity=False)
    if group.no_capacity:
        return _failed_if_missing(group)
    reason = "; ".join(filter(None, (inside.reason, group.reason)))
    if inside.phase is Phase.FAILED and settled:
        # The nodes are there, so the next ones of this type would not be taken either.
        return Observed(group.burst, Phase.FAILED, group.nodes, reason)
    return Observed(group.burst, Phase.COMING, group.nodes, reason)


def _failed_if_missing(group: Observed) -> Observed:
    if group.phase is Phase.READY and group.no_capacity:
        return replace(group, phase=Phase.FAILED)
    return group
