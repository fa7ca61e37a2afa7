"""Fetching from EC2: the real boto3 against an endpoint on loopback, and against moto."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import boto3
import botocore.session
import moto
import pytest
from ec2_endpoint import Fault, Machine, Shape, Start, cluster

from flux_flex.errors import BadInput, FlexError
from flux_flex.topology import aws, aws_calls
from flux_flex.topology.answers import Located
from flux_flex.topology.aws import Account, NothingFound, Patience, Selection, fetch
from flux_flex.topology.mapping import network_of_hosts

QUICK = Patience(pause_s=0.01)
NODES = ("nn-1", "nn-2", "nn-3")


def ident(k: int) -> str:
    return f"i-{k:017x}"


def test_all_that_is_known_of_an_instance_comes_back(start: Start) -> None:
    start([
        Machine(
            ident(1), "p5.48xlarge", NODES, dns="ip-10-0-0-7.ec2.internal", ip="10.0.0.7",
            name="compute7", group="blue", capacity_block="cr-0123456789abcdef0",
        ),
    ], shapes=[Shape("p5.48xlarge", cores=96, mib=2_097_152, gpus=8)])  # fmt: skip
    answers = fetch(Selection())
    located = Located(
        ident(1), "p5.48xlarge", NODES, "us-east-2b", "use2-az2", "blue", "cr-0123456789abcdef0"
    )
    assert answers.located == {ident(1): located}
    names = {ident(1), "ip-10-0-0-7.ec2.internal", "ip-10-0-0-7", "10.0.0.7", "compute7"}
    assert answers.instances[ident(1)].names == names
    assert answers.instances[ident(1)].state == "running"
    shape = answers.shapes["p5.48xlarge"]
    assert (shape.cores, shape.gpus, shape.memory_mib) == (96, 8, 2_097_152)


def test_an_empty_selection_is_the_whole_region_page_by_page(start: Start) -> None:
    ec2 = start(cluster(2_000))
    seen: list[tuple[str, int, int | None]] = []
    answers = fetch(Selection(), progress=lambda *told: seen.append(told))
    assert len(answers.instances) == len(answers.located) == 2_000
    assert len(ec2.asked("DescribeInstances")) == 2
    assert len(ec2.asked("DescribeInstanceTopology")) == 20
    assert ("instances", 1_000, None) in seen
    assert ("topology", 100, 2_000) in seen
    assert seen[-1] == ("types", 1, 1)


def test_ids_are_asked_for_a_hundred_at_a_time_and_without_max_results(start: Start) -> None:
    ec2 = start(cluster(250))
    ids = tuple(one.instance_id for one in ec2.machines)
    assert len(fetch(Selection(instance_ids=ids)).located) == 250
    for action in ("DescribeInstances", "DescribeInstanceTopology"):
        asked = [len(params.listed("InstanceId")) for params in ec2.asked(action)]
        assert asked == [100, 100, 50]


def test_types_are_asked_for_a_hundred_at_a_time(start: Start) -> None:
    machines = [Machine(ident(k), f"x{k}.large") for k in range(130)]
    ec2 = start(machines, shapes=[Shape(one.kind) for one in machines])
    assert len(fetch(Selection()).shapes) == 130
    asked = [len(params.listed("InstanceType")) for params in ec2.asked("DescribeInstanceTypes")]
    assert asked == [100, 30]


def test_groups_are_taken_literally(start: Start) -> None:
    ec2 = start([
        Machine(ident(1), group="blue*"), Machine(ident(2), group="blueish"), Machine(ident(3)),
    ])  # fmt: skip
    answers = fetch(Selection(groups=("blue*",)))
    assert set(answers.instances) == set(answers.located) == {ident(1)}
    assert ec2.asked("DescribeInstanceTopology")[0].listed("GroupName") == ["blue*"]


def test_more_than_a_hundred_groups_are_asked_for_in_portions(start: Start) -> None:
    start([Machine(ident(k), group=f"group-{k}") for k in range(120)])
    answers = fetch(Selection(groups=tuple(f"group-{k}" for k in range(120))))
    assert len(answers.located) == 120


def test_filters_are_those_of_describe_instances(start: Start) -> None:
    ec2 = start([
        Machine(ident(1), tags=(("cluster", "blue"),)),
        Machine(ident(2), tags=(("cluster", "bluebird"),)),
        Machine(ident(3), tags=(("cluster", "red"),)),
    ])  # fmt: skip
    answers = fetch(Selection(filters=(("tag:cluster", ("blue*",)),)))
    assert set(answers.located) == {ident(1), ident(2)}
    topology = ec2.asked("DescribeInstanceTopology")
    assert [params.listed("InstanceId") for params in topology] == [[ident(1), ident(2)]]


def test_groups_and_filters_narrow_what_is_named(start: Start) -> None:
    start([
        Machine(ident(1), group="blue"), Machine(ident(2), group="red"),
        Machine(ident(3), group="blue", name="c3"), Machine(ident(4), group="red", name="c4"),
    ])  # fmt: skip
    selection = Selection(
        instance_ids=(ident(1), ident(2)), hosts=("c3", "c4"), groups=("blue", "green")
    )
    assert set(fetch(selection).located) == {ident(1), ident(3)}


@pytest.mark.parametrize(
    "host",
    [ident(5), "ip-10-0-0-5", "ip-10-0-0-5.us-east-2.compute.internal", "10.0.0.5", "compute5"],
)
def test_a_host_is_found_by_any_of_its_names(start: Start, host: str) -> None:
    start(cluster(60))
    answers = fetch(Selection(hosts=(host,)))
    assert set(answers.located) == {ident(5)}
    assert network_of_hosts(answers, [host]).places[0].instance_id == ident(5)


def test_wildcards_in_a_host_name_are_not_wildcards(start: Start) -> None:
    start([
        Machine(ident(1), name="c*"), Machine(ident(2), name="c?"),
        Machine(ident(3), name="cx"), Machine(ident(4), name="c\\x"),
    ])  # fmt: skip
    assert set(fetch(Selection(hosts=("c*",))).located) == {ident(1)}
    assert set(fetch(Selection(hosts=("c?",))).located) == {ident(2)}
    assert set(fetch(Selection(hosts=("c\\x",))).located) == {ident(4)}


def test_many_hosts_are_asked_for_at_most_200_names_a_filter(start: Start) -> None:
    ec2 = start(cluster(450))
    answers = fetch(Selection(hosts=tuple(one.name for one in ec2.machines)))
    assert len(answers.located) == 450
    values = [
        len(values)
        for params in ec2.asked("DescribeInstances")
        for _, values in params.filters()
    ]  # fmt: skip
    assert max(values) == 200


def test_a_host_that_no_instance_goes_by_is_not_found_and_no_error(start: Start) -> None:
    start(cluster(2))
    hosts = ("compute0", "login", ident(99), "", "x" * 300, "bell\x07")
    answers = fetch(Selection(hosts=hosts))
    assert network_of_hosts(answers, hosts).unmapped == hosts[1:]


def test_an_instance_that_ended_is_left_out(start: Start) -> None:
    start([Machine(ident(1)), Machine(ident(2), state="terminated")])
    assert set(fetch(Selection()).instances) == {ident(1)}


def test_a_stopped_instance_has_no_place_and_is_not_waited_for(start: Start) -> None:
    ec2 = start([Machine(ident(1)), Machine(ident(2), state="stopped")])
    answers = fetch(Selection())
    assert set(answers.instances) == {ident(1), ident(2)}
    assert set(answers.located) == {ident(1)}
    assert len(ec2.asked("DescribeInstanceTopology")) == 1


# -- eventual consistency ------------------------------------------------------------------------


def test_topology_that_comes_late_is_waited_for(start: Start) -> None:
    machines = cluster(30)
    start(machines, late={one.instance_id: 3 for one in machines[10:]})
    assert len(fetch(Selection(), patience=QUICK).located) == 30


def test_topology_that_is_empty_at_first_is_waited_for(start: Start) -> None:
    machines = cluster(30)
    start(machines, late={one.instance_id: 1 for one in machines})
    assert len(fetch(Selection(), patience=QUICK).located) == 30


def test_waiting_ends_and_what_is_missing_stays_out(start: Start) -> None:
    ec2 = start(cluster(2), late={ident(1): 10_000})
    answers = fetch(Selection(), patience=QUICK, max_wait_s=0.1)
    assert set(answers.located) == {ident(0)}
    assert set(answers.instances) == {ident(0), ident(1)}
    # Pauses of 0.01, 0.02, 0.04 and the rest: doubling, not a busy loop.
    assert 2 <= len(ec2.asked("DescribeInstanceTopology")) <= 6


def test_three_answers_that_bring_nothing_new_end_the_waiting(start: Start) -> None:
    ec2 = start(cluster(2), late={ident(1): 10_000})
    assert set(fetch(Selection(), patience=Patience(pause_s=0.001), max_wait_s=2).located) == {
        ident(0)
    }
    assert len(ec2.asked("DescribeInstanceTopology")) == 1 + 3


def test_waiting_goes_on_while_instances_come_one_by_one(start: Start) -> None:
    start(cluster(8), late={ident(k): k for k in range(8)})
    assert len(fetch(Selection(), patience=Patience(pause_s=0.001)).located) == 8


def test_without_patience_nothing_is_asked_twice(start: Start) -> None:
    ec2 = start(cluster(2), late={ident(1): 1})
    assert set(fetch(Selection(), max_wait_s=0).located) == {ident(0)}
    assert len(ec2.asked("DescribeInstanceTopology")) == 1


def test_a_type_without_topology_is_asked_for_once_more_and_only_a_few_of_it(start: Start) -> None:
    heads = [Machine(ident(1_000 + k), "t3.micro", nodes=None) for k in range(50)]
    ec2 = start([*cluster(4), *heads], shapes=[Shape("hpc7a.96xlarge"), Shape("t3.micro", 1)])
    answers = fetch(Selection(), patience=QUICK)
    assert len(answers.located) == 4
    assert set(answers.shapes) == {"hpc7a.96xlarge", "t3.micro"}
    _, again = ec2.asked("DescribeInstanceTopology")
    assert len(again.listed("InstanceId")) == 5


def test_a_type_that_ec2_does_not_know_costs_only_its_own_shape(start: Start) -> None:
    odd = [Machine(ident(100), "odd.1xlarge"), Machine(ident(101), "other.2xlarge")]
    ec2 = start([*cluster(2), *odd])
    answers = fetch(Selection())
    assert len(answers.located) == 4
    assert set(answers.shapes) == {"hpc7a.96xlarge"}
    # The endpoint names one at a time.
    asked = [len(params.listed("InstanceType")) for params in ec2.asked("DescribeInstanceTypes")]
    assert asked == [3, 2, 1]


def test_where_ec2_does_not_say_which_type_it_does_not_know_all_go(start: Start) -> None:
    ec2 = start(cluster(2), always={"DescribeInstanceTypes": Fault("InvalidInstanceType", "one")})
    answers = fetch(Selection())
    assert len(answers.located) == 2
    assert answers.shapes == {}
    assert len(ec2.asked("DescribeInstanceTypes")) == 1


def test_a_region_of_unknown_types_is_not_asked_for_all_types_there_are(start: Start) -> None:
    ec2 = start([Machine(ident(0), "odd.1xlarge")])
    assert fetch(Selection()).shapes == {}
    assert len(ec2.asked("DescribeInstanceTypes")) == 1


def test_pages_without_end_are_not_followed(start: Start, environment: pytest.MonkeyPatch) -> None:
    start(cluster(401))
    environment.setattr(aws_calls, "_MOST_PAGES", 4)
    with pytest.raises(FlexError, match="the pages do not end") as caught:
        fetch(Selection())
    assert caught.value.where == "describe-instance-topology in us-east-2: page 4"
    environment.setattr(aws_calls, "_MOST_PAGES", 5)
    assert len(fetch(Selection()).located) == 401


# -- what vanishes -------------------------------------------------------------------------------


def test_ids_that_vanish_between_the_calls_are_dropped(start: Start) -> None:
    ec2 = start(cluster(5))
    ec2.script["DescribeInstanceTopology"] = [lambda: ec2.end(ident(1), ident(3))]
    answers = fetch(Selection(hosts=tuple(f"compute{k}" for k in range(5))))
    assert set(answers.instances) == set(answers.located) == {ident(0), ident(2), ident(4)}


def test_an_instance_that_vanishes_between_pages_starts_the_question_again(start: Start) -> None:
    ec2 = start(cluster(1_001))
    gone = Fault("InvalidInstanceID.NotFound", f"The instance ID '{ident(7)}' does not exist")
    ec2.script["DescribeInstances"] = [lambda: ec2.end(ident(7)), gone]
    assert len(fetch(Selection()).located) == 1_000


def test_an_id_that_was_named_and_vanishes_is_refused(start: Start) -> None:
    ec2 = start(cluster(3))
    ec2.script["DescribeInstanceTopology"] = [lambda: ec2.end(ident(1))]
    with pytest.raises(BadInput, match="no instance has the id"):
        fetch(Selection(instance_ids=(ident(0), ident(1))))


def test_what_started_between_the_calls_is_left_out(start: Start) -> None:
    ec2 = start(cluster(3))
    described = ec2._instances

    def before(params: Any) -> bytes:
        newest = ec2._by_id.pop(ident(2))
        answer = described(params)
        ec2._by_id[ident(2)] = newest
        return answer

    ec2._instances = before  # type: ignore[method-assign]
    assert set(fetch(Selection()).located) == {ident(0), ident(1)}


# -- whose, and where ----------------------------------------------------------------------------


def test_profile_and_region_are_boto3s_own(
    start: Start, environment: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    ec2 = start(cluster(1))
    config = tmp_path / "config"
    config.write_text("[profile blue]\nregion = eu-north-1\n")
    credentials = tmp_path / "credentials"
    credentials.write_text("[blue]\naws_access_key_id = k\naws_secret_access_key = s\n")
    environment.setenv("AWS_CONFIG_FILE", str(config))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        environment.delenv(name)
    ec2.always["DescribeInstances"] = Fault("UnauthorizedOperation", "You are not authorized")
    with pytest.raises(Exception, match="describe-instances in eu-north-1"):
        fetch(Selection(), Account(profile="blue"))
    with pytest.raises(Exception, match="describe-instances in eu-west-1"):
        fetch(Selection(), Account(profile="blue", region="eu-west-1"))


@pytest.mark.parametrize(
    ("told", "region"),
    [("us-west-2", "us-west-2"), ("us-west-2-lax-1", "us-west-2"), ("<html>", ""), (None, "")],
)
def test_the_last_place_for_the_region_is_the_instance_itself(
    environment: pytest.MonkeyPatch, told: str | None, region: str
) -> None:
    fetcher = "botocore.utils.InstanceMetadataRegionFetcher.retrieve_region"
    environment.setattr(fetcher, lambda _: told)
    core = botocore.session.get_session()
    assert aws_calls._region_of_this_machine(core) == region


def test_retries_slow_down_as_ec2_asks_and_are_as_many_as_the_user_says(
    environment: pytest.MonkeyPatch,
) -> None:
    def retries() -> tuple[object, object]:
        client, _ = aws_calls.open_client(Account(), Patience())
        found = client.meta.config.retries
        client.close()
        return found["mode"], found["total_max_attempts"]

    assert retries() == ("adaptive", 3)
    environment.delenv("AWS_MAX_ATTEMPTS")
    assert retries() == ("adaptive", 6)


def test_boto3_is_not_imported_before_ec2_is_asked() -> None:
    code = (
        "import sys, flux_flex.topology.cache, flux_flex.topology.answers\n"
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- another EC2 ---------------------------------------------------------------------------------


def test_motos_ec2_understands_the_questions(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_ENDPOINT_URL")
    # moto has no DescribeInstanceTopology, placement groups and wildcards in DNS names.
    environment.setattr(aws, "_locate", lambda *_: {})
    with moto.mock_aws():
        client = boto3.client("ec2")
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "compute0"}]}]
        image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        made = client.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, InstanceType="hpc6id.32xlarge",
            TagSpecifications=tags,
        )["Instances"][0]  # fmt: skip
        client.run_instances(ImageId=image, MinCount=3, MaxCount=3)
        one = made["InstanceId"]
        selections = [
            Selection(instance_ids=(one,)),
            Selection(hosts=(one, "compute0", made["PrivateIpAddress"])),
            Selection(hosts=(made["PrivateDnsName"], "nowhere")),
            Selection(filters=(("tag:Name", ("comp*",)), ("instance-type", ("hpc6id.32xlarge",)))),
        ]
        for selection in selections:
            answers = fetch(selection, max_wait_s=0)
            assert set(answers.instances) == {one}
            assert answers.instances[one].name_tag == "compute0"
            assert answers.shapes["hpc6id.32xlarge"].cores == 64
        assert len(fetch(Selection(), max_wait_s=0).instances) == 4
        with pytest.raises(BadInput, match="no instance has the id"):
            fetch(Selection(instance_ids=(one, ident(1))))
        with pytest.raises(NothingFound):
            fetch(Selection(hosts=("nowhere", ident(1))))
        client.close()


def test_a_role_is_taken_where_the_profile_says_so(
    environment: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile blue]\nregion = eu-north-1\nsource_profile = own\n"
        "role_arn = arn:aws:iam::123456789012:role/topology\n"
    )
    credentials = tmp_path / "credentials"
    credentials.write_text("[own]\naws_access_key_id = k\naws_secret_access_key = s\n")
    environment.setenv("AWS_CONFIG_FILE", str(config))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    environment.delenv("AWS_ENDPOINT_URL")
    environment.delenv("AWS_DEFAULT_REGION")
    with moto.mock_aws(), pytest.raises(NothingFound, match="in eu-north-1"):
        fetch(Selection(), Account(profile="blue"))
