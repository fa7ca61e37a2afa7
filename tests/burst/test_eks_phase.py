"""The phases of a burst on EKS, and the questions about its node group: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.eksctl import ClusterPlan, eksctl_config, groups_of
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.providers.eks_config import EksConfig, check_identity, parse_eks_config
from flux_flex.burst.providers.eks_groups import burst_of, group_name, group_question, template_data
from flux_flex.burst.providers.eks_phase import combined, observed_group
from flux_flex.burst.providers.kubernetes import parse_kubernetes_config
from flux_flex.burst.slots import Slot
from flux_flex.config import load_config, slots_of
from flux_flex.errors import BadInput

BURST = "hpc-0"


def group(status: str, *issues: tuple[str, str]) -> Mapping[str, object]:
    found = [{"code": code, "message": message} for code, message in issues]
    return {"status": status, "scalingConfig": {"desiredSize": 4}, "health": {"issues": found}}


def seen(phase: Phase, reason: str = "", no_capacity: bool = False) -> Observed:
    return Observed(BURST, phase, 4, reason, no_capacity)


LAUNCH = "AsgInstanceLaunchFailures"
ICE = (LAUNCH, "Could not launch On-Demand Instances. InsufficientInstanceCapacity - none.")
ADDRESSES = ("InsufficientFreeAddresses", "the subnet is full")
KMS = (LAUNCH, "Client.InvalidKMSKey.InvalidState: the key is disabled")
SPOT = (
    "UnfulfillableCapacity - Unable to fulfill capacity due to your request configuration.",
    "InsufficientInstanceCapacity - There is no Spot capacity available that matches your request.",
    "MaxSpotInstanceCountExceeded - Max spot instance count exceeded.",
    "Termination Reason: Server.SpotInstanceTermination: Spot instance termination",
)
ROLE = ("AccessDenied", "nodes may not authenticate")


@pytest.mark.parametrize(
    ("described", "phase", "no_capacity"),
    [
        (group("CREATING"), Phase.COMING, False),
        (group("UPDATING"), Phase.COMING, False),
        (group("SOMETHING_NEW"), Phase.COMING, False),
        (group("CREATING", ROLE), Phase.COMING, False),
        # EKS would try on for half an hour.
        (group("CREATING", ICE), Phase.FAILED, True),
        (group("ACTIVE"), Phase.READY, False),
        (group("ACTIVE", ROLE), Phase.READY, False),
        (group("CREATE_FAILED", ICE), Phase.FAILED, True),
        (group("CREATE_FAILED", ADDRESSES), Phase.FAILED, True),
        (group("CREATE_FAILED", KMS), Phase.FAILED, False),
        (group("CREATE_FAILED", ("InstanceLimitExceeded", "quota")), Phase.FAILED, True),
        (group("DEGRADED", KMS), Phase.FAILED, False),
        (group("DEGRADED", (LAUNCH, "There is no Spot capacity")), Phase.FAILED, True),
        *(
            (
                group("CREATING", (LAUNCH, f"Could not launch Spot Instances. {said}")),
                Phase.FAILED,
                True,
            )
            for said in SPOT
        ),
        (
            group(
                "CREATING",
                (
                    LAUNCH,
                    "Unsupported - the type is not supported in your requested Availability Zone",
                ),
            ),
            Phase.COMING,
            False,
        ),
        (group("DELETING"), Phase.LEAVING, False),
        (group("DELETE_FAILED", ROLE), Phase.LEAVING, False),
    ],
)
def test_a_node_group_s_status_and_issues_are_a_phase(
    described: Mapping[str, object], phase: Phase, no_capacity: bool
) -> None:
    found = observed_group(BURST, described)
    assert (found.phase, found.no_capacity, found.nodes) == (phase, no_capacity, 4)


def test_health_issues_are_the_reason_in_any_phase() -> None:
    assert observed_group(BURST, group("ACTIVE", ROLE)).reason == (
        "AccessDenied: nodes may not authenticate"
    )
    said = observed_group(BURST, group("CREATE_FAILED", KMS, ROLE)).reason
    assert said == f"{KMS[0]}: {KMS[1]}; {ROLE[0]}: {ROLE[1]}"
    assert observed_group(BURST, group("CREATING")).reason == "its node group is CREATING"


COMING, READY = seen(Phase.COMING, "creating"), seen(Phase.READY)
FAILED, LEAVING = seen(Phase.FAILED, "broken"), seen(Phase.LEAVING, "deleting")
STARVED = seen(Phase.READY, "no capacity", no_capacity=True)


@pytest.mark.parametrize(
    ("nodes", "inside", "expected"),
    [
        (None, None, Phase.LEAVING),
        (None, READY, Phase.FAILED),
        (None, LEAVING, Phase.LEAVING),
        (COMING, None, Phase.COMING),
        (READY, None, Phase.COMING),
        (STARVED, None, Phase.FAILED),
        (FAILED, None, Phase.FAILED),
        (LEAVING, None, Phase.LEAVING),
        (COMING, READY, Phase.COMING),
        (COMING, FAILED, Phase.COMING),
        (READY, COMING, Phase.COMING),
        (READY, READY, Phase.READY),
        (READY, FAILED, Phase.FAILED),
        (READY, LEAVING, Phase.LEAVING),
        (STARVED, READY, Phase.READY),
        (STARVED, COMING, Phase.FAILED),
        (FAILED, READY, Phase.FAILED),
        (LEAVING, READY, Phase.LEAVING),
    ],
)
def test_a_burst_is_as_far_as_the_lesser_of_its_halves(
    nodes: Observed | None, inside: Observed | None, expected: Phase
) -> None:
    found = combined(BURST, nodes, inside, settled=True)
    assert found.phase is expected
    assert found.reason or found.phase is Phase.READY or nodes is STARVED


def test_missing_capacity_is_not_said_of_what_is_ready() -> None:
    assert not combined(BURST, STARVED, READY, settled=True).no_capacity
    assert combined(BURST, STARVED, COMING, settled=False).no_capacity


# -- questions -------------------------------------------------------------------------------------

CONFIG: dict[str, object] = {
    "cluster": "hpc",
    "identity": "cluster0",
    "node_role": "arn:aws:iam::111122223333:role/nodes",
    "subnets": ["subnet-0123456789abcdef0"],
}
TYPE = NodeType(
    name="p5.48xlarge", cores=96, vcpus=192, gpus=8, memory_gib=2048.0, efa=32, network_gbps=3200.0,
    price_per_hour_usd=55.0,
)  # fmt: skip


def config(**changes: object) -> EksConfig:
    return parse_eks_config(CONFIG | changes)


@pytest.mark.parametrize("identity", ["cluster0", "site.example.org", "x" * 63])
def test_the_name_of_a_group_is_one_that_eks_takes_and_ends_with_the_burst(identity: str) -> None:
    burst = f"{'a' * 40}-99"
    for one in ("hpc-0", burst):
        name = group_name(identity, one)
        assert len(name) <= 63
        assert "." not in name
        assert name.startswith("flux-flex-")
        assert name.endswith(f"-{one}")


def test_long_names_of_two_instances_differ() -> None:
    assert group_name("x" * 63, "hpc-0") != group_name("y" * 63, "hpc-0")


def test_only_both_tags_together_make_something_ours() -> None:
    ours = {"flux-flex.io/burst": "hpc-0", "flux-flex.io/instance": "cluster0"}
    assert burst_of({"tags": ours}, "cluster0") == "hpc-0"
    listed = [{"Key": key, "Value": value} for key, value in ours.items()]
    assert burst_of({"Tags": listed}, "cluster0") == "hpc-0"
    assert burst_of({"tags": ours}, "cluster1") == ""
    assert burst_of({"tags": {"flux-flex.io/burst": "hpc-0"}}, "cluster0") == ""
    assert burst_of({}, "cluster0") == ""


def test_a_request_names_no_token_that_the_next_burst_of_this_name_would_share() -> None:
    question = group_question(config(), Rental("hpc-0", "p5.48xlarge", ("a",)), "cluster0", {})
    assert "clientRequestToken" not in question
    assert not {"diskSize", "amiType", "taints", "launchTemplate"} & question.keys()


def test_every_network_card_gets_an_efa_interface() -> None:
    data = template_data(config(efa=True), TYPE, "sg-0123456789abcdef0", "cluster0", "hpc-0")
    cards = data["NetworkInterfaces"]
    assert isinstance(cards, list)
    assert [one["NetworkCardIndex"] for one in cards] == [*range(32)]
    assert [one["DeviceIndex"] for one in cards] == [0] + [1] * 31
    assert "SecurityGroupIds" not in data


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sources",
    [["0.0.0.0/0"], ["::/0"], ["203.0.113.7/32", "0.0.0.0/0"], "0.0.0.0/0", ["0.0.0.0/1"],
     ["128.0.0.0/1", "0.0.0.0/1"], ["2000::/3"], ["::ffff:0:0/0"], ["3.0.0.0/8"],
     ["203.0.112.0/23"], ["2600::/32"], ["8.0.0.0/7"], ["64.0.0.0/8"]],
)  # fmt: skip
def test_the_lead_is_never_opened_to_everybody(sources: object) -> None:
    lead = {"lead_security_group": "sg-0123456789abcdef0"}
    with pytest.raises(BadInput) as caught:
        config(sources=sources, **lead)
    assert caught.value.where == "sources"


@pytest.mark.parametrize(
    "source",
    ["10.0.0.0/8", "192.168.0.0/16", "100.64.0.0/10", "198.51.100.0/24", "fd00::/32", "2600::/44"],
)
def test_private_networks_may_be_wide_and_public_ones_a_site_s(source: str) -> None:
    lead = {"lead_security_group": "sg-0123456789abcdef0"}
    assert config(sources=source, **lead).sources == (source,)


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"efa": True, "subnets": ["subnet-01234567", "subnet-01234568"]}, "", "the one subnet"),
        ({"placement_group": "near", "subnets": ["subnet-01234567", "subnet-01234568"]}, "",
         "do not go beyond a zone"),
        ({"sources": ["10.0.0.0/16"]}, "", "mean nothing without a lead_security_group"),
        ({"lead_security_group": "sg-0123456789abcdef0", "sources": ["10.0.0.1/16"]}, "sources",
         "neither cluster-security-group nor a network"),
        ({"lead_security_group": "sg-0123456789abcdef0", "sources": []}, "sources", "at least 1"),
        ({"identity": ""}, "identity", "not of the form"),
        ({"identity": "-a"}, "identity", "not of the form"),
        ({"launch_template": "mine", "efa": True}, "", "belongs into the launch template"),
        ({"launch_template": "mine", "disk_gib": 80}, "", "belongs into the launch template"),
        ({"launch_template": "a b"}, "launch_template", "NAME of a launch template"),
        ({"node_role": "nodes"}, "node_role", "not of the form"),
        ({"subnets": []}, "subnets", "at least 1"),
        ({"subnets": ["vpc-1"]}, "subnets[0]", "not of the form"),
        ({"capacity": "SPOT"}, "capacity", "on-demand"),
        ({"taints": ["rented"]}, "taints", "KEY=VALUE:NoSchedule"),
        ({"labels": {"flux-flex.io/burst": "x"}}, "labels", "for flux-flex to set"),
        ({"labels": {"a b": "x"}}, "labels", "no label of Kubernetes"),
        ({"efa": "yes"}, "efa", "boolean"),
        ({"regoin": "us-east-2"}, "regoin", "unknown key"),
    ],
)  # fmt: skip
def test_a_bad_table_names_the_key(changes: dict[str, object], where: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        config(**changes)
    assert caught.value.where == where


def test_one_source_needs_no_list() -> None:
    lead = {"lead_security_group": "sg-0123456789abcdef0"}
    assert config(**lead, sources="203.0.113.7/32").sources == ("203.0.113.7/32",)
    assert config(**lead).sources == ("cluster-security-group",)


def test_taints_and_templates_are_said_in_eks_s_words() -> None:
    parsed = config(taints=["gpu:NoExecute", "a/b=c:NoSchedule"], launch_template="lt-0123abcd:7")
    assert parsed.eks_taints == [
        {"key": "gpu", "effect": "NO_EXECUTE"},
        {"key": "a/b", "value": "c", "effect": "NO_SCHEDULE"},
    ]
    assert parsed.tolerations == [
        {"key": "gpu", "operator": "Equal", "effect": "NoExecute"},
        {"key": "a/b", "operator": "Equal", "value": "c", "effect": "NoSchedule"},
    ]
    assert parsed.eks_template == {"id": "lt-0123abcd", "version": "7"}


def test_an_identity_that_is_no_label_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot be a label"):
        check_identity("local:///run/flux")


# -- the page --------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "bursting.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## The first burst on EKS")[2].partition("\n## ")[0]


def test_the_page_s_flex_toml_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "flex.toml"
    path.write_text(SECTION.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    path.chmod(0o600)
    burst = load_config(path).burst
    assert burst.provider == "eks"
    parsed = parse_eks_config(burst.eks)
    inside = parse_kubernetes_config(burst.kubernetes)
    assert (inside.lead.name, inside.lead.address) == (burst.lead.name, burst.lead.address)
    assert inside.curve_cert == burst.local.curve_cert
    slot = slots_of(burst)[0]
    assert f"--requires={slot.type} " in SECTION
    assert f"--nodegroup-name {group_name(parsed.identity, slot.name)} " in SECTION


def test_the_page_has_every_key_of_the_table_and_no_other() -> None:
    table = SECTION.partition("### Keys of `[burst.eks]`")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == {*EksConfig.model_fields}


def test_the_page_s_cluster_is_what_the_command_prints() -> None:
    node_type = TYPE.model_copy(update={"name": "c7i.4xlarge", "efa": 0})
    plan = ClusterPlan("hpc", "us-east-2", ("us-east-2a", "us-east-2b"))
    text = eksctl_config(plan, groups_of([Slot("c7i-0", "c7i.4xlarge", ("a", "b"))], [node_type]))
    assert "".join(f"    {line}\n" for line in text.splitlines()) in SECTION
