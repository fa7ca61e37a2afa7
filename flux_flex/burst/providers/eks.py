"""Nodes of an EKS cluster that is there already: a managed node group for each burst.

    config = parse_eks_config({"cluster": "hpc", "identity": "cluster0", "node_role": "arn:…",
        "subnets": ["subnet-…"]})
    provider = EksProvider(config, catalog.types, kubernetes, config.identity, lead_port=8050)

A burst is, in the order in which it is made: a launch template where placement or EFA need one, a
node group, a rule that lets its brokers in to the lead broker, and the MiniCluster, which is the
business of ``kubernetes``. It is undone from the other end. All of it carries the burst's id and
the identity of the instance as tags, and what does not is never changed or deleted. What a request
left when it died is observed by its tags, so that it is asked for once more, or released. The
rights that it takes are in docs/eks-policy.json.

Sources: https://docs.aws.amazon.com/eks/latest/APIReference/API_Nodegroup.html (status, health) and
https://docs.aws.amazon.com/eks/latest/userguide/managed-node-groups.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.providers import NoCapacity, Observed, Phase, Rental
from flux_flex.burst.providers.eks_access import describe_cluster
from flux_flex.burst.providers.eks_aws import IN_USE, NOT_FOUND, Answer, Aws, AwsRefusal
from flux_flex.burst.providers.eks_config import CLUSTER_GROUP, EksConfig, check_identity
from flux_flex.burst.providers.eks_groups import (
    INSTANCE_LABEL,
    NAME_PREFIX,
    burst_of,
    group_name,
    group_question,
    listed_tags,
    needs_template,
    read_tags,
    scaling,
    template_data,
)
from flux_flex.burst.providers.eks_ingress import Ingress
from flux_flex.burst.providers.eks_phase import combined, lacks_capacity, observed_group
from flux_flex.errors import BadInput, FlexError
from flux_flex.topology.aws_errors import clean

# How long pods may still look for a node after the node group is ACTIVE: device plugins have to
# come up, and the scheduler to look again.
SETTLE_S = 120.0
# How long EKS may take to list what it has made.
UNLISTED_S = 60.0

_LIMIT = "ResourceLimitExceededException"
_NO_TEMPLATE = frozenset(
    {"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"}
)
_SAME_TEMPLATE = "InvalidLaunchTemplateName.AlreadyExistsException"


class MiniClusters(Protocol):
    """What is asked of the Kubernetes provider; see :class:`flux_flex.burst.providers.Provider`."""

    def request(self, rental: Rental) -> None: ...

    def observe(self) -> Sequence[Observed]: ...

    def release(self, burst: str) -> None: ...

    def close(self) -> None: ...


class EksProvider:
    """See the module and :class:`flux_flex.burst.providers.Provider`.

    kubernetes  makes and observes the MiniClusters of bursts in the same cluster
    identity    what tells this instance's bursts from others': a label value
    lead_port   TCP port of the lead broker
    clock       monotonic seconds

    Raises BadInput for an identity that is no label, and where no region or profile is known.
    """

    def __init__(
        self, config: EksConfig, types: Sequence[NodeType], kubernetes: MiniClusters,
        identity: str, lead_port: int = 8050, aws: Aws | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        check_identity(identity)
        self._config = config
        self._types = {one.name: one for one in types}
        self._kubernetes = kubernetes
        self._identity = identity
        self._lead_port = lead_port
        self._aws = aws or Aws(config.region, config.profile)
        self._clock = clock
        self._ingress = Ingress(self._aws, identity)
        self._cluster_group = ""
        # Since when a burst's node group is ACTIVE, as far as this process has seen.
        self._active_s: dict[str, float] = {}
        # What this process has made and EKS has not listed yet: since when, of how many nodes.
        self._unlisted: dict[str, tuple[float, int]] = {}

    def types(self) -> Sequence[NodeType]:
        return tuple(self._types.values())

    def close(self) -> None:
        self._kubernetes.close()
        self._aws.close()

    # -- making ------------------------------------------------------------------------------------

    def request(self, rental: Rental) -> None:
        """Nodes, then the way in, then the MiniCluster. What is there already is left as it is.

        Raises BadInput for a type that is not rented or a cluster that is not there, FlexError
        where the name is somebody else's or a burst of it still goes, NoCapacity.
        """
        node_type = self._types.get(rental.type)
        if node_type is None:
            remedy = f"it has: {', '.join(self._types)}"
            raise BadInput(f"there is no node type {rental.type!r}", rental.burst, remedy)
        try:
            self._rent(rental, node_type)
            self._let_in(rental.burst)
            self._kubernetes.request(rental)
        except NoCapacity:
            # Whoever hears this takes it that nothing was rented.
            self.release(rental.burst)
            raise

    def _rent(self, rental: Rental, node_type: NodeType) -> None:
        """A node group of that type and size, made or scaled."""
        group = self._group(rental.burst)
        if group is None:
            template = self._template(rental.burst, node_type)
            group = self._make_group(rental, template)
        if group is None:
            return
        self._check(group, rental)
        now = (group.get("scalingConfig") or {}).get("desiredSize")
        if now != rental.nodes:
            self._aws.ask(
                "eks",
                "update_nodegroup_config",
                clusterName=self._config.cluster,
                nodegroupName=group["nodegroupName"],
                scalingConfig=scaling(rental.nodes),
            )

    def _make_group(self, rental: Rental, template: Mapping[str, str]) -> Answer | None:
        """None where it was made; else the group that was there first."""
        question = group_question(self._config, rental, self._identity, template)
        # Before it is made: an answer that is lost leaves a group, too.
        self._unlisted[rental.burst] = self._clock(), rental.nodes
        try:
            self._aws.ask("eks", "create_nodegroup", **question)
        except AwsRefusal as error:
            if error.code:
                self._unlisted.pop(rental.burst, None)
            if error.code == _LIMIT or lacks_capacity(error.code, error.what):
                remedy = "ask for another type, or later, or have the quota raised"
                raise NoCapacity(error.what, error.where, remedy) from None
            there = self._group(rental.burst) if error.code == IN_USE else None
            if there is None:
                raise
            return there
        return None

    def _check(self, group: Answer, rental: Rental) -> None:
        """Raise FlexError where a group that is there cannot be this rental's."""
        where = f"node group {group.get('nodegroupName')}"
        if burst_of(group, self._identity) != rental.burst:
            owner = clean(read_tags(group).get(INSTANCE_LABEL) or "", 63)
            what = f"it belongs to the instance {owner}" if owner else "flux-flex did not make it"
            raise FlexError(what, where, "give each instance an identity of its own")
        seen = observed_group(rental.burst, group)
        if seen.phase is Phase.LEAVING:
            raise FlexError("a node group of this name still goes away", where, "wait for it")
        if seen.phase is Phase.FAILED:
            kind = NoCapacity if seen.no_capacity else FlexError
            raise kind(seen.reason, where, "see aws eks describe-nodegroup")
        types = group.get("instanceTypes") or []
        if types and types != [rental.type]:
            what = f"it is of {', '.join(map(str, types))}, not of {rental.type}"
            raise FlexError(what, where, "let it go first")

    def _template(self, burst: str, node_type: NodeType) -> Mapping[str, str]:
        """The launch template for a node group that is not there yet; empty for none."""
        config, name = self._config, group_name(self._identity, burst)
        if not needs_template(config, node_type):
            return config.eks_template
        data = template_data(config, node_type, self._group_of_cluster(), self._identity, burst)
        try:
            made = self._aws.ask(
                "ec2",
                "create_launch_template",
                LaunchTemplateName=name,
                LaunchTemplateData=data,
                TagSpecifications=[
                    {"ResourceType": "launch-template", "Tags": listed_tags(self._identity, burst)}
                ],
            )
        except AwsRefusal as error:
            if error.code != _SAME_TEMPLATE:
                raise
            return self._new_version(burst, name, data)
        return {"id": str(made["LaunchTemplate"]["LaunchTemplateId"]), "version": "1"}

    def _new_version(self, burst: str, name: str, data: Mapping[str, object]) -> Mapping[str, str]:
        """Of a template that a request which died has left, maybe with another configuration. It
        is not deleted: that request may have got as far as a node group which is not seen yet."""
        found = self._aws.ask("ec2", "describe_launch_templates", LaunchTemplateNames=[name])
        template: Answer = next(iter(found.get("LaunchTemplates") or []), {})
        if burst_of(template, self._identity) != burst:
            where = f"launch template {name}"
            what, remedy = "flux-flex did not make it", "give each instance an identity of its own"
            raise FlexError(what, where, remedy)
        key = template["LaunchTemplateId"]
        made = self._aws.ask(
            "ec2", "create_launch_template_version", LaunchTemplateId=key, LaunchTemplateData=data
        )
        return {"id": str(key), "version": str(made["LaunchTemplateVersion"]["VersionNumber"])}

    def _let_in(self, burst: str) -> None:
        config = self._config
        if config.lead_security_group:
            sources = [
                self._group_of_cluster() if one == CLUSTER_GROUP else one for one in config.sources
            ]
            self._ingress.open(burst, config.lead_security_group, sources, self._lead_port)

    def _group_of_cluster(self) -> str:
        """The security group that EKS gives the nodes and the control plane of the cluster."""
        if not self._cluster_group:
            described = describe_cluster(self._aws, self._config.cluster)
            found = (described.get("resourcesVpcConfig") or {}).get("clusterSecurityGroupId")
            if not found:
                where = f"cluster {self._config.cluster}"
                remedy = "give burst.eks.sources as networks"
                raise FlexError("it has no cluster security group", where, remedy)
            self._cluster_group = str(found)
        return self._cluster_group

    # -- undoing -----------------------------------------------------------------------------------

    def release(self, burst: str) -> None:
        """MiniCluster, node group, way in, launch template; what is not ours stays.

        Nodes are let go even where the cluster cannot be asked to end what runs there: they cost.
        The template stays until the group is gone, which takes another call: until then
        :meth:`observe` has the burst.
        """
        unreached: FlexError | None = None
        try:
            self._kubernetes.release(burst)
        except FlexError as error:
            unreached = error
        self._remove_group(burst)
        self._unlisted.pop(burst, None)
        self._ingress.close(burst, self._staying)
        group = self._group(burst)
        if group is None or burst_of(group, self._identity) != burst:
            self._remove_template(burst)
        self._active_s.pop(burst, None)
        if unreached is not None:
            raise unreached

    def _remove_group(self, burst: str) -> None:
        group = self._group(burst)
        if group is None and burst not in self._unlisted:
            return
        if group is not None and burst_of(group, self._identity) != burst:
            return
        if group is not None and group.get("status") == "DELETING":
            return
        name = group_name(self._identity, burst)
        try:
            self._aws.ask(
                "eks", "delete_nodegroup", clusterName=self._config.cluster, nodegroupName=name
            )
        except AwsRefusal as error:
            # In use: EKS is still making or changing it. It is observed, so this comes again.
            if error.code not in (NOT_FOUND, IN_USE):
                raise

    def _staying(self) -> set[str]:
        """The bursts whose node groups are there, and not on their way out."""
        seen = (observed_group(burst, group) for burst, group in self._groups())
        return {one.burst for one in seen if one.phase is not Phase.LEAVING}

    def _remove_template(self, burst: str) -> None:
        for template in self._templates():
            if burst_of(template, self._identity) == burst:
                self._delete_template(str(template["LaunchTemplateId"]))

    def _delete_template(self, template_id: str) -> None:
        try:
            self._aws.ask("ec2", "delete_launch_template", LaunchTemplateId=template_id)
        except AwsRefusal as error:
            if error.code not in _NO_TEMPLATE:
                raise

    # -- looking -----------------------------------------------------------------------------------

    def observe(self) -> Sequence[Observed]:
        """Every burst of which anything is there. Raises FlexError of AWS or the cluster."""
        # Before the node groups, which are made first: a MiniCluster without one has lost it.
        inside = {one.burst: one for one in self._kubernetes.observe()}
        groups = {burst: observed_group(burst, group) for burst, group in self._groups()}
        groups = self._not_listed(groups) | groups
        left = self._ingress.holders() | {burst_of(t, self._identity) for t in self._templates()}
        self._note_active(groups.values())
        return [
            combined(burst, groups.get(burst), inside.get(burst), settled=self._is_settled(burst))
            for burst in sorted(({*inside, *groups} | left) - {""})
        ]

    def _not_listed(self, listed: Mapping[str, Observed]) -> dict[str, Observed]:
        """Groups that were just made: not to be taken for ones that are gone."""
        found = {}
        for burst, (made_s, nodes) in [*self._unlisted.items()]:
            if burst in listed or self._clock() - made_s >= UNLISTED_S:
                self._unlisted.pop(burst, None)
                continue
            found[burst] = Observed(burst, Phase.COMING, nodes, "EKS does not list its nodes yet")
        return found

    def _note_active(self, groups: Iterable[Observed]) -> None:
        active = [one.burst for one in groups if one.phase is Phase.READY]
        self._active_s = {one: self._active_s.get(one, self._clock()) for one in active}

    def _is_settled(self, burst: str) -> bool:
        return self._clock() - self._active_s.get(burst, self._clock()) >= SETTLE_S

    def _groups(self) -> Iterator[tuple[str, Answer]]:
        """The node groups that this instance made, with their bursts."""
        question = {"clusterName": self._config.cluster, "maxResults": 100}
        for name in self._aws.pages("eks", "list_nodegroups", "nodegroups", **question):
            # Only a hint, which saves describing everybody's: tags are what counts.
            group = self._described(name) if str(name).startswith(NAME_PREFIX) else None
            if group is not None and (burst := burst_of(group, self._identity)):
                yield burst, group

    def _group(self, burst: str) -> Answer | None:
        """The node group of a burst's name, whoever made it; None where there is none."""
        return self._described(group_name(self._identity, burst))

    def _described(self, name: str) -> Answer | None:
        cluster = self._config.cluster
        try:
            answer = self._aws.ask(
                "eks", "describe_nodegroup", clusterName=cluster, nodegroupName=name
            )
        except AwsRefusal as error:
            if error.code != NOT_FOUND:
                raise
            return None
        found: Answer = answer["nodegroup"]
        return found

    def _templates(self) -> list[Mapping[str, Any]]:
        filters = [{"Name": f"tag:{INSTANCE_LABEL}", "Values": [self._identity]}]
        key = "LaunchTemplates"
        return [*self._aws.pages("ec2", "describe_launch_templates", key, Filters=filters)]
