"""The provider eks against moto: node groups, the way in, launch templates, and their undoing."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

moto = pytest.importorskip("moto")

from flux_flex.burst.catalog import NodeType  # noqa: E402
from flux_flex.burst.providers import NoCapacity, Observed, Phase, Rental  # noqa: E402
from flux_flex.burst.providers import eks as eks_module  # noqa: E402
from flux_flex.burst.providers.eks import SETTLE_S, UNLISTED_S, EksProvider  # noqa: E402
from flux_flex.burst.providers.eks_aws import Aws, AwsRefusal  # noqa: E402
from flux_flex.burst.providers.eks_config import parse_eks_config  # noqa: E402
from flux_flex.errors import BadInput, FlexError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-2"
IDENTITY = "cluster0"
PORT = 8050
NAT = "203.0.113.7/32"
ROLE = "arn:aws:iam::123456789012:role/nodes"
TYPES = tuple(
    NodeType(name=name, cores=8, vcpus=8, gpus=0, memory_gib=32.0, efa=efa, network_gbps=10.0,
             price_per_hour_usd=3.6)
    for name, efa in (("c7i.4xlarge", 0), ("hpc7a.96xlarge", 2), ("small", 0), ("big", 0))
)  # fmt: skip
RENTAL = Rental("hpc-0", "c7i.4xlarge", ("hpc-0-0", "hpc-0-1"))


def isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake keys, nothing of ~/.aws, and models of services that are read once."""
    import botocore.session

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    fake = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in fake.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", lambda _: _loader())


@cache
def _loader() -> Any:
    from botocore.loaders import create_loader

    return create_loader(None)


class ScriptedAws(Aws):
    """AWS whose answers can be changed, whose calls can fail, and are counted."""

    def __init__(self) -> None:
        super().__init__(REGION)
        self.calls: list[str] = []
        self.questions: dict[str, dict[str, object]] = {}
        self.failing: dict[str, AwsRefusal] = {}
        self.changed: dict[str, Callable[[Any], None]] = {}
        self.point: Callable[[str], None] = lambda _: None

    def ask(self, service: str, operation: str, **question: object) -> dict[str, Any]:
        self.calls.append(operation)
        self.questions[operation] = question
        self.point(operation)
        if operation in self.failing:
            raise self.failing[operation]
        answer = super().ask(service, operation, **question)
        self.point(operation)
        if operation in self.changed:
            self.changed[operation](answer)
        return answer


@dataclass
class Inside:
    """The Kubernetes provider: what was asked of it, and what it is to say."""

    seen: dict[str, Observed] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)

    def _say(self, verb: str, burst: str) -> None:
        self.log.append((verb, burst))
        if verb in self.failing:
            raise self.failing[verb]

    def request(self, rental: Rental) -> None:
        self._say("request", rental.burst)
        self.seen.setdefault(rental.burst, Observed(rental.burst, Phase.READY, rental.nodes))

    def observe(self) -> Sequence[Observed]:
        return [*self.seen.values()]

    def release(self, burst: str) -> None:
        self._say("release", burst)
        self.seen.pop(burst, None)

    def close(self) -> None:
        self.log.append(("close", ""))


