"""The table ``[burst.eks]``: a cluster that is there already, and the nodes that it may be given.

    config = parse_eks_config({"cluster": "hpc", "identity": "cluster0", "subnets": ["subnet-0…"],
        "node_role": "arn:aws:iam::111122223333:role/nodes"})

What is refused here would otherwise be refused by EKS minutes later, or be a hole: whoever may
connect to the lead broker is named by a security group or by narrow networks, never by all of them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from flux_flex.errors import BadInput
from flux_flex.fields import STRICT
from flux_flex.pydantic_errors import bad_input

CLUSTER_GROUP = "cluster-security-group"

# By IP version, the shortest prefix that may be let in: of private networks the largest there are,
# of public ones what one site has. Many wide ones would be the world in pieces.
_SHORTEST_PRIVATE = {4: 8, 6: 32}
_SHORTEST_PUBLIC = {4: 24, 6: 44}
# Between providers and their customers (RFC 6598); EKS's pods may have such addresses.
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")
_TAINT = re.compile(r"([^\s=:]{1,63})(?:=([^\s=:]{0,63}))?:(NoSchedule|NoExecute|PreferNoSchedule)")
_EFFECTS = {
    "NoSchedule": "NO_SCHEDULE", "NoExecute": "NO_EXECUTE",
    "PreferNoSchedule": "PREFER_NO_SCHEDULE",
}  # fmt: skip
_LABEL_KEY = re.compile(
    r"([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_TEMPLATE = re.compile(r"(lt-[0-9a-f]{8,17}|[A-Za-z0-9()./_-]{3,128})(?::([0-9]{1,9}))?")

Subnet = Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]
SecurityGroup = Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class EksConfig(BaseModel):
    """Where node groups are made, of what, and who may connect to the lead broker."""

    model_config = STRICT

    cluster: str = Field(
        pattern=r"^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$", description="name of the EKS cluster"
    )
    identity: str = Field(
        pattern=rf"^{LABEL_VALUE.pattern}$",
        description="what this instance's bursts are tagged with, and no other instance's; the same"
        " for as long as anything is rented, whatever is started anew",
    )
    region: str = Field(
        default="",
        pattern=r"^([a-z]{2,8}(-[a-z]+)+-[0-9]+)?$",
        description="its region; empty for that of the environment or profile",
    )
    profile: str = Field(default="", description="the AWS profile; empty for the usual credentials")
    node_role: str = Field(
        pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]{1,512}$",
        description="ARN of the IAM role of nodes, arn:aws:iam::111122223333:role/NAME",
    )
    subnets: tuple[Subnet, ...] = Field(
        min_length=1,
        strict=False,
        description="subnets of the nodes, a list; only one for a placement group or EFA",
    )
    capacity: Literal["on-demand", "spot"] = Field(
        default="on-demand", description="on-demand or spot"
    )
    placement_group: str = Field(
        default="", max_length=255, description="a placement group that exists; empty for none"
    )
    efa: bool = Field(default=False, description="give nodes the EFA interfaces of their type")
    labels: dict[str, str] = Field(
        default_factory=dict, description="more Kubernetes labels of the nodes"
    )
    taints: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="taints of the nodes as kubectl writes them, KEY=VALUE:NoSchedule, which keep"
        " other pods off; a burst's own pods tolerate them",
    )
    launch_template: str = Field(
        default="", description="a launch template of yours, ID or NAME, and :VERSION"
    )
    lead_security_group: str = Field(
        default="",
        pattern=r"^(sg-[0-9a-f]{8,17})?$",
        description="security group of the lead broker's host; empty to leave it as it is",
    )
    sources: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        default=(CLUSTER_GROUP,),
        min_length=1,
        strict=False,
        description=f"who may connect to the lead broker: {CLUSTER_GROUP}, or the networks that"
        " the cluster's addresses are translated to",
    )
    security_groups: tuple[SecurityGroup, ...] = Field(
        default=(),
        strict=False,
        description="more security groups of the nodes, such as one that lets EFA through",
    )
    ami_type: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_]{0,64}$",
        description="EKS's AMI type such as AL2023_x86_64_STANDARD; empty for EKS's choice",
    )
    disk_gib: int = Field(
        default=0, ge=0, le=16384, description="root disk of a node in GiB; 0 for EKS's default"
    )

    @field_validator("sources")
    @classmethod
    def _narrow(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one if one == CLUSTER_GROUP else _network(one) for one in sources)

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not _LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                raise ValueError(f"{key[:60]}={value[:60]} is no label of Kubernetes")
            if key.startswith("flux-flex.io/"):
                raise ValueError(f"{key[:60]} is for flux-flex to set")
        return labels

    @field_validator("taints")
    @classmethod
    def _are_taints(cls, taints: tuple[str, ...]) -> tuple[str, ...]:
        for taint in taints:
            if not _TAINT.fullmatch(taint):
                raise ValueError(f"{taint[:60]!r} should be like KEY=VALUE:NoSchedule")
        return taints

    @field_validator("launch_template")
    @classmethod
    def _is_template(cls, template: str) -> str:
        if template and not _TEMPLATE.fullmatch(template):
            raise ValueError("should be the ID or the NAME of a launch template, and :VERSION")
        return template

    @model_validator(mode="after")
    def _said_once(self) -> EksConfig:
        if self.launch_template:
            for key in ("placement_group", "efa", "security_groups", "disk_gib"):
                if getattr(self, key):
                    raise ValueError(f"{key} belongs into the launch template, where there is one")
        if len(self.subnets) > 1 and (self.efa or self.placement_group):
            raise ValueError(
                "EFA and placement groups do not go beyond a zone: give the one subnet of that zone"
            )
        if "sources" in self.model_fields_set and not self.lead_security_group:
            raise ValueError("sources mean nothing without a lead_security_group")
        return self

    @property
    def eks_taints(self) -> list[dict[str, str]]:
        """The taints in EKS's words."""
        found = []
        for taint in self.taints:
            key, value, effect = _TAINT.fullmatch(taint).groups()  # type: ignore[union-attr]
            found.append({"key": key, "value": value or "", "effect": _EFFECTS[effect]})
        return [{k: v for k, v in one.items() if v} for one in found]

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """What lets a pod onto nodes with these taints, in Kubernetes' words."""
        found = []
        for taint in self.taints:
            key, value, effect = _TAINT.fullmatch(taint).groups()  # type: ignore[union-attr]
            # Equal to no value is what a taint without one asks for.
            one = {"key": key, "operator": "Equal", "value": value or "", "effect": effect}
            found.append({name: said for name, said in one.items() if said})
        return found

    @property
    def eks_template(self) -> dict[str, str]:
        """The launch template in EKS's words; empty for none."""
        found = _TEMPLATE.fullmatch(self.launch_template)
        if found is None:
            return {}
        key = "id" if found[1].startswith("lt-") else "name"
        return {key: found[1], **({"version": found[2]} if found[2] else {})}


def parse_eks_config(value: Mapping[str, object]) -> EksConfig:
    """The decoded table. Raises BadInput with the key path."""
    try:
        return EksConfig.model_validate(value)
    except ValidationError as error:
        raise bad_input(error, EksConfig) from error


def check_identity(identity: str) -> None:
    """Raise BadInput for an identity that cannot be a label and a tag."""
    if not LABEL_VALUE.fullmatch(identity):
        remedy = "use letters, digits, '-', '_', '.'"
        raise BadInput(f"{identity[:60]!r} cannot be a label", "identity", remedy)


def _network(text: str) -> str:
    """A network as EC2 writes it. Raises ValueError for what is none, or is half of the world."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} is neither {CLUSTER_GROUP} nor a network such as 203.0.113.7/32"
        ) from None
    is_shared = isinstance(network, ipaddress.IPv4Network) and network.subnet_of(_SHARED)
    is_private = network.is_private or is_shared
    shortest = (_SHORTEST_PRIVATE if is_private else _SHORTEST_PUBLIC)[network.version]
    if network.prefixlen < shortest:
        kind = "a private" if is_private else "a public"
        what = f"{network} would let strangers in; /{shortest} is the widest of {kind} network"
        raise ValueError(what)
    return str(network)