class Site:
    """An account with a cluster ``hpc``, and a security group ``lead``."""

    def __init__(self) -> None:
        self.aws = ScriptedAws()
        self.vpc = self.aws.ask("ec2", "describe_vpcs")["Vpcs"][0]["VpcId"]
        self.subnet = self.aws.ask("ec2", "describe_subnets")["Subnets"][0]["SubnetId"]
        self.lead = self.group("lead")
        network = {"subnetIds": [self.subnet]}
        role = "arn:aws:iam::123456789012:role/cluster"
        self.aws.ask("eks", "create_cluster", name="hpc", roleArn=role, resourcesVpcConfig=network)
        # moto's clusters have no security group.
        self.nodes = self.group("nodes")
        from moto.backends import get_backend

        cluster = get_backend("eks")["123456789012"][REGION].clusters["hpc"]
        cluster.resources_vpc_config["clusterSecurityGroupId"] = self.nodes
        self.inside = Inside()
        self.now_s = 0.0

    def group(self, name: str) -> str:
        asked = {"GroupName": name, "Description": name, "VpcId": self.vpc}
        return str(self.aws.ask("ec2", "create_security_group", **asked)["GroupId"])

    def config(self, **changes: object) -> dict[str, object]:
        figures: dict[str, object] = {
            "cluster": "hpc",
            "identity": IDENTITY,
            "region": REGION,
            "node_role": ROLE,
            "subnets": [self.subnet],
            "lead_security_group": self.lead,
            "sources": [NAT],
        }
        return figures | changes

    def provider(self, identity: str = IDENTITY, **changes: object) -> EksProvider:
        config = parse_eks_config(self.config(**changes))
        return EksProvider(
            config, TYPES, self.inside, identity, PORT, self.aws, clock=lambda: self.now_s
        )

    # -- what is there ---------------------------------------------------------------------------

    def groups(self) -> list[str]:
        return [*self.aws.pages("eks", "list_nodegroups", "nodegroups", clusterName="hpc")]

    def described(self, name: str) -> dict[str, Any]:
        asked = {"clusterName": "hpc", "nodegroupName": name}
        found: dict[str, Any] = self.aws.ask("eks", "describe_nodegroup", **asked)["nodegroup"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Ingress of the lead's group."""
        filters = [{"Name": "group-id", "Values": [self.lead]}]
        key = "SecurityGroupRules"
        found = self.aws.pages("ec2", "describe_security_group_rules", key, Filters=filters)
        return [rule for rule in found if not rule["IsEgress"]]

    def templates(self) -> list[dict[str, Any]]:
        return [*self.aws.pages("ec2", "describe_launch_templates", "LaunchTemplates")]

    @property
    def is_empty(self) -> bool:
        return not (self.groups() or self.rules() or self.templates() or self.inside.seen)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    isolate(monkeypatch)
    with moto.mock_aws():
        yield Site()


def tags(described: dict[str, Any]) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in described["Tags"]}


def only(found: Sequence[Observed]) -> Observed:
    (one,) = found
    return one


OURS = {"flux-flex.io/burst": "hpc-0", "flux-flex.io/instance": IDENTITY}


# -- making ----------------------------------------------------------------------------------------


def test_a_burst_is_a_node_group_with_tags_and_labels_then_a_way_in_then_a_minicluster(
    site: Site,
) -> None:
    taints = ["flux-flex.io/rented=yes:PreferNoSchedule"]
    more = {"capacity": "spot", "labels": {"team": "hpc"}, "taints": taints, "disk_gib": 80}
    site.provider(**more, ami_type="AL2023_x86_64_STANDARD").request(RENTAL)
    group = site.described("flux-flex-cluster0-hpc-0")
    assert group["tags"] == OURS
    assert group["labels"] == OURS | {"team": "hpc"}
    assert group["instanceTypes"] == ["c7i.4xlarge"]
    assert group["scalingConfig"] == {"minSize": 2, "maxSize": 2, "desiredSize": 2}
    assert group["capacityType"] == "SPOT"
    assert group["subnets"] == [site.subnet]
    assert group["nodeRole"] == ROLE
    assert group["diskSize"] == 80
    assert group["amiType"] == "AL2023_x86_64_STANDARD"
    assert group["taints"] == [
        {"key": "flux-flex.io/rented", "value": "yes", "effect": "PREFER_NO_SCHEDULE"}
    ]
    (rule,) = site.rules()
    assert (rule["CidrIpv4"], rule["FromPort"], rule["ToPort"]) == (NAT, PORT, PORT)
    assert tags(rule) == OURS
    assert site.inside.log == [("request", "hpc-0")]
    made = ["create_nodegroup", "authorize_security_group_ingress"]
    assert [one for one in site.aws.calls if one in made] == made


def test_the_cluster_s_own_security_group_is_let_in_where_no_networks_are_named(
    site: Site,
) -> None:
    site.provider(sources="cluster-security-group").request(RENTAL)
    (rule,) = site.rules()
    assert rule["ReferencedGroupInfo"]["GroupId"] == site.nodes
    assert "CidrIpv4" not in rule


def test_a_cluster_without_a_security_group_of_its_own_is_told_what_to_give_instead(
    site: Site,
) -> None:
    site.aws.changed["describe_cluster"] = lambda answer: answer["cluster"].pop(
        "resourcesVpcConfig"
    )
    with pytest.raises(FlexError, match="no cluster security group") as caught:
        site.provider(sources="cluster-security-group").request(RENTAL)
    assert "burst.eks.sources" in caught.value.remedy


def test_without_a_security_group_of_the_lead_nothing_is_opened(site: Site) -> None:
    config = site.config()
    del config["lead_security_group"], config["sources"]
    EksProvider(parse_eks_config(config), TYPES, site.inside, IDENTITY, aws=site.aws).request(
        RENTAL
    )
    assert site.rules() == []
    assert site.groups() == ["flux-flex-cluster0-hpc-0"]


def test_a_second_request_changes_nothing(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    before = site.described("flux-flex-cluster0-hpc-0")
    provider.request(RENTAL)
    assert site.described("flux-flex-cluster0-hpc-0") == before
    assert site.aws.calls.count("create_nodegroup") == 1
    assert len(site.rules()) == 1


def test_a_lost_answer_to_the_first_request_does_no_harm(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    looked: list[str] = []

    def not_seen_yet(answer: dict[str, Any]) -> None:
        looked.append("once")
        if len(looked) == 1:
            raise AwsRefusal("not listed yet", code="ResourceNotFoundException")

    site.aws.changed["describe_nodegroup"] = not_seen_yet
    provider.request(RENTAL)
    assert site.groups() == ["flux-flex-cluster0-hpc-0"]


def test_a_group_of_another_size_is_scaled(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    provider.request(Rental("hpc-0", "c7i.4xlarge", ("a", "b", "c")))
    scaling = site.described("flux-flex-cluster0-hpc-0")["scalingConfig"]
    assert scaling == {"minSize": 3, "maxSize": 3, "desiredSize": 3}


def test_a_group_of_another_type_is_refused(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    with pytest.raises(FlexError, match=r"it is of c7i\.4xlarge, not of small"):
        provider.request(Rental("hpc-0", "small", ("a", "b")))


def test_a_type_that_is_not_rented_is_refused_by_name(site: Site) -> None:
    with pytest.raises(BadInput, match="no node type 'huge'"):
        site.provider().request(Rental("hpc-0", "huge", ("a",)))


def test_a_burst_that_still_goes_away_is_not_asked_for_again(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    status(site, "DELETING")
    with pytest.raises(FlexError, match="still goes away"):
        provider.request(RENTAL)


def test_efa_and_a_placement_group_come_by_a_launch_template_of_the_burst(site: Site) -> None:
    groups = [site.group("efa")]
    provider = site.provider(efa=True, placement_group="near", security_groups=groups, disk_gib=100)
    provider.request(Rental("hpc-0", "hpc7a.96xlarge", ("a", "b")))
    (template,) = site.templates()
    assert template["LaunchTemplateName"] == "flux-flex-cluster0-hpc-0"
    assert tags(template) == OURS
    data: Any = site.aws.questions["create_launch_template"]["LaunchTemplateData"]
    assert data["Placement"] == {"GroupName": "near"}
    cards = [
        (one["NetworkCardIndex"], one["DeviceIndex"], one["InterfaceType"], one["Groups"])
        for one in data["NetworkInterfaces"]
    ]
    assert cards == [(0, 0, "efa", [site.nodes, *groups]), (1, 1, "efa", [site.nodes, *groups])]
    assert data["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 100
    asked = site.aws.questions["create_nodegroup"]
    assert asked["launchTemplate"] == {"id": template["LaunchTemplateId"], "version": "1"}
    assert "diskSize" not in asked
    provider.release("hpc-0")
    assert site.is_empty


def test_a_type_without_efa_needs_no_template(site: Site) -> None:
    site.provider(efa=True).request(RENTAL)
    assert site.templates() == []


def test_a_launch_template_of_the_site_is_used_and_never_deleted(site: Site) -> None:
    data = {"Placement": {"GroupName": "near"}}
    made = {"LaunchTemplateName": "site-efa", "LaunchTemplateData": data}
    site.aws.ask("ec2", "create_launch_template", **made)
    provider = site.provider(launch_template="site-efa:1")
    provider.request(RENTAL)
    asked = site.aws.questions["create_nodegroup"]["launchTemplate"]
    assert asked == {"name": "site-efa", "version": "1"}
    provider.release("hpc-0")
    assert [one["LaunchTemplateName"] for one in site.templates()] == ["site-efa"]


# -- no capacity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("ResourceLimitExceededException", "node groups per cluster: 30"),
        ("InvalidRequestException", "InsufficientInstanceCapacity: none left"),
    ],
)
def test_a_call_that_says_there_is_no_capacity_leaves_nothing_behind(
    site: Site, code: str, what: str
) -> None:
    site.aws.failing["create_nodegroup"] = AwsRefusal(what, "create-nodegroup", code=code)
    with pytest.raises(NoCapacity, match=what):
        site.provider(placement_group="near").request(RENTAL)
    assert site.is_empty


def test_no_capacity_inside_the_cluster_gives_the_nodes_back(site: Site) -> None:
    site.inside.failing["request"] = NoCapacity("exceeded quota", "pods")
    with pytest.raises(NoCapacity, match="exceeded quota"):
        site.provider().request(RENTAL)
    assert site.is_empty


def test_a_group_that_could_not_be_filled_is_no_capacity_when_asked_for_again(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    message = "InsufficientInstanceCapacity - none in us-east-2b"
    status(site, "CREATE_FAILED", ("AsgInstanceLaunchFailures", message))
    with pytest.raises(NoCapacity, match="AsgInstanceLaunchFailures"):
        provider.request(RENTAL)
    assert site.is_empty


# -- looking ---------------------------------------------------------------------------------------


def status(site: Site, said: str, *issues: tuple[str, str]) -> None:
    """What every node group says from now on."""

    def change(answer: dict[str, Any]) -> None:
        answer["nodegroup"]["status"] = said
        found = [{"code": code, "message": message} for code, message in issues]
        answer["nodegroup"]["health"] = {"issues": found}

    site.aws.changed["describe_nodegroup"] = change


def test_a_burst_is_ready_only_when_its_nodes_and_its_minicluster_are(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    status(site, "CREATING")
    assert only(provider.observe()).phase is Phase.COMING
    status(site, "ACTIVE")
    site.inside.seen["hpc-0"] = Observed("hpc-0", Phase.COMING, 2, "1 of 2 brokers are ready")
    assert only(provider.observe()) == Observed(
        "hpc-0", Phase.COMING, 2, "1 of 2 brokers are ready"
    )
    site.inside.seen["hpc-0"] = Observed("hpc-0", Phase.READY, 2)
    assert only(provider.observe()) == Observed("hpc-0", Phase.READY, 2)


def test_missing_capacity_is_told_apart_from_what_would_fail_again(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    status(site, "CREATE_FAILED", ("AsgInstanceLaunchFailures", "we do not have sufficient "
           "hpc7a.96xlarge capacity in the Availability Zone you requested"))  # fmt: skip
    seen = only(provider.observe())
    assert (seen.phase, seen.no_capacity) == (Phase.FAILED, True)
    status(site, "CREATE_FAILED", ("NodeCreationFailure", "Instances failed to join the cluster"))
    seen = only(provider.observe())
    assert (seen.phase, seen.no_capacity) == (Phase.FAILED, False)
    assert seen.reason == "NodeCreationFailure: Instances failed to join the cluster"


def test_pods_may_wait_for_a_node_until_the_nodes_have_been_there_for_a_while(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    homeless = Observed("hpc-0", Phase.FAILED, 2, "hpc-0-1 finds no node", no_capacity=True)
    site.inside.seen["hpc-0"] = homeless
    status(site, "CREATING")
    assert only(provider.observe()).phase is Phase.COMING
    status(site, "ACTIVE")
    assert only(provider.observe()).phase is Phase.COMING
    site.now_s += SETTLE_S
    seen = only(provider.observe())
    assert (seen.phase, seen.reason) == (Phase.FAILED, "hpc-0-1 finds no node")
    # The nodes are there: to ask for the same type later would not help.
    assert not seen.no_capacity


def test_many_node_groups_are_listed_by_pages_and_those_of_others_are_passed_over(
    site: Site,
) -> None:
    one = {"clusterName": "hpc", "nodeRole": ROLE, "subnets": [site.subnet]}
    for k in range(101):
        site.aws.ask("eks", "create_nodegroup", nodegroupName=f"a-site-{k}", **one)
    foreign = {"flux-flex.io/burst": "hpc-0", "flux-flex.io/instance": "cluster1"}
    site.aws.ask(
        "eks", "create_nodegroup", nodegroupName="flux-flex-cluster1-hpc-0", tags=foreign, **one
    )
    provider = site.provider()
    provider.request(RENTAL)
    site.aws.calls.clear()
    assert only(provider.observe()).burst == "hpc-0"
    assert site.aws.calls.count("list_nodegroups") == 2
    assert site.aws.calls.count("describe_nodegroup") == 2


def test_a_cluster_that_is_not_there_is_an_error_and_not_an_empty_answer(site: Site) -> None:
    provider = site.provider(cluster="other")
    with pytest.raises(FlexError, match="No cluster found"):
        provider.request(RENTAL)
    # moto stumbles here; EKS answers so.
    missing = AwsRefusal("No cluster found for name: other", code="ResourceNotFoundException")
    site.aws.failing["list_nodegroups"] = missing
    with pytest.raises(FlexError, match="No cluster found"):
        provider.observe()


# -- undoing ---------------------------------------------------------------------------------------


def test_release_takes_everything_away_from_the_inside_out_and_again_is_nothing(
    site: Site,
) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    site.aws.point = lambda call: site.inside.log.append(("aws", call))
    provider.release("hpc-0")
    undone = ["release", "delete_nodegroup", "revoke_security_group_ingress"]
    order = [verb if verb != "aws" else call for verb, call in site.inside.log]
    assert [one for one in dict.fromkeys(order) if one in undone] == undone
    assert site.is_empty
    assert provider.observe() == []
    provider.release("hpc-0")


def test_what_others_made_is_never_touched(site: Site) -> None:
    one = {"clusterName": "hpc", "nodeRole": ROLE, "subnets": [site.subnet]}
    name = "flux-flex-cluster0-hpc-0"
    site.aws.ask("eks", "create_nodegroup", nodegroupName=name, tags={"team": "x"}, **one)
    ranges = [{"CidrIp": NAT, "Description": "of the site"}]
    allowed = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "IpRanges": ranges}
    site.aws.ask(
        "ec2", "authorize_security_group_ingress", GroupId=site.lead, IpPermissions=[allowed]
    )
    provider = site.provider()
    with pytest.raises(FlexError, match="flux-flex did not make it"):
        provider.request(RENTAL)
    provider.release("hpc-0")
    assert site.groups() == [name]
    provider.request(Rental("hpc-1", "c7i.4xlarge", ("a",)))
    provider.release("hpc-1")
    assert site.groups() == [name]
    assert [rule["Description"] for rule in site.rules()] == ["of the site"]


def test_another_instance_s_burst_of_the_same_name_is_its_own(site: Site) -> None:
    site.provider("cluster1").request(RENTAL)
    mine = site.provider()
    site.inside.seen.clear()
    mine.release("hpc-0")
    assert site.groups() == ["flux-flex-cluster1-hpc-0"]
    assert len(site.rules()) == 1
    assert mine.observe() == []


def test_the_way_in_stays_open_until_the_last_burst_has_gone(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    provider.request(Rental("hpc-1", "c7i.4xlarge", ("b",)))
    assert len(site.rules()) == 1
    # A controller that was started anew: what is there says who needs the rule.
    provider = site.provider()
    provider.release("hpc-0")
    (rule,) = site.rules()
    assert tags(rule) == OURS | {"flux-flex.io/burst": "hpc-1"}
    assert [one.burst for one in provider.observe()] == ["hpc-1"]
    provider.release("hpc-1")
    assert site.is_empty


def test_a_burst_that_was_just_let_in_is_not_shut_out_while_eks_does_not_list_it(
    site: Site,
) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    provider.request(Rental("hpc-1", "c7i.4xlarge", ("b",)))
    site.aws.changed["list_nodegroups"] = lambda answer: answer["nodegroups"].clear()
    provider.release("hpc-0")
    assert [tags(rule)["flux-flex.io/burst"] for rule in site.rules()] == ["hpc-1"]


def test_nodes_are_let_go_even_where_the_cluster_does_not_answer(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    site.inside.failing["release"] = FlexError("no contact", "cluster")
    with pytest.raises(FlexError, match="no contact"):
        provider.release("hpc-0")
    assert (site.groups(), site.rules()) == ([], [])


def test_a_group_that_eks_is_still_making_is_deleted_by_a_later_release(site: Site) -> None:
    provider = site.provider(placement_group="near")
    provider.request(RENTAL)
    busy = AwsRefusal("it is being created", code="ResourceInUseException")
    site.aws.failing["delete_nodegroup"] = busy
    provider.release("hpc-0")
    assert only(provider.observe()).burst == "hpc-0"
    # The nodes to come are made from it.
    assert len(site.templates()) == 1
    site.aws.failing.clear()
    provider.release("hpc-0")
    assert site.is_empty


def test_a_rule_that_is_left_alone_is_observed_until_it_is_released(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    refused = AwsRefusal("no permission for ec2:RevokeSecurityGroupIngress", "ec2")
    site.aws.failing["revoke_security_group_ingress"] = refused
    with pytest.raises(FlexError, match="no permission"):
        provider.release("hpc-0")
    seen = only(provider.observe())
    assert (seen.burst, seen.phase) == ("hpc-0", Phase.LEAVING)
    site.aws.failing.clear()
    provider.release("hpc-0")
    assert site.is_empty


def test_to_close_lets_the_kubernetes_half_go_too(site: Site) -> None:
    site.provider().close()
    assert site.inside.log == [("close", "")]


# -- what died, what lags, what is hostile ---------------------------------------------------------


def test_a_template_that_a_dead_request_left_gets_a_version_and_is_never_deleted_under_a_group(
    site: Site,
) -> None:
    site.aws.failing["create_nodegroup"] = AwsRefusal("cut off", "create-nodegroup")
    with pytest.raises(FlexError, match="cut off"):
        site.provider(placement_group="near").request(RENTAL)
    site.aws.failing.clear()
    provider = site.provider(placement_group="far")
    provider.request(RENTAL)
    (template,) = site.templates()
    asked = site.aws.questions["create_nodegroup"]["launchTemplate"]
    assert asked == {"id": template["LaunchTemplateId"], "version": "2"}
    data: Any = site.aws.questions["create_launch_template_version"]["LaunchTemplateData"]
    assert data["Placement"] == {"GroupName": "far"}
    assert "delete_launch_template" not in site.aws.calls
    provider.release("hpc-0")
    assert site.is_empty


def test_a_template_of_the_name_that_somebody_else_made_is_left_alone(site: Site) -> None:
    data = {"Placement": {"GroupName": "theirs"}}
    made = {"LaunchTemplateName": "flux-flex-cluster0-hpc-0", "LaunchTemplateData": data}
    site.aws.ask("ec2", "create_launch_template", **made)
    provider = site.provider(placement_group="near")
    with pytest.raises(FlexError, match="flux-flex did not make it"):
        provider.request(RENTAL)
    provider.release("hpc-0")
    assert len(site.templates()) == 1
    assert site.groups() == []


def test_a_group_that_eks_does_not_list_yet_is_not_taken_for_one_that_is_gone(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    site.aws.changed["list_nodegroups"] = lambda answer: answer["nodegroups"].clear()
    seen = only(provider.observe())
    assert (seen.phase, seen.nodes) == (Phase.COMING, 2)
    assert "does not list" in seen.reason
    site.now_s += UNLISTED_S
    assert only(provider.observe()).phase is Phase.FAILED


def test_a_group_that_eks_does_not_describe_yet_is_deleted_by_its_name(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    not_yet = AwsRefusal("not there", code="ResourceNotFoundException")
    site.aws.failing["describe_nodegroup"] = not_yet
    provider.release("hpc-0")
    site.aws.failing.clear()
    assert site.is_empty


def test_a_group_whose_making_was_not_answered_is_seen_and_deleted(site: Site) -> None:
    provider = site.provider()
    cut = AwsRefusal("cannot connect", "create-nodegroup")

    def no_answer(_: object) -> None:
        raise cut

    site.aws.changed["create_nodegroup"] = no_answer
    with pytest.raises(FlexError, match="cannot connect"):
        provider.request(RENTAL)
    site.aws.changed["list_nodegroups"] = lambda answer: answer["nodegroups"].clear()
    assert only(provider.observe()).phase is Phase.COMING
    not_yet = AwsRefusal("not there", code="ResourceNotFoundException")
    site.aws.failing["describe_nodegroup"] = not_yet
    provider.release("hpc-0")
    site.aws.failing.clear()
    site.aws.changed.clear()
    assert site.is_empty
    assert provider.observe() == []


def test_a_refused_group_is_not_waited_for(site: Site) -> None:
    provider = site.provider()
    refused = AwsRefusal("no such subnet", code="InvalidParameterException")
    site.aws.failing["create_nodegroup"] = refused
    with pytest.raises(FlexError, match="no such subnet"):
        provider.request(RENTAL)
    assert provider.observe() == []


def test_a_rule_that_ec2_lists_late_is_observed_and_then_revoked(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    site.aws.changed["describe_security_group_rules"] = lambda answer: answer[
        "SecurityGroupRules"
    ].clear()
    provider.release("hpc-0")
    site.aws.changed.clear()
    assert only(provider.observe()).phase is Phase.LEAVING
    provider.release("hpc-0")
    assert site.is_empty


@pytest.mark.parametrize("code", ["InvalidSecurityGroupRuleId.NotFound", "InvalidGroup.NotFound"])
@pytest.mark.parametrize("others", [False, True])
def test_a_rule_that_somebody_took_away_holds_nothing_up(
    site: Site, code: str, others: bool
) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    if others:
        provider.request(Rental("hpc-1", "c7i.4xlarge", ("b",)))
    gone = AwsRefusal("it does not exist", code=code)
    site.aws.failing |= {"revoke_security_group_ingress": gone, "create_tags": gone}
    provider.release("hpc-0")
    assert len(site.groups()) == int(others)


def test_a_group_that_could_not_be_deleted_is_deleted_again(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    status(site, "DELETE_FAILED", ("Ec2SecurityGroupDeletionFailure", "it is in use"))
    seen = only(provider.observe())
    assert seen.phase is Phase.LEAVING
    assert seen.reason == "Ec2SecurityGroupDeletionFailure: it is in use"
    provider.release("hpc-0")
    site.aws.changed.clear()
    assert site.is_empty


def test_another_instance_s_rule_is_not_relied_on_for_it_will_be_revoked(site: Site) -> None:
    site.provider("cluster1").request(Rental("a-0", "c7i.4xlarge", ("a",)))
    with pytest.raises(FlexError, match="the instance cluster1 lets 203") as caught:
        site.provider().request(RENTAL)
    assert "a security group of its own" in caught.value.remedy


@pytest.mark.parametrize(
    "burst", ["", "../../x", "Hpc-0", "a" * 60, "hpc 0", "hpc-0\n", "-a", "x; reboot"]
)
def test_a_tag_that_is_no_name_of_a_burst_makes_nothing_ours(site: Site, burst: str) -> None:
    one = {"clusterName": "hpc", "nodeRole": ROLE, "subnets": [site.subnet]}
    hostile = OURS | {"flux-flex.io/burst": burst}
    site.aws.ask("eks", "create_nodegroup", nodegroupName="flux-flex-x", tags=hostile, **one)
    assert site.provider().observe() == []


def test_tags_that_were_copied_to_another_group_or_template_do_not_make_it_ours(
    site: Site,
) -> None:
    one = {"clusterName": "hpc", "nodeRole": ROLE, "subnets": [site.subnet]}
    site.aws.ask("eks", "create_nodegroup", nodegroupName="flux-flex-copy", tags=OURS, **one)
    copied = [{"ResourceType": "launch-template",
               "Tags": [{"Key": key, "Value": value} for key, value in OURS.items()]}]  # fmt: skip
    # As EKS makes them of those of node groups.
    site.aws.ask("ec2", "create_launch_template", LaunchTemplateName="eks-0123",
                 LaunchTemplateData={"EbsOptimized": True}, TagSpecifications=copied)  # fmt: skip
    provider = site.provider()
    assert provider.observe() == []
    provider.release("hpc-0")
    assert site.groups() == ["flux-flex-copy"]
    assert len(site.templates()) == 1


def test_what_aws_says_of_others_is_printed_without_what_a_terminal_obeys(site: Site) -> None:
    one = {"clusterName": "hpc", "nodeRole": ROLE, "subnets": [site.subnet]}
    owner = {"flux-flex.io/instance": "\x1b[2Jevil"}
    name = "flux-flex-cluster0-hpc-0"
    site.aws.ask("eks", "create_nodegroup", nodegroupName=name, tags=owner, **one)
    with pytest.raises(FlexError, match="belongs to the instance") as caught:
        site.provider().request(RENTAL)
    assert caught.value.what.isprintable()


def test_a_listing_that_is_cut_between_two_pages_is_no_answer(site: Site) -> None:
    provider = site.provider()
    provider.request(RENTAL)
    pages: list[str] = []

    def cut(answer: dict[str, Any]) -> None:
        pages.append("one")
        if len(pages) == 2:
            raise AwsRefusal("asks too often", "list-nodegroups", code="ThrottlingException")
        answer["nextToken"] = answer["nodegroups"][0]

    site.aws.changed["list_nodegroups"] = cut
    with pytest.raises(FlexError, match="asks too often"):
        provider.observe()


# -- the rights that it takes ----------------------------------------------------------------------

# What EKS and EC2 ask for in the caller's name.
FOR_EKS = {
    "eks:TagResource", "iam:GetRole", "iam:ListAttachedRolePolicies", "iam:PassRole",
    "iam:CreateServiceLinkedRole", "ec2:RunInstances", "ec2:DescribeLaunchTemplateVersions",
}  # fmt: skip


def actions_called() -> set[str]:
    """The calls in the sources, as IAM names them."""
    found = set()
    for path in Path(eks_module.__file__).parent.glob("eks*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("ask", "pages"):
                service, operation, *_ = (getattr(one, "value", None) for one in node.args)
                if isinstance(service, str) and isinstance(operation, str):
                    name = "".join(part.title() for part in operation.split("_"))
                    found.add(f"{service}:{name}")
    return found


def test_the_iam_policy_has_just_what_is_called() -> None:
    policy = json.loads((ROOT / "docs" / "eks-policy.json").read_text())
    allowed = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else {*actions}
    assert actions_called() > {"eks:CreateNodegroup", "ec2:RevokeSecurityGroupIngress"}
    assert allowed == actions_called() | FOR_EKS
